"""Checkpoints: a directory per step that appears whole, is verified before it is trusted, and is
never overwritten.

A checkpoint holds every variable of the model and of its optimizer as safetensors, and a JSON file
with the step and the SHA-256 of the weights. Nothing in it is ever unpickled or executed."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import warnings

import keras
import numpy as np
import safetensors

from kbert.run.tensors import read_tensors, save_tensors
from tfrecords import InputError
from tfrecords.files import (
    PARTIAL_SUFFIX,
    atomic_path,
    make_directory,
    read_json,
    sha256,
    write_json,
)

WEIGHTS = "weights.safetensors"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{9,})")


def save_checkpoint(
    directory: str | os.PathLike[str],
    model: keras.Model,
    step: int,
    keep: int = 3,
    best: int | None = None,
) -> pathlib.Path:
    """Writes the checkpoint of `step` below `directory` and then removes all but the `keep` newest
    up to it, and the best.

    Damaged ones of this step and of later steps, from which a run had to go back, are removed too.

    Args:
        directory: Where a run keeps its checkpoints.
        model: A compiled and built keras.Model.
        step: How many updates it has had.
        keep: How many checkpoints stay.
        best: The step of one that stays however old it is; None if there is no such.

    Returns:
        The path of the checkpoint.

    Raises:
        OSError: It could not be written; the others are as they were.
    """
    directory = make_directory(directory)
    path = directory / f"step-{step:09d}"
    for leftover in directory.glob(f"*{PARTIAL_SUFFIX}"):
        shutil.rmtree(leftover)
    for other in list_checkpoints(directory):
        if other >= path and not _is_intact(other):
            shutil.rmtree(other)
    if not path.exists():
        with atomic_path(path) as partial:
            partial.mkdir()
            try:
                save_tensors(_values(model), partial / WEIGHTS)
            except (
                safetensors.SafetensorError
            ) as error:  # such as a full disk, which it does not tell from other errors
                raise OSError(f"{path / WEIGHTS}: {error}") from None
            write_json(partial / STATE, {"step": step, "weights_sha256": sha256(partial / WEIGHTS)})
    checkpoints = list_checkpoints(directory)
    for old in checkpoints[: max(0, checkpoints.index(path) + 1 - keep)]:
        if step_of(old) != best:
            shutil.rmtree(old)
    return path


def list_checkpoints(directory: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The checkpoints below `directory`, oldest first."""
    paths = [path for path in pathlib.Path(directory).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of)


def step_of(path: pathlib.Path) -> int:
    return int(path.name.removeprefix("step-"))


def restore_checkpoint(
    directory: str | os.PathLike[str], model: keras.Model, preferred: int | None = None
) -> int | None:
    """Loads the newest checkpoint that is intact into `model`, and warns of those that are not.

    Args:
        directory: Where a run keeps its checkpoints.
        model: The model they were made of: built, and compiled if it is to be trained further; a
            model that is not compiled gets its weights alone.
        preferred: The step of the checkpoint to load instead, if it is there and intact.

    Returns:
        The step of the checkpoint, or None if there is no checkpoint at all.

    Raises:
        InputError: No checkpoint is intact, or they are of another model; the message says what
            differs.
    """
    newest = newest_checkpoint(directory, preferred)
    if newest is None:
        return None
    path, step, values = newest
    _assign(model, values, path)
    return step


def newest_checkpoint(
    directory: str | os.PathLike[str], preferred: int | None = None
) -> tuple[pathlib.Path, int, dict[str, np.ndarray]] | None:
    """Reads the newest checkpoint that is intact, and warns of those that are not; `preferred` as
    for `restore_checkpoint`.

    Returns:
        Its path, its step and its values: arrays by name, those of the model under model/. None if
        there is no checkpoint.

    Raises:
        InputError: No checkpoint is intact.
    """
    checkpoints = list_checkpoints(directory)

    def rank(path: pathlib.Path) -> tuple[bool, int]:
        return step_of(path) == preferred, step_of(path)

    for path in sorted(checkpoints, key=rank, reverse=True):
        try:
            return path, *_read(path)
        except InputError as error:
            warnings.warn(
                f"The checkpoint {path} is damaged and passed over: {error}", stacklevel=2
            )
    if checkpoints:
        raise InputError(
            f"Expected an intact checkpoint in {directory}. Received: {len(checkpoints)}, all of "
            "them damaged."
        )
    return None


def _read(path: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    """The step and the values of the checkpoint at `path`, verified; InputError if it is not
    intact."""
    state = read_json(path / STATE, "the state of a checkpoint")
    expected = {"step": step_of(path), "weights_sha256": None}
    try:
        expected["weights_sha256"] = sha256(path / WEIGHTS)
        if state != expected:
            raise InputError(
                f"Expected {expected} in {path / STATE}, as its name and its weights are. "
                f"Received: {state}."
            )
        return expected["step"], read_tensors(path / WEIGHTS)
    except OSError as error:
        raise InputError(f"Expected the weights in {path / WEIGHTS}. Received: {error}.") from None


def _is_intact(path: pathlib.Path) -> bool:
    try:
        _read(path)
    except InputError:
        return False
    return True


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Every variable of the model and its optimizer, by a name that is the same in every
    process."""
    variables = {f"model/{variable.path}": variable for variable in model.variables}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        optimizer.build(model.trainable_variables)
        variables |= {f"optimizer/{variable.path}": variable for variable in optimizer.variables}
    return variables


def _values(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: np.asarray(variable.numpy()) for name, variable in _variables(model).items()}


def _assign(model: keras.Model, values: dict[str, np.ndarray], path: pathlib.Path) -> None:
    # Every shape is compared before the first value is assigned: a model with half of another's
    # weights would be worse than none. An optimizer's values that the model has no variables
    # for are ignored: a model that only evaluates has no optimizer.
    variables = _variables(model)
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    there = {
        name: value.shape
        for name, value in values.items()
        if name in wanted or name.startswith("model/")
    }
    if there != wanted:
        name = next(
            name
            for name in sorted(wanted.keys() | there.keys())
            if wanted.get(name) != there.get(name)
        )
        raise InputError(
            f"Expected a checkpoint of this model at {path}. Received: another model's, which "
            f"differs first in {name}: "
            f"shape {there.get(name, 'absent')} there, {wanted.get(name, 'absent')} here; use its "
            "own configuration."
        )
    for name, variable in variables.items():
        variable.assign(values[name])
