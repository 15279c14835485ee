"""BERT as functional Keras models: the encoder, and the encoder with the pretraining heads."""

from __future__ import annotations

from collections.abc import Container

import keras
from keras import ops

from kbert.config import BertConfig
from kbert.model.embeddings import InputEmbedding, TokenEmbedding
from kbert.model.heads import HEADS, HeadInputs, Pooler
from kbert.model.layers import EncoderBlock
from kbert.objectives import objectives_of, pairs_of_outputs
from kbert.step.pretrainer import Pretrainer, check_precision
from tfrecords.batch import ENCODER_INPUTS, BatchSpec


def pretraining_model(
    config: BertConfig,
    *,
    seed: int = 0,
    dtype: str = "float32",
    pairs: str = "nsp",
    optional: Container[str] = (),
    recompute: bool = False,
) -> Pretrainer:
    """Builds BERT with the heads of masked language modelling and next sentence prediction. Devlin
    et al. 2019, section 3.1.

    The heads read the masked positions and [CLS] alone, so the last encoder block gives those rows
    alone: the same function for fewer operations [S = 128, P = 20: 6 % fewer for base, 13 % for
    mini, 15 % for tiny]. The whole sequence output is that of `encoder_of`.

    The head of next sentence prediction is also that of sentence order prediction (Lan et al.
    2020): only the labels differ.

    Args:
        config: A BertConfig.
        seed: The key of the initial weights and of dropout.
        dtype: The Keras dtype policy of the layers, "float32", "mixed_bfloat16" or "mixed_float16";
            logits are float32 in all.
        pairs: The kind of sentence pairs in the records, as in RecordsConfig: "nsp", "sop", or
            "none" for single segments (Liu et al. 2019), which leaves out the head of next sentence
            prediction and the pooler, which nothing else would train.
        optional: Names of optional objectives (`kbert.objectives`) whose heads the model has too.
        recompute: Gradient checkpointing: whether to recompute the activations inside each encoder
            block in the backward pass instead of keeping them (Chen et al. 2016): far less memory,
            about a third more time, the same numbers.

    Returns:
        A Pretrainer, a functional keras.Model. Inputs: a dict of token_ids, segment_ids,
        padding_mask (int32 [B, S]) and mask_positions (int32 [B, P]). Outputs: a dict of logits,
        mlm (float32 [B, P, V]) and, unless pairs is "none", nsp (float32 [B, 2]; class 0 = B
        follows A, 1 = B is random, or both are swapped).

    Raises:
        InputError: `dtype` has weights in float16, or there is no such kind of pairs.

    Example:

    >>> config = BertConfig.of_size("tiny", vocabulary_size=101)
    >>> {name: logits.shape for name, logits in pretraining_model(config).output.items()}
    {'mlm': (None, None, 101), 'nsp': (None, 2)}
    """
    check_precision(dtype)
    objectives = objectives_of(pairs, optional)
    reads_cls = any(objective.reads_cls for objective in objectives)

    # === Functional Model ===
    inputs = _inputs(BatchSpec(pairs=pairs).x)
    mask_positions = inputs["mask_positions"]
    # [CLS] stands at position 0.
    rows_BR = ops.pad(mask_positions, ((0, 0), (1, 0))) if reads_cls else mask_positions
    token_embedding, rows_BRH = _encode(config, inputs, seed, dtype, rows_BR, recompute)
    head_inputs = HeadInputs(
        config=config,
        seed=seed,
        dtype=dtype,
        token_embedding=token_embedding,
        masked_BPH=rows_BRH[:, 1:] if reads_cls else rows_BRH,
        rows_BRH=rows_BRH,
    )
    outputs = {objective.name: HEADS[objective.name](head_inputs) for objective in objectives}
    return Pretrainer(inputs, outputs, name="bert_pretraining")


def encoder_model(config: BertConfig, *, seed: int = 0, dtype: str = "float32") -> keras.Model:
    """Builds the bare encoder with its pooler, with new weights.

    Args:
        config: A BertConfig.
        seed: The key of the initial weights and of dropout.
        dtype: The Keras dtype policy of the layers.

    Returns:
        A functional keras.Model. Inputs: a dict of token_ids, segment_ids and padding_mask (int32
        [B, S]). Outputs: a dict of sequence_output (float [B, S, H]) and pooled_output (float [B,
        H]).

    Raises:
        InputError: `dtype` has weights in float16.

    Example:

    >>> encoder = encoder_model(BertConfig.of_size("tiny", vocabulary_size=101))
    >>> {name: values.shape for name, values in encoder.output.items()}
    {'sequence_output': (None, None, 128), 'pooled_output': (None, 128)}
    """
    check_precision(dtype)
    inputs = _inputs(ENCODER_INPUTS)
    _, sequence_BSH = _encode(config, inputs, seed, dtype)
    return _encoder(inputs, sequence_BSH, _pool(config, sequence_BSH, seed, dtype))


def encoder_of(model: keras.Model) -> keras.Model:
    """Returns the encoder of a pretraining model; it shares the model's weights. Inputs and outputs
    as of `encoder_model`.

    A model without next sentence prediction has no pooler: there pooled_output is the [CLS] row of
    sequence_output."""
    inputs = {name: model.input[name] for name in ENCODER_INPUTS}
    *_, before, last = (
        layer for layer in model.layers if isinstance(layer, InputEmbedding | EncoderBlock)
    )
    sequence_BSH = last(before.output, inputs["padding_mask"])
    pooled_BH = (
        sequence_BSH[:, 0, :]
        if pairs_of_outputs(model.output) == "none"
        else model.get_layer("pooler")(sequence_BSH)
    )
    return _encoder(inputs, sequence_BSH, pooled_BH)


def _encoder(inputs, sequence_BSH, pooled_BH):
    return keras.Model(
        inputs, {"sequence_output": sequence_BSH, "pooled_output": pooled_BH}, name="bert_encoder"
    )


def _inputs(names):
    """Symbolic inputs for those features of a batch, of any length."""
    spec = BatchSpec()
    return {
        name: keras.Input(spec.shape(spec.x[name])[1:], dtype=spec.x[name].dtype, name=name)
        for name in names
    }


def _encode(config, inputs, seed, dtype, rows=None, recompute=False):
    """The encoder on symbolic inputs: the word embedding layer, and the sequence output or those
    rows of it."""
    # === Layers ===
    shared = {"initializer_range": config.initializer_range, "seed": seed, "dtype": dtype}
    token_embedding = TokenEmbedding(
        vocabulary_size=config.vocabulary_size,
        hidden_size=config.hidden_size,
        name="token_embedding",
        **shared,
    )
    x_BSH = InputEmbedding(
        max_positions=config.max_positions,
        num_segments=config.num_segments,
        dropout=config.dropout,
        layer_norm_epsilon=config.layer_norm_epsilon,
        name="embeddings",
        **shared,
    )(token_embedding(inputs["token_ids"]), inputs["segment_ids"])
    for index in range(config.num_layers):
        x_BSH = EncoderBlock(
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            exact_gelu=config.exact_gelu,
            layer_norm_epsilon=config.layer_norm_epsilon,
            recompute=recompute,
            name=f"layer_{index}",
            **shared,
        )(x_BSH, inputs["padding_mask"], rows if index == config.num_layers - 1 else None)
    return token_embedding, x_BSH


def _pool(config, sequence_BSH, seed, dtype):
    return Pooler(
        initializer_range=config.initializer_range, seed=seed, name="pooler", dtype=dtype
    )(sequence_BSH)
