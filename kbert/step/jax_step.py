"""The training step on JAX, for any keras.distribution. Here is all that reaches into Keras' JAX
trainer, as of Keras 3.15."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import keras

from kbert.step.dropout import dropout_masks_of
from kbert.step.loss_scale import LossScale
from kbert.step.micro_batches import split_batch
from kbert.step.objective import balanced_weights

if TYPE_CHECKING:
    _Model = keras.Model  # what Pretrainer is beside this
else:
    _Model = object


class Step(_Model):
    """The part of Pretrainer that depends on the backend."""

    @staticmethod
    def keras_jit_compile(jit_compile: bool | str) -> bool | str:
        """What Keras is told of XLA: it compiles the whole step."""
        return jit_compile

    def make_step(self) -> None:
        """Nothing is to be made after `compile`."""

    def train_step(self, state: tuple[Any, ...], data: Any) -> tuple[Any, tuple[Any, ...]]:
        """One update: (trainable, non-trainable, optimizer's, metrics' values), batch -> logs, new
        state."""
        trainable, non_trainable, optimizer_values, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # What the parts below need of the whole batch: its divisors, and the rows' own numbers.
        examples = jax.numpy.arange(keras.tree.flatten(x)[0].shape[0], dtype="int32")
        batch = x, y, sample_weight, balanced_weights(sample_weight), examples
        (step,) = _values_of([self.optimizer.iterations], self.optimizer, optimizer_values)
        scaled = [] if self.loss_scale is None else self.loss_scale.variables
        scaling = _values_of(scaled, self.optimizer, optimizer_values)

        def scaled_loss(*arguments, **options):
            loss, others = self.compute_loss_and_updates(*arguments, **options)
            return loss * scaling[0] if scaling else loss, others

        gradients_of = jax.value_and_grad(scaled_loss, has_aux=True)

        def gradients_of_part(metrics, part):
            x, y, sample_weight, weights, examples = part
            with dropout_masks_of(step, examples):
                (_, (loss, y_pred, _, metrics)), gradients = gradients_of(
                    trainable,
                    non_trainable,
                    metrics,
                    x,
                    y,
                    weights,
                    training=True,
                    optimizer_variables=optimizer_values,
                )
            # keras/src/backend/jax/trainer.py, Keras 3.15, as train_step there does.
            _, metrics = self._update_metrics_variables(metrics, loss, x, y, y_pred, sample_weight)
            return gradients, metrics

        # The gradients of the whole batch, in one part or as the mean over micro-batches, which a
        # scan works on one after the other in the memory of one.
        if self.accumulate == 1:
            gradients, metrics = gradients_of_part(metrics, batch)
        else:

            def add_part(carry, part):
                sums, metrics = carry
                gradients, metrics = gradients_of_part(metrics, part)
                return (jax.tree.map(jax.numpy.add, sums, gradients), metrics), None

            zeros = jax.tree.map(jax.numpy.zeros_like, trainable)
            (sums, metrics), _ = jax.lax.scan(
                add_part, (zeros, metrics), split_batch(batch, self.accumulate)
            )
            gradients = jax.tree.map(lambda one: one / self.accumulate, sums)

        # One update.
        if scaling:
            gradients, is_finite = LossScale.unscaled(gradients, scaling[0])
            scaling = LossScale.following(scaling, is_finite)
            trainable, optimizer_values = jax.lax.cond(
                is_finite,
                self.optimizer.stateless_apply,
                self._skip,
                optimizer_values,
                gradients,
                trainable,
            )
            optimizer_values = _with_values(scaled, scaling, self.optimizer, optimizer_values)
        else:
            trainable, optimizer_values = self.optimizer.stateless_apply(
                optimizer_values, gradients, trainable
            )
        logs = self._logs(metrics) | (LossScale.logs(scaling) if scaling else {})
        return logs, (trainable, non_trainable, optimizer_values, metrics)

    def _skip(self, optimizer_values, gradients, trainable):
        """What `stateless_apply` of the optimizer returns where an update changes nothing but the
        count of updates."""
        counter = [self.optimizer.iterations]
        (step,) = _values_of(counter, self.optimizer, optimizer_values)
        return trainable, _with_values(counter, [step + 1], self.optimizer, optimizer_values)

    def test_step(self, state: tuple[Any, ...], data: Any) -> tuple[Any, tuple[Any, ...]]:
        """One batch of an evaluation: (trainable, non-trainable, metrics' values), batch -> logs,
        new state."""
        trainable, non_trainable, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _, (loss, y_pred, _, metrics) = self.compute_loss_and_updates(
            trainable, non_trainable, metrics, x, y, balanced_weights(sample_weight), training=False
        )
        logs, metrics = self._update_metrics_variables(metrics, loss, x, y, y_pred, sample_weight)
        return logs, (trainable, non_trainable, metrics)

    def _logs(self, metrics):
        with keras.StatelessScope(list(zip(self.metrics_variables, metrics, strict=True))):
            return self.get_metrics_result()


def _values_of(variables, optimizer, values):
    """Of a state, a list in the order of the optimizer's variables, the values of some of them."""
    return [
        next(value for one, value in zip(optimizer.variables, values, strict=True) if one is wanted)
        for wanted in variables
    ]


def _with_values(variables, new, optimizer, values):
    """The state with other values of some variables."""
    changed = {id(variable): value for variable, value in zip(variables, new, strict=True)}
    return [
        changed.get(id(one), value) for one, value in zip(optimizer.variables, values, strict=True)
    ]
