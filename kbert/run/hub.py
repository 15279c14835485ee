"""Names of models on the Hugging Face Hub, where the path of a directory is expected; and the error
where nothing is at the path of a run."""

from __future__ import annotations

import pathlib
import re

from tfrecords.errors import InputError

# A pathlib.Path has turned the two slashes of hf:// into one.
_NAME = re.compile(
    r"(?P<scheme>hf:/+|https?:/+huggingface\.co/+)?(?P<name>\w[\w.-]*(/\w[\w.-]*)?)/?"
)


def no_run(directory: pathlib.Path) -> InputError:
    """The error where nothing is at the path of a run."""
    return InputError(
        f"Expected a run by 'kbert pretrain' at {directory}. Received: no such directory"
        f"{how_to_get(directory)}."
    )


def how_to_get(path: pathlib.Path) -> str:
    """What to do about a path at which there is nothing, if it may be the name of a model on the
    Hub; else an empty text.

    >>> how_to_get(pathlib.Path("google-bert/bert-base-cased")).rpartition("get it with ")[2]
    "'hf download google-bert/bert-base-cased --local-dir bert-base-cased' and give that directory"
    >>> how_to_get(pathlib.Path("/home/me/model"))
    ''
    """
    match = _NAME.fullmatch(str(path))
    if path.exists() or match is None:
        return ""
    name = match["name"]
    directory = name.rpartition("/")[2]
    return (
        "; kbert downloads nothing: if this is a model on the Hugging Face Hub, get it with "
        f"'hf download {name} --local-dir {directory}' and give that directory"
    )
