"""What `compile` receives: the two losses, their weights, the metrics and the optimizer."""

import keras

from kbert.optimizers import BertAdamW, WarmupLinearDecay


def pretraining_objective(*, learning_rate=1e-4, steps, warmup_steps=None, mlm_weight=1.0, nsp_weight=1.0, weight_decay=0.01):
    """The arguments of `compile` for a pretraining model.

    The losses are means over what has weight: an unused slot for a masked token counts neither above nor below the fraction
    line. (Keras' default divides by all slots and so weakens the masked language modelling loss against the other.)

    Args:
        learning_rate: The peak.
        steps: The number of updates, over which the rate falls to 0.
        warmup_steps: The updates over which the rate rises; None is 10,000, but at most a tenth of the steps.
        mlm_weight: The weight of the masked language modelling loss in the total.
        nsp_weight: The weight of the next sentence prediction loss in the total.
        weight_decay: As for BertAdamW.

    Returns:
        A dict for `model.compile(**...)`. The metrics, exact means over all that has weight, are named accuracy and
        cross_entropy (in nats) for each output.
    """
    if warmup_steps is None:
        warmup_steps = min(10_000, steps // 10)
    return {
        "optimizer": BertAdamW(WarmupLinearDecay(learning_rate, steps, warmup_steps), weight_decay=weight_decay),
        "loss": {"mlm": _loss(), "nsp": _loss()},
        "loss_weights": {"mlm": mlm_weight, "nsp": nsp_weight},
        "weighted_metrics": {"mlm": _metrics(), "nsp": _metrics()},
    }


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def _metrics():
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
    ]
