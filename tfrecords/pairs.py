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

import dataclasses
import functools

import numpy as np

from tfrecords.compilation import compiled
from tfrecords.documents import Documents
from tfrecords.pair_loops import full_sentences, next_sentence_pairs, sentence_order_pairs
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
        num_unused: The tokens of the documents that are in no pair of any pass, neither in the text
            they are from nor as somebody's random B: what was truncated and dropped every time.
    """

    tokens: np.ndarray
    starts: np.ndarray
    first_lengths: np.ndarray
    labels: np.ndarray
    num_truncated: int
    num_dropped: int
    num_unused: int

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
        documents: At least two for "nsp", since the random next sentence comes from another one,
            and parts of one document are one; else at least one.
        kind: One of PAIRS.
        sequence_length: The longest sequence, special tokens included; at least 5.
        short_sequence_probability: The share of passes over a document whose target length is
            drawn from [2, longest].
        duplicates: The number of passes, over documents with weights times their weight.
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
    whole_starts, whole_ends = documents.whole()
    number = len(np.unique(whole_starts))
    if number < fewest:
        expected = "two documents" if fewest == 2 else "one document"
        raise ValueError(f"Sentence pairs: expected at least {expected}. Received: {number}.")
    make = {"nsp": next_sentence_pairs, "sop": sentence_order_pairs, "none": full_sentences}[kind]
    num_special_tokens = 2 if kind == "none" else 3  # pairs alone have a second [SEP]
    return Pairs(
        *make(
            documents.tokens,
            documents.sentence_starts,
            documents.document_starts,
            sequence_length - num_special_tokens,
            short_sequence_probability,
            _visits(documents, duplicates),
            np.int32(cls_id),
            np.int32(sep_id),
            generator,
            *((whole_starts, whole_ends) if kind == "nsp" else ()),
        )
    )


def _visits(documents: Documents, duplicates: int) -> np.ndarray:
    """The numbers of the documents in the order in which they are passed over: int64 [visits]."""
    numbers = np.arange(len(documents))
    if documents.weights is None:
        return np.tile(numbers, duplicates)
    passes = duplicates * documents.weights
    return np.concatenate([numbers[passes > number] for number in range(passes.max())])
