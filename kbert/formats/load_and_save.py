"""Loading a pretrained model from any format, and saving it in any."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import Any

from kbert.formats import google, huggingface, keras_hub, run, saved_model
from kbert.formats.card import model_card
from kbert.formats.notes import save_notes
from kbert.formats.pretrained import Pretrained
from kbert.formats.protocol import EXPORT_FORMATS, ExportFormat, Format, no_model
from kbert.objectives import MLM, NSP
from tfrecords import InputError
from tfrecords.files import atomic_path, make_directory, new_directory, write_text
from tfrecords.vocabulary import warn_of_impossible

FORMATS: tuple[Format, ...] = (saved_model, google, keras_hub, huggingface, run)
"""The modules of all formats that are read, in the order in which they are asked. Google's comes
before Hugging Face's: its checkpoints are on the Hub with a config.json beside them."""
_EXPORTS: tuple[ExportFormat, ...] = (saved_model, keras_hub, huggingface, google)


def load(path: str | os.PathLike[str]) -> Pretrained:
    """Loads a pretrained model: a run's newest checkpoint, or with patience its best, or an export
    in any format, whether by kbert or by the format's own tools.

    Args:
        path: The directory of a run by `kbert pretrain`, of a SavedModel by `kbert export`, of a
            KerasHub preset, of a BERT in Hugging Face's layout, or of a checkpoint of
            google-research/bert; for the last also the prefix of its files, such as
            "biobert/model.ckpt-1000000". Models from other tools are described by their own
            configuration; those by kbert also by the notes beside them.

    Returns:
        A Pretrained; its `model` is the Keras model.

    Raises:
        InputError: The directory holds none of these, or a BERT with parts that kbert lacks.
    """
    path = pathlib.Path(path)
    format = _format_at(path)
    if format is None:
        raise no_model(path)
    pretrained = format.read(path)
    warn_of_impossible(pretrained.vocabulary, pretrained.normalization)
    return pretrained


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The name of the format of the model in a directory, "run" for a run; None if there is no
    model."""
    format = _format_at(pathlib.Path(path))
    return None if format is None else format.NAME


def _format_at(path: pathlib.Path) -> Format | None:
    return next((format for format in FORMATS if format.recognises(path)), None)


def save(
    pretrained: Pretrained,
    output: str | os.PathLike[str],
    format: str = "saved-model",
    **options: Any,
) -> pathlib.Path:
    """Writes a model in a format, with a README.md that says how to use it and how it was trained.

    A Keras model becomes a SavedModel, for example, by
    `save(Pretrained.of_model(model, vocabulary), "directory")`.

    Args:
        pretrained: A Pretrained, as from `load` or `Pretrained.of_model`. If its next sentence
            prediction head is missing, the pooler is left out too, with a warning.
        output: The directory to make; it must not exist or be empty.
        format: One of EXPORT_FORMATS.
        **options: Options of the format. For a SavedModel: `top_k`, the number of words that
            `fill_mask` proposes for each [MASK].

    Returns:
        The directory.

    Raises:
        InputError: The directory is not empty, the model cannot fill masks, the format cannot hold
            it, or there is no such format or option.
    """
    # Refuse first whatever can be refused without work.
    exporter = _exporter(format, options)
    if MLM.head in pretrained.missing:
        raise InputError(
            f"Expected a model with a {MLM.head} head. Received: {pretrained.source} without "
            "one; train it with 'kbert pretrain --init-from'."
        )
    output = new_directory(output)

    # A pooler that no trained head stands on would export random numbers as if they were learned.
    if NSP.head in pretrained.missing:
        warnings.warn(
            f"{pretrained.source} has no trained {NSP.head} head; its pooler is left out.",
            stacklevel=2,
        )
        pretrained = pretrained.without_pairs()

    # The card comes last: a directory with a card is complete.
    make_directory(output.parent)
    with atomic_path(output) as partial:
        exporter.write(pretrained, partial, **options)
        save_notes(pretrained, partial)
        card = model_card(pretrained, exporter.usage(pretrained), exporter.FRONT_MATTER)
        write_text(partial / "README.md", card)
    return output


def _exporter(name: str, options: dict[str, Any]) -> ExportFormat:
    """The format of a name, which must have these options."""
    exporter = {exporter.NAME: exporter for exporter in _EXPORTS}.get(name)
    if exporter is None:
        known = ", ".join(EXPORT_FORMATS)
        raise InputError(f"Expected a format among {known}. Received: {name!r}.")
    for option in options:
        if option not in exporter.OPTIONS:
            known = ", ".join(exporter.OPTIONS) or "none"
            raise InputError(
                f"Expected options of the format {name}, which has {known}. Received: {option}."
            )
    return exporter
