"""Whether a model learns from packed records what it learns from others, and how soon.

`python -m benchmarks.learning RECORDS PACKED --output DIR` prints a table and draws
DIR/learning.png. PACKED are RECORDS after `kbert pack`, or made with `--pack`: the same pairs.

A model of size tiny learns from each, with every seed. An update of packed rows has as many pairs
as the others have, on average, and there are as many updates. Both are measured on the same
held-out pairs. Runs take turns, seed by seed.

Everything is kept in DIR. Started again with the same arguments, it goes on where it was stopped,
and a finished one prints its table at once."""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import statistics

import kbert
import tfrecords
from benchmarks.records import table
from benchmarks.training import processor
from kbert.run.progress import pairs_in_a_row

FIGURES = ("mlm_loss", "nsp_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning from packed records and from others.")
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("packed", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32, help="Pairs in an update.")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}", flush=True)

    # Train, seed by seed.
    forms = {"one pair in a row": arguments.records, "packed": arguments.packed}
    curves: dict[str, list[list[dict[str, float]]]] = {name: [] for name in forms}
    for seed, (name, records) in itertools.product(range(arguments.seeds), forms.items()):
        directory = arguments.output / f"{seed}-{records.name}"
        curves[name].append(trained(records, directory, seed, arguments))

    # The losses at the end, over the seeds, and the time of all updates.
    rows: list[tuple[object, ...]] = [("records", "rows in an update", *FIGURES, "training")]
    for name, records in forms.items():
        ends = [[row[f"val_{figure}"] for row in runs] for figure, runs in _last(curves[name])]
        seconds = [run[-1]["seconds"] for run in curves[name]]
        rows.append(
            (
                name,
                rows_in_an_update(records, arguments.batch_size),
                *(f"{statistics.mean(end):.4f} ± {statistics.stdev(end):.4f}" for end in ends),
                f"{statistics.median(seconds):.0f} s",
            )
        )
    table(rows)
    draw(curves, arguments.output / "learning.png")


def _last(runs: list[list[dict[str, float]]]) -> list[tuple[str, list[dict[str, float]]]]:
    return [(figure, [run[-1] for run in runs]) for figure in FIGURES]


def rows_in_an_update(records: pathlib.Path, pairs: int) -> int:
    """The rows that have so many pairs on average."""
    return max(1, round(pairs / pairs_in_a_row(tfrecords.load_manifest(records))))


def trained(
    records: pathlib.Path, directory: pathlib.Path, seed: int, arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """The evaluations of a run, which is trained if it is not there, with the seconds that training
    and evaluating took until then."""
    settings = kbert.PretrainingConfig(
        steps=arguments.steps,
        batch_size=rows_in_an_update(records, arguments.batch_size),
        learning_rate=arguments.learning_rate,
        evaluate_every=max(1, arguments.steps // 10),
        evaluate_steps=1_000_000,  # the whole split
        seed=seed,
    )
    kbert.pretrain(records, directory, bert="tiny", pretraining=settings, verbose=2)
    rows = [row for row in kbert.load_run(directory).history.rows() if "val_mlm_loss" in row]
    seconds = itertools.accumulate(row["seconds"] for row in rows)
    return [row | {"seconds": until} for row, until in zip(rows, seconds, strict=True)]


def draw(curves: dict[str, list[list[dict[str, float]]]], path: pathlib.Path) -> None:
    """Held-out losses over updates and over seconds, a line for each seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), sharey="row")
    titles = {"mlm_loss": "masked tokens", "nsp_loss": "next sentence"}
    for row, name in zip(axes, FIGURES, strict=True):
        for axis, by in zip(row, ("step", "seconds"), strict=True):
            for color, (form, runs) in zip(("tab:gray", "tab:blue"), curves.items(), strict=True):
                for number, run in enumerate(runs):
                    axis.plot(
                        [one[by] for one in run],
                        [one[f"val_{name}"] for one in run],
                        color=color,
                        label=form if not number else None,
                        linewidth=1.2,
                    )
            axis.set_xlabel("updates" if by == "step" else "seconds of training and evaluation")
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{titles[name]}: loss (nats)")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
