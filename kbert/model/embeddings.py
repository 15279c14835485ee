"""The embeddings of the encoder, in keras.ops: they run on every backend of Keras.

Shapes: B batch, S sequence, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kbert.model.initializers import kernel_initializer
from kbert.step.dropout import Dropout, subseed


@keras.saving.register_keras_serializable("kbert")
class TokenEmbedding(keras.layers.Layer):
    """The word embeddings, and on the way back the product with them that gives scores over the
    vocabulary.

    Args:
        vocabulary_size: V.
        hidden_size: H.
        initializer_range: Standard deviation of the initial embeddings.
        seed: The key of the initial embeddings.

    Call arguments:
        inputs: Ids (int32 [B, S]), or with `reverse` hidden states (float [..., H]).
        reverse: Whether to go back.

    Returns:
        Embeddings (float [B, S, H]), or scores (float [..., V]).
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        hidden_size: int,
        initializer_range: float = 0.02,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.hidden_size = hidden_size
        self.initializer_range = initializer_range
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.hidden_size),
            initializer=kernel_initializer(
                self.initializer_range, self.seed, self.name, "embeddings"
            ),
        )

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))
        return ops.take(self.embeddings, inputs, axis=0)

    def compute_output_spec(self, inputs: Any, reverse: bool = False) -> keras.KerasTensor:
        shape = (
            (*inputs.shape[:-1], self.vocabulary_size)
            if reverse
            else (*inputs.shape, self.hidden_size)
        )
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kbert")
class InputEmbedding(keras.layers.Layer):
    """Adds position and segment embeddings to word embeddings, then normalises and drops out.
    Devlin et al. 2019, figure 2.

    Args:
        max_positions: The longest sequence.
        num_segments: The number of segment ids.
        dropout: The share of values that is dropped in training.
        layer_norm_epsilon: Added to the variance.
        initializer_range: Standard deviation of the initial embeddings.
        seed: The key of the initial embeddings and of dropout.

    Call arguments:
        words: Word embeddings, float [B, S, H].
        segment_ids: int32 [B, S].
        positions: The place of each token in its pair, int32 [B, S], where rows are packed; None
            counts from 0 along the row.

    Returns:
        float [B, S, H].
    """

    def __init__(
        self,
        *,
        max_positions: int,
        num_segments: int = 2,
        dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-12,
        initializer_range: float = 0.02,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        # === Config ===
        self.max_positions = max_positions
        self.num_segments = num_segments
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed

        # === Layers ===
        self._normalize = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, name="layer_norm", dtype=self.dtype_policy
        )
        self._drop = Dropout(
            rate=dropout, seed=subseed(seed, self.name), name="dropout", dtype=self.dtype_policy
        )

    def build(self, words_shape: Any, segment_ids_shape: Any, positions_shape: Any = None) -> None:
        hidden_size = words_shape[-1]
        for name, rows in {"position": self.max_positions, "segment": self.num_segments}.items():
            table = self.add_weight(
                name=f"{name}_embeddings",
                shape=(rows, hidden_size),
                initializer=kernel_initializer(self.initializer_range, self.seed, self.name, name),
            )
            setattr(self, f"{name}_embeddings", table)
        self._normalize.build(words_shape)
        self._drop.build(words_shape)

    def call(
        self, words: Any, segment_ids: Any, positions: Any = None, training: bool = False
    ) -> Any:
        places = self._position_embeddings_of(words, positions)
        # A product with one-hot rows: its gradient is a product too, where a gather's is a slow
        # scatter.
        segments_BSH = ops.matmul(
            ops.one_hot(segment_ids, self.num_segments, dtype=self.compute_dtype),
            self.segment_embeddings,
        )
        return self._drop(self._normalize(words + places + segments_BSH), training=training)

    def _position_embeddings_of(self, words_BSH, positions_BS):
        if positions_BS is not None:
            # Of so many rows a gather is faster than a one-hot product, its gradient included:
            # 5 and 13 ms at S = 128, H = 256, 5 and 42 ms at S = 512; 40 and 66 ms, 43 and 150 ms
            # with H = 768 [4,096 tokens, XLA on two busy cores, 2026-11].
            return ops.take(self.position_embeddings, positions_BS, axis=0)
        sequence_length = ops.shape(words_BSH)[1]
        if keras.backend.backend() == "jax" and not isinstance(sequence_length, int):
            # jax.export with symbolic lengths: a slice would be as long as the shorter of both, for
            # all that is known, and could not be added.
            rows_S = ops.arange(sequence_length, dtype="int32")
            return ops.take(self.position_embeddings, rows_S, axis=0)
        # Its gradient is a padding, where a gather's is a slow scatter.
        return self.position_embeddings[:sequence_length]

    def compute_output_spec(
        self, words: Any, segment_ids: Any, positions: Any = None, training: bool = False
    ) -> keras.KerasTensor:
        return keras.KerasTensor(words.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "max_positions": self.max_positions,
            "num_segments": self.num_segments,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }
