"""KerasHub presets, both ways: a directory that its BertBackbone, BertMaskedLM, BertTokenizer and
BertTextClassifier load."""

import functools
import warnings

import h5py
import keras
import keras_hub
import numpy as np

from kbert.config import BertConfig
from kbert.formats.names import Names, joined_weights, split_qkv, split_shapes
from kbert.formats.pretrained import (
    RELEASED_EPSILON,
    check_released_form,
    pairs_of,
    pretrained_with_notes,
    read_notes,
)
from kbert.tensors import read_tensors, save_tensors
from tfrecords import InputError, Vocabulary
from tfrecords.files import read_json
from tfrecords.vocabulary import UNK

CONFIGURATION = "config.json"
_WEIGHTS = "model.weights.h5"
_TASK = "task.json"
_TASK_WEIGHTS = "task.weights.h5"
_TOKENIZER = "tokenizer.json"
_VOCABULARY = "assets/tokenizer/vocabulary.txt"
_BACKBONE_NAME = "keras_hub>BertBackbone"
_MASKED_LM_NAME = "keras_hub>BertMaskedLM"
_NEXT_SENTENCE = "next_sentence.safetensors"
"""The head that KerasHub has not, by its paths here."""

_FIELDS = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "dropout",
    "max_sequence_length": "max_positions",
    "num_segments": "num_segments",
}
"""The fields of a BertBackbone, and those of BertConfig that they are."""


def with_released_head(masked_lm):
    """Gives a BertMaskedLM of KerasHub the head that BERT was released with, and returns it.

    KerasHub's has the exact gelu and an epsilon of 1e-5, on an encoder with the tanh form and
    1e-12; so what it answers differs from what the model that was trained answers, by some
    thousandths. Weights stay as they are.

    >>> masked_lm = with_released_head(keras_hub.models.BertMaskedLM.from_preset("preset"))  #
    doctest: +SKIP"""
    head = masked_lm.masked_lm_head
    head._intermediate_dense.activation = functools.partial(
        keras.activations.gelu, approximate=True
    )
    head._intermediate_layer_norm.epsilon = RELEASED_EPSILON
    return masked_lm


def write(pretrained, directory):
    """Writes a model as a preset of KerasHub; the head of next sentence prediction, which that has
    not, is in a file beside it.

    Raises:
        InputError: The model has another gelu or epsilon than KerasHub's code.
    """
    check_released_form(pretrained.bert, "KerasHub")
    weights = split_qkv(pretrained.weights)
    masked_lm = keras_hub.models.BertMaskedLM(_backbone(pretrained.bert), _preprocessor(pretrained))
    for path, variable in _variables(masked_lm, pretrained.bert).items():
        if path in weights:  # without next sentence prediction there is no pooler
            variable.assign(weights[path].reshape(variable.shape))
    masked_lm.save_to_preset(str(directory))
    if pretrained.pairs != "none":
        head = {path: value for path, value in weights.items() if path.startswith("nsp/")}
        save_tensors(head, directory / _NEXT_SENTENCE)


def read(path):
    """Reads a preset of KerasHub as a Pretrained. Of its files only numbers and names are taken, no
    class is loaded from them.

    Raises:
        InputError: It is another architecture.
    """
    fields = read_json(path / CONFIGURATION, "a configuration of KerasHub")
    if fields.get("registered_name") != _BACKBONE_NAME:
        raise InputError(
            f"Expected in {path} a preset of {_BACKBONE_NAME}. Received: "
            f"{fields.get('registered_name')!r}."
        )
    try:
        bert = BertConfig(**{ours: fields["config"][theirs] for theirs, ours in _FIELDS.items()})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path / CONFIGURATION}: expected a BertBackbone. Received: another configuration "
            f"({error})."
        ) from None
    vocabulary = Vocabulary.load(path / _VOCABULARY)
    cased = _read_cased(path / _TOKENIZER)
    weights = _read_weights(path, bert)
    return pretrained_with_notes(
        path,
        bert,
        weights=weights,
        vocabulary=vocabulary,
        cased=cased,
        sequence_length=bert.max_positions,
        pairs=pairs_of(weights),
    )


# The weights.

_NAMES = Names(
    variables={
        "token_embedding/embeddings": "token_embedding/embeddings",
        "embeddings/position_embeddings": "position_embedding/embeddings",
        "embeddings/segment_embeddings": "segment_embedding/embeddings",
        "mlm/bias": "mlm_head/output_bias",
    },
    layers={
        "embeddings/layer_norm": "embeddings_layer_norm",
        "pooler/dense": "pooled_dense",
        "mlm_transform/dense": "mlm_head/intermediate_dense",
        "mlm_transform/layer_norm": "mlm_head/intermediate_layer_norm",
    },
    block="transformer_layer_{}",
    parts={
        "query": "self_attention_layer/query",
        "key": "self_attention_layer/key",
        "value": "self_attention_layer/value",
        "attention_output": "self_attention_layer/attention_output",
        "attention_norm": "self_attention_layer_norm",
        "intermediate": "feedforward_intermediate_dense",
        "output": "feedforward_output_dense",
        "output_norm": "feedforward_layer_norm",
    },
    separator="/",
)


def _variables(masked_lm, bert):
    """All variables of a BertMaskedLM by the paths of the weights that they are here."""
    variables = {variable.path: variable for variable in masked_lm.weights}
    return {
        path: variables[_NAMES.of(path)]
        for path in split_shapes(bert)
        if not path.startswith("nsp/")
    }


def _read_weights(path, bert):
    """The weights of a preset, as a Pretrained has them."""
    masked_lm = keras_hub.models.BertMaskedLM(_backbone(bert))
    task = read_json(path / _TASK, "a task of KerasHub") if (path / _TASK).exists() else {}
    has_head = task.get("registered_name") == _MASKED_LM_NAME
    try:
        with h5py.File(path / _WEIGHTS) as file:
            layers = sum(name.startswith("transformer_encoder") for name in file["layers"])
        if layers != bert.num_layers:
            raise InputError(
                f"Expected in {path} {bert.num_layers} layers, as its configuration says. "
                f"Received: {layers}."
            )
        masked_lm.backbone.load_weights(str(path / _WEIGHTS))
        if has_head:
            masked_lm.load_task_weights(str(path / _TASK_WEIGHTS))
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"Expected in {path} the weights that its configuration says. Received: others "
            f"({reason})."
        ) from None
    split, shapes = {}, split_shapes(bert)
    for name, variable in _variables(masked_lm, bert).items():
        if has_head or not name.startswith("mlm"):
            split[name] = np.reshape(variable.numpy(), shapes[name])
    notes = read_notes(path)
    if has_head and not notes:
        warnings.warn(
            f"The head of masked language modelling in {path} is taken with the gelu and epsilon "
            "of released BERT. If it was "
            "trained with those of KerasHub, its answers differ by some thousandths.",
            stacklevel=2,
        )
    if notes.get("pairs") == "none":  # the pooler, which KerasHub always has, is a new one
        split = {name: value for name, value in split.items() if not name.startswith("pooler/")}
    if (path / _NEXT_SENTENCE).is_file():
        head = read_tensors(path / _NEXT_SENTENCE)
        if set(head) != {"nsp/kernel", "nsp/bias"}:
            raise InputError(
                f"Expected in {path / _NEXT_SENTENCE} nsp/kernel and nsp/bias alone. Received: "
                f"{', '.join(head)}."
            )
        split |= head
    return joined_weights(split, bert, path)


def _read_cased(path):
    """Whether the tokenizer of a preset keeps case and accents.

    Raises:
        InputError: It is not BERT's tokenization.
    """
    try:
        fields = dict(read_json(path, "a tokenizer of KerasHub")["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a tokenizer of KerasHub. Received: another file ({error})."
        ) from None
    lowercase, strips = fields.get("lowercase", False), fields.get("strip_accents", False)
    for name, wanted in {
        "split": True,
        "split_on_cjk": True,
        "suffix_indicator": "##",
        "oov_token": UNK,
    }.items():
        if fields.get(name, wanted) != wanted:
            raise InputError(
                f"{path}: expected BERT's tokenization, with {name}={wanted!r}. Received: "
                f"{fields[name]!r}."
            )
    if strips and not lowercase:
        raise InputError(
            f"{path}: expected BERT's tokenization. Received: strip_accents without lowercase."
        )
    if lowercase and not strips:
        warnings.warn(
            f"{path} keeps accents where it lowers case; here both go, as in the released BERT.",
            stacklevel=2,
        )
    return not lowercase


# The parts of KerasHub.


def _backbone(bert):
    return keras_hub.models.BertBackbone(
        **{theirs: getattr(bert, ours) for theirs, ours in _FIELDS.items()}, dtype="float32"
    )


def _preprocessor(pretrained):
    """Raw text to inputs as in training, as far as KerasHub's tokenizer goes; it finds [MASK] in
    texts."""
    tokenizer = keras_hub.models.BertTokenizer(
        list(pretrained.vocabulary.tokens),
        lowercase=not pretrained.cased,
        strip_accents=not pretrained.cased,
        special_tokens_in_strings=True,
    )
    return keras_hub.models.BertMaskedLMPreprocessor(
        tokenizer, sequence_length=pretrained.sequence_length
    )


# The model card.


def usage(pretrained):
    """The section of the model card on how to use it."""
    return _USAGE.replace("{sequence_length}", str(pretrained.sequence_length))


_USAGE = """## How to use it

```python
import keras_hub

preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset("DIRECTORY", sequence_length={sequence_length})
classifier = keras_hub.models.BertTextClassifier.from_preset("DIRECTORY", num_classes=2, preprocessor=preprocessor)
classifier.fit(x=["A text.", "Another."], y=[0, 1])
```

(Without a preprocessor KerasHub makes inputs of 512 tokens; positions from {sequence_length} on were not trained here.)

`keras_hub.models.BertMaskedLM.from_preset("DIRECTORY")` has the trained head. KerasHub gives that head another form of gelu and
another epsilon than BERT was released with; `kbert.with_released_head(masked_lm)` puts that right, or these lines do:

```python
import functools, keras

masked_lm = keras_hub.models.BertMaskedLM.from_preset("DIRECTORY")
masked_lm.masked_lm_head._intermediate_dense.activation = functools.partial(keras.activations.gelu, approximate=True)
masked_lm.masked_lm_head._intermediate_layer_norm.epsilon = 1e-12
```
"""
