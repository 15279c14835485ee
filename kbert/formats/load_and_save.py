"""Every form that a pretrained model has on disk: which is which, and the ways in and out."""

import importlib
import pathlib
import warnings

from kbert.formats.card import model_card
from kbert.formats.pretrained import HEADS, Pretrained, save_notes
from kbert.run.directory import KIND
from tfrecords import InputError
from tfrecords.files import atomic_path, make_directory, new_directory, read_json, write_text

FORMATS = ("saved-model", "keras-hub", "huggingface", "google")
"""The formats that a model is exported to."""


def load(path):
    """Loads a pretrained model: a run (its newest checkpoint), or an export in any format, by kbert
    or by its own tools.

    Args:
        path: The directory of a run by `kbert pretrain`, of a SavedModel by `kbert export`, of a
            preset of KerasHub, of a BERT in Hugging Face's layout, or of a checkpoint of
            google-research/bert. What has no notes by kbert beside it says by its own configuration
            what it is.

    Returns:
        A Pretrained; its `model` is the Keras model.

    Raises:
        InputError: It is none of them, or a BERT that kbert has not.
    """
    path = pathlib.Path(path)
    format = format_of(path)
    if format is None:
        raise InputError(
            "Expected a run by 'kbert pretrain' or a BERT of one of the formats "
            f"{', '.join(FORMATS)} at {path}. "
            "Received: neither."
        )
    return _module(format).read(path)


def format_of(path):
    """The format of the model in a directory by the files there, "run" for a run; None if it is
    none."""
    path = pathlib.Path(path)
    if (path / "saved_model.pb").is_file():
        return "saved-model"
    # The directories of the Hub have both files where both were published; the checkpoint then
    # tells whether it is Google's.
    if (path / "bert_config.json").is_file() and not (
        (path / "config.json").is_file() and not any(path.glob("*.index"))
    ):
        return "google"
    if not (path / "config.json").is_file():
        return None
    fields = read_json(path / "config.json", "the configuration of a model")
    for key, format in {"registered_name": "keras-hub", "model_type": "huggingface"}.items():
        if key in fields:
            return format
    return "run" if fields.get("kind") == KIND else None


def save(pretrained, output, format="saved-model", **options):
    """Writes a model in a format, with a README.md that says how to use it and how it was trained.

    Args:
        pretrained: A Pretrained, as by `load` or `Pretrained.of_model`. If it came without a head
            of next sentence prediction, its pooler is left out, which is said.
        output: The directory to make; it must not exist or be empty.
        format: One of FORMATS.
        **options: Of the format; for a SavedModel `top_k`, how many words it gives for each [MASK].

    Returns:
        The directory.

    Raises:
        InputError: The directory holds something already, the model cannot fill masks, or the
            format cannot hold it.
    """
    if format not in FORMATS:
        raise InputError(f"Expected a format among {', '.join(FORMATS)}. Received: {format!r}.")
    if HEADS["mlm"] in pretrained.missing:
        raise InputError(
            f"Expected a model with a head of {HEADS['mlm']}. Received: {pretrained.source} "
            "without it; "
            "train it with 'kbert pretrain --init-from'."
        )
    if pretrained.missing:
        warnings.warn(
            f"{pretrained.source} has no trained head of {HEADS['nsp']}; its pooler is left out.",
            stacklevel=2,
        )
        pretrained = pretrained.without_pairs()
    module = _module(format)
    output = new_directory(output)
    make_directory(output.parent)
    with atomic_path(output) as partial:
        module.write(pretrained, partial, **options)
        save_notes(pretrained, partial)
        card = model_card(pretrained, module.usage(pretrained), getattr(module, "FRONT_MATTER", ""))
        write_text(partial / "README.md", card)
    return output


def export_saved_model(model, vocabulary, output, *, sequence_length=None, cased=None, top_k=5):
    """Writes a Keras model that is there as a SavedModel: `save` of `Pretrained.of_model`.

    Args:
        model: A pretraining model.
        vocabulary: Its Vocabulary.
        output: The directory to make; it must not exist or be empty.
        sequence_length: The longest input in tokens; None takes as many as the model has positions.
        cased: Whether to keep case and accents; None takes what the vocabulary shows.
        top_k: How many words `fill_mask` gives for each [MASK].

    Returns:
        The directory.

    Raises:
        InputError: The directory holds something already, or the parts do not fit each other.
    """
    pretrained = Pretrained.of_model(
        model, vocabulary, sequence_length=sequence_length, cased=cased
    )
    return save(pretrained, output, "saved-model", top_k=top_k)


def _module(format):
    """The module that reads and writes a format; imported late, since some bring a large
    library."""
    return importlib.import_module(f"kbert.formats.{format.replace('-', '_')}")
