"""The directory of unfinished work inside of the output: what is tokenized and not in a shard yet.

It is gone when the build is finished. After a kill, the next attempt continues from it; after an
error in the text, an attempt with the text mended keeps what was tokenized of the rest."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re
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


def keep_tokenized(
    output: pathlib.Path,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    complete: Callable[[dict], dict] = dict,
) -> None:
    """Keeps, of the tokenized text of an earlier attempt, what is the same in this one, and gives
    it the numbers of this one.

    An attempt that was killed has the same text, all of which is kept. One that was refused for its
    text may have other files, and then other tasks.

    Args:
        output: The directory of the records, with one of unfinished work.
        settings: All that decides, beside the text, what is tokenized; among it "errors".
        texts: A digest of the text of each task, in order.
        complete: Called with the settings of the earlier attempt; see `files.claim_directory`.
    """
    directory = output / NAME
    now = json.loads(json.dumps({"settings": settings, "texts": texts}))
    path = directory / _TEXT
    # A release that kept nothing after an error wrote no such file.
    before = read_json(path, "the text of an earlier attempt") if path.exists() else now
    before["settings"] = json.loads(json.dumps(complete(before["settings"])))
    if before["settings"]["errors"] == "strict":  # what it passed has nothing to be replaced
        before["settings"]["errors"] = settings["errors"]
    if before == now:
        write_json(path, now)
        return

    kept, gone = (output / f"{NAME}-{what}{PARTIAL_SUFFIX}" for what in ("kept", "gone"))
    kept.mkdir()
    if before["settings"] == now["settings"]:
        numbers = {text: number for number, text in enumerate(before["texts"])}
        for number, text in enumerate(texts):
            if text in numbers:
                _move_text(directory, numbers[text], kept, number)
    write_json(kept / _TEXT, now)
    (directory / _MADE_WITH).rename(kept / _MADE_WITH)
    directory.rename(gone)
    kept.rename(directory)
    shutil.rmtree(gone)


def _move_text(source: pathlib.Path, number: int, target: pathlib.Path, new_number: int) -> None:
    """Moves what a task has made of its text, under another number."""
    old, new = f"text-{number:06d}", f"text-{new_number:06d}"
    result = source / f"{old}.json"
    if not result.exists():
        return
    names = re.compile(rf"{old}(?=-\d+$)")
    value = read_json(result, "the result of an earlier attempt")
    value["parts"] = [(names.sub(new, name), documents) for name, documents in value["parts"]]
    # The result says that there is the rest: it goes first, and comes last.
    result.unlink()
    for path in source.glob(f"{old}[.-]*"):
        path.rename(target / (new + path.name.removeprefix(old)))
    write_json(target / f"{new}.json", value)


def has_tokenized(output: pathlib.Path) -> bool:
    """Whether there is text that `keep_tokenized` could keep."""
    return any((output / NAME).glob("text-*.json"))


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
