"""Names of ways to share out training, to what runs on the machine; and the batches that each
device gets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras

from kbert.config import STRATEGIES
from kbert.step.micro_batches import check_accumulate
from tfrecords.errors import InputError, one_line

if TYPE_CHECKING:
    import tensorflow as tf


class Devices:
    """The devices that a run trains on.

    Attributes:
        name: Among STRATEGIES, but not "auto".
        num_replicas: How many copies of the model work on parts of a batch.
        is_chief: Whether this is the process that writes; the only one but for multi-worker.
    """

    def __init__(
        self,
        name: str,
        num_replicas: int,
        strategy: tf.distribute.Strategy | None = None,
        is_chief: bool = True,
    ) -> None:
        self.name = name
        self.num_replicas = num_replicas
        self.is_chief = is_chief
        self._strategy = strategy

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context to make and compile the model in."""
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    def check_same_step(self, step: int) -> None:
        """Makes sure that all workers go on from the same step.

        Raises:
            InputError: They do not.
        """
        if self.name != "multi-worker" or self._strategy is None:
            return
        import tensorflow as tf

        def sums() -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, tf.constant(step, tf.int64)
            )

        total = int(
            self._strategy.experimental_local_results(self._strategy.run(tf.function(sums)))[0]
        )
        if total != step * self.num_replicas:
            raise InputError(
                "Expected one directory of the run for all workers, on a file system that they "
                "share. "
                f"Received: step {step} in this worker's, {total / self.num_replicas:g} on average."
            )


def devices_of(strategy: str) -> Devices:
    """The Devices of a strategy's name. With several workers this must come before anything else
    that TensorFlow computes: their collective operations are set up at its start.

    Raises:
        InputError: There is no such strategy, or the machine or TF_CONFIG does not offer it.
    """
    if strategy == "parameter-server":
        raise InputError(
            "Expected a strategy whose updates are in step on all devices, since a run repeats and "
            "resumes exactly. "
            "Received: 'parameter-server'; take multi-worker."
        )
    if strategy not in STRATEGIES:
        raise InputError(
            f"Expected a strategy among {', '.join(STRATEGIES)}. Received: {strategy!r}."
        )
    return (
        _jax_devices(strategy)
        if keras.backend.backend() == "jax"
        else _tensorflow_devices(strategy)
    )


def _jax_devices(strategy: str) -> Devices:
    import jax

    count = jax.device_count()
    if strategy == "multi-worker":
        raise InputError(
            "Expected one process on JAX. Received: the strategy 'multi-worker'; it needs "
            "KERAS_BACKEND=tensorflow."
        )
    if strategy == "tpu" and jax.default_backend() != "tpu":
        raise InputError(f"Expected a TPU. Received: {jax.default_backend()} devices alone.")
    if strategy == "mirrored" and count < 2:
        raise InputError("Expected at least 2 devices for the strategy 'mirrored'. Received: 1.")
    if strategy == "one" or count == 1:
        keras.distribution.set_distribution(None)  # of an earlier run in this process
        return Devices("one" if strategy == "auto" else strategy, 1)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return Devices("mirrored" if strategy == "auto" else strategy, count)


def _tensorflow_devices(strategy: str) -> Devices:
    import tensorflow as tf

    # MultiWorkerMirroredStrategy returns the values of each replica where there is one worker, and
    # their means where there are several; a single worker needs none of it.
    if strategy == "multi-worker" and len(_cluster(required=True)) == 1:
        strategy = "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one"
    elif strategy == "auto":
        if in_cluster():
            strategy = "multi-worker"
        elif os.environ.get("TPU_NAME") or os.environ.get("TPU_ACCELERATOR_TYPE"):
            strategy = "tpu"
        else:
            strategy = "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one"
    if strategy == "one":
        return Devices("one", 1)
    if strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        if len(devices) < 2:
            raise InputError(
                "Expected at least 2 devices for the strategy 'mirrored'. Received: 1; take one."
            )
        tf_strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    elif strategy == "multi-worker":
        try:
            with _signals_end_at_once():
                tf_strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise InputError(
                "Expected to listen at this worker's address in TF_CONFIG and to reach the others. "
                f"Received: {one_line(error, 300)}."
            ) from None
    else:
        try:
            # "local" is the TPU of this machine, as on a Cloud TPU VM; without a name the resolver
            # asks for another machine's.
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
                os.environ.get("TPU_NAME") or "local"
            )
            tf_strategy = tf.distribute.TPUStrategy(resolver)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise InputError(f"Expected a TPU. Received: none ({one_line(error)}).") from None
    is_chief = strategy != "multi-worker" or tf_strategy.cluster_resolver.task_id == 0
    return Devices(strategy, tf_strategy.num_replicas_in_sync, tf_strategy, is_chief)


@contextlib.contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the process while it waits for the other workers in C++, where
    Python would not hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def in_cluster() -> bool:
    """Whether TF_CONFIG names several workers.

    Raises:
        InputError: It cannot be read.
    """
    return len(_cluster(required=False)) > 1


_TF_CONFIG = (
    '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'
)


def _cluster(required: bool) -> list[str]:
    """The addresses of the workers in TF_CONFIG."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        if required:
            raise InputError(
                f"Expected TF_CONFIG in the environment for multi-worker, such as {_TF_CONFIG}. "
                "Received: none."
            )
        return []
    # Checked before TensorFlow reads it, so that a mistake is one line. A cluster that has chiefs,
    # parameter servers or evaluators is for other strategies.
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if (
            set(config["cluster"]) != {"worker"}
            or task["type"] != "worker"
            or not 0 <= task["index"] < len(workers)
        ):
            raise ValueError("it may have workers alone, and the task's index among them")
        if not all(
            isinstance(worker, str) and worker.rpartition(":")[2].isdigit() for worker in workers
        ):
            raise ValueError("a worker's address is host:port")
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"Expected TF_CONFIG such as {_TF_CONFIG}. "
            f"Received: {one_line(text)} ({type(error).__name__}: {error})."
        ) from None
    return workers


def check_shares(batch_size: int, replicas: int, accumulate: int) -> None:
    """Raises InputError if a batch cannot be shared out evenly over replicas and their
    micro-batches, or there is less than one micro-batch."""
    check_accumulate(accumulate)
    shares = replicas * accumulate
    if batch_size % shares:
        nearest = max(1, round(batch_size / shares)) * shares
        raise InputError(
            f"Expected a batch size that {replicas} device{'s' * (replicas > 1)} with {accumulate} "
            f"micro-batch{'es' * (accumulate > 1)} each share evenly. Received: {batch_size}; take "
            f"{nearest}."
        )


def batches_for(
    model: keras.Model, make: Callable[[tf.distribute.InputContext | None], tf.data.Dataset]
) -> tf.data.Dataset:
    """The batches of a model's devices: what `make(input_context)` returns, or `make(None)` where
    there is one input pipeline that all devices share.

    Args:
        model: A keras.Model.
        make: Returns a tf.data.Dataset, as `tfrecords.read` with an `input_context`.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return make(None)
    return strategy.distribute_datasets_from_function(make)
