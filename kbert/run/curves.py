"""The curves of a run as a picture."""

from kbert.objectives import NSP


def draw_curves(rows, pairs, baselines, path):
    """Draws losses and accuracies of every objective over the steps, train and held-out, with the
    baselines as lines.

    Args:
        rows: The rows of history.csv.
        pairs: The kind of pairs of the records; there is nothing on sentence pairs with "none".
        baselines: Baselines, or None where there is no held-out split.
        path: The picture to write, PNG.

    Raises:
        ImportError: matplotlib (the extra "plots") is not installed.
    """
    from matplotlib.figure import Figure

    panels = [
        ("mlm_loss", "masked tokens: loss (nats)", "unigram_loss", "unigram"),
        ("mlm_accuracy", "masked tokens: accuracy", "unigram_accuracy", "most frequent token"),
    ]
    if pairs in NSP.titles:
        panels += [
            ("nsp_loss", f"{NSP.titles[pairs]}: loss (nats)", "majority_loss", "label frequencies"),
            (
                "nsp_accuracy",
                f"{NSP.titles[pairs]}: accuracy",
                "majority_accuracy",
                "majority label",
            ),
        ]
    num_rows = len(panels) // 2
    figure = Figure(figsize=(10, 3.25 * num_rows), layout="constrained")
    for axes, (key, title, baseline, baseline_name) in zip(
        figure.subplots(num_rows, 2).flat, panels, strict=True
    ):
        for prefix, label, style in (("", "train", "-"), ("val_", "held-out", "-o")):
            points = [(row["step"], row[prefix + key]) for row in rows if prefix + key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=3)
        if baselines is not None:
            axes.axhline(
                getattr(baselines, baseline), color="grey", linestyle=":", label=baseline_name
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")
