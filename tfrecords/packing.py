"""Pairs to rows of several: which pairs share a row of S tokens, and what the row then holds.

Many pairs are shorter than a sequence, and the rest of it is padding. A packed record is a row of
up to K pairs, one after the other (Krell et al. 2021, arXiv 2107.02027), each with its own [CLS],
segments, positions from 0, masks and label:

    input_ids                2  7  8  3  9  3   2 10  3 11  3   0
    input_mask               1  1  1  1  1  1   2  2  2  2  2   0   the number of the pair
    segment_ids              0  0  0  0  1  1   0  0  0  1  1   0
    position_ids             0  1  2  3  4  5   0  1  2  3  4   0
    next_sentence_positions  0  6  0                                K = 3, two in use

Pairs are put into rows by best fit, the longest ones first, for at most so many tokens at a time
that memory does not grow with a shard. The result is a pure function of the pairs' lengths and
numbers of predictions, in their order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from tfrecords import schema
from tfrecords.compilation import compiled

WINDOW_TOKENS = 1 << 25
"""About how many tokens of pairs are put into rows at a time; ordinary shards have fewer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """What a row has room for."""

    tokens: int
    """S."""
    predictions: int
    """P, slots for masked tokens."""
    pairs: int
    """K."""

    @classmethod
    def of(cls, config: schema.RecordsConfig) -> Room:
        """The room in the rows that a RecordsConfig asks for."""
        return cls(
            tokens=config.sequence_length, predictions=config.row_predictions, pairs=config.pack
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which pairs share a row.

    Args:
        pairs: int64 [N], every pair's number once, row after row.
        starts: int64 [R + 1]; row r holds the pairs[starts[r] : starts[r + 1]].
    """

    pairs: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def some(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of rows `start` to `stop` - 1 (int64 [n]), and how many each row has (int64
        [rows])."""
        starts = self.starts[start : stop + 1]
        return self.pairs[starts[0] : starts[-1]], np.diff(starts)

    def in_order(self, order: np.ndarray) -> Rows:
        """The same rows in another order: int64 [R], their numbers."""
        sizes = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(len(self.pairs)) - np.repeat(starts[:-1], sizes)
        return Rows(self.pairs[np.repeat(self.starts[order], sizes) + within], starts)

    @classmethod
    def single(cls, number: int) -> Rows:
        """A row for each of `number` pairs."""
        return cls(np.arange(number), np.arange(number + 1))

    @classmethod
    def chained(cls, parts: list[Rows]) -> Rows:
        """The rows of several windows, one after the other, each of which counts its own pairs from
        0."""
        *firsts, total = np.cumsum([0, *(len(part.pairs) for part in parts)])
        pairs = [part.pairs + first for part, first in zip(parts, firsts, strict=True)]
        starts = [part.starts[:-1] + first for part, first in zip(parts, firsts, strict=True)]
        return cls(np.concatenate([*pairs, np.arange(0)]), np.concatenate([*starts, [total]]))


def row_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The source of the order of the rows in shard number `index` of a split. It is not the one of
    the shard's pairs, so that rows of records that are there come in the same order."""
    entropy = [seed, schema.SPLITS.index(split), index, 1]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def shuffled_rows(
    lengths: np.ndarray, predictions: np.ndarray, room: Room, generator: np.random.Generator
) -> Rows:
    """`shuffled_window` for each window."""
    return Rows.chained(
        [
            shuffled_window(lengths[start:stop], predictions[start:stop], room, generator)
            for start, stop in windows(lengths)
        ]
    )


def shuffled_window(
    lengths: np.ndarray, predictions: np.ndarray, room: Room, generator: np.random.Generator
) -> Rows:
    """`packed_rows` in a random order."""
    rows = packed_rows(lengths, predictions, room)
    return rows.in_order(generator.permutation(len(rows)))


def windows(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """The (start, stop) of the pairs that are put into rows together: a window ends with the pair
    that brings it to WINDOW_TOKENS."""
    ends = np.cumsum(lengths, dtype=np.int64)
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = min(window_end(ends, before), len(lengths))
        yield start, stop
        start = stop


def window_end(ends: np.ndarray, before: int) -> int:
    """The end of the window that begins behind `before` tokens, if pairs end at `ends` (int64
    [N])."""
    return int(np.searchsorted(ends, before + WINDOW_TOKENS)) + 1


def packed_rows(lengths: np.ndarray, predictions: np.ndarray, room: Room) -> Rows:
    """Puts pairs into rows: best fit, the longest first.

    Every pair goes into the row with the least room that still takes it, by tokens, by slots and by
    pairs, or else into a new one. Four pairs in rows of 9 tokens and 3 slots:

    >>> room = Room(tokens=9, predictions=3, pairs=8)
    >>> rows = packed_rows(np.array([4, 9, 3, 5]), np.array([1, 2, 1, 1]), room)
    >>> [rows.some(row, row + 1)[0].tolist() for row in range(len(rows))]
    [[1], [3, 0], [2]]

    Args:
        lengths: int [N], the tokens of each pair, from 1 to S.
        predictions: int [N], the tokens to predict in each pair, from 0 to P.
        room: What a row has room for.
    """
    lengths, predictions = np.array(lengths, np.int64), np.array(predictions, np.int64)
    order = np.lexsort((-predictions, -lengths))  # pairs that are alike stay in their order
    row_of = _best_fit(
        lengths[order], predictions[order], room.tokens, room.predictions, room.pairs
    )
    pairs = order[np.argsort(row_of, kind="stable")]
    return Rows(pairs, np.concatenate([[0], np.cumsum(np.bincount(row_of))]))


@compiled
def _best_fit(lengths, predictions, sequence_length, num_slots, most_pairs):
    """The row of each pair: int64 [N]. The pairs come sorted, so that those which are alike, in
    tokens and in predictions, stand together and go through the rows at once.

    Rows that may take more hang in chains, one for every number of tokens that they have room
    for."""
    number = len(lengths)
    row_of, following = np.empty(number, np.int64), np.empty(number, np.int64)
    heads = np.full(sequence_length + 1, -1)
    left = np.empty((number, 3), np.int64)  # of each row: tokens, slots, pairs
    num_rows = first = 0
    while first < number:
        end = _end_of_like(lengths, predictions, first)
        each = lengths[first], predictions[first]
        # The rows in which something is left, those with the least room first.
        for tokens in range(each[0], sequence_length + 1):
            before, row = -1, heads[tokens]
            while first < end and row >= 0:
                after = following[row]
                if left[row, 1] < each[1]:
                    before = row
                else:
                    if before < 0:
                        heads[tokens] = after
                    else:
                        following[before] = after
                    first = _fill(row, left[row], each, first, end, row_of, heads, following)
                row = after
        # New rows for the others; one takes at least a pair.
        while first < end:
            left[num_rows] = sequence_length, num_slots, most_pairs
            first = _fill(num_rows, left[num_rows], each, first, end, row_of, heads, following)
            num_rows += 1
    return row_of


@compiled
def _end_of_like(lengths, predictions, first):
    """The end of the pairs that are like the one at `first`."""
    end = first + 1
    while (
        end < len(lengths)
        and lengths[end] == lengths[first]
        and predictions[end] == predictions[first]
    ):
        end += 1
    return end


@compiled
def _fill(row, left, each, first, end, row_of, heads, following):
    """Puts pairs `first`, ... into a row, one and then as many as it takes, hangs it into the chain
    of what is left, and returns the first pair that it did not take."""
    while True:
        row_of[first] = row
        left[0] -= each[0]
        left[1] -= each[1]
        left[2] -= 1
        first += 1
        if first == end or left[0] < each[0] or left[1] < each[1] or left[2] == 0:
            break
    if left[0] > 0 and left[2] > 0:
        following[row] = heads[left[0]]
        heads[left[0]] = row
    return first


# What a row holds of each of its pairs, in the shapes of a batch: n pairs in R rows.


def packed_features(
    features: Mapping[str, np.ndarray], sizes: np.ndarray, room: Room
) -> dict[str, np.ndarray]:
    """Puts pairs one after the other into rows.

    Args:
        features: The pairs in Google's schema, by name: int32 [n, S], [n, P of a pair] and [n, 1],
            weights float32; slots in use stand before the others. Labels of pairs may be absent.
        sizes: int64 [R], how many pairs each row has: the first row those from 0, and so on.
        room: What a row has room for.

    Returns:
        The rows in the schema of packed records: int32 [R, S], [R, P] and [R, K], weights float32.
    """
    rows = {
        name: np.zeros((len(sizes), width), np.float32 if name in _FLOATS else np.int32)
        for width, names in (
            (room.tokens, _OF_TOKENS),
            (room.predictions, _OF_SLOTS),
            (room.pairs, _OF_PAIRS),
        )
        for name in names
    }
    pairs = [np.ascontiguousarray(features[name]) for name in _FILLED]
    _join(np.array(sizes, np.int64), *pairs, *rows.values())
    if (labels := features.get(schema.NEXT_SENTENCE_LABELS)) is None:
        for name in _OF_PAIRS:
            del rows[name]
        return rows
    rows[schema.NEXT_SENTENCE_LABELS] = in_rows(labels[:, 0], sizes, room)
    return rows


_OF_TOKENS = (*schema.SEQUENCE_FEATURES, schema.POSITIONS)
_OF_SLOTS = schema.PREDICTION_FEATURES
_OF_PAIRS = (schema.NEXT_SENTENCE_POSITIONS, schema.NEXT_SENTENCE_WEIGHTS)
_FILLED = (*schema.SEQUENCE_FEATURES, *schema.PREDICTION_FEATURES)
_FLOATS = (schema.MASKED_LM_WEIGHTS, schema.NEXT_SENTENCE_WEIGHTS)


def in_rows(values: np.ndarray, sizes: np.ndarray, room: Room) -> np.ndarray:
    """A value for each pair, [n], as the rows have it: int32 [R, K], 0 behind a row's last pair."""
    rows = np.zeros((len(sizes), room.pairs), np.int32)
    rows[np.arange(room.pairs) < np.reshape(sizes, [-1, 1])] = values
    return rows


@compiled
def _join(
    sizes,
    pair_ids,
    pair_mask,
    pair_segments,
    pair_mask_positions,
    pair_labels,
    pair_weights,
    ids,
    numbers,
    segments,
    positions,
    mask_positions,
    labels,
    weights,
    cls_positions,
    cls_weights,
):
    """Fills the rows' arrays, which are zero, from the pairs'."""
    index = np.arange(ids.shape[1])
    pair = 0
    for row in range(len(sizes)):
        start = slot = 0
        for number in range(sizes[row]):
            # The tokens, without their padding.
            length = pair_mask[pair].sum()
            stop = start + length
            ids[row, start:stop] = pair_ids[pair, :length]
            numbers[row, start:stop] = number + 1
            segments[row, start:stop] = pair_segments[pair, :length]
            positions[row, start:stop] = index[:length]
            # The masks, as they are; only their places move.
            used = 0
            while used < pair_weights.shape[1] and pair_weights[pair, used]:
                mask_positions[row, slot + used] = start + pair_mask_positions[pair, used]
                used += 1
            labels[row, slot : slot + used] = pair_labels[pair, :used]
            weights[row, slot : slot + used] = pair_weights[pair, :used]
            slot += used
            cls_positions[row, number] = start
            cls_weights[row, number] = 1
            start = stop
            pair += 1
