"""How good a model is on records that it was not trained on, beside what is reached without a
model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras

import tfrecords
from kbert.config import PretrainingConfig
from kbert.model.bert import packed_as
from kbert.objectives import NSP, names_with_figures, objectives_in, objectives_of
from kbert.run.baseline import Baselines, baselines
from kbert.run.directory import Run, load_run
from kbert.run.distribution import batches_for
from kbert.step.objective import pretraining_objective
from kbert.step.pretrainer import scope_of
from tfrecords import InputError
from tfrecords.schema import Manifest

if TYPE_CHECKING:
    import tensorflow as tf


def evaluate(
    model: keras.Model | Run | str | os.PathLike[str],
    records: str | os.PathLike[str] | Manifest,
    *,
    split: str = "validation",
    batch_size: int = PretrainingConfig.batch_size,
    reference: Baselines | None = None,
    verbose: int = 0,
) -> dict[str, Any]:
    """Measures a pretraining model on a split of records, every record once.

    Args:
        model: A pretraining model, of packed rows or not, whatever the records are; it, or
            `packed_as` of it, is compiled with `pretraining_objective` if it is not compiled. Or a
            Run or its directory, whose weights (`Run.best_step`) are measured, on records with the
            vocabulary and the pairs of the run alone.
        records: A directory of records, or a Manifest.
        split: The split to measure on.
        batch_size: Rows at once; no influence on the results but by rounding.
        reference: The Baselines of the split, where they are known already; None computes them.
        verbose: As for `keras.Model.evaluate`.

    Returns:
        A dict: pairs (the kind of pairs of the records), and as floats mlm_loss (nats per masked
        token), mlm_perplexity, mlm_accuracy, nsp_loss (nats), nsp_accuracy and the fields of
        Baselines. Records of single segments have no nsp_loss, nsp_accuracy, majority_loss and
        majority_accuracy.

    Raises:
        InputError: There is no such split, the records do not fit the model, or, where a run is
            measured, they are damaged.
    """
    measured, manifest = _measured(model, records)
    if not manifest.num_records(split):
        raise InputError(
            f"Expected a split {split!r} in {manifest.directory}. Received: records without it; "
            "make them with a --validation-fraction, or measure on another split."
        )
    check_length(manifest, measured.get_layer("embeddings").max_positions)
    objectives = objectives_of(manifest.pairs, measured.output)
    if objectives_in(measured.output) != objectives:
        what = "sentence pairs" if NSP in objectives_in(measured.output) else "single segments"
        raise InputError(
            f"Expected records of {what}, as the model was built for. Received: "
            f"{manifest.directory}, made with pairs {manifest.pairs!r}."
        )
    given, measured = measured, packed_as(measured, manifest.pack)
    if not measured.compiled:
        weights: dict[str, Any] = {one.weight_field: 1.0 for one in objectives}
        objective = pretraining_objective(steps=1, pairs=manifest.pairs, **weights)
        if given.compiled:  # in its other form
            objective |= {"jit_compile": given.use_xla, "run_eagerly": given.run_eagerly}
        with scope_of(measured):
            measured.compile(**objective)
    logs = measured.evaluate(
        evaluation_batches(measured, manifest, split, batch_size),
        steps=-(-manifest.num_records(split) // batch_size),
        return_dict=True,
        verbose=verbose,  # pyright: ignore[reportArgumentType]  (Keras' default is a word)
    )
    results: dict[str, Any] = {"pairs": manifest.pairs}
    for objective in objectives:
        for figure in objective.figures:
            results[objective.key(figure)] = figure.value(logs[objective.metric(figure)])
    reached = dataclasses.asdict(reference or baselines(manifest, split))
    named = {figure.baseline for objective in objectives for figure in objective.figures}
    return results | {
        name: value for name, value in reached.items() if name in named and value is not None
    }


def _measured(
    model: keras.Model | Run | str | os.PathLike[str], records: str | os.PathLike[str] | Manifest
) -> tuple[keras.Model, Manifest]:
    """The model and the manifest of the records that `evaluate` was given."""
    if isinstance(model, keras.Model):
        return model, tfrecords.manifest_of(records)
    # Of a run more is known than of a model, and damaged records are found before the work.
    run = model if isinstance(model, Run) else load_run(model)
    manifest = records if isinstance(records, Manifest) else tfrecords.load_manifest(records)
    _check_records_of_run(run, manifest)
    manifest.verify()
    return run.load_model(), manifest


def _check_records_of_run(run: Run, manifest: Manifest) -> None:
    """Raises InputError if records are not of the kind that a run was trained on."""
    if manifest.vocabulary_sha256 != run.vocabulary.sha256:
        raise InputError(
            f"Expected records with the vocabulary of the run, {run.vocabulary.sha256[:12]}. "
            f"Received: {manifest.directory}, written with "
            f"{(manifest.vocabulary_sha256 or 'an unknown one')[:12]}."
        )
    if manifest.pairs != run.pairs:
        raise InputError(
            f"Expected records with the pairs of the run, {run.pairs!r}. Received: "
            f"{manifest.directory}, made with {manifest.pairs!r}."
        )


def evaluation_batches(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    batch_size: int,
    steps: int | None = None,
) -> tf.data.Dataset:
    """The batches of a split for the model's devices, every record once; or its first `steps`
    batches, the same every time."""

    def make(input_context: tf.distribute.InputContext | None) -> tf.data.Dataset:
        batches = tfrecords.read(
            manifest, split, batch_size=batch_size, shuffle=False, input_context=input_context
        )
        if steps is None:
            return batches
        # A pipeline that serves several replicas gives a batch in as many parts.
        parts = (
            1
            if input_context is None
            else input_context.num_replicas_in_sync // input_context.num_input_pipelines
        )
        return batches.take(steps * parts)

    return batches_for(model, make)


def check_length(manifest: Manifest, max_positions: int) -> None:
    """Raises InputError if the records are longer than the positions of a model."""
    if manifest.sequence_length > max_positions:
        raise InputError(
            f"Expected records of at most {max_positions} tokens, the positions of the model. "
            f"Received: {manifest.sequence_length} in {manifest.directory}."
        )


def results_rows(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The results of `evaluate` in words: rows of what it is, the model's value, the baseline's,
    and which baseline that is; without a baseline the last two are empty."""
    rows = []
    for objective in objectives_of(results["pairs"], names_with_figures(results)):
        for figure in objective.figures:
            baseline = ""
            if figure.baseline is not None and figure.baseline in results:
                baseline = format(figure.value(results[figure.baseline]), figure.form)
            rows.append(
                (
                    objective.title(figure, results["pairs"]),
                    format(results[objective.key(figure)], figure.form),
                    baseline,
                    figure.baseline_title,
                )
            )
    return rows


def results_table(results: Mapping[str, Any]) -> str:
    """Writes the results of `evaluate` as a table beside the baselines."""
    lines = [f"  {'':<28}{'model':>9}   without a model"]
    lines += [
        f"  {what:<28}{model:>9}   {baseline}  {name}".rstrip()
        for what, model, baseline, name in results_rows(results)
    ]
    return "\n".join(lines)
