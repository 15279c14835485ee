"""Where a run stands and how fast it is: the count of its updates, and their time."""

from __future__ import annotations

import time
from typing import Any

import keras

Logs = dict[str, Any] | None
"""What Keras hands to a callback: figures by name."""


class Pace(keras.callbacks.Callback):
    """Counts updates and times them. The first of a run's callbacks, since the others read it.

    Keras' `epoch` is a number of evaluations here, and its `batch` begins at 0 with each of them,
    so that neither tells the step of a run that was resumed.

    Args:
        start: The step that training starts after.
        sequences: How many an update has; of packed rows, on average.

    Attributes:
        step: Updates so far, those before a resumption included.
        seconds: Since the last evaluation, or the start: training, and at its end evaluation too.
    """

    def __init__(self, start: int, sequences: float) -> None:
        super().__init__()
        self.step = start
        self._sequences = sequences
        self._first = start
        self._began = time.monotonic()
        self._trained: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._began = time.monotonic()
        self._first = self.step
        self._trained = None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.step += 1

    def on_test_begin(self, logs: Logs = None) -> None:
        self._trained = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def sequences_per_second(self) -> float:
        """The rate of training since the last evaluation; evaluation itself does not count."""
        trained = time.monotonic() if self._trained is None else self._trained
        done = (self.step - self._first) * self._sequences
        return done / max(trained - self._began, 1e-9)

    def seconds_left(self, steps: int) -> float:
        """What is left until step `steps`, if it goes on as since the last evaluation."""
        return (steps - self.step) * self.seconds / max(self.step - self._first, 1)


def learning_rate_of(model: keras.Model | None) -> float:
    """The learning rate of the next update of a compiled model."""
    assert model is not None  # `fit` sets it before it calls a callback
    return float(model.optimizer.learning_rate)


class Timer:
    """Tells when it is time again: after `first` seconds, and then after pauses that double up to
    `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._pause = first
        self._longest = longest
        self._next = time.monotonic() + first

    def is_due(self) -> bool:
        """Whether the pause is over; if so, the next one begins."""
        if time.monotonic() < self._next:
            return False
        self._pause = min(self._longest, 2 * self._pause)
        self._next = time.monotonic() + self._pause
        return True
