"""What `compile` receives: losses, their weights, metrics and the optimizer; and the divisor of a
loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kbert.config import PretrainingConfig, default_warmup_steps
from kbert.objectives import Objective, names_with_weight, objectives_of, pairs_of_outputs
from kbert.step.optimizers import OPTIMIZERS, WarmupDecay
from tfrecords import InputError


def pretraining_objective(
    *,
    learning_rate: float = PretrainingConfig.learning_rate,
    steps: int,
    warmup_steps: int | None = None,
    mlm_weight: float = PretrainingConfig.mlm_weight,
    nsp_weight: float = PretrainingConfig.nsp_weight,
    optimizer: str = PretrainingConfig.optimizer,
    weight_decay: float = PretrainingConfig.weight_decay,
    decay_power: float = PretrainingConfig.decay_power,
    pairs: str = "nsp",
) -> dict[str, Any]:
    """The arguments of `compile` for a pretraining model.

    The losses are Keras' plain means over all slots. In the training step of a `Pretrainer` they
    become means over what has weight (see `balanced_weights`): an unused slot for a masked token
    counts neither above nor below the fraction line.

    Args:
        learning_rate: The peak.
        steps: The number of updates, over which the rate falls to 0.
        warmup_steps: The updates over which the rate rises; None takes `default_warmup_steps`.
        mlm_weight: The weight of the masked language modelling loss in the total.
        nsp_weight: The weight of the next sentence prediction loss in the total.
        optimizer: "adamw" or "lamb"; see `optimizers`.
        weight_decay: As for the optimizer.
        decay_power: The power of the curve on which the rate falls; 1 is a line.
        pairs: As for `pretraining_model`; with "none" there is no loss that nsp_weight weighs.

    Returns:
        A dict for `model.compile(**...)`. The metrics, exact means over all that has weight, are
        mlm_accuracy and mlm_cross_entropy (in nats), nsp_accuracy and nsp_cross_entropy.

    Example:

    >>> arguments = pretraining_objective(steps=1000, pairs="none")
    >>> arguments["loss_weights"], arguments["optimizer"].name
    ({'mlm': 1.0}, 'bert_adamw')
    """
    if warmup_steps is None:
        warmup_steps = default_warmup_steps(steps)
    weights = {"mlm_weight": mlm_weight, "nsp_weight": nsp_weight}
    objectives = objectives_of(pairs, names_with_weight(weights))
    return {
        "optimizer": OPTIMIZERS[optimizer](
            WarmupDecay(learning_rate, steps, warmup_steps, decay_power), weight_decay=weight_decay
        ),
        "loss": {one.name: CrossEntropy() for one in objectives},
        "loss_weights": {one.name: weights[one.weight_field] for one in objectives},
        "weighted_metrics": {one.name: _metrics(one, len(objectives)) for one in objectives},
    }


def compile_model(model: keras.Model, pretraining: PretrainingConfig, accumulate: int = 1) -> None:
    """Compiles a new model as a configuration says; `accumulate` as for `pretrain`."""
    model.compile(
        **pretraining_objective(
            learning_rate=pretraining.learning_rate,
            steps=pretraining.steps,
            warmup_steps=pretraining.warmup_steps,
            optimizer=pretraining.optimizer,
            weight_decay=pretraining.weight_decay,
            decay_power=pretraining.decay_power,
            mlm_weight=pretraining.mlm_weight,
            nsp_weight=pretraining.nsp_weight,
            pairs=pairs_of_outputs(model.output),
        ),
        accumulate=accumulate,
    )


def labels_of_outputs(y: Any, sample_weight: Any, outputs: Any) -> tuple[Any, Any]:
    """(y, sample_weight) without the labels, and the weights of those labels, whose names are none
    of the outputs'.

    Batches have the labels of all objectives, and a model the heads of some. A weight without a
    label stays, and is refused by Keras: its name may be a mistake.

    >>> labels_of_outputs({"mlm": 1, "nsp": 2}, {"mlm": 3, "nsp": 4}, {"mlm": 5})
    ({'mlm': 1}, {'mlm': 3})
    """
    if not isinstance(y, dict) or not isinstance(outputs, dict):
        return y, sample_weight
    others = y.keys() - outputs.keys()

    def of_outputs(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in others}

    return of_outputs(y), of_outputs(sample_weight)


@keras.saving.register_keras_serializable("kbert")
def cross_entropies(labels: Any, logits: Any) -> Any:
    """The cross-entropy of each label, in nats: -log softmax(logits)[label].

    Written so that XLA makes as few passes over the logits as it can, and merges what loss and
    metric have in common; with Keras' own loss and metrics it is computed twice [a tenth of a step
    of mini on two cores, 2026-11].

    Args:
        labels: int [...], or [..., 1] as files and tables often give them.
        logits: float32 [..., C].

    Returns:
        float32 [...].

    Raises:
        InputError: Labels and logits have shapes that do not belong together.
    """
    labels = ops.cast(_aligned(labels, logits, "labels"), "int32")
    largest = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    sums = ops.sum(ops.exp(logits - largest), axis=-1)
    return ops.log(sums) - (_label_logits(labels, logits) - ops.squeeze(largest, -1))


@keras.saving.register_keras_serializable("kbert")
def hits(labels: Any, logits: Any) -> Any:
    """1.0 where the label has the largest logit, the first among equal ones, else 0.0; shapes and
    errors as of `cross_entropies`."""
    labels = ops.cast(_aligned(labels, logits, "labels"), "int32")
    # One pass, with a byte for each logit; ops.argmax takes eight times as long as two passes under
    # XLA on a CPU.
    label_logits = _label_logits(labels, logits)[..., None]
    is_not_before = ops.arange(logits.shape[-1], dtype="int32") >= labels[..., None]
    is_less = ops.logical_or(
        logits < label_logits, ops.logical_and(logits == label_logits, is_not_before)
    )
    is_hit = ops.logical_and(ops.all(is_less, axis=-1), _is_class(labels, logits))
    return ops.cast(is_hit, "float32")


def _label_logits(labels: Any, logits: Any) -> Any:
    """The logits of the labels, int32 [...]: float [...]. 0 where a label is no class, as some
    tools have -100 in slots that are not in use."""

    # The gradient of a gather would be scattered into zeros, an array of its own.
    @ops.custom_gradient
    def of_labels(logits):
        def gradient(given):
            is_label = ops.arange(logits.shape[-1], dtype="int32") == labels[..., None]
            return ops.where(is_label, given[..., None], 0.0)

        classes = ops.clip(labels, 0, logits.shape[-1] - 1)
        return ops.take_along_axis(logits, classes[..., None], axis=-1)[..., 0], gradient

    return ops.where(_is_class(labels, logits), of_labels(logits), 0.0)


def _is_class(labels, logits):
    return ops.logical_and(labels >= 0, labels < logits.shape[-1])


def _aligned(values, logits, what):
    """Labels or weights in the shape of one value for each row of logits.

    A last axis of one is dropped: broadcasting would turn labels [B, 1] beside logits [B, C] into B
    x B pairs without a word, and a head trained on those learns nothing.

        labels [B, 1], logits [B, 2] -> [B]
        labels [B, P], logits [B, P, V] -> [B, P]
    """
    expected, received = tuple(logits.shape[:-1]), tuple(values.shape)
    if len(received) == len(expected) + 1 and received[-1] == 1:
        values, received = ops.squeeze(values, -1), received[:-1]
    # A size that is not known yet is None.
    agree = len(received) == len(expected) and all(
        here is None or there is None or here == there
        for here, there in zip(received, expected, strict=True)
    )
    if not agree:
        raise InputError(
            f"Expected {what} of shape {expected}, one for each row of the logits "
            f"{tuple(logits.shape)}. Received: {tuple(values.shape)}."
        )
    return values


def _aligned_weights(sample_weight, logits):
    """The same for weights, which may be absent or one for everything."""
    if sample_weight is None or not len(sample_weight.shape):
        return sample_weight
    return _aligned(sample_weight, logits, "weights")


@keras.saving.register_keras_serializable("kbert")
class CrossEntropy(keras.losses.Loss):
    """The loss of `cross_entropies`. Weights have the shape of the labels."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().__call__(y_true, y_pred, _aligned_weights(sample_weight, y_pred))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return cross_entropies(y_true, y_pred)


@keras.saving.register_keras_serializable("kbert")
class WeightedMean(keras.metrics.MeanMetricWrapper):
    """The mean of a function of labels and logits over all that has weight. Weights have the shape
    of the labels."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # As Keras casts those of a loss: what both compute, XLA then finds to be the same.
        y_true = ops.cast(y_true, "float32")
        return super().update_state(y_true, y_pred, _aligned_weights(sample_weight, y_pred))


METRICS = {"accuracy": hits, "cross_entropy": cross_entropies}
"""The functions of labels and logits that metrics are weighted means of, by their names in Keras'
logs."""


def _metrics(objective: Objective, num_outputs: int) -> list[keras.metrics.Metric]:
    """The metrics that the figures of an objective are made of."""
    # Keras 3 puts the name of the output before that of a metric, but not where there is a single
    # output (keras/src/trainers/compile_utils.py, CompileMetrics.result, Keras 3.15).
    prefix = "" if num_outputs > 1 else f"{objective.name}_"
    wanted = {figure.metric for figure in objective.figures}
    return [
        WeightedMean(function, name=f"{prefix}{name}")
        for name, function in METRICS.items()
        if name in wanted
    ]


def weight_sums(sample_weight: Any) -> Any:
    """The sum of each array of weights: float32 [number of arrays], or None where there are none.

    Args:
        sample_weight: An array, a dict, list or tuple of arrays by output, or None; an array among
            several may be None too.
    """
    weights = [values for values in keras.tree.flatten(sample_weight) if values is not None]
    if not weights:
        return None
    return ops.stack([ops.sum(ops.cast(values, "float32")) for values in weights])


def balanced_weights(sample_weight: Any, sums: Any = None, replicas: int = 1) -> Any:
    """Scales weights so that a mean over all slots is a mean over what has weight in the whole
    batch.

    The whole batch is that of all replicas. With each replica dividing by its own number of masked
    tokens, which differ, the same batch would give another loss on two devices than on one.

        weights [[1, 1, 0], [1, 0, 0]]: 6 slots, of weight 3 -> [[2, 2, 0], [2, 0, 0]]

    Args:
        sample_weight: As for `weight_sums`, of any shapes.
        sums: What `weight_sums` gives, summed over the replicas; None takes those of this one.
        replicas: How many replicas have a part of the batch.

    Returns:
        The same with every array scaled by the number of its slots over the sum of its weights;
        zeros where that is zero.
    """
    sums = weight_sums(sample_weight) if sums is None else sums
    if sums is None:
        return sample_weight
    balanced, number = [], 0
    for values in keras.tree.flatten(sample_weight):
        if values is not None:
            slots = ops.cast(ops.size(values) * replicas, "float32")
            values = ops.cast(values, "float32") * ops.divide_no_nan(slots, sums[number])
            number += 1
        balanced.append(values)
    return keras.tree.pack_sequence_as(sample_weight, balanced)
