"""What `compile` receives: the two losses, their weights, the metrics and the optimizer; and what a
loss is divided by."""

import keras
from keras import ops

from kbert.objectives import Objective, objectives_of, pairs_of_outputs
from kbert.step.optimizers import OPTIMIZERS, WarmupDecay


def pretraining_objective(
    *,
    learning_rate=1e-4,
    steps,
    warmup_steps=None,
    mlm_weight=1.0,
    nsp_weight=1.0,
    optimizer="adamw",
    weight_decay=0.01,
    decay_power=1.0,
    pairs="nsp",
):
    """The arguments of `compile` for a pretraining model.

    The losses are Keras' plain means over all slots. In the training step of a `Pretrainer` they
    become means over what has weight (see `balanced_weights`): an unused slot for a masked token
    counts neither above nor below the fraction line.

    Args:
        learning_rate: The peak.
        steps: The number of updates, over which the rate falls to 0.
        warmup_steps: The updates over which the rate rises; None is 10,000, but at most a tenth of
            the steps.
        mlm_weight: The weight of the masked language modelling loss in the total.
        nsp_weight: The weight of the next sentence prediction loss in the total.
        optimizer: "adamw" or "lamb"; see `optimizers`.
        weight_decay: As for the optimizer.
        decay_power: The power of the curve on which the rate falls; 1 is a line.
        pairs: As for `pretraining_model`; "none" has no use for nsp_weight.

    Returns:
        A dict for `model.compile(**...)`. The metrics, exact means over all that has weight, are
        mlm_accuracy and mlm_cross_entropy (in nats), nsp_accuracy and nsp_cross_entropy.
    """
    if warmup_steps is None:
        warmup_steps = min(10_000, steps // 10)
    weights = {"mlm_weight": mlm_weight, "nsp_weight": nsp_weight}
    objectives = objectives_of(pairs)
    return {
        "optimizer": OPTIMIZERS[optimizer](
            WarmupDecay(learning_rate, steps, warmup_steps, decay_power), weight_decay=weight_decay
        ),
        "loss": {one.name: CrossEntropy() for one in objectives},
        "loss_weights": {one.name: weights[one.weight_field] for one in objectives},
        "weighted_metrics": {one.name: _metrics(one, len(objectives)) for one in objectives},
    }


def compile_model(model, pretraining, accumulate=1):
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


@keras.saving.register_keras_serializable("kbert")
def cross_entropies(labels, logits):
    """The cross-entropy of each label, in nats: -log softmax(logits)[label].

    Written so that XLA makes one pass of each step over the logits and merges what loss and metric
    have in common; with Keras' own loss and metrics it is worked out twice [a tenth of a step of
    mini on two cores, 2026-11].

    Args:
        labels: int [...].
        logits: float32 [..., C].

    Returns:
        float32 [...].
    """
    logits = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    label_logits = ops.sum(ops.where(_is_label(labels, logits), logits, 0.0), axis=-1)
    return ops.log(ops.sum(ops.exp(logits), axis=-1)) - label_logits


@keras.saving.register_keras_serializable("kbert")
def hits(labels, logits):
    """1.0 where the label has the largest logit, the first among equal ones, else 0.0; shapes as of
    `cross_entropies`."""
    size = logits.shape[-1]
    largest = ops.equal(logits, ops.max(logits, axis=-1, keepdims=True))
    # ops.argmax takes eight times as long under XLA on a CPU.
    first = ops.min(ops.where(largest, ops.arange(size, dtype="int32"), size), axis=-1)
    return ops.cast(ops.equal(first, ops.cast(labels, "int32")), "float32")


def _is_label(labels, logits):
    return ops.equal(
        ops.arange(logits.shape[-1], dtype="int32"), ops.cast(labels, "int32")[..., None]
    )


@keras.saving.register_keras_serializable("kbert")
class CrossEntropy(keras.losses.Loss):
    """The loss of `cross_entropies`."""

    def call(self, y_true, y_pred):
        return cross_entropies(y_true, y_pred)


METRICS = {"accuracy": hits, "cross_entropy": cross_entropies}
"""The functions of labels and logits that metrics are weighted means of, by their names in Keras'
logs."""


def _metrics(objective: Objective, num_outputs: int) -> list[keras.metrics.Metric]:
    """The metrics that the figures of an objective are made of."""
    # Keras 3 puts the name of the output before that of a metric, but not where there is a single
    # output.
    prefix = "" if num_outputs > 1 else f"{objective.name}_"
    wanted = {figure.metric for figure in objective.figures}
    return [
        keras.metrics.MeanMetricWrapper(function, name=f"{prefix}{name}")
        for name, function in METRICS.items()
        if name in wanted
    ]


def balanced_weights(sample_weight, replicas=1, all_reduce=lambda sums: sums):
    """Scales weights so that a mean over all slots is a mean over what has weight in the whole
    batch.

    The whole batch is that of all replicas. With each replica dividing by its own number of masked
    tokens, which differ, the same batch would give another loss on two devices than on one.

        weights [[1, 1, 0], [1, 0, 0]]: 6 slots, of weight 3 -> [[2, 2, 0], [2, 0, 0]]

    Args:
        sample_weight: A dict of float32 tensors by output, of any shapes, or None.
        replicas: How many replicas have a part of the batch, all of the same size.
        all_reduce: Sums a vector over the replicas.

    Returns:
        The same with every tensor scaled by the number of its slots over the sum of its weights;
        zeros where that is zero.
    """
    if sample_weight is None:
        return None
    weights = {name: ops.cast(values, "float32") for name, values in sample_weight.items()}
    sums = all_reduce(ops.stack([ops.sum(values) for values in weights.values()]))
    return {
        name: values
        * ops.divide_no_nan(ops.cast(ops.size(values) * replicas, "float32"), sums[number])
        for number, (name, values) in enumerate(weights.items())
    }
