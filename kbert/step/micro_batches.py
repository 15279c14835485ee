"""A batch in parts."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfrecords import InputError


def check_accumulate(accumulate: int) -> None:
    """Raises InputError unless it is a number of micro-batches."""
    if accumulate < 1:
        raise InputError(f"Expected at least 1 micro-batch. Received: accumulate={accumulate}.")


def split_batch(batch: Any, parts: int) -> Any:
    """Parts the rows of a batch: part i has every row whose number is i modulo the number of parts.

    So the rows of a batch that is sharded over devices, which lie there in a row, stay where they
    are.

        rows [0, 1, 2, 3, 4, 5] in 2 parts -> [[0, 2, 4], [1, 3, 5]]

    Args:
        batch: A structure of tensors, each with B rows, or None.
        parts: How many, a divisor of B.

    Returns:
        The same structure, each tensor with an axis of the parts before that of the rows.

    Raises:
        InputError: The rows cannot be shared out evenly.
    """

    def split(values):
        if values is None:
            return None
        rows = values.shape[0]  # None under some strategies, where the reshaping fails if need be
        if rows is not None and rows % parts:
            near = max(1, round(rows / parts)) * parts
            raise InputError(
                f"Expected a batch that {parts} micro-batches share evenly. Received: {rows} rows "
                f"on a device; take {near}."
            )
        return ops.moveaxis(ops.reshape(values, (-1, parts, *values.shape[1:])), 1, 0)

    return keras.tree.map_structure(split, batch)
