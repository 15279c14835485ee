"""Tokenized documents to the sequences that BERT is pretrained on: sentence pairs, or text without
a second segment.

There are three kinds, with the label that a classifier on [CLS] learns:

    nsp   [CLS] A [SEP] B [SEP]  B follows A (0) or is from another document (1);
                                 Devlin et al. 2019 (BERT)
    sop   [CLS] A [SEP] B [SEP]  A and B are in order (0) or swapped (1);
                                 Lan et al. 2020 (ALBERT)
    none  [CLS] A [SEP]          no label (0), full sentences;
                                 Liu et al. 2019 (RoBERTa)

Documents come as flat arrays and pairs leave as flat arrays, so that the loops compile (numba).
Every random choice is one draw `u` of `generator.random()`; an integer in [0, n) is `int(u * n)`.
tests/test_pairs.py has a plain version of each kind that makes the same pairs from the same draws.
"""

from __future__ import annotations

import collections
import dataclasses
import functools

import numpy as np

from tfrecords.compilation import compiled
from tfrecords.documents import Documents
from tfrecords.schema import PAIRS


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sequences without padding or masks: [CLS] A [SEP] B [SEP], or [CLS] A [SEP] of the kind
    "none".

    Args:
        tokens: int32 [number of tokens], all pairs one after the other.
        starts: int64 [N + 1]; pair n is tokens[starts[n] : starts[n + 1]].
        first_lengths: int32 [N]; the length of [CLS] A [SEP], which is segment 0; the rest, if any,
            is segment 1.
        labels: int32 [N]. nsp: 0 = B follows A, 1 = B is random. sop: 0 = in order, 1 = swapped.
            none: 0.
        num_truncated: nsp, sop: the number of pairs that lost tokens because they were too long.
            none: the number of sentences that were too long for one sequence and were split over
            several without loss, counted once per pass.
        num_dropped: sop: the number of chunks of a single token, which cannot be split in two and
            made no pair. nsp, none: 0.
    """

    tokens: np.ndarray
    starts: np.ndarray
    first_lengths: np.ndarray
    labels: np.ndarray
    num_truncated: int
    num_dropped: int

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int32 [N], the tokens of each pair."""
        return np.diff(self.starts).astype(np.int32)

    def batch(
        self, indices: np.ndarray, sequence_length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The pairs at `indices` (int64 [B]), padded with zeros: token_ids and segment_ids (int32
        [B, S]), lengths and labels (int32 [B])."""
        token_ids, segment_ids = _batch(
            self.tokens, self.starts, self.first_lengths, indices, sequence_length
        )
        return token_ids, segment_ids, self.lengths[indices], self.labels[indices]


@compiled
def _batch(tokens, starts, first_lengths, indices, sequence_length):
    token_ids = np.zeros((len(indices), sequence_length), np.int32)
    segment_ids = np.zeros((len(indices), sequence_length), np.int32)
    for row in range(len(indices)):
        n = indices[row]
        pair = tokens[starts[n] : starts[n + 1]]
        for position in range(len(pair)):
            token_ids[row, position] = pair[position]
            segment_ids[row, position] = position >= first_lengths[n]
    return token_ids, segment_ids


def make_pairs(
    documents: Documents,
    kind: str,
    sequence_length: int,
    short_sequence_probability: float,
    duplicates: int,
    cls_id: int,
    sep_id: int,
    generator: np.random.Generator,
) -> Pairs:
    """Makes `duplicates` passes over the documents, each of which packs all their sentences into
    sequences.

    "nsp", Devlin et al. 2019, appendix A.2, and create_pretraining_data.py of google-research/bert:
    sentences of a document are gathered until they reach a target length and split in two at a
    random place. Half of the time the second part is replaced by consecutive sentences of another
    document (its own sentences are then used next). Pairs that are too long lose tokens. One
    departure from Google's script: the other document is never the same one, where the script tries
    ten times and then takes what it has.

    "sop", Lan et al. 2020, section 3.1, and create_pretraining_data.py of google-research/albert:
    sentences are gathered, split in two and truncated in the same way, and half of the time the two
    parts are swapped. One departure: a chunk of only one sentence is split in two at a random
    token, where the script takes B from a random document and labels it as swapped. A chunk of a
    single token is dropped.

    "none", DOC-SENTENCES of Liu et al. 2019, section 4.2: full sentences of one document fill a
    sequence as far as they fit. No text is lost: a sentence longer than a sequence is split into
    parts of that length, and the last part starts the next sequence.

    The documents (7 8) (9) (5 6) and (4 4 4 4) (1) in sequences of 5, without a second segment:

    >>> documents = Documents.of([[[7, 8], [9], [5, 6]], [[4, 4, 4, 4], [1]]])
    >>> generator = np.random.default_rng(0)
    >>> pairs = make_pairs(documents, "none", 5, 0.0, 1, 2, 3, generator)
    >>> pairs.batch(np.arange(4), 5)[0]
    array([[2, 7, 8, 9, 3],
           [2, 5, 6, 3, 0],
           [2, 4, 4, 4, 3],
           [2, 4, 1, 3, 0]], dtype=int32)

    Args:
        documents: At least two for "nsp", since the random next sentence comes from another one;
            else at least one.
        kind: One of PAIRS.
        sequence_length: The longest sequence, special tokens included; at least 5.
        short_sequence_probability: The share of passes over a document whose target length is
            drawn from [2, longest].
        duplicates: The number of passes.
        cls_id: The id of [CLS].
        sep_id: The id of [SEP].
        generator: A np.random.Generator, the source of every draw.

    Returns:
        Pairs, in the order of the passes and documents.

    Raises:
        ValueError: The kind is unknown or the documents are too few.
    """
    if kind not in PAIRS:
        raise ValueError(f"Sentence pairs: expected one of {', '.join(PAIRS)}. Received: {kind!r}.")
    fewest = 2 if kind == "nsp" else 1
    if len(documents) < fewest:
        expected = "two documents" if fewest == 2 else "one document"
        raise ValueError(
            f"Sentence pairs: expected at least {expected}. Received: {len(documents)}."
        )
    make = {"nsp": _next_sentence_pairs, "sop": _sentence_order_pairs, "none": _full_sentences}[
        kind
    ]
    num_special_tokens = 2 if kind == "none" else 3  # pairs alone have a second [SEP]
    return Pairs(
        *make(
            documents.tokens,
            documents.sentence_starts,
            documents.document_starts,
            sequence_length - num_special_tokens,
            short_sequence_probability,
            duplicates,
            np.int32(cls_id),
            np.int32(sep_id),
            generator,
        )
    )


_Output = collections.namedtuple("_Output", "tokens starts first_lengths labels count")
"""The arrays of Pairs with room to grow, and the number of pairs in them."""


@compiled
def _empty_output():
    tokens, starts = np.empty(1 << 16, np.int32), np.zeros(1 << 10, np.int64)
    return _Output(tokens, starts, np.empty(1 << 10, np.int32), np.empty(1 << 10, np.int32), 0)


@compiled
def _emit(output, all_tokens, a_start, a_end, b_start, b_end, label, cls_id, sep_id):
    """Appends [CLS] A [SEP] B [SEP], or [CLS] A [SEP] if B is empty, and returns the output."""
    n = output.count
    at = output.starts[n]
    first_length = a_end - a_start + 2
    length = first_length + (b_end - b_start + 1 if b_end > b_start else 0)
    tokens = _grown(output.tokens, at + length)
    tokens[at] = cls_id
    tokens[at + 1 : at + first_length - 1] = all_tokens[a_start:a_end]
    tokens[at + first_length - 1] = sep_id
    if length > first_length:
        tokens[at + first_length : at + length - 1] = all_tokens[b_start:b_end]
        tokens[at + length - 1] = sep_id
    starts = _grown(output.starts, n + 2)
    first_lengths, labels = _grown(output.first_lengths, n + 1), _grown(output.labels, n + 1)
    starts[n + 1] = at + length
    first_lengths[n] = first_length
    labels[n] = label
    return _Output(tokens, starts, first_lengths, labels, n + 1)


@compiled
def _grown(array, size):
    if size <= len(array):
        return array
    larger = np.empty(max(size, len(array) + len(array) // 2), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def _filled(output):
    """The part of the arrays in use: views, since a copy would take the memory twice."""
    n = output.count
    return (
        output.tokens[: output.starts[n]],
        output.starts[: n + 1],
        output.first_lengths[:n],
        output.labels[:n],
    )


@compiled
def _below(generator, n):
    return int(generator.random() * n)


@compiled
def _target_length(max_tokens, short_probability, generator):
    if generator.random() < short_probability:
        return 2 + _below(generator, max_tokens - 1)
    return max_tokens


@compiled
def _run_end(sentence_starts, first, stop, target):
    """The end of the shortest run of sentences from `first` of `target` tokens, else `stop`."""
    end = first + 1
    while end < stop and sentence_starts[end] - sentence_starts[first] < target:
        end += 1
    return end


@compiled
def _truncate(a_start, a_end, b_start, b_end, max_tokens, generator):
    """Drops one token at a time from the longer part (B on ties), front or back with equal
    chance."""
    while (a_end - a_start) + (b_end - b_start) > max_tokens:
        front = generator.random() < 0.5
        if a_end - a_start > b_end - b_start:
            if front:
                a_start += 1
            else:
                a_end -= 1
        elif front:
            b_start += 1
        else:
            b_end -= 1
    return a_start, a_end, b_start, b_end


@compiled
def _next_sentence_pairs(
    tokens,
    sentence_starts,
    document_starts,
    max_tokens,
    short_probability,
    duplicates,
    cls_id,
    sep_id,
    generator,
):
    """The pairs of "nsp" as the fields of Pairs; see `make_pairs`. `max_tokens` is the most tokens
    of A and B together."""
    num_documents = len(document_starts) - 1
    output = _empty_output()
    num_truncated = 0
    for visit in range(duplicates * num_documents):
        document = visit % num_documents
        target = _target_length(max_tokens, short_probability, generator)
        chunk, stop = document_starts[document], document_starts[document + 1]
        while chunk < stop:
            # The chunk is sentences `chunk` to `end - 1`. Sentences are contiguous in tokens, and
            # so are the parts A and B: both are a start and an end, and nothing is copied yet.
            end = _run_end(sentence_starts, chunk, stop, target)
            cut = chunk + 1
            if end - chunk >= 2:
                cut += _below(generator, end - chunk - 1)
            a_start, a_end = sentence_starts[chunk], sentence_starts[cut]
            # B: a single sentence has no second part, so it always gets a random one, as in
            # Google's script; short documents therefore make more random pairs than half.
            is_random = end - chunk == 1 or generator.random() < 0.5
            if is_random:
                other = _below(generator, num_documents - 1)
                other += other >= document
                first, other_stop = document_starts[other], document_starts[other + 1]
                first += _below(generator, other_stop - first)
                b_start = sentence_starts[first]
                b_end = sentence_starts[
                    _run_end(sentence_starts, first, other_stop, target - (a_end - a_start))
                ]
                chunk = cut  # the sentences that B displaced go back
            else:
                b_start, b_end = a_end, sentence_starts[end]
                chunk = end
            # Runs of whole sentences end beyond the target, so that most pairs are cut to length.
            num_truncated += (a_end - a_start) + (b_end - b_start) > max_tokens
            a_start, a_end, b_start, b_end = _truncate(
                a_start, a_end, b_start, b_end, max_tokens, generator
            )
            output = _emit(
                output, tokens, a_start, a_end, b_start, b_end, is_random, cls_id, sep_id
            )
    return *_filled(output), num_truncated, 0


@compiled
def _sentence_order_pairs(
    tokens,
    sentence_starts,
    document_starts,
    max_tokens,
    short_probability,
    duplicates,
    cls_id,
    sep_id,
    generator,
):
    """The pairs of "sop"; arguments and result as of `_next_sentence_pairs`."""
    num_documents = len(document_starts) - 1
    output = _empty_output()
    num_truncated = num_dropped = 0
    for visit in range(duplicates * num_documents):
        document = visit % num_documents
        target = _target_length(max_tokens, short_probability, generator)
        end, stop = document_starts[document], document_starts[document + 1]
        while end < stop:
            chunk, end = end, _run_end(sentence_starts, end, stop, target)
            a_start, b_end = sentence_starts[chunk], sentence_starts[end]
            if b_end - a_start == 1:
                num_dropped += 1
                continue
            # Between two sentences, or inside of a single one, which has an order too.
            if end - chunk >= 2:
                cut = sentence_starts[chunk + 1 + _below(generator, end - chunk - 1)]
            else:
                cut = a_start + 1 + _below(generator, b_end - a_start - 1)
            a_end, b_start = cut, cut
            is_swapped = generator.random() < 0.5
            if is_swapped:
                a_start, a_end, b_start, b_end = b_start, b_end, a_start, a_end
            num_truncated += (a_end - a_start) + (b_end - b_start) > max_tokens
            a_start, a_end, b_start, b_end = _truncate(
                a_start, a_end, b_start, b_end, max_tokens, generator
            )
            output = _emit(
                output, tokens, a_start, a_end, b_start, b_end, is_swapped, cls_id, sep_id
            )
    return *_filled(output), num_truncated, num_dropped


@compiled
def _full_sentences(
    tokens,
    sentence_starts,
    document_starts,
    max_tokens,
    short_probability,
    duplicates,
    cls_id,
    sep_id,
    generator,
):
    """The sequences of "none"; arguments and result as of `_next_sentence_pairs`."""
    num_documents = len(document_starts) - 1
    output = _empty_output()
    num_truncated = 0
    for visit in range(duplicates * num_documents):
        document = visit % num_documents
        target = _target_length(max_tokens, short_probability, generator)
        start = sentence_starts[document_starts[document]]  # of the sequence, in tokens
        for sentence in range(document_starts[document], document_starts[document + 1]):
            sentence_start, end = sentence_starts[sentence], sentence_starts[sentence + 1]
            # This sentence does not fit behind those before it: they are a sequence.
            if end - start > target and start < sentence_start:
                output = _emit(output, tokens, start, sentence_start, 0, 0, 0, cls_id, sep_id)
                start = sentence_start
            # It does not fit even alone: full sequences of it, and the rest starts the next one.
            num_truncated += end - start > max_tokens
            while end - start > max_tokens:
                output = _emit(output, tokens, start, start + max_tokens, 0, 0, 0, cls_id, sep_id)
                start += max_tokens
        output = _emit(output, tokens, start, end, 0, 0, 0, cls_id, sep_id)
    return *_filled(output), num_truncated, 0
