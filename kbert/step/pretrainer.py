"""The training step: a functional Keras model that trains alike on one device and on many.

The step of each backend of Keras is in a file of its own, tensorflow_step.py and jax_step.py.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import keras

from kbert.step.loss_scale import LossScale
from kbert.step.micro_batches import check_accumulate
from kbert.step.objective import labels_of_outputs
from tfrecords import InputError

# The type checker knows that of TensorFlow alone; their methods have the same names.
if not TYPE_CHECKING and keras.backend.backend() == "jax":
    from kbert.step.jax_step import Step
else:
    from kbert.step.tensorflow_step import Step


@keras.saving.register_keras_serializable("kbert")
class Pretrainer(Step, keras.Model):
    """A functional Keras model whose losses are means over what has weight in the whole batch,
    however it is shared out.

    `compile`, `fit`, `evaluate` and callbacks are as for any keras.Model. What is different is
    inside the step:

    - The divisor of a loss is the weight in the whole batch: of all replicas, and of all
      micro-batches. See `objective.balanced_weights`.
    - Gradients are summed over micro-batches and replicas before they are clipped, and there is one
      update.
    - XLA compiles forward pass, gradients and update on each replica, also under a tf.distribute
      strategy.
    - Inputs, labels and weights that do not fit the model are refused, where Keras would broadcast
      labels or take a dict's values by the order of its keys. Labels of outputs that the model does
      not have are left out.
    - Where layers compute in float16, the loss is scaled; see `loss_scale.LossScale`.
    - Dropout masks follow from the number of the update and the row in the whole batch. See
      `dropout.Dropout`.

    Layers with a state that training changes, such as BatchNormalization or Keras' own Dropout, are
    not for it: the step leaves what is not trainable as it is.

    Build one with `pretraining_model`.
    """

    def compile(
        self,
        optimizer: Any = "rmsprop",
        *arguments: Any,
        accumulate: int = 1,
        jit_compile: bool | str = "auto",
        **options: Any,
    ) -> None:
        """As of keras.Model.

        Args:
            accumulate: The number of micro-batches, parts of a batch that are worked on one after
                the other: less memory, more time, and the same update. The batch of every replica
                must be divisible by it.
            jit_compile: False does without XLA.

        Raises:
            InputError: The layers have weights in float16; the optimizer has gradient accumulation,
                a moving average or a loss scale of its own, or is several; or a loss is no mean
                over the batch.
        """
        check_accumulate(accumulate)
        for layer in self.layers:
            check_precision(layer.dtype_policy)
        super().compile(
            optimizer,
            *arguments,
            jit_compile=self.keras_jit_compile(jit_compile),
            auto_scale_loss=False,
            **options,
        )
        _check_optimizer(self.optimizer)
        is_scaled = any(layer.compute_dtype == "float16" for layer in self.layers)
        self.loss_scale = LossScale.of(self.optimizer) if is_scaled else None
        _check_losses(self.loss)
        self.accumulate = accumulate
        self.use_xla = bool(jit_compile) and not self.run_eagerly
        self.make_step()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As of keras.Model, but a dict of inputs has to have the model's own names.

        Keras takes the values of a dict in the order of its keys: with one more, each would become
        another input (keras/src/models/functional.py, _standardize_inputs, Keras 3.15). Checked
        here and not in `call`, to whose errors Keras adds a page about the arguments.

        Raises:
            InputError: A name is missing, or there is one too many.
        """
        self._check_inputs(arguments)
        return super().__call__(*arguments, **options)

    def stateless_call(
        self,
        trainable_variables: Any,
        non_trainable_variables: Any,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """As of keras.Model, with the check of `__call__`, which it does without (keras/src/layers/
        layer.py, Keras 3.15): on JAX it is what `fit` and `predict` call."""
        self._check_inputs(arguments)
        return super().stateless_call(
            trainable_variables, non_trainable_variables, *arguments, **options
        )

    def _check_inputs(self, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], dict) and isinstance(self.input, dict):
            check_names(arguments[0], self.input)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """As of keras.Model, without what belongs to no output, see `labels_of_outputs`."""
        y, sample_weight = labels_of_outputs(y, sample_weight, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As of keras.Model, with the labels and weights of `compute_loss`."""
        y, sample_weight = labels_of_outputs(y, sample_weight, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_compile_config(self) -> dict[str, Any] | None:
        """What `compile` was called with, as JSON values; None before it."""
        config = super().get_compile_config()
        return config and config | {"accumulate": self.accumulate, "jit_compile": self.use_xla}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """The context that a model was made in, to compile it, or to make another model of its
    layers."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def check_precision(policy: keras.DTypePolicy | str) -> None:
    """Raises InputError for a dtype policy with weights in float16: most updates of a weight are
    less than the distance to its neighbour there, and would be lost."""
    if keras.dtype_policies.get(policy).variable_dtype == "float16":
        raise InputError(
            "Expected layers with float32 weights. Received: float16; take mixed_float16, which "
            "computes in float16."
        )


def check_names(inputs: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises InputError unless a dict of inputs has the names of the model's."""
    if inputs.keys() != expected.keys():
        raise InputError(
            f"Expected the inputs {', '.join(sorted(expected))}. Received: "
            f"{', '.join(sorted(map(str, inputs)))}."
        )


def _check_optimizer(optimizer: Any) -> None:
    """Raises InputError for what would differ between one device and many."""
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise InputError(
            "Expected one optimizer for all variables. Received: MultiOptimizer; take one, and "
            "exclude_from_weight_decay where decay alone should differ."
        )
    # The last is of keras.optimizers.LossScaleOptimizer.
    for name in (
        "gradient_accumulation_steps",
        "use_ema",
        "loss_scale_factor",
        "inner_optimizer",
    ):
        if getattr(optimizer, name, None):
            raise InputError(
                f"Expected an optimizer without {name}, which differs between one device and "
                "many. "
                f"Received: {type(optimizer).__name__} with it; for micro-batches use "
                "compile(accumulate=...), and the loss of float16 layers is scaled without it."
            )


def _check_losses(losses: Any) -> None:
    """Raises InputError for a loss that is no mean over the rows and slots of a batch: its parts,
    on devices and in micro-batches, would not add up to that of the whole."""
    for loss in keras.tree.flatten(losses):
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise InputError(
                "Expected losses with reduction='sum_over_batch_size', means over the batch. "
                f"Received: {type(loss).__name__} with reduction={reduction!r}."
            )
