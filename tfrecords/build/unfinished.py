"""The directory of unfinished work inside of the output: what is tokenized and not in a shard yet.

It is gone when the build is finished. After a kill, the next attempt continues from it; after an
error in the text, an attempt with the text mended keeps what was tokenized of the rest."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfrecords.files import PARTIAL_SUFFIX, make_directory, read_json, write_json

NAME = "unfinished"
_MADE_WITH = "made-with.json"
_TEXT = "text.json"
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


def text_names(
    output: pathlib.Path,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    complete: Callable[[dict], dict] = dict,
) -> list[str]:
    """The names of the tasks that tokenize text, which their files begin with: the digest of what
    each has to do. What an earlier attempt has done of it stays, and the rest is removed.

    An attempt that was killed had the same text. One that was refused for its text may have had
    other files, and then other tasks.

    Args:
        output: The directory of the records, with one of unfinished work.
        settings: All that decides, beside the text, what is tokenized; among it "errors".
        texts: A digest of the text of each task, in order.
        complete: Called with the settings of the earlier attempt; see `files.claim_directory`.
    """
    path = output / NAME / _TEXT
    if not path.exists() and any(path.parent.glob("text-*")):
        # By a release that numbered the tasks, and kept nothing after an error.
        return [f"text-{number:06d}" for number in range(len(texts))]

    # The same text may be there several times.
    times, names = collections.Counter(), []
    for text in texts:
        names.append(f"text-{text[:16]}{times[text]:04d}")
        times[text] += 1
    now = json.loads(json.dumps({"settings": settings, "names": names}))
    before = read_json(path, "the text of an earlier attempt") if path.exists() else now
    if before != now:
        earlier = json.loads(json.dumps(complete(before["settings"])))
        if earlier["errors"] == "strict":  # what it passed has nothing to be replaced
            earlier["errors"] = settings["errors"]
        if earlier != now["settings"]:
            forget_unfinished(output)
            open_unfinished(output)
        elif before["names"] != names:
            _remove_others(path.parent, names)
    write_json(path, now)
    return names


def _remove_others(directory: pathlib.Path, names: Sequence[str]) -> None:
    """Removes the files of tasks without these names."""
    kept = set(names)
    for file in directory.iterdir():
        name = file.name.partition(".")[0]
        is_kept = name in kept or name.rpartition("-")[0] in kept
        if not is_kept and file.name not in (_MADE_WITH, _TEXT):
            file.unlink()


def may_be_kept(output: pathlib.Path) -> bool:
    """Whether there is text that `text_names` would leave to another attempt."""
    directory = output / NAME
    return was_refused(output) and any(directory.glob("text-*"))


def was_refused(output: pathlib.Path) -> bool:
    """Whether the directory of unfinished work is one that a refused attempt may have left."""
    return (output / NAME / _TEXT).is_file()


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
