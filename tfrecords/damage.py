"""Whether the files of a directory are still those that its manifest names: none missing, cut
short, changed or added."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from tfrecords.errors import InputError
from tfrecords.files import sha256

MAKE_AGAIN = "remove the directory and make the records again"


def check_sizes(manifest: pathlib.Path, pattern: str, sizes: Mapping[str, int]) -> None:
    """Raises InputError unless the directory of a manifest has the files that this names and no
    other ones.

    Sizes are compared here and hashes in `check_hash`: a directory of 100 GB has to open at once.

    Args:
        manifest: The file.
        pattern: Of the files that the manifest names.
        sizes: Their bytes, by name.
    """
    # Other tools read the directory by a pattern such as *.tfrecord, which must find no more files
    # than the manifest names.
    for path in sorted(manifest.parent.glob(pattern)):
        if path.name not in sizes:
            raise InputError(
                f"{path}: expected only the files that the manifest names. Received: another; "
                "remove it."
            )
    for name, expected in sizes.items():
        if "/" in name:
            raise InputError(
                f"{manifest}: expected shards beside it, by name. Received: {name!r}; {MAKE_AGAIN}."
            )
        path = manifest.parent / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            received = "no such file" if size is None else f"{size} bytes"
            raise InputError(
                f"{path}: expected {expected} bytes, as in the manifest. Received: {received}; "
                f"{MAKE_AGAIN}."
            )


def check_hash(path: pathlib.Path, expected: str) -> None:
    """Raises InputError unless the file has the content with this SHA-256."""
    received = sha256(path)
    if received != expected:
        raise InputError(
            f"{path}: expected the content with SHA-256 {expected[:12]}, as in the manifest. "
            f"Received: {received[:12]}, a damaged file; {MAKE_AGAIN}."
        )
