"""Sentence pairs with a next-sentence label: the algorithm of google-research/bert (create_pretraining_data.py).

Documents arrive as flat arrays and pairs leave as flat arrays, so that the loops compile (numba). Every random choice is one
draw `u` of `generator.random()`; an integer in [0, n) is `int(u * n)`. A plain version that is fed the same draws gives
the same pairs; one stands in tests/test_pairs.py.
"""

import dataclasses

import numpy as np

from tfrecords.compilation import compiled

NUM_SPECIAL_TOKENS = 3
"""[CLS] A [SEP] B [SEP]."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """Tokenized documents, flat.

    Two documents, the first of the sentences (7 8) and (9), the second of (5 5):

        tokens           7 8 9 5 5
        sentence_starts  0 2 3 5      sentence k is tokens[sentence_starts[k] : sentence_starts[k + 1]]
        document_starts  0 2 3        document d is sentences document_starts[d] to document_starts[d + 1] - 1

    Args:
        tokens: int32 [number of tokens].
        sentence_starts: int64 [number of sentences + 1].
        document_starts: int64 [number of documents + 1]. No sentence and no document is empty.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray

    def __len__(self):
        return len(self.document_starts) - 1

    @classmethod
    def of(cls, documents):
        """Flattens documents: a list of documents, each a list of sentences, each a sequence of ids.

        >>> Documents.of([[[7, 8], [9]], [[5, 5]]]).sentence_starts
        array([0, 2, 3, 5])
        """
        sentences = [sentence for document in documents for sentence in document]
        return cls(
            tokens=np.concatenate([np.zeros(0, np.int32), *(np.asarray(s, np.int32) for s in sentences)]),
            sentence_starts=_starts([len(sentence) for sentence in sentences]),
            document_starts=_starts([len(document) for document in documents]),
        )

    def select(self, indices):
        """The documents at `indices` (int [n]), in that order."""
        sentences = _ranges(self.document_starts, indices)
        return Documents(
            tokens=self.tokens[_ranges(self.sentence_starts, sentences)],
            sentence_starts=_starts(np.diff(self.sentence_starts)[sentences]),
            document_starts=_starts(np.diff(self.document_starts)[indices]),
        )


def _starts(lengths):
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])


def _ranges(starts, indices):
    """Concatenates the ranges starts[i] to starts[i + 1] - 1 for i in `indices`."""
    lengths = (starts[1:] - starts[:-1])[indices]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts[:-1][indices] - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentence pairs without padding or masks: [CLS] A [SEP] B [SEP].

    Args:
        tokens: int32 [number of tokens], all pairs one after the other.
        starts: int64 [N + 1]; pair n is tokens[starts[n] : starts[n + 1]].
        first_lengths: int32 [N]; the length of [CLS] A [SEP], which is segment 0; the rest is segment 1.
        labels: int32 [N]; 0 = B follows A, 1 = B is random.
        num_truncated: How many of the pairs lost tokens because they were too long.
    """

    tokens: np.ndarray
    starts: np.ndarray
    first_lengths: np.ndarray
    labels: np.ndarray
    num_truncated: int

    def __len__(self):
        return len(self.labels)

    @property
    def lengths(self):
        return np.diff(self.starts).astype(np.int32)

    def batch(self, indices, sequence_length):
        """The pairs at `indices` (int [B]), padded with zeros: token_ids and segment_ids (int32 [B, S]), lengths and labels."""
        position = np.arange(sequence_length)
        lengths = self.lengths[indices]
        inside = position < lengths[:, None]
        token_ids = np.zeros(inside.shape, np.int32)
        token_ids[inside] = self.tokens[_ranges(self.starts, indices)]
        segment_ids = (inside & (position >= self.first_lengths[indices][:, None])).astype(np.int32)
        return token_ids, segment_ids, lengths, self.labels[indices]


def sentence_pairs(documents, sequence_length, short_sequence_probability, duplicates, cls_id, sep_id, generator):
    """Makes `duplicates` passes over the documents, each of which packs all their sentences into pairs.

    Sentences of a document gather until they reach a target length, are cut in two at a random place, and half of the
    time the second part gives way to a run of sentences of another document (its own sentences then go back to be used
    next). Devlin et al. 2019, appendix A.2. One departure from Google's script: the other document is never the same
    one, where the script tries ten times and then takes what it has.

    Args:
        documents: Documents, at least two, since the random next sentence comes from another one.
        sequence_length: The longest pair, special tokens included; at least 5.
        short_sequence_probability: The share of passes over a document with a target drawn from [2, longest].
        duplicates: The number of passes.
        cls_id: The id of [CLS].
        sep_id: The id of [SEP].
        generator: A np.random.Generator, the source of every draw.

    Returns:
        Pairs, in the order of the passes and documents.

    Raises:
        ValueError: There are fewer than two documents.
    """
    if len(documents) < 2:
        raise ValueError(f"Sentence pairs: expected at least two documents. Received: {len(documents)}.")
    return Pairs(
        *_sentence_pairs(
            documents.tokens,
            documents.sentence_starts,
            documents.document_starts,
            sequence_length - NUM_SPECIAL_TOKENS,
            short_sequence_probability,
            duplicates,
            np.int32(cls_id),
            np.int32(sep_id),
            generator,
        )
    )


@compiled
def _below(generator, n):
    return int(generator.random() * n)


@compiled
def _grown(array, size):
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def _truncate(a_start, a_end, b_start, b_end, max_tokens, generator):
    """Drops one token at a time from the longer part (B on ties), front or back with equal chance."""
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
def _sentence_pairs(
    tokens, sentence_starts, document_starts, max_tokens, short_probability, duplicates, cls_id, sep_id, generator
):
    num_documents = len(document_starts) - 1
    out = np.empty(1 << 16, np.int32)
    starts = np.zeros(1 << 10, np.int64)
    first_lengths = np.empty(1 << 10, np.int32)
    labels = np.empty(1 << 10, np.int32)
    count = num_truncated = 0
    for visit in range(duplicates * num_documents):
        document = visit % num_documents
        last = document_starts[document + 1] - 1
        target = max_tokens
        if generator.random() < short_probability:
            target = 2 + _below(generator, max_tokens - 1)
        chunk = sentence = document_starts[document]
        while sentence <= last:
            # The chunk is sentences chunk to sentence; sentences are contiguous in tokens, and so are the parts A and B.
            if sentence < last and sentence_starts[sentence + 1] - sentence_starts[chunk] < target:
                sentence += 1
                continue
            num_sentences = sentence - chunk + 1
            cut = chunk + 1
            if num_sentences >= 2:
                cut += _below(generator, num_sentences - 1)
            a_start, a_end = sentence_starts[chunk], sentence_starts[cut]
            is_random = num_sentences == 1 or generator.random() < 0.5
            if is_random:
                other = _below(generator, num_documents - 1)
                other += other >= document
                first = document_starts[other] + _below(generator, document_starts[other + 1] - document_starts[other])
                end = first + 1
                while end < document_starts[other + 1] and (
                    sentence_starts[end] - sentence_starts[first] < target - (a_end - a_start)
                ):
                    end += 1
                b_start, b_end = sentence_starts[first], sentence_starts[end]
                sentence = cut  # the sentences that B displaced go back
            else:
                b_start, b_end = a_end, sentence_starts[sentence + 1]
                sentence += 1
            chunk = sentence
            num_truncated += (a_end - a_start) + (b_end - b_start) > max_tokens
            a_start, a_end, b_start, b_end = _truncate(a_start, a_end, b_start, b_end, max_tokens, generator)

            at = starts[count]
            a_length, b_length = a_end - a_start, b_end - b_start
            out = _grown(out, at + a_length + b_length + 3)
            out[at] = cls_id
            out[at + 1 : at + 1 + a_length] = tokens[a_start:a_end]
            out[at + 1 + a_length] = sep_id
            out[at + 2 + a_length : at + 2 + a_length + b_length] = tokens[b_start:b_end]
            out[at + 2 + a_length + b_length] = sep_id
            first_lengths, labels = _grown(first_lengths, count + 1), _grown(labels, count + 1)
            first_lengths[count] = a_length + 2
            labels[count] = is_random
            count += 1
            starts = _grown(starts, count + 1)
            starts[count] = at + a_length + b_length + 3
    return out[: starts[count]].copy(), starts[: count + 1].copy(), first_lengths[:count], labels[:count], num_truncated
