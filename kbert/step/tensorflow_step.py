"""The training step on TensorFlow, for any tf.distribute strategy. Here is all that reaches into
Keras' TensorFlow trainer.

Why Keras' own step will not do, as of Keras 3.15:

- It turns XLA off under every strategy. Here XLA is inside of the replica: one compiled function
  from the batch to the gradients, one for the update; the all-reduce is between them.
- It clips the gradients of each replica before it adds them up. Here they are added up first.
- `reduce_per_replica` takes means over axis 0 of what a step returns, which is scalars; that fails
  under MultiWorkerMirroredStrategy. Here a step returns vectors of one.
- `_maybe_symbolic_build` takes the mean of a whole nested batch, which fails there too, and reads a
  batch for it. Here the shapes of the batch suffice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from kbert.step.dropout import dropout_masks_of
from kbert.step.loss_scale import LossScale
from kbert.step.micro_batches import split_batch
from kbert.step.objective import balanced_weights, weight_sums
from tfrecords.errors import InputError

if TYPE_CHECKING:
    _Model = keras.Model  # what Pretrainer is beside this
else:
    _Model = object


class Step(_Model):
    """The part of Pretrainer that depends on the backend."""

    @staticmethod
    def keras_jit_compile(jit_compile: bool | str) -> bool | str:
        """What Keras is told of XLA: nothing, since it is used here."""
        return False

    def make_step(self) -> None:
        """Makes the compiled parts of the steps, after `compile`.

        Raises:
            InputError: The step is to run eagerly on several devices, or the optimizer is one that
                it does not serve.
        """
        if isinstance(self.optimizer, keras.optimizers.ScheduleFreeAdamW):
            # Its weights were 0.15 off those of a plain model after three updates (Keras 3.15).
            raise InputError(
                "Expected another optimizer than ScheduleFreeAdamW, which is served on JAX alone. "
                "Received: it on TensorFlow; take AdamW, or set KERAS_BACKEND=jax."
            )
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.run_eagerly and replicas > 1:
            # Collective operations of different shapes meet there: "Shape mismatch in the
            # collective instance" (TensorFlow 2.21, MirroredStrategy on two CPU devices).
            raise InputError(
                "Expected run_eagerly=False on several devices, since TensorFlow mixes up the "
                f"collective operations of eager steps. Received: run_eagerly=True on {replicas} "
                "devices; debug the step on one device."
            )
        # On a TPU the whole step is compiled, with no compiled functions inside of it.
        xla = self.use_xla and not isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return (
                function
                if self.run_eagerly
                else tf.function(function, jit_compile=xla, autograph=False)
            )

        self._gradients = compiled(self._gradients_of_batch)
        self._update = compiled(self._update_variables)
        self._measure = compiled(self._measure_batch)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update, in the context of a replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replica = tf.distribute.get_replica_context()
        weights, examples, rows = _shares(x, sample_weight, replica)
        batch = x, y, sample_weight, weights, examples
        scaling = [] if self.loss_scale is None else _values(self.loss_scale.variables)
        gradients, metrics = self._gradients(
            batch, rows, self.optimizer.iterations.value, self._metric_values(), scaling
        )
        if replica.num_replicas_in_sync > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        scaling = self._update(gradients, scaling)
        self.optimizer.iterations.assign_add(1)
        return self._logs(metrics, scaling)

    def test_step(self, data: Any) -> dict[str, Any]:
        """One batch of an evaluation, in the context of a replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights, _, rows = _shares(x, sample_weight, tf.distribute.get_replica_context())
        batch = x, y, sample_weight, weights
        return self._logs(self._measure(batch, rows, self._metric_values()))

    def _gradients_of_batch(self, batch, rows, step, metrics, scaling):
        """The gradients of the loss, scaled if it is, and the new values of the metrics."""
        if self.accumulate == 1:
            return self._gradients_of_part(batch, rows, step, metrics, scaling)
        # The micro-batches one after the other, their gradients summed: tf.while_loop and not
        # Python's, which XLA would unroll, with the memory of all parts.
        parts = split_batch(batch, self.accumulate)

        def add_part(number, sums, metrics):
            part = keras.tree.map_structure(
                lambda values: None if values is None else values[number], parts
            )
            gradients, metrics = self._gradients_of_part(
                part, rows / self.accumulate, step, metrics, scaling
            )
            return (
                number + 1,
                [one + other for one, other in zip(sums, gradients, strict=True)],
                metrics,
            )

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self.trainable_variables]
        _, sums, metrics = tf.while_loop(
            lambda number, *_: number < self.accumulate,
            add_part,
            (tf.constant(0), zeros, metrics),
            maximum_iterations=self.accumulate,
            parallel_iterations=1,
        )
        return [one / self.accumulate for one in sums], metrics

    def _gradients_of_part(self, part, rows, step, metrics, scaling):
        x, y, sample_weight, weights, examples = part
        with (
            tf.GradientTape() as tape,
            self._scope_of(metrics) as scope,
            dropout_masks_of(step, examples),
        ):
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, weights, training=True)
            # This ends the recording.
            gradients = tape.gradient(
                loss * scaling[0] if scaling else loss,
                self.trainable_variables,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            self._count(loss, rows, x, y, y_pred, sample_weight)
        return [tf.convert_to_tensor(one) for one in gradients], self._new_metric_values(scope)

    def _measure_batch(self, batch, rows, metrics):
        x, y, sample_weight, weights = batch
        with self._scope_of(metrics) as scope:
            y_pred = self(x, training=False)
            loss = self.compute_loss(x, y, y_pred, weights, training=False)
            self._count(loss, rows, x, y, y_pred, sample_weight)
        return self._new_metric_values(scope)

    def _scope_of(self, metrics):
        """A scope in which metrics have these values, so that compiled functions take and return
        them: under a strategy they could not assign to variables that are summed on reading."""
        # Keras looks regularized variables up in the scope, and in the scope alone
        # (keras/src/layers/layer.py, _get_regularization_losses, Keras 3.15).
        regularized = [
            (variable, variable.value)
            for variable in self.trainable_variables
            if variable.regularizer is not None
        ]
        metrics = zip(self.metrics_variables, metrics, strict=True)
        return keras.StatelessScope([*metrics, *regularized])

    def _count(self, loss, rows, x, y, y_pred, sample_weight):
        # compute_loss has divided by the number of replicas, so that their gradients add up
        # (keras/src/losses/loss.py, scale_loss_for_distribution, Keras 3.15).
        loss *= self.distribute_strategy.num_replicas_in_sync
        # The loss of the whole batch is the plain mean over the replicas, since the divisor is that
        # of the whole batch: so each counts the same, also where the last batch is shared unevenly.
        self._loss_tracker.update_state(loss, sample_weight=rows)
        self.compute_metrics(x, y, y_pred, sample_weight)

    def _update_variables(self, gradients, scaling):
        """The update of this replica's copy of the variables; all replicas make the same. Returns
        the new values of the loss scale's variables."""
        if not scaling:
            self._apply(gradients)
            return scaling
        gradients, is_finite = LossScale.unscaled(gradients, scaling[0])
        tf.cond(is_finite, lambda: self._apply(gradients), lambda: None)
        scaling = LossScale.following(scaling, is_finite)
        for variable, value in zip(self.loss_scale.variables, scaling, strict=True):
            variable.assign(value)
        return scaling

    def _apply(self, gradients):
        variables = self.trainable_variables
        with _local_updates(self.optimizer):
            self.optimizer._backend_apply_gradients(gradients, variables)
        # As BaseOptimizer.apply does last (keras/src/optimizers/base_optimizer.py, Keras 3.15).
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def _metric_values(self):
        return _values(self.metrics_variables)

    def _new_metric_values(self, scope):
        return [scope.get_current_value(variable) for variable in self.metrics_variables]

    def _logs(self, metrics, scaling=()):
        for variable, value in zip(self.metrics_variables, metrics, strict=True):
            variable.assign(value)
        logs = self.get_metrics_result()
        if scaling:
            logs |= LossScale.logs(scaling)
        strategy = self.distribute_strategy
        # Vectors of one: Keras takes the mean over their axis (keras/src/backend/tensorflow/
        # trainer.py, reduce_per_replica, Keras 3.15).
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Replaces that of keras/src/backend/tensorflow/trainer.py, Keras 3.15, which reads a batch
        # and takes a mean over its nested values; shapes are enough, under strategies too.
        if iterator is not None:
            data_batch = tf.nest.map_structure(
                _local_spec, iterator._distributed_dataset.element_spec
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)


def _values(variables):
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _local_spec(spec):
    """The shape and dtype of what one replica gets."""
    return getattr(spec, "_value_specs", [spec])[0]


def _num_rows(x):
    return tf.shape(next(one for one in keras.tree.flatten(x) if one is not None))[0]


def _shares(x, sample_weight, replica):
    """What a replica has to know of the whole batch: its weights balanced over all replicas, and
    the numbers of its rows, int32 [B of the replica], and how many rows a replica has on average.

    The last batch of a dataset may be shared out unevenly, down to replicas without a row."""
    rows, replicas = _num_rows(x), replica.num_replicas_in_sync
    if replicas == 1:
        return balanced_weights(sample_weight), tf.range(rows), tf.cast(rows, tf.float32)
    # One all-reduce for both: the rows of each replica at its place, then the sums of weights.
    place = replica.replica_id_in_sync_group
    known = [tf.one_hot(place, replicas) * tf.cast(rows, tf.float32)]
    sums = weight_sums(sample_weight)
    if sums is not None:
        known.append(sums)
    known = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat(known, axis=0))
    rows_of_all = tf.cast(tf.round(known[:replicas]), tf.int32)
    before = tf.reduce_sum(tf.where(tf.range(replicas) < place, rows_of_all, 0))
    if sums is not None:
        sums = known[replicas:]
    average = tf.reduce_mean(known[:replicas])
    return balanced_weights(sample_weight, sums, replicas), before + tf.range(rows), average


class _LocalUpdates(TFOptimizer):
    """An optimizer that updates the variables of its own replica with the gradients it is given.

    TFOptimizer would add the gradients of all replicas up once more, and ask for a merge of the
    replicas, which a compiled function cannot have (keras/src/backend/tensorflow/optimizer.py,
    Keras 3.15). What an optimizer overrides itself, as Nadam and Muon do, stays its own.
    """

    _apply_weight_decay = BaseOptimizer._apply_weight_decay
    _backend_update_step = BaseOptimizer._backend_update_step

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        """As Keras does (keras/src/optimizers/base_optimizer.py, clip_by_global_norm, Keras 3.15),
        but on a CPU the squares in the rows of a gradient are summed by products of vectors.

        Of squares and a sum XLA would write the squares of all gradients into memory first.
        Elsewhere products may have less than the precision of float32; and a product of all that a
        matrix has would add up one after the other, and lose percents of the sum."""
        limit = self.global_clipnorm
        on_cpu = keras.distribution.list_devices()[0].startswith("cpu")
        if self.clipnorm or not limit or not on_cpu:
            return super()._clip_gradients(grads)
        norm = tf.sqrt(tf.add_n(list(map(_sum_of_squares, grads))))
        # Not a number, if the norm is none.
        scale = limit * tf.minimum(1.0 / norm, 1.0 / limit) + (norm - norm)
        return [one * scale for one in grads]


def _sum_of_squares(values):
    rows = tf.reshape(values, [-1, values.shape[-1] if values.shape.rank else 1])
    return tf.reduce_sum(tf.matmul(rows[:, None, :], rows[:, :, None]))


@contextlib.contextmanager
def _local_updates(optimizer):
    """Within the block, `_LocalUpdates` stands between the class of an optimizer and TFOptimizer in
    the order of method resolution."""
    kind = type(optimizer)
    # object's own setter: an optimizer tracks what is assigned to its attributes.
    object.__setattr__(optimizer, "__class__", type(kind.__name__, (kind, _LocalUpdates), {}))
    try:
        yield
    finally:
        object.__setattr__(optimizer, "__class__", kind)
