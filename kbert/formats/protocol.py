"""What a module must offer to be a model format: `Format` to be read, `ExportFormat` to be written
as well.

A format is a module of this package with functions of these names. `load_and_save` lists the
modules; nothing else knows them. This file loads nothing large, so that the command line can take
its choices from here, and a format's module loads the format's own library only inside the
functions that need it: loading a run must not wait for KerasHub.

CONTRIBUTING.md, recipe 3, says what else a new format needs.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, Protocol

from kbert.run.hub import how_to_get
from tfrecords.errors import InputError
from tfrecords.files import read_json

if TYPE_CHECKING:
    from kbert.formats.pretrained import Pretrained

EXPORT_FORMATS = ("saved-model", "keras-hub", "huggingface", "google")
"""The formats that a model can be exported to, each by the NAME of its module."""

CONFIGURATION = "config.json"
"""The configuration of KerasHub, of Hugging Face's libraries and of a run, told apart by fields."""


def configuration_at(path: pathlib.Path) -> dict[str, Any]:
    """The fields of CONFIGURATION in a directory; an empty dict if there is no such file.

    Raises:
        InputError: The file is not a JSON object.
    """
    path = path / CONFIGURATION
    return read_json(path, "the configuration of a model") if path.is_file() else {}


def something_at(path: pathlib.Path) -> bool:
    """Whether a path may be that of a model: something is there, or files of a checkpoint have it
    for their prefix. It costs no import, and whether there is a model is for `load` to say."""
    return path.exists() or pathlib.Path(f"{path}.index").exists()


def no_model(path: pathlib.Path) -> InputError:
    """The error where a directory holds no model in any format."""
    received = "neither" if something_at(path) else "no such directory"
    return InputError(
        "Expected a run by 'kbert pretrain' or a BERT in one of the formats "
        f"{', '.join(EXPORT_FORMATS)} at {path}. Received: {received}{how_to_get(path)}."
    )


class Format(Protocol):
    """A format that pretrained models are loaded from."""

    @property
    def NAME(self) -> str:
        """What users call the format, as in `kbert export --format NAME`. A plain constant of the
        module, as the other two in capitals."""
        ...

    def recognises(self, path: pathlib.Path) -> bool:
        """Tells by the files in a directory, which may not exist, whether it holds this format.

        Only the names of files and the fields of small configurations are looked at; whether the
        rest is complete is for `read` to find out.

        Raises:
            InputError: The configuration that would tell is damaged.
        """
        ...

    def read(self, path: pathlib.Path) -> Pretrained:
        """Reads the model in a directory that `recognises` accepted.

        No code from the directory is ever run, and nothing is unpickled: weights are read as plain
        arrays and configurations as JSON.

        Raises:
            InputError: A file is missing or damaged, or the model has a part that kbert lacks.
        """
        ...


class ExportFormat(Format, Protocol):
    """A format that pretrained models are exported to, too."""

    @property
    def OPTIONS(self) -> tuple[str, ...]:
        """The names of the keyword arguments of `write`."""
        ...

    @property
    def FRONT_MATTER(self) -> str:
        """Metadata for the top of the model card: YAML between lines of "---", or an empty
        string."""
        ...

    def write(
        self, pretrained: Pretrained, directory: pathlib.Path, *args: Any, **options: Any
    ) -> None:
        """Writes the format's own files. `save` adds the notes (kbert.json) and the model card.

        Args:
            pretrained: The model, with a masked language modelling head. If its `pairs` is not
                "none", it has the pooler and the pair head too.
            directory: A path that does not exist yet, in a directory that does. `write` makes the
                directory; `save` renames it to the name that the user gave once everything is in
                it, so an export that fails leaves nothing behind.
            *args: None; they are in this signature only so that a module may name its options.
            **options: Those in OPTIONS, all with defaults.

        Raises:
            InputError: The format cannot hold this model, or an option is out of its range.
        """
        ...

    def usage(self, pretrained: Pretrained) -> str:
        """The section of the model card on how to use the export: Markdown with its heading.
        DIRECTORY stands for the place of the model."""
        ...
