"""The main job: records to a trained model, as a run that can be stopped and continued."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tfrecords
from kbert.config import BertConfig, PretrainingConfig, resolve_bert
from kbert.formats.initial import check_fit, initial_model, initial_sha256, starting_weights
from kbert.formats.pretrained import Pretrained, assign_weights
from kbert.run.baseline import Baselines, baselines
from kbert.run.checkpoints import list_checkpoints, restore_checkpoint
from kbert.run.directory import CURVES, TENSORBOARD, VOCABULARY, Run
from kbert.run.distribution import Devices, batches_for, check_shares, devices_of
from kbert.run.errors import damaged_shards_named, one_line_errors
from kbert.run.evaluation import evaluate, evaluation_batches
from kbert.run.history import History
from kbert.run.pace import Pace
from kbert.run.progress import Lines, ProgressBar, pairs_in_a_row, what_is_ahead
from kbert.run.saving import Checkpoints
from kbert.run.stops import Patience, StopOnSignal
from kbert.run.tensorboard import TensorBoard, check_tensorboard
from kbert.speed.machine import in_words, matrix_product_rate, training_flops
from kbert.step.objective import compile_model
from tfrecords.files import locked
from tfrecords.reader import check_request
from tfrecords.schema import MANIFEST

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from kbert.step.pretrainer import Pretrainer
    from tfrecords.schema import Manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed here and now. Nothing of it changes a result, so that each process of a
    run may have its own; the fields are the arguments of `pretrain`."""

    strategy: str
    accumulate: int
    recompute: bool
    tensorboard: bool
    verbose: int


def pretrain(
    records: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bert: BertConfig | str | None = None,
    changes: Mapping[str, Any] | None = None,
    pretraining: PretrainingConfig | None = None,
    init_from: Pretrained | str | os.PathLike[str] | None = None,
    strategy: str = "auto",
    accumulate: int = 1,
    recompute: bool = False,
    tensorboard: bool = False,
    verbose: int = 1,
) -> tuple[Pretrainer, dict[str, Any] | None]:
    """Pretrains BERT on records of masked sentence pairs or of masked single segments.

    The directory `output` gets the resolved configuration (config.json), the vocabulary,
    checkpoints, history.csv with curves.png, and at the end results.json. Called again with the
    same arguments it continues from the newest checkpoint, on any number of devices; a finished run
    returns at once. SIGTERM and Ctrl-C save a checkpoint first.

    On resuming, the settings that no update depends on may differ (`directory.MAY_CHANGE`), and
    what `init_from` names is not needed any more once there is a checkpoint.

    Args:
        records: A directory of records by `kbert records`.
        output: The directory of the run; with several workers, one that all of them share.
        bert: A BertConfig, or the name of a size, as for `BertConfig.of_size`; None takes that of
            `init_from`. A size stands for the shape alone: the other fields are those of
            `init_from`, as in `resolve_bert`.
        changes: Fields of BertConfig with other values, such as {"dropout": 0.0}.
        pretraining: A PretrainingConfig; None takes the defaults.
        init_from: The model whose weights this one starts from, adapted to the vocabulary of the
            records and to `max_positions`: a Pretrained, or a path for `load`; None for new ones.
        strategy: How training is distributed, among `config.STRATEGIES`.
        accumulate: The number of micro-batches of an update, computed one after the other: less
            memory, more time.
        recompute: Whether to recompute activations in the backward pass (gradient checkpointing):
            less memory still, a third more time.
        tensorboard: Whether to write figures for TensorBoard, to `output`/tensorboard; needs the
            extra `tensorboard`.
        verbose: 0 = silent, 1 = progress bar, 2 = a line after the first update, one every minute
            at least, and one per evaluation.

    Returns:
        The trained model, and its results on the validation split (None if there is none). With
        `patience` it is the model of the best evaluation, not of the last step. On packed records
        it is a model of packed rows; `packed_as` makes the usual one of it.

    Raises:
        InputError: The records do not fit the configuration, or the directory holds something else.
        TrainingError: The loss is no longer finite, another worker has ended, memory ran out, or a
            shard was damaged.
    """
    execution = Execution(
        strategy=strategy,
        accumulate=accumulate,
        recompute=recompute,
        tensorboard=tensorboard,
        verbose=verbose,
    )
    manifest = tfrecords.load_manifest(records)
    # `load_manifest` returns none without.
    assert manifest.config is not None and manifest.vocabulary_size is not None
    pretraining = pretraining or PretrainingConfig()
    if tensorboard:
        check_tensorboard()

    # The devices come first of all that touches TensorFlow: the collective operations of several
    # workers can be set up at its start only, and a KerasHub preset builds a model when it is read.
    devices = devices_of(strategy)
    if not devices.is_chief:
        execution = dataclasses.replace(execution, verbose=0)

    # What the run is: everything below follows from it.
    initial = initial_model(init_from, output)
    bert = resolve_bert(
        bert,
        changes,
        vocabulary_size=manifest.vocabulary_size,
        initial=None if initial is None else initial.bert,
    )
    check_fit(bert, pretraining, manifest)
    vocabulary = manifest.load_vocabulary()
    weights, adapted = starting_weights(initial, bert, vocabulary, manifest, pretraining.seed)
    run = Run(
        directory=pathlib.Path(output),
        bert=bert,
        pretraining=pretraining,
        sequence_length=manifest.sequence_length,
        normalization=manifest.normalization,
        pairs=manifest.pairs,
        records_sha256=hashlib.sha256((manifest.directory / MANIFEST).read_bytes()).hexdigest(),
        initial_sha256=initial_sha256(initial),
    )

    # What cannot be read or distributed is refused before anything is written.
    manifest.verify()
    check_request(manifest, "train", pretraining.batch_size)
    check_shares(pretraining.batch_size, devices.num_replicas, accumulate)

    with one_line_errors(devices.name):
        if not devices.is_chief:  # only the chief writes, so the lock is the chief's
            return _train(run, manifest, weights, devices, execution)
        with locked(run.directory):
            changed = run.claim()
            if changed and execution.verbose:
                print(f"settings of {run.directory}: {changed}", flush=True)
            if execution.verbose and not list_checkpoints(run.checkpoints):
                print(*adapted, sep="\n", end="\n" * bool(adapted), flush=True)
            vocabulary.save(run.directory / VOCABULARY)
            run.save_records(manifest)
            return _train(run, manifest, weights, devices, execution)


def _train(
    run: Run,
    manifest: Manifest,
    initial: Pretrained | None,
    devices: Devices,
    execution: Execution,
) -> tuple[Pretrainer, dict[str, Any] | None]:
    """Trains the run from where it stands to its end, and measures it."""
    pretraining = run.pretraining
    every = pretraining.evaluate_every
    assert every is not None  # the configuration has resolved it
    validates = manifest.num_records("validation") > 0

    # The model, as it was left, or as it starts. Its variables must be made in the scope of the
    # devices; the newest checkpoint replaces the initial weights too.
    with devices.scope():
        model = run.new_model(recompute=execution.recompute, pack=manifest.pack)
        if initial is not None:
            assign_weights(model, initial)
        compile_model(model, pretraining, execution.accumulate)
        first_step = restore_checkpoint(run.checkpoints, model) or 0

    # All workers read the directory before the first step. After `check_same_step` none reads what
    # the chief writes, but for the best checkpoint in the end: it is older than the last step, in
    # which all took part.
    pace = Pace(first_step, pretraining.batch_size * pairs_in_a_row(manifest))
    losses = run.history.validation_losses(first_step)
    patience = Patience(
        pace, pretraining.patience, losses, run.loss_weights, saved=run.saved_steps()
    )
    evaluation_due = validates and run.lacks_evaluation(first_step)
    is_finished = run.is_finished(first_step, patience.best_step)
    devices.check_same_step(first_step)
    run.check_claimed()
    if is_finished:
        if patience.best_step not in (None, first_step):
            restore_checkpoint(run.checkpoints, model, patience.best_step)
        return model, run.results_of(patience.best_step or first_step)
    if execution.verbose and first_step:
        print(
            f"continuing {run.directory} at step {first_step:,} of {pretraining.steps:,}",
            flush=True,
        )

    # Train, from one evaluation to the next.
    checkpoints = Checkpoints(
        run.checkpoints,
        pace,
        every=pretraining.checkpoint_every,
        keep=pretraining.keep_checkpoints,
        best=lambda: patience.best_step,
        writes=devices.is_chief,
    )
    reference = baselines(manifest) if validates else None
    history = _history(run, pace, reference) if devices.is_chief else None
    stop_on_signal = StopOnSignal(checkpoints.save, verbose=execution.verbose > 0)
    # The order matters: the pace is read by all others; the bar ends its line before others print;
    # the history has the row of an evaluation, and the patience has counted it, before the
    # checkpoint of its step is written, from which a resumed run takes both for granted.
    callbacks: list[keras.callbacks.Callback] = [
        pace,
        *_printers(run, manifest, devices, pace, execution),
        *([history] if history is not None else []),
        *_tensorboard(run, devices, pace, execution),
        patience,
        checkpoints,
        stop_on_signal,
    ]
    with (
        damaged_shards_named(manifest, checkpoints.save),
        stop_on_signal,
        warnings.catch_warnings(),
    ):
        # Of an evaluation on several devices Keras does not know the number of batches, and takes
        # its end for a lack of them (keras/src/trainers/epoch_iterator.py, Keras 3.15).
        warnings.filterwarnings("ignore", "Your input ran out of data")
        if evaluation_due:
            checkpoints.set_model(model)
            logs = _evaluate_now(model, manifest, pretraining, stop_on_signal)
            if history is not None:
                history.add_evaluation(logs)
            patience.count(logs)
        for start, stop, interval in _segments(first_step, pretraining.steps, every):
            if patience.is_exhausted:
                break
            model.fit(
                _train_batches_for(model, manifest, pretraining, start),
                validation_data=_validation_batches(model, manifest, pretraining)
                if validates
                else None,
                steps_per_epoch=interval,
                initial_epoch=start // every,
                epochs=start // every + (stop - start) // interval,
                shuffle=False,  # the records come shuffled
                verbose=0,  # pyright: ignore[reportArgumentType]  (Keras' default is a word)
                callbacks=callbacks,
            )

    # Measure the weights that the run is about: with patience those of the best evaluation.
    best = patience.best_step
    if best not in (None, pace.step):
        best = run.restore_best(model, best, verbose=execution.verbose > 0)
    # The rest of the validation split is read for the first time. All checkpoints are written.
    with damaged_shards_named(manifest, lambda: list_checkpoints(run.checkpoints)[-1]):
        results = reference and evaluate(
            model, manifest, batch_size=pretraining.batch_size, reference=reference
        )
    if devices.is_chief:
        run.save_results(pace.step, results, best)
    return model, results


def _history(run: Run, pace: Pace, reference: Baselines | None) -> History:
    curves = run.directory / CURVES
    return History(
        run.history, pace, run.loss_weights, pairs=run.pairs, curves=curves, baselines=reference
    )


def _printers(
    run: Run, manifest: Manifest, devices: Devices, pace: Pace, execution: Execution
) -> list[keras.callbacks.Callback]:
    """The callbacks that print; none for silence."""
    if not execution.verbose:
        return []
    flops = training_flops(
        run.bert, run.sequence_length, manifest.max_predictions, run.pairs, manifest.pack
    )
    pairs = pairs_in_a_row(manifest)
    peak = matrix_product_rate(run.pretraining.precision) * devices.num_replicas
    for line in what_is_ahead(run.pretraining, manifest):
        print(line, flush=True)
    lines = Lines(
        pace,
        run.pretraining.steps,
        run.loss_weights,
        speed=lambda rate: in_words(rate, run.sequence_length / pairs, flops / pairs, peak),
        between=execution.verbose > 1,
    )
    if execution.verbose > 1:
        return [lines]
    return [ProgressBar(pace, run.pretraining.steps, run.loss_weights), lines]


def _tensorboard(
    run: Run, devices: Devices, pace: Pace, execution: Execution
) -> list[keras.callbacks.Callback]:
    if not (execution.tensorboard and devices.is_chief):
        return []
    return [TensorBoard(run.directory / TENSORBOARD, pace, run.loss_weights)]


def _evaluate_now(
    model: Pretrainer,
    manifest: Manifest,
    pretraining: PretrainingConfig,
    stop_on_signal: StopOnSignal,
) -> dict[str, float]:
    """Makes up for an evaluation that a stop has cut short; its figures have val_ before their
    names, as in `fit`."""
    logs = model.evaluate(
        _validation_batches(model, manifest, pretraining),
        return_dict=True,
        verbose=0,  # pyright: ignore[reportArgumentType]  (Keras' default is a word)
        callbacks=[stop_on_signal],
    )
    return {f"val_{name}": value for name, value in logs.items()}


def train_batches(
    manifest: Manifest,
    pretraining: PretrainingConfig,
    start_step: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """The endless batches of the training split from `start_step` on."""
    return tfrecords.read(
        manifest,
        "train",
        batch_size=pretraining.batch_size,
        seed=pretraining.seed,
        epochs=None,
        start_step=start_step,
        input_context=input_context,
    )


def _train_batches_for(
    model: Pretrainer, manifest: Manifest, pretraining: PretrainingConfig, start_step: int
) -> tf.data.Dataset:
    return batches_for(
        model, lambda context: train_batches(manifest, pretraining, start_step, context)
    )


def _validation_batches(
    model: Pretrainer, manifest: Manifest, pretraining: PretrainingConfig
) -> tf.data.Dataset:
    """The batches of an evaluation during training, the same every time."""
    return evaluation_batches(
        model, manifest, "validation", pretraining.batch_size, steps=pretraining.validation_steps
    )


def _segments(first: int, last: int, interval: int) -> Iterator[tuple[int, int, int]]:
    """Cuts the steps first to last into calls of `fit`: up to the next evaluation, whole intervals,
    and the rest.

    Yields (start, stop, steps per epoch).

    >>> list(_segments(3, 23, 10))
    [(3, 10, 7), (10, 20, 10), (20, 23, 3)]
    """
    boundary = min(last, -(-first // interval) * interval)
    if first < boundary:
        yield first, boundary, boundary - first
    whole = last - (last - boundary) % interval
    if boundary < whole:
        yield boundary, whole, interval
    if whole < last and boundary <= whole:
        yield whole, last, last - whole
