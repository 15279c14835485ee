"""BERT's optimizers, AdamW and LAMB, and their learning rate."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from tfrecords import InputError

EXCLUDED_FROM_DECAY = ("bias", "gamma", "beta")
"""Names of the variables that weight decay leaves alone: biases, and the scales and offsets of
normalisation."""


@keras.saving.register_keras_serializable("kbert")
class BertAdamW(keras.optimizers.AdamW):
    """Adam with decoupled weight decay as in google-research/bert (optimization.py,
    AdamWeightDecayOptimizer).

    It departs from Keras' AdamW in two things: Adam's bias correction is off unless asked for; and
    if asked for, epsilon is added to the corrected root, as in algorithm 1 of Kingma and Ba 2015
    and in torch, where Keras adds it before the correction, which makes it up to 32 times as large
    in the first updates. Its defaults are BERT's, with gradients clipped to a global norm of 1 and
    no decay of biases and normalisation.

    Args:
        learning_rate: A float or a schedule.
        weight_decay: The share of a weight, times the learning rate, that an update takes away.
        beta_1: Decay of the mean of gradients.
        beta_2: Decay of the mean of squared gradients.
        epsilon: Added to the root of the mean of squared gradients.
        bias_correction: Whether to scale both means up in the first updates, as Kingma and Ba 2015
            do.
        global_clipnorm: The largest norm of all gradients together; None does not clip.
        **kwargs: As for keras.optimizers.AdamW.

    Raises:
        InputError: `amsgrad` is asked for, which BERT's optimizer does not have.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-4,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        bias_correction: bool = False,
        global_clipnorm: float | None = 1.0,
        name: str = "bert_adamw",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )
        if self.amsgrad:
            raise InputError(
                "Expected an AdamW as BERT's, which has no amsgrad. Received: amsgrad=True; leave "
                "it out."
            )
        self.bias_correction = bias_correction
        self.exclude_from_weight_decay(var_names=list(EXCLUDED_FROM_DECAY))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean, square = _moments(self, gradient, variable, self.bias_correction)
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * mean / (ops.sqrt(square) + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"bias_correction": self.bias_correction}


@keras.saving.register_keras_serializable("kbert")
class BertLamb(keras.optimizers.Optimizer):
    """LAMB (You et al. 2020, algorithm 2), for large batches: Adam whose update of each weight is
    as long as the weight times the learning rate.

    Biases and normalisation get plain Adam: no decay, and no length of their own.
    (keras.optimizers.Lamb knows no such exclusion, and its decay is not part of what is scaled.)

    Args:
        learning_rate: A float or a schedule.
        weight_decay: The share of a weight that is added to its update before that is scaled.
        beta_1: Decay of the mean of gradients.
        beta_2: Decay of the mean of squared gradients.
        epsilon: Added to the root of the mean of squared gradients.
        global_clipnorm: The largest norm of all gradients together; None does not clip.
        **kwargs: As for keras.optimizers.Optimizer.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        global_clipnorm: float | None = 1.0,
        name: str = "bert_lamb",
        **kwargs: Any,
    ) -> None:
        # The decay is not told to Keras, which would apply it apart from the update.
        super().__init__(
            learning_rate=learning_rate, global_clipnorm=global_clipnorm, name=name, **kwargs
        )
        self.decay = weight_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # Adam's update, which is all that biases and normalisation get.
        mean, square = _moments(self, gradient, variable, bias_correction=True)
        update = mean / (ops.sqrt(square) + self.epsilon)
        rate = ops.cast(learning_rate, variable.dtype)
        # Decay is part of what is scaled to the length of the weight; where one of both is zero,
        # at the start of training for instance, the update stays as it is.
        if not any(name in variable.name for name in EXCLUDED_FROM_DECAY):
            update += self.decay * ops.convert_to_tensor(variable)
            length, update_length = (
                ops.sqrt(ops.sum(ops.square(x))) for x in (ops.convert_to_tensor(variable), update)
            )
            both = ops.logical_and(length > 0, update_length > 0)
            rate *= ops.where(both, length / ops.where(both, update_length, 1.0), 1.0)
        self.assign_sub(variable, rate * update)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "weight_decay": self.decay,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _moments(optimizer, gradient, variable, bias_correction):
    """Brings Adam's means of gradients and of their squares up to date, and returns both."""
    # keras/src/optimizers/base_optimizer.py, _get_variable_index, Keras 3.15; the slots are as in
    # keras/src/optimizers/adam.py.
    index = optimizer._get_variable_index(variable)
    gradient = ops.cast(gradient, variable.dtype)
    means = []
    for mean, value, beta in (
        (optimizer._momentums[index], gradient, optimizer.beta_1),
        (optimizer._velocities[index], ops.square(gradient), optimizer.beta_2),
    ):
        optimizer.assign_add(mean, (value - mean) * (1 - beta))
        means.append(ops.convert_to_tensor(mean))
        if bias_correction and beta:
            # 1 - beta**n, of which the plain difference would have four digits of float32 at the
            # beginning.
            means[-1] /= -ops.expm1(
                ops.cast(optimizer.iterations + 1, variable.dtype) * math.log(beta)
            )
    return means


@keras.saving.register_keras_serializable("kbert")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of BERT: linear from 0 to the peak, then on the curve that falls to 0 at
    the last update.

    As in google-research/bert (create_optimizer), the falling curve starts at update 0, so that at
    the end of the warmup the rate is `peak * (1 - warmup_steps / steps) ** power`.

    Args:
        peak: The learning rate that the falling curve starts from.
        steps: The number of updates.
        warmup_steps: The updates of the warmup.
        power: Of the falling curve, a polynomial; 1 is a line.
    """

    def __init__(self, peak: float, steps: int, warmup_steps: int, power: float = 1.0) -> None:
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.power = power

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = step / max(1, self.warmup_steps)
        falling = ops.maximum(1.0 - step / self.steps, 0.0)
        if self.power != 1.0:
            falling = ops.power(falling, self.power)
        return self.peak * ops.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }


OPTIMIZERS = {"adamw": BertAdamW, "lamb": BertLamb}
"""By the names that configurations give them."""
