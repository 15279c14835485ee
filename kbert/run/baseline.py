"""What is reached without a model: from the frequencies of the labels alone."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

import tfrecords
from kbert.objectives import Objective, objectives_of
from tfrecords import InputError
from tfrecords.batch import BatchSpec
from tfrecords.schema import Manifest

_BASELINE_BATCH = 1024
_BASELINE_RECORDS = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What is reached without a model, computed from the records themselves. Of an objective that
    the records have no labels for, the values are None."""

    unigram_loss: float
    """Cross-entropy (nats per token) of the masked tokens of a split under the frequencies of the
    training split's masked tokens, each count raised by one."""
    unigram_accuracy: float
    """The share of its masked tokens that are the training split's most frequent one."""
    majority_loss: float | None
    """Cross-entropy (nats) of its labels of sentence pairs under the frequencies of the training
    split's."""
    majority_accuracy: float | None
    """The share of its labels of sentence pairs that are the training split's most frequent one."""


def baselines(records: str | os.PathLike[str] | Manifest, split: str = "validation") -> Baselines:
    """Computes the Baselines of a split; the frequencies come from at most the first 200,000
    records of the training split.

    Args:
        records: A directory of records, or a Manifest.
        split: The split they are measured on.

    Raises:
        InputError: The records have no manifest.
    """
    manifest = tfrecords.manifest_of(records)
    if manifest.vocabulary_size is None:
        raise InputError(
            "Baselines: expected records with a manifest, which tells the size of the vocabulary. "
            f"Received: files without one in {manifest.directory}; make records with 'kbert "
            "records'."
        )
    # One count more for each label of the training split: one that it lacks would cost infinitely
    # much in the other.
    known = _label_counts(manifest, "train", limit=_BASELINE_RECORDS)
    observed = _label_counts(manifest, split)
    values: dict[str, float | None] = {field.name: None for field in dataclasses.fields(Baselines)}
    for objective in _objectives_with_labels(manifest):
        counts, train = observed[objective.name], known[objective.name]
        reached = {
            "loss": _cross_entropy(counts, train + 1),
            "accuracy": float(counts[train.argmax()] / max(1, counts.sum())),
        }
        for figure in objective.history:
            if figure.baseline is not None:
                values[figure.baseline] = reached[figure.name]
    return Baselines(**values)  # pyright: ignore[reportArgumentType]  (mlm has labels always)


def _objectives_with_labels(manifest: Manifest) -> tuple[Objective, ...]:
    """The objectives that batches have labels for, whether a model has their heads or not."""
    return objectives_of(manifest.pairs, BatchSpec.of(manifest).y)


def _label_counts(
    manifest: Manifest, split: str, limit: int | None = None
) -> dict[str, np.ndarray]:
    """How often each label occurs in a split, or in about its first `limit` records, by objective:
    float64 [V] for masked tokens, [2] for sentence pairs."""
    assert manifest.vocabulary_size is not None  # `baselines` has refused records without one
    counts = {
        objective.name: np.zeros(objective.num_classes or manifest.vocabulary_size)
        for objective in _objectives_with_labels(manifest)
    }
    batches = tfrecords.read(manifest, split, batch_size=_BASELINE_BATCH, shuffle=False)
    some = batches.take(limit // _BASELINE_BATCH if limit else -1)
    for _, y, sample_weight in some.as_numpy_iterator():
        for name, labels in counts.items():
            labels += np.bincount(  # slots that are not in use have weight 0
                y[name].ravel(), sample_weight[name].ravel(), minlength=len(labels)
            )
    return counts


def _cross_entropy(observed: np.ndarray, frequencies: np.ndarray) -> float:
    """The mean of -log(probability) over `observed` counts, with probabilities in proportion to
    `frequencies`; in nats."""
    return float(
        -(observed * np.log(frequencies / frequencies.sum())).sum() / max(1, observed.sum())
    )
