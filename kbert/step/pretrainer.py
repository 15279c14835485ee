"""The training step: a functional Keras model that trains alike on one device and on many.

The step of each backend of Keras is in a file of its own, tensorflow_step.py and jax_step.py.
"""

import keras

from tfrecords import InputError

if keras.backend.backend() == "jax":
    from kbert.step.jax_step import Step
else:
    from kbert.step.tensorflow_step import Step


@keras.saving.register_keras_serializable("kbert")
class Pretrainer(Step, keras.Model):
    """A functional Keras model whose losses are means over what has weight in the whole batch,
    however it is shared out.

    `compile`, `fit`, `evaluate` and callbacks are as for any keras.Model. What is different is
    inside of the step:

    - The divisor of a loss is the weight in the whole batch: of all replicas, and of all
      micro-batches. See `objective.balanced_weights`.
    - Gradients are summed over micro-batches and replicas before they are clipped, and there is one
      update.
    - XLA compiles forward pass, gradients and update on each replica, also under a tf.distribute
      strategy.
    - Dropout masks follow from the number of the update and the row in the whole batch. See
      `dropout.Dropout`.

    Layers with a state that training changes, such as BatchNormalization or Keras' own Dropout, are
    not for it: the step leaves what is not trainable as it is.

    Build one with `pretraining_model`.
    """

    def compile(self, optimizer="rmsprop", *arguments, accumulate=1, jit_compile="auto", **options):
        """As of keras.Model.

        Args:
            accumulate: Micro-batches: the rows of a batch are worked on in so many parts, which
                takes less memory and more time, and gives the same update. The batch of every
                replica must be divisible by it.
            jit_compile: False does without XLA.

        Raises:
            InputError: The optimizer has gradient accumulation, a moving average or a loss scale of
                its own.
        """
        if accumulate < 1:
            raise InputError(f"Expected at least 1 micro-batch. Received: accumulate={accumulate}.")
        super().compile(
            optimizer, *arguments, jit_compile=self.keras_jit_compile(jit_compile), **options
        )
        # The last is that of keras.optimizers.LossScaleOptimizer.
        for name in (
            "gradient_accumulation_steps",
            "use_ema",
            "loss_scale_factor",
            "inner_optimizer",
        ):
            if getattr(self.optimizer, name, None):
                raise InputError(
                    f"Expected an optimizer without {name}, which differs between one device and "
                    "many. "
                    f"Received: {type(self.optimizer).__name__} with it; for micro-batches use "
                    "compile(accumulate=...)."
                )
        self.accumulate = accumulate
        self.use_xla = bool(jit_compile) and not self.run_eagerly
        self.make_step()

    def get_compile_config(self):
        """What `compile` was called with, as JSON values; None before it."""
        config = super().get_compile_config()
        return config and config | {"accumulate": self.accumulate, "jit_compile": self.use_xla}

    def compile_from_config(self, config):
        """Compiles with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)
