"""What ends a run: its error, and what TensorFlow's and JAX's own errors mean, in one line."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tfrecords.errors import InputError, one_line

if TYPE_CHECKING:
    from tfrecords.schema import Manifest


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one line: what happened, at which step, what is safe
    and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; Python, TensorFlow and JAX each have a class of
    their own for it."""
    return (
        isinstance(error, MemoryError)
        or "ResourceExhausted" in type(error).__name__
        or "RESOURCE_EXHAUSTED" in str(error)
    )


@contextlib.contextmanager
def one_line_errors(strategy: str) -> Iterator[None]:
    """Replaces TensorFlow's stack of messages by one line where another worker has ended, and where
    memory ran out.

    Args:
        strategy: The name of the strategy, as of Devices.

    Raises:
        TrainingError: One of the two happened; any other error passes through.
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.InternalError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,  # a restarted worker meets one that was not restarted
    ) as error:
        if strategy != "multi-worker":
            raise
        # The reason is one line among those of a stack.
        reason = re.search(r"aborted by: (.+)", error.message)
        said = reason[1] if reason else one_line(error.message)
        raise TrainingError(
            f"Another worker has ended ({said}). Start all workers again; the run continues from "
            "its last checkpoint."
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "Out of memory. Try --accumulate N (micro-batches), --recompute (gradient "
            "checkpointing), or, for evaluations too, a smaller --batch-size."
        ) from None


@contextlib.contextmanager
def damaged_shards_named(
    manifest: Manifest, save: Callable[[], pathlib.Path | None]
) -> Iterator[None]:
    """Names the shard that was damaged while a run read it, after saving a checkpoint.

    TensorFlow tells the offset of a damaged record but not its file, so the shards are hashed again
    to find it. The model has had no part of the batch that could not be read.

    Args:
        manifest: Of the records.
        save: Saves a checkpoint and returns its path, or None if it could not be written.

    Raises:
        TrainingError: A shard is damaged; an error with other causes passes through.
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.DataLossError,  # a wrong checksum, or a file that ends in a record
        tf.errors.InvalidArgumentError,  # a record that is no tf.train.Example
        tf.errors.NotFoundError,
        tf.errors.OutOfRangeError,
    ):
        try:
            manifest.verify()
        except (InputError, OSError) as damage:
            path = save()
            saved = "no checkpoint could be saved" if path is None else f"saved {path}"
            raise TrainingError(
                f"A shard was damaged during training; {saved}. {one_line(damage, 1000)} With the "
                "same records in place, run the same command again to continue."
            ) from None
        raise
