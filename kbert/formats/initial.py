"""What a run starts from, and whether it fits the records."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings

from kbert.config import BertConfig, PretrainingConfig
from kbert.formats.load_and_save import load
from kbert.formats.pretrained import Pretrained
from kbert.objectives import objectives_of
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import CONFIGURATION, Run, load_run
from kbert.run.evaluation import check_length
from tfrecords import InputError, Vocabulary
from tfrecords.normalization import LONG_WORDS
from tfrecords.schema import Manifest


def initial_model(
    init_from: Pretrained | str | os.PathLike[str] | None, output: str | os.PathLike[str]
) -> Pretrained | Run | None:
    """The model that a run starts from. Where it has moved, the run itself if that has begun with
    one: its checkpoints hold all that training needs."""
    if init_from is None or isinstance(init_from, Pretrained):
        return init_from
    if not pathlib.Path(init_from).exists() and (pathlib.Path(output) / CONFIGURATION).is_file():
        run = load_run(output)
        if run.initial_sha256 is not None and list_checkpoints(run.checkpoints):
            return run
    return load(init_from)


def initial_sha256(initial: Pretrained | Run | None) -> str | None:
    if isinstance(initial, Run):
        return initial.initial_sha256
    return None if initial is None else initial.sha256


def check_initial(
    initial: Pretrained, bert: BertConfig, vocabulary: Vocabulary, manifest: Manifest
) -> None:
    """Raises InputError if a model of this configuration, on these records, cannot start from a
    Pretrained."""
    # The same ids must mean the same tokens, and the text must have been normalized alike: other
    # records would train without an error, from weights of other words.
    if initial.vocabulary != vocabulary:
        raise InputError(
            f"Expected records with the vocabulary of {initial.source}, "
            f"{initial.vocabulary.sha256[:12]}. Received: {manifest.directory}, made with "
            f"{vocabulary.sha256[:12]}; make them with that of {initial.source}."
        )
    _check_normalization(initial, manifest)
    # A head that has learned another task is a poor start, but a start: a warning.
    for objective in objectives_of(initial.pairs):
        before, now = (objective.titles.get(pairs) for pairs in (initial.pairs, manifest.pairs))
        if now not in (None, before):
            warnings.warn(f"The head of {before} now learns {now}.", stacklevel=3)
    # All differences at once, so that the command is corrected in one go.
    if differences := initial.shape_differences(bert):
        what = "; ".join(
            f"{name}: {here!r} there, {there!r} here" for name, (here, there) in differences.items()
        )
        raise InputError(f"Expected a model as in {initial.source}. Received another: {what}.")


def _check_normalization(initial: Pretrained, manifest: Manifest) -> None:
    """Raises InputError if the records have another case or other accents than a model says of
    itself. Long words may be split here and unknown there: no token has another meaning."""
    there = dataclasses.replace(initial.normalization, long_words=LONG_WORDS[0])
    here = dataclasses.replace(manifest.normalization, long_words=LONG_WORDS[0])
    if here == there:
        return
    if initial.is_guessed:
        warnings.warn(
            f"{initial.source} does not say how its text is normalized. By its vocabulary it is "
            f"{there.description}; taken as {here.description}, as the records are.",
            stacklevel=4,
        )
        return
    raise InputError(
        f"Expected {there.description} records, as {initial.source} is. Received: "
        f"{here.description} ones in {manifest.directory}; make them with {there.options}."
    )


def check_fit(bert: BertConfig, pretraining: PretrainingConfig, manifest: Manifest) -> None:
    """Raises InputError if the records do not fit the model or its objectives."""
    check_length(manifest, bert.max_positions)
    if manifest.vocabulary_size != bert.vocabulary_size:
        raise InputError(
            f"Expected a model with the {manifest.vocabulary_size} tokens of the vocabulary of "
            f"{manifest.directory}. Received: vocabulary_size={bert.vocabulary_size}."
        )
    if manifest.pairs == "none" and pretraining.nsp_weight != PretrainingConfig.nsp_weight:
        raise InputError(
            "Expected no nsp_weight for records of single segments, as those in "
            f"{manifest.directory}. Received: {pretraining.nsp_weight}; leave it at "
            f"{PretrainingConfig.nsp_weight}."
        )
