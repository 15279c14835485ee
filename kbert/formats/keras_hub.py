"""KerasHub presets, both ways: a directory that its BertBackbone, BertMaskedLM, BertTokenizer and
BertTextClassifier load.

KerasHub takes seconds to load, so the functions import it where they need it. Layers and names are
those of KerasHub 0.32, keras_hub/src/models/bert and keras_hub/src/layers/modeling.
"""

from __future__ import annotations

import functools
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from kbert.config import BertConfig
from kbert.formats.names import Names, joined_weights, split_qkv, split_shapes, without_padding
from kbert.formats.notes import read_notes, with_notes
from kbert.formats.pretrained import (
    RELEASED_EPSILON,
    Pretrained,
    check_released_form,
    pairs_of,
)
from kbert.formats.protocol import CONFIGURATION, configuration_at
from kbert.run.tensors import read_tensors, save_tensors
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.files import read_json
from tfrecords.vocabulary import UNK

if TYPE_CHECKING:
    import keras
    import keras_hub

NAME = "keras-hub"
OPTIONS: tuple[str, ...] = ()
FRONT_MATTER = ""
_WEIGHTS = "model.weights.h5"
_TASK = "task.json"
_TASK_WEIGHTS = "task.weights.h5"
_TOKENIZER = "tokenizer.json"
_VOCABULARY = "assets/tokenizer/vocabulary.txt"
_BACKBONE_NAME = "keras_hub>BertBackbone"
_MASKED_LM_NAME = "keras_hub>BertMaskedLM"
_NEXT_SENTENCE = "next_sentence.safetensors"
"""The pair head, which KerasHub lacks, by its paths here."""

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


def recognises(path: pathlib.Path) -> bool:
    """Tells whether a directory holds a preset of KerasHub."""
    return "registered_name" in configuration_at(path)


def with_released_head(
    masked_lm: keras_hub.models.BertMaskedLM,
) -> keras_hub.models.BertMaskedLM:
    """Gives a BertMaskedLM of KerasHub the head that BERT was released with, and returns it.

    KerasHub's own head has the exact gelu and an epsilon of 1e-5, on an encoder with the tanh form
    and 1e-12. Its probabilities therefore differ by some thousandths from those of the model that
    was trained. The weights stay as they are.

    >>> masked_lm = with_released_head(
    ...     keras_hub.models.BertMaskedLM.from_preset("preset")
    ... )  # doctest: +SKIP
    """
    import keras

    # Private, since BertMaskedLM passes neither to its head: keras_hub/src/models/bert/
    # bert_masked_lm.py and keras_hub/src/layers/modeling/masked_lm_head.py, KerasHub 0.32.
    head = masked_lm.masked_lm_head
    head._intermediate_dense.activation = functools.partial(
        keras.activations.gelu, approximate=True
    )
    head._intermediate_layer_norm.epsilon = RELEASED_EPSILON
    return masked_lm


def write(pretrained: Pretrained, directory: pathlib.Path) -> None:
    """Writes a model as a preset of KerasHub. The next sentence prediction head, which KerasHub
    lacks, goes to a file of its own, from which `read` restores it.

    Raises:
        InputError: The model has another gelu or epsilon than KerasHub's code.
    """
    import keras_hub

    check_released_form(pretrained.bert, "KerasHub")
    weights = split_qkv(pretrained.weights)
    masked_lm = keras_hub.models.BertMaskedLM(_backbone(pretrained.bert), _preprocessor(pretrained))
    for path, variable in _variables(masked_lm, pretrained.bert).items():
        if path in weights:  # a model of single segments has no pooler; KerasHub's stays random
            variable.assign(weights[path].reshape(variable.shape))
    masked_lm.save_to_preset(str(directory))
    if pretrained.pairs != "none":
        head = {path: value for path, value in weights.items() if path.startswith("nsp/")}
        save_tensors(head, directory / _NEXT_SENTENCE)


def read(path: pathlib.Path) -> Pretrained:
    """Reads a preset of KerasHub. Only numbers and names are taken from its files; no class is
    loaded from them.

    Raises:
        InputError: It is another architecture.
    """
    # The shape. The class is compared by name and never imported from what the file says.
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
    # A preset made by kbert has notes beside it; of a foreign one the files say less, and the
    # model's own length and objectives stand for what was trained.
    notes = read_notes(path)
    vocabulary = Vocabulary.load(path / _VOCABULARY)
    normalization = _read_normalization(path / _TOKENIZER)
    weights = _read_weights(path, bert, notes)
    weights, bert = without_padding(weights, bert, vocabulary, path)
    return with_notes(
        path,
        notes,
        bert,
        weights=weights,
        vocabulary=vocabulary,
        **normalization,
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


def _variables(
    masked_lm: keras_hub.models.BertMaskedLM, bert: BertConfig
) -> dict[str, keras.Variable]:
    """All variables of a BertMaskedLM, by the paths that the same weights have here."""
    variables = {variable.path: variable for variable in masked_lm.weights}
    return {
        path: variables[_NAMES.of(path)]
        for path in split_shapes(bert)
        if not path.startswith("nsp/")
    }


def _read_weights(
    path: pathlib.Path, bert: BertConfig, notes: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The weights of a preset, by their paths here."""
    # KerasHub itself reads its files into a model of this shape: their layout is its own business.
    masked_lm, has_head = _load_masked_lm(path, bert)
    split, shapes = {}, split_shapes(bert)
    for name, variable in _variables(masked_lm, bert).items():
        if has_head or not name.startswith("mlm"):
            split[name] = np.reshape(variable.numpy(), shapes[name])

    # A head that somebody trained in KerasHub was trained with another gelu and epsilon; one that
    # kbert exported was not, and the notes tell the two apart.
    if has_head and not notes:
        warnings.warn(
            f"The masked language modelling head in {path} is read with the gelu and epsilon of "
            "released BERT. If it was trained with those of KerasHub, its probabilities differ by "
            "some thousandths.",
            stacklevel=2,
        )

    # What KerasHub has and kbert wrote nothing to, and what kbert has and KerasHub lacks.
    if notes.get("pairs") == "none":
        split = {name: value for name, value in split.items() if not name.startswith("pooler/")}
    return joined_weights(split | _read_next_sentence(path), bert, path)


def _load_masked_lm(
    path: pathlib.Path, bert: BertConfig
) -> tuple[keras_hub.models.BertMaskedLM, bool]:
    """A BertMaskedLM with the weights of a preset, and whether its head is among them."""
    import h5py
    import keras_hub

    backbone = _backbone(bert)
    masked_lm = keras_hub.models.BertMaskedLM(backbone)
    task = read_json(path / _TASK, "a task of KerasHub") if (path / _TASK).exists() else {}
    has_head = task.get("registered_name") == _MASKED_LM_NAME
    try:
        # Keras ignores layers in the file that the model lacks, so they are counted first.
        with h5py.File(path / _WEIGHTS) as file:
            group = file["layers"]
            if not isinstance(group, h5py.Group):
                raise KeyError("layers")
            layers = sum(name.startswith("transformer_encoder") for name in group)
        if layers != bert.num_layers:
            raise InputError(
                f"Expected in {path} {bert.num_layers} layers, as its configuration says. "
                f"Received: {layers}."
            )
        backbone.load_weights(str(path / _WEIGHTS))
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
    return masked_lm, has_head


def _read_next_sentence(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The pair head that `write` put into a file of its own, if there is one."""
    path = path / _NEXT_SENTENCE
    if not path.is_file():
        return {}
    head = read_tensors(path)
    if set(head) != {"nsp/kernel", "nsp/bias"}:
        raise InputError(
            f"Expected in {path} nsp/kernel and nsp/bias alone. Received: {', '.join(head)}."
        )
    return head


def _read_normalization(path: pathlib.Path) -> dict[str, Any]:
    """What the tokenizer of a preset says of case and accents, as arguments of `with_notes`.

    Raises:
        InputError: It is not BERT's tokenization.
    """
    try:
        fields = dict(read_json(path, "a tokenizer of KerasHub")["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a tokenizer of KerasHub. Received: another file ({error})."
        ) from None

    # Settings that are the same in every BERT.
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

    return {
        "cased": not fields.get("lowercase", False),
        "accents": "strip" if fields.get("strip_accents", False) else "keep",
    }


# The parts of KerasHub.


def _backbone(bert: BertConfig) -> keras_hub.models.BertBackbone:
    import keras_hub

    return keras_hub.models.BertBackbone(
        **{theirs: getattr(bert, ours) for theirs, ours in _FIELDS.items()}, dtype="float32"
    )


def _preprocessor(pretrained: Pretrained) -> keras_hub.models.BertMaskedLMPreprocessor:
    """Turns raw text into inputs as in training, as far as KerasHub's tokenizer can; it finds
    [MASK] in texts."""
    import keras_hub

    tokenizer = keras_hub.models.BertTokenizer(
        list(pretrained.vocabulary.tokens),
        lowercase=not pretrained.normalization.cased,
        strip_accents=pretrained.normalization.strips,
        special_tokens_in_strings=True,
    )
    return keras_hub.models.BertMaskedLMPreprocessor(
        tokenizer, sequence_length=pretrained.sequence_length
    )


# The model card.


def usage(pretrained: Pretrained) -> str:
    """The section of the model card on how to use it."""
    usage = _USAGE.replace("{sequence_length}", str(pretrained.sequence_length))
    return f"{usage}\n{_differences(pretrained.normalization)}\n"


def _differences(normalization: Normalization) -> str:
    """What KerasHub's tokenizer does with text that was not done in training, in sentences."""
    long_words = {"unknown": "words of more than 200 characters did", "split": "none did"}
    folding = (
        ""
        if normalization.cased
        else " It folds case by NFKC, so that characters with a compatibility form, such as ß, ﬁ "
        "or full-width letters, become others than in training"
        + (", and so does Hangul." if normalization.strips else ", and letters are composed.")
    )
    return (
        "KerasHub's tokens are those of training for ordinary text, with these exceptions: white "
        "space beyond ASCII, such as no-break spaces, does not end a word; control and format "
        "characters, such as zero-width spaces, end one, where they were dropped in training; "
        "U+FFFD is not dropped; words of more than 100 bytes become [UNK], where in training "
        f"{long_words[normalization.long_words]}; special tokens such as `[MASK]` are found in "
        f"texts.{folding}"
    )


_USAGE = """## How to use it

```python
import keras_hub

preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
    "DIRECTORY", sequence_length={sequence_length}
)
classifier = keras_hub.models.BertTextClassifier.from_preset(
    "DIRECTORY", num_classes=2, preprocessor=preprocessor
)
classifier.fit(x=["A text.", "Another."], y=[0, 1])
```

Without a preprocessor, KerasHub makes inputs of 512 tokens; this model was not trained on positions
from {sequence_length} on.

`keras_hub.models.BertMaskedLM.from_preset("DIRECTORY")` has the trained head. KerasHub gives that
head another form of gelu and another epsilon than BERT was released with.
`kbert.with_released_head(masked_lm)` restores the released ones; so do these lines:

```python
import functools, keras

masked_lm = keras_hub.models.BertMaskedLM.from_preset("DIRECTORY")
head = masked_lm.masked_lm_head
head._intermediate_dense.activation = functools.partial(keras.activations.gelu, approximate=True)
head._intermediate_layer_norm.epsilon = 1e-12
```
"""
