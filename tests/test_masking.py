"""Masking against a plain loop that is fed the same draws, and against the shares that BERT asks for."""

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.masking import Masking, draws, mask_tokens

CLS, SEP, MASK = 2, 3, 4
VOCABULARY_SIZE = 997


def masking(max_predictions=5, mask_rate=0.15):
    return Masking(
        vocabulary_size=VOCABULARY_SIZE,
        cls_id=CLS,
        sep_id=SEP,
        mask_id=MASK,
        max_predictions=max_predictions,
        mask_rate=mask_rate,
    )


def pairs(num_pairs, sequence_length, seed=0, shortest=5):
    """Random [CLS] A [SEP] B [SEP] with random lengths, zero-padded: int32 [num_pairs, sequence_length], int32 [num_pairs]."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(shortest, sequence_length + 1, num_pairs).astype(np.int32)
    token_ids = draw.integers(5, VOCABULARY_SIZE, [num_pairs, sequence_length]).astype(np.int32)
    for row, length in zip(token_ids, lengths, strict=True):
        row[[0, draw.integers(2, length - 2), length - 1]] = CLS, SEP, SEP
        row[length:] = 0
    return token_ids, lengths


def mask(token_ids, lengths, masking, seed=(1, 2)):
    return {
        name: value.numpy() for name, value in mask_tokens(token_ids, lengths, masking, tf.constant(seed, tf.int64)).items()
    }


def plain_mask(token_ids, lengths, masking, seed=(1, 2)):
    """The same with loops."""
    order, what, replacement = draws(tf.constant(seed, tf.int64), [3, *token_ids.shape]).numpy()
    masked, slots = token_ids.copy(), (len(token_ids), masking.max_predictions)
    positions, labels, weights = np.zeros(slots, np.int32), np.zeros(slots, np.int32), np.zeros(slots, np.float32)
    for b, length in enumerate(lengths):
        candidates = [i for i in range(length) if token_ids[b, i] not in (CLS, SEP)]
        n = min(masking.max_predictions, max(1, round(int(length) * masking.mask_rate))) if masking.mask_rate else 0
        chosen = sorted(sorted(candidates, key=lambda i: -order[b, i])[:n])
        for slot, i in enumerate(chosen):
            positions[b, slot], labels[b, slot], weights[b, slot] = i, token_ids[b, i], 1.0
            if what[b, i] < np.float32(0.8):
                masked[b, i] = MASK
            elif what[b, i] < np.float32(0.9):
                masked[b, i] = int(replacement[b, i] * np.float32(masking.vocabulary_size))
    return {"token_ids": masked, "positions": positions, "labels": labels, "weights": weights}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("mask_rate", [0.0, 0.01, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("max_predictions", [1, 5, 19, 31])
def test_same_draws_give_the_masks_of_a_plain_loop(max_predictions, mask_rate):
    for seed in ((0, 0), (7, 3), (1 << 62, 1)):
        token_ids, lengths = pairs(101, 31, seed=seed[1])
        some = masking(max_predictions, mask_rate)
        assert_equal(mask(token_ids, lengths, some, seed), plain_mask(token_ids, lengths, some, seed))


def test_small_case_in_full():
    # One candidate in each sequence, so that nothing is left to chance but what becomes of it.
    token_ids = np.array([[CLS, 11, SEP, SEP, 0, 0, 0], [CLS, SEP, SEP, 0, 0, 0, 0], [CLS, SEP, 13, SEP, 0, 0, 0]], np.int32)
    masked = mask(token_ids, np.array([4, 3, 4], np.int32), masking(3))
    assert masked["positions"].tolist() == [[1, 0, 0], [0, 0, 0], [2, 0, 0]]
    assert masked["labels"].tolist() == [[11, 0, 0], [0, 0, 0], [13, 0, 0]]
    assert masked["weights"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    masked["token_ids"][0, 1], masked["token_ids"][2, 2] = 11, 13
    assert masked["token_ids"].tolist() == token_ids.tolist()


def test_number_of_predictions():
    # Python rounds halves to even: 1.5 -> 2, 4.5 -> 4, 7.5 -> 8, 10.5 -> 10.
    expected = {0: 1, 3: 1, 9: 1, 10: 2, 16: 2, 17: 3, 30: 4, 31: 5, 50: 8, 70: 10, 90: 14, 126: 19, 128: 19, 512: 20}
    assert {length: masking(20).num_predictions(length) for length in expected} == expected
    assert [masking(20, 0.0).num_predictions(length) for length in (5, 128)] == [0, 0]
    assert [masking(20, 1.0).num_predictions(length) for length in (5, 128)] == [5, 20]
    assert [masking(20, 0.25).num_predictions(length) for length in (2, 6, 10, 14)] == [1, 2, 2, 4]


def test_number_of_predictions_in_a_batch():
    lengths = np.array([5, 9, 10, 17, 30, 31, 50, 53], np.int32)
    token_ids = np.where(np.arange(53) < lengths[:, None], 7, 0).astype(np.int32)
    token_ids[:, 0] = CLS
    assert mask(token_ids, lengths, masking(7))["weights"].sum(axis=1).tolist() == [1, 1, 2, 3, 4, 5, 7, 7]


def test_special_tokens_and_padding_are_never_touched():
    token_ids, lengths = pairs(1009, 29)
    special = (token_ids == CLS) | (token_ids == SEP) | (np.arange(29) >= lengths[:, None])
    for rate in (0.15, 1.0):
        masked = mask(token_ids, lengths, masking(29, rate))
        np.testing.assert_array_equal(masked["token_ids"][special], token_ids[special])
        in_use = masked["weights"] == 1
        assert not special[np.nonzero(in_use)[0], masked["positions"][in_use]].any()


def test_rate_0_changes_nothing_and_rate_1_predicts_everything():
    token_ids, lengths = pairs(101, 29)
    nothing = mask(token_ids, lengths, masking(5, 0.0))
    np.testing.assert_array_equal(nothing["token_ids"], token_ids)
    assert not nothing["positions"].any()
    assert not nothing["labels"].any()
    assert not nothing["weights"].any()
    everything = mask(token_ids, lengths, masking(29, 1.0))
    for row, length, positions, labels, weights in zip(
        token_ids, lengths, everything["positions"], everything["labels"], everything["weights"], strict=True
    ):
        candidates = [i for i in range(length) if row[i] not in (CLS, SEP)]
        unused = [0] * (29 - len(candidates))
        assert positions.tolist() == candidates + unused
        assert labels.tolist() == row[candidates].tolist() + unused
        assert weights.tolist() == [1.0] * len(candidates) + unused


def test_slots_ascend_and_unused_ones_are_zero():
    token_ids, lengths = pairs(1009, 29)
    masked = mask(token_ids, lengths, masking(7))
    for positions, labels, weights, row in zip(
        masked["positions"], masked["labels"], masked["weights"], token_ids, strict=True
    ):
        n = int(weights.sum())
        assert weights.tolist() == [1.0] * n + [0.0] * (7 - n)
        assert (np.diff(positions[:n]) > 0).all()
        assert labels[:n].tolist() == row[positions[:n]].tolist()
        assert not positions[n:].any()
        assert not labels[n:].any()


def test_originals_come_back_from_the_labels():
    token_ids, lengths = pairs(1009, 29)
    masked = mask(token_ids, lengths, masking(7))
    rows, slots = np.nonzero(masked["weights"])
    restored = masked["token_ids"].copy()
    restored[rows, masked["positions"][rows, slots]] = masked["labels"][rows, slots]
    np.testing.assert_array_equal(restored, token_ids)
    assert (masked["token_ids"] != token_ids).any()


def test_shares_of_masked_random_and_kept_tokens():
    token_ids, lengths = pairs(10_007, 29, shortest=29)
    masked = mask(token_ids, lengths, masking(5))
    in_use = masked["weights"] == 1
    shown = np.take_along_axis(masked["token_ids"], masked["positions"], axis=1)[in_use]
    labels, n = masked["labels"][in_use], int(in_use.sum())
    assert n == 4 * 10_007  # round(0.15 * 29) = 4
    # A random token is [MASK] or the token itself by chance. Four standard deviations of a binomial of n = 40,028.
    chance = 0.1 / VOCABULARY_SIZE
    for count, p in [((shown == MASK).sum(), 0.8 + chance), ((shown == labels).sum(), 0.1 + chance)]:
        assert abs(count - n * p) < 4 * np.sqrt(n * p * (1 - p))
    # The random ones are uniform over the vocabulary, its ends included: about 4,000 draws in the 996 cells but [MASK]. Their
    # chi-square has the mean 995 and the standard deviation sqrt(2 * 995) = 45.
    replaced = shown[(shown != MASK) & (shown != labels)]
    counts = np.delete(np.bincount(replaced, minlength=VOCABULARY_SIZE), MASK)
    expected = len(replaced) / (VOCABULARY_SIZE - 1)
    assert len(counts) == VOCABULARY_SIZE - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - 995) < 4 * 45


def test_positions_are_uniform():
    token_ids, lengths = np.tile([[CLS, *range(10, 21), SEP, *range(30, 45), SEP]], [10_007, 1]).astype(np.int32), 29
    masked = mask(token_ids, np.full(10_007, lengths, np.int32), masking(5))
    counts = np.bincount(masked["positions"][masked["weights"] == 1], minlength=29)
    # 4 of 26 candidates in each of 10,007 sequences: binomial of p = 4 / 26; 4 * sqrt(n * p * (1 - p)) = 144.
    candidates = np.flatnonzero(token_ids[0] > 9)
    assert len(candidates) == 26
    assert counts.sum() == counts[candidates].sum() == 4 * 10_007
    assert (abs(counts[candidates] - 10_007 * 4 / 26) < 144).all()


def test_same_seed_same_masks_other_seed_other_masks():
    token_ids, lengths = pairs(101, 29)
    first = mask(token_ids, lengths, masking(), (1, 2))
    assert_equal(first, mask(token_ids, lengths, masking(), (1, 2)))
    for seed in ((1, 3), (2, 2), (2, 1)):
        assert (mask(token_ids, lengths, masking(), seed)["positions"] != first["positions"]).mean() > 0.3


def test_global_seed_and_earlier_draws_change_nothing(global_seed):
    token_ids, lengths = pairs(101, 29)
    first = mask(token_ids, lengths, masking())
    global_seed(3)
    tf.random.uniform([7])
    assert_equal(first, mask(token_ids, lengths, masking()))


def test_graph_and_tf_data_as_eager():
    token_ids, lengths = pairs(101, 29)
    some, seed = masking(), tf.constant([1, 2], tf.int64)
    eager = mask(token_ids, lengths, some)
    in_graph = tf.function(lambda *arguments: mask_tokens(*arguments, some, seed))
    assert_equal(eager, {name: value.numpy() for name, value in in_graph(token_ids, lengths).items()})
    dataset = tf.data.Dataset.from_tensor_slices((token_ids, lengths)).batch(101).map(in_graph, num_parallel_calls=2)
    assert_equal(eager, next(dataset.as_numpy_iterator()))
    # The number of rows need not be known when the graph is made.
    signature = [tf.TensorSpec([None, 29], tf.int32), tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int64)]
    any_batch = tf.function(lambda *arguments: mask_tokens(*arguments[:2], some, arguments[2]), input_signature=signature)
    assert_equal(eager, {name: value.numpy() for name, value in any_batch(token_ids, lengths, seed).items()})
    assert_equal(
        mask(token_ids[:3], lengths[:3], some),
        {name: value.numpy() for name, value in any_batch(token_ids[:3], lengths[:3], seed).items()},
    )


def test_empty_batch():
    masked = mask(np.zeros([0, 29], np.int32), np.zeros([0], np.int32), masking())
    assert {name: value.shape for name, value in masked.items()} == {
        "token_ids": (0, 29),
        "positions": (0, 5),
        "labels": (0, 5),
        "weights": (0, 5),
    }
