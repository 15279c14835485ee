"""Checkpoints of google-research/bert, both ways: bert_config.json, vocab.txt and bert_model.ckpt,
a TensorFlow 1 checkpoint.

Names are those of its modeling.py and run_pretraining.py, which the Model Garden's tools read too.
The tanh form of "gelu" and the epsilon of 1e-12 are in its code, and not in the configuration."""

import numpy as np
import tensorflow as tf

from kbert.config import BertConfig
from kbert.formats.names import CONFIGURATION_FIELDS, Names, joined_weights, split_qkv, split_shapes
from kbert.formats.pretrained import check_released_form, pairs_of, pretrained_with_notes
from kbert.tensors import read_checkpoint
from tfrecords import InputError, Vocabulary
from tfrecords.files import read_json, write_json

CONFIGURATION = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
VOCABULARY = "vocab.txt"


def write(pretrained, directory):
    """Writes a model with both heads as a directory that the tools of google-research/bert and of
    the Model Garden read.

    Raises:
        InputError: The model has another gelu or epsilon than Google's code.
    """
    check_released_form(pretrained.bert, "google-research/bert")
    directory.mkdir()
    fields = {
        theirs: getattr(pretrained.bert, ours) for theirs, ours in CONFIGURATION_FIELDS.items()
    }
    write_json(directory / CONFIGURATION, fields | {"hidden_act": "gelu"})
    pretrained.vocabulary.save(directory / VOCABULARY)
    tensors = to_google(pretrained.weights)
    tf.raw_ops.SaveV2(
        prefix=str(directory / CHECKPOINT),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def read(path):
    """Reads a checkpoint of google-research/bert as a Pretrained.

    Raises:
        InputError: A file is missing or of something else.
    """
    fields = read_json(path / CONFIGURATION, "a configuration of BERT")
    if fields.get("hidden_act", "gelu") != "gelu":
        raise InputError(
            f"{path / CONFIGURATION}: expected hidden_act 'gelu', as BERT has. Received: "
            f"{fields['hidden_act']!r}."
        )
    if absent := [name for name in CONFIGURATION_FIELDS if name not in fields]:
        raise InputError(
            f"{path / CONFIGURATION}: expected {absent[0]}. Received: a configuration without it."
        )
    bert = BertConfig(**{ours: fields[theirs] for theirs, ours in CONFIGURATION_FIELDS.items()})
    vocabulary = Vocabulary.load(path / VOCABULARY)
    weights = _read_weights(path, bert)
    return pretrained_with_notes(
        path,
        bert,
        weights=weights,
        vocabulary=vocabulary,
        sequence_length=bert.max_positions,
        pairs=pairs_of(weights),
    )


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


def _turned(path, value):
    """The kernel of next sentence prediction is transposed there, no other."""
    return value.T if path == "nsp/kernel" else value


def to_google(weights):
    """The weights of a Pretrained by Google's names."""
    return {
        _NAMES.of(path): np.ascontiguousarray(_turned(path, value))
        for path, value in split_qkv(weights).items()
    }


def _read_weights(path, bert):
    """The weights in the released checkpoint in a directory, or else in the newest one of
    run_pretraining.py.

    What else is there, an optimizer's state, is left out.
    """
    prefix = path / CHECKPOINT
    if not prefix.with_name(f"{CHECKPOINT}.index").is_file():
        prefix = tf.train.latest_checkpoint(str(path))
    if prefix is None:
        raise InputError(f"Expected {CHECKPOINT}.index in {path}. Received: no checkpoint.")
    names = {_NAMES.of(ours): ours for ours in split_shapes(bert)}
    tensors = read_checkpoint(
        prefix,
        lambda name: name in names or name.startswith(f"bert/encoder/layer_{bert.num_layers}/"),
    )
    if more := sorted(tensors.keys() - names.keys()):
        raise InputError(
            f"Expected in {prefix} {bert.num_layers} layers, as its configuration says. Received: "
            f"{more[0]} too."
        )
    split = {names[name]: _turned(names[name], value) for name, value in tensors.items()}
    return joined_weights(split, bert, path)


# The model card.


def usage(pretrained):
    """The section of the model card on how to use it."""
    return _USAGE.replace("{lower}", str(not pretrained.cased))


_USAGE = """## How to use it

The files are those of the released BERT checkpoints:

    python run_classifier.py --bert_config_file=DIRECTORY/bert_config.json --vocab_file=DIRECTORY/vocab.txt \\
        --init_checkpoint=DIRECTORY/bert_model.ckpt --do_lower_case={lower} ...
"""
