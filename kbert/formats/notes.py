"""Notes beside exported weights: everything about a model that the export's own format has no field
for, in kbert.json."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from kbert.config import BertConfig
from kbert.formats.pretrained import CHOSEN_FIELDS, Pretrained
from tfrecords import InputError, Normalization
from tfrecords.files import read_json, write_json

NOTES = "kbert.json"
_FIELDS = ("sequence_length", "pairs", "training")
"""The fields of a Pretrained that are noted, beside its BertConfig and its Normalization."""


def save_notes(pretrained: Pretrained, directory: pathlib.Path) -> None:
    """Writes NOTES to a directory."""
    notes = {name: getattr(pretrained, name) for name in _FIELDS}
    notes |= dataclasses.asdict(pretrained.normalization)
    write_json(directory / NOTES, {"bert": dataclasses.asdict(pretrained.bert)} | notes)


def read_notes(directory: pathlib.Path) -> dict[str, Any]:
    """Reads what `save_notes` wrote: fields of a Pretrained, with `bert` as a BertConfig and
    `normalization` as a Normalization. An empty dict if there are no notes.

    Raises:
        InputError: The file is damaged or something else.
    """
    path = directory / NOTES
    if not path.exists():
        return {}
    notes = read_json(path, "notes by 'kbert export'")
    try:
        normalization, notes = Normalization.taken_from(notes)
        return {
            "bert": BertConfig(**notes["bert"]),
            "normalization": normalization,
            **{name: notes[name] for name in _FIELDS},
        }
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path}: expected notes by 'kbert export'. Received: something else ({error})."
        ) from None


def with_notes(
    directory: pathlib.Path,
    notes: dict[str, Any],
    bert: BertConfig,
    *,
    cased: bool | None = None,
    accents: str | None = None,
    long_words: str | None = None,
    **fields: Any,
) -> Pretrained:
    """A Pretrained made of what a format's own files say and of the notes beside them.

    Args:
        directory: Where both are, for messages.
        notes: As from `read_notes`.
        bert: The BertConfig according to the format's own files.
        cased: Whether the model is cased; None if the format does not say.
        accents: "keep" or "strip"; None if the format does not say, or says BERT's rule.
        long_words: "unknown" or "split"; None if the format does not say.
        **fields: The other fields of the Pretrained. Notes take precedence over `sequence_length`
            and `pairs`, which most formats can only guess.

    Raises:
        InputError: The notes are about another model.
    """
    source = str(directory)
    if not notes:
        shown: Normalization = fields["vocabulary"].normalization
        return Pretrained(
            bert=bert,
            normalization=shown.chosen(cased, accents, long_words),
            is_guessed=cased is None,
            source=source,
            **fields,
        )

    # Dropout and the like are no property of the weights, and not every format has a field for
    # them: there the notes count.
    notes = dict(notes)
    written: BertConfig = notes.pop("bert")
    chosen = {name: getattr(written, name) for name in CHOSEN_FIELDS}
    here = Pretrained(bert=dataclasses.replace(bert, **chosen), source=source, **(fields | notes))

    # Everything else must agree: otherwise somebody changed the model and left the notes behind.
    differences = here.shape_differences(written)
    said = {"cased": cased, "accents": accents, "long_words": long_words}
    for name, value in said.items():
        noted = getattr(here.normalization, name)
        if value not in (None, noted):
            differences[name] = (value, noted)
    for name, (said, noted) in differences.items():
        raise InputError(
            f"Expected in {directory} a model as {NOTES} there says, with {name}={noted}. "
            f"Received: {name}={said}; remove {NOTES} if the model is meant to be another."
        )
    return here
