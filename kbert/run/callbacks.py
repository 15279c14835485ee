"""What happens around the steps of a run: progress, checkpoints, history and curves; stops by
signal, by patience, by NaN."""

import gc
import math
import signal
import threading
import time
import warnings

import keras
import numpy as np

from kbert.run import directory as runs
from kbert.run.checkpoints import list_checkpoints, save_checkpoint
from kbert.run.curves import draw_curves
from kbert.run.errors import TrainingError
from tfrecords import InputError
from tfrecords.files import atomic_path

_FIGURES = {
    "loss": "loss",
    "mlm_loss": "mlm_cross_entropy",
    "mlm_accuracy": "mlm_accuracy",
    "nsp_loss": "nsp_cross_entropy",
    "nsp_accuracy": "nsp_accuracy",
}
"""The columns of history.csv, by the names that Keras has for them: exact means over all that has
weight, but for "loss", the mean of the batches' losses. "val_loss" is `held_out_loss`."""


class Progress(keras.callbacks.Callback):
    """Keras' progress bar up to each held-out evaluation, with the few figures that fit into a
    line."""

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
        held_out = self._few(
            {
                key.removeprefix("val_"): value
                for key, value in logs.items()
                if key.startswith("val_")
            }
        )
        if held_out:
            print("held-out - " + " - ".join(f"{key}: {value:.4f}" for key, value in held_out))

    def _few(self, logs):
        return [(key, float(logs[key])) for key in self._SHOWN if key in logs]


class Keeper(keras.callbacks.Callback):
    """Keeps what a run is worth: checkpoints, history.csv and curves.png; stops where the loss is
    no longer a number.

    Args:
        run: The Run.
        start: The step that training starts after.
        reference: Baselines for the curves, or None.
        speed: A function of sequences per second that says in words how fast that is.
        verbose: As for `pretrain`.
        writes: Whether this is the process that writes.
    """

    def __init__(self, run, start, *, reference, speed, verbose, writes):
        super().__init__()
        self.step = start
        self.pretraining = run.pretraining
        self._run = run
        self._reference = reference
        self._speed = speed
        self._verbose = verbose
        self._writes = writes
        self._began = None
        self._first = start

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()
        self._first = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if not math.isfinite(logs["loss"]):
            raise self._failure(f"expected a finite loss. Received: {float(logs['loss'])}")
        if self.step % self._run.pretraining.checkpoint_every == 0:
            self.save()

    def on_test_begin(self, logs=None):
        self._trained = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        ended = time.monotonic()
        trained = self._trained if any(key.startswith("val_") for key in logs) else ended
        rate = (
            (self.step - self._first)
            * self._run.pretraining.batch_size
            / max(trained - self._began, 1e-9)
        )
        row = {
            "step": self.step,
            "seconds": round(ended - self._began, 2),
            "sequences_per_second": round(rate, 2),
        }
        row |= _figures(logs, self._run.pretraining)
        row["learning_rate"] = float(f"{float(self.model.optimizer.learning_rate):.6g}")
        self._keep(row)
        self.save()
        if self._verbose:
            left = (
                (self._run.pretraining.steps - self.step)
                * (ended - self._began)
                / (self.step - self._first)
            )
            shown = ", ".join(
                f"{key} {value:.4f}" for key, value in row.items() if "mlm" in key or "nsp" in key
            )
            figures = f": {shown}" if self._verbose == 2 else ""
            print(f"step {self.step:,} of {self._run.pretraining.steps:,}{figures}", flush=True)
            print(f"  {self._speed(rate)}; {_duration(left)} left", flush=True)

    def catch_up(self, logs):
        """Enters a held-out evaluation into the history that was due at the step where training
        starts."""
        self._keep({"step": self.step} | _figures(logs, self._run.pretraining))

    def _keep(self, row):
        if not self._writes:
            return
        try:
            runs.append_history(self._run, row)
            with atomic_path(self._run.directory / runs.CURVES) as partial:
                draw_curves(runs.read_history(self._run), self._run.pairs, self._reference, partial)
            # A picture leaves 6 MB in cycles, which Python gathers seldom among the many objects of
            # TensorFlow.
            gc.collect()
        except ImportError:
            warnings.warn(
                "No curves.png without matplotlib: pip install '.[plots]' in the clone.",
                stacklevel=2,
            )
        except OSError as error:
            warnings.warn(
                f"Step {self.step}: no history could be written ({error}); training goes on.",
                stacklevel=2,
            )

    def _failure(self, what):
        checkpoints = list_checkpoints(self._run.checkpoints)
        kept = (
            f"the last good checkpoint is {checkpoints[-1]}"
            if checkpoints
            else "there is no checkpoint yet"
        )
        return TrainingError(
            f"Step {self.step}: {what}; {kept}; try a lower learning rate in another directory."
        )

    def save(self):
        """Writes a checkpoint of the step, if this is the process that does."""
        # The loss comes before the update: it may be finite where the weights no longer are.
        if not all(
            np.isfinite(variable.numpy()).all() for variable in self.model.trainable_variables
        ):
            raise self._failure("expected finite weights. Received: NaN or infinity")
        if not self._writes:
            return
        try:
            save_checkpoint(
                self._run.checkpoints,
                self.model,
                self.step,
                keep=self._run.pretraining.keep_checkpoints,
            )
        except (OSError, InputError) as error:  # InputError: no directory could be made
            warnings.warn(
                f"Step {self.step}: no checkpoint could be written ({error}); training goes on.",
                stacklevel=2,
            )


def _figures(logs, pretraining):
    """The figures of history.csv among those that Keras has."""
    names = {
        prefix + ours: prefix + theirs
        for prefix in ("", "val_")
        for ours, theirs in _FIGURES.items()
    }
    figures = {ours: float(logs[theirs]) for ours, theirs in names.items() if theirs in logs}
    if "val_loss" in figures:
        figures["val_loss"] = held_out_loss(logs, pretraining)
    return {name: round(value, 6) for name, value in figures.items()}


def held_out_loss(logs, pretraining):
    """The weighted sum of the exact held-out losses.

    Keras' own is a mean over batches, in which the last one, with fewer records than the others,
    counts as much as they do."""
    loss = pretraining.mlm_weight * float(logs["val_mlm_cross_entropy"])
    if "val_nsp_cross_entropy" in logs:
        loss += pretraining.nsp_weight * float(logs["val_nsp_cross_entropy"])
    return loss


def _duration(seconds):
    """
    >>> _duration(3725), _duration(59.6)
    ('1:02:05', '0:01:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class StopOnSignal(keras.callbacks.Callback):
    """Saves a checkpoint after the step at which SIGTERM or Ctrl-C came, and then ends as the
    signal says.

    A context manager: within the block the signals wait for the end of a step, or of a batch of an
    evaluation. A second one does not wait."""

    def __init__(self, keeper):
        super().__init__()
        self._keeper = keeper
        self._received = None
        self._handlers = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind, *_):
        self._restore()
        if kind is None:
            self._stop_if_asked()

    def _restore(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number, frame):
        self._received = number
        self._restore()

    def on_train_batch_end(self, batch, logs=None):
        self._stop_if_asked()

    def on_test_batch_end(self, batch, logs=None):
        self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_if_asked()

    def _stop_if_asked(self):
        if self._received is None:
            return
        self._keeper.save()
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._received)


class Patience(keras.callbacks.Callback):
    """Stops training after so many held-out evaluations in a row without a better loss, counting
    those before a resumption."""

    def __init__(self, run, start):
        super().__init__()
        self._pretraining = run.pretraining
        # All workers read this before the first step. Afterwards each counts for itself: only one
        # of them writes.
        self._losses = runs.held_out_losses(run, start)

    @property
    def is_exhausted(self):
        return is_exhausted(self._losses, self._pretraining.patience)

    def count(self, logs):
        """Takes note of a held-out evaluation, from its figures with val_ before their names."""
        self._losses.append(round(held_out_loss(logs, self._pretraining), 6))

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in logs:
            self.count(logs)
        if self.is_exhausted:
            self.model.stop_training = True


def is_exhausted(losses, patience):
    """Whether the best of the losses lies `patience` or more before the last.

    >>> is_exhausted([3.0, 2.0, 2.5, 2.0], 2), is_exhausted([3.0, 2.0, 2.5], 2), is_exhausted([3.0],
    None) (True, False, False)"""
    return (
        patience is not None
        and len(losses) > 0
        and len(losses) - 1 - losses.index(min(losses)) >= patience
    )


def check_tensorboard():
    """Raises InputError if what `TensorBoard` needs is not installed: tf.summary.scalar is made of
    parts of that package."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise InputError(
            "Expected the package tensorboard. Received: none; pip install '.[tensorboard]' in the "
            "clone."
        ) from None


class TensorBoard(keras.callbacks.Callback):
    """Writes the figures of every held-out evaluation for TensorBoard, train and validation beside
    each other."""

    def __init__(self, directory, keeper):
        super().__init__()
        import tensorflow as tf

        self._summary = tf.summary
        self._keeper = keeper
        self._writers = {
            split: tf.summary.create_file_writer(str(directory / split))
            for split in ("train", "validation")
        }

    def on_epoch_end(self, epoch, logs=None):
        figures = _figures(logs, self._keeper.pretraining)
        figures["learning_rate"] = float(self.model.optimizer.learning_rate)
        for split, held_out in (("train", False), ("validation", True)):
            with self._writers[split].as_default(step=self._keeper.step):
                for name, value in figures.items():
                    if name.startswith("val_") == held_out:
                        self._summary.scalar(name.removeprefix("val_"), value)
            self._writers[split].flush()
