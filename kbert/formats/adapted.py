"""A pretrained model's weights for another vocabulary, and for more or fewer positions."""

from __future__ import annotations

import dataclasses

import numpy as np

from kbert.formats.pretrained import PER_TOKEN, Pretrained
from kbert.model.initializers import kernel_initializer
from tfrecords import Normalization, Vocabulary
from tfrecords.vocabulary import split_word

_ROWS, _BIAS = PER_TOKEN
_POSITIONS = "embeddings/position_embeddings"


@dataclasses.dataclass(frozen=True)
class Origins:
    """Where the embedding of every token of a new vocabulary comes from."""

    sources: list[list[int]]
    """For every new id the old ids whose mean it starts from: one for a token that both
    vocabularies have; none for one whose text the old vocabulary has no tokens for."""
    copied: int
    """Tokens of both vocabularies."""
    dropped: int
    """Tokens that only the old one has."""

    @property
    def random(self) -> int:
        """New tokens that start from random numbers."""
        return sum(not source for source in self.sources)

    def __str__(self) -> str:
        means = len(self.sources) - self.copied - self.random
        return (
            f"{self.copied:,} tokens copied, {means:,} new as means of old ones, "
            f"{self.random:,} random, {self.dropped:,} dropped"
        )


def origins(old: Vocabulary, new: Vocabulary, normalization: Normalization) -> Origins:
    """Where the embeddings of another vocabulary come from.

    A new token has those of the tokens that its text had before: "##ing" is split as the rest of a
    word, or, where that has no match, as a word.

    >>> special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    >>> old = Vocabulary((*special, "run", "##n", "##er", "a"))
    >>> new = Vocabulary((*special, "runner", "##ner", "##run", "run", "x"))
    >>> found = origins(old, new, Normalization(cased=False))
    >>> found.sources[5:], str(found)
    ([[5, 6, 7], [6, 7], [5], [5], []], '6 tokens copied, 3 new as means of old ones, \
1 random, 3 dropped')

    Args:
        old: The vocabulary that there are embeddings for.
        new: The one that embeddings are wanted for.
        normalization: How the old model's texts are normalized.
    """
    fresh = [token for token in new.tokens if token not in old.ids]
    texts = {token: normalization.words(token.removeprefix("##") or token) for token in fresh}
    longest = max(map(len, old.tokens))

    def split(token: str) -> list[int]:
        # As the rest of a word first if that is what the token is; else the other way round.
        is_rest = token.startswith("##")
        for rest in (is_rest, not is_rest):
            pieces = [
                piece
                for index, word in enumerate(texts[token])
                for piece in split_word(word, old.ids, longest, continuing=rest and not index)
            ]
            if all(piece in old.ids for piece in pieces):
                return [old.ids[piece] for piece in pieces]
        return []

    sources = [[old.ids[token]] if token in old.ids else split(token) for token in new.tokens]
    copied = len(new) - len(fresh)
    return Origins(sources, copied=copied, dropped=len(old) - copied)


def with_vocabulary(
    pretrained: Pretrained,
    vocabulary: Vocabulary,
    found: Origins,
    *,
    normalization: Normalization,
    seed: int,
) -> Pretrained:
    """The model for another vocabulary: rows of embeddings and output biases are copied and
    averaged as their `origins` say.

    Means keep the new tokens as probable as their text was; a row that is random starts as that of
    a new model, with the mean of all biases.

    Args:
        pretrained: The model.
        vocabulary: The vocabulary to give it.
        found: The `origins` of its tokens.
        normalization: How texts are normalized from now on.
        seed: Of the random rows.
    """
    bert = dataclasses.replace(pretrained.bert, vocabulary_size=len(vocabulary))
    weights = dict(pretrained.weights)
    initializer = kernel_initializer(bert.initializer_range, seed, _ROWS)
    rows = np.array(initializer((len(vocabulary), bert.hidden_size), "float32"))
    weights[_ROWS] = _means(weights[_ROWS], found, rows)
    if _BIAS in weights:
        start = np.full(len(vocabulary), weights[_BIAS].mean(dtype=np.float64), np.float32)
        weights[_BIAS] = _means(weights[_BIAS], found, start)
    return dataclasses.replace(
        pretrained,
        bert=bert,
        weights=weights,
        vocabulary=vocabulary,
        normalization=normalization,
    )


def _means(old: np.ndarray, found: Origins, start: np.ndarray) -> np.ndarray:
    """`start` [V, ...] with the mean of the old rows that each row comes from, where there are
    any."""
    for row, source in enumerate(found.sources):
        if source:
            start[row] = old[source].mean(axis=0)
    return start


def with_positions(pretrained: Pretrained, max_positions: int) -> Pretrained:
    """The model with another number of positions: the first of the old ones, or, beyond their
    number N, position p as a copy of p modulo N.

    As copies, the new ones are at the right distances of each other from the start."""
    positions = pretrained.weights[_POSITIONS]
    weights = pretrained.weights | {
        _POSITIONS: positions[np.arange(max_positions) % len(positions)]
    }
    return dataclasses.replace(
        pretrained,
        bert=dataclasses.replace(pretrained.bert, max_positions=max_positions),
        weights=weights,
        sequence_length=min(pretrained.sequence_length, max_positions),
    )
