"""Each kind of pairs against a plain version of its algorithm, and against what must hold of
them."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from tfrecords.documents import Documents
from tfrecords.pairs import PAIRS, make_pairs

CLS, SEP = 2, 3


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


def plain_nsp(documents, sequence_length, short_sequence_probability, duplicates, draw):
    """create_instances_from_document of google-research/bert with lists.

    Returns (tokens, segments, label) of every pair, how many lost tokens and how many were dropped,
    as all plain versions."""

    def below(n):
        return int(draw() * n)

    max_tokens = sequence_length - 3
    pairs, num_truncated = [], 0
    for index, document in list(enumerate(documents)) * duplicates:
        target = max_tokens
        if draw() < short_sequence_probability:
            target = 2 + below(max_tokens - 1)
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                a_end = 1 + below(len(chunk) - 1) if len(chunk) >= 2 else 1
                a = [token for sentence in chunk[:a_end] for token in sentence]
                is_random = len(chunk) == 1 or draw() < 0.5
                if is_random:
                    other = below(len(documents) - 1)
                    other = documents[other + 1 if other >= index else other]
                    b = []
                    for sentence in other[below(len(other)) :]:
                        b.extend(sentence)
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - a_end
                else:
                    b = [token for sentence in chunk[a_end:] for token in sentence]
                num_truncated += len(a) + len(b) > max_tokens
                pairs.append(plain_pair(a, b, is_random, max_tokens, draw))
                chunk = []
            i += 1
    return pairs, num_truncated, 0


def plain_sop(documents, sequence_length, short_sequence_probability, duplicates, draw):
    """create_instances_from_document of google-research/albert with lists, but for chunks of one
    sentence."""

    def below(n):
        return int(draw() * n)

    max_tokens = sequence_length - 3
    pairs, num_truncated, num_dropped = [], 0, 0
    for document in documents * duplicates:
        target = max_tokens
        if draw() < short_sequence_probability:
            target = 2 + below(max_tokens - 1)
        chunk = []
        for i, sentence in enumerate(document):
            chunk.append(sentence)
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                # The units that are cut between: sentences, or the tokens of the only one.
                units = chunk if len(chunk) >= 2 else [[token] for token in sentence]
                if len(units) >= 2:
                    a_end = 1 + below(len(units) - 1)
                    a, b = (
                        list(itertools.chain(*units[:a_end])),
                        list(itertools.chain(*units[a_end:])),
                    )
                    is_swapped = draw() < 0.5
                    if is_swapped:
                        a, b = b, a
                    num_truncated += len(a) + len(b) > max_tokens
                    pairs.append(plain_pair(a, b, is_swapped, max_tokens, draw))
                else:
                    num_dropped += 1
                chunk = []
    return pairs, num_truncated, num_dropped


def plain_none(documents, sequence_length, short_sequence_probability, duplicates, draw):
    """Full sentences that do not cross documents, with lists."""
    longest = sequence_length - 2
    sequences, num_cut = [], 0
    for document in documents * duplicates:
        target = longest
        if draw() < short_sequence_probability:
            target = 2 + int(draw() * (longest - 1))
        packed = [[]]
        for sentence in document:
            pieces = [sentence[i : i + longest] for i in range(0, len(sentence), longest)]
            num_cut += len(pieces) > 1
            if len(packed[-1]) + len(sentence) <= target:
                packed[-1] = packed[-1] + sentence
            else:
                packed.extend(pieces)
        sequences += [([CLS, *text, SEP], [0] * (len(text) + 2), 0) for text in packed if text]
    return sequences, num_cut, 0


PLAIN = {"nsp": plain_nsp, "sop": plain_sop, "none": plain_none}


def plain_pair(a, b, label, max_tokens, draw):
    """Cuts A and B to length: one token at a time from the longer one (B on ties), front or
    back."""
    while len(a) + len(b) > max_tokens:
        front = draw() < 0.5
        longer = a if len(a) > len(b) else b
        if front:
            del longer[0]
        else:
            longer.pop()
    return [CLS, *a, SEP, *b, SEP], [0] * (len(a) + 2) + [1] * (len(b) + 1), int(label)


def numbered(lengths):
    """Documents with these sentence lengths whose tokens are 10, 11, 12, ... throughout, and the
    document of each token."""
    documents, token = [], 10
    for sentences in lengths:
        document = []
        for length in sentences:
            document.append(list(range(token, token + length)))
            token += length
        documents.append(document)
    owners = np.full(token, -1)
    for index, document in enumerate(documents):
        owners[document[0][0] : document[-1][-1] + 1] = index
    return documents, owners


def ragged(seed, num_documents=23, longest=17):
    """Documents of 1 to 7 sentences; among them one of a single token, one of a single sentence and
    a very long sentence."""
    draw = np.random.default_rng(seed)
    lengths = [
        draw.integers(1, longest + 1, draw.integers(1, 8)).tolist() for _ in range(num_documents)
    ]
    lengths[5], lengths[7], lengths[11] = [1], [longest], [1, 101, 2]
    return numbered(lengths)


def corpora(kind):
    """Corpora of unlike shapes, as lists of lists of lists."""
    shapes = {
        "one-token sentences": [[1] * n for n in (1, 2, 3, 31, 67)],
        "one-sentence documents": [[n] for n in (1, 2, 3, 4, 5, 6, 7, 11, 13, 67)],
        "very long sentences": [[1, 1009, 1], [257, 257], [2, 3, 521]],
        "two documents": [[5, 7, 11], [1]],
    }
    if kind != "nsp":
        shapes |= {
            "one document": [[3, 1, 17, 5, 2, 41, 1]],
            "one sentence": [[7]],
            "one token": [[1]],
        }
    return [ragged(seed)[0] for seed in range(5)] + [
        numbered(lengths)[0] for lengths in shapes.values()
    ]


def make(documents, sequence_length=29, short=0.1, duplicates=1, seed=0, kind="nsp"):
    return make_pairs(
        Documents.of(documents), kind, sequence_length, short, duplicates, CLS, SEP, generator(seed)
    )


def split(pairs, n):
    """A and B of pair n (of two segments) without [CLS] and [SEP], as arrays."""
    tokens = pairs.tokens[pairs.starts[n] : pairs.starts[n + 1]]
    first = pairs.first_lengths[n]
    assert (tokens[0], tokens[first - 1], tokens[-1]) == (CLS, SEP, SEP)
    return tokens[1 : first - 1], tokens[first:-1]


def texts(pairs):
    """The sequences (of one segment) without [CLS] and [SEP], as arrays."""
    return [pairs.tokens[start + 1 : end - 1] for start, end in itertools.pairwise(pairs.starts)]


def test_documents_are_flat():
    documents = Documents.of([[[7, 8], [9]], [[5, 5, 6]], [[4]]])
    assert documents.tokens.tolist() == [7, 8, 9, 5, 5, 6, 4]
    assert documents.sentence_starts.tolist() == [0, 2, 3, 6, 7]
    assert documents.document_starts.tolist() == [0, 2, 3, 4]
    assert len(documents) == 3


def test_documents_are_selected_in_the_order_asked_for():
    documents = [[[7, 8], [9]], [[5, 5, 6]], [[4]], [[3], [2, 1], [0]]]
    for indices in ([3, 0], [1], [0, 1, 2, 3], [2, 2], []):
        selected, expected = (
            Documents.of(documents).select(np.array(indices, int)),
            Documents.of([documents[i] for i in indices]),
        )
        assert selected.tokens.tolist() == expected.tokens.tolist()
        assert selected.sentence_starts.tolist() == expected.sentence_starts.tolist()
        assert selected.document_starts.tolist() == expected.document_starts.tolist()


def test_small_case_in_full():
    # Each document is one sentence, so every B is random, and there is but one other document to
    # take it from.
    pairs = make([[[11, 12, 13]], [[21, 22]]], sequence_length=11, short=0.0, duplicates=2)
    expected = [[CLS, 11, 12, 13, SEP, 21, 22, SEP], [CLS, 21, 22, SEP, 11, 12, 13, SEP]] * 2
    assert pairs.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert pairs.starts.tolist() == [0, 8, 16, 24, 32]
    assert pairs.first_lengths.tolist() == [5, 4, 5, 4]
    assert pairs.labels.tolist() == [1, 1, 1, 1]
    assert pairs.lengths.tolist() == [8, 8, 8, 8]
    assert (pairs.num_truncated, pairs.num_dropped) == (0, 0)
    assert (pairs.tokens.dtype, pairs.first_lengths.dtype, pairs.labels.dtype) == (
        np.int32,
        np.int32,
        np.int32,
    )


def test_small_case_of_sentence_order_in_full():
    # One cut is possible in each, and the one token of the last document is no pair; the seed swaps
    # the last pair only.
    pairs = make(
        [[[11, 12, 13], [14]], [[21, 22]], [[31]]],
        sequence_length=11,
        short=0.0,
        duplicates=2,
        seed=2,
        kind="sop",
    )
    expected = [
        [CLS, 11, 12, 13, SEP, 14, SEP],
        [CLS, 21, SEP, 22, SEP],
        [CLS, 11, 12, 13, SEP, 14, SEP],
        [CLS, 22, SEP, 21, SEP],
    ]
    assert pairs.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert pairs.starts.tolist() == [0, 7, 12, 19, 24]
    assert pairs.first_lengths.tolist() == [5, 3, 5, 3]
    assert pairs.labels.tolist() == [0, 0, 0, 1]
    assert (pairs.num_truncated, pairs.num_dropped) == (0, 2)
    assert (pairs.tokens.dtype, pairs.first_lengths.dtype, pairs.labels.dtype) == (
        np.int32,
        np.int32,
        np.int32,
    )


def test_small_case_without_a_second_segment_in_full():
    # Five tokens fit: the third sentence does not any more, the fourth is cut in three of which the
    # last takes in the fifth.
    documents = [[[11, 12], [13, 14], [15, 16], [*range(20, 31)], [17, 18, 19, 10], [5]], [[6]]]
    pairs = make(documents, sequence_length=7, short=0.0, duplicates=2, kind="none")
    expected = [
        [CLS, 11, 12, 13, 14, SEP],
        [CLS, 15, 16, SEP],
        [CLS, 20, 21, 22, 23, 24, SEP],
        [CLS, 25, 26, 27, 28, 29, SEP],
        [CLS, 30, 17, 18, 19, 10, SEP],
        [CLS, 5, SEP],
        [CLS, 6, SEP],
    ] * 2
    assert pairs.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert pairs.starts.tolist() == [0, 6, 10, 17, 24, 31, 34, 37, 43, 47, 54, 61, 68, 71, 74]
    assert pairs.first_lengths.tolist() == [6, 4, 7, 7, 7, 3, 3] * 2
    assert pairs.labels.tolist() == [0] * 14
    assert (pairs.num_truncated, pairs.num_dropped) == (2, 0)
    assert (pairs.tokens.dtype, pairs.first_lengths.dtype, pairs.labels.dtype) == (
        np.int32,
        np.int32,
        np.int32,
    )
    token_ids, segment_ids, lengths, _ = pairs.batch(np.array([4, 1]), 7)
    assert token_ids.tolist() == [[CLS, 30, 17, 18, 19, 10, SEP], [CLS, 15, 16, SEP, 0, 0, 0]]
    assert segment_ids.tolist() == [[0] * 7] * 2
    assert lengths.tolist() == [7, 4]


def test_batch_pads_and_separates_the_segments():
    pairs = make([[[11, 12, 13]], [[21]]], sequence_length=11, short=0.0)
    token_ids, segment_ids, lengths, labels = pairs.batch(np.array([1, 0, 1]), 11)
    assert token_ids.tolist() == [
        [CLS, 21, SEP, 11, 12, 13, SEP, 0, 0, 0, 0],
        [CLS, 11, 12, 13, SEP, 21, SEP, 0, 0, 0, 0],
        [CLS, 21, SEP, 11, 12, 13, SEP, 0, 0, 0, 0],
    ]
    assert segment_ids.tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0],
        [0] * 5 + [1, 1] + [0] * 4,
        [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0],
    ]
    assert lengths.tolist() == [7, 7, 7]
    assert labels.tolist() == [1, 1, 1]
    assert token_ids.dtype == segment_ids.dtype == lengths.dtype == np.int32


@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("sequence_length", [5, 6, 7, 13, 29, 67, 257])
@pytest.mark.parametrize("kind", PAIRS)
def test_same_draws_give_the_pairs_of_the_plain_version(kind, sequence_length, short):
    for (seed, documents), duplicates in itertools.product(enumerate(corpora(kind)), (1, 3)):
        first, second = generator(seed), generator(seed)
        expected, num_truncated, num_dropped = PLAIN[kind](
            documents, sequence_length, short, duplicates, first.random
        )
        pairs = make_pairs(
            Documents.of(documents), kind, sequence_length, short, duplicates, CLS, SEP, second
        )
        token_ids, segment_ids, lengths, labels = pairs.batch(
            np.arange(len(pairs)), sequence_length
        )
        assert len(pairs) == len(expected)
        for n, (tokens, segments, label) in enumerate(expected):
            padding = [0] * (sequence_length - len(tokens))
            assert token_ids[n].tolist() == tokens + padding
            assert segment_ids[n].tolist() == segments + padding
            assert (lengths[n], labels[n]) == (len(tokens), label)
        assert (pairs.num_truncated, pairs.num_dropped) == (num_truncated, num_dropped)
        # Every token is unlike every other one, so that those in no pair can be told.
        every = {token for document in documents for sentence in document for token in sentence}
        there = {token for tokens, _, _ in expected for token in tokens}
        assert pairs.num_unused == len(every - there)
        # The generator is left where the plain version leaves it.
        assert first.random() == second.random()


@pytest.mark.parametrize("kind", PAIRS)
def test_more_pairs_than_the_first_buffers_hold(kind):
    documents, _ = ragged(2, num_documents=401, longest=31)
    expected, *_ = PLAIN[kind](documents, 29, 0.1, 7, generator(2).random)
    pairs = make(documents, 29, 0.1, 7, 2, kind=kind)
    assert len(pairs) == len(expected) > 4096
    assert len(pairs.tokens) > 1 << 17
    assert pairs.tokens.tolist() == [token for tokens, _, _ in expected for token in tokens]
    assert pairs.starts.tolist() == [0, *np.cumsum([len(tokens) for tokens, _, _ in expected])]
    assert pairs.labels.tolist() == [label for _, _, label in expected]


@pytest.mark.parametrize("kind", PAIRS)
def test_same_seed_same_pairs_other_seed_other_pairs(kind):
    documents, _ = ragged(3)
    first, again, other = (make(documents, short=0.5, seed=seed, kind=kind) for seed in (1, 1, 2))
    assert first.tokens.tobytes() == again.tokens.tobytes()
    assert first.starts.tobytes() == again.starts.tobytes()
    assert first.tokens.tobytes() != other.tokens.tobytes()


def test_a_and_b_are_runs_of_text_and_only_true_neighbours_have_label_0():
    documents, owners = ragged(4)
    pairs = make(documents, sequence_length=29, duplicates=257)
    assert len(pairs) > 10_000
    assert pairs.lengths.max() == 29
    assert pairs.lengths.min() >= 5
    for n in range(len(pairs)):
        a, b = split(pairs, n)
        assert (np.diff(a) == 1).all()
        assert (np.diff(b) == 1).all()
        assert owners[a[0]] == owners[a[-1]]
        assert owners[b[0]] == owners[b[-1]]
        if pairs.labels[n] == 1:
            assert owners[a[0]] != owners[b[0]]
        else:
            assert owners[a[0]] == owners[b[0]]
            # What lies between A and B was cut off, which only pairs of full length were.
            assert b[0] == a[-1] + 1 if pairs.lengths[n] < 29 else b[0] > a[-1]


def uses(pairs):
    """Per pass over a document the runs of its tokens that A and true B used, as (first token, last
    token, full length)."""
    longest = pairs.lengths.max()
    for n in range(len(pairs)):
        a, b = split(pairs, n)
        full = pairs.lengths[n] == longest
        yield a[0], a[-1], full
        if pairs.labels[n] == 0:
            yield b[0], b[-1], full


def test_no_sentence_is_lost_where_nothing_is_cut():
    # Sentences of one token fill a pair exactly.
    documents, owners = numbered([[1] * n for n in (1, 2, 3, 17, 31, 97)])
    pairs = make(documents, sequence_length=13, short=0.5, duplicates=11)
    assert pairs.num_truncated == 0
    used = [token for first, last, _ in uses(pairs) for token in range(first, last + 1)]
    # Every pass over the documents uses every token once, in order.
    assert used == list(range(10, len(owners))) * 11


def test_what_is_not_used_was_cut_from_a_pair_of_full_length():
    documents, owners = ragged(5)
    pairs = make(documents, sequence_length=29, duplicates=7)
    assert pairs.num_truncated > 100
    # Where a run does not begin after the end of the one before it, the one or the other was cut.
    runs = [(0, len(owners) - 1, False), *uses(pairs), (10, 0, False)]
    for (_, end, was_full), (start, _, is_full) in itertools.pairwise(runs):
        if start < end:  # the next pass over the documents
            assert end == len(owners) - 1 or was_full
            assert start == 10 or is_full
        else:
            assert start == end + 1 or (start > end and (was_full or is_full))


def test_share_of_random_next_sentences():
    # Documents of two sentences that fill no pair: with a probability of one half the pair is true
    # and the pass is over; else both sentences make pairs with random ones.
    documents, _ = numbered([[3, 2]] * 101)
    visits = 101 * 101
    pairs = make(documents, sequence_length=29, short=0.0, duplicates=101)
    num_true = int((pairs.labels == 0).sum())
    assert len(pairs) > 10_000
    assert len(pairs) - num_true == 2 * (visits - num_true)
    # Four standard deviations of a binomial of n = 10,201 and p = 1/2: 4 * sqrt(n / 4) = 202.
    assert abs(num_true - visits / 2) < 202


def test_share_and_lengths_of_short_targets():
    # Sentences of one token fill a true pair to its target exactly, so that its length tells the
    # target.
    documents, _ = numbered([[1] * 53] * 31)
    begins = {document[0][0] for document in documents}

    def first_targets(short, seed):
        """The targets of the passes whose first pair is true, which does not depend on the
        target."""
        pairs = make(documents, sequence_length=16, short=short, duplicates=401, seed=seed)
        assert len(pairs) > 10_000
        firsts = [n for n in np.flatnonzero(pairs.labels == 0) if split(pairs, n)[0][0] in begins]
        return collections.Counter((pairs.lengths[firsts] - 3).tolist()), len(firsts)

    assert set(first_targets(0.0, seed=1)[0]) == {13}
    always, n = first_targets(1.0, seed=2)
    # About 6,200 draws from 2 to 13: each count is binomial with p = 1/12; 4 * sqrt(n * 1/12 *
    # 11/12) = 87.
    assert 5_900 < n < 6_500
    assert sorted(always) == list(range(2, 14))
    assert all(abs(count - n / 12) < 87 for count in always.values())
    sometimes, n = first_targets(0.1, seed=3)
    # A target below 13 has p = 0.1 * 11/12; 4 * sqrt(n * p * (1 - p)) = 91.
    assert 5_900 < n < 6_500
    assert abs(n - sometimes[13] - n * 0.1 * 11 / 12) < 91


def test_lengths_without_short_targets():
    documents, owners = numbered([[1] * 53] * 31)
    pairs = make(documents, sequence_length=16, short=0.0, duplicates=101)
    last = {int(np.flatnonzero(owners == d)[-1]) for d in range(31)}
    for n in range(len(pairs)):
        a, b = split(pairs, n)
        # A pair is full unless its own document ended, or the one that B came from.
        assert pairs.lengths[n] == 16 or a[-1] in last or b[-1] in last
    assert (pairs.lengths == 16).mean() > 0.5


def test_random_sentences_come_from_everywhere_else():
    # One-sentence documents, five of them, so that every B is random: 1/4 each of the others, and
    # one of its sentences.
    documents, owners = numbered([[1], [1], [1] * 5, [1] * 3, [1] * 7])
    pairs = make(documents, sequence_length=5, short=0.0, duplicates=5003, seed=4)
    random_pairs = np.flatnonzero(pairs.labels == 1)
    a_owner, b_first = (
        np.array(column)
        for column in zip(
            *((owners[a[0]], b[0]) for a, b in (split(pairs, n) for n in random_pairs)), strict=True
        )
    )
    for document in range(5):
        firsts = b_first[a_owner == document]
        n = len(firsts)
        assert n > 4000
        for other in range(5):
            there = firsts[owners[firsts] == other]
            p = 0.0 if other == document else 1 / 4
            # Four standard deviations of a binomial, here and below; with p = 0 the count must be
            # 0.
            assert abs(len(there) - n * p) <= 4 * np.sqrt(n * p * (1 - p))
            size = len(documents[other])
            for token in [sentence[0] for sentence in documents[other]] if p else []:
                assert abs((there == token).sum() - len(there) / size) <= 4 * np.sqrt(
                    len(there) / size * (1 - 1 / size)
                )


def test_random_sentences_are_never_of_another_part_of_the_document():
    # Seven documents of one sentence each, of which the second to fourth and the last two are parts
    # of one; B comes from each part of the others equally often.
    documents, owners = numbered([[1]] * 7)
    whole = np.array([0, 1, 1, 1, 4, 5, 5])
    pairs = make_pairs(
        dataclasses.replace(Documents.of(documents), firsts=whole - 3),
        "nsp", 5, 0.0, 5003, CLS, SEP, generator(4),
    )  # fmt: skip
    found = np.zeros((7, 7))
    for n in range(len(pairs)):
        a, b = split(pairs, n)
        found[owners[a[0]], owners[b[0]]] += 1
    for document in range(7):
        others = whole != whole[document]
        n, p = found[document].sum(), 1 / others.sum()
        assert not found[document, ~others].any()
        assert (abs(found[document, others] - n * p) < 4 * np.sqrt(n * p * (1 - p))).all()


def test_parts_of_one_document_are_one():
    cut = dataclasses.replace(Documents.of([[[7, 8]], [[9]]]), firsts=np.array([4, 4]))
    with pytest.raises(ValueError, match=r"at least two documents\. Received: 1\."):
        make_pairs(cut, "nsp", 29, 0.1, 1, CLS, SEP, generator(0))
    assert len(make_pairs(cut, "sop", 29, 0.0, 1, CLS, SEP, generator(0))) == 1


def test_cut_is_uniform_between_the_sentences():
    # Four sentences fill the pair; A of a true pair has one, two or three of them.
    documents, _ = numbered([[1] * 4] * 101)
    pairs = make(documents, sequence_length=7, short=0.0, duplicates=101, seed=5)
    lengths = np.array(
        [
            len(split(pairs, n)[0])
            for n in np.flatnonzero(pairs.labels == 0)
            if pairs.lengths[n] == 7
        ]
    )
    n = len(lengths)
    assert n > 4_000
    # Four standard deviations of a binomial of p = 1/3.
    assert all(abs((lengths == k).sum() - n / 3) < 4 * np.sqrt(n * 2 / 9) for k in (1, 2, 3))


def test_truncation_takes_from_the_longer_part_at_both_ends():
    # A has 7 tokens and B has 23 of which 6 fit: 17 are cut, each from the front with a probability
    # of one half.
    documents, owners = numbered([[7], [23]])
    pairs = make(documents, sequence_length=16, short=0.0, duplicates=5003, seed=6)
    assert pairs.num_truncated == len(pairs) == 2 * 5003
    fronts = []
    for n in range(len(pairs)):
        short, long = sorted(split(pairs, n), key=lambda part: owners[part[0]])
        # On ties B gives way, so the first part of a pair keeps 7 and the second 6.
        assert (len(short), len(long)) == ((7, 6) if n % 2 == 0 else (6, 7))
        fronts.append(long[0] - 17)
    # When A is the shorter one, all 17 cuts are B's: their sum is binomial of 17 * 5,003 draws; 4 *
    # sqrt(n / 4) = 584.
    assert abs(sum(fronts[::2]) - 17 * 5003 / 2) < 584


def test_sentence_order_parts_are_runs_of_one_document():
    documents, owners = ragged(4)
    pairs = make(documents, sequence_length=29, duplicates=257, kind="sop")
    assert len(pairs) > 8_000
    assert (pairs.lengths.min(), pairs.lengths.max()) == (5, 29)
    assert pairs.num_dropped >= 257  # of the document of one token
    for n in range(len(pairs)):
        a, b = split(pairs, n)[:: -1 if pairs.labels[n] else 1]
        assert (np.diff(a) == 1).all()
        assert (np.diff(b) == 1).all()
        assert owners[a[0]] == owners[b[-1]]
        # In order A comes before B; what lies between them was cut off, which only pairs of full
        # length were.
        assert b[0] == a[-1] + 1 if pairs.lengths[n] < 29 else b[0] > a[-1]
    assert 1_000 < pairs.num_truncated <= (pairs.lengths == 29).sum()


def test_sentence_order_uses_every_token_once_where_nothing_is_cut():
    # Sentences of one token fill a pair exactly, and sentences of two are cut in two. No document
    # leaves a single token.
    for lengths in ([[1] * n for n in (2, 3, 10, 33, 97)], [[2] * n for n in (1, 2, 3, 17, 31)]):
        documents, owners = numbered(lengths)
        pairs = make(documents, sequence_length=13, short=0.0, duplicates=11, kind="sop")
        assert (pairs.num_truncated, pairs.num_dropped) == (0, 0)
        chunks = [
            np.concatenate(split(pairs, n)[:: -1 if pairs.labels[n] else 1])
            for n in range(len(pairs))
        ]
        assert np.concatenate(chunks).tolist() == list(range(10, len(owners))) * 11


def test_share_of_swapped_pairs():
    documents, _ = numbered([[3, 2], [7]] * 53)
    labels = make(
        documents, sequence_length=29, short=0.0, duplicates=101, kind="sop"
    ).labels.reshape(-1, 2)
    n = len(labels)
    assert n == 53 * 101
    # Four standard deviations of a binomial of p = 1/2, for chunks of two sentences and for those
    # of one.
    assert (np.abs(labels.sum(0) - n / 2) < 4 * np.sqrt(n / 4)).all()
    assert set(np.unique(labels)) == {0, 1}


def test_only_sentence_is_cut_uniformly_between_its_tokens():
    documents, _ = numbered([[5]] * 101)
    pairs = make(documents, sequence_length=13, short=0.0, duplicates=101, kind="sop")
    cuts = np.array([len(split(pairs, n)[pairs.labels[n]]) for n in range(len(pairs))])
    n = 101 * 101
    assert len(cuts) == n
    # Four standard deviations of a binomial of p = 1/4.
    assert all(abs((cuts == k).sum() - n / 4) < 4 * np.sqrt(n * 3 / 16) for k in (1, 2, 3, 4))


def test_long_sentence_that_is_cut_and_swapped_loses_tokens_as_any_pair():
    # Of one sentence of 23 tokens 13 fit. The shorter part has 1 to 11 tokens and loses those above
    # 6.
    documents, _ = numbered([[23]])
    pairs = make(documents, sequence_length=16, short=0.0, duplicates=1009, kind="sop")
    assert pairs.num_truncated == len(pairs) == 1009
    assert (pairs.lengths == 16).all()
    shorter = np.bincount([min(map(len, split(pairs, n))) for n in range(len(pairs))])
    # Binomials of p = 1/11 for 1 to 5 and 6/11 for 6; four standard deviations.
    for count, p in zip(shorter, [0, *[1 / 11] * 5, 6 / 11], strict=True):
        assert abs(count - 1009 * p) <= 4 * np.sqrt(1009 * p * (1 - p))


@pytest.mark.parametrize("short", [0.0, 0.1, 1.0])
def test_full_sentences_are_the_documents_again(short):
    documents, owners = ragged(6)
    sentences = [sentence for document in documents for sentence in document]
    number = {token: n for n, sentence in enumerate(sentences) for token in sentence}
    starts, ends = {sentence[0] for sentence in sentences}, {sentence[-1] for sentence in sentences}
    pairs = make(documents, sequence_length=29, short=short, duplicates=31, kind="none")
    assert (pairs.tokens[pairs.starts[:-1]] == CLS).all()
    assert (pairs.tokens[pairs.starts[1:] - 1] == SEP).all()
    assert (pairs.first_lengths == pairs.lengths).all()
    assert not pairs.labels.any()
    sequences = texts(pairs)
    assert np.concatenate(sequences).tolist() == list(range(10, len(owners))) * 31
    assert all(owners[sequence[0]] == owners[sequence[-1]] for sequence in sequences)
    # A sequence that does not end with a sentence is a piece of one.
    pieces = [sequence for sequence in sequences if sequence[-1] not in ends]
    assert all(number[piece[0]] == number[piece[-1]] for piece in pieces)
    assert pairs.num_truncated == sum(piece[0] in starts for piece in pieces)
    # In pieces of 27 the first three of a sentence of 101 tokens are full, and no other sentence is
    # cut.
    assert [len(piece) for piece in pieces] == [27, 27, 27] * 31


def test_full_sentences_are_packed_as_far_as_they_fit():
    documents, owners = ragged(7)
    starts = {sentence[0]: len(sentence) for document in documents for sentence in document}
    pairs = make(documents, sequence_length=29, short=0.0, kind="none")
    checked = 0
    for this, following in itertools.pairwise(texts(pairs)):
        if owners[this[0]] == owners[following[0]] and following[0] in starts:
            assert len(this) + starts[following[0]] > 27
            checked += 1
    assert checked > 20


def test_share_and_lengths_of_short_targets_without_a_second_segment():
    # Sentences of one token fill the first sequence of a pass to its target exactly.
    documents, _ = numbered([[1] * 17])

    def targets(short, seed):
        pairs = make(
            documents, sequence_length=16, short=short, duplicates=5003, seed=seed, kind="none"
        )
        return collections.Counter(
            (pairs.lengths[pairs.tokens[pairs.starts[:-1] + 1] == 10] - 2).tolist()
        )

    n = 5003
    assert targets(0.0, seed=1) == {14: n}
    always = targets(1.0, seed=2)
    # 2 to 14: each count is binomial with p = 1/13; four standard deviations.
    assert sorted(always) == list(range(2, 15))
    assert all(abs(count - n / 13) < 4 * np.sqrt(n / 13 * 12 / 13) for count in always.values())
    sometimes, p = targets(0.1, seed=3), 0.1 * 12 / 13
    assert abs(n - sometimes[14] - n * p) < 4 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("documents", [[], [[[7, 8], [9]]]])
def test_fewer_than_two_documents_are_refused(documents):
    with pytest.raises(
        ValueError,
        match=rf"^Sentence pairs: expected at least two documents\. Received: {len(documents)}\.$",
    ):
        make(documents)


@pytest.mark.parametrize("kind", ["sop", "none"])
def test_one_document_is_enough_where_nothing_is_random_about_b(kind):
    with pytest.raises(
        ValueError, match=r"^Sentence pairs: expected at least one document\. Received: 0\.$"
    ):
        make([], kind=kind)
    assert len(make([[[7, 8], [9]]], kind=kind, short=0.0)) == 1


def test_corpus_of_one_token_has_no_sentence_order():
    pairs = make([[[7]]], duplicates=3, kind="sop")
    assert (len(pairs), pairs.num_dropped, pairs.starts.tolist(), pairs.tokens.tolist()) == (
        0,
        3,
        [0],
        [],
    )
    assert pairs.batch(np.arange(0), 29)[0].shape == (0, 29)


@pytest.mark.parametrize("kind", ["NSP", "", None])
def test_unknown_kind_is_refused(kind):
    with pytest.raises(
        ValueError,
        match=rf"^Sentence pairs: expected one of nsp, sop, none\. Received: {kind!r}\.$",
    ):
        make([[[7]], [[8]]], kind=kind)
