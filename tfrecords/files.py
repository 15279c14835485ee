"""Files that appear whole or not at all, and directories that are never overwritten.

Locks and the syncing of directories are those of Linux and macOS (fcntl); there is no Windows."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import fnmatch
import glob
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from tfrecords.errors import InputError

PARTIAL_SUFFIX = ".partial"
LOCK = ".lock"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; when the block ends without an error, what was written
    there is synced to disk and takes the name `path`.

    A killed process leaves at most a file or directory with the suffix `.partial`, which the next
    attempt removes; the name itself always holds the old content or the new. A directory replaces
    only an empty one. Two attempts at once write to different temporary paths, and one of them may
    fail."""
    path = pathlib.Path(path).absolute()  # "." has no name
    for leftover in path.parent.glob(partial_pattern(path.name)):
        _remove(leftover)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    # After a power cut a name must not hold less than its content: sync the content first, then
    # rename, then sync the directory that has the name.
    for file in [partial] if partial.is_file() else sorted(partial.rglob("*")):
        _fsync(file)
    _fsync(partial)
    partial.replace(path)
    _fsync(path.parent)


def partial_pattern(name: str) -> str:
    """The pattern of the temporary names of `name`."""
    return f"{glob.escape(name)}.*{PARTIAL_SUFFIX}"


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_gzip(path: str | os.PathLike) -> bool:
    """Whether a file is compressed with gzip, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def sha256(path: str | os.PathLike, visit: Callable[[bytes], object] = lambda _: None) -> str:
    """The SHA-256 of a file's content, in hexadecimal; `visit` is called with every MiB of it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            visit(block)
    return digest.hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike, what: str) -> dict[str, Any]:
    """Reads the JSON object in `path`; `what` names it in errors ("the manifest of the records").

    Raises:
        InputError: The file is missing or is not a JSON object.
    """
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"Expected {what} at {path}. Received: no such file.") from None
    except (ValueError, OSError) as error:
        raise InputError(
            f"Expected {what} at {path}. Received: a file that cannot be read as JSON ({error})."
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            f"Expected {what} at {path}, a JSON object. Received: a {type(value).__name__}."
        )
    return value


def new_file(path: str | os.PathLike) -> pathlib.Path:
    """Returns `path` if it does not exist yet, and makes its directory.

    Raises:
        InputError: It exists, or the directory cannot be made.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(
            f"Expected the name of a file to write. Received: the directory {path}; name a file in "
            "it."
        )
    if path.exists():
        raise InputError(
            f"Expected a new file. Received: {path}, which exists; name another or remove it."
        )
    make_directory(path.parent)
    return path


def new_directory(path: str | os.PathLike, leftovers: Sequence[str] = ()) -> pathlib.Path:
    """Returns `path` if a directory may be made there: it does not exist yet, or is empty.

    Args:
        path: The directory.
        leftovers: Patterns of names that do not count, since an earlier attempt may have left
            them.

    Raises:
        InputError: It is a file, or a directory that is not empty.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"Expected the name of a directory to make. Received: {path}, which is a file; name "
            "another."
        )
    # A lock and what a killed attempt left do not make a directory somebody else's.
    there = sorted(path.iterdir()) if path.exists() else []
    there = [
        file
        for file in there
        if not any(fnmatch.fnmatchcase(file.name, name) for name in (LOCK, *leftovers))
    ]
    if there:
        raise InputError(
            f"Expected an empty or new directory. Received: {path}, which already holds "
            f"{there[0].name}"
            + (f" and {len(there) - 1} more" if len(there) > 1 else "")
            + "; name another or empty it."
        )
    return path


def claim_directory(
    path: str | os.PathLike,
    identity: dict,
    name: str,
    complete: Callable[[dict], dict] = dict,
    leftovers: Sequence[str] = (),
) -> pathlib.Path:
    """Creates the directory `path` for the job that `identity` describes, or recognises it as the
    directory of that same job.

    The identity is kept as JSON in the file `name`. A rerun of the same job continues in the same
    directory; any other job is refused.

    Args:
        path: The directory.
        identity: A flat dict of JSON values: everything that the job's output depends on, and its
            "kind" in words.
        name: The file in the directory that keeps the identity.
        complete: Called with the dict that the file holds; returns it with a value for every field
            that the release that wrote it did not have yet. See `with_defaults`. It is what lets a
            later release continue the work of an earlier one.
        leftovers: Names of what an attempt with another identity may have left there.

    Returns:
        The directory as a Path.

    Raises:
        InputError: The directory holds something else, or the same job with another configuration
            (the message names the differences), or with fields of a newer release.
    """
    path = pathlib.Path(path)
    identity = json.loads(json.dumps(identity))  # a tuple is a list in the file
    if (path / name).exists():
        there = read_json(path / name, "the configuration of an earlier run")
        if there.get("kind") != identity["kind"]:
            received = there.get("kind", "something else")
            raise InputError(
                f"Expected a directory for {identity['kind']}. Received: {path}, which holds "
                f"{received}; name another."
            )
        # Nobody knows here what the fields of a newer release mean, so none may be ignored.
        if unknown := sorted(there.keys() - identity.keys()):
            raise InputError(
                f"Expected a configuration that this release knows in {path / name}. Received: "
                f"the fields {', '.join(unknown)}, which a newer release wrote; upgrade or name "
                "another directory."
            )
        differences = difference(json.loads(json.dumps(complete(there))), identity)
        if differences:
            raise InputError(
                f"Expected the configuration that {path} was made with. Received another: "
                f"{differences}; use the same, name another directory, or remove this one."
            )
        return path
    path = make_directory(new_directory(path, (partial_pattern(name), *leftovers)))
    write_json(path / name, identity)
    return path


EARLIER = "earlier"
"""The key in a dataclass field's metadata of what the field's absence means: the behaviour of the
releases that did not have it, where that is not the field's default."""


def values_before(configuration: type) -> dict[str, Any]:
    """The values of the fields whose absence means another value than their default.

    >>> @dataclasses.dataclass
    ... class Job:
    ...     seed: int
    ...     kernel: str = dataclasses.field(default="fast", metadata={EARLIER: "plain"})
    >>> values_before(Job)
    {'kernel': 'plain'}
    """
    return {
        field.name: field.metadata[EARLIER]
        for field in dataclasses.fields(configuration)
        if EARLIER in field.metadata
    }


def with_defaults(fields: dict, configuration: type, prefix: str = "") -> dict:
    """Completes the fields that an earlier release wrote: reads them into the dataclass
    `configuration`, whose defaults stand for the fields that it has gained since.

    This rests on one rule: the default of a new field is the behaviour before the field existed. A
    field whose default is another says by its metadata what that was; see EARLIER.

    >>> @dataclasses.dataclass
    ... class Job:
    ...     seed: int
    ...     rounds: int = 1
    >>> with_defaults({"kind": "a job", "job.seed": 7}, Job, "job.")
    {'kind': 'a job', 'job.seed': 7, 'job.rounds': 1}

    Args:
        fields: A flat dict; of other keys than `prefix` and the name of a field nothing is read.
        configuration: A dataclass.
        prefix: What stands before the names of its fields in the dict.

    Returns:
        A new dict. Values that the dataclass refuses come back as they are: comparing them tells
        more than the dataclass's own message, which does not know the file.
    """
    names = [field.name for field in dataclasses.fields(configuration)]
    known = {name: fields[prefix + name] for name in names if prefix + name in fields}
    try:
        values = dataclasses.asdict(configuration(**values_before(configuration) | known))
    except (TypeError, InputError):
        return dict(fields)
    return fields | {prefix + name: value for name, value in values.items()}


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Makes `directory` if necessary and locks it against other processes that would write to it.

    The lock is a file `.lock` in it, held with flock, so that it ends with the process. It is
    removed at the end, and so is the directory if it is empty. (A lock file beside the directory
    would need write permission for the parent, and would stay behind or need the same care.)

    Yields:
        The directory as a Path.

    Raises:
        InputError: Another process holds it, or it cannot be made.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(
            f"Expected the name of a directory. Received: {directory}, which is a file; name "
            "another."
        )
    lock = directory / LOCK
    file = _lock(lock)
    try:
        yield directory
    finally:
        lock.unlink(missing_ok=True)
        file.close()
        with contextlib.suppress(OSError):  # it is not empty, as a rule
            directory.rmdir()


def _lock(path: pathlib.Path) -> IO[str]:
    # Another process that has just ended may remove the directory before we open the file, and the
    # file before we lock it: then begin again. A lock counts only if its file still has the name.
    while True:
        make_directory(path.parent)
        try:
            file = path.open("a")  # stays open as long as the lock is held
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"Expected {path.parent} to be free. Received: a directory that another process "
                "works on; wait for it."
            ) from None
        except OSError as error:
            file.close()
            raise InputError(
                f"Expected a file system with locks (flock) at {path.parent}. Received: "
                f"{error.strerror}; mount it with them."
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """How two dicts differ, in one line: `"seed: 1 before, 2 now; size: ..."`; empty if they are
    equal."""
    return "; ".join(
        f"{key}: {before.get(key)!r} before, {after.get(key)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def make_directory(path: str | os.PathLike) -> pathlib.Path:
    """Makes the directory `path` with its parents, if it does not exist, and returns it as a
    Path."""
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and not os.path.lexists(path):
            return make_directory(path)  # another process has just removed it
        raise InputError(
            f"Expected a directory that can be made at {path}. Received: {error.strerror}."
        ) from None
    return path
