"""The blocks of the encoder, in keras.ops: they run on every backend of Keras.

Shapes: B batch, S sequence, H hidden size, N heads, D = H / N, F intermediate size, C channels, R
rows that are wanted.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kbert.model.initializers import kernel_initializer
from kbert.step.dropout import Dropout, current_step, dropout_masks_of, subseed


def gelu(x: Any, exact: bool) -> Any:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016), in the tanh form of released BERT
    unless `exact`."""
    # The cube in it, or its gradient, would be infinite in float16 from 40 on.
    if keras.backend.standardize_dtype(x.dtype) == "float16":
        return ops.cast(gelu(ops.cast(x, "float32"), exact), "float16")
    return keras.activations.gelu(x, approximate=not exact)


def dense_layer(quantized: dict[str, Any], **options: Any) -> keras.layers.Dense:
    """A dense layer as part of another layer, quantized if `quantized` says so."""
    layer = keras.layers.Dense(**options)
    changes = quantized.get(layer.name)
    return keras.layers.Dense.from_config(layer.get_config() | changes) if changes else layer


def quantization_of(owner: keras.layers.Layer, *attributes: str) -> dict[str, Any]:
    """What the configuration of a layer has to say of the dense layers in it: {} or, after
    `model.quantize`, {"quantized": what changed in each, by name}.

    `quantize` reaches layers inside of layers, which are built again when a file is loaded. A layer
    that is not built has none yet.
    """
    layers = [getattr(owner, name) for name in attributes] if owner.built else []
    changed = {
        layer.name: {key: layer.get_config()[key] for key in ("dtype", "quantization_config")}
        for layer in layers
        if layer.quantization_mode
    }
    return {"quantized": changed} if changed else {}


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
        recompute: Gradient checkpointing: whether to keep only the block's input for the backward
            pass and to recompute the rest.
        initializer_range: Standard deviation of the initial kernels.
        seed: The key of the initial kernels and of dropout.
        quantized: Of a layer that is loaded: how its dense layers were quantized.

    Call arguments:
        hidden: float [B, S, H].
        padding_mask: int32 [B, S], 1 on tokens, 0 on padding; None where rows are packed.
        rows: The positions whose output is wanted, int32 [B, R]; None wants all, in order. All of
            the input is attended to, but the queries and all that follows them cost R rows and not
            S.
        pair_numbers: Of packed rows, in the place of the padding mask: the number of the pair that
            each token belongs to, 0 on padding, int32 [B, S]. Tokens attend to those with the same
            number: to their own pair, and padding to padding.

    Returns:
        float [B, R, H], without rows [B, S, H].
    """

    def __init__(
        self,
        *,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        exact_gelu: bool = False,
        layer_norm_epsilon: float = 1e-12,
        recompute: bool = False,
        initializer_range: float = 0.02,
        seed: int = 0,
        quantized: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        # === Config ===
        self.recompute = recompute
        self.num_heads = num_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.exact_gelu = exact_gelu
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.seed = seed
        self._quantized = quantized or {}

    def build(
        self,
        hidden_shape: Any,
        padding_mask_shape: Any = None,
        rows_shape: Any = None,
        pair_numbers_shape: Any = None,
    ) -> None:
        hidden_size = hidden_shape[-1]

        def dense(name, units, input_size):
            layer = dense_layer(
                self._quantized,
                units=units,
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

        # === Layers ===
        # One product for queries, keys and values; weights are named in this order in files.
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

    def call(
        self,
        hidden: Any,
        padding_mask: Any = None,
        rows: Any = None,
        pair_numbers: Any = None,
        training: bool = False,
    ) -> Any:
        is_packed = pair_numbers is not None
        inputs = (hidden, pair_numbers if is_packed else padding_mask)
        inputs = inputs if rows is None else (*inputs, rows)
        if not (training and self.recompute):
            return self._transform(*inputs, is_packed=is_packed, training=training)
        # Both passes need the same dropout masks, also outside of a training step, where calls are
        # counted: the count is taken once, here.
        masks = current_step() or (
            self._drop_output.count(),
            ops.arange(ops.shape(hidden)[0], dtype="int32"),
        )

        def transform(*inputs):
            with dropout_masks_of(*masks):
                return self._transform(*inputs, is_packed=is_packed, training=True)

        # Not keras.RematScope, which fails in graphs of TensorFlow where a layer has keyword
        # arguments (keras/src/layers/layer.py, rematerialized_call, Keras 3.15).
        return keras.remat(transform)(*inputs)

    def _transform(self, hidden_BSH, mask_BS, rows_BR=None, *, is_packed, training):
        # Attention, its residual and normalisation, on all rows or on the wanted ones. The mask is
        # the same for all queries, or with packed rows one for each.
        if rows_BR is None:
            mask = _of_same_pair(mask_BS, mask_BS) if is_packed else mask_BS
            x_BRH, attended_BRH = hidden_BSH, self._attend_from_all(hidden_BSH, mask, training)
        else:
            x_BRH = ops.take_along_axis(hidden_BSH, rows_BR[:, :, None], axis=1)
            mask = mask_BS
            if is_packed:
                mask = _of_same_pair(ops.take_along_axis(mask_BS, rows_BR, axis=1), mask_BS)
            attended_BRH = self._attend_from(x_BRH, hidden_BSH, mask, training)
        x_BRH = self.attention_norm(
            x_BRH + self._drop_attention(self.attention_output(attended_BRH), training=training)
        )
        # The feed-forward network, its residual and normalisation.
        hidden_BRF = gelu(self.intermediate(x_BRH), self.exact_gelu)
        return self.output_norm(
            x_BRH + self._drop_output(self.output_(hidden_BRF), training=training)
        )

    def _attend_from_all(self, x_BSH, mask, training):
        qkv_BSC = self.qkv(x_BSH)
        # Written out: on TensorFlow there is no fused attention, and a fused one on JAX knows
        # nothing of dropout on probabilities, and on a CPU nothing of float16 (jax/_src/nn/
        # functions.py, _dot_product_attention_core, JAX 0.10: "F16_F16_F32 is not supported").
        on_jax = keras.backend.backend() == "jax"
        device = keras.distribution.list_devices()[0] if on_jax else ""
        if (
            not on_jax
            or (training and self.attention_dropout)
            or (device.startswith("cpu") and self.compute_dtype == "float16")
        ):
            q_BNSD, k_BNSD, v_BNSD = self._heads(qkv_BSC, 3)
            return self._attend(q_BNSD, k_BNSD, v_BNSD, mask, training)
        batch_size, sequence_length, hidden_size = ops.shape(x_BSH)
        qkv = ops.reshape(
            qkv_BSC, (batch_size, sequence_length, 3, self.num_heads, hidden_size // self.num_heads)
        )
        q_BSND, k_BSND, v_BSND = ops.unstack(qkv, 3, axis=2)
        # The mask for all rows of queries, which cuDNN's kernel asks for. For packed rows that
        # kernel has offsets too, but jax.nn.dot_product_attention does not (JAX 0.10): they have
        # the mask as well.
        mask_B1SS = ops.broadcast_to(
            ops.cast(_for_all_heads(mask), "bool"),
            (batch_size, 1, sequence_length, sequence_length),
        )
        # On a TPU, Keras gives its fused kernel the mask of the first row for all rows
        # (keras/src/backend/jax/nn.py, wrap_flash_attention, Keras 3.15).
        flash = False if device.startswith("tpu") else None
        attended_BSND = ops.dot_product_attention(
            q_BSND, k_BSND, v_BSND, mask=mask_B1SS, flash_attention=flash
        )
        return ops.reshape(attended_BSND, (batch_size, sequence_length, hidden_size))

    def _attend_from(self, x_BRH, hidden_BSH, mask, training):
        size = x_BRH.shape[-1]
        if self.qkv.quantization_mode:  # the kernel alone would say nothing
            q_BRH, kv_BSC = self.qkv(x_BRH)[..., :size], self.qkv(hidden_BSH)[..., size:]
        else:
            # Cast here and not by the layer: TensorFlow recomputes this when the layer's call, and
            # with it the automatic casts, are over.
            kernel, bias = (
                ops.cast(variable, self.compute_dtype)
                for variable in (self.qkv.kernel, self.qkv.bias)
            )
            q_BRH = ops.matmul(x_BRH, kernel[:, :size]) + bias[:size]
            kv_BSC = ops.matmul(hidden_BSH, kernel[:, size:]) + bias[size:]
        (q_BNRD,), (k_BNSD, v_BNSD) = self._heads(q_BRH, 1), self._heads(kv_BSC, 2)
        return self._attend(q_BNRD, k_BNSD, v_BNSD, mask, training)

    def _attend(self, q_BNRD, k_BNSD, v_BNSD, mask, training):
        batch_size, _, rows, head_size = ops.shape(q_BNRD)
        # The queries are scaled, fewer numbers than the scores.
        scores_BNRS = ops.matmul(q_BNRD * head_size**-0.5, ops.transpose(k_BNSD, (0, 1, 3, 2)))
        # Of float16, whose largest number is 65,504: no score comes near to half of that.
        far = 3e4 if self.compute_dtype == "float16" else 1e9
        scores_BNRS += (_for_all_heads(ops.cast(mask, scores_BNRS.dtype)) - 1.0) * far
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

    def compute_output_spec(
        self,
        hidden: Any,
        padding_mask: Any = None,
        rows: Any = None,
        pair_numbers: Any = None,
        training: bool = False,
    ) -> keras.KerasTensor:
        batch_size, length, hidden_size = hidden.shape
        return keras.KerasTensor(
            (batch_size, length if rows is None else rows.shape[1], hidden_size), self.compute_dtype
        )

    def get_config(self) -> dict[str, Any]:
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
            **quantization_of(self, "qkv", "attention_output", "intermediate", "output_"),
        }


def _of_same_pair(queries_BR, keys_BS):
    """Which keys belong to the pair of a query, by the numbers of their pairs: bool [B, R, S]."""
    return ops.equal(queries_BR[:, :, None], keys_BS[:, None, :])


def _for_all_heads(mask):
    """A mask [B, S] or [B, R, S] with axes that broadcast: [B, 1, 1, S] or [B, 1, R, S]."""
    # expand_dims and not an index with None: that becomes a strided slice with new axes, which
    # TFLite's built-in operations do not have.
    return ops.expand_dims(mask, (1, 2) if len(mask.shape) == 2 else 1)
