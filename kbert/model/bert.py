"""BERT as functional Keras models: the encoder, and the encoder with the pretraining heads."""

from __future__ import annotations

import weakref
from collections.abc import Container, Iterable, Sequence

import keras
from keras import ops

from kbert.config import BertConfig
from kbert.model.embeddings import InputEmbedding, TokenEmbedding
from kbert.model.heads import HEADS, HeadInputs, Layers, Pooler
from kbert.model.layers import EncoderBlock
from kbert.objectives import Objective, objectives_in, objectives_of, pairs_of_outputs
from kbert.step.pretrainer import Pretrainer, check_precision, scope_of
from tfrecords.batch import ENCODER_INPUTS, BatchSpec


def pretraining_model(
    config: BertConfig,
    *,
    seed: int = 0,
    dtype: str = "float32",
    pairs: str = "nsp",
    optional: Container[str] = (),
    recompute: bool = False,
    pack: int = 1,
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
        pack: K, the most pairs in a row of packed records (Krell et al. 2021); 1 for rows of one
            pair. The weights and their names are the same with any: see `packed_as`.

    Returns:
        A Pretrainer, a functional keras.Model. Inputs: a dict of token_ids, segment_ids,
        padding_mask (int32 [B, S]) and mask_positions (int32 [B, P]). Outputs: a dict of logits,
        mlm (float32 [B, P, V]) and, unless pairs is "none", nsp (float32 [B, 2]; class 0 = B
        follows A, 1 = B is random, or both are swapped). With `pack` > 1, pair_numbers and
        positions (int32 [B, S]) take the place of padding_mask, and unless pairs is "none"
        cls_positions (int32 [B, K]) is an input too and nsp is float32 [B, K, 2].

    Raises:
        InputError: `dtype` has weights in float16, or there is no such kind of pairs or number of
            them in a row.

    Example:

    >>> config = BertConfig.of_size("tiny", vocabulary_size=101)
    >>> {name: logits.shape for name, logits in pretraining_model(config).output.items()}
    {'mlm': (None, None, 101), 'nsp': (None, 2)}
    """
    check_precision(dtype)
    return _pretraining_model(
        Layers(),
        config,
        objectives_of(pairs, optional),
        BatchSpec(pairs=pairs, pack=pack),
        seed=seed,
        dtype=dtype,
        recompute=recompute,
    )


def packed_as(model: keras.Model, pack: int) -> Pretrainer:
    """The same pretraining model for rows of up to `pack` pairs, or with 1 for rows of one pair: it
    shares all layers, and so the weights, with `model`.

    Args:
        model: A pretraining model, of packed rows or not.
        pack: As for `pretraining_model`.

    Returns:
        `model` itself if it is that already, else another Pretrainer, the same one at every call
        and at first not compiled.

    Raises:
        InputError: `pack` is out of its range.

    Example:

    >>> config = BertConfig.of_size("tiny", vocabulary_size=101)
    >>> packed = pretraining_model(config, pack=8)
    >>> list(packed_as(packed, 1).input)
    ['token_ids', 'segment_ids', 'padding_mask', 'mask_positions']
    """
    spec = BatchSpec(pairs=pairs_of_outputs(model.output), pack=pack)
    wanted = {name: spec.shape(feature) for name, feature in spec.x.items()}
    if wanted == {name: tuple(one.shape) for name, one in model.input.items()}:
        return model
    forms = _FORMS.setdefault(model, {})
    if pack not in forms:
        with scope_of(model):
            forms[pack] = _pretraining_model(
                Layers(model), config_of(model), objectives_in(model.output), spec
            )
    return forms[pack]


_FORMS: weakref.WeakKeyDictionary[keras.Model, dict[int, Pretrainer]] = weakref.WeakKeyDictionary()
"""The other forms of models, as long as those live: what is compiled for one is not compiled again
at the next evaluation."""


def config_of(model: keras.Model) -> BertConfig:
    """The BertConfig that a pretraining model was built from, read from its layers."""
    token_embedding, embeddings = model.get_layer("token_embedding"), model.get_layer("embeddings")
    num_layers = sum(layer.name.startswith("layer_") for layer in model.layers)
    block = model.get_layer("layer_0")
    return BertConfig(
        vocabulary_size=token_embedding.vocabulary_size,
        num_layers=num_layers,
        hidden_size=token_embedding.hidden_size,
        num_heads=block.num_heads,
        intermediate_size=block.intermediate_size,
        max_positions=embeddings.max_positions,
        num_segments=embeddings.num_segments,
        dropout=embeddings.dropout,
        attention_dropout=block.attention_dropout,
        exact_gelu=block.exact_gelu,
        layer_norm_epsilon=embeddings.layer_norm_epsilon,
        initializer_range=embeddings.initializer_range,
    )


def _pretraining_model(
    layers: Layers,
    config: BertConfig,
    objectives: Sequence[Objective],
    spec: BatchSpec,
    *,
    seed: int = 0,
    dtype: str = "float32",
    recompute: bool = False,
) -> Pretrainer:
    """The model with these objectives for batches of that form, with layers that are new or there;
    the last three arguments are those of new ones."""
    reads_cls = any(objective.reads_cls for objective in objectives)
    inputs = _inputs(spec, spec.x)

    # === The Rows That Heads Read ===
    # Those of [CLS], then those of the masked positions.
    mask_positions, num_cls = inputs["mask_positions"], spec.pack if reads_cls else 0
    if not reads_cls:
        rows_BR = mask_positions
    elif spec.pack == 1:  # [CLS] stands at position 0
        rows_BR = ops.pad(mask_positions, ((0, 0), (1, 0)))
    else:
        rows_BR = ops.concatenate([inputs["cls_positions"], mask_positions], axis=1)

    # === Functional Model ===
    token_embedding, rows_BRH = _encode(layers, config, inputs, seed, dtype, rows_BR, recompute)
    head_inputs = HeadInputs(
        layers=layers,
        config=config,
        seed=seed,
        dtype=dtype,
        token_embedding=token_embedding,
        masked_BPH=rows_BRH[:, num_cls:] if reads_cls else rows_BRH,
        rows_BRH=rows_BRH,
        cls_BKH=rows_BRH[:, :num_cls] if reads_cls and spec.pack > 1 else None,
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
    inputs = _inputs(BatchSpec(), ENCODER_INPUTS)
    _, sequence_BSH = _encode(Layers(), config, inputs, seed, dtype)
    pooler = Pooler(
        initializer_range=config.initializer_range, seed=seed, name="pooler", dtype=dtype
    )
    return _encoder(inputs, sequence_BSH, pooler(sequence_BSH))


def encoder_of(model: keras.Model) -> keras.Model:
    """Returns the encoder of a pretraining model; it shares the model's weights. Inputs and outputs
    as of `encoder_model`.

    A model without next sentence prediction has no pooler: there pooled_output is the [CLS] row of
    sequence_output. That of a model of packed rows takes rows of one text, as any other."""
    inputs = _inputs(BatchSpec(), ENCODER_INPUTS)
    _, sequence_BSH = _encode(Layers(model), config_of(model), inputs)
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


def _inputs(spec: BatchSpec, names: Iterable[str]) -> dict[str, keras.KerasTensor]:
    """Symbolic inputs for those features of a batch, of any length."""
    return {
        name: keras.Input(spec.shape(spec.x[name])[1:], dtype=spec.x[name].dtype, name=name)
        for name in names
    }


def _encode(layers, config, inputs, seed=0, dtype="float32", rows=None, recompute=False):
    """The encoder on symbolic inputs: the word embedding layer, and the sequence output or those
    rows of it. The last four arguments but `rows` are those of new layers."""
    # === Layers ===
    shared = {"initializer_range": config.initializer_range, "seed": seed, "dtype": dtype}
    token_embedding = layers(
        TokenEmbedding,
        vocabulary_size=config.vocabulary_size,
        hidden_size=config.hidden_size,
        name="token_embedding",
        **shared,
    )
    embeddings = layers(
        InputEmbedding,
        max_positions=config.max_positions,
        num_segments=config.num_segments,
        dropout=config.dropout,
        layer_norm_epsilon=config.layer_norm_epsilon,
        name="embeddings",
        **shared,
    )
    # What only packed rows have is passed to a layer only of those: the graph of others is as ever.
    is_packed = "pair_numbers" in inputs
    places = {"positions": inputs["positions"]} if is_packed else {}
    x_BSH = embeddings(token_embedding(inputs["token_ids"]), inputs["segment_ids"], **places)
    for index in range(config.num_layers):
        block = layers(
            EncoderBlock,
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            exact_gelu=config.exact_gelu,
            layer_norm_epsilon=config.layer_norm_epsilon,
            recompute=recompute,
            name=f"layer_{index}",
            **shared,
        )
        wanted = rows if index == config.num_layers - 1 else None
        x_BSH = (
            block(x_BSH, rows=wanted, pair_numbers=inputs["pair_numbers"])
            if is_packed
            else block(x_BSH, inputs["padding_mask"], wanted)
        )
    return token_embedding, x_BSH
