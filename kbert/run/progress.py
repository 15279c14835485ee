"""What a run prints: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import keras

from kbert.config import PretrainingConfig
from kbert.run.history import figures_of
from kbert.run.pace import Logs, Pace, Timer
from tfrecords.schema import Manifest

_FIRST_LINE = 10.0
_LINES = 60.0
"""Seconds between lines where there is no terminal: short at first, when a mistake shows."""


def duration(seconds: float) -> str:
    """
    >>> [duration(seconds) for seconds in (42, 600, 15_000, 700_000)]
    ['42 seconds', '10.0 minutes', '4.2 hours', '8.1 days']
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _skipped(logs: Logs) -> str:
    """What a line says of updates that were skipped so far; nothing if none was."""
    skipped = int((logs or {}).get("skipped_updates", 0))
    what = "an update" if skipped == 1 else f"{skipped:,} updates"
    return f"; {what} skipped, whose gradients float16 could not hold" if skipped else ""


def pairs_in_a_row(manifest: Manifest, split: str = "train") -> float:
    """How many pairs a row of a split holds on average; 1.0 where none are packed, or nobody has
    counted them."""
    counts = manifest.counts.get(split, {})
    return counts.get("pairs", 0) / max(1, manifest.num_records(split)) or 1.0


def what_is_ahead(pretraining: PretrainingConfig, manifest: Manifest) -> list[str]:
    """What a reader of the log should know before the first step, a line each: how many pairs an
    update has where rows are packed, and that evaluations take a part of the split where nobody has
    asked for that."""
    lines, rows = [], pretraining.batch_size
    if manifest.pack > 1:
        line = f"packed: {rows:,} rows of {manifest.sequence_length:,} tokens in an update"
        if "pairs" in manifest.counts.get("train", {}):
            pairs = pairs_in_a_row(manifest)
            what = "sequences" if manifest.pairs == "none" else "pairs"
            line += f", with {pairs:.3g} {what} each on average: {rows * pairs:,.0f} {what}"
        lines.append(line)
    there = manifest.num_records("validation")
    taken = pretraining.validation_steps * rows
    if pretraining.evaluate_steps is None and taken < there:
        lines.append(
            f"validation every {pretraining.evaluate_every:,} steps on {taken:,} of {there:,} "
            "records, about a tenth of the time; --evaluate-steps sets another number of batches"
        )
    return lines


class ProgressBar(keras.callbacks.Callback):
    """A progress bar up to each evaluation, with the few figures that fit into a line.

    Keras' own ProgbarLogger counts from 0 in every epoch and prints all metrics, which takes more
    than a line (keras/src/callbacks/progbar_logger.py, Keras 3.15).

    Args:
        pace: The Pace of the run.
        steps: The step that training ends with.
        weights: The weights of the objectives' losses, by objective.
    """

    def __init__(self, pace: Pace, steps: int, weights: dict[str, float]) -> None:
        super().__init__()
        self._pace = pace
        self._steps = steps
        self._weights = weights
        self._bar = keras.utils.Progbar(None)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        assert self.params is not None  # `fit` sets them
        interval = self.params["steps"]
        stop = self._pace.step + interval
        print(f"step {self._pace.step:,} to {stop:,} of {self._steps:,}")
        # With stateless_metrics=None the bar would print means of means.
        self._bar = keras.utils.Progbar(interval, stateless_metrics=())

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        figures = figures_of(logs or {}, self._weights)
        last = batch + 1 == self._bar.target
        self._bar.update(batch + 1, list(figures.items()), finalize=last)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        figures = figures_of(logs or {}, self._weights)
        validation = [
            f"{name.removeprefix('val_')}: {value:.4f}"
            for name, value in figures.items()
            if name.startswith("val_")
        ]
        if validation:
            print(f"validation - {' - '.join(validation)}")


class Lines(keras.callbacks.Callback):
    """A line or two at every evaluation; with `between` also one after the first update and one
    every so often from then on, since a log that stays empty looks like a run that hangs.

    Args:
        pace: The Pace of the run.
        steps: The step that training ends with.
        weights: The weights of the objectives' losses, by objective.
        speed: Says in words how fast so many sequences per second are.
        between: Whether to print lines between evaluations, and figures: for where no bar shows
            them.
    """

    def __init__(
        self,
        pace: Pace,
        steps: int,
        weights: dict[str, float],
        *,
        speed: Callable[[float], str],
        between: bool,
    ) -> None:
        super().__init__()
        self._pace = pace
        self._steps = steps
        self._weights = weights
        self._speed = speed
        self._between = between
        self._timer: Timer | None = None
        self._is_early = True

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if not self._between:
            return
        if self._timer is None:
            # The first update takes as long as the compilation: no rate follows from it.
            self._timer = Timer(_FIRST_LINE, _LINES)
            print(self._where(logs), flush=True)
        elif self._timer.is_due():
            # In the first of these lines, compilation is most of the time so far: what follows from
            # it was 37 minutes left, where it was one.
            print(f"{self._where(logs)}; {self._rate(estimates=not self._is_early)}", flush=True)
            self._is_early = False

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        print(f"{self._where(logs)}\n  {self._rate()}{_skipped(logs)}", flush=True)

    def _where(self, logs: Logs) -> str:
        figures = figures_of(logs or {}, self._weights)
        shown = [
            f"{name} {value:.4f}"
            for name, value in figures.items()
            if name not in ("loss", "val_loss")
        ]
        where = f"step {self._pace.step:,} of {self._steps:,}"
        return f"{where}: {', '.join(shown)}" if self._between else where

    def _rate(self, estimates: bool = True) -> str:
        rate = self._speed(self._pace.sequences_per_second)
        left = duration(self._pace.seconds_left(self._steps))
        return f"{rate}; {left} left" if estimates else rate
