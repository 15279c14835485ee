"""The names of fields and weights in other formats, in which queries, keys and values, a single
variable here, are three."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Mapping

import numpy as np

from kbert.config import BertConfig
from kbert.formats.pretrained import PER_TOKEN, weight_shapes
from tfrecords import InputError, Vocabulary

CONFIGURATION_FIELDS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "num_segments",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "initializer_range",
}
"""The fields of Google's bert_config.json, by names that `transformers` took over, and the same
fields of BertConfig."""

_QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Names:
    """What a format calls the weights of a Pretrained, once queries, keys and values are apart.

    >>> names = Names(
    ...     variables={"mlm/bias": "bias"},
    ...     layers={"nsp": "head"},
    ...     block="layer.{}",
    ...     parts={"query": "self.q"},
    ...     separator=".",
    ...     kinds={"kernel": "weight"},
    ... )
    >>> names.of("mlm/bias"), names.of("nsp/bias"), names.of("layer_3/query/kernel")
    ('bias', 'head.bias', 'layer.3.self.q.weight')
    """

    variables: dict[str, str]
    """The names of single variables, by their paths here."""
    layers: dict[str, str]
    """The names of layers that occur once, by theirs."""
    block: str
    """The name of an encoder block, with {} for its number."""
    parts: dict[str, str]
    """The names of the layers in a block."""
    separator: str
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    """The names of kernel, bias, gamma and beta, if they differ."""

    def of(self, path: str) -> str:
        """The name of the weight at a path."""
        if path in self.variables:
            return self.variables[path]
        layer, _, kind = path.rpartition("/")
        if layer not in self.layers:
            block, _, part = layer.partition("/")
            name = self.separator.join(
                (self.block.format(block.removeprefix("layer_")), self.parts[part])
            )
        else:
            name = self.layers[layer]
        return self.separator.join((name, self.kinds.get(kind, kind)))


def split_qkv(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits each layer_0/qkv/kernel [H, 3 H] into layer_0/query/kernel, key and value [H, H], and
    the biases likewise.

    >>> list(split_qkv({"layer_0/qkv/bias": np.array([1, 2, 3, 4, 5, 6])}).items())
    [('layer_0/query/bias', array([1, 2])), ('layer_0/key/bias', array([3, 4])), \
('layer_0/value/bias', array([5, 6]))]
    """
    split = {}
    for path, value in weights.items():
        if "/qkv/" in path:
            split.update(zip(_thirds(path), np.split(value, 3, axis=-1), strict=True))
        else:
            split[path] = value
    return split


def split_shapes(bert: BertConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights of a pretraining model, by the paths that `split_qkv` gives
    them."""
    shapes = {}
    for path, shape in weight_shapes(bert).items():
        if "/qkv/" in path:
            shapes.update(dict.fromkeys(_thirds(path), (*shape[:-1], shape[-1] // 3)))
        else:
            shapes[path] = shape
    return shapes


def joined_weights(
    split: Mapping[str, np.ndarray], bert: BertConfig, source: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
    """The weights of a Pretrained from those that a format has: the inverse of `split_qkv`.

    Args:
        split: Arrays by the paths that `split_qkv` gives them. If one of a query, key and value is
            missing, all three are dropped.
        bert: The BertConfig according to the format's own files.
        source: Where the arrays came from, for messages.

    Raises:
        InputError: An array has another shape than the configuration says, is not of floats, or
            has some that are no numbers.
    """
    shapes = split_shapes(bert)
    for path, value in split.items():
        if value.shape != shapes[path]:
            raise InputError(
                f"Expected in {source} {path} of shape {shapes[path]}, as its configuration says. "
                f"Received: {value.shape}."
            )
        if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
            raise InputError(
                f"Expected in {source} {path} of floats. Received: {value.dtype}; quantised "
                "weights are not read."
            )
        if not np.isfinite(value).all():
            raise InputError(
                f"Expected in {source} {path} of finite numbers. Received: nan or infinity, as of "
                "a training that diverged; take an earlier checkpoint of it."
            )

    # In the order of the model's variables.
    joined = {}
    for path in weight_shapes(bert):
        if "/qkv/" not in path:
            if path in split:
                joined[path] = split[path]
        elif all(third in split for third in _thirds(path)):
            joined[path] = np.concatenate([split[third] for third in _thirds(path)], axis=-1)
    return joined


def without_padding(
    weights: dict[str, np.ndarray], bert: BertConfig, vocabulary: Vocabulary, source: pathlib.Path
) -> tuple[dict[str, np.ndarray], BertConfig]:
    """The weights, and their BertConfig, without the embeddings beyond the tokens of the
    vocabulary: some tools pad them to a multiple of 8 or 64. Warns of them, as exports will lack
    them."""
    tokens, rows = len(vocabulary), bert.vocabulary_size
    if tokens >= rows:
        return weights, bert
    warnings.warn(
        f"{source} has {rows:,} embeddings for {tokens:,} tokens: the {rows - tokens:,} beyond the "
        f"tokens, which no text uses, are dropped, and exports have {tokens:,}.",
        stacklevel=4,
    )
    cut = {path: weights[path][:tokens] for path in PER_TOKEN if path in weights}
    return weights | cut, dataclasses.replace(bert, vocabulary_size=tokens)


def _thirds(path: str) -> list[str]:
    """
    >>> _thirds("layer_0/qkv/bias")
    ['layer_0/query/bias', 'layer_0/key/bias', 'layer_0/value/bias']
    """
    return [path.replace("/qkv/", f"/{part}/") for part in _QKV]
