"""Dynamic loss scaling, which training in float16 needs.

Gradients of many weights are below the smallest number of float16, 6e-8, and would be 0. So the
loss is multiplied by a large scale before the backward pass, and the gradients, in float32 by then,
are divided by it. Where the scale was too large they are infinite: such an update changes nothing,
and the scale is halved. After a thousand and more good updates it is doubled (Micikevicius et al.
2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

FIRST_SCALE = 2.0**15
GROWS_AFTER = 2000
"""Good updates in a row after which the scale is doubled."""
LEAST_SCALE = 2.0**-10
"""Below it, what is infinite is no matter of the scale."""


class LossScale:
    """The scale of a model's loss: variables beside those of its optimizer, so that checkpoints
    have them and a resumed run goes on with the same scale.

    An update that is skipped counts as an update all the same, with its batch and its learning
    rate: so the step of a run stays the number of its batches.

    Args:
        optimizer: The optimizer, which gets the variables.
    """

    FIGURES = ("loss_scale", "skipped_updates")
    """The names of its figures in the logs of a step and in history.csv."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        def variable(name: str, dtype: str, value: float) -> keras.Variable:
            # Of the replica's own: all replicas have the same gradients, and count alike.
            return optimizer.add_variable(
                (), keras.initializers.Constant(value), dtype, name=name, aggregation="none"
            )

        self.variables = [
            variable("loss_scale", "float32", FIRST_SCALE),
            variable("good_updates", "int32", 0),
            variable("skipped_updates", "int32", 0),
        ]

    @classmethod
    def of(cls, optimizer: keras.optimizers.Optimizer) -> LossScale:
        """The scale that an optimizer has already, of an earlier `compile`, or a new one."""
        there = getattr(optimizer, "_loss_scale", None)
        if there is None:
            there = cls(optimizer)
            # Past the tracking of attributes, which is of variables and layers.
            object.__setattr__(optimizer, "_loss_scale", there)
        return there

    @staticmethod
    def unscaled(gradients: Sequence[Any], scale: Any) -> tuple[list[Any], Any]:
        """The gradients of the loss from those of the scaled loss, and whether all of them are
        finite (a bool scalar)."""
        gradients = [gradient / ops.cast(scale, gradient.dtype) for gradient in gradients]
        finite = ops.stack([ops.all(ops.isfinite(gradient)) for gradient in gradients])
        return gradients, ops.all(finite)

    @staticmethod
    def following(values: Sequence[Any], is_finite: Any) -> list[Any]:
        """The values of `variables` after an update.

        Args:
            values: Those before it: the scale (float32), the good updates since it last changed,
                and all updates that were skipped (int32).
            is_finite: Whether the gradients of the update were finite, a bool scalar.
        """
        scale, good, skipped = values
        grows = ops.logical_and(is_finite, good + 1 >= GROWS_AFTER)
        factor = ops.where(is_finite, ops.where(grows, 2.0, 1.0), 0.5)
        return [
            scale * factor,
            ops.where(ops.logical_and(is_finite, ops.logical_not(grows)), good + 1, 0),
            skipped + ops.cast(ops.logical_not(is_finite), "int32"),
        ]

    @staticmethod
    def logs(values: Sequence[Any]) -> dict[str, Any]:
        """What the logs of a step say of the scale."""
        scale, _, skipped = values
        return dict(zip(LossScale.FIGURES, (scale, skipped), strict=True))
