"""Hugging Face's directory layout, both ways: config.json, model.safetensors, the tokenizer's files
and a model card.

Names and layouts are those of `transformers` (models/bert); its library is not needed here.
"""

import math
import warnings

import numpy as np
import tokenizers

from kbert.config import BertConfig
from kbert.formats.names import CONFIGURATION_FIELDS, Names, joined_weights, split_qkv, split_shapes
from kbert.formats.pretrained import pairs_of, pretrained_with_notes
from kbert.tensors import read_tensors, save_tensors
from tfrecords import InputError, Vocabulary
from tfrecords.files import read_json, write_json
from tfrecords.tokenizer import MAX_WORD_CHARACTERS
from tfrecords.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

CONFIGURATION = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIGURATION = "tokenizer_config.json"
_EXACT_GELU = {"gelu": True, "gelu_new": False, "gelu_pytorch_tanh": False}
_SPECIAL_TOKENS = {
    "pad_token": PAD,
    "unk_token": UNK,
    "cls_token": CLS,
    "sep_token": SEP,
    "mask_token": MASK,
}

_FIELDS = CONFIGURATION_FIELDS | {"layer_norm_eps": "layer_norm_epsilon"}
"""The fields of config.json, and those of BertConfig that they are."""


def write(pretrained, directory):
    """Writes a model with both heads as a directory that `transformers` loads."""
    directory.mkdir()
    write_json(directory / CONFIGURATION, _configuration(pretrained))
    save_tensors(to_huggingface(pretrained.weights), directory / WEIGHTS, metadata={"format": "pt"})
    pretrained.vocabulary.save(directory / "vocab.txt")
    _tokenizer(pretrained).save(str(directory / _TOKENIZER))
    write_json(directory / _TOKENIZER_CONFIGURATION, _tokenizer_configuration(pretrained))


def read(path):
    """Reads a BERT in this layout as a Pretrained.

    Raises:
        InputError: It is another architecture, or a BERT with parts that kbert has not.
    """
    bert = _bert_config(
        read_json(path / CONFIGURATION, "a configuration of transformers"), path / CONFIGURATION
    )
    weights = from_huggingface(_read_weights(path), bert, path)
    vocabulary, cased, longest = _read_tokenizer(path)
    return pretrained_with_notes(
        path,
        bert,
        weights=weights,
        vocabulary=vocabulary,
        cased=cased,
        sequence_length=int(min(longest, bert.max_positions)),
        pairs=pairs_of(weights),
    )


# The configuration.


def _configuration(pretrained):
    bert = pretrained.bert
    return {
        "architectures": [
            "BertForMaskedLM" if pretrained.pairs == "none" else "BertForPreTraining"
        ],
        "model_type": "bert",
        "hidden_act": "gelu" if bert.exact_gelu else "gelu_pytorch_tanh",
        **{theirs: getattr(bert, ours) for theirs, ours in _FIELDS.items()},
        "pad_token_id": pretrained.vocabulary.pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _bert_config(fields, path):
    def check(name, accepted, default):
        if fields.get(name, default) not in accepted:
            raise InputError(
                f"{path}: expected {name} among {', '.join(map(str, accepted))}. Received: "
                f"{fields.get(name)!r}; "
                "kbert has the standard BERT alone."
            )

    check("model_type", ("bert",), None)
    check("hidden_act", tuple(_EXACT_GELU), "gelu")
    check("position_embedding_type", ("absolute",), "absolute")
    check("is_decoder", (False,), False)
    check("tie_word_embeddings", (True,), True)
    check("quantization_config", (None,), None)
    for theirs in (
        "vocab_size",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
    ):
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
"""What some files have once more, and what of; in BERT the two are one."""


def _turned(path, value):
    """A dense layer's kernel is transposed there."""
    return value.T if path.endswith("/kernel") else value


def to_huggingface(weights):
    """The weights of a Pretrained by the names of a BertForPreTraining."""
    return {
        _NAMES.of(path): np.ascontiguousarray(_turned(path, value))
        for path, value in split_qkv(weights).items()
    }


def from_huggingface(tensors, bert, path):
    """The weights of a Pretrained from those of a BERT in `transformers`; warns of what is left
    out."""
    tensors = {_modern_name(name): value for name, value in tensors.items()}
    tensors.pop("bert.embeddings.position_ids", None)
    for copy, name in _COPIES.items():
        if copy in tensors and not np.array_equal(
            tensors[copy], tensors.setdefault(name, tensors[copy])
        ):
            raise InputError(
                f"Expected in {path} one matrix for {name} and {copy}, as BERT has. Received: two."
            )
        tensors.pop(copy, None)
    split = {
        ours: _turned(ours, tensors.pop(_NAMES.of(ours)))
        for ours in split_shapes(bert)
        if _NAMES.of(ours) in tensors
    }
    left = sorted(tensors)
    if more := [name for name in left if name.startswith("bert.encoder.layer.")]:
        raise InputError(
            f"Expected in {path} {bert.num_layers} layers, as its configuration says. Received: "
            f"{more[0]} too."
        )
    if left:
        warnings.warn(
            f"{len(left)} weights in {path} are not BERT's and left out, such as {left[0]}.",
            stacklevel=2,
        )
    return joined_weights(split, bert, path)


def _modern_name(name):
    """What a BertForPreTraining of today calls it: bare encoders lack the prefix, old files say
    gamma and beta."""
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _read_weights(path):
    """All tensors of a model in one safetensors file or several."""
    if (path / WEIGHTS).is_file():  # first, as transformers has it
        return read_tensors(path / WEIGHTS)
    if not (path / _INDEX).is_file():
        raise InputError(
            f"Expected {WEIGHTS} in {path}. Received: none; pickle files (pytorch_model.bin) are "
            "not read, since they can run "
            "code: save the model anew with a transformers of today."
        )
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


# The tokenizer.


def _tokenizer(pretrained):
    """The tokenizer of the library `tokenizers` that gives the same ids, but finds [MASK] and the
    like in texts."""
    vocabulary = pretrained.vocabulary
    model = tokenizers.models.WordPiece(
        vocabulary.ids,
        unk_token=UNK,
        continuing_subword_prefix="##",
        max_input_chars_per_word=MAX_WORD_CHARACTERS,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=not pretrained.cased)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary.cls_id), (SEP, vocabulary.sep_id)],
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _tokenizer_configuration(pretrained):
    return {
        # Not BertTokenizer, which makes [UNK] of words of more than 100 characters whatever
        # tokenizer.json says.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": not pretrained.cased,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": pretrained.sequence_length,
        **_SPECIAL_TOKENS,
    }


def _read_tokenizer(path):
    """The vocabulary, whether it is cased (None if nothing says it), and the longest input in
    tokens (infinite likewise).

    Raises:
        InputError: It is not BERT's tokenization, as far as the files say, or they contradict each
            other.
    """
    fields = {}
    if (path / _TOKENIZER_CONFIGURATION).is_file():
        fields = read_json(path / _TOKENIZER_CONFIGURATION, "a configuration of a tokenizer")
    lowercase = fields.get("do_lower_case")
    if (path / _TOKENIZER).is_file():
        vocabulary, in_tokenizer = _read_tokenizer_json(path / _TOKENIZER)
        lowercase = in_tokenizer if lowercase is None else lowercase
        if lowercase != in_tokenizer:
            raise InputError(
                f"Expected {_TOKENIZER} and {_TOKENIZER_CONFIGURATION} in {path} of one mind. "
                f"Received: lowercase={in_tokenizer} and do_lower_case={lowercase}."
            )
    elif (path / "vocab.txt").is_file():
        vocabulary = Vocabulary.load(path / "vocab.txt")
    else:
        raise InputError(
            f"Expected {_TOKENIZER} or vocab.txt in {path}. Received: neither; save the tokenizer "
            "beside the model."
        )
    longest = fields.get("model_max_length", math.inf)
    for name, accepted in {
        "tokenizer_class": (None, *_TOKENIZER_CLASSES),
        "do_lower_case": (None, True, False),
        "strip_accents": (None, not vocabulary.cased if lowercase is None else lowercase),
        "tokenize_chinese_chars": (None, True),
        "model_max_length": (longest,) if isinstance(longest, int | float) else (),
    }.items():
        if fields.get(name, longest if name == "model_max_length" else None) not in accepted:
            raise InputError(
                f"{path / _TOKENIZER_CONFIGURATION}: expected BERT's tokenization, as kbert has "
                "it. "
                f"Received: {name}={fields[name]!r}."
            )
    return vocabulary, None if lowercase is None else not lowercase, longest


_TOKENIZER_CLASSES = (
    "BertTokenizer",
    "BertTokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
)


def _read_tokenizer_json(path):
    """The vocabulary of a tokenizer of the library `tokenizers`, and whether it lowers case and
    strips accents."""
    fields = read_json(path, "a tokenizer")
    try:
        model, normalizer = fields["model"], fields["normalizer"]
        lowercase, strips = normalizer["lowercase"], normalizer["strip_accents"]
        parts = (
            model.get("type", "WordPiece"),
            normalizer["type"],
            fields["pre_tokenizer"]["type"],
            model["continuing_subword_prefix"],
            model["unk_token"],
            normalizer["clean_text"],
            normalizer["handle_chinese_chars"],
        )
        pieces = model["vocab"] | {
            token["content"]: token["id"] for token in fields.get("added_tokens", [])
        }
        in_order = sorted(pieces, key=pieces.get)
        whole = [pieces[piece] for piece in in_order] == list(range(len(pieces)))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a tokenizer of BERT. Received: another file ({error})."
        ) from None
    if parts != (
        "WordPiece",
        "BertNormalizer",
        "BertPreTokenizer",
        "##",
        UNK,
        True,
        True,
    ) or strips not in (None, lowercase):
        raise InputError(
            f"{path}: expected BERT's tokenization, either lowercase without accents or neither. "
            f"Received: {', '.join(map(str, parts))}, lowercase={lowercase}, "
            f"strip_accents={strips}."
        )
    if not whole:
        raise InputError(
            f"{path}: expected one piece for every id from 0 to {len(pieces) - 1}. Received: gaps "
            "or two for one."
        )
    return Vocabulary(tuple(in_order), source=str(path)), bool(lowercase)


# The model card.

FRONT_MATTER = """---
library_name: transformers
pipeline_tag: fill-mask
tags:
- bert
- kbert
---

"""


def usage(pretrained):
    """The section of the model card on how to use it."""
    text = """## How to use it

```python
from transformers import pipeline

pipeline("fill-mask", "DIRECTORY")("Return the [MASK] of the list.")
```
"""
    if pretrained.pairs != "none":
        text += """
```python
from transformers import AutoTokenizer, BertForPreTraining

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = BertForPreTraining.from_pretrained("DIRECTORY")
outputs = model(**tokenizer("Is it empty?", "No, it is not.", return_tensors="pt"))
outputs.prediction_logits, outputs.seq_relationship_logits
```
"""
    return text
