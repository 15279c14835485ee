"""Hugging Face's directory layout, both ways: config.json, model.safetensors, the tokenizer's files
(`huggingface_tokenizer`) and a model card.

Names and layouts are those of `transformers` 5 (src/transformers/models/bert), which is not needed
here.
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from kbert.config import BertConfig
from kbert.formats.huggingface_tokenizer import differences, read_tokenizer, write_tokenizer
from kbert.formats.names import (
    CONFIGURATION_FIELDS,
    Names,
    joined_weights,
    split_qkv,
    split_shapes,
    without_padding,
)
from kbert.formats.notes import read_notes, with_notes
from kbert.formats.pretrained import Pretrained, pairs_of
from kbert.formats.protocol import CONFIGURATION, configuration_at
from kbert.run.tensors import read_tensors, save_tensors
from tfrecords import InputError
from tfrecords.files import read_json, write_json

NAME = "huggingface"
OPTIONS: tuple[str, ...] = ()
FRONT_MATTER = """---
library_name: transformers
pipeline_tag: fill-mask
tags:
- bert
- kbert
---

"""
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_EXACT_GELU = {"gelu": True, "gelu_new": False, "gelu_pytorch_tanh": False}

_FIELDS = CONFIGURATION_FIELDS | {"layer_norm_eps": "layer_norm_epsilon"}
"""The fields of config.json, and those of BertConfig that they are."""
_SHAPE = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
)
"""The fields that every BERT must have."""


def recognises(path: pathlib.Path) -> bool:
    """Tells whether a directory holds a model in this layout, of whatever architecture. The first
    BERTs had no model_type, but BERT's fields."""
    fields = configuration_at(path)
    return "model_type" in fields or fields.keys() >= set(_SHAPE)


def write(pretrained: Pretrained, directory: pathlib.Path) -> None:
    """Writes a model as a directory that `transformers` loads."""
    directory.mkdir()
    write_json(directory / CONFIGURATION, _configuration(pretrained))
    save_tensors(to_huggingface(pretrained.weights), directory / WEIGHTS, metadata={"format": "pt"})
    write_tokenizer(pretrained, directory)


def read(path: pathlib.Path) -> Pretrained:
    """Reads a BERT in this layout.

    Raises:
        InputError: It is another architecture, or a BERT with parts that kbert lacks.
    """
    bert = _bert_config(
        read_json(path / CONFIGURATION, "a configuration of transformers"), path / CONFIGURATION
    )
    weights = from_huggingface(_read_weights(path), bert, path)
    tokenizer, longest = read_tokenizer(path)
    weights, bert = without_padding(weights, bert, tokenizer["vocabulary"], path)
    return with_notes(
        path,
        read_notes(path),
        bert,
        weights=weights,
        **tokenizer,
        sequence_length=int(min(longest, bert.max_positions)),
        pairs=pairs_of(weights),
    )


# The configuration.


def _configuration(pretrained: Pretrained) -> dict[str, Any]:
    bert = pretrained.bert
    has_pairs = pretrained.pairs != "none"
    return {
        "architectures": ["BertForPreTraining" if has_pairs else "BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu" if bert.exact_gelu else "gelu_pytorch_tanh",
        **{theirs: getattr(bert, ours) for theirs, ours in _FIELDS.items()},
        "pad_token_id": pretrained.vocabulary.pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _bert_config(fields: Mapping[str, Any], path: pathlib.Path) -> BertConfig:
    # What changes the function of the model is refused, rather than computed as if it were absent.
    # Without a model_type, architectures tell a RoBERTa, whose fields are the same.
    architectures = fields.get("architectures") or ()
    if "model_type" not in fields and not all(str(one).startswith("Bert") for one in architectures):
        raise InputError(
            f"{path}: expected a model_type, or architectures of BERT. Received: "
            f"{', '.join(map(str, architectures))}; kbert has the standard BERT only."
        )
    for name, (accepted, default) in {
        "model_type": (("bert",), "bert"),
        "hidden_act": (tuple(_EXACT_GELU), "gelu"),
        "position_embedding_type": (("absolute",), "absolute"),
        "is_decoder": ((False,), False),
        "tie_word_embeddings": ((True,), True),
        "quantization_config": ((None,), None),
    }.items():
        if fields.get(name, default) not in accepted:
            raise InputError(
                f"{path}: expected {name} among {', '.join(map(str, accepted))}. Received: "
                f"{fields.get(name)!r}; kbert has the standard BERT only."
            )

    # The shape must be there in full; for all other fields transformers and kbert have the same
    # defaults.
    for theirs in _SHAPE:
        if fields.get(theirs) is None:
            raise InputError(f"{path}: expected {theirs}. Received: a configuration without it.")
    values = {
        ours: fields[theirs] for theirs, ours in _FIELDS.items() if fields.get(theirs) is not None
    }
    return BertConfig(**values, exact_gelu=_EXACT_GELU[fields.get("hidden_act", "gelu")])


# The weights.

_NAMES = Names(
    variables={
        "token_embedding/embeddings": "bert.embeddings.word_embeddings.weight",
        "embeddings/position_embeddings": "bert.embeddings.position_embeddings.weight",
        "embeddings/segment_embeddings": "bert.embeddings.token_type_embeddings.weight",
        "mlm/bias": "cls.predictions.bias",
    },
    layers={
        "embeddings/layer_norm": "bert.embeddings.LayerNorm",
        "pooler/dense": "bert.pooler.dense",
        "mlm_transform/dense": "cls.predictions.transform.dense",
        "mlm_transform/layer_norm": "cls.predictions.transform.LayerNorm",
        "nsp": "cls.seq_relationship",
    },
    block="bert.encoder.layer.{}",
    parts={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "output_norm": "output.LayerNorm",
    },
    separator=".",
    kinds={"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"},
)
_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Weights that some files hold twice, and the names of the originals; BERT ties the two."""


def _turned(path: str, value: np.ndarray) -> np.ndarray:
    """Converts a weight between the two layouts: kernels of dense layers are transposed there."""
    return value.T if path.endswith("/kernel") else value


def to_huggingface(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a Pretrained by the names of a BertForPreTraining."""
    return {
        _NAMES.of(path): np.ascontiguousarray(_turned(path, value))
        for path, value in split_qkv(weights).items()
    }


def from_huggingface(
    tensors: Mapping[str, np.ndarray], bert: BertConfig, path: pathlib.Path
) -> dict[str, np.ndarray]:
    """The weights of a Pretrained from those of a BERT in `transformers`. Weights that BERT does
    not have, such as a classifier, are ignored with a warning.

    Args:
        tensors: Arrays by the names in the file.
        bert: The BertConfig according to the file's own configuration.
        path: The directory, for messages.

    Raises:
        InputError: Tied weights differ, there are more layers than the configuration says, or an
            array has another shape or dtype.
    """
    tensors = {_modern_name(name): value for name, value in tensors.items()}
    tensors.pop("bert.embeddings.position_ids", None)  # a constant that old versions saved

    # Copies of tied weights: dropped where they equal the original, used where it is missing.
    for copy, name in _COPIES.items():
        if copy in tensors and not np.array_equal(
            tensors[copy], tensors.setdefault(name, tensors[copy])
        ):
            raise InputError(
                f"Expected in {path} one matrix for {name} and {copy}, as BERT has. Received: two."
            )
        tensors.pop(copy, None)

    # BERT's own weights; the loop takes them out of `tensors`.
    split = {
        ours: _turned(ours, tensors.pop(_NAMES.of(ours)))
        for ours in split_shapes(bert)
        if _NAMES.of(ours) in tensors
    }

    # What is left: more layers would be another model, other heads are no loss.
    left = sorted(tensors)
    if more := [name for name in left if name.startswith("bert.encoder.layer.")]:
        raise InputError(
            f"Expected in {path} {bert.num_layers} layers, as its configuration says. Received: "
            f"{more[0]} too."
        )
    if left:
        warnings.warn(
            f"{len(left)} weights in {path} do not belong to BERT and are ignored, such as "
            f"{left[0]}.",
            stacklevel=2,
        )
    return joined_weights(split, bert, path)


def _modern_name(name: str) -> str:
    """The name of a weight in a BertForPreTraining of today: bare encoders lack the prefix, and
    files from before transformers 3 say gamma and beta."""
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a model in one safetensors file or several."""
    # A single file comes first, as in transformers: an index beside it may be a stale one.
    if (path / WEIGHTS).is_file():
        return read_tensors(path / WEIGHTS)
    if not (path / _INDEX).is_file():
        raise InputError(
            f"Expected {WEIGHTS} in {path}. Received: none; pickle files (pytorch_model.bin) are "
            "not read, since they can run code: save the model again with a recent transformers."
        )

    # The index comes with the model, so the names in it must not lead out of its directory.
    try:
        names = sorted(set(read_json(path / _INDEX, "an index of weights")["weight_map"].values()))
        outside = [name for name in names if "/" in name or "\\" in name]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path / _INDEX}: expected an index of weights. Received: another file ({error})."
        ) from None
    if outside:
        raise InputError(
            f"{path / _INDEX}: expected files beside it, by name. Received: {outside[0]!r}."
        )
    return {name: value for file in names for name, value in read_tensors(path / file).items()}


# The model card.


def usage(pretrained: Pretrained) -> str:
    """The section of the model card on how to use it."""
    pairs = _USAGE_OF_PAIRS if pretrained.pairs != "none" else ""
    return f"{_USAGE}{pairs}\n{differences(pretrained.normalization)}\n"


_USAGE = """## How to use it

```python
from transformers import pipeline

pipeline("fill-mask", "DIRECTORY")("Return the [MASK] of the list.")
```
"""

_USAGE_OF_PAIRS = """
```python
from transformers import AutoTokenizer, BertForPreTraining

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = BertForPreTraining.from_pretrained("DIRECTORY")
outputs = model(**tokenizer("Is it empty?", "No, it is not.", return_tensors="pt"))
outputs.prediction_logits, outputs.seq_relationship_logits
```
"""
