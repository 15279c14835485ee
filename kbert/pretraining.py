"""The main job: records to a trained model, as a run that can be stopped and continued."""

import hashlib
import pathlib
import warnings

import tfrecords
from kbert.config import PretrainingConfig, resolve_bert
from kbert.formats.load_and_save import load
from kbert.formats.pretrained import Pretrained, assign_weights
from kbert.objectives import NSP
from kbert.run import directory as runs
from kbert.run.callbacks import (
    Keeper,
    Patience,
    Progress,
    StopOnSignal,
    TensorBoard,
    check_tensorboard,
)
from kbert.run.checkpoints import restore_checkpoint
from kbert.run.distribution import batches_for, check_shares, devices_of
from kbert.run.errors import one_line_errors
from kbert.run.evaluation import baselines, check_length, evaluate, evaluation_batches
from kbert.speed import machine as speed
from kbert.step.objective import compile_model
from tfrecords import InputError
from tfrecords.files import locked
from tfrecords.schema import MANIFEST


def pretrain(
    records,
    output,
    *,
    bert=None,
    changes=None,
    pretraining=None,
    init_from=None,
    strategy="auto",
    accumulate=1,
    recompute=False,
    tensorboard=False,
    verbose=1,
):
    """Pretrains BERT on records of masked sentence pairs or of masked single segments.

    The directory `output` gets the resolved configuration (config.json), the vocabulary,
    checkpoints, history.csv with curves.png, and at the end results.json. Called again with the
    same arguments it continues from the newest checkpoint, on any number of devices; a finished run
    returns at once. SIGTERM and Ctrl-C save a checkpoint first.

    Args:
        records: A directory of records by `kbert records`.
        output: The directory of the run; of several workers, one that all of them see.
        bert: A BertConfig, or the name of a size, as for `BertConfig.of_size`; None is that of
            `init_from`. A size says the shape alone: the other fields are those of `init_from`, as
            in `resolve_bert`.
        changes: Fields of BertConfig with values that differ from those, such as
            `{"dropout": 0.0}`.
        pretraining: A PretrainingConfig; None takes the defaults.
        init_from: The pretrained model whose weights this one starts from: a Pretrained, or a path
            for `load`, such as another run or a model of Hugging Face's; None starts anew.
        strategy: How training is shared out, among `config.STRATEGIES`.
        accumulate: Micro-batches that an update is worked out in, one after the other: less memory,
            more time.
        recompute: Whether to work out activations once more in the backward pass: less memory
            still, a third more time.
        tensorboard: Whether to write figures for TensorBoard, to `output`/tensorboard; needs the
            extra `tensorboard`.
        verbose: 0 = silent, 1 = progress bar, 2 = a line per held-out evaluation.

    Returns:
        The trained model, and the held-out results (None if the records have no validation split).

    Raises:
        InputError: The records do not fit the configuration, or the directory holds something else.
        TrainingError: The loss is no longer a number, or another worker is gone.
    """
    # What the run is: everything below follows from it.
    manifest = tfrecords.load_manifest(records)
    pretraining = pretraining or PretrainingConfig()
    initial = (
        init_from if init_from is None or isinstance(init_from, Pretrained) else load(init_from)
    )
    bert = resolve_bert(
        bert,
        changes,
        vocabulary_size=manifest.vocabulary_size,
        initial=None if initial is None else initial.bert,
    )
    _check(bert, pretraining, manifest)
    vocabulary = manifest.load_vocabulary()
    if initial is not None:
        _check_initial(initial, bert, vocabulary, manifest)
    run = runs.Run(
        directory=pathlib.Path(output),
        bert=bert,
        pretraining=pretraining,
        sequence_length=manifest.sequence_length,
        cased=manifest.config.cased,
        pairs=manifest.pairs,
        records_sha256=hashlib.sha256((manifest.directory / MANIFEST).read_bytes()).hexdigest(),
        initial_sha256=None if initial is None else initial.sha256,
    )
    # What cannot be read or shared out is refused before anything is written.
    manifest.verify()
    if tensorboard:
        check_tensorboard()
    devices = devices_of(
        strategy
    )  # before TensorFlow does anything else, as several workers need it
    train_batches(manifest, pretraining, start_step=0)
    check_shares(pretraining.batch_size, devices.num_replicas, accumulate)
    how = {
        "accumulate": accumulate,
        "recompute": recompute,
        "tensorboard": tensorboard,
        "verbose": verbose if devices.is_chief else 0,
    }
    with one_line_errors(devices):
        if not devices.is_chief:
            return _train(run, manifest, initial, devices, **how)
        with locked(run.directory):
            run.claim()
            vocabulary.save(run.directory / runs.VOCABULARY)
            runs.save_records(run, manifest)
            return _train(run, manifest, initial, devices, **how)


def _train(run, manifest, initial, devices, *, accumulate, recompute, tensorboard, verbose):
    """Trains the run from where it stands to its end, and measures it."""
    pretraining = run.pretraining
    held_out = manifest.num_records("validation") > 0

    # The model, as it was left, or as it starts.
    with devices.scope():
        model = run.new_model(recompute=recompute)
        if initial is not None:
            assign_weights(model, initial)
        compile_model(model, pretraining, accumulate)
        first_step = restore_checkpoint(run.checkpoints, model) or 0
    patience = Patience(run, first_step)
    evaluation_due = held_out and runs.lacks_evaluation(run, first_step)
    devices.check_same_step(first_step)  # no worker reads after this what another writes
    run.check_claimed()
    if runs.is_finished(run, first_step):
        return model, runs.read_results(run)
    if verbose and first_step:
        print(
            f"continuing {run.directory} at step {first_step:,} of {pretraining.steps:,}",
            flush=True,
        )

    # Train.
    keeper = Keeper(
        run,
        first_step,
        reference=baselines(manifest) if held_out else None,
        speed=_rate_in_words(run, manifest, devices) if verbose else None,
        verbose=verbose,
        writes=devices.is_chief,
    )
    stop_on_signal = StopOnSignal(keeper)
    callbacks = [
        *([Progress(first_step, pretraining.steps)] if verbose == 1 else []),
        keeper,
        *(
            [TensorBoard(run.directory / runs.TENSORBOARD, keeper)]
            if tensorboard and devices.is_chief
            else []
        ),
        patience,
        stop_on_signal,
    ]
    with stop_on_signal, warnings.catch_warnings():
        # Of an evaluation on several devices Keras does not know the number of batches, and takes
        # its end for a lack of them.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        if evaluation_due:
            keeper.set_model(model)
            validation = _validation_batches(model, manifest, pretraining)
            logs = model.evaluate(
                validation, return_dict=True, verbose=0, callbacks=[stop_on_signal]
            )
            logs = {f"val_{name}": value for name, value in logs.items()}
            keeper.catch_up(logs)
            patience.count(logs)
        for start, stop, interval in _segments(
            first_step, pretraining.steps, pretraining.evaluate_every
        ):
            if patience.is_exhausted:
                break
            model.fit(
                batches_for(
                    model,
                    lambda context, start=start: train_batches(
                        manifest, pretraining, start, context
                    ),
                ),
                validation_data=_validation_batches(model, manifest, pretraining)
                if held_out
                else None,
                steps_per_epoch=interval,
                initial_epoch=start // pretraining.evaluate_every,
                epochs=start // pretraining.evaluate_every + (stop - start) // interval,
                shuffle=False,  # the records come shuffled
                verbose=0,
                callbacks=callbacks,
            )

    # What came of it.
    results = evaluate(model, manifest, batch_size=pretraining.batch_size) if held_out else None
    if devices.is_chief:
        runs.save_results(run, keeper.step, results)
    return model, results


def train_batches(manifest, pretraining, start_step, input_context=None):
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


def _validation_batches(model, manifest, pretraining):
    """The batches of an evaluation during training, the same every time."""
    return evaluation_batches(
        model, manifest, "validation", pretraining.batch_size, steps=pretraining.evaluate_steps
    )


def _rate_in_words(run, manifest, devices):
    """A function that says in words how fast so many sequences per second are on these devices."""
    flops = speed.training_flops(run.bert, run.sequence_length, manifest.max_predictions, run.pairs)
    peak = speed.matrix_product_rate(run.pretraining.precision) * devices.num_replicas
    return lambda rate: speed.in_words(rate, run.sequence_length, flops, peak)


def _check_initial(initial, bert, vocabulary, manifest):
    """Raises InputError if a model of this configuration, on these records, cannot start from a
    Pretrained."""
    if initial.vocabulary != vocabulary:
        raise InputError(
            f"Expected records with the vocabulary of {initial.source}, "
            f"{initial.vocabulary.sha256[:12]}. "
            f"Received: {manifest.directory}, made with {vocabulary.sha256[:12]}; make them with "
            f"that of {initial.source}."
        )
    if initial.cased != manifest.config.cased:
        casing = {True: "cased", False: "uncased"}
        raise InputError(
            f"Expected {casing[initial.cased]} records, as {initial.source} is. "
            f"Received: {casing[manifest.config.cased]} ones in {manifest.directory}; make them "
            f"with --{casing[initial.cased]}."
        )
    if initial.pairs != manifest.pairs and "none" not in (initial.pairs, manifest.pairs):
        warnings.warn(
            f"The head of {NSP.titles[initial.pairs]} now learns {NSP.titles[manifest.pairs]}.",
            stacklevel=2,
        )
    if differences := initial.shape_differences(bert):
        what = "; ".join(
            f"{name}: {here!r} there, {there!r} here" for name, (here, there) in differences.items()
        )
        raise InputError(f"Expected a model as in {initial.source}. Received another: {what}.")


def _check(bert, pretraining, manifest):
    check_length(manifest, bert.max_positions)
    if manifest.vocabulary_size != bert.vocabulary_size:
        raise InputError(
            f"Expected a model with the {manifest.vocabulary_size} pieces of the vocabulary of "
            f"{manifest.directory}. "
            f"Received: vocabulary_size={bert.vocabulary_size}."
        )
    if manifest.pairs == "none" and pretraining.nsp_weight != PretrainingConfig.nsp_weight:
        raise InputError(
            "Expected no nsp_weight for records of single segments, as those in "
            f"{manifest.directory}. "
            f"Received: {pretraining.nsp_weight}; leave it at {PretrainingConfig.nsp_weight}."
        )


def _segments(first, last, interval):
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
