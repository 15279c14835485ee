"""What a run starts from, and whether it fits the records."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings

from kbert.config import BertConfig, PretrainingConfig
from kbert.formats.adapted import Origins, origins, with_positions, with_vocabulary
from kbert.formats.load_and_save import load
from kbert.formats.pretrained import Pretrained
from kbert.formats.protocol import something_at
from kbert.objectives import objectives_of
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import CONFIGURATION, Run, load_run
from kbert.run.evaluation import check_length
from tfrecords import InputError, Vocabulary
from tfrecords.normalization import LONG_WORDS, Normalization
from tfrecords.schema import Manifest


def initial_model(
    init_from: Pretrained | str | os.PathLike[str] | None, output: str | os.PathLike[str]
) -> Pretrained | Run | None:
    """The model that a run starts from. Where it has moved, the run itself if that has begun with
    one: its checkpoints hold all that training needs."""
    if init_from is None or isinstance(init_from, Pretrained):
        return init_from
    moved = not something_at(pathlib.Path(init_from))
    if moved and (pathlib.Path(output) / CONFIGURATION).is_file():
        run = load_run(output)
        if run.initial_sha256 is not None and list_checkpoints(run.checkpoints):
            return run
    return load(init_from)


def initial_sha256(initial: Pretrained | Run | None) -> str | None:
    if isinstance(initial, Run):
        return initial.initial_sha256
    return None if initial is None else initial.sha256


def starting_weights(
    initial: Pretrained | Run | None,
    bert: BertConfig,
    vocabulary: Vocabulary,
    manifest: Manifest,
    seed: int,
) -> tuple[Pretrained | None, list[str]]:
    """The weights that a model of this configuration starts from on these records, whose vocabulary
    is given, and in words what was changed to make them fit: another vocabulary, more or fewer
    positions. None where it starts from new ones, or continues from its checkpoints alone.

    Raises:
        InputError: The model cannot start from the initial one.
    """
    if not isinstance(initial, Pretrained):
        return None, []
    _check_initial(initial, bert, vocabulary, manifest)
    weights, changes = initial, []
    if initial.vocabulary != vocabulary:
        found = origins(initial.vocabulary, vocabulary, initial.normalization)
        weights = with_vocabulary(
            initial, vocabulary, found, normalization=manifest.normalization, seed=seed
        )
        changes += _vocabulary_in_words(initial, found, manifest)
    there, here = initial.bert.max_positions, bert.max_positions
    if here != there:
        weights = with_positions(weights, here)
        how = "the first ones" if here < there else "the others as copies of them, in order"
        changes.append(f"{here:,} positions from the {there:,} of {initial.source}: {how}")
    return weights, changes


def _check_initial(
    initial: Pretrained, bert: BertConfig, vocabulary: Vocabulary, manifest: Manifest
) -> None:
    """Raises InputError if a model of this configuration, on these records, cannot start from a
    Pretrained."""
    # The same tokens of text that was normalized otherwise: it would train without an error, from
    # weights of other words. With another vocabulary, that may be what it is for.
    if initial.vocabulary == vocabulary:
        _check_normalization(initial, manifest)
    # A head that has learned another task is a poor start, but a start: a warning.
    for objective in objectives_of(initial.pairs, initial.layers):
        before, now = (objective.titles.get(pairs) for pairs in (initial.pairs, manifest.pairs))
        if now not in (None, before):
            warnings.warn(f"The head of {before} now learns {now}.", stacklevel=4)
    # All differences at once, so that the command is corrected in one go; but for those that
    # weights are adapted to.
    differences = initial.shape_differences(bert)
    what = "; ".join(
        f"{name}: {here!r} there, {there!r} here"
        for name, (here, there) in differences.items()
        if name not in ("vocabulary_size", "max_positions")
    )
    if what:
        raise InputError(f"Expected a model as in {initial.source}. Received another: {what}.")


def _check_normalization(initial: Pretrained, manifest: Manifest) -> None:
    """Raises InputError if the records have another case or other accents than a model says of
    itself."""
    there, here = _of_tokens(initial.normalization), _of_tokens(manifest.normalization)
    if here == there:
        return
    if initial.is_guessed:
        warnings.warn(
            f"{initial.source} does not say how its text is normalized. By its vocabulary it is "
            f"{there.description}; taken as {here.description}, as the records are.",
            stacklevel=5,
        )
        return
    raise InputError(
        f"Expected {there.description} records, as {initial.source} is. Received: "
        f"{here.description} ones in {manifest.directory}; make them with {there.options}."
    )


def _of_tokens(normalization: Normalization) -> Normalization:
    """What tokens depend on. Long words may be split here and unknown there: no token has another
    meaning."""
    return dataclasses.replace(normalization, long_words=LONG_WORDS[0])


def _vocabulary_in_words(initial: Pretrained, found: Origins, manifest: Manifest) -> list[str]:
    """What a new vocabulary means for the weights, a line each; with a warning where it looks like
    a mistake."""
    total = len(found.sources)
    if 2 * found.copied < total:
        warnings.warn(
            f"{manifest.directory} has a vocabulary that shares {found.copied:,} of its {total:,} "
            f"pieces with {initial.source}. If that is not meant, make the records with the "
            "model's own vocabulary, or with one by 'kbert vocabulary --extend'.",
            stacklevel=4,
        )
    lines = [f"embeddings of {initial.source} for another vocabulary: {found}"]
    there, here = _of_tokens(initial.normalization), _of_tokens(manifest.normalization)
    if there != here:
        lines.append(f"the records are {here.description}, {initial.source} is {there.description}")
    return lines


def check_fit(bert: BertConfig, pretraining: PretrainingConfig, manifest: Manifest) -> None:
    """Raises InputError if the records do not fit the model or its objectives."""
    check_length(manifest, bert.max_positions)
    if manifest.vocabulary_size != bert.vocabulary_size:
        raise InputError(
            f"Expected a model with the {manifest.vocabulary_size} tokens of the vocabulary of "
            f"{manifest.directory}. Received: vocabulary_size={bert.vocabulary_size}."
        )
    if manifest.pairs != "none" and bert.num_segments < 2:
        raise InputError(
            "Expected records of single segments for a model with one segment embedding "
            f"(type_vocab_size 1). Received: {manifest.directory}, made with pairs "
            f"{manifest.pairs!r}; make them with --pairs none."
        )
    if manifest.pairs == "none" and pretraining.nsp_weight != PretrainingConfig.nsp_weight:
        raise InputError(
            "Expected no nsp_weight for records of single segments, as those in "
            f"{manifest.directory}. Received: {pretraining.nsp_weight}; leave it at "
            f"{PretrainingConfig.nsp_weight}."
        )
