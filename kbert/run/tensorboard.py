"""The figures of a run for TensorBoard."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import keras

from kbert.run.history import ROWS_EVERY, figures_of
from kbert.run.pace import Logs, Pace, Timer, learning_rate_of
from tfrecords import InputError


def check_tensorboard() -> None:
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
    """Writes the figures of every evaluation, and of some steps between them, for TensorBoard, as
    two runs beside each other: train and validation.

    Keras' own counts epochs, begins anew in a resumed run, and writes the graph with its weights
    (keras/src/callbacks/tensorboard.py, Keras 3.15).

    Args:
        directory: Where the two are written.
        pace: The Pace of the run.
        weights: The weights of the objectives' losses, by objective.
    """

    def __init__(self, directory: pathlib.Path, pace: Pace, weights: Mapping[str, float]) -> None:
        super().__init__()
        import tensorflow as tf

        self._summary = tf.summary
        self._pace = pace
        self._weights = weights
        self._timer = Timer(ROWS_EVERY, ROWS_EVERY)
        self._writers = {
            split: tf.summary.create_file_writer(str(directory / split))
            for split in ("train", "validation")
        }

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._timer = Timer(ROWS_EVERY, ROWS_EVERY)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._timer.is_due():
            self._write(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._write(logs)

    def _write(self, logs: Logs) -> None:
        figures = figures_of(logs or {}, self._weights)
        figures["learning_rate"] = learning_rate_of(self.model)
        # The same names in both, so that TensorBoard draws them into one chart.
        for split, validation in (("train", False), ("validation", True)):
            with self._writers[split].as_default(step=self._pace.step):
                for name, value in figures.items():
                    if name.startswith("val_") == validation:
                        self._summary.scalar(name.removeprefix("val_"), value)
            self._writers[split].flush()
