"""What ends a run before its last step: a signal, or a validation loss that no longer falls."""

from __future__ import annotations

import pathlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from types import FrameType, TracebackType
from typing import Any

import keras

from kbert.run.history import validation_loss
from kbert.run.pace import Logs, Pace


class StopOnSignal(keras.callbacks.Callback):
    """Saves a checkpoint after the step at which SIGTERM or Ctrl-C came, and then ends as the
    signal says.

    A context manager: within the block a signal waits for the end of a step, or of a batch of an
    evaluation. A second one does not wait.

    Args:
        save: Saves a checkpoint and returns its path, or None if there is none to speak of.
        verbose: Whether to say what was saved.
    """

    def __init__(self, save: Callable[[], pathlib.Path | None], *, verbose: bool = False) -> None:
        super().__init__()
        self._save = save
        self._verbose = verbose
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        # Python lets no other thread than the main one set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
        # A signal after the last step is not forgotten; with an error on its way, the error counts.
        if kind is None:
            self._stop_if_asked()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # The handlers of before are back at once: a second signal does what it always does.
        self._received = number
        self._restore()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._stop_if_asked()

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._received is None:
            return
        # Between two steps, where the weights are those of the step that is named.
        name = signal.Signals(self._received).name
        path = self._save()
        if self._verbose and path is not None:
            print(f"{name}: saved {path}; the same command continues from there", flush=True)
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._received)


class Patience(keras.callbacks.Callback):
    """Stops training after a number of evaluations in a row without a better loss, those before a
    resumption included; knows which evaluation was the best.

    Args:
        pace: The Pace of the run.
        patience: The number of evaluations; None never stops, and there is no best one.
        losses: The validation losses so far, by step, oldest first. All workers read them before
            the first step, and each counts for itself afterwards: only one of them writes.
        weights: The weights of the objectives' losses, by objective.
        saved: The steps that have a checkpoint; of those so far, only one of these can be the best.
    """

    def __init__(
        self,
        pace: Pace,
        patience: int | None,
        losses: Mapping[int, float],
        weights: Mapping[str, float],
        saved: Set[int],
    ) -> None:
        super().__init__()
        self._pace = pace
        self._patience = patience
        self._losses = dict(losses)
        self._gone = losses.keys() - saved
        self._weights = weights

    @property
    def best_step(self) -> int | None:
        """The step whose checkpoint is to be kept; None without patience."""
        if self._patience is None:
            return None
        return best_step(
            {step: loss for step, loss in self._losses.items() if step not in self._gone}
        )

    @property
    def is_exhausted(self) -> bool:
        return is_exhausted(list(self._losses.values()), self._patience)

    def count(self, logs: Mapping[str, Any]) -> None:
        """Takes note of an evaluation, from its figures with val_ before their names."""
        # Rounded as in history.csv, so that a resumed run counts alike.
        self._losses[self._pace.step] = round(validation_loss(logs, self._weights), 6)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs and "val_loss" in logs:
            self.count(logs)
        if self.is_exhausted and self.model is not None:
            self.model.stop_training = True


def best_step(losses: Mapping[int, float]) -> int | None:
    """The step with the lowest loss, the first of equal ones; None if there is none.

    >>> best_step({10: 3.0, 20: 2.0, 30: 2.0})
    20
    """
    return min(losses, key=losses.__getitem__) if losses else None


def is_exhausted(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the best of the losses lies `patience` or more before the last.

    >>> is_exhausted([3.0, 2.0, 2.5, 2.0], 2), is_exhausted([3.0, 2.0, 2.5], 2)
    (True, False)
    >>> is_exhausted([3.0], None)
    False
    """
    return (
        patience is not None
        and len(losses) > 0
        and len(losses) - 1 - losses.index(min(losses)) >= patience
    )
