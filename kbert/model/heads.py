"""What stands on the encoder: the pooler, and the heads of masked language modelling and next
sentence prediction.

Shapes: B batch, S sequence, H hidden size, P slots for masked tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import keras

from kbert.config import BertConfig
from kbert.model.initializers import kernel_initializer
from kbert.model.layers import TokenEmbedding, gelu


@keras.saving.register_keras_serializable("kbert")
class Pooler(keras.layers.Layer):
    """The hidden state of [CLS] through a dense layer with tanh: one vector for the whole input.

    Args:
        initializer_range: Standard deviation of the initial kernel.
        seed: The key of the initial kernel.

    Call arguments:
        hidden: The sequence output, float [B, S, H], or its first rows.

    Returns:
        float [B, H].
    """

    def __init__(self, *, initializer_range=0.02, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.initializer_range = initializer_range
        self.seed = seed

    def build(self, hidden_shape):
        self.dense = keras.layers.Dense(
            hidden_shape[-1],
            activation="tanh",
            kernel_initializer=kernel_initializer(
                self.initializer_range, self.seed, self.name, "dense"
            ),
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build((None, hidden_shape[-1]))

    def call(self, hidden):
        return self.dense(hidden[:, 0, :])

    def get_config(self):
        return super().get_config() | {
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

    Call arguments:
        hidden: The rows of the sequence output at the masked positions, float [B, P, H].

    Returns:
        float [B, P, H].
    """

    def __init__(
        self,
        *,
        exact_gelu=False,
        layer_norm_epsilon=1e-12,
        initializer_range=0.02,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.exact_gelu = exact_gelu
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed

    def build(self, hidden_shape):
        self.dense = keras.layers.Dense(
            hidden_shape[-1],
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

    def call(self, hidden):
        return self.layer_norm(gelu(self.dense(hidden), self.exact_gelu))

    def get_config(self):
        return super().get_config() | {
            "exact_gelu": self.exact_gelu,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kbert")
class VocabularyBias(keras.layers.Layer):
    """The last step of the masked language modelling head: adds a bias for every piece of the
    vocabulary.

    Call arguments:
        scores: The product with the word embeddings, float [B, P, V].

    Returns:
        Logits, as scores.
    """

    def build(self, scores_shape):
        self.bias = self.add_weight(name="bias", shape=(scores_shape[-1],), initializer="zeros")

    def call(self, scores):
        return scores + self.bias


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """What the encoder hands to the heads of a functional model."""

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
    """The same, after the state of [CLS] if a head reads it (`Objective.reads_cls`)."""


def masked_language_modelling(inputs: HeadInputs) -> keras.KerasTensor:
    """Scores over the vocabulary for each masked position, float32 [B, P, V]."""
    config = inputs.config
    transformed_BPH = MaskedTransform(
        exact_gelu=config.exact_gelu,
        layer_norm_epsilon=config.layer_norm_epsilon,
        initializer_range=config.initializer_range,
        seed=inputs.seed,
        name="mlm_transform",
        dtype=inputs.dtype,
    )(inputs.masked_BPH)
    scores_BPV = inputs.token_embedding(transformed_BPH, reverse=True)
    return VocabularyBias(name="mlm", dtype="float32")(scores_BPV)


def next_sentence_prediction(inputs: HeadInputs) -> keras.KerasTensor:
    """Scores of the two labels of a pair of sentences, float32 [B, 2]."""
    initializer_range = inputs.config.initializer_range
    pooled_BH = Pooler(
        initializer_range=initializer_range, seed=inputs.seed, name="pooler", dtype=inputs.dtype
    )(inputs.rows_BRH)
    return keras.layers.Dense(
        2,
        kernel_initializer=kernel_initializer(initializer_range, inputs.seed, "nsp"),
        name="nsp",
        dtype="float32",
    )(pooled_BH)


HEADS = {"mlm": masked_language_modelling, "nsp": next_sentence_prediction}
"""What makes the logits of each objective of `kbert.objectives`, by its name."""
