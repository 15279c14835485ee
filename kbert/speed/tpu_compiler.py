"""Compiles a training step for TPU chips without having them, with the compiler inside libtpu, the
TPU's own library.

What of Keras and JAX is private here: `_symbolic_build` and `_get_jax_state` of a model
(keras/src/trainers/trainer.py and keras/src/backend/jax/trainer.py, Keras 3.15), and
`jax.experimental.topologies` (JAX 0.10)."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np

from kbert.speed.chips import chip_of, examples
from tfrecords import InputError
from tfrecords.batch import Batch, BatchSpec
from tfrecords.errors import one_line
from tfrecords.quiet import silenced_stderr

_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # else it asks the network what machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else one process at a time; but compiling holds no TPU
}
"""What libtpu finds in the environment when it is loaded."""


Shapes = Batch[keras.KerasTensor]
"""A batch (x, y, sample_weight) with nothing but shapes and dtypes."""


def _jax() -> ModuleType:
    """JAX, loaded late: only the functions here need it, and not every installation has it.

    Raises:
        InputError: Keras runs on another backend.
    """
    if keras.backend.backend() != "jax":
        raise InputError(
            f"Expected Keras on JAX. Received: {keras.backend.backend()}; set KERAS_BACKEND=jax "
            "before the import of keras."
        )
    import jax

    return jax


def topology_devices(topology: str) -> Sequence[Any]:
    """The chips of a topology as JAX devices that programs can be compiled for, but not run on.

    Raises:
        InputError: There is no such topology, or JAX or libtpu is missing.
    """
    chip = chip_of(topology)
    jax = _jax()
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "Expected libtpu, the TPU's compiler. Received: none; pip install '.[tpu-plan]' in the "
            "clone, on Linux."
        )
    from jax.experimental import topologies

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
            f"{examples(chip.name)}. Received: {topology!r} ({one_line(error, 120)})."
        ) from None


def batch_shapes(spec: BatchSpec, batch_size: int) -> Shapes:
    """A batch (x, y, sample_weight) of that form with nothing but shapes and dtypes."""
    return spec.build(lambda feature, shape: keras.KerasTensor(shape, feature.dtype), batch_size)


def without_values(new_model: Callable[[], keras.Model], shapes: Shapes) -> keras.Model:
    """Makes a compiled model with all variables of its training, of which only shapes and dtypes
    exist: the large sizes would not fit into this machine's memory.

    Args:
        new_model: Returns a model that `compile` was called on.
        shapes: Those of a batch, as by `batch_shapes`.
    """
    models = []

    # What is made while JAX traces a function has no values. The metrics are only made by
    # `_symbolic_build`, the optimizer's variables only by `build`; `fit` would do both later.
    def build() -> None:
        model = new_model()
        model._symbolic_build(data_batch=shapes)
        model.optimizer.build(model.trainable_variables)
        models.append(model)

    _jax().eval_shape(build)
    return models[0]


def compiled_step(model: keras.Model, shapes: Shapes, chips: Sequence[Any]) -> Any:
    """Compiles a model's training step for chips that share each batch, as `fit` does under
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
    jax = _jax()
    replicated, shared = _shardings(chips)
    state = _shapes_of(_state(model), replicated)
    # As Keras jits it (keras/src/backend/jax/trainer.py, make_train_function): the new state takes
    # the memory of the old.
    donated = jax.jit(
        model.train_step,
        donate_argnums=0,
        out_shardings=(None, jax.tree.map(lambda _: replicated, state)),
    )
    lowered = donated.lower(state, _shapes_of(shapes, shared))
    # Looked for twice: JAX writes some transfers itself, and the compiler adds others.
    check_needs_no_host(lowered.as_text())
    compiled = lowered.compile()
    check_needs_no_host(compiled.as_text())
    return compiled


_HOST = re.compile(
    r"is_host_transfer ?= ?true|\b(?:infeed|outfeed)\b|"
    r'custom_call_target="[^"]*(?:callback|host)[^"]*"|@\w*callback\w*\(',
    re.IGNORECASE,
)


def check_needs_no_host(text: str) -> None:
    """Raises InputError if a program, as StableHLO or as compiled HLO, sends something to the host
    or waits for it.

    >>> check_needs_no_host("%sum = f32[] add(%x, %y)")
    >>> check_needs_no_host("outfeed(%x)")
    Traceback (most recent call last):
        ...
    tfrecords.errors.InputError: Expected a step that needs no host. Received one with: outfeed(%x).
    """
    for line in text.splitlines():
        if _HOST.search(line):
            raise InputError(
                f"Expected a step that needs no host. Received one with: {one_line(line, 200)}."
            )


def compiled_update(model: keras.Model, chips: Sequence[Any]) -> Any:
    """Compiles the last part of a step alone, from gradients to new weights. Arguments and result
    are those of `compiled_step`."""
    replicated, _ = _shardings(chips)
    trainable, _, optimizer_values, _ = _shapes_of(_state(model), replicated)
    update = _jax().jit(
        model.optimizer.stateless_apply, donate_argnums=(0, 2), out_shardings=replicated
    )
    return update.lower(optimizer_values, trainable, trainable).compile()


def _state(model: keras.Model) -> tuple[Any, ...]:
    return model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )


def _shardings(chips: Sequence[Any]) -> tuple[Any, Any]:
    """Two shardings: everything on every chip, and the rows of a batch divided among them."""
    sharding = _jax().sharding
    mesh = sharding.Mesh(np.array(chips), ("batch",))
    whole, rows = sharding.PartitionSpec(), sharding.PartitionSpec("batch")
    return sharding.NamedSharding(mesh, whole), sharding.NamedSharding(mesh, rows)


def _shapes_of(values: Any, sharding: Any) -> Any:
    jax = _jax()
    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding), values
    )
