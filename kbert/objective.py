"""What `compile` receives: the two losses, their weights, the metrics and the optimizer."""

import keras

from kbert.optimizers import BertAdamW, WarmupLinearDecay


def pretraining_objective(
    *,
    learning_rate=1e-4,
    steps,
    warmup_steps=None,
    mlm_weight=1.0,
    nsp_weight=1.0,
    weight_decay=0.01,
    next_sentence=True,
):
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
        "optimizer": BertAdamW(WarmupLinearDecay(learning_rate, steps, warmup_steps), weight_decay=weight_decay),
        "loss": {name: _loss() for name in weights},
        "loss_weights": weights,
        "weighted_metrics": {name: _metrics(prefix) for name in weights},
    }


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def _metrics(prefix):
    return [
        keras.metrics.SparseCategoricalAccuracy(name=f"{prefix}accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(name=f"{prefix}cross_entropy", from_logits=True),
    ]
