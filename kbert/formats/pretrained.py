"""A pretrained model and everything that its answers depend on, whatever file format it came from
or goes to."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Container, Iterable
from typing import Any

import keras
import numpy as np

from kbert.config import BertConfig
from kbert.model.bert import config_of, pretraining_model
from kbert.objectives import NSP, OBJECTIVES, objectives_of, pairs_of_outputs
from kbert.step.pretrainer import Pretrainer
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.errors import check_integer
from tfrecords.normalization import LONG_WORDS
from tfrecords.schema import PAIRS

RELEASED_EPSILON = 1e-12
"""Added to the variance in BERT's normalisations."""

HEADS = {layer: objective.head for objective in OBJECTIVES for layer in objective.layers}
"""The heads, by the names of their layers; all that may be missing from weights that are loaded."""

PER_TOKEN = ("token_embedding/embeddings", "mlm/bias")
"""The weights with a row for every token of the vocabulary."""

CHOSEN_FIELDS = ("dropout", "attention_dropout", "initializer_range")
"""Fields of BertConfig that are chosen for training and may differ between a model and the weights
that it starts from."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """A pretrained model: its shape, weights, vocabulary, and how texts become its inputs.

    Raises:
        InputError: The parts do not fit each other.
    """

    bert: BertConfig
    weights: dict[str, np.ndarray]
    """float32 arrays by the paths of the trainable variables of a `pretraining_model`; heads may be
    missing."""
    vocabulary: Vocabulary
    normalization: Normalization
    """How texts are normalized."""
    sequence_length: int
    """S, the longest input in tokens that it was trained with."""
    pairs: str = "nsp"
    """What it learned from pairs: "nsp", "sop", or "none" for single segments; as in
    RecordsConfig."""
    training: str = ""
    """What is known of how it was trained, in Markdown; for model cards."""
    is_guessed: bool = dataclasses.field(default=False, compare=False)
    """Whether the normalization is a guess from the vocabulary, as for formats that do not tell."""
    source: str = dataclasses.field(default="the model", compare=False)
    """Where it came from, for messages."""

    def __post_init__(self) -> None:
        # Values come from JSON that anyone may have written.
        if not isinstance(self.training, str) or self.pairs not in PAIRS:
            raise InputError(
                f"Expected for {self.source} training as text, and pairs among {', '.join(PAIRS)}. "
                f"Received: {self.training!r} and {self.pairs!r}."
            )
        check_integer(self, "sequence_length", 1)
        if not 3 < self.sequence_length <= self.bert.max_positions:
            raise InputError(
                f"Expected a sequence length from 4 to {self.bert.max_positions}, the positions of "
                f"{self.source}. "
                f"Received: {self.sequence_length}."
            )
        if len(self.vocabulary) != self.bert.vocabulary_size:
            raise InputError(
                f"Expected in {self.source} a vocabulary of {self.bert.vocabulary_size} tokens, as "
                "many as there are embeddings. "
                f"Received: {len(self.vocabulary)}; is the vocabulary another model's, or were "
                "tokens added to it alone?"
            )

        # Contiguous: safetensors writes the buffer of any other array in the wrong order, silently.
        weights = {
            path: np.ascontiguousarray(value, np.float32) for path, value in self.weights.items()
        }
        object.__setattr__(self, "weights", weights)

        # Heads may be missing, the encoder may not; what is there must have the right shape.
        wanted = weight_shapes(self.bert, optional=self.layers)
        for path, value in self.weights.items():
            if value.shape != wanted.get(path):
                raise InputError(
                    f"Expected in {self.source} {path} of shape {wanted.get(path)}, as its "
                    f"configuration says. Received: {value.shape}."
                )
        absent = [
            path
            for path in wanted
            if path not in self.weights and path.partition("/")[0] not in HEADS
        ]
        if absent:
            raise InputError(
                f"Expected in {self.source} all weights of the encoder. Received: none for "
                f"{absent[0]}."
            )

    @classmethod
    def of_model(
        cls,
        model: keras.Model,
        vocabulary: Vocabulary,
        *,
        sequence_length: int | None = None,
        cased: bool | None = None,
        accents: str | None = None,
        long_words: str = LONG_WORDS[0],
        pairs: str | None = None,
        training: str = "",
    ) -> Pretrained:
        """Describes a Keras model in memory, for example to `save` it.

        Args:
            model: A pretraining model.
            vocabulary: Its Vocabulary.
            sequence_length: The longest input in tokens; None takes as many as the model has
                positions.
            cased: Whether to keep case; None takes what the vocabulary shows, of accents too.
            accents: "keep" or "strip"; None as BERT: "strip" with uncased, "keep" with cased.
            long_words: "unknown" or "split", as in RecordsConfig.
            pairs: What the model learned from pairs, as in RecordsConfig; None takes "nsp" for a
                model with a pair head, and "none" for one without. Only the caller can know of
                "sop", since the head is the same.
            training: How it was trained, in Markdown; for model cards.

        Raises:
            InputError: The vocabulary is another model's, the length is beyond its positions, or
                it has no head for these pairs.
        """
        bert = config_of(model)
        of_outputs = pairs_of_outputs(model.output)
        pairs = of_outputs if pairs is None else pairs
        if (pairs == "none") != (of_outputs == "none"):
            raise InputError(
                f"Expected pairs {'none' if of_outputs == 'none' else 'nsp or sop'}, as the "
                f"outputs of the model are {', '.join(model.output)}. Received: {pairs!r}."
            )
        return cls(
            bert=bert,
            weights={variable.path: variable.numpy() for variable in model.trainable_variables},
            vocabulary=vocabulary,
            normalization=vocabulary.normalization.chosen(cased, accents, long_words),
            sequence_length=bert.max_positions if sequence_length is None else sequence_length,
            pairs=pairs,
            training=training,
        )

    @property
    def cased(self) -> bool:
        """Whether case is kept."""
        return self.normalization.cased

    @property
    def layers(self) -> set[str]:
        """The names of the layers with weights. The last layer of a head has its objective's."""
        return {path.partition("/")[0] for path in self.weights}

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the heads that the weights lack, completely or in part."""
        wanted = weight_shapes(self.bert, self.pairs, self.layers)
        return tuple(
            dict.fromkeys(
                HEADS[path.partition("/")[0]] for path in wanted if path not in self.weights
            )
        )

    @functools.cached_property
    def model(self) -> Pretrainer:
        """The Keras model, a Pretrainer, not compiled. Missing heads are initialised at random,
        with a warning."""
        model = pretraining_model(self.bert, pairs=self.pairs, optional=self.layers)
        assign_weights(model, self)
        return model

    def without_pairs(self) -> Pretrained:
        """The same model without its pair head and pooler."""
        weights = {
            path: value
            for path, value in self.weights.items()
            if path.partition("/")[0] not in NSP.layers
        }
        return dataclasses.replace(self, weights=weights, pairs="none")

    @property
    def sha256(self) -> str:
        """The SHA-256 of the weights, by name, in hexadecimal."""
        digest = hashlib.sha256()
        for path in sorted(self.weights):
            digest.update(path.encode())
            digest.update(self.weights[path].data)
        return digest.hexdigest()

    def shape_differences(self, bert: BertConfig) -> dict[str, tuple[Any, Any]]:
        """The fields in which another BertConfig describes another shape than this one: {name:
        (value here, value there)}."""
        here, there = dataclasses.asdict(self.bert), dataclasses.asdict(bert)
        return {
            name: (here[name], there[name])
            for name in here
            if here[name] != there[name] and name not in CHOSEN_FIELDS
        }


def weight_shapes(
    bert: BertConfig, pairs: str = "nsp", optional: Container[str] = ()
) -> dict[str, tuple[int, ...]]:
    """The shapes of the trainable variables of a `pretraining_model`, whose arguments these are, by
    path, in its order."""
    # In the order in which Keras builds the model: files are read without building one, and a test
    # compares the two.
    hidden, intermediate = bert.hidden_size, bert.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding/embeddings": (bert.vocabulary_size, hidden),
        "embeddings/position_embeddings": (bert.max_positions, hidden),
        "embeddings/segment_embeddings": (bert.num_segments, hidden),
    }

    def dense(path: str, rows: int, columns: int) -> None:
        shapes.update({f"{path}/kernel": (rows, columns), f"{path}/bias": (columns,)})

    def norm(path: str) -> None:
        shapes.update({f"{path}/gamma": (hidden,), f"{path}/beta": (hidden,)})

    # The encoder; queries, keys and values share a kernel.
    norm("embeddings/layer_norm")
    for index in range(bert.num_layers):
        dense(f"layer_{index}/qkv", hidden, 3 * hidden)
        dense(f"layer_{index}/attention_output", hidden, hidden)
        norm(f"layer_{index}/attention_norm")
        dense(f"layer_{index}/intermediate", hidden, intermediate)
        dense(f"layer_{index}/output", intermediate, hidden)
        norm(f"layer_{index}/output_norm")
    # The heads. That of masked tokens multiplies by the token embeddings and has a bias alone.
    objectives = objectives_of(pairs, optional)
    dense("mlm_transform/dense", hidden, hidden)
    norm("mlm_transform/layer_norm")
    shapes["mlm/bias"] = (bert.vocabulary_size,)
    if NSP in objectives:
        dense("pooler/dense", hidden, hidden)
        dense("nsp", hidden, 2)
    return shapes


def assign_weights(model: keras.Model, pretrained: Pretrained) -> None:
    """Gives a pretraining model the weights of a Pretrained.

    Heads that the weights lack keep their random initial values, and heads that the model lacks are
    ignored, each with a warning.
    """
    new, values = [], dict(pretrained.weights)
    for variable in model.trainable_variables:
        if variable.path in values:
            variable.assign(values.pop(variable.path))
        else:
            new.append(HEADS[variable.path.partition("/")[0]])
    for head in dict.fromkeys(new):
        warnings.warn(
            f"The {head} head is initialised at random: {pretrained.source} lacks it, or a part of "
            "it.",
            stacklevel=2,
        )
    for head in dict.fromkeys(HEADS[path.partition("/")[0]] for path in values):
        warnings.warn(
            f"The {head} head of {pretrained.source} is ignored: this model has no such head.",
            stacklevel=2,
        )


def check_released_form(bert: BertConfig, format: str) -> None:
    """Raises InputError unless a model has the gelu and the epsilon that BERT was released with;
    the code behind some formats has no others."""
    if bert.exact_gelu or bert.layer_norm_epsilon != RELEASED_EPSILON:
        raise InputError(
            f"Expected the tanh form of gelu and a layer_norm_epsilon of {RELEASED_EPSILON}, the "
            f"only ones that {format} has. Received: exact_gelu={bert.exact_gelu}, "
            f"layer_norm_epsilon={bert.layer_norm_epsilon}; export it to huggingface."
        )


def pairs_of(weights: Iterable[str]) -> str:
    """Infers what a model learned from pairs from the paths of its weights: "nsp" if any part of
    the next sentence prediction head, even the pooler alone, is present; else "none"."""
    parts = {path.partition("/")[0] for path in weights}
    return "none" if parts.isdisjoint(NSP.layers) else "nsp"
