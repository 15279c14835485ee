"""Masking against a plain version that is fed the same draws, and against the shares that BERT and
ALBERT ask for."""

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.hashing import record_keys
from tfrecords.masking import Masking, draw, mask_tensors, mask_tokens
from tfrecords.schema import MASK_UNITS
from tfrecords.vocabulary import SPECIAL_TOKENS, Vocabulary

CLS, SEP, MASK = 2, 3, 4
VOCABULARY_SIZE = 997
# Every third piece continues a word: 6, 9, 12, ...
VOCABULARY = Vocabulary(
    SPECIAL_TOKENS + tuple(f"{'##' * (i % 3 == 0)}p{i}" for i in range(5, VOCABULARY_SIZE))
)


def masking(max_predictions=5, mask_rate=0.15, unit="token", **shares):
    return Masking(VOCABULARY, max_predictions, mask_rate, unit=unit, **shares)


def pairs(num_pairs, sequence_length, seed=0, shortest=5):
    """Random [CLS] A [SEP] B [SEP] with random lengths, zero-padded: int32 [num_pairs,
    sequence_length], int32 [num_pairs]."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(shortest, sequence_length + 1, num_pairs).astype(np.int32)
    token_ids = draw.integers(5, VOCABULARY_SIZE, [num_pairs, sequence_length]).astype(np.int32)
    for row, length in zip(token_ids, lengths, strict=True):
        row[[0, draw.integers(2, length - 2), length - 1]] = CLS, SEP, SEP
        row[length:] = 0
    return token_ids, lengths


def keys_of(num_records, seed=1, stream=2):
    return record_keys(seed, stream, np.arange(num_records)).numpy()


def mask(token_ids, lengths, masking, keys=None):
    return mask_tokens(
        token_ids, lengths, masking, keys_of(len(token_ids)) if keys is None else keys
    )


def splitmix64(state, index):
    """Output number `index` from `state`, as Steele et al. print it, in Python's integers."""
    bits = (1 << 64) - 1
    z = (int(state) + (index + 1) * 0x9E3779B97F4A7C15) & bits
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
    return z ^ (z >> 31)


def numpy_draws(keys, start, number):
    """The upper 31 bits of outputs of splitmix64, for many keys: int64 [B, number]."""
    steps = np.arange(start + 1, start + number + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    z = keys.astype(np.uint64)[:, None] + steps
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)


def plain_words(row, length):
    """The segments of a sequence, each a list of words, each a list of positions."""
    segments = [[]]
    for i in range(length):
        if row[i] in (CLS, SEP):
            segments.append([])
        elif segments[-1] and VOCABULARY.tokens[row[i]].startswith("##"):
            segments[-1][-1].append(i)
        else:
            segments[-1].append([i])
    return segments


def plain_choice(row, length, num_predictions, unit, order, ngram):
    """The positions that are predicted, ascending."""
    segments = plain_words(row, length)
    if unit == "token":
        candidates = [i for segment in segments for word in segment for i in word]
        return sorted(sorted(candidates, key=lambda i: -order[i])[:num_predictions])
    chosen = set()
    visits = [(segment, number) for segment in segments for number in range(len(segment))]
    for segment, number in sorted(visits, key=lambda visit: -order[visit[0][visit[1]][0]]):
        draw = ngram[segment[number][0]] * 11
        n = 1 if unit == "word" or draw < 6 << 31 else 2 if draw < 9 << 31 else 3
        span = segment[number : number + n]
        while len(chosen) + sum(map(len, span)) > num_predictions:
            span.pop()
        if not any(i in chosen for word in span for i in word):
            chosen.update(i for word in span for i in word)
    return sorted(chosen)


def plain_mask(token_ids, lengths, masking, keys):
    """Masks with loops."""
    sequence_length, num_slots = token_ids.shape[1], masking.max_predictions
    all_draws = numpy_draws(keys, 0, 2 * sequence_length + 2 * num_slots)
    masked, slots = token_ids.copy(), (len(token_ids), num_slots)
    positions, labels, weights = (
        np.zeros(slots, np.int32),
        np.zeros(slots, np.int32),
        np.zeros(slots, np.float32),
    )
    ends = np.cumsum([sequence_length, num_slots, num_slots])
    for b, length in enumerate(lengths.tolist()):
        order, what, replacement, ngram = (part.tolist() for part in np.split(all_draws[b], ends))
        n = min(num_slots, max(1, round(length * masking.mask_rate))) if masking.mask_rate else 0
        for slot, i in enumerate(plain_choice(token_ids[b], length, n, masking.unit, order, ngram)):
            positions[b, slot], labels[b, slot], weights[b, slot] = i, token_ids[b, i], 1.0
            if what[slot] < int(masking.mask_share * 2**31):
                masked[b, i] = MASK
            elif what[slot] < int((masking.mask_share + masking.random_share) * 2**31):
                masked[b, i] = replacement[slot] * VOCABULARY_SIZE >> 31
    return {"token_ids": masked, "positions": positions, "labels": labels, "weights": weights}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("unit", MASK_UNITS)
@pytest.mark.parametrize("mask_rate", [0.0, 0.01, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("max_predictions", [1, 5, 19, 31])
def test_same_draws_give_the_masks_of_a_plain_loop(max_predictions, mask_rate, unit):
    for seed in (0, 1 << 62):
        token_ids, lengths = pairs(101, 31, seed=seed % 7)
        some, keys = masking(max_predictions, mask_rate, unit), keys_of(101, seed)
        assert_equal(
            mask(token_ids, lengths, some, keys), plain_mask(token_ids, lengths, some, keys)
        )


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_plain_loop_on_text_of_many_segments_and_full_rows(unit):
    # Special tokens anywhere or nowhere, rows without padding, which words of the next row follow
    # directly.
    draw = np.random.default_rng(1)
    token_ids = draw.integers(5, VOCABULARY_SIZE, [211, 23]).astype(np.int32)
    token_ids[draw.random(token_ids.shape) < 0.1] = SEP
    lengths = np.full(211, 23, np.int32)
    some, keys = masking(7, 0.4, unit, mask_share=0.3, random_share=0.6), keys_of(211)
    assert_equal(mask(token_ids, lengths, some, keys), plain_mask(token_ids, lengths, some, keys))


def test_small_case_in_full():
    # One candidate in each sequence, so that nothing is left to chance but what becomes of it.
    token_ids = np.array(
        [[CLS, 11, SEP, SEP, 0, 0, 0], [CLS, SEP, SEP, 0, 0, 0, 0], [CLS, SEP, 13, SEP, 0, 0, 0]],
        np.int32,
    )
    for unit in MASK_UNITS:
        masked = mask(
            token_ids,
            np.array([4, 3, 4], np.int32),
            masking(3, unit=unit, mask_share=1.0, random_share=0.0),
        )
        assert masked["positions"].tolist() == [[1, 0, 0], [0, 0, 0], [2, 0, 0]]
        assert masked["labels"].tolist() == [[11, 0, 0], [0, 0, 0], [13, 0, 0]]
        assert masked["weights"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        assert masked["token_ids"].tolist() == [
            [CLS, MASK, SEP, SEP, 0, 0, 0],
            [CLS, SEP, SEP, 0, 0, 0, 0],
            [CLS, SEP, MASK, SEP, 0, 0, 0],
        ]


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_that_fit_in_full(unit):
    # Multiples of 3 are ##pieces. Two predictions, and in each sequence only one set of words that
    # fills them.
    token_ids = np.array(
        [
            [
                CLS,
                10,
                12,
                15,
                SEP,
                18,
                SEP,
                20,
                SEP,
            ],  # 10-12-15 is too long; 18 is a word of its own after [SEP], as is 20
            [CLS, 10, 12, 15, 18, SEP, 21, 24, SEP],  # 21-24 is one, too
            [CLS, 10, 12, 15, SEP, 11, 18, 21, SEP],  # nothing fits
            [CLS, 12, SEP, 13, 15, 18, SEP, 14, SEP],  # 12 is a word of its own after [CLS]
        ],
        np.int32,
    )
    for keys in (keys_of(4, seed) for seed in range(5)):
        masked = mask(token_ids, np.full(4, 9, np.int32), masking(2, 1.0, unit), keys)
        assert masked["positions"].tolist() == [[5, 7], [6, 7], [0, 0], [1, 7]]
        assert masked["labels"].tolist() == [[18, 20], [21, 24], [0, 0], [12, 14]]
        assert masked["weights"].tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
        assert masked["token_ids"][2].tolist() == token_ids[2].tolist()


def test_unknown_unit_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^Expected a unit of masking among token, word, ngram\. Received: 'span'\.$",
    ):
        masking(unit="span")


def test_number_of_predictions():
    # Python rounds halves to even: 1.5 -> 2, 4.5 -> 4, 7.5 -> 8, 10.5 -> 10.
    expected = {
        0: 1,
        3: 1,
        9: 1,
        10: 2,
        16: 2,
        17: 3,
        30: 4,
        31: 5,
        50: 8,
        70: 10,
        90: 14,
        126: 19,
        128: 19,
        512: 20,
    }
    assert {length: masking(20).num_predictions(length) for length in expected} == expected
    assert [masking(20, 0.0).num_predictions(length) for length in (5, 128)] == [0, 0]
    assert [masking(20, 1.0).num_predictions(length) for length in (5, 128)] == [5, 20]
    assert [masking(20, 0.25).num_predictions(length) for length in (2, 6, 10, 14)] == [1, 2, 2, 4]


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_number_of_predictions_in_a_batch(unit):
    lengths = np.array([5, 9, 10, 17, 30, 31, 50, 53], np.int32)
    token_ids = np.where(np.arange(53) < lengths[:, None], 7, 0).astype(np.int32)
    token_ids[:, 0] = CLS
    assert mask(token_ids, lengths, masking(7, unit=unit))["weights"].sum(axis=1).tolist() == [
        1,
        1,
        2,
        3,
        4,
        5,
        7,
        7,
    ]


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_special_tokens_and_padding_are_never_touched(unit):
    token_ids, lengths = pairs(1009, 29)
    special = (token_ids == CLS) | (token_ids == SEP) | (np.arange(29) >= lengths[:, None])
    for rate in (0.15, 1.0):
        masked = mask(token_ids, lengths, masking(29, rate, unit))
        np.testing.assert_array_equal(masked["token_ids"][special], token_ids[special])
        in_use = masked["weights"] == 1
        assert in_use.any()
        assert not special[np.nonzero(in_use)[0], masked["positions"][in_use]].any()


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_rate_0_changes_nothing(unit):
    token_ids, lengths = pairs(101, 29)
    nothing = mask(token_ids, lengths, masking(5, 0.0, unit))
    np.testing.assert_array_equal(nothing["token_ids"], token_ids)
    assert not nothing["positions"].any()
    assert not nothing["labels"].any()
    assert not nothing["weights"].any()


@pytest.mark.parametrize("unit", ["token", "word"])
def test_rate_1_predicts_everything(unit):
    token_ids, lengths = pairs(101, 29)
    everything = mask(token_ids, lengths, masking(29, 1.0, unit))
    for row, length, positions, labels, weights in zip(
        token_ids,
        lengths,
        everything["positions"],
        everything["labels"],
        everything["weights"],
        strict=True,
    ):
        candidates = [i for i in range(length) if row[i] not in (CLS, SEP)]
        unused = [0] * (29 - len(candidates))
        assert positions.tolist() == candidates + unused
        assert labels.tolist() == row[candidates].tolist() + unused
        assert weights.tolist() == [1.0] * len(candidates) + unused


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_slots_ascend_and_unused_ones_are_zero(unit):
    token_ids, lengths = pairs(1009, 29)
    masked = mask(token_ids, lengths, masking(7, unit=unit))
    for positions, labels, weights, row in zip(
        masked["positions"], masked["labels"], masked["weights"], token_ids, strict=True
    ):
        n = int(weights.sum())
        assert weights.tolist() == [1.0] * n + [0.0] * (7 - n)
        assert (np.diff(positions[:n]) > 0).all()
        assert labels[:n].tolist() == row[positions[:n]].tolist()
        assert not positions[n:].any()
        assert not labels[n:].any()


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_originals_come_back_from_the_labels(unit):
    token_ids, lengths = pairs(1009, 29)
    masked = mask(token_ids, lengths, masking(7, unit=unit))
    rows, slots = np.nonzero(masked["weights"])
    restored = masked["token_ids"].copy()
    restored[rows, masked["positions"][rows, slots]] = masked["labels"][rows, slots]
    np.testing.assert_array_equal(restored, token_ids)
    assert (masked["token_ids"] != token_ids).any()


def test_words_are_whole():
    token_ids, lengths = pairs(1009, 29)
    for unit, whole in (("token", False), ("word", True), ("ngram", True)):
        masked = mask(token_ids, lengths, masking(11, 0.4, unit))
        chosen = [
            set(p[w == 1].tolist())
            for p, w in zip(masked["positions"], masked["weights"], strict=True)
        ]
        parted = [
            word
            for row, length, some in zip(token_ids, lengths, chosen, strict=True)
            for segment in plain_words(row, length)
            for word in segment
            if 0 < len(some.intersection(word)) < len(word)
        ]
        assert (not parted) == whole, unit


def test_pieces_of_a_word_are_replaced_each_by_itself():
    token_ids = np.tile([[CLS, 10, 12, SEP]], [10_007, 1]).astype(np.int32)
    masked = mask(token_ids, np.full(10_007, 4, np.int32), masking(2, 1.0, "word"))
    assert (masked["weights"] == 1).all()
    first, second = masked["token_ids"][:, 1] == MASK, masked["token_ids"][:, 2] == MASK
    # Four standard deviations of a binomial: both pieces become [MASK] with 0.8 * 0.8, not with
    # 0.8.
    p = (0.8 + 0.1 / VOCABULARY_SIZE) ** 2
    assert abs((first & second).sum() - 10_007 * p) < 4 * np.sqrt(10_007 * p * (1 - p))


def test_lengths_of_ngrams():
    # One-piece words and three predictions: the word visited first has room for any n, and is a run
    # of n from there.
    num_rows, length = 5003, 251
    token_ids = np.full([num_rows, length], 7, np.int32)
    token_ids[:, [0, -1]] = CLS, SEP
    masked = mask(token_ids, np.full(num_rows, length, np.int32), masking(3, 1.0, "ngram"))
    assert (masked["weights"] == 1).all()
    chosen = np.zeros([num_rows, length + 2], bool)
    np.put_along_axis(chosen, masked["positions"], True, axis=1)
    first = 1 + numpy_draws(keys_of(num_rows), 1, length - 2).argmax(axis=1)
    runs = [chosen[np.arange(num_rows), first + k] for k in range(3)]
    assert runs[0].all()
    shares = [(~runs[1]).mean(), (runs[1] & ~runs[2]).mean(), (runs[1] & runs[2]).mean()]
    # Four standard deviations of a binomial, 0.028 at most; and 0.02 for the runs that another span
    # lengthens, with two more spans of 249 places each, and for those that the end of the sequence
    # cuts.
    np.testing.assert_allclose(shares, [6 / 11, 3 / 11, 2 / 11], atol=0.048, rtol=0)


def test_ngrams_stay_in_their_segment():
    # Segments of one word: were a span to reach into the next one, it would be refused where that
    # word is chosen already.
    token_ids = np.array([[CLS, 10, SEP, 11, SEP, 13, SEP, 14, SEP, 16, SEP]] * 101, np.int32)
    masked = mask(token_ids, np.full(101, 11, np.int32), masking(5, 1.0, "ngram"))
    assert (masked["positions"] == [1, 3, 5, 7, 9]).all()


def test_shares_of_masked_random_and_kept_tokens():
    token_ids, lengths = pairs(10_007, 29, shortest=29)
    masked = mask(token_ids, lengths, masking(5))
    in_use = masked["weights"] == 1
    shown = np.take_along_axis(masked["token_ids"], masked["positions"], axis=1)[in_use]
    labels, n = masked["labels"][in_use], int(in_use.sum())
    assert n == 4 * 10_007  # round(0.15 * 29) = 4
    # A random token is [MASK] or the token itself by chance. Four standard deviations of a binomial
    # of n = 40,028.
    chance = 0.1 / VOCABULARY_SIZE
    for count, p in [
        ((shown == MASK).sum(), 0.8 + chance),
        ((shown == labels).sum(), 0.1 + chance),
    ]:
        assert abs(count - n * p) < 4 * np.sqrt(n * p * (1 - p))
    # The random ones are uniform over the vocabulary, its ends included: about 4,000 draws in the
    # 996 cells but [MASK]. Their chi-square has the mean 995 and the standard deviation sqrt(2 *
    # 995) = 45.
    replaced = shown[(shown != MASK) & (shown != labels)]
    counts = np.delete(np.bincount(replaced, minlength=VOCABULARY_SIZE), MASK)
    expected = len(replaced) / (VOCABULARY_SIZE - 1)
    assert len(counts) == VOCABULARY_SIZE - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - 995) < 4 * 45


def test_shares_of_0_and_1():
    token_ids, lengths = pairs(1009, 29)
    slots = {}
    for name, shares in {"mask": (1.0, 0.0), "random": (0.0, 1.0), "keep": (0.0, 0.0)}.items():
        masked = mask(token_ids, lengths, masking(5, mask_share=shares[0], random_share=shares[1]))
        in_use = masked["weights"] == 1
        slots[name] = np.take_along_axis(masked["token_ids"], masked["positions"], axis=1)[in_use]
        labels = masked["labels"][in_use]
    assert (slots["mask"] == MASK).all()
    np.testing.assert_array_equal(slots["keep"], labels)
    # A random token is the one that stood there in one of 997 cases: 3 of some 2,700, give or take
    # 2.
    assert (slots["random"] == labels).sum() < 12


@pytest.mark.parametrize("unit", ["token", "word"])
def test_positions_are_uniform(unit):
    # All words of one piece, so that words are as uniform as tokens; n-grams are not, at the ends
    # of segments.
    token_ids = np.tile([[CLS, *[7] * 11, SEP, *[8] * 15, SEP]], [10_007, 1]).astype(np.int32)
    masked = mask(token_ids, np.full(10_007, 29, np.int32), masking(5, unit=unit))
    counts = np.bincount(masked["positions"][masked["weights"] == 1], minlength=29)
    # 4 of 26 candidates in each of 10,007 sequences: binomial of p = 4 / 26; 4 * sqrt(n * p * (1 -
    # p)) = 144.
    candidates = np.flatnonzero(token_ids[0] > 4)
    assert len(candidates) == 26
    assert counts.sum() == counts[candidates].sum() == 4 * 10_007
    assert (abs(counts[candidates] - 10_007 * 4 / 26) < 144).all()


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_masks_depend_on_the_record_alone(unit):
    token_ids, lengths = pairs(101, 29)
    some, keys = masking(unit=unit), keys_of(101)
    whole = mask(token_ids, lengths, some, keys)
    for rows in (
        np.arange(1),
        np.arange(37, 60),
        np.arange(101)[::-1],
        np.array([100, 3, 3, 71, 0]),
    ):
        part = mask(token_ids[rows], lengths[rows], some, keys[rows])
        assert_equal(part, {name: value[rows] for name, value in whole.items()})


def test_other_seed_stream_or_number_other_masks():
    token_ids, lengths = pairs(101, 29)
    numbers = np.arange(101)
    first = mask(token_ids, lengths, masking(), record_keys(1, 2, numbers).numpy())
    assert_equal(first, mask(token_ids, lengths, masking(), record_keys(1, 2, numbers).numpy()))
    for seed, stream, shift in (
        (3, 2, 0),
        (1, 3, 0),
        (2, 1, 0),
        (1, 2, 1),
        (1, 2, 1 << 40),
        (-1, 2, 0),
    ):
        other = mask(
            token_ids, lengths, masking(), record_keys(seed, stream, numbers + shift).numpy()
        )
        assert (other["positions"] != first["positions"]).mean() > 0.3


def test_global_seed_and_earlier_draws_change_nothing(global_seed):
    token_ids, lengths = pairs(101, 29)
    first = mask(token_ids, lengths, masking())
    global_seed(3)
    tf.random.uniform([7])
    assert_equal(first, mask(token_ids, lengths, masking()))


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_tensors_in_graphs_and_tf_data_as_arrays(unit):
    token_ids, lengths = pairs(101, 29)
    some, numbers = masking(unit=unit), np.arange(101) + (1 << 33)
    eager = mask(token_ids, lengths, some, record_keys(5, 7, numbers).numpy())

    def masked(token_ids, lengths, numbers, seed=5, stream=7):
        return mask_tensors(token_ids, lengths, some, record_keys(seed, stream, numbers))

    tensors = [tf.constant(array) for array in (token_ids, lengths, numbers)]
    for on_tensors in (masked, tf.function(masked)):
        assert_equal(eager, {name: value.numpy() for name, value in on_tensors(*tensors).items()})
    dataset = (
        tf.data.Dataset.from_tensor_slices((token_ids, lengths, numbers))
        .batch(13)
        .map(masked, num_parallel_calls=2)
    )
    assert {name: spec.shape.as_list() for name, spec in dataset.element_spec.items()} == {
        "token_ids": [None, 29],
        "positions": [None, 5],
        "labels": [None, 5],
        "weights": [None, 5],
    }
    batches = list(dataset.as_numpy_iterator())
    assert_equal(
        eager, {name: np.concatenate([batch[name] for batch in batches]) for name in eager}
    )
    # The number of rows need not be known when the graph is made, nor the seed and the stream.
    rows, scalar = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64)
    signature = [
        tf.TensorSpec([None, 29], tf.int32),
        tf.TensorSpec([None], tf.int32),
        rows,
        scalar,
        scalar,
    ]
    any_batch = tf.function(masked, input_signature=signature)
    for part in (slice(None), slice(3), slice(3, 17)):
        got = any_batch(
            token_ids[part],
            lengths[part],
            numbers[part],
            tf.constant(5, tf.int64),
            tf.constant(7, tf.int64),
        )
        assert_equal(
            {name: value[part] for name, value in eager.items()},
            {name: v.numpy() for name, v in got.items()},
        )


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_empty_batch(unit):
    masked = mask(np.zeros([0, 29], np.int32), np.zeros([0], np.int32), masking(unit=unit))
    assert {name: value.shape for name, value in masked.items()} == {
        "token_ids": (0, 29),
        "positions": (0, 5),
        "labels": (0, 5),
        "weights": (0, 5),
    }


def draws(keys, start, number):
    """What the loops draw: int64 [B, number]."""
    return np.array([[draw(key, index) for index in range(start, start + number)] for key in keys])


def test_draws_are_those_of_splitmix64():
    # The published outputs from the state 1234567
    # (rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64).
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [draw(1234567, index) for index in range(5)] == [output >> 33 for output in published]
    keys = np.array([0, 1, -1, 1 << 62, -(1 << 63), (1 << 63) - 1])
    some = draws(keys, 7, 31)
    assert (
        some.tolist()
        == numpy_draws(keys, 7, 31).tolist()
        == [[splitmix64(key, index) >> 33 for index in range(7, 38)] for key in keys]
    )
    assert 0 <= some.min() <= some.max() < 1 << 31


def test_draws_are_uniform_and_neighbours_unrelated():
    # Records that differ by one in number, stream or seed, and draws of one record that follow each
    # other.
    n = 100_003
    numbers = np.arange(n + 1)
    some = draws(record_keys(1, 2, numbers).numpy(), 0, 2) / 2**31
    others = {
        "number": some[1:, 0],
        "stream": draws(record_keys(1, 3, numbers).numpy(), 0, 1)[:-1, 0] / 2**31,
        "seed": draws(record_keys(2, 2, numbers).numpy(), 0, 1)[:-1, 0] / 2**31,
        "draw": some[:-1, 1],
        "number and draw": some[1:, 1],
    }
    for name, other in others.items():
        # The correlation of n independent pairs has the standard deviation 1 / sqrt(n).
        assert abs(np.corrcoef(some[:-1, 0], other)[0, 1]) < 4 / np.sqrt(n), name
    # 101 cells of about 990: their chi-square has the mean 100 and the standard deviation sqrt(200)
    # = 14.
    counts = np.bincount((some[:, 0] * 101).astype(int), minlength=101)
    expected = (n + 1) / 101
    assert abs(((counts - expected) ** 2 / expected).sum() - 100) < 4 * 14


def test_record_keys_are_distinct():
    numbers = np.arange(499)
    triples = [(seed, stream) for seed in range(-2, 29) for stream in range(31)]
    keys = np.stack([record_keys(seed, stream, numbers).numpy() for seed, stream in triples])
    assert keys.dtype == np.int64
    assert len(np.unique(keys)) == keys.size == 31 * 31 * 499
    # Nor do two lists of keys differ by a constant, as they would if seed, stream and number were
    # but added up.
    unrelated = keys[triples.index((0, 1))] - keys[triples.index((1, 0))]
    assert len(np.unique(unrelated)) == 499
    # What keys are made of cannot change without changing every mask that was ever drawn.
    for seed, stream, number in ((1, 2, 3), (-1, 2, 1 << 40)):
        expected = splitmix64(splitmix64(splitmix64(0, seed), stream), number)
        assert record_keys(seed, stream, [number]).numpy().astype(np.uint64).tolist() == [expected]
