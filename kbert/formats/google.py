"""Checkpoints of google-research/bert, both ways: bert_config.json, vocab.txt and bert_model.ckpt,
a TensorFlow 1 checkpoint.

The names are those of its modeling.py and run_pretraining.py, which the Model Garden's tools read
too. Its code, not its configuration, fixes the tanh form of "gelu" and the epsilon of 1e-12.
"""

from __future__ import annotations

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from kbert.config import BertConfig
from kbert.formats.huggingface_tokenizer import TOKENIZER_FILES, read_tokenizer
from kbert.formats.names import (
    CONFIGURATION_FIELDS,
    Names,
    joined_weights,
    split_qkv,
    split_shapes,
    without_padding,
)
from kbert.formats.notes import read_notes, with_notes
from kbert.formats.pretrained import Pretrained, check_released_form, pairs_of
from kbert.run.tensors import read_checkpoint
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.files import read_json, write_json
from tfrecords.normalization import MAX_WORD_CHARACTERS

NAME = "google"
OPTIONS: tuple[str, ...] = ()
FRONT_MATTER = ""
CONFIGURATION = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
VOCABULARY = "vocab.txt"
_FILE = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
"""What the names of a checkpoint's files have behind its prefix."""


def recognises(path: pathlib.Path) -> bool:
    """Tells whether a path is that of a checkpoint of google-research/bert: of its directory, or
    the prefix of its files.

    Directories of the Hub that were published for both libraries have both configurations; there an
    index of a TensorFlow checkpoint tells that the weights are Google's.
    """
    if _prefix_of(path):
        return True
    has_index = any(path.glob("*.index"))
    if (path / CONFIGURATION).is_file():
        return has_index or not (path / "config.json").is_file()
    if not has_index or any(path.glob("*.safetensors*")):
        return False
    # A checkpoint without a configuration is one, too: `read` says what it lacks.
    return not (path / "config.json").is_file() or bool(_configurations_in(path))


def write(pretrained: Pretrained, directory: pathlib.Path) -> None:
    """Writes a model as a directory that the tools of google-research/bert and of the Model Garden
    read.

    Raises:
        InputError: The model has another gelu or epsilon than Google's code.
    """
    import tensorflow as tf

    check_released_form(pretrained.bert, "google-research/bert")
    directory.mkdir()
    fields = {
        theirs: getattr(pretrained.bert, ours) for theirs, ours in CONFIGURATION_FIELDS.items()
    }
    write_json(directory / CONFIGURATION, fields | {"hidden_act": "gelu"})
    pretrained.vocabulary.save(directory / VOCABULARY)

    # The operation of TensorFlow 1's Saver: names as they are, where tf.train.Checkpoint would add
    # a graph of Python objects.
    tensors = to_google(pretrained.weights)
    tf.raw_ops.SaveV2(
        prefix=str(directory / CHECKPOINT),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def read(path: pathlib.Path) -> Pretrained:
    """Reads a checkpoint of google-research/bert.

    Raises:
        InputError: A file is missing, or belongs to something else.
    """
    # The configuration must say the little that kbert cannot assume.
    given = _prefix_of(path)
    directory = given.parent if given else path
    configuration = _configuration_in(directory)
    fields = read_json(configuration, "a configuration of BERT")
    if fields.get("hidden_act", "gelu") != "gelu":
        raise InputError(
            f"{configuration}: expected hidden_act 'gelu', as BERT has. Received: "
            f"{fields['hidden_act']!r}."
        )
    if absent := [name for name in CONFIGURATION_FIELDS if name not in fields]:
        raise InputError(
            f"{configuration}: expected {absent[0]}. Received: a configuration without it."
        )
    bert = BertConfig(**{ours: fields[theirs] for theirs, ours in CONFIGURATION_FIELDS.items()})

    # No file of this format tells the casing. If those of a tokenizer of Hugging Face, which some
    # add, do not either, notes or the vocabulary must.
    tokenizer: dict[str, Any]
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        tokenizer, _ = read_tokenizer(directory)
    else:
        tokenizer = {"vocabulary": Vocabulary.load(directory / VOCABULARY)}
    weights = _read_weights(given or _checkpoint_in(directory), bert)
    weights, bert = without_padding(weights, bert, tokenizer["vocabulary"], path)
    return with_notes(
        path,
        read_notes(directory),
        bert,
        weights=weights,
        **tokenizer,
        sequence_length=bert.max_positions,
        pairs=pairs_of(weights),
    )


# The files, under whatever names.


def _prefix_of(path: pathlib.Path) -> pathlib.Path | None:
    """The prefix of a checkpoint's files, if a path is that or one of these files; else None."""
    prefix = path.with_name(_FILE.sub("", path.name)) if path.name else path
    return prefix if pathlib.Path(f"{prefix}.index").is_file() else None


def _configuration_in(directory: pathlib.Path) -> pathlib.Path:
    """The configuration beside a checkpoint, whatever its name if there is but one."""
    if (directory / CONFIGURATION).is_file():
        return directory / CONFIGURATION
    found = _configurations_in(directory)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"Expected {CONFIGURATION} in {directory}. Received: {names}.")
    return found[0]


def _configurations_in(directory: pathlib.Path) -> list[pathlib.Path]:
    """The JSON files with the fields of a BERT in a directory; a run's fields have other names."""
    return [
        path
        for path in sorted(directory.glob("*config*.json"))
        if read_json(path, "a configuration").keys() >= CONFIGURATION_FIELDS.keys()
    ]


def _checkpoint_in(directory: pathlib.Path) -> pathlib.Path:
    """The prefix of the released checkpoint in a directory, or else of the one that the file
    `checkpoint` names, or else of the one of the highest step."""
    import tensorflow as tf

    if (released := _prefix_of(directory / CHECKPOINT)) is not None:
        return released
    # The file may come from another machine, and name a path of that one.
    state = tf.train.get_checkpoint_state(str(directory))
    if state and (named := _prefix_of(pathlib.Path(state.model_checkpoint_path))):
        return named

    found = [path.with_name(path.name.removesuffix(".index")) for path in directory.glob("*.index")]
    if not found:
        raise InputError(f"Expected {CHECKPOINT}.index in {directory}. Received: no checkpoint.")
    newest = max(found, key=_step_of)
    if [_step_of(path) for path in found].count(_step_of(newest)) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise InputError(
            f"Expected one checkpoint in {directory}. Received: {names}; give the path of one, "
            f"such as {newest}."
        )
    if len(found) > 1:
        warnings.warn(
            f"Of the {len(found)} checkpoints in {directory}, {newest.name} is taken, the one of "
            "the highest step.",
            stacklevel=4,
        )
    return newest


def _step_of(prefix: pathlib.Path) -> int:
    """The step in the name of a checkpoint by TensorFlow 1's Saver; -1 if it has none.

    >>> _step_of(pathlib.Path("biobert/model.ckpt-1000000"))
    1000000
    """
    step = prefix.name.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


# The weights.

_NAMES = Names(
    variables={
        "token_embedding/embeddings": "bert/embeddings/word_embeddings",
        "embeddings/position_embeddings": "bert/embeddings/position_embeddings",
        "embeddings/segment_embeddings": "bert/embeddings/token_type_embeddings",
        "mlm/bias": "cls/predictions/output_bias",
        "nsp/kernel": "cls/seq_relationship/output_weights",
        "nsp/bias": "cls/seq_relationship/output_bias",
    },
    layers={
        "embeddings/layer_norm": "bert/embeddings/LayerNorm",
        "pooler/dense": "bert/pooler/dense",
        "mlm_transform/dense": "cls/predictions/transform/dense",
        "mlm_transform/layer_norm": "cls/predictions/transform/LayerNorm",
    },
    block="bert/encoder/layer_{}",
    parts={
        "query": "attention/self/query",
        "key": "attention/self/key",
        "value": "attention/self/value",
        "attention_output": "attention/output/dense",
        "attention_norm": "attention/output/LayerNorm",
        "intermediate": "intermediate/dense",
        "output": "output/dense",
        "output_norm": "output/LayerNorm",
    },
    separator="/",
)


def _turned(path: str, value: np.ndarray) -> np.ndarray:
    """Converts a weight between the two layouts: the kernel of next sentence prediction, and no
    other, is transposed there."""
    return value.T if path == "nsp/kernel" else value


def to_google(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a Pretrained by Google's names."""
    return {
        _NAMES.of(path): np.ascontiguousarray(_turned(path, value))
        for path, value in split_qkv(weights).items()
    }


def _plain_name(name: str) -> str:
    """The name of a variable in a graph of run_pretraining.py: modules of TensorFlow Hub have a
    word before it, and an encoder built in a scope of its own lacks the first."""
    name = name.removeprefix("module/")
    return f"bert/{name}" if name.startswith(("embeddings/", "encoder/", "pooler/")) else name


def _read_weights(prefix: pathlib.Path, bert: BertConfig) -> dict[str, np.ndarray]:
    """The weights of a checkpoint. An optimizer's state beside them is ignored."""
    # A layer beyond the configuration is read too, to notice that there is one: a model cut short
    # in silence would answer, and badly.
    names = {_NAMES.of(ours): ours for ours in split_shapes(bert)}
    more = f"bert/encoder/layer_{bert.num_layers}/"
    tensors = read_checkpoint(
        prefix, lambda name: _plain_name(name) in names or _plain_name(name).startswith(more)
    )
    tensors = {_plain_name(name): value for name, value in tensors.items()}
    if beyond := sorted(tensors.keys() - names.keys()):
        raise InputError(
            f"Expected in {prefix} {bert.num_layers} layers, as its configuration says. Received: "
            f"{beyond[0]} too."
        )
    split = {names[name]: _turned(names[name], value) for name, value in tensors.items()}
    return joined_weights(split, bert, prefix)


# The model card.


def usage(pretrained: Pretrained) -> str:
    """The section of the model card on how to use it."""
    normalization = pretrained.normalization
    # FullTokenizer has one flag for case and accents. Without it the text stays as it is.
    lower = not normalization.cased and normalization.strips
    return _USAGE.replace("{lower}", str(lower)) + "".join(
        f"\n{note}\n" for note in _differences(normalization)
    )


def _differences(normalization: Normalization) -> list[str]:
    """What Google's tokenizer does with text that was not done in training, in sentences."""
    notes = []
    if not normalization.follows_bert:
        done = "strips accents and keeps case" if normalization.cased else _LOWERS
        before = _STRIP if normalization.cased else _LOWER
        notes.append(
            f"This model {done}, which Google's FullTokenizer cannot do: {before} before, "
            "and leave `do_lower_case` False."
        )
    if normalization.long_words == "split":
        notes.append(
            f"Google's FullTokenizer turns words of more than {MAX_WORD_CHARACTERS} characters "
            "into [UNK]; in training they were split into several words."
        )
    return notes


_LOWERS = "lowers case and keeps accents"
_STRIP = "decompose the text (NFD) and remove its nonspacing marks (category Mn)"
_LOWER = "lowercase the text (`text.lower()`)"
_USAGE = """## How to use it

The files are laid out like the released BERT checkpoints, for all tools that read those:

    python run_classifier.py --bert_config_file=DIRECTORY/bert_config.json \\
        --vocab_file=DIRECTORY/vocab.txt --init_checkpoint=DIRECTORY/bert_model.ckpt \\
        --do_lower_case={lower} ...
"""
