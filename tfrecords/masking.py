"""One masking of token ids as batched, stateless TensorFlow operations: for writing records and for reading them.

Devlin et al. 2019, section 3.1 and appendix A.1; create_masked_lm_predictions of google-research/bert, for whole words too;
n-grams as in Lan et al. 2020 (ALBERT), section 3.1. The masks of a record are a pure function of its tokens and its key: they
depend neither on the batch that it comes in nor on its place there. All of it is integers, and so alike on every device.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tfrecords.schema import MASK_UNITS
from tfrecords.vocabulary import Vocabulary

LONGEST_NGRAM = 3

_GOLDEN = 0x9E3779B97F4A7C15


@dataclasses.dataclass(frozen=True)
class Masking:
    """What to mask.

    Args:
        vocabulary: A Vocabulary: the special tokens, the ids to replace with, and the pieces `##...` that continue a word.
        max_predictions: P, the number of slots for predicted tokens in a sequence.
        mask_rate: The share of a sequence's tokens, special ones included, that is predicted; from 0 to 1.
        mask_share: The share of the predicted tokens that becomes [MASK]; from 0 to 1.
        random_share: The share of them that becomes a random token; from 0 to 1 - mask_share. The rest stays.
        unit: What is drawn: "token" (any piece), "word" (all the pieces of a word) or "ngram" (1 to 3 words in a row).

    Raises:
        ValueError: There is no such unit.
    """

    vocabulary: Vocabulary
    max_predictions: int
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: str = "token"

    def __post_init__(self):
        if self.unit not in MASK_UNITS:
            raise ValueError(f"Expected a unit of masking among {', '.join(MASK_UNITS)}. Received: {self.unit!r}.")

    @classmethod
    def of(cls, vocabulary, config):
        """The masking that a RecordsConfig asks for."""
        return cls(
            vocabulary=vocabulary,
            max_predictions=config.max_predictions,
            mask_rate=config.mask_rate,
            mask_share=config.mask_share,
            random_share=config.random_share,
            unit=config.mask_unit,
        )

    def num_predictions(self, length):
        """How many tokens are predicted in a sequence of `length` tokens, special ones included: at least 1, at most P."""
        return min(self.max_predictions, max(1, round(length * self.mask_rate))) if self.mask_rate > 0 else 0

    @functools.cached_property
    def continues_word(self):
        """bool [V]: the pieces that continue the word before them."""
        return np.array([token.startswith("##") for token in self.vocabulary.tokens])


def mask_tokens(token_ids, lengths, masking, keys):
    """Masks a batch of sequences.

    Of each sequence, `masking.num_predictions(length)` tokens are predicted, drawn without replacement from all but [CLS]
    and [SEP]. Of those, 80 % (`mask_share`) become [MASK], 10 % (`random_share`) a random token and 10 % stay, each drawn by
    itself. For one sequence, with 101 = [CLS], 102 = [SEP], 103 = [MASK]:

        token_ids       101  7  8 102  9  5 102   0        lengths  7
        masked_ids      101  7 103 102  9  5 102   0
        positions         2   0     (P = 2, one in use)
        labels            8   0
        weights         1.0 0.0

    Words are taken whole with the units "word" and "ngram", so that there may be fewer predictions, and none at all if every
    word of the sequence is longer than their number; see `_choose_words`.

    Args:
        token_ids: int32 [B, S], zero-padded, S at least P and known when the graph is made.
        lengths: int32 [B], the tokens of each sequence that are not padding.
        masking: A Masking.
        keys: int64 [B], the key of each sequence's draws; see `record_keys`.

    Returns:
        A dict of `token_ids` (int32 [B, S], masked), `positions` (int32 [B, P], ascending, then zeros), `labels` (int32
        [B, P], the original ids there, then zeros) and `weights` (float32 [B, P], 1 on slots in use, else 0).
    """
    sequence_length = token_ids.shape[1]
    table = tf.constant([masking.num_predictions(length) for length in range(sequence_length + 1)], tf.int32)
    num_predictions = tf.gather(table, lengths)
    inside = tf.range(sequence_length) < lengths[:, None]
    candidate = inside & (token_ids != masking.vocabulary.cls_id) & (token_ids != masking.vocabulary.sep_id)
    choose = _choose_tokens if masking.unit == "token" else _choose_words
    positions, in_use = choose(token_ids, candidate, num_predictions, masking, keys)

    # One addressing of the flat batch serves to read the labels and to write what is shown in their place.
    flat_ids = tf.reshape(token_ids, [-1])
    flat_positions = positions + tf.range(tf.shape(token_ids)[0])[:, None] * sequence_length
    original = tf.gather(flat_ids, flat_positions)
    # Differences are added: a slot out of use points at position 0 and adds nothing to what a slot in use may do there.
    change = tf.where(in_use, _shown(original, masking, keys, sequence_length) - original, 0)
    masked_ids = tf.tensor_scatter_nd_add(flat_ids, flat_positions[..., None], change)
    return {
        "token_ids": tf.reshape(masked_ids, tf.shape(token_ids)),
        "positions": positions,
        "labels": tf.where(in_use, original, 0),
        "weights": tf.cast(in_use, tf.float32),
    }


def _shown(labels, masking, keys, sequence_length):
    """What the model sees in place of the labels: [MASK], a random token of the whole vocabulary or the label, [B, P]."""
    num_slots = masking.max_predictions
    what, replacement = tf.split(draws(keys, sequence_length, 2 * num_slots), 2, axis=1)
    random_ids = tf.cast(tf.cast(replacement, tf.int64) * len(masking.vocabulary) // 2**31, tf.int32)
    # `<=` of one less, since a share of 1 is 2 ** 31, which is no int32.
    last_mask = int(masking.mask_share * 2**31) - 1
    last_random = int((masking.mask_share + masking.random_share) * 2**31) - 1
    return tf.where(what <= last_mask, masking.vocabulary.mask_id, tf.where(what <= last_random, random_ids, labels))


def _choose_tokens(token_ids, candidate, num_predictions, masking, keys):
    """The candidates with the largest draws: a uniform choice without replacement.

    Args:
        token_ids: int32 [B, S].
        candidate: bool [B, S], False at [CLS], [SEP] and padding.
        num_predictions: int32 [B].
        masking: A Masking.
        keys: int64 [B].

    Returns:
        Positions, int32 [B, P], ascending, then zeros; and whether each of these slots is in use, bool [B, P].
    """
    num_slots, sequence_length = masking.max_predictions, token_ids.shape[1]
    order, chosen = tf.math.top_k(tf.where(candidate, draws(keys, 0, sequence_length), -1), num_slots)
    in_use = (tf.range(num_slots) < num_predictions[:, None]) & (order >= 0)
    positions = tf.sort(tf.where(in_use, chosen, sequence_length), axis=1)
    in_use = positions < sequence_length
    return tf.where(in_use, positions, 0), in_use


def _choose_words(token_ids, candidate, num_predictions, masking, keys):
    """Whole words, or n-grams of them, as many as fit; arguments and results as in `_choose_tokens`.

    A word is a piece and the pieces `##...` that continue it. It never crosses a special token: `##...` right after [CLS]
    or [SEP] starts a word of its own. The words of a sequence are visited once each in random order, until
    `num_predictions` pieces are chosen or no word is left. Each visit offers a span:

        "word": The word. It is taken if it fits into what is left of `num_predictions`, else passed over.
        "ngram": The word and the n - 1 words after it, n from 1 to 3 with p(n) proportional to 1/n; fewer words where [CLS],
            [SEP] or the end of the sequence comes first. While it does not fit, its last word is dropped. What remains is
            taken unless one of its words is already chosen, and then the visit is over, as in ALBERT's script (where
            n-grams cross [SEP]).
    """
    batch_size, sequence_length = tf.shape(token_ids)[0], token_ids.shape[1]
    too_long = sequence_length + 1

    # All words of the batch in one list of W; a special token or padding stands there as a word, but is never visited.
    joins = candidate & tf.pad(candidate[:, :-1], [[0, 0], [1, 0]])
    starts_word = ~(joins & tf.gather(masking.continues_word, token_ids))
    starts = tf.cast(tf.where(tf.reshape(starts_word, [-1]))[:, 0], tf.int32)
    num_pieces = tf.concat([starts[1:], [batch_size * sequence_length]], axis=0)[: tf.size(starts)] - starts
    word_of = tf.cumsum(tf.cast(tf.reshape(starts_word, [-1]), tf.int32)) - 1
    if masking.unit == "ngram":
        lengths = draws(keys, sequence_length + 2 * masking.max_predictions, sequence_length)
        spans = _spans(num_pieces, *(tf.gather(tf.reshape(x, [-1]), starts) for x in (joins, lengths)), too_long)
    else:
        spans = num_pieces[:, None]
    longest = spans.shape[1]

    first = candidate & starts_word
    num_words = tf.reduce_sum(tf.cast(first, tf.int32), axis=1)
    order = tf.math.top_k(tf.where(first, draws(keys, 0, sequence_length), -1), sequence_length).indices
    visits = tf.transpose(order + tf.range(batch_size)[:, None] * sequence_length)

    def goes_on(rank, left, taken):
        return tf.reduce_any((left > 0) & (rank < num_words))

    def visit(rank, left, taken):
        word = tf.gather(word_of, visits[rank])
        pieces = tf.gather(spans, word)
        members = word[:, None] + tf.range(longest)
        fits = (pieces <= left[:, None]) & (rank < num_words)[:, None]
        blocked = tf.reduce_any(fits & tf.gather(taken, members), axis=1, keepdims=True)
        takes = fits & ~blocked
        left -= tf.reduce_max(tf.where(takes, pieces, 0), axis=1)
        # What is not taken writes to an entry behind the last word, which nothing reads.
        members = tf.where(takes, members, tf.size(starts) + longest)
        return rank + 1, left, tf.tensor_scatter_nd_update(taken, members[..., None], tf.ones_like(takes))

    nothing_taken = tf.zeros([tf.size(starts) + longest + 1], tf.bool)
    _, _, taken = tf.while_loop(goes_on, visit, [0, num_predictions, nothing_taken])
    chosen = tf.reshape(tf.gather(taken, word_of), tf.shape(token_ids))

    # From the end of the sequence, so that the largest values are the first positions.
    from_end = tf.math.top_k(tf.where(chosen, sequence_length - tf.range(sequence_length), 0), masking.max_predictions).values
    in_use = from_end > 0
    return tf.where(in_use, sequence_length - from_end, 0), in_use


def _spans(num_pieces, joins, lengths, too_long):
    """The sizes of the n-grams that start at each word, in pieces.

    With words of 2, 1, 1 and 3 pieces, the third right after [SEP], and draws that say n = 3, 1, 2, 1 (`too_long` is 9):

        num_pieces    2  1  1  3
        joins         0  1  0  1
        n             3  1  2  1
        n-gram of 1   2  1  1  3
        n-gram of 2   3  9  4  9
        n-gram of 3  12  9  9  9    (that of the first word would cross [SEP])

    Args:
        num_pieces: int32 [W], the sizes of the words.
        joins: bool [W], whether a word stands right after another one.
        lengths: int32 [W], the draws of n.
        too_long: More pieces than fit anywhere.

    Returns:
        int32 [W, 3], at least `too_long` where n is smaller or there are not that many words.
    """
    added = tf.pad(tf.where(joins, num_pieces, too_long), [[0, LONGEST_NGRAM]], constant_values=too_long)
    spans = [num_pieces]
    for k, last in enumerate(_last_draws(LONGEST_NGRAM), start=1):
        spans.append(tf.where(lengths > last, spans[-1] + added[k : k + tf.size(num_pieces)], too_long))
    return tf.stack(spans, axis=1)


def _last_draws(longest):
    """The last draw that says n = 1, n = 2, ... below `longest`, for p(n) proportional to 1/n.

    >>> [(last + 1) / 2**31 for last in _last_draws(3)]  # 6/11 and 9/11
    [0.5454545454122126, 0.8181818178854883]
    """
    shares = [1 / n for n in range(1, longest + 1)]
    return [int(sum(shares[:n]) / sum(shares) * 2**31) - 1 for n in range(1, longest)]


def record_keys(seed, stream, numbers):
    """The keys of the draws of records, each a pure function of (seed, stream, number).

    Args:
        seed: int64, the seed of all randomness.
        stream: int64, which of the seed's streams of masks, such as the repetition of the data.
        numbers: int64 [B], the numbers of the records.

    Returns:
        int64 [B]. Every step is a bijection of its last argument: the keys of one stream are distinct.
    """
    keys = _hash(_hash(_hash(tf.constant(0, tf.uint64), seed), stream), numbers)
    return tf.bitcast(keys, tf.int64)


def draws(keys, start, number):
    """The uniform draws behind a masking: splitmix64 (Steele et al. 2014), counted from the key of each record.

    A record has S draws for the order of its positions; P for what becomes of its slots; P for the random tokens; and, for
    n-grams alone, S for n at its positions.

    Args:
        keys: int64 [B].
        start: The index of the first draw.
        number: How many draws.

    Returns:
        int32 [B, number], from 0 to 2 ** 31 - 1: the upper 31 bits of splitmix64's outputs number start + 1, start + 2, ...
        from the state `key`.
    """
    steps = np.arange(start + 1, start + number + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    # The last shift of splitmix64 would leave the upper 31 bits as they are.
    return tf.cast(_shift(_multiply(tf.bitcast(keys, tf.uint64)[:, None] + steps), 33), tf.int32)


def _hash(state, value):
    """uint64: one whole output of splitmix64, number `value` (int64) + 1 from `state` (uint64)."""
    value = tf.bitcast(tf.convert_to_tensor(value, tf.int64), tf.uint64)
    z = _multiply(state + (value + np.uint64(1)) * np.uint64(_GOLDEN))
    return tf.bitwise.bitwise_xor(z, _shift(z, 31))


def _multiply(z):
    """splitmix64 from its counter to its last shift."""
    z = tf.bitwise.bitwise_xor(z, _shift(z, 30)) * np.uint64(0xBF58476D1CE4E5B9)
    return tf.bitwise.bitwise_xor(z, _shift(z, 27)) * np.uint64(0x94D049BB133111EB)


def _shift(z, bits):
    return tf.bitwise.right_shift(z, np.uint64(bits))
