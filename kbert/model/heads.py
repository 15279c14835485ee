"""What stands on the encoder: the pooler, and the heads of masked language modelling and next
sentence prediction.

Shapes: B batch, S sequence, H hidden size, P slots for masked tokens, K pairs in a row, V
vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

import keras

from kbert.config import BertConfig
from kbert.model.embeddings import TokenEmbedding
from kbert.model.initializers import kernel_initializer
from kbert.model.layers import dense_layer, gelu, quantization_of

_L = TypeVar("_L", bound=keras.layers.Layer)


@keras.saving.register_keras_serializable("kbert")
class Pooler(keras.layers.Layer):
    """The hidden state of [CLS] through a dense layer with tanh: one vector for the whole input.

    Args:
        initializer_range: Standard deviation of the initial kernel.
        seed: The key of the initial kernel.
        quantized: Of a layer that is loaded: how its dense layer was quantized.

    Call arguments:
        hidden: The sequence output, float [B, S, H], or its first rows; with `each` the states of
            the [CLS] of K pairs, float [B, K, H].
        each: Whether every row of `hidden` is a [CLS], and not the first alone.

    Returns:
        float [B, H], or with `each` [B, K, H].
    """

    def __init__(
        self,
        *,
        initializer_range: float = 0.02,
        seed: int = 0,
        quantized: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        # === Config ===
        self.initializer_range = initializer_range
        self.seed = seed
        self._quantized = quantized or {}

    def build(self, hidden_shape: Any) -> None:
        # === Layers ===
        self.dense = dense_layer(
            self._quantized,
            units=hidden_shape[-1],
            activation="tanh",
            kernel_initializer=kernel_initializer(
                self.initializer_range, self.seed, self.name, "dense"
            ),
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build((None, hidden_shape[-1]))

    def call(self, hidden: Any, each: bool = False) -> Any:
        return self.dense(hidden if each else hidden[:, 0, :])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            **quantization_of(self, "dense"),
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kbert")
class MaskedTransform(keras.layers.Layer):
    """The first half of the masked language modelling head: the hidden states at the masked
    positions, transformed.

    Dense, gelu and normalisation (get_masked_lm_output of google-research/bert).

    Args:
        exact_gelu: See BertConfig.
        layer_norm_epsilon: Added to the variance.
        initializer_range: Standard deviation of the initial kernel.
        seed: The key of the initial kernel.
        quantized: Of a layer that is loaded: how its dense layer was quantized.

    Call arguments:
        hidden: The rows of the sequence output at the masked positions, float [B, P, H].

    Returns:
        float [B, P, H].
    """

    def __init__(
        self,
        *,
        exact_gelu: bool = False,
        layer_norm_epsilon: float = 1e-12,
        initializer_range: float = 0.02,
        seed: int = 0,
        quantized: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        # === Config ===
        self.exact_gelu = exact_gelu
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed
        self._quantized = quantized or {}

    def build(self, hidden_shape: Any) -> None:
        # === Layers ===
        self.dense = dense_layer(
            self._quantized,
            units=hidden_shape[-1],
            kernel_initializer=kernel_initializer(
                self.initializer_range, self.seed, self.name, "dense"
            ),
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build(hidden_shape)
        self.layer_norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, name="layer_norm", dtype=self.dtype_policy
        )
        self.layer_norm.build(hidden_shape)

    def call(self, hidden: Any) -> Any:
        return self.layer_norm(gelu(self.dense(hidden), self.exact_gelu))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            **quantization_of(self, "dense"),
            "exact_gelu": self.exact_gelu,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kbert")
class VocabularyBias(keras.layers.Layer):
    """The last step of the masked language modelling head: adds a bias for every token of the
    vocabulary.

    Call arguments:
        scores: The product with the word embeddings, float [B, P, V].

    Returns:
        Logits, as scores.
    """

    def build(self, scores_shape: Any) -> None:
        self.bias = self.add_weight(name="bias", shape=(scores_shape[-1],), initializer="zeros")

    def call(self, scores: Any) -> Any:
        return scores + self.bias


class Layers:
    """Where a functional model has its layers from: new ones, or those of another model.

    Args:
        there: The other model, which has every layer that is asked for.
    """

    def __init__(self, there: keras.Model | None = None) -> None:
        self._there = there

    def __call__(self, kind: type[_L], *, name: str, **options: Any) -> _L:
        """The layer of that name; a new one is made of `options`."""
        if self._there is None:
            return kind(name=name, **options)
        return cast("_L", self._there.get_layer(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """What the encoder hands to the heads of a functional model."""

    layers: Layers
    """Where a head has its layers from, so that packed and unpacked models can share them."""
    config: BertConfig
    seed: int
    """The key of initial weights."""
    dtype: str
    """The Keras dtype policy of the layers; logits are float32 in any."""
    token_embedding: TokenEmbedding
    """The word embeddings, whose matrix the masked language modelling head shares."""
    masked_BPH: keras.KerasTensor
    """The states at the masked positions."""
    rows_BRH: keras.KerasTensor
    """The same, after the state of [CLS] if a head reads it (`Objective.reads_cls`), or of K of
    them."""
    cls_BKH: keras.KerasTensor | None = None
    """Of packed rows, the states of the [CLS] of each pair, if a head reads them."""


def masked_language_modelling(inputs: HeadInputs) -> keras.KerasTensor:
    """Scores over the vocabulary for each masked position, float32 [B, P, V]."""
    config = inputs.config
    transformed_BPH = inputs.layers(
        MaskedTransform,
        exact_gelu=config.exact_gelu,
        layer_norm_epsilon=config.layer_norm_epsilon,
        initializer_range=config.initializer_range,
        seed=inputs.seed,
        name="mlm_transform",
        dtype=inputs.dtype,
    )(inputs.masked_BPH)
    scores_BPV = inputs.token_embedding(transformed_BPH, reverse=True)
    return inputs.layers(VocabularyBias, name="mlm", dtype="float32")(scores_BPV)


def next_sentence_prediction(inputs: HeadInputs) -> keras.KerasTensor:
    """Scores of the two labels of a pair of sentences, float32 [B, 2], or of each pair of a packed
    row, [B, K, 2]."""
    initializer_range = inputs.config.initializer_range
    pooler = inputs.layers(
        Pooler,
        initializer_range=initializer_range,
        seed=inputs.seed,
        name="pooler",
        dtype=inputs.dtype,
    )
    pooled = (
        pooler(inputs.rows_BRH) if inputs.cls_BKH is None else pooler(inputs.cls_BKH, each=True)
    )
    return inputs.layers(
        keras.layers.Dense,
        units=2,
        kernel_initializer=kernel_initializer(initializer_range, inputs.seed, "nsp"),
        name="nsp",
        dtype="float32",
    )(pooled)


HEADS = {"mlm": masked_language_modelling, "nsp": next_sentence_prediction}
"""What makes the logits of each objective of `kbert.objectives`, by its name."""
