"""The compiled loops of pairs.py: flat arrays of documents in, flat arrays of pairs out.

They are in one file, since numba's cache looks at the file of a function alone: a change to a
function that it calls in another file would go unnoticed."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from tfrecords.compilation import compiled

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
def _use(uses, start, end):
    """Notes that the tokens `start` to `end - 1` of the documents are in a pair. `uses` is int32
    [number of tokens + 1], by how much the number of their uses changes from token to token: a
    bitmap would take a write for every token of every pair."""
    uses[start] += 1
    uses[end] -= 1


@compiled
def _unused(uses):
    """How many tokens of the documents are in no pair."""
    unused = in_use = 0
    for n in range(len(uses) - 1):
        in_use += uses[n]
        unused += in_use == 0
    return unused


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
def next_sentence_pairs(
    tokens: np.ndarray,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    max_tokens: int,
    short_probability: float,
    visits: np.ndarray,
    cls_id: np.int32,
    sep_id: np.int32,
    generator: np.random.Generator,
    whole_starts: np.ndarray,
    whole_ends: np.ndarray,
) -> tuple[Any, ...]:
    """The pairs of "nsp" as the fields of Pairs; see `pairs.make_pairs`. `max_tokens` is the most
    tokens of A and B together; `whole_starts` and `whole_ends` are as of `Documents.whole`."""
    num_documents = len(document_starts) - 1
    output, uses = _empty_output(), np.zeros(len(tokens) + 1, np.int32)
    num_truncated = 0
    for document in visits:
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
                # Any document but this one, of which there may be several parts.
                parts = whole_ends[document] - whole_starts[document]
                other = _below(generator, num_documents - parts)
                if other >= whole_starts[document]:
                    other += parts
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
            _use(uses, a_start, a_end)
            _use(uses, b_start, b_end)
            output = _emit(
                output, tokens, a_start, a_end, b_start, b_end, is_random, cls_id, sep_id
            )
    return *_filled(output), num_truncated, 0, _unused(uses)


@compiled
def sentence_order_pairs(
    tokens: np.ndarray,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    max_tokens: int,
    short_probability: float,
    visits: np.ndarray,
    cls_id: np.int32,
    sep_id: np.int32,
    generator: np.random.Generator,
) -> tuple[Any, ...]:
    """The pairs of "sop"; arguments and result as of `next_sentence_pairs`."""
    output, uses = _empty_output(), np.zeros(len(tokens) + 1, np.int32)
    num_truncated = num_dropped = 0
    for document in visits:
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
            _use(uses, a_start, a_end)
            _use(uses, b_start, b_end)
            output = _emit(
                output, tokens, a_start, a_end, b_start, b_end, is_swapped, cls_id, sep_id
            )
    return *_filled(output), num_truncated, num_dropped, _unused(uses)


@compiled
def full_sentences(
    tokens: np.ndarray,
    sentence_starts: np.ndarray,
    document_starts: np.ndarray,
    max_tokens: int,
    short_probability: float,
    visits: np.ndarray,
    cls_id: np.int32,
    sep_id: np.int32,
    generator: np.random.Generator,
) -> tuple[Any, ...]:
    """The sequences of "none"; arguments and result as of `next_sentence_pairs`."""
    output = _empty_output()
    num_truncated = 0
    for document in visits:
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
    return *_filled(output), num_truncated, 0, 0  # every token is in a sequence
