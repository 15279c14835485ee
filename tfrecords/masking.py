"""One masking of token ids for writing records and for reading them.

Devlin et al. 2019, section 3.1 and appendix A.1; create_masked_lm_predictions of
google-research/bert, for whole words too; n-grams as in Lan et al. 2020 (ALBERT), section 3.1. The
masks of a record are a pure function of its tokens and its key: they depend neither on the batch
that it comes in nor on its place there. The loops compile (numba); tests/test_masking.py has a
plain version that makes the same masks from the same draws."""

from __future__ import annotations

import collections
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tfrecords.compilation import compiled
from tfrecords.hashing import FIRST_FACTOR, GOLDEN, SECOND_FACTOR
from tfrecords.schema import MASK_UNITS, RecordsConfig
from tfrecords.vocabulary import Vocabulary

LONGEST_NGRAM = 3


@dataclasses.dataclass(frozen=True)
class Masking:
    """What to mask.

    Args:
        vocabulary: Has the special tokens, those to replace with, and those that continue a word.
        max_predictions: P, the number of slots for predicted tokens in a sequence.
        mask_rate: The share of a sequence's tokens, special ones included, that is predicted.
        mask_share: The share of the predicted tokens that becomes [MASK].
        random_share: The share of them that becomes a random token. The rest stays.
        unit: What is drawn: "token" (any token), "word" (all the tokens of a word) or "ngram" (1
            to 3 consecutive words).

    Raises:
        ValueError: There is no such unit.
    """

    vocabulary: Vocabulary
    max_predictions: int
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: str = "token"

    def __post_init__(self) -> None:
        if self.unit not in MASK_UNITS:
            units = ", ".join(MASK_UNITS)
            raise ValueError(f"Expected a unit of masking among {units}. Received: {self.unit!r}.")

    @classmethod
    def of(cls, vocabulary: Vocabulary, config: RecordsConfig) -> Masking:
        """The masking that a RecordsConfig asks for."""
        return cls(
            vocabulary=vocabulary,
            max_predictions=config.max_predictions,
            mask_rate=config.mask_rate,
            mask_share=config.mask_share,
            random_share=config.random_share,
            unit=config.mask_unit,
        )

    def num_predictions(self, lengths: np.ndarray) -> np.ndarray:
        """The number of tokens to predict in sequences of these lengths: at least 1 (0 with a mask
        rate of 0), at most P.

        Args:
            lengths: int [B], in tokens, special ones included.

        Returns:
            int64 [B]. Halves are rounded to even, as by Python's `round`.
        """
        if self.mask_rate == 0:
            return np.zeros(np.shape(lengths), np.int64)
        rounded = np.rint(np.multiply(lengths, self.mask_rate)).astype(np.int64)
        return np.minimum(self.max_predictions, np.maximum(1, rounded))

    @functools.cached_property
    def rule(self) -> _Rule:
        """The same as the compiled loops take it."""
        longest = LONGEST_NGRAM if self.unit == "ngram" else 1
        continues = np.array([token.startswith("##") for token in self.vocabulary.tokens])
        return _Rule(
            cls_id=self.vocabulary.cls_id,
            sep_id=self.vocabulary.sep_id,
            mask_id=self.vocabulary.mask_id,
            vocabulary_size=len(self.vocabulary),
            mask_end=int(self.mask_share * 2**31),
            random_end=int((self.mask_share + self.random_share) * 2**31),
            whole_words=self.unit != "token",
            continues_word=np.concatenate([continues, np.ones_like(continues)]),
            ngram_ends=np.array(_ngram_ends(longest), np.int64),
        )


_Rule = collections.namedtuple(
    "_Rule",
    "cls_id sep_id mask_id vocabulary_size mask_end random_end whole_words continues_word "
    "ngram_ends",
)
"""A Masking in numbers. A draw below `mask_end` says [MASK], else one below `random_end` a random
token; one at or above `ngram_ends[n - 1]` says more than n words. `continues_word` is bool [2 V]:
an id of V or more continues a word that a segmenter found."""


def _ngram_ends(longest: int) -> list[int]:
    """Where the draws end that say n = 1, n = 2, ... below `longest`, for p(n) proportional to 1/n.

    >>> [end / 2**31 for end in _ngram_ends(3)]  # 6/11 and 9/11
    [0.5454545454122126, 0.8181818178854883]
    """
    shares = [1 / n for n in range(1, longest + 1)]
    return [int(sum(shares[:n]) / sum(shares) * 2**31) for n in range(1, longest)]


def mask_tokens(
    token_ids: np.ndarray, lengths: np.ndarray, masking: Masking, keys: np.ndarray
) -> dict[str, np.ndarray]:
    """Masks a batch of sequences.

    Of each sequence, `masking.num_predictions(length)` tokens are predicted, drawn without
    replacement from all but [CLS] and [SEP]. Of those, 80 % (`mask_share`) become [MASK], 10 %
    (`random_share`) a random token and 10 % stay, each drawn independently. For one sequence, with
    101 = [CLS], 102 = [SEP], 103 = [MASK]:

        token_ids       101  7  8 102  9  5 102   0        lengths  7
        masked_ids      101  7 103 102  9  5 102   0
        positions         2   0     (P = 2, one in use)
        labels            8   0
        weights         1.0 0.0

    The units "word" and "ngram" take words whole. There may then be fewer predictions, and none if
    every word of the sequence has more tokens than are to be predicted; see `_choose_words`.

    Args:
        token_ids: int32 [B, S], zero-padded, S at least P. For whole words, an id of V or more is
            the token id - V, which continues the word of the token before.
        lengths: int32 [B], the tokens of each sequence that are not padding.
        masking: A Masking.
        keys: int64 [B], the key of each sequence's draws; see `hashing.record_keys`.

    Returns:
        A dict of `token_ids` (int32 [B, S], masked), `positions` (int32 [B, P], ascending, then
        zeros), `labels` (int32 [B, P], the original ids there, then zeros) and `weights` (float32
        [B, P], 1 on slots in use, else 0).
    """
    slots = len(token_ids), masking.max_predictions
    masked = {
        "token_ids": np.array(token_ids, np.int32),
        "positions": np.zeros(slots, np.int32),
        "labels": np.zeros(slots, np.int32),
        "weights": np.zeros(slots, np.float32),
    }
    # Copies: a read-only array is another type to numba, for which it would compile everything a
    # second time.
    lengths, keys = np.array(lengths, np.int64), np.array(keys, np.int64)
    _mask(lengths, keys, masking.num_predictions(lengths), masking.rule, *masked.values())
    return masked


def mask_tensors(
    token_ids: tf.Tensor, lengths: tf.Tensor, masking: Masking, keys: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`mask_tokens` for tensors, also in graphs of tf.data. S has to be known when the graph is
    made; B need not be."""

    def mask(token_ids, lengths, keys):
        return tuple(mask_tokens(token_ids, lengths, masking, keys).values())

    names: list[str] = ["token_ids", "positions", "labels", "weights"]
    types = [tf.int32, tf.int32, tf.int32, tf.float32]
    # Not stateful: the masks follow from the arguments alone.
    results = tf.numpy_function(mask, [token_ids, lengths, keys], types, stateful=False)
    masked = dict(zip(names, results, strict=True))
    for name, values in masked.items():
        width = token_ids.shape[1] if name == "token_ids" else masking.max_predictions
        values.set_shape([token_ids.shape[0], width])
    return masked


@compiled
def _mask(lengths, keys, num_predictions, rule, token_ids, positions, labels, weights):
    """Masks `token_ids` in place and fills the other three; arguments as in `mask_tokens`.

    A record has S draws for the order of its positions, P for what becomes of the token in each
    slot, P for the random tokens and, for n-grams alone, S for n at its positions."""
    sequence_length, num_slots = token_ids.shape[1], positions.shape[1]
    chosen_in_row = np.empty(sequence_length, np.bool_)
    chosen_positions = np.empty(sequence_length + 1, np.int64)
    for row in range(len(token_ids)):
        # Which positions are predicted.
        ids, key, chosen = token_ids[row, : lengths[row]], keys[row], chosen_in_row[: lengths[row]]
        number = num_predictions[row]
        if rule.whole_words:
            _choose_words(ids, key, sequence_length + 2 * num_slots, number, rule, chosen)
            for position in range(len(ids)):
                ids[position] -= rule.vocabulary_size * (ids[position] >= rule.vocabulary_size)
        else:
            _choose_tokens(ids, key, number, rule, chosen)
        # What the model sees there, slot by slot from left to right.
        for slot in range(_find(chosen, chosen_positions)):
            position = chosen_positions[slot]
            positions[row, slot] = position
            labels[row, slot] = ids[position]
            weights[row, slot] = 1
            what = draw(key, sequence_length + slot)
            replacement = draw(key, sequence_length + num_slots + slot)
            ids[position] = _shown(ids[position], what, replacement, rule)


@compiled
def _shown(label, what, replacement, rule):
    """What the model sees in place of a label, by two draws: [MASK], a random token (special ones
    included, as in Google's script) or the label."""
    if what < rule.mask_end:
        return rule.mask_id
    if what < rule.random_end:
        return replacement * rule.vocabulary_size >> 31
    return np.int64(label)


@compiled
def _find(chosen, positions):
    """Puts the chosen positions into `positions`, with room for one more, and counts them."""
    count = 0
    for position in range(len(chosen)):
        # Always written, and replaced by the next one unless it is chosen: cheaper than a branch.
        positions[count] = position
        count += chosen[position]
    return count


@compiled
def _is_candidate(token_id, rule):
    return (token_id != rule.cls_id) & (token_id != rule.sep_id)


@compiled
def _choose_tokens(ids, key, num_predictions, rule, chosen):
    """Chooses the candidates with the largest draws: a uniform choice without replacement.

    Args:
        ids: int32 [length], a sequence without its padding.
        key: int64, the key of its draws.
        num_predictions: How many to choose.
        rule: A _Rule.
        chosen: bool [length], which is filled.
    """
    ranks = np.empty(len(ids), np.int64)
    for position in range(len(ids)):
        ranks[position] = _rank(key, position) if _is_candidate(ids[position], rule) else 0
    least = _least_rank(ranks, num_predictions)
    for position in range(len(ids)):
        chosen[position] = ranks[position] >= least


@compiled
def _least_rank(ranks, number):
    """A bound that `number` of the ranks reach, or all that are not 0 if those are fewer; by
    bisection.

    The ranks are uniform and distinct, so that few passes find a bound between two neighbours,
    about 9 for 128 ranks."""
    low, high = 1, _RANKS_END
    bound = low
    while True:
        count = 0
        for n in range(len(ranks)):
            count += ranks[n] >= bound
        if count == number or (count < number and bound == 1):
            return bound
        if count > number:
            low = bound
        else:
            high = bound
        bound = low + (high - low) // 2


@compiled
def _choose_words(ids, key, ngram_draws, num_predictions, rule, chosen):
    """Chooses whole words, or n-grams of them, as many as fit; arguments as in `_choose_tokens`.

    A word is a token and those that continue it, `##...` or with an id of V or more. It never
    crosses a special token: `##...` right after [CLS] or [SEP] starts a word of its own. The words
    of a sequence are visited once each in random order, until `num_predictions` tokens are chosen
    or no word is left. What a visit offers depends on the unit:

        "word": The word. It is taken if it fits into what is left of `num_predictions`, else
            skipped.
        "ngram": The word and the n - 1 words after it, n from 1 to 3 with p(n) proportional to 1/n;
            fewer words where [CLS], [SEP] or the end of the sequence comes first. While it does not
            fit, its last word is dropped. What remains is taken unless one of its words is already
            chosen, which ends the visit, as in ALBERT's script (where n-grams cross [SEP]).

    `ngram_draws` is the index of the first draw of n.
    """
    word_ends = _word_ends(ids, rule)
    ranks = np.empty(len(ids), np.int64)
    for position in range(len(ids)):
        ranks[position] = _rank(key, position) if word_ends[position] else 0
    chosen[:] = False
    left = num_predictions
    rank = _largest(ranks)  # at every visit; there are few, so this is cheaper than sorting all
    while left > 0 and rank > 0:
        start = _ranked_position(rank)
        end = _span_end(start, _num_words(draw(key, ngram_draws + start), rule), left, word_ends)
        if not chosen[start:end].any():
            chosen[start:end] = True
            left -= end - start
        ranks[start] = 0
        rank = _largest(ranks)


@compiled
def _num_words(n_draw, rule):
    """The n of an n-gram, by one draw."""
    number = 1
    for end in rule.ngram_ends:
        number += n_draw >= end
    return number


@compiled
def _span_end(start, num_words, left, word_ends):
    """The end of at most `num_words` consecutive words from `start`, as many as fit into `left`
    tokens; `start` if none does."""
    end = start
    while num_words > 0 and 0 < word_ends[end] <= start + left:
        end = word_ends[end]
        num_words -= 1
    return end


@compiled
def _word_ends(ids, rule):
    """Where each word ends, at the position of its first token, and 0 elsewhere: int64
    [length + 1].

    With 2 = [CLS], 3 = [SEP], and 6 and 9 continuing a word:

        ids         2  6  8  6  9  7  3  9  3
        word_ends   0  2  5  0  0  6  0  8  0  0
    """
    ends = np.zeros(len(ids) + 1, np.int64)
    start = -1  # of the word that may continue here
    for position in range(len(ids)):
        if not _is_candidate(ids[position], rule):
            start = -1
            continue
        if start < 0 or not rule.continues_word[ids[position]]:
            start = position
        ends[start] = position + 1
    return ends


_LAST_POSITION = (1 << 31) - 1
_RANKS_END = 1 << 62


@compiled
def _rank(key, position):
    """int64 above 0 that orders positions: by descending draw, then the first position first."""
    return draw(key, position) << 31 | _LAST_POSITION - position


@compiled
def _ranked_position(rank):
    return _LAST_POSITION - (rank & _LAST_POSITION)


@compiled
def _largest(ranks):
    largest = np.int64(0)
    for n in range(len(ranks)):  # by index: over the ranks themselves, it is not vectorised
        largest = max(largest, ranks[n])
    return largest


@compiled
def draw(key: np.int64, index: int) -> np.int64:
    """One of the uniform draws behind a masking: splitmix64 (Steele et al. 2014), counted from the
    key of each record.

    Args:
        key: int64.
        index: The index of the draw.

    Returns:
        int64, from 0 to 2 ** 31 - 1: the upper 31 bits of splitmix64's output number index + 1 from
        the state `key`.
    """
    z = np.uint64(key) + np.uint64(index + 1) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST_FACTOR
    z = (z ^ (z >> np.uint64(27))) * SECOND_FACTOR
    # The last shift of splitmix64 would leave the upper 31 bits as they are.
    return np.int64(z >> np.uint64(33))
