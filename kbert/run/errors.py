"""What stops a run: the error that says so, and what TensorFlow's and JAX's errors mean in one
line."""

import contextlib
import re


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and what is safe."""


def is_out_of_memory(error):
    """Whether Python, TensorFlow or JAX say so, each in its own class of error."""
    return (
        isinstance(error, MemoryError)
        or "ResourceExhausted" in type(error).__name__
        or "RESOURCE_EXHAUSTED" in str(error)
    )


@contextlib.contextmanager
def one_line_errors(devices):
    """Turns into one line what TensorFlow says when another worker is gone, and what is said when
    memory runs out."""
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.InternalError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,  # a worker that was started again meets one that was not
    ) as error:
        if devices.name != "multi-worker":
            raise
        # What happened is one line among those of a stack.
        reason = re.search(r"aborted by: (.+)", error.message)
        said = reason[1] if reason else " ".join(error.message.split())[:200]
        raise TrainingError(
            f"Expected all workers to live. Received: the end of another ({said}); start all of "
            "them again, the run continues."
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "Expected memory for a step. Received: too little; take --accumulate, which works on a "
            "batch in parts, "
            "--recompute, or a smaller --batch-size."
        ) from None
