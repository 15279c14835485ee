"""What `compile` receives: the two losses, their weights, the metrics and the optimizer; and what a loss is divided by."""

import keras
from keras import ops

from kbert.optimizers import OPTIMIZERS, WarmupDecay


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
    next_sentence=True,
):
    """The arguments of `compile` for a pretraining model.

    The losses are Keras' plain means over all slots. In the training step of a `Pretrainer` they become means over what has
    weight (see `balanced_weights`): an unused slot for a masked token counts neither above nor below the fraction line.

    Args:
        learning_rate: The peak.
        steps: The number of updates, over which the rate falls to 0.
        warmup_steps: The updates over which the rate rises; None is 10,000, but at most a tenth of the steps.
        mlm_weight: The weight of the masked language modelling loss in the total.
        nsp_weight: The weight of the next sentence prediction loss in the total.
        optimizer: "adamw" or "lamb"; see `optimizers`.
        weight_decay: As for the optimizer.
        decay_power: The power of the curve on which the rate falls; 1 is a line.
        next_sentence: As for `pretraining_model`; without it there is no nsp_weight.

    Returns:
        A dict for `model.compile(**...)`. The metrics, exact means over all that has weight, are mlm_accuracy and
        mlm_cross_entropy (in nats), nsp_accuracy and nsp_cross_entropy.
    """
    if warmup_steps is None:
        warmup_steps = min(10_000, steps // 10)
    weights = {"mlm": mlm_weight} | ({"nsp": nsp_weight} if next_sentence else {})
    # Keras 3 puts the name of the output before that of a metric, but not where there is a single output.
    prefix = "" if next_sentence else "mlm_"
    return {
        "optimizer": OPTIMIZERS[optimizer](
            WarmupDecay(learning_rate, steps, warmup_steps, decay_power), weight_decay=weight_decay
        ),
        "loss": {name: _loss() for name in weights},
        "loss_weights": weights,
        "weighted_metrics": {name: _metrics(prefix) for name in weights},
    }


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _metrics(prefix):
    return [
        keras.metrics.SparseCategoricalAccuracy(name=f"{prefix}accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(name=f"{prefix}cross_entropy", from_logits=True),
    ]


def balanced_weights(sample_weight, replicas=1, all_reduce=lambda sums: sums):
    """Scales weights so that a mean over all slots is a mean over what has weight in the whole batch.

    The whole batch is that of all replicas. With each replica dividing by its own number of masked tokens, which differ, the
    same batch would give another loss on two devices than on one.

        weights [[1, 1, 0], [1, 0, 0]]: 6 slots, of weight 3 -> [[2, 2, 0], [2, 0, 0]]

    Args:
        sample_weight: A dict of float32 tensors by output, of any shapes, or None.
        replicas: How many replicas have a part of the batch, all of the same size.
        all_reduce: Sums a vector over the replicas.

    Returns:
        The same with every tensor scaled by the number of its slots over the sum of its weights; zeros where that is zero.
    """
    if sample_weight is None:
        return None
    weights = {name: ops.cast(values, "float32") for name, values in sample_weight.items()}
    sums = all_reduce(ops.stack([ops.sum(values) for values in weights.values()]))
    return {
        name: values * ops.divide_no_nan(ops.cast(ops.size(values) * replicas, "float32"), sums[number])
        for number, (name, values) in enumerate(weights.items())
    }
