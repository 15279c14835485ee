"""The main job: records to a trained model, as a run that can be stopped and continued."""

import hashlib
import math
import pathlib
import time
import warnings

import keras
import numpy as np

import tfrecords
from kbert import runs
from kbert.checkpoints import list_checkpoints, restore_checkpoint, save_checkpoint
from kbert.config import BertConfig, PretrainingConfig
from kbert.curves import draw_curves
from kbert.evaluation import baselines, check_length, evaluate
from kbert.objective import pretraining_objective
from tfrecords import InputError
from tfrecords.files import atomic_path, locked
from tfrecords.schema import MANIFEST


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and what is safe."""


def pretrain(records, output, *, bert, pretraining=None, verbose=1):
    """Pretrains BERT on records of masked sentence pairs or of masked single segments.

    The directory `output` gets the resolved configuration (config.json), the vocabulary, checkpoints, history.csv with
    curves.png, and at the end results.json. Called again with the same arguments it continues from the newest checkpoint;
    a finished run returns at once.

    Args:
        records: A directory of records by `kbert records`.
        output: The directory of the run.
        bert: A BertConfig, or the name of a size, as for `BertConfig.of_size`.
        pretraining: A PretrainingConfig; None takes the defaults.
        verbose: 0 = silent, 1 = progress bar, 2 = a line per held-out evaluation.

    Returns:
        The trained model, and the held-out results (None if the records have no validation split).

    Raises:
        InputError: The records do not fit the configuration, or the directory holds something else.
        TrainingError: The loss is no longer a number.
    """
    # What the run is: everything below follows from it.
    manifest = tfrecords.load_manifest(records)
    pretraining = pretraining or PretrainingConfig()
    if isinstance(bert, str):
        bert = BertConfig.of_size(bert, vocabulary_size=manifest.vocabulary_size)
    _check(bert, pretraining, manifest)
    run = runs.Run(
        directory=pathlib.Path(output),
        bert=bert,
        pretraining=pretraining,
        sequence_length=manifest.sequence_length,
        cased=manifest.config.cased,
        pairs=manifest.pairs,
        records_sha256=hashlib.sha256((manifest.directory / MANIFEST).read_bytes()).hexdigest(),
    )
    vocabulary = manifest.load_vocabulary()
    held_out = manifest.num_records("validation") > 0
    # What cannot be read is refused before anything is written.
    manifest.verify()
    train_batches(manifest, pretraining, start_step=0)
    with locked(run.directory):
        run.claim()
        vocabulary.save(run.directory / runs.VOCABULARY)
        return _train(run, manifest, held_out, verbose)


def _train(run, manifest, held_out, verbose):
    """Trains the run from where it stands to its end, and measures it."""
    pretraining = run.pretraining

    # The model, as it was left or new.
    model = run.new_model()
    model.compile(
        **pretraining_objective(
            learning_rate=pretraining.learning_rate,
            steps=pretraining.steps,
            warmup_steps=pretraining.warmup_steps,
            mlm_weight=pretraining.mlm_weight,
            nsp_weight=pretraining.nsp_weight,
            next_sentence="nsp" in model.output,
        )
    )
    first_step = restore_checkpoint(run.checkpoints, model) or 0
    if first_step == pretraining.steps and runs.is_finished(run):
        return model, runs.read_results(run)
    if verbose and first_step:
        print(f"continuing {run.directory} at step {first_step:,} of {pretraining.steps:,}", flush=True)

    # Train.
    reference = baselines(manifest) if held_out else None
    for start, stop, interval in _segments(first_step, pretraining.steps, pretraining.evaluate_every):
        model.fit(
            train_batches(manifest, pretraining, start_step=start),
            validation_data=_validation_batches(manifest, pretraining) if held_out else None,
            steps_per_epoch=interval,
            initial_epoch=start // pretraining.evaluate_every,
            epochs=start // pretraining.evaluate_every + (stop - start) // interval,
            shuffle=False,  # the records come shuffled
            verbose=0,
            callbacks=[
                *([_Progress(start, pretraining.steps)] if verbose == 1 else []),
                _Keeper(run, start, reference, verbose),
            ],
        )

    # What came of it.
    results = evaluate(model, manifest, batch_size=pretraining.batch_size) if held_out else None
    runs.save_results(run, results)
    return model, results


def train_batches(manifest, pretraining, *, start_step):
    """The endless batches of the training split from `start_step` on."""
    return tfrecords.read(
        manifest, "train", batch_size=pretraining.batch_size, seed=pretraining.seed, epochs=None, start_step=start_step
    )


def _validation_batches(manifest, pretraining):
    """The batches of an evaluation during training, the same every time."""
    batches = tfrecords.read(manifest, "validation", batch_size=pretraining.batch_size)
    return batches if pretraining.evaluate_steps is None else batches.take(pretraining.evaluate_steps)


def _check(bert, pretraining, manifest):
    check_length(manifest, bert.max_positions)
    if manifest.vocabulary_size != bert.vocabulary_size:
        raise InputError(
            f"Expected a model with the {manifest.vocabulary_size} pieces of the vocabulary of {manifest.directory}. "
            f"Received: vocabulary_size={bert.vocabulary_size}."
        )
    if manifest.pairs == "none" and pretraining.nsp_weight != PretrainingConfig.nsp_weight:
        raise InputError(
            f"Expected no nsp_weight for records of single segments, as those in {manifest.directory}. "
            f"Received: {pretraining.nsp_weight}; leave it at {PretrainingConfig.nsp_weight}."
        )


def _segments(first, last, interval):
    """Cuts the steps first to last into calls of `fit`: up to the next evaluation, whole intervals, and the rest.

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


class _Progress(keras.callbacks.Callback):
    """Keras' progress bar up to each held-out evaluation, with the few figures that fit into a line."""

    _SHOWN = ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")

    def __init__(self, start, last):
        super().__init__()
        self._stop = start
        self._last = last
        self._bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self._stop += self.params["steps"]
        print(f"step {self._stop - self.params['steps']:,} to {self._stop:,} of {self._last:,}")
        self._bar = keras.utils.Progbar(self.params["steps"], stateless_metrics=())

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(batch + 1, self._few(logs), finalize=batch + 1 == self.params["steps"])

    def on_epoch_end(self, epoch, logs=None):
        held_out = self._few({key.removeprefix("val_"): value for key, value in logs.items() if key.startswith("val_")})
        if held_out:
            print("held-out - " + " - ".join(f"{key}: {value:.4f}" for key, value in held_out))

    def _few(self, logs):
        return [(key, logs[key]) for key in self._SHOWN if key in logs]


class _Keeper(keras.callbacks.Callback):
    """Keeps what the run is worth: checkpoints, history.csv and curves.png; stops where the loss is no longer a number."""

    def __init__(self, run, start, reference, verbose):
        super().__init__()
        self._run = run
        self._step = start
        self._reference = reference
        self._verbose = verbose
        self._began = None

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if not math.isfinite(logs["loss"]):
            raise self._failure(f"expected a finite loss. Received: {logs['loss']}")
        if self._step % self._run.pretraining.checkpoint_every == 0:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._began
        row = {"step": self._step, "seconds": round(seconds, 2)}
        for prefix in ("", "val_"):
            for ours, keras_name in {
                "loss": "loss",
                "mlm_loss": "mlm_cross_entropy",
                "mlm_accuracy": "mlm_accuracy",
                "nsp_loss": "nsp_cross_entropy",
                "nsp_accuracy": "nsp_accuracy",
            }.items():
                if prefix + keras_name in logs:
                    row[prefix + ours] = round(float(logs[prefix + keras_name]), 6)
        row["learning_rate"] = float(f"{float(self.model.optimizer.learning_rate):.6g}")
        runs.append_history(self._run, row)
        try:
            with atomic_path(self._run.directory / runs.CURVES) as partial:
                draw_curves(runs.read_history(self._run), self._run.pairs, self._reference, partial)
        except ImportError:
            warnings.warn("No curves.png without matplotlib: pip install 'kbert[plots]'.", stacklevel=2)
        self._save()
        if self._verbose == 2:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "mlm" in key or "nsp" in key)
            print(f"step {self._step:,} of {self._run.pretraining.steps:,}: {shown}", flush=True)

    def _failure(self, what):
        checkpoints = list_checkpoints(self._run.checkpoints)
        kept = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
        return TrainingError(f"Step {self._step}: {what}; {kept}; try a lower learning rate in another directory.")

    def _save(self):
        # The loss comes before the update: it may be finite where the weights no longer are.
        if not all(np.isfinite(variable.numpy()).all() for variable in self.model.trainable_variables):
            raise self._failure("expected finite weights. Received: NaN or infinity")
        try:
            save_checkpoint(self._run.checkpoints, self.model, self._step, keep=self._run.pretraining.keep_checkpoints)
        except OSError as error:
            warnings.warn(f"Step {self._step}: no checkpoint could be written ({error}); training goes on.", stacklevel=2)
