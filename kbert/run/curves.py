"""The curves of a run as a picture."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kbert.objectives import names_with_figures, objectives_of

if TYPE_CHECKING:
    from kbert.run.baseline import Baselines


def draw_curves(
    rows: Sequence[Mapping[str, float]],
    pairs: str,
    baselines: Baselines | None,
    path: pathlib.Path,
) -> None:
    """Draws the figures of every objective over the steps, of training and validation, with the
    baselines as horizontal lines.

    Args:
        rows: The rows of history.csv.
        pairs: The kind of pairs of the records, which with the rows decides on the objectives.
        baselines: None where there is no validation split.
        path: The picture to write, PNG.

    Raises:
        ImportError: matplotlib (the extra "plots") is not installed.
    """
    # Not pyplot, which keeps every figure that it has made, and looks for a display.
    from matplotlib.figure import Figure

    # A row of panels for each objective.
    objectives = objectives_of(pairs, names_with_figures(set().union(*rows)))
    columns = max(len(objective.history) for objective in objectives)
    picture = Figure(figsize=(10, 3.25 * len(objectives)), layout="constrained")
    grid = picture.subplots(len(objectives), columns, squeeze=False)
    for objective, row_of_axes in zip(objectives, grid, strict=True):
        for figure, axes in zip(objective.history, row_of_axes, strict=False):
            key = objective.key(figure)
            # Not every row has every figure: those between evaluations have none of validation.
            for prefix, label, style in (("", "train", "-"), ("val_", "validation", "-o")):
                points = [(row["step"], row[prefix + key]) for row in rows if prefix + key in row]
                if points:
                    axes.plot(*zip(*points, strict=True), style, label=label, markersize=3)
            if baselines is not None and figure.baseline is not None:
                level = getattr(baselines, figure.baseline)
                axes.axhline(level, color="grey", linestyle=":", label=figure.baseline_title)
            axes.set_title(objective.title(figure, pairs), fontsize=10)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    picture.savefig(path, dpi=110, format="png")
    # A picture leaves 6 MB in reference cycles, which Python seldom collects among the many objects
    # of TensorFlow.
    del picture, grid, row_of_axes, axes
    gc.collect()
