"""Tokenized documents as flat arrays, the form that compiled loops and files take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

SAMPLED_DOCUMENTS = 1 << 18
"""The most different documents that are compared to find copies: of more, their count is an
estimate."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """Tokenized documents, flat.

    Two documents, the first of the sentences (7 8) and (9), the second of (5 5):

        tokens           7 8 9 5 5
        sentence_starts  0 2 3 5
        document_starts  0 2 3

    Sentence k is tokens[sentence_starts[k] : sentence_starts[k + 1]]; document d is the sentences
    document_starts[d] to document_starts[d + 1] - 1.

    Args:
        tokens: int32 [number of tokens].
        sentence_starts: int64 [number of sentences + 1].
        document_starts: int64 [number of documents + 1]. No sentence and no document is empty.
        weights: int32 [number of documents], how many times as often as others each is passed over;
            None: all alike.
        firsts: int64 [number of documents]. A document that was too long is cut into parts, which
            stand here one after the other, as documents: the number of the first part, counted from
            the first of these documents or of the whole corpus; negative if that is not here. Equal
            for all parts of a document. None: none is cut.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray
    weights: np.ndarray | None = None
    firsts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.document_starts) - 1

    @classmethod
    def of(cls, documents: Sequence[Sequence[Sequence[int]]]) -> Documents:
        """Flattens documents, each a list of sentences, each a sequence of ids.

        >>> Documents.of([[[7, 8], [9]], [[5, 5]]]).sentence_starts
        array([0, 2, 3, 5])
        """
        sentences = [sentence for document in documents for sentence in document]
        return cls(
            tokens=np.concatenate(
                [np.zeros(0, np.int32), *(np.asarray(s, np.int32) for s in sentences)]
            ),
            sentence_starts=starts_of([len(sentence) for sentence in sentences]),
            document_starts=starts_of([len(document) for document in documents]),
        )

    @classmethod
    def of_lengths(
        cls,
        tokens: np.ndarray,
        sentence_lengths: np.ndarray,
        document_lengths: np.ndarray,
        weights: np.ndarray | None = None,
        firsts: np.ndarray | None = None,
    ) -> Documents:
        """Documents from the lengths of sentences in tokens and of documents in sentences (int [n]
        each)."""
        return cls(
            tokens, starts_of(sentence_lengths), starts_of(document_lengths), weights, firsts
        )

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """Of which run of these documents, `start` to `end` - 1, each is a part (int64 [number of
        documents] each): of itself alone unless a document is cut."""
        numbers = np.arange(len(self))
        if self.firsts is None or not len(self):
            return numbers, numbers + 1
        starts = np.flatnonzero(np.diff(self.firsts, prepend=self.firsts[0] - 1))
        lengths = np.diff(starts, append=len(self))
        return np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)

    def select(self, indices: np.ndarray) -> Documents:
        """The documents at `indices` (int [n]), in that order."""
        sentences = ranges(self.document_starts, indices)
        return Documents(
            tokens=self.tokens[ranges(self.sentence_starts, sentences)],
            sentence_starts=starts_of(np.diff(self.sentence_starts)[sentences]),
            document_starts=starts_of(np.diff(self.document_starts)[indices]),
            weights=None if self.weights is None else self.weights[indices],
            firsts=None if self.firsts is None else self.firsts[indices],
        )


def starts_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where runs of these lengths begin, one after the other, and the last one ends: int64 [n + 1].

    >>> starts_of([2, 1, 2])
    array([0, 2, 3, 5])
    """
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])


def ranges(starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Concatenates the ranges starts[i] to starts[i + 1] - 1 for i in `indices`.

    >>> ranges(np.array([0, 2, 3, 5]), np.array([2, 0]))
    array([3, 4, 0, 1])
    """
    lengths = (starts[1:] - starts[:-1])[indices]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts[:-1][indices] - (ends - lengths), lengths)
