"""Compiles a training step for TPU chips that are not there, with the compiler inside of libtpu,
the TPU's own library."""

import importlib.util
import os
import re

import keras
import numpy as np

from kbert.speed.chips import chip_of, examples
from tfrecords import InputError
from tfrecords.batch import BatchSpec
from tfrecords.workers import silenced_stderr

_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # else it asks the network what machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else one process at a time; but compiling holds no TPU
}
"""What libtpu finds in the environment when it is loaded."""


def topology_devices(topology):
    """The chips of a topology as JAX devices that can be compiled for, and no more.

    Raises:
        InputError: There is no such topology, or JAX or libtpu is not there.
    """
    chip = chip_of(topology)
    if keras.backend.backend() != "jax":
        raise InputError(
            f"Expected Keras on JAX. Received: {keras.backend.backend()}; set KERAS_BACKEND=jax "
            "before the import of keras."
        )
    import jax
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "Expected libtpu, the TPU's compiler. Received: none; pip install '.[tpu-plan]' in the "
            "clone, on Linux."
        )
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    # A v4 chip is two devices unless asked for as the one that Cloud TPU makes of it.
    options = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    try:
        with silenced_stderr():
            return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"Expected a topology that a TPU of chips {chip.name} has, such as "
            f"{examples(chip.name)}. "
            f"Received: {topology!r} ({one_line(error, 120)})."
        ) from None


def batch_shapes(spec: BatchSpec, batch_size: int):
    """A batch (x, y, sample_weight) of that form with nothing but shapes and dtypes."""
    return spec.build(lambda feature, shape: keras.KerasTensor(shape, feature.dtype), batch_size)


def without_values(new_model, shapes):
    """Makes a compiled model with all variables of its training, of which there are only shapes and
    dtypes.

    Args:
        new_model: Returns a model that `compile` was called on.
        shapes: Those of a batch, as by `batch_shapes`.
    """
    import jax

    models = []

    def build():
        model = new_model()
        model._symbolic_build(data_batch=shapes)
        model.optimizer.build(model.trainable_variables)
        models.append(model)

    jax.eval_shape(build)
    return models[0]


def compiled_step(model, shapes, chips):
    """Compiles a model's training step for chips that share the batch out, as `fit` does under
    keras.distribution.DataParallel.

    Args:
        model: A Pretrainer as by `without_values`.
        shapes: Those of a batch, as by `batch_shapes`.
        chips: As by `topology_devices`.

    Returns:
        A jax.stages.Compiled.

    Raises:
        InputError: The step would need the host.
    """
    import jax

    replicated, shared = _shardings(chips)
    state = _shapes_of(_state(model), replicated)
    donated = jax.jit(
        model.train_step,
        donate_argnums=0,
        out_shardings=(None, jax.tree.map(lambda _: replicated, state)),
    )
    lowered = donated.lower(state, _shapes_of(shapes, shared))
    check_needs_no_host(lowered.as_text())
    compiled = lowered.compile()
    check_needs_no_host(compiled.as_text())
    return compiled


_HOST = re.compile(
    r'is_host_transfer ?= ?true|\b(?:infeed|outfeed)\b|custom_call_target="[^"]*(?:callback|host)[^"]*"|@\w*callback\w*\(',
    re.IGNORECASE,
)


def check_needs_no_host(text):
    """Raises InputError if a program, as StableHLO or as compiled HLO, sends something to the host
    or waits for it.

    >>> check_needs_no_host("%sum = f32[] add(%x, %y)")
    >>> check_needs_no_host("%said = token[] outfeed(%x)")
    Traceback (most recent call last):
        ...
    tfrecords.errors.InputError: Expected a step that needs no host. Received one with: %said =
    token[] outfeed(%x)."""
    for line in text.splitlines():
        if _HOST.search(line):
            raise InputError(
                f"Expected a step that needs no host. Received one with: {one_line(line, 200)}."
            )


def compiled_update(model, chips):
    """Compiles the last part of a step alone, from gradients to new weights. Arguments and result
    as of `compiled_step`."""
    import jax

    replicated, _ = _shardings(chips)
    trainable, _, optimizer_values, _ = _shapes_of(_state(model), replicated)
    update = jax.jit(
        model.optimizer.stateless_apply, donate_argnums=(0, 2), out_shardings=replicated
    )
    return update.lower(optimizer_values, trainable, trainable).compile()


def _state(model):
    return model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )


def _shardings(chips):
    """Whole on every chip, and rows shared out."""
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(chips), ("batch",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))


def _shapes_of(values, sharding):
    import jax

    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding), values
    )


def one_line(text, length):
    """The beginning of a text, without its line breaks."""
    return " ".join(str(text).split())[:length]
