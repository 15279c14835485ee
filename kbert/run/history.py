"""The figures of a run over its steps: history.csv, and the callback that writes it."""

from __future__ import annotations

import csv
import math
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras

from kbert.objectives import objectives_in
from kbert.run.curves import draw_curves
from kbert.run.pace import Logs, Pace, Timer, learning_rate_of
from kbert.step.loss_scale import LossScale
from tfrecords import InputError
from tfrecords.files import atomic_path

if TYPE_CHECKING:
    from kbert.run.baseline import Baselines

ROWS_EVERY = 60.0
"""Seconds between rows where no evaluation is due."""


class HistoryFile:
    """history.csv: a row for every evaluation, and rows of training figures alone between them.

    A row has a "step", and columns such as mlm_loss, and val_mlm_loss where the step was
    evaluated."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, float]]:
        """The rows as numbers, oldest first; what is empty in a row is left out.

        Raises:
            InputError: The file is damaged.
        """
        if not self.path.exists():
            return []
        rows = []
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                for texts in reader:
                    row = {name: float(text) for name, text in texts.items() if text}
                    rows.append(row | {"step": int(row["step"])})
            except (ValueError, TypeError, KeyError, csv.Error) as error:
                # Of the reader below: a DictReader does not count a line that ends too early.
                line = max(1, reader.reader.line_num)
                raise InputError(
                    f"{self.path}:{line}: expected numbers under the names of "
                    f"the first line, with a step. Received: {error!r}; correct that file. "
                    "Without it the run loses its figures, and with --patience its best step."
                ) from None
        return rows

    def append(self, row: Mapping[str, float]) -> None:
        """Adds a row, in place of any of the same or a later step: those were of updates that are
        made once more after a resumption."""
        rows = [*(there for there in self.rows() if there["step"] < row["step"]), dict(row)]
        columns = dict.fromkeys(name for there in rows for name in there)  # not every row has all
        with (
            atomic_path(self.path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def validation_losses(self, step: int) -> dict[int, float]:
        """The losses of the evaluations up to a step, by their steps, oldest first."""
        return {
            int(row["step"]): row["val_loss"]
            for row in self.rows()
            if "val_loss" in row and row["step"] <= step
        }


class History(keras.callbacks.Callback):
    """Writes history.csv and draws curves.png: the only figures that outlive the process.

    Args:
        file: The HistoryFile.
        pace: The Pace of the run.
        weights: The weights of the objectives' losses, by objective.
        pairs: The kind of pairs of the records.
        curves: The picture to draw.
        baselines: For the picture; None where there is no validation split.
    """

    def __init__(
        self,
        file: HistoryFile,
        pace: Pace,
        weights: dict[str, float],
        *,
        pairs: str,
        curves: pathlib.Path,
        baselines: Baselines | None,
    ) -> None:
        super().__init__()
        self._file = file
        self._pace = pace
        self._weights = weights
        self._pairs = pairs
        self._curves = curves
        self._baselines = baselines
        self._timer = Timer(ROWS_EVERY, ROWS_EVERY)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._timer = Timer(ROWS_EVERY, ROWS_EVERY)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # A loss that is not finite ends the run; it has no place in the history.
        if self._timer.is_due() and math.isfinite((logs or {}).get("loss", math.nan)):
            self._keep(self._row(logs), draw=False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._keep(self._row(logs))

    def add_evaluation(self, logs: Mapping[str, Any]) -> None:
        """Enters an evaluation that was due at the step where training starts."""
        self._keep({"step": self._pace.step} | figures_of(logs, self._weights))

    def _row(self, logs: Logs) -> dict[str, float]:
        row = {
            "step": self._pace.step,
            "seconds": round(self._pace.seconds, 2),
            "sequences_per_second": round(self._pace.sequences_per_second, 2),
        }
        row |= figures_of(logs or {}, self._weights)
        row["learning_rate"] = float(f"{learning_rate_of(self.model):.6g}")
        row |= {name: float(logs[name]) for name in LossScale.FIGURES if logs and name in logs}
        return row

    def _keep(self, row: Mapping[str, float], draw: bool = True) -> None:
        try:
            self._file.append(row)
            if draw:
                with atomic_path(self._curves) as partial:
                    draw_curves(self._file.rows(), self._pairs, self._baselines, partial)
        except ImportError:
            warnings.warn(
                "No curves.png without matplotlib: pip install '.[plots]' in the clone.",
                stacklevel=2,
            )
        except (OSError, InputError) as error:
            warnings.warn(
                f"Step {self._pace.step}: no history could be written ({error}); training goes on.",
                stacklevel=2,
            )


def figures_of(logs: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """The figures of history.csv among Keras' logs, rounded to six decimals.

    All are exact means over what has weight, since the start or the last evaluation, but for
    "loss", the mean of the batches' losses, and "val_loss", see `validation_loss`.

    >>> figures_of({"loss": 3.0, "mlm_loss": 2.5, "mlm_cross_entropy": 2.75}, {"mlm": 1.0})
    {'loss': 3.0, 'mlm_loss': 2.75}
    """
    figures = {}
    for prefix in ("", "val_"):
        if f"{prefix}loss" in logs:
            figures[f"{prefix}loss"] = float(logs[f"{prefix}loss"])
        for objective in objectives_in(weights):
            for figure in objective.history:
                metric = prefix + objective.metric(figure)
                if metric in logs:
                    figures[prefix + objective.key(figure)] = float(logs[metric])
    if "val_loss" in figures:
        figures["val_loss"] = validation_loss(logs, weights)
    return {name: round(value, 6) for name, value in figures.items()}


def validation_loss(logs: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    """The weighted sum of the objectives' exact losses in an evaluation.

    Keras' own val_loss is a mean over batches, in which the last one, with fewer records than the
    others, counts as much as they do."""
    return sum(
        weight * float(logs[f"val_{name}_cross_entropy"]) for name, weight in weights.items()
    )
