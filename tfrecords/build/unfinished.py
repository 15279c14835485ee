"""The directory of unfinished work inside of the output: what is tokenized and not in a shard yet.

It is gone when the build is finished. After a kill, the next attempt continues from it."""

from __future__ import annotations

import importlib.metadata
import pathlib
import shutil

from tfrecords.files import PARTIAL_SUFFIX, make_directory, read_json, write_json

NAME = "unfinished"
_MADE_WITH = "made-with.json"
_PACKAGES = {
    "kbert": "kbert-pretraining",
    "tensorflow-text": "tensorflow-text",
    "nupunkt": "nupunkt",
}
"""The packages that decide what text becomes, and the distributions that they are installed from:
their versions must stay the same from the beginning to the end of a build."""


def open_unfinished(output: pathlib.Path) -> pathlib.Path:
    """Makes the directory of unfinished work, or returns that of an earlier attempt, unless other
    versions of the packages did its work."""
    directory = output / NAME
    made_with = versions()
    path = directory / _MADE_WITH
    if path.exists() and read_json(path, "the versions of an earlier attempt") != made_with:
        forget_unfinished(output)
    for leftover in [
        *output.glob(f"*{PARTIAL_SUFFIX}"),
        *directory.glob(f"*{PARTIAL_SUFFIX}"),
    ]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    make_directory(directory)
    write_json(path, made_with)
    return directory


def forget_unfinished(output: pathlib.Path) -> None:
    """Removes unfinished work and the shards.

    The order matters: the directory first takes another name, so that a kill in the middle leaves
    no half of it that would be taken for the whole."""
    directory, gone = output / NAME, output / f"{NAME}{PARTIAL_SUFFIX}"
    if gone.exists():
        shutil.rmtree(gone)
    if directory.exists():
        directory.replace(gone)
        shutil.rmtree(gone)
    for path in output.glob("*.tfrecord*"):
        path.unlink()


def versions() -> dict[str, str | None]:
    """The versions of the packages that decide what text becomes; None for one that runs from its
    sources."""
    return {name: _version(distribution) for name, distribution in _PACKAGES.items()}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
