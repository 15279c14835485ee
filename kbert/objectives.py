"""What a model is pretrained to do, stated once: the losses, the figures reported about them, and
the baselines beside them.

Compilation, progress lines, history.csv, curves, TensorBoard, evaluation and model cards loop over
this table. It needs neither Keras nor NumPy, so that a picture or a card can be made without them.

A new objective is one more entry of `OBJECTIVES`, a head of the same name in
`kbert.model.heads.HEADS`, and labels and weights of the same name in the batches. It is `optional`,
so that models and runs from before it existed stay what they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping
from typing import Any

from tfrecords.errors import InputError
from tfrecords.schema import PAIRS


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is more than a float holds.

    >>> perplexity(0.0), perplexity(1e4)
    (1.0, inf)
    """
    return math.exp(loss) if loss < 700 else math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that is reported about an objective."""

    name: str
    """What follows the objective's name in history.csv and results.json: "loss" of "mlm_loss"."""
    metric: str
    """What follows it in Keras' logs, a key of `kbert.step.objective.METRICS`: "cross_entropy"."""
    title: str
    """For curves and tables, after the objective's title."""
    form: str
    """The format specification of its values in tables, such as ".3f"."""
    baseline: str | None = None
    """The field of Baselines that it is compared with."""
    baseline_title: str = ""
    """What that baseline is, in words."""
    derived: Callable[[float], float] | None = None
    """What makes this figure of the metric's value and of the baseline's, where it is not the
    value itself. Derived figures are in the results and not in the history."""

    def value(self, measured: float) -> float:
        """The figure of a metric's or a baseline's value."""
        return measured if self.derived is None else self.derived(measured)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """One thing that a model is trained to predict."""

    name: str
    """Of the model's output and its last layer, and of the labels and weights in a batch."""
    weight_field: str
    """The field of PretrainingConfig with the weight of its loss in the total."""
    titles: Mapping[str, str]
    """What it is called in curves and tables, by the kind of pairs of the records (`pairs` of
    RecordsConfig); it is not part of training on records of other kinds."""
    descriptions: Mapping[str, str]
    """What is predicted, in the words of a model card, by the kind of pairs."""
    head: str
    """The name of its head in messages: what a model without it lacks."""
    layers: tuple[str, ...]
    """The layers of the head."""
    num_classes: int | None
    """How many labels there are; None is the size of the vocabulary."""
    reads_cls: bool
    """Whether the head reads the state of [CLS], and not those of the masked positions."""
    figures: tuple[Figure, ...]
    optional: bool = False
    """Whether a model has the head only if the loss has weight. The default weight is then 0; the
    heads that are not optional are there whatever their weights are."""

    @property
    def history(self) -> tuple[Figure, ...]:
        """The figures that are columns of history.csv and have curves."""
        return tuple(figure for figure in self.figures if figure.derived is None)

    def key(self, figure: Figure) -> str:
        """The name of a figure in history.csv and results.json.

        >>> MLM.key(MLM.figures[0]), MLM.metric(MLM.figures[0])
        ('mlm_loss', 'mlm_cross_entropy')
        """
        return f"{self.name}_{figure.name}"

    def metric(self, figure: Figure) -> str:
        """The name in Keras' logs of the metric that a figure is made of."""
        return f"{self.name}_{figure.metric}"

    def title(self, figure: Figure, pairs: str) -> str:
        """The title of a figure.

        >>> NSP.title(NSP.figures[1], "sop")
        'sentence order: accuracy'
        """
        return f"{self.titles[pairs]}: {figure.title}"


def _loss_and_accuracy(
    baseline: str, loss_baseline: str, accuracy_baseline: str
) -> tuple[Figure, Figure]:
    """The two figures of a classification; `baseline` names the fields of Baselines."""
    return (
        Figure(
            name="loss",
            metric="cross_entropy",
            title="loss (nats)",
            form=".3f",
            baseline=f"{baseline}_loss",
            baseline_title=loss_baseline,
        ),
        Figure(
            name="accuracy",
            metric="accuracy",
            title="accuracy",
            form=".1%",
            baseline=f"{baseline}_accuracy",
            baseline_title=accuracy_baseline,
        ),
    )


_MLM_LOSS, _MLM_ACCURACY = _loss_and_accuracy("unigram", "unigram", "most frequent token")
_MLM_PERPLEXITY = dataclasses.replace(
    _MLM_LOSS, name="perplexity", title="perplexity", form=",.1f", derived=perplexity
)

MLM = Objective(
    name="mlm",
    weight_field="mlm_weight",
    titles=dict.fromkeys(PAIRS, "masked tokens"),
    descriptions=dict.fromkeys(PAIRS, "masked words"),
    head="masked language modelling",
    layers=("mlm_transform", "mlm"),
    num_classes=None,
    reads_cls=False,
    figures=(_MLM_LOSS, _MLM_PERPLEXITY, _MLM_ACCURACY),
)
"""Masked language modelling (Devlin et al. 2019, section 3.1)."""

NSP = Objective(
    name="nsp",
    weight_field="nsp_weight",
    titles={"nsp": "next sentence", "sop": "sentence order"},
    descriptions={
        "nsp": "next sentences\n(label 0: the second text follows the first, 1: it is random)",
        "sop": "sentence order\n(label 0: the two texts are in order, 1: they are swapped)",
    },
    head="next sentence prediction",
    layers=("pooler", "nsp"),
    num_classes=2,
    reads_cls=True,
    figures=_loss_and_accuracy("majority", "label frequencies", "majority label"),
)
"""Next sentence prediction (Devlin et al. 2019, section 3.1), and with the same head sentence order
prediction (Lan et al. 2020, section 3.1)."""

OBJECTIVES = (MLM, NSP)
"""All objectives, in the order of the model's heads and of every report."""


def objectives_of(pairs: str, optional: Container[str] = ()) -> tuple[Objective, ...]:
    """The objectives of training on records of this kind of pairs.

    >>> [objective.name for objective in objectives_of("none")]
    ['mlm']

    Args:
        pairs: Among `schema.PAIRS`.
        optional: Names, of which those of optional objectives count: what `names_with_weight` and
            `names_with_figures` give, the outputs of a model, or the layers of weights.

    Raises:
        InputError: There is no such kind.
    """
    if pairs not in PAIRS:
        raise InputError(f"Expected pairs among {', '.join(PAIRS)}. Received: pairs={pairs!r}.")
    return tuple(
        objective
        for objective in OBJECTIVES
        if pairs in objective.titles and (not objective.optional or objective.name in optional)
    )


def names_with_weight(weights: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the objectives whose losses have weight.

    >>> names_with_weight({"mlm_weight": 1.0, "nsp_weight": 0.0, "steps": 1000})
    ('mlm',)

    Args:
        weights: The fields of a PretrainingConfig, or those with weights alone.
    """
    return tuple(one.name for one in OBJECTIVES if weights.get(one.weight_field))


def names_with_figures(figures: Container[str]) -> tuple[str, ...]:
    """The names of the objectives with figures among these, which are named as in history.csv.

    >>> names_with_figures({"step": 100, "mlm_loss": 6.5})
    ('mlm',)
    """
    return tuple(
        one.name for one in OBJECTIVES if any(one.key(figure) in figures for figure in one.figures)
    )


def objectives_in(names: Container[str]) -> tuple[Objective, ...]:
    """The objectives whose names are among these, such as a model's outputs or a batch's labels."""
    return tuple(objective for objective in OBJECTIVES if objective.name in names)


def pairs_of_outputs(outputs: Container[str]) -> str:
    """The kind of pairs that a model with these outputs is for: "nsp", or "none" if it has no head
    for pairs. A model for "sop" is the same as one for "nsp": only the labels differ."""
    return "nsp" if NSP.name in outputs else "none"
