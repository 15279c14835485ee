"""The layers of the encoder: dropout's masks, the block against plain NumPy, padding."""

import json
import math

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from model_fixtures import random_batch, randomize, tiny_config

from kbert.model.bert import pretraining_model
from kbert.model.embeddings import InputEmbedding, TokenEmbedding
from kbert.model.layers import EncoderBlock
from kbert.step.dropout import Dropout, dropout_masks_of, random_bits

SIGMAS = 5
"""How far a measured mean may lie from the expected one, in its standard deviations: 1 in 1.7
million by chance."""


def mask(rate=0.3, seed=7, number=0, shape=(211, 307)):
    """The elements that dropout keeps, as 0.0 and 1.0."""
    layer = Dropout(rate=rate, seed=seed)
    layer.build(None)
    layer.counter.assign(number)
    return (layer(ops.ones(shape), training=True).numpy() != 0).astype(np.float64)


def assert_uncorrelated(a, b):
    correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert abs(correlation) < SIGMAS / math.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_changes_nothing_when_not_in_training(rate):
    layer = Dropout(rate=rate, seed=7)
    x = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((5, 7)), "float32")
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    assert layer.counter.numpy() == 0


def test_dropout_of_rate_zero_changes_nothing_in_training():
    x = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((5, 7)), "float32")
    np.testing.assert_array_equal(Dropout(rate=0.0, seed=7)(x, training=True), x)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_the_share_that_was_asked_for(rate):
    kept = mask(rate)
    assert abs(kept.mean() - (1 - rate)) < SIGMAS * math.sqrt(rate * (1 - rate) / kept.size)


def test_dropout_scales_what_it_keeps():
    x = np.random.default_rng(0).uniform(1, 2, (11, 13)).astype(np.float32)
    y = Dropout(rate=0.3, seed=7)(x, training=True).numpy()
    assert 0 < (y == 0).sum() < y.size
    np.testing.assert_allclose(y[y != 0], x[y != 0] / 0.7, rtol=1e-6)


def test_the_gradient_of_dropout_has_the_same_mask():
    layer = Dropout(rate=0.3, seed=7)
    x = tf.Variable(tf.ones((11, 13)))
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_dropout_masks_of_consecutive_calls_are_independent():
    layer = Dropout(rate=0.3, seed=7)
    masks = [
        (layer(ops.ones((53, 59)), training=True).numpy() != 0).astype(np.float64)
        for _ in range(23)
    ]
    assert layer.counter.numpy() == 23
    for n, one in enumerate(masks):
        for other in masks[:n]:
            assert_uncorrelated(one, other)


def test_dropout_masks_of_other_seeds_are_independent():
    masks = [mask(seed=seed) for seed in (0, 1, 2, 7, 2**31, 2**32 - 1)]
    for n, one in enumerate(masks):
        for other in masks[:n]:
            assert_uncorrelated(one, other)


@pytest.mark.parametrize("distance", [1, 2, 3, 64, 128])
def test_dropout_is_independent_between_elements_rows_and_columns(distance):
    kept = mask()
    assert_uncorrelated(kept[:, distance:], kept[:, :-distance])
    assert_uncorrelated(kept[distance:], kept[:-distance])
    assert_uncorrelated(kept[distance:, distance:], kept[:-distance, :-distance])


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_of_masks_scatter_as_independent_draws_do(axis):
    rate = 0.3
    kept = mask(rate)
    count, num_sums = kept.shape[axis], kept.shape[1 - axis]
    sums = (kept.sum(axis) - count * (1 - rate)) / math.sqrt(count * rate * (1 - rate))
    # The sum of n squares of standard normals is n on average, with variance 2 n.
    assert abs((sums**2).sum() - num_sums) < SIGMAS * math.sqrt(2 * num_sums)


def test_every_axis_but_the_last_tells_rows_apart():
    bits = random_bits((3, 5, 7, 11), 7, ops.cast(2, "uint32")).numpy()
    assert bits.dtype == np.uint32
    assert len(np.unique(bits.reshape(-1, 11), axis=0)) == 3 * 5 * 7
    np.testing.assert_array_equal(
        bits.reshape(-1, 11), random_bits((105, 11), 7, ops.cast(2, "uint32"))
    )


def plain_bits(shape, seed, step, examples):
    """`random_bits` in Python's integers, one element after the other: [examples, ..., columns]."""
    golden, limit = 0x9E3779B9, 2**32

    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % limit
        x = (x ^ (x >> 15)) * 0x846CA68B % limit
        return x ^ (x >> 16)

    key = mix(mix(seed) ^ (step * golden % limit))
    bits = np.zeros(shape, np.uint32)
    rows_per_example = math.prod(shape[1:-1])
    for index in np.ndindex(*shape):
        *rest, column = index[1:]
        row = examples[index[0]] * rows_per_example + (
            np.ravel_multi_index(rest, shape[1:-1]) if rest else 0
        )
        row_bits = mix(mix((int(row) + key) % limit) ^ key)
        bits[index] = mix((row_bits + column * golden) % limit)
    return bits


@pytest.mark.parametrize("shape", [(3, 7), (3, 5, 7), (3, 2, 5, 7)])
def test_random_bits_equal_plain_python(shape):
    for seed, step, examples in (
        (0, 0, [0, 1, 2]),
        (7, 5, [6, 0, 1_000_003]),
        (2**32 - 1, 2**31 - 1, [2, 2, 1]),
    ):
        actual = random_bits(
            shape, seed, ops.cast(step, "uint32"), np.array(examples, np.int32)
        ).numpy()
        np.testing.assert_array_equal(actual, plain_bits(shape, seed, step, examples))


def test_random_bits_stay_what_they_are():
    # A run that is resumed by a later version has to meet the same masks.
    bits = random_bits((2, 3), 7, ops.cast(5, "uint32"), np.array([0, 11], np.int32)).numpy()
    assert bits.tolist() == [
        [3091176715, 640122849, 3485015385],
        [2665308924, 2970953267, 1104587715],
    ]


def masks_of(step, examples, seed=7, rate=0.3, columns=(13, 31)):
    """The masks of these rows in this step, as 0.0 and 1.0, [rows, *columns]."""
    with dropout_masks_of(ops.convert_to_tensor(step, "int32"), np.array(examples, np.int32)):
        y = Dropout(rate=rate, seed=seed)(ops.ones((len(examples), *columns)), training=True)
    return (y.numpy() != 0).astype(np.float64)


def test_in_a_step_a_row_has_its_mask_in_any_order_and_split():
    whole = masks_of(5, range(12))
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(masks_of(5, order), whole[order])
    for parts in (
        np.split(np.arange(12), 3),
        [np.arange(12)[first::4] for first in range(4)],
        [[7], [0, 11]],
    ):
        for part in parts:
            np.testing.assert_array_equal(masks_of(5, part), whole[part])


def test_in_a_step_masks_differ_by_step_row_layer_and_seed():
    rate = 0.3
    masks = [
        masks_of(step, [0, 1], seed, rate, (101, 103))[row]
        for step in (0, 1, 2)
        for seed in (7, 8)
        for row in (0, 1)
    ]
    masks += [
        masks_of(2**31 - 1, [2**20], 7, rate, (101, 103))[0],
        masks_of(0, [0], 2**32 - 1, rate, (101, 103))[0],
    ]
    for n, one in enumerate(masks):
        assert abs(one.mean() - (1 - rate)) < SIGMAS * math.sqrt(rate * (1 - rate) / one.size)
        for other in masks[:n]:
            assert_uncorrelated(one, other)


def test_in_a_step_nothing_is_counted_and_after_it_counting_goes_on():
    layer, plain = Dropout(rate=0.3, seed=7), Dropout(rate=0.3, seed=7)
    x = ops.ones((5, 7))
    expected = [plain(x, training=True).numpy() for _ in range(3)]
    np.testing.assert_array_equal(layer(x, training=True), expected[0])
    with dropout_masks_of(ops.convert_to_tensor(2, "int32"), np.arange(5, dtype=np.int32)):
        for _ in range(2):  # the same step, the same mask
            np.testing.assert_array_equal(layer(x, training=True), expected[2])
        np.testing.assert_array_equal(layer(x), x)
    assert layer.counter.numpy() == 1
    np.testing.assert_array_equal(layer(x, training=True), expected[1])
    assert layer.counter.numpy() == 2


def test_steps_nest_and_end_with_an_error_too():
    layer, x, rows = Dropout(rate=0.3, seed=7), ops.ones((5, 7)), np.arange(5, dtype=np.int32)
    of_step = [masks_of(step, rows, columns=(7,)) for step in (3, 4)]
    with dropout_masks_of(ops.convert_to_tensor(3, "int32"), rows):
        with dropout_masks_of(ops.convert_to_tensor(4, "int32"), rows):
            np.testing.assert_array_equal(layer(x, training=True).numpy() != 0, of_step[1])
        np.testing.assert_array_equal(layer(x, training=True).numpy() != 0, of_step[0])
        with (
            pytest.raises(RuntimeError, match="stop"),
            dropout_masks_of(ops.convert_to_tensor(4, "int32"), rows),
        ):
            raise RuntimeError("stop")
        np.testing.assert_array_equal(layer(x, training=True).numpy() != 0, of_step[0])
    assert layer.counter.numpy() == 0
    layer(x, training=True)
    assert layer.counter.numpy() == 1


ON_TWO_DEVICES = """
import json, sys, keras, numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kbert.run.distribution import batches_for, devices_of
from kbert.step.dropout import Dropout
from kbert.step.pretrainer import Pretrainer

def kept_by_step(strategy):
    there = devices_of(strategy)
    with there.scope():
        row = keras.Input((), dtype="int32", name="row")
        table = keras.layers.Embedding(6, 31, embeddings_initializer="zeros")
        model = Pretrainer(row, Dropout(rate=0.3, seed=7)(table(row)))
        # The gradient of a row of the table has the zeros of the mask of that row.
        model.compile(keras.optimizers.SGD(1.0), loss=lambda y, y_pred: keras.ops.mean(y_pred, -1))
    steps, size = [], 6 // there.num_replicas
    def rows(context):
        numbers = tf.data.Dataset.from_tensor_slices((np.arange(6), np.zeros((6, 31), "float32")))
        return numbers.batch(size, True).repeat()
    class Changes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append((table.embeddings.numpy() != 0).tolist())
            table.embeddings.assign(np.zeros((6, 31)))
    batches, callbacks = batches_for(model, rows), [Changes()]
    model.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=callbacks)
    return [there.num_replicas, steps]

print("kept", json.dumps([kept_by_step(strategy) for strategy in ("one", "mirrored", "mirrored")]))
"""


def test_two_devices_have_the_masks_of_their_own_rows():
    done = forked.run("-c", ON_TWO_DEVICES)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, again = json.loads(done.stdout.rpartition("kept ")[2])
    expected = [masks_of(step, range(6), columns=(31,)) for step in range(3)]
    assert [replicas for replicas, _ in (one, two, again)] == [1, 2, 2]
    for _, kept in (one, two, again):
        np.testing.assert_array_equal(kept, expected)
    assert all(
        (mask[:3] != mask[3:]).any() for mask in expected
    )  # the first device's rows, and the second's


def test_every_bit_is_one_half_of_the_time():
    bits = random_bits((211, 307), 7, ops.cast(0, "uint32")).numpy()
    share = [((bits >> n) & 1).mean() for n in range(32)]
    np.testing.assert_allclose(share, 0.5, atol=SIGMAS * 0.5 / math.sqrt(bits.size))


def test_dropout_repeats_itself_from_the_same_counter():
    layer = Dropout(rate=0.3, seed=7)
    first = [layer(ops.ones((5, 7)), training=True).numpy() for _ in range(3)]
    layer.counter.assign(1)
    again = [layer(ops.ones((5, 7)), training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(first[1:], again)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(13,), (5, 7), (2, 3, 5, 7)])
def test_dropout_is_the_same_eagerly_and_compiled(jit_compile, shape):
    eager, compiled = Dropout(rate=0.3, seed=7), Dropout(rate=0.3, seed=7)
    eager.build(None)
    compiled.build(None)
    function = tf.function(lambda x: compiled(x, training=True), jit_compile=jit_compile)
    for _ in range(3):
        np.testing.assert_array_equal(
            function(tf.ones(shape)), eager(tf.ones(shape), training=True)
        )
    assert compiled.counter.numpy() == 3


def test_dropout_has_one_mask_in_every_precision():
    single, half = Dropout(rate=0.3, seed=7), Dropout(rate=0.3, seed=7, dtype="mixed_bfloat16")
    y = half(tf.ones((11, 13)), training=True)
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(
        y.numpy() == 0, single(tf.ones((11, 13)), training=True).numpy() == 0
    )


def test_no_two_dropouts_of_a_model_share_a_seed():
    def seeds(seed):
        model = pretraining_model(tiny_config(num_layers=3), seed=seed)
        return [layer.seed for layer in model._flatten_layers() if isinstance(layer, Dropout)]

    assert len(seeds(0)) == 1 + 3 * 3
    assert len({*seeds(0), *seeds(1)}) == 20
    assert seeds(0) == seeds(0)


def plain_block(weights, x_BSH, mask_BS, rows_BR, num_heads, exact_gelu, kept):
    """An encoder block in NumPy, float64, with loops over texts and heads (Vaswani et al. 2017;
    Devlin et al. 2019).

    `kept` has the factors of dropout by name, 0 or 1 / (1 - rate): probabilities [B, N, R, S],
    attention and output [B, R, H]."""

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def normalize(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def gelu(x):
        if exact_gelu:
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    out = np.zeros((*rows_BR.shape, x_BSH.shape[-1]))
    for b, x_SH in enumerate(x_BSH):
        q_SH, k_SH, v_SH = np.split(dense(x_SH, "qkv"), 3, axis=-1)
        head_size = q_SH.shape[-1] // num_heads
        x_RH, q_RH = x_SH[rows_BR[b]], q_SH[rows_BR[b]]
        attended_RH = np.zeros_like(x_RH)
        for n in range(num_heads):
            head = slice(n * head_size, (n + 1) * head_size)
            scores_RS = q_RH[:, head] @ k_SH[:, head].T / math.sqrt(head_size)
            scores_RS[:, mask_BS[b] == 0] = -np.inf
            exponentials_RS = np.exp(scores_RS - scores_RS.max(-1, keepdims=True))
            probabilities_RS = exponentials_RS / exponentials_RS.sum(-1, keepdims=True)
            attended_RH[:, head] = (probabilities_RS * kept["probabilities"][b, n]) @ v_SH[:, head]
        x_RH = normalize(
            x_RH + dense(attended_RH, "attention_output") * kept["attention"][b], "attention_norm"
        )
        out[b] = normalize(
            x_RH + dense(gelu(dense(x_RH, "intermediate")), "output") * kept["output"][b],
            "output_norm",
        )
    return out


@pytest.mark.parametrize("exact_gelu", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rows", [None, [[0, 5, 5, 10], [6, 0, 9, 1]]], ids=["all", "rows"])
def test_encoder_block_equals_plain_numpy(exact_gelu, training, rows):
    block = EncoderBlock(
        num_heads=3, intermediate_size=37, dropout=0.3, exact_gelu=exact_gelu, seed=5, name="block"
    )
    x_BSH = np.random.default_rng(0).standard_normal((2, 11, 21)).astype(np.float32)
    mask_BS = (np.arange(11) < np.array([[11], [7]])).astype(np.int32)
    rows_BR = np.array([range(11)] * 2 if rows is None else rows, np.int32)
    inputs = [x_BSH, mask_BS] if rows is None else [x_BSH, mask_BS, rows_BR]
    block.build(*(one.shape for one in inputs))
    randomize(block.variables)
    weights = {
        "/".join(v.path.split("/")[-2:]): np.float64(v.numpy()) for v in block.trainable_variables
    }
    out_shape = (*rows_BR.shape, 21)
    shapes = {
        "probabilities": (2, 3, rows_BR.shape[1], 11),
        "attention": out_shape,
        "output": out_shape,
    }
    seeds = {
        layer.name: layer.seed for layer in block._flatten_layers() if isinstance(layer, Dropout)
    }
    names = {
        "probabilities": "attention_probabilities_dropout",
        "attention": "attention_dropout",
        "output": "output_dropout",
    }
    for number in range(2):  # the second call of training has other masks
        kept = {
            name: mask(0.3, seeds[names[name]], number, shape) / 0.7 if training else np.ones(shape)
            for name, shape in shapes.items()
        }
        expected = plain_block(weights, np.float64(x_BSH), mask_BS, rows_BR, 3, exact_gelu, kept)
        np.testing.assert_allclose(block(*inputs, training=training), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [None, [[0, 5, 5, 10], [6, 0, 9, 1]]], ids=["all", "rows"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_activations_worked_out_twice_are_the_same(dtype, rows):
    draw = np.random.default_rng(0)
    x = tf.constant(draw.standard_normal((2, 11, 26), "float32"))
    inputs = [x, np.ones((2, 11), np.int32)] + ([] if rows is None else [np.array(rows, np.int32)])

    def gradients(recompute):
        block = EncoderBlock(
            num_heads=2,
            intermediate_size=37,
            dropout=0.3,
            recompute=recompute,
            name="block",
            dtype=dtype,
        )
        block.build(*(one.shape for one in inputs))
        randomize(block.variables)

        # Eagerly, since Grappler merges other operations where the results are needed once more.
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(block(*inputs, training=True), tf.float32) ** 3)
        return tape.gradient(loss, [variable.value for variable in block.trainable_variables])

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_array_equal(one, other)


def test_a_quantized_block_gives_its_rows():
    block = EncoderBlock(num_heads=2, intermediate_size=64)
    x = np.random.default_rng(0).standard_normal((2, 11, 32)).astype(np.float32)
    mask_BS, rows_BR = np.ones((2, 11), np.int32), np.array([[0, 5, 5, 10], [6, 0, 9, 1]], np.int32)
    block.build(x.shape, mask_BS.shape)
    randomize(block.variables)
    for layer in block._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.quantize("int8")
    expected = np.take_along_axis(block(x, mask_BS).numpy(), rows_BR[:, :, None], 1)
    np.testing.assert_allclose(block(x, mask_BS, rows_BR), expected, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_through_rows_are_those_of_all_positions(recompute):
    block = EncoderBlock(num_heads=2, intermediate_size=37, dropout=0.0, recompute=recompute)
    draw = np.random.default_rng(0)
    x = tf.constant(draw.standard_normal((2, 11, 26), "float32"))
    mask_BS = (np.arange(11) < np.array([[11], [7]])).astype(np.int32)
    rows_BR = np.array([[0, 5, 5, 10], [6, 0, 1, 0]], np.int32)
    weights = draw.standard_normal((2, 4, 26), "float32")
    block.build(x.shape, mask_BS.shape)
    randomize(block.variables)

    def gradients(outputs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(outputs() * weights)
        return tape.gradient(loss, [x, *(variable.value for variable in block.trainable_variables)])

    actual = gradients(lambda: block(x, mask_BS, rows_BR, training=True))
    expected = gradients(lambda: tf.gather(block(x, mask_BS, training=True), rows_BR, batch_dims=1))
    for one, other in zip(actual, expected, strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_padding_does_not_influence_the_other_positions():
    block = EncoderBlock(num_heads=2, intermediate_size=37)
    x = np.random.default_rng(0).standard_normal((3, 11, 26)).astype(np.float32)
    mask_BS = (np.arange(11) < np.array([[11], [7], [1]])).astype(np.int32)
    block.build(x.shape, mask_BS.shape)
    randomize(block.variables)
    other = np.where(mask_BS[:, :, None] == 1, x, 100.0).astype(np.float32)
    in_use = mask_BS == 1
    np.testing.assert_array_equal(
        block(x, mask_BS).numpy()[in_use], block(other, mask_BS).numpy()[in_use]
    )
    shorter = block(x[1:2, :7], mask_BS[1:2, :7])
    np.testing.assert_allclose(block(x, mask_BS)[1:2, :7], shorter, atol=1e-5)


def test_a_row_of_padding_alone_gives_numbers():
    block = EncoderBlock(num_heads=2, intermediate_size=37)
    assert np.isfinite(block(np.ones((1, 5, 26), np.float32), np.zeros((1, 5), np.int32))).all()


def test_token_embedding_goes_both_ways():
    layer = TokenEmbedding(vocabulary_size=53, hidden_size=7)
    embedded = layer(np.array([[3, 52, 0]]))
    table = layer.embeddings.numpy()
    np.testing.assert_array_equal(embedded, table[[[3, 52, 0]]])
    scores = layer(embedded, reverse=True)
    assert scores.shape == (1, 3, 53)
    np.testing.assert_allclose(scores, embedded.numpy() @ table.T, rtol=1e-5, atol=1e-8)


def test_input_embedding_adds_and_normalises():
    layer = InputEmbedding(max_positions=13, num_segments=3, dropout=0.3, name="embeddings")
    words = np.random.default_rng(0).standard_normal((2, 11, 7)).astype(np.float32)
    segment_ids = np.random.default_rng(1).integers(0, 3, (2, 11))
    layer.build(words.shape, segment_ids.shape)
    randomize(layer.variables)
    x = (
        words
        + layer.position_embeddings.numpy()[:11]
        + layer.segment_embeddings.numpy()[segment_ids]
    )
    gamma, beta = (v.numpy() for v in layer.trainable_variables if v.name in ("gamma", "beta"))
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * gamma + beta
    np.testing.assert_allclose(layer(words, segment_ids), expected, atol=1e-5)
    (seed,) = {one.seed for one in layer._flatten_layers() if isinstance(one, Dropout)}
    kept = mask(0.3, seed, 0, expected.shape) / 0.7
    np.testing.assert_allclose(layer(words, segment_ids, training=True), expected * kept, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        TokenEmbedding(
            vocabulary_size=53,
            hidden_size=7,
            initializer_range=0.03,
            seed=5,
            name="a",
            dtype="mixed_bfloat16",
        ),
        InputEmbedding(
            max_positions=13,
            num_segments=3,
            dropout=0.2,
            layer_norm_epsilon=1e-5,
            initializer_range=0.03,
            seed=5,
            name="b",
        ),
        EncoderBlock(
            num_heads=3,
            intermediate_size=37,
            dropout=0.2,
            exact_gelu=True,
            layer_norm_epsilon=1e-5,
            initializer_range=0.03,
            seed=5,
            name="c",
        ),
        Dropout(rate=0.2, seed=5, name="d"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_survive_a_round_trip_through_their_configuration(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_a_model_on_a_batch_is_the_same_eagerly_and_compiled_in_training():
    x, _, _ = random_batch()
    outputs = []
    for jit_compile in (False, True):
        model = pretraining_model(tiny_config(num_layers=1, dropout=0.3))

        def call(x, model=model):
            return model(x, training=True)["mlm"]

        call = tf.function(call, jit_compile=True) if jit_compile else call
        outputs.append(call(x).numpy())
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)


FUSED_ATTENTION = """
import numpy as np
from keras import ops
from kbert.model.layers import EncoderBlock

seen = []
attention = ops.dot_product_attention
def seeing_the_mask(q, k, v, mask, **options):
    seen.append(mask)
    return attention(q, k, v, mask=mask, **options)
ops.dot_product_attention = seeing_the_mask

draw = np.random.default_rng(0)
hidden = draw.standard_normal((3, 7, 26), "float32")
padding_mask = (np.arange(7) < np.array([[7], [4], [1]])).astype("int32")
shape = {"num_heads": 2, "intermediate_size": 37, "dropout": 0.0, "name": "block"}
fused = EncoderBlock(**shape, attention_dropout=0.0)(hidden, padding_mask, training=True)
# Plain attention, for there is dropout, which drops nothing.
plain = EncoderBlock(**shape, attention_dropout=1e-12)(hidden, padding_mask, training=True)
(mask,) = seen
same = (mask == padding_mask[:, None, None, :].astype(bool)).all()
print("mask", mask.shape, mask.dtype, bool(same))
print("difference", float(abs(fused - plain).max()))
"""


def test_fused_attention_of_jax_gets_the_mask_that_cudnn_takes_and_sees_no_padding():
    done = forked.run("-c", FUSED_ATTENTION, backend="jax")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "mask (3, 1, 7, 7) bool True" in done.stdout
    )  # with one row of queries, cuDNN refuses it and Keras does without
    assert float(done.stdout.rpartition("difference ")[2]) < 1e-6
