"""The layers of the encoder, in keras.ops: they run on every backend of Keras.

Shapes: B batch, S sequence, H hidden size, N heads, D = H / N, F intermediate size, V vocabulary, C
    channels,
R rows that are wanted.
"""

import keras
from keras import ops

from kbert.model.initializers import kernel_initializer
from kbert.step.dropout import Dropout, current_step, dropout_masks_of, subseed


def gelu(x, exact):
    """Gaussian error linear unit (Hendrycks and Gimpel 2016), in the tanh form of released BERT
    unless `exact`."""
    return keras.activations.gelu(x, approximate=not exact)


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

    def __init__(self, *, vocabulary_size, hidden_size, initializer_range=0.02, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_size = hidden_size
        self.initializer_range = initializer_range
        self.seed = seed

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.hidden_size),
            initializer=kernel_initializer(
                self.initializer_range, self.seed, self.name, "embeddings"
            ),
        )

    def call(self, inputs, reverse=False):
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))
        return ops.take(self.embeddings, inputs, axis=0)

    def compute_output_spec(self, inputs, reverse=False):
        shape = (
            (*inputs.shape[:-1], self.vocabulary_size)
            if reverse
            else (*inputs.shape, self.hidden_size)
        )
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self):
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

    Returns:
        float [B, S, H].
    """

    def __init__(
        self,
        *,
        max_positions,
        num_segments=2,
        dropout=0.1,
        layer_norm_epsilon=1e-12,
        initializer_range=0.02,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_positions = max_positions
        self.num_segments = num_segments
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed
        self._normalize = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, name="layer_norm", dtype=self.dtype_policy
        )
        self._drop = Dropout(
            rate=dropout, seed=subseed(seed, self.name), name="dropout", dtype=self.dtype_policy
        )

    def build(self, words_shape, segment_ids_shape):
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

    def call(self, words, segment_ids, training=False):
        sequence_length = ops.shape(words)[1]
        positions_SH = self.position_embeddings[:sequence_length]
        # A product with one-hot rows: its gradient is a product too, where a gather's is a slow
        # scatter.
        segments_BSH = ops.matmul(
            ops.one_hot(segment_ids, self.num_segments, dtype=self.compute_dtype),
            self.segment_embeddings,
        )
        return self._drop(self._normalize(words + positions_SH + segments_BSH), training=training)

    def compute_output_spec(self, words, segment_ids, training=False):
        return keras.KerasTensor(words.shape, self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "max_positions": self.max_positions,
            "num_segments": self.num_segments,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kbert")
class EncoderBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network, each with a residual and a normalisation after it.

    Vaswani et al. 2017, section 3.1, with the post-norm order that BERT kept.

    Args:
        num_heads: N.
        intermediate_size: F.
        dropout: The share of values that is dropped in training.
        attention_dropout: The same for the attention probabilities; None takes `dropout`. Without
            it, and without rows, JAX uses its fused attention, which on a GPU never holds all
            probabilities.
        exact_gelu: See BertConfig.
        layer_norm_epsilon: Added to the variance.
        recompute: Whether to keep the block's input alone for the backward pass and to work out the
            rest once more.
        initializer_range: Standard deviation of the initial kernels.
        seed: The key of the initial kernels and of dropout.

    Call arguments:
        hidden: float [B, S, H].
        padding_mask: int32 [B, S], 1 on tokens, 0 on padding.
        rows: The positions whose output is wanted, int32 [B, R]; None wants all, in order. All of
            the input is attended to, but the queries and all that follows them cost R rows and not
            S.

    Returns:
        float [B, R, H], without rows [B, S, H].
    """

    def __init__(
        self,
        *,
        num_heads,
        intermediate_size,
        dropout=0.1,
        attention_dropout=None,
        exact_gelu=False,
        layer_norm_epsilon=1e-12,
        recompute=False,
        initializer_range=0.02,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.recompute = recompute
        self.num_heads = num_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.exact_gelu = exact_gelu
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed

    def build(self, hidden_shape, padding_mask_shape, rows_shape=None):
        hidden_size = hidden_shape[-1]

        def dense(name, units, input_size):
            layer = keras.layers.Dense(
                units,
                kernel_initializer=kernel_initializer(
                    self.initializer_range, self.seed, self.name, name
                ),
                name=name,
                dtype=self.dtype_policy,
            )
            layer.build((None, None, input_size))
            return layer

        def normalization(name):
            layer = keras.layers.LayerNormalization(
                epsilon=self.layer_norm_epsilon, name=name, dtype=self.dtype_policy
            )
            layer.build(hidden_shape)
            return layer

        def dropout(name, rate):
            layer = Dropout(
                rate=rate,
                seed=subseed(self.seed, self.name, name),
                name=name,
                dtype=self.dtype_policy,
            )
            layer.build(None)
            return layer

        self.qkv = dense("qkv", 3 * hidden_size, hidden_size)
        self.attention_output = dense("attention_output", hidden_size, hidden_size)
        self.attention_norm = normalization("attention_norm")
        self.intermediate = dense("intermediate", self.intermediate_size, hidden_size)
        self.output_ = dense("output", hidden_size, self.intermediate_size)
        self.output_norm = normalization("output_norm")
        self._drop_probabilities = dropout(
            "attention_probabilities_dropout", self.attention_dropout
        )
        self._drop_attention = dropout("attention_dropout", self.dropout)
        self._drop_output = dropout("output_dropout", self.dropout)

    def call(self, hidden, padding_mask, rows=None, training=False):
        inputs = (hidden, padding_mask) if rows is None else (hidden, padding_mask, rows)
        if not (training and self.recompute):
            return self._transform(*inputs, training=training)
        # Outside of a training step too, both times have the same masks.
        masks = current_step() or (
            self._drop_output.count(),
            ops.arange(ops.shape(hidden)[0], dtype="int32"),
        )

        def transform(*inputs):
            with dropout_masks_of(*masks):
                return self._transform(*inputs, training=True)

        # Not keras.RematScope, which fails in graphs of TensorFlow where a layer has keyword
        # arguments (Keras 3.15).
        return keras.remat(transform)(*inputs)

    def _transform(self, hidden_BSH, mask_BS, rows_BR=None, *, training):
        if rows_BR is None:
            x_BRH, attended_BRH = hidden_BSH, self._attend_from_all(hidden_BSH, mask_BS, training)
        else:
            x_BRH = ops.take_along_axis(hidden_BSH, rows_BR[:, :, None], axis=1)
            attended_BRH = self._attend_from(x_BRH, hidden_BSH, mask_BS, training)
        x_BRH = self.attention_norm(
            x_BRH + self._drop_attention(self.attention_output(attended_BRH), training=training)
        )
        hidden_BRF = gelu(self.intermediate(x_BRH), self.exact_gelu)
        return self.output_norm(
            x_BRH + self._drop_output(self.output_(hidden_BRF), training=training)
        )

    def _attend_from_all(self, x_BSH, mask_BS, training):
        qkv_BSC = self.qkv(x_BSH)
        if keras.backend.backend() != "jax" or (training and self.attention_dropout):
            return self._attend(*self._heads(qkv_BSC, 3), mask_BS, training)
        batch_size, sequence_length, hidden_size = ops.shape(x_BSH)
        qkv = ops.reshape(
            qkv_BSC, (batch_size, sequence_length, 3, self.num_heads, hidden_size // self.num_heads)
        )
        q_BSND, k_BSND, v_BSND = ops.unstack(qkv, 3, axis=2)
        # All rows of queries, which cuDNN's kernel asks for.
        mask_B1SS = ops.broadcast_to(
            ops.cast(mask_BS, "bool")[:, None, None, :],
            (batch_size, 1, sequence_length, sequence_length),
        )
        # On a TPU, Keras 3.15 gives its fused kernel the mask of the first row for all rows.
        flash = False if keras.distribution.list_devices()[0].startswith("tpu") else None
        attended_BSND = ops.dot_product_attention(
            q_BSND, k_BSND, v_BSND, mask=mask_B1SS, flash_attention=flash
        )
        return ops.reshape(attended_BSND, (batch_size, sequence_length, hidden_size))

    def _attend_from(self, x_BRH, hidden_BSH, mask_BS, training):
        size = x_BRH.shape[-1]
        if self.qkv.quantization_mode:  # the kernel alone would say nothing
            q_BRH, kv_BSC = self.qkv(x_BRH)[..., :size], self.qkv(hidden_BSH)[..., size:]
        else:
            # TensorFlow works this out once more, for `recompute`, when the casts of this layer's
            # call are over.
            kernel, bias = (
                ops.cast(variable, self.compute_dtype)
                for variable in (self.qkv.kernel, self.qkv.bias)
            )
            q_BRH = ops.matmul(x_BRH, kernel[:, :size]) + bias[:size]
            kv_BSC = ops.matmul(hidden_BSH, kernel[:, size:]) + bias[size:]
        return self._attend(*self._heads(q_BRH, 1), *self._heads(kv_BSC, 2), mask_BS, training)

    def _attend(self, q_BNRD, k_BNSD, v_BNSD, mask_BS, training):
        batch_size, _, rows, head_size = ops.shape(q_BNRD)
        scores_BNRS = ops.matmul(q_BNRD * head_size**-0.5, ops.transpose(k_BNSD, (0, 1, 3, 2)))
        scores_BNRS += (ops.cast(mask_BS, scores_BNRS.dtype)[:, None, None, :] - 1.0) * 1e9
        probabilities_BNRS = self._drop_probabilities(ops.softmax(scores_BNRS), training=training)
        attended_BRND = ops.transpose(ops.matmul(probabilities_BNRS, v_BNSD), (0, 2, 1, 3))
        return ops.reshape(attended_BRND, (batch_size, rows, self.num_heads * head_size))

    def _heads(self, projected_BSC, parts):
        """Cuts queries, keys and values that lie beside each other into heads: a list of [B, N, S,
        D]."""
        batch_size, length, channels = ops.shape(projected_BSC)
        heads = ops.reshape(
            projected_BSC,
            (batch_size, length, parts, self.num_heads, channels // parts // self.num_heads),
        )
        return ops.unstack(ops.transpose(heads, (2, 0, 3, 1, 4)), parts, axis=0)

    def compute_output_spec(self, hidden, padding_mask, rows=None, training=False):
        batch_size, length, hidden_size = hidden.shape
        return keras.KerasTensor(
            (batch_size, length if rows is None else rows.shape[1], hidden_size), self.compute_dtype
        )

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "exact_gelu": self.exact_gelu,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "recompute": self.recompute,
            "initializer_range": self.initializer_range,
            "seed": self.seed,
        }
