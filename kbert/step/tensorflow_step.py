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

import keras
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from kbert.step.dropout import dropout_masks_of
from kbert.step.micro_batches import split_batch
from kbert.step.objective import balanced_weights


class Step:
    """The part of Pretrainer that depends on the backend."""

    @staticmethod
    def keras_jit_compile(jit_compile):
        """What Keras is told of XLA: nothing, since it is used here."""
        return False

    def make_step(self):
        """Makes the compiled parts of the steps anew, after `compile`."""
        # On a TPU the whole step is compiled, with no compiled functions inside of it.
        xla = self.use_xla and not isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)

        def compiled(function):
            return (
                function
                if self.run_eagerly
                else tf.function(function, jit_compile=xla, autograph=False)
            )

        self._gradients = compiled(self._gradients_of_batch)
        self._update = compiled(self._update_variables)
        self._measure = compiled(self._measure_batch)

    def train_step(self, data):
        """One update, in the context of a replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replica = tf.distribute.get_replica_context()
        batch = x, y, sample_weight, _balanced(sample_weight, replica), _examples(x, replica)
        gradients, metrics = self._gradients(
            batch, self.optimizer.iterations.value, self._metric_values()
        )
        if replica.num_replicas_in_sync > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        self._update(gradients)
        self.optimizer.iterations.assign_add(1)
        return self._logs(metrics)

    def test_step(self, data):
        """One batch of an evaluation, in the context of a replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = _balanced(sample_weight, tf.distribute.get_replica_context())
        return self._logs(self._measure((x, y, sample_weight, weights), self._metric_values()))

    def _gradients_of_batch(self, batch, step, metrics):
        """The gradients of the loss and the new values of the metrics."""
        if self.accumulate == 1:
            return self._gradients_of_part(batch, step, metrics)
        parts = split_batch(batch, self.accumulate)

        def add_part(number, sums, metrics):
            part = keras.tree.map_structure(
                lambda values: None if values is None else values[number], parts
            )
            gradients, metrics = self._gradients_of_part(part, step, metrics)
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

    def _gradients_of_part(self, part, step, metrics):
        x, y, sample_weight, weights, examples = part
        with (
            keras.StatelessScope(list(zip(self.metrics_variables, metrics, strict=True))) as scope,
            dropout_masks_of(step, examples),
        ):
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred, weights, training=True)
            gradients = tape.gradient(loss, self.trainable_variables, unconnected_gradients="zero")
            self._count(loss, x, y, y_pred, sample_weight)
        return [tf.convert_to_tensor(one) for one in gradients], self._new_metric_values(scope)

    def _measure_batch(self, batch, metrics):
        x, y, sample_weight, weights = batch
        with keras.StatelessScope(list(zip(self.metrics_variables, metrics, strict=True))) as scope:
            y_pred = self(x, training=False)
            loss = self.compute_loss(x, y, y_pred, weights, training=False)
            self._count(loss, x, y, y_pred, sample_weight)
        return self._new_metric_values(scope)

    def _count(self, loss, x, y, y_pred, sample_weight):
        # compute_loss has divided by the number of replicas, so that their gradients add up.
        loss *= self.distribute_strategy.num_replicas_in_sync
        self._loss_tracker.update_state(loss, sample_weight=_num_rows(x))
        self.compute_metrics(x, y, y_pred, sample_weight)

    def _update_variables(self, gradients):
        """The update of this replica's copy of the variables; all replicas make the same.

        TFOptimizer would add the gradients up once more, so the methods are those of its base
        class, for any optimizer."""
        optimizer, variables = self.optimizer, self.trainable_variables
        gradients = optimizer._clip_gradients(gradients)
        BaseOptimizer._apply_weight_decay(optimizer, variables)
        BaseOptimizer._backend_update_step(optimizer, gradients, variables, optimizer.learning_rate)

    def _metric_values(self):
        return [tf.convert_to_tensor(variable.value) for variable in self.metrics_variables]

    def _new_metric_values(self, scope):
        return [scope.get_current_value(variable) for variable in self.metrics_variables]

    def _logs(self, metrics):
        for variable, value in zip(self.metrics_variables, metrics, strict=True):
            variable.assign(value)
        logs = self.get_metrics_result()
        strategy = self.distribute_strategy
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            logs = {name: value[None] for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            data_batch = tf.nest.map_structure(
                _local_spec, iterator._distributed_dataset.element_spec
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)


def _local_spec(spec):
    """The shape and dtype of what one replica gets."""
    return getattr(spec, "_value_specs", [spec])[0]


def _num_rows(x):
    return tf.shape(keras.tree.flatten(x)[0])[0]


def _examples(x, replica):
    """The numbers of a replica's rows in the whole batch, int32 [B of the replica]."""
    rows = _num_rows(x)
    return replica.replica_id_in_sync_group * rows + tf.range(rows)


def _balanced(sample_weight, replica):
    def all_reduce(sums):
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)

    replicas = replica.num_replicas_in_sync
    return balanced_weights(
        sample_weight, replicas, all_reduce if replicas > 1 else lambda sums: sums
    )
