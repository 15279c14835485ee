"""The input of a build: which files it is, and the hash by which a rerun recognises it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import pathlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tfrecords.build.tasks import Text
from tfrecords.errors import InputError
from tfrecords.files import PARTIAL_SUFFIX, sha256
from tfrecords.inputs import input_files, parted_weight, spool
from tfrecords.progress import progress_bar
from tfrecords.text.decoding import Utf8
from tfrecords.text.members import is_plain_text
from tfrecords.text.spans import SpanGroup


def corpus_files(
    inputs: str | os.PathLike | Iterable[str | os.PathLike], output: pathlib.Path
) -> dict[pathlib.Path, int]:
    """The files of the input with their weights, without those in the output, which a pattern may
    match.

    Raises:
        InputError: The output is an input or holds one, or is inside an input directory: its
            records would be text for the next build.
    """
    inputs = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    resolved = output.resolve()
    for path in inputs:
        there = parted_weight(path)[0].resolve()
        inside = there.is_relative_to(resolved) and resolved.is_dir()
        if inside or (there.is_dir() and resolved.is_relative_to(there)):
            raise InputError(
                f"Expected an output directory apart from the input. Received: {resolved} for the "
                f"input {path}."
            )
    return input_files(inputs, output)


@contextlib.contextmanager
def spooled(
    files: dict[pathlib.Path, int], output: pathlib.Path
) -> Iterator[dict[pathlib.Path, int]]:
    """Yields the files, with a copy beside the output in the place of standard input; the copy is
    removed at the end."""
    output = output.resolve()  # "." has no name
    path = output.with_name(f"{output.name}.standard-input{PARTIAL_SUFFIX}")
    try:
        with full_disk_explained(path):
            files = spool(files, path)
        yield files
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_explained(path: pathlib.Path) -> Iterator[None]:
    """Says what to do when the disk is full, and names `path` if the error names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            errno.ENOSPC,
            "no space left on the disk; free some and run the same command again to continue",
            str(error.filename or path),
        ) from None


def file_digests(
    files: Collection[pathlib.Path], workers: int, progress: bool, is_text: bool = False
) -> dict[str, str]:
    """The SHA-256 of every file, in hexadecimal, by its path. Files are read in threads: hashing
    releases Python's lock.

    Args:
        files: The files.
        workers: The number of threads.
        progress: Whether to show a progress bar.
        is_text: Whether files that are neither compressed nor archives have to be UTF-8. An invalid
            byte in the last of them is told here, before hours of work.

    Raises:
        InputError: A byte is invalid.
    """
    num_bytes = sum(file.stat().st_size for file in files)
    stopped = threading.Event()
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        progress_bar("reading", num_bytes, "B", progress) as bar,
    ):

        def digest_of(file):
            decoder = Utf8(str(file)) if is_text and is_plain_text(file) else None

            def visit(block):
                bar.update(len(block))
                if stopped.is_set():
                    raise InterruptedError
                if decoder:
                    decoder.check(block)

            digest = sha256(file, visit)
            if decoder:
                decoder.check(b"", is_last=True)
            return digest

        try:
            return dict(zip(map(str, files), pool.map(digest_of, files), strict=True))
        finally:
            # After Ctrl-C the end of the block would otherwise wait for whole files.
            stopped.set()


def corpus_digest(digests: Iterable[str]) -> str:
    """The SHA-256 of the SHA-256s of the files, all in hexadecimal."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def text_digests(groups: Iterable[SpanGroup], files: Mapping[str, str]) -> list[str]:
    """A digest of the text of each group of spans, from those of the files."""

    def digest(group: SpanGroup) -> str:
        spans = [(files[span.path], span.start, span.end, span.weight) for span in group.spans]
        return hashlib.sha256(repr(spans).encode()).hexdigest()

    return list(map(digest, groups))


def files_without_text(
    files: Iterable[pathlib.Path], tasks: Sequence[Text], texts: Sequence[dict[str, Any]]
) -> list[pathlib.Path]:
    """The files in which no task has found text."""
    with_text = set()
    for task, text in zip(tasks, texts, strict=True):
        empty = set(text["without_text"])
        with_text.update(
            span.path for place, span in enumerate(task.group.spans) if place not in empty
        )
    return [file for file in files if str(file) not in with_text]
