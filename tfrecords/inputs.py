"""Where text comes from: files, directories, patterns and standard input."""

from __future__ import annotations

import collections
import glob
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence

from tfrecords.errors import InputError

STANDARD_INPUT = pathlib.Path("-")

HEAD_BYTES = 1 << 12
"""As many of a file's first bytes tell, beside its name, whether it is a corpus."""

_NO_CORPUS = re.compile(
    r"readme(\.\w+)?|_success|_(common_)?metadata|_(started|committed)_\w+|.*\.crc",
    re.IGNORECASE,
)
_NO_CORPUS_FOLDERS = {"_temporary", "_delta_log"}
_WEIGHT = re.compile(r"(.+)=([1-9]\d{0,3})")
_SPECIAL_TOKENS = {b"[UNK]", b"[CLS]", b"[SEP]", b"[MASK]"}


def input_files(
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike | None = None,
) -> dict[pathlib.Path, int]:
    """Expands files, directories and patterns to files, in order, each with its weight.

    A directory stands for all files below it, sorted by path, except those whose names begin with
    a dot. A pattern (`*`, `?`, `[]`, and `**` for any number of directories) stands for all files
    that it matches or that are below a directory that it matches, sorted by path. What is there
    but is no corpus, such as a README, is left out of both with a warning, unless it is named. "-",
    standard input, is returned as it is; see `spool`.

    Each of these may end in "=N", as in "corpus_de/=3": its files have the weight N then, and else
    1. Documents of weight 3 are passed over three times as often, and their words count threefold.

    Args:
        inputs: One path, or several.
        output: A directory that is being made, whose files are none of the input: a pattern may
            match them.

    Raises:
        InputError: An input does not exist, is no regular file, cannot be read, or is named twice.
    """
    if isinstance(inputs, str | os.PathLike):
        inputs = [inputs]
    try:
        files = [
            (file, weight)
            for path, weight in map(parted_weight, inputs)
            for file in _files_of(path, output)
        ]
    except OSError as error:
        raise InputError(
            f"Expected readable text files. Received: {error.filename} ({error.strerror})."
        ) from None
    if not files:
        raise InputError("Expected at least one text file. Received: none.")
    # Twice the same file, also by a link, would be the same documents in training and validation.
    seen = {}
    for file, _ in files:
        other = seen.setdefault(file.resolve(), file)
        if other is not file:
            raise InputError(
                f"Expected each text file once. Received: {file}, which is {other}; name it once."
            )
        if file != STANDARD_INPUT and not os.access(file, os.R_OK):
            raise InputError(
                f"Expected a readable text file. Received: {file} (Permission denied)."
            )
    return dict(files)


def parted_weight(path: str | os.PathLike) -> tuple[pathlib.Path, int]:
    """An input without its weight, and the weight.

    >>> parted_weight("corpus_de/=3")
    (PosixPath('corpus_de'), 3)
    """
    given = _WEIGHT.fullmatch(os.fspath(path))
    if not given or os.path.lexists(path):
        return pathlib.Path(path), 1
    return pathlib.Path(given[1]), int(given[2])


def warn_of_empty_files(files: Sequence[pathlib.Path], stacklevel: int) -> None:
    """Warns of the files in which no text was found, `stacklevel` calls above, where the caller is
    1."""
    if files:
        warnings.warn(f"{_first_of(files)}: no text in there", stacklevel=stacklevel + 1)


def _first_of(files: Sequence[pathlib.Path]) -> str:
    """The first files by name, and how many more there are."""
    more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
    return f"{', '.join(map(str, files[:3]))}{more}"


def _files_of(path: pathlib.Path, output: str | os.PathLike | None) -> list[pathlib.Path]:
    if path == STANDARD_INPUT:
        return [path]
    if path.is_dir():
        return _corpus(_files_below(path), path, output)
    if path.is_file():
        return [path]
    if path.exists():
        raise InputError(
            f"Expected a text file or a directory. Received: {path}, which is neither."
        )
    if path.is_symlink():
        raise InputError(
            f"Expected a text file or a directory. Received: {path}, a symbolic link that leads "
            "nowhere."
        )
    if glob.has_magic(str(path)):
        matches = glob.glob(str(path), recursive=True)
        if not matches:
            raise InputError(
                f"Expected text files. Received: {path}, a pattern that matches nothing."
            )
        # A set, since a directory may match as well as what is in it.
        found = {
            file
            for match in map(pathlib.Path, matches)
            for file in (_files_below(match) if match.is_dir() else _files_of(match, output))
        }
        return _corpus(sorted(found), path, output)
    name, _, weight = str(path).rpartition("=")
    if name and "/" not in weight and pathlib.Path(name).exists():
        raise InputError(
            f"Expected a weight of {name} that is a whole number from 1 to 9,999, as in "
            f"{name}=2. Received: {weight or 'none'}."
        )
    raise InputError(f"Expected a text file or a directory at {path}. Received: no such file.")


def _corpus(
    files: list[pathlib.Path], source: pathlib.Path, output: str | os.PathLike | None
) -> list[pathlib.Path]:
    """The files that are a corpus, of those that were found in `source`; a warning names the
    others: READMEs, markers of Spark and Hadoop, WordPiece vocabularies, and what is in a folder of
    records or of a model."""
    # What the build itself has made is neither a corpus nor worth a word.
    if output is not None:
        made = pathlib.Path(output).resolve()
        files = [file for file in files if not file.resolve().is_relative_to(made)]
    names = collections.defaultdict(set)
    for file in files:
        names[file.parent].add(file.name)
    folders = {folder for folder, there in names.items() if _is_made(there)}
    others = [file for file in files if folders & set(file.parents) or not _is_corpus(file)]
    if not others:
        return files

    found = _first_of(others)
    if len(others) == len(files):
        raise InputError(
            f"Expected text files. Received: {source}, with nothing but {found}, which looks like "
            "no corpus; name a file to read it."
        )
    warnings.warn(f"{source}: left out as no corpus: {found}; name a file to read it", stacklevel=5)
    left_out = set(others)
    return [file for file in files if file not in left_out]


def _is_made(names: set[str]) -> bool:
    """Whether a folder with these files is one of records, or of a model."""
    made_with = {"manifest.json": r".*\.tfrecord.*", "config.json": r".*\.safetensors|history\.csv"}
    return any(
        name in names and any(re.fullmatch(pattern, other) for other in names)
        for name, pattern in made_with.items()
    )


def _is_corpus(file: pathlib.Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return is_corpus(file, opened.read(HEAD_BYTES))
    except OSError:  # `input_files` tells of what cannot be read
        return True


def is_corpus(name: pathlib.PurePath, start: bytes) -> bool:
    """Whether a file in a folder or an archive is a corpus, by its name and its first HEAD_BYTES:
    READMEs, markers of Spark and Hadoop and WordPiece vocabularies are none."""
    if _NO_CORPUS.fullmatch(name.name) or _NO_CORPUS_FOLDERS.intersection(name.parts[:-1]):
        return False
    return not set(start.split()) >= _SPECIAL_TOKENS


def _files_below(directory: pathlib.Path) -> list[pathlib.Path]:
    def refuse(error):
        raise InputError(
            f"Expected a directory that can be read. Received: {error.filename} ({error.strerror})."
        ) from None

    files = []
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(".")]
        paths = [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
        # os.walk does not follow links to directories, and says nothing about them.
        links = [
            pathlib.Path(parent, name)
            for name in directories
            if pathlib.Path(parent, name).is_symlink()
        ]
        for path in paths + links:
            if not path.is_file():
                raise InputError(
                    f"Expected text files in {directory}. Received: {path}, which is none; name "
                    "what it points to."
                )
        files += paths
    if not files:
        raise InputError(f"Expected text files. Received: {directory}, a directory without files.")
    return sorted(files)


def spool(files: dict[pathlib.Path, int], path: str | os.PathLike) -> dict[pathlib.Path, int]:
    """Returns `files`, which have weights, with "-" replaced by `path`, after copying standard
    input there: it is read twice, once to identify it and once for its text."""
    if STANDARD_INPUT not in files:
        return files
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return {
        pathlib.Path(path) if file == STANDARD_INPUT else file: weight
        for file, weight in files.items()
    }
