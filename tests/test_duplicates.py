"""What stands in a text twice, inputs of different weight, and documents that are cut."""

import collections
import dataclasses
import itertools
import random

import numpy as np
import pytest

from tfrecords import RecordsConfig, Vocabulary, build_records, inspect, read
from tfrecords.build import copies, duplicates
from tfrecords.documents import Documents
from tfrecords.text.formats import span_documents
from tfrecords.text.spans import Span
from tfrecords.vocabulary import SPECIAL_TOKENS

WORDS = [f"w{number}" for number in range(400)]
VOCABULARY = Vocabulary((*SPECIAL_TOKENS, ".", *WORDS))
CONFIG = RecordsConfig(
    sequence_length=32,
    max_predictions=5,
    duplicates=2,
    validation_fraction=0.2,
    num_shards=2,
    deduplicate=True,
)


@pytest.fixture(scope="module")
def paragraphs():
    """40 documents of 1 to 5 paragraphs of 1 to 3 sentences, of which many stand there twice."""
    draw = random.Random(4)

    def sentence():
        return " ".join(draw.choices(WORDS, k=draw.randint(3, 9))) + " ."

    pool = [" ".join(sentence() for _ in range(draw.randint(1, 3))) for _ in range(90)]
    return [[draw.choice(pool) for _ in range(draw.randint(1, 5))] for _ in range(40)]


def first_occurrences(documents):
    """The documents without what stood there before, and how many paragraphs were left out."""
    seen, kept = set(), []
    for document in documents:
        kept.append([one for one in document if not (one in seen or seen.add(one))])
    dropped = sum(map(len, documents)) - sum(map(len, kept))
    return [document for document in kept if document], dropped


def as_text(documents):
    """Two empty lines between documents, one between paragraphs."""
    return "\n\n\n".join("\n\n".join(document) for document in documents) + "\n"


def as_lines(documents):
    return "\n\n".join("\n".join(document) for document in documents) + "\n"


def shards(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrecord")}


@pytest.mark.parametrize(("format", "write"), [("text", as_text), ("paragraphs", as_lines)])
def test_records_are_those_of_the_text_without_what_stood_there_before(
    tmp_path, paragraphs, format, write
):
    kept, dropped = first_occurrences(paragraphs)
    assert dropped > 30
    assert len(kept) < len(paragraphs)  # of some documents nothing is left
    for name, documents in (("all", paragraphs), ("first", kept)):
        (tmp_path / name).write_text(write(documents))
        manifest = build_records(
            tmp_path / name, VOCABULARY, tmp_path / f"{name}-records", CONFIG, format=format
        )
        assert manifest.counts["corpus"]["documents"] == len(kept)
        assert manifest.counts["corpus"]["duplicate_paragraphs"] == dropped * (name == "all")
    assert shards(tmp_path / "all-records") == shards(tmp_path / "first-records")
    text = inspect(tmp_path / "all-records", num_examples=0)
    assert f"{dropped:,} paragraphs that had stood in the text before were dropped" in text


def test_where_a_line_is_a_sentence_documents_are_compared(tmp_path):
    documents = [["w1 w2 .", "w3 ."], ["w3 .", "w4 ."], ["w1 w2 .", "w3 ."], ["w5 .", "w6 ."]] * 3
    (tmp_path / "text").write_text(as_lines(documents))
    manifest = build_records(
        tmp_path / "text",
        VOCABULARY,
        tmp_path / "records",
        RecordsConfig(deduplicate=True, validation_fraction=0.0),
    )
    assert manifest.counts["corpus"]["documents"] == 3
    assert manifest.counts["corpus"]["duplicate_paragraphs"] == 9


@pytest.mark.usefixtures("quick_workers")
def test_workers_and_spans_make_no_difference(tmp_path, paragraphs, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(as_text(paragraphs[10 * number : 10 * number + 10]))
    files = [tmp_path / f"{number}.txt" for number in range(4)]
    (tmp_path / "one.txt").write_text(as_text(paragraphs))
    one = build_records(tmp_path / "one.txt", VOCABULARY, tmp_path / "a", CONFIG, format="text")
    # Every file a task, and hashes in several ranges.
    monkeypatch.setattr("tfrecords.build.recipe.span_groups", lambda spans: groups_of_one(spans))
    monkeypatch.setattr(duplicates, "_HASHES_AT_A_TIME", 7)
    other = build_records(files, VOCABULARY, tmp_path / "b", CONFIG, format="text", workers=2)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert one.counts == other.counts


def groups_of_one(spans):
    from tfrecords.text.spans import SpanGroup

    return [SpanGroup((span,)) for span in spans]


def test_without_the_option_everything_stays(tmp_path, paragraphs):
    (tmp_path / "text").write_text(as_text(paragraphs))
    config = RecordsConfig(validation_fraction=0.0)
    manifest = build_records(
        tmp_path / "text", VOCABULARY, tmp_path / "records", config, format="text"
    )
    assert manifest.counts["corpus"]["documents"] == len(paragraphs)
    assert not manifest.counts["corpus"]["duplicate_paragraphs"]


def test_a_paragraph_of_many_parts_is_compared_part_by_part(tmp_path, monkeypatch):
    # A book in one paragraph is broken into sentences as it grows, and its last sentence goes on.
    monkeypatch.setattr("tfrecords.text.running_text._PARAGRAPH_CHARACTERS", 100)
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(30)]
    book = "\n".join(lines)
    (tmp_path / "text").write_text(f"{book}\n\n\n{book}\n\n\nw1 . w2 .\n")
    config = RecordsConfig(deduplicate=True, validation_fraction=0.0)
    manifest = build_records(
        tmp_path / "text", VOCABULARY, tmp_path / "records", config, format="text"
    )
    corpus = manifest.counts["corpus"]
    assert corpus["tokens"] == 30 * 12 + 4
    assert corpus["documents"] == 2
    assert (
        corpus["duplicate_characters"] == sum(map(len, lines)) + 30 - corpus["duplicate_paragraphs"]
    )


def test_hashes_of_every_range_are_found_once(tmp_path):
    draw = random.Random(2)
    texts = [[str(draw.randrange(500)) for _ in range(200)] for _ in range(5)]
    files = []
    for number, some in enumerate(texts):
        hasher = duplicates.ParagraphHasher()
        assert not any(map(hasher, some))
        files.append(tmp_path / f"{number}.hashes")
        assert hasher.save(files[-1]) == 200
    found = [tmp_path / f"{number}.duplicates" for number in range(3)]
    bounds = zip(found, [(0, 11), (11, 200), (200, 256)], strict=True)
    total = sum(duplicates.find_duplicates(files, path, *bound) for path, bound in bounds)
    seen = set()
    for task, some in enumerate(texts):
        expected = [n for n, text in enumerate(some) if text in seen or seen.add(text)]
        assert duplicates.read_duplicates(found, task).tolist() == expected
        keeps = duplicates.FirstOccurrences(np.array(expected))
        assert [n for n, text in enumerate(some) if not keeps(text)] == expected
        total -= len(expected)
    assert total == 0


def test_ranges_cover_all_hashes():
    for number in (0, 1, 1 << 22, (1 << 22) + 1, 5 << 22, 1 << 40):
        ranges = duplicates.hash_ranges(number)
        assert list(itertools.chain.from_iterable(range(*one) for one in ranges)) == list(
            range(256)
        )


# Inputs of different weight.


def tokens_of(directory):
    """How often each token is in the records, but for the masks."""
    counts = collections.Counter()
    for x, y, weight in read(directory, "train", batch_size=1, shuffle=False, epochs=1):
        ids = x["token_ids"].numpy()[0]
        used = weight["mlm"].numpy()[0] > 0
        ids[x["mask_positions"].numpy()[0][used]] = y["mlm"].numpy()[0][used]
        counts.update(VOCABULARY.tokens[index] for index in ids)
    return counts


@pytest.mark.usefixtures("quick_workers")
def test_documents_of_a_weighted_input_are_passed_over_more_often(tmp_path):
    # Documents that fit one sequence: each token is there once for every pass.
    for name, first in (("a", 0), ("b", 100), ("c", 200)):
        lines = [f"w{first + 2 * n} w{first + 2 * n + 1}" for n in range(20)]
        (tmp_path / name).write_text("\n\n".join(lines) + "\n")
    config = RecordsConfig(
        sequence_length=32, pairs="none", duplicates=2, validation_fraction=0.0, num_shards=3
    )
    inputs = [tmp_path / "a", f"{tmp_path}/b=3", f"{tmp_path}/c=2"]
    manifest = build_records(inputs, VOCABULARY, tmp_path / "records", config)
    counts = tokens_of(tmp_path / "records")
    for first, passes in ((0, 2), (100, 6), (200, 4)):
        assert {counts[f"w{number}"] for number in range(first, first + 40)} == {passes}
    assert manifest.counts["corpus"]["documents"] == 60
    # The same bytes with two workers, and other bytes with other weights.
    build_records(inputs, VOCABULARY, tmp_path / "two", config, workers=2)
    assert shards(tmp_path / "two") == shards(tmp_path / "records")


def test_another_weight_is_another_build(tmp_path, refused):
    (tmp_path / "a").write_text("w1\n\nw2\n")
    config = RecordsConfig(pairs="none", validation_fraction=0.0)
    build_records(f"{tmp_path}/a=2", VOCABULARY, tmp_path / "records", config)
    with refused(r"weights: \[\[2, 1\]\] before, None now"):
        build_records(tmp_path / "a", VOCABULARY, tmp_path / "records", config)
    build_records(f"{tmp_path}/a=2", VOCABULARY, tmp_path / "records", config)


def test_what_is_dropped_makes_no_document_long(tmp_path, monkeypatch):
    # Many copies, of which nothing is left, and a short document after them.
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 1000)
    copies, last = ["w1 w2 w3 . " * 10] * 50, "w4 .\n\nw5 .\n\nw6 ."
    (tmp_path / "one").write_text("\n\n\n".join([*copies, last]) + "\n")
    (tmp_path / "a").write_text("\n\n\n".join(copies) + "\n")
    (tmp_path / "b").write_text(last + "\n")
    config = RecordsConfig(deduplicate=True, validation_fraction=0.0)
    manifests = [
        build_records(inputs, VOCABULARY, tmp_path / name, config, format="text")
        for name, inputs in (("r1", tmp_path / "one"), ("r2", [tmp_path / "a", tmp_path / "b"]))
    ]
    assert manifests[0].counts == manifests[1].counts
    assert manifests[0].counts["corpus"]["documents"] == 2
    assert manifests[0].counts["corpus"]["cut_documents"] == 0
    assert shards(tmp_path / "r1") == shards(tmp_path / "r2")


# Copies of whole documents, where nothing is dropped.


def lines_of(documents):
    return "\n\n".join("\n".join(document) for document in documents) + "\n"


def test_copies_of_documents_are_counted_and_warned_of(tmp_path):
    one, two, three = ["w1 w2 .", "w3 ."], ["w4 ."], ["w5 w6 w7 w8 ."]
    others = [[f"w{number} w9 ."] for number in range(20, 40)]
    # Copies in another file, in other spans, in other capitals, at the end of the same file.
    (tmp_path / "a").write_text(lines_of([one, two, *others, one]))
    (tmp_path / "b").write_text(lines_of([three, ["W4  ."], three, three, two]))
    config = RecordsConfig(validation_fraction=0.0, num_shards=1)
    inputs = [tmp_path / "a", tmp_path / "b"]
    corpus = build_records(inputs, VOCABULARY, tmp_path / "records", config).counts["corpus"]
    assert (corpus["copied_documents"], corpus["copied_tokens"]) == (5, 5 + 2 + 2 + 5 + 5)
    shown = inspect(tmp_path / "records")
    assert "  5 documents are copies of others\n" in shown
    share = 19 / corpus["tokens"]
    assert (
        f"warning: {share:.1%} of the tokens are in documents that are copies of others; " in shown
    )
    # --deduplicate compares text and not tokens, and leaves the one in capitals.
    dropping = dataclasses.replace(config, deduplicate=True)
    manifest = build_records(inputs, VOCABULARY, tmp_path / "dropped", dropping)
    assert manifest.counts["corpus"]["copied_documents"] == 1
    assert "--deduplicate drops" not in inspect(tmp_path / "dropped")
    # A document with a weight is no copy of itself.
    weighted = [f"{tmp_path}/c=3"]
    (tmp_path / "c").write_text(lines_of(others))
    manifest = build_records(weighted, VOCABULARY, tmp_path / "weighted", config)
    assert manifest.counts["corpus"]["copied_tokens"] == 0
    assert "copies of others" not in inspect(tmp_path / "weighted")


def test_copied_text_that_is_held_out_is_said_to_be(tmp_path):
    (tmp_path / "a").write_text(2 * (lines_of([[f"w{n} ."] for n in range(60)]) + "\n"))
    config = RecordsConfig(validation_fraction=0.2, num_shards=1)
    build_records(tmp_path / "a", VOCABULARY, tmp_path / "records", config)
    lines = inspect(tmp_path / "records").split("\n")
    (warning,) = [line for line in lines if "copies of others, " in line]
    assert "50.0% of the tokens" in warning
    assert "so that held-out text may be in training too; --deduplicate drops" in warning


def test_share_of_copies_from_samples(tmp_path):
    """20,000 documents in tasks of unequal size, each there once, twice or five times; longer ones
    more often. The estimate does not depend on the tasks."""
    draw = np.random.default_rng(3)
    times = draw.choice([1, 2, 5], 20_000, p=[0.8, 0.15, 0.05])
    lengths = draw.integers(3, 9, 20_000) * times
    documents = np.repeat(np.arange(20_000), times)
    draw.shuffle(documents)

    def shares(capacity, *ends):
        paths = []
        for number, part in enumerate(np.split(documents, ends)):
            sample = copies.DocumentSample(capacity)
            for some in np.array_split(part, 3):
                tokens = [np.arange(lengths[n], dtype=np.int32) + 50 * n for n in some]
                ones = np.ones(len(some), np.int64)
                sample.add(Documents.of_lengths(np.concatenate(tokens), lengths[some], ones))
            paths.append(tmp_path / f"{number}")
            sample.save(paths[-1])
        return copies.DocumentSample.read(paths, capacity).shares()

    expected = [
        (times - 1).sum() / times.sum(),
        ((times - 1) * lengths).sum() / (times * lengths).sum(),
    ]
    ends = [100, 3000, 20_000]
    np.testing.assert_allclose(shares(1 << 15, *ends), expected, rtol=1e-12)
    np.testing.assert_allclose(shares(1 << 11, *ends), expected, rtol=0.15)
    assert shares(1 << 11, *ends) == shares(1 << 11) == shares(1 << 11, 9000)
    assert shares(1 << 11) != shares(1 << 15)
    # An earlier release has left no sample of a task.
    assert copies.count_copies([tmp_path / "0", tmp_path / "none"], 1, 1) == {}


@pytest.mark.usefixtures("quick_workers")
def test_books_stay_in_one_split(tmp_path, monkeypatch):
    """Documents that are cut: no part of one is in training if another is held out, nor its random
    next sentence; the bytes depend on neither the spans nor the number of workers."""
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 300)
    monkeypatch.setattr("tfrecords.build.tokenizing.PART_TOKENS", 200)
    draw = random.Random(6)
    # Every document has words of its own.
    books = [
        [" ".join(draw.choices(WORDS[10 * n : 10 * n + 10], k=6)) + " ." for _ in range(length)]
        for n, length in enumerate([*draw.choices([3, 40, 90], k=38), 90, 90])
    ]
    (tmp_path / "text").write_text(lines_of(books))
    config = RecordsConfig(sequence_length=32, num_shards=3, validation_fraction=0.3)
    manifest = build_records(tmp_path / "text", VOCABULARY, tmp_path / "one", config)
    assert manifest.counts["corpus"]["cut_documents"] > 60
    assert manifest.counts["corpus"]["longest_document"] == 90 * 7
    build_records(tmp_path / "text", VOCABULARY, tmp_path / "two", config, workers=2)
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    seen = {}
    for split in ("train", "validation"):
        seen[split] = set()
        for x, y, weight in read(tmp_path / "one", split, batch_size=1, shuffle=False, epochs=1):
            ids, segments = x["token_ids"].numpy()[0], x["segment_ids"].numpy()[0]
            used = weight["mlm"].numpy()[0] > 0
            ids[x["mask_positions"].numpy()[0][used]] = y["mlm"].numpy()[0][used]
            words = [VOCABULARY.tokens[index] for index in ids]
            of = [int(word[1:]) // 10 if word[0] == "w" else -1 for word in words]
            a, b = (
                {n for n, s in zip(of, segments, strict=True) if s == k and n >= 0} for k in (0, 1)
            )
            assert len(a) == len(b) == 1
            assert (a != b) == y["nsp"].numpy()[0]
            seen[split] |= a | b
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"]) + len(seen["validation"]) == 40


def test_a_document_after_a_part_of_which_nothing_is_left_is_another(tmp_path, monkeypatch):
    """A book whose second part are copies, and a document after it."""
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 12)
    text = tmp_path / "text"
    text.write_text("one w1.\n\ntwo w2 w3.\n\none w1.\n\n\nfour w4.\n")
    seen = set()
    keeps = lambda paragraph: paragraph not in seen and not seen.add(paragraph)  # noqa: E731
    counts = collections.Counter()
    first, other = span_documents(Span(str(text)), "text", "strict", counts, keeps=keeps)
    assert (first, other) == (["one w1.", "two w2 w3."], ["four w4."])
    assert counts["cut_documents"] == 1
    assert other.first is other


def test_one_book_is_one_document(tmp_path, monkeypatch, refused):
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 300)
    (tmp_path / "text").write_text("w1 w2 w3 .\n" * 1000)
    config = RecordsConfig(validation_fraction=0.0)
    with refused("expected at least 2 documents. Received: 1; separate the documents"):
        build_records(tmp_path / "text", VOCABULARY, tmp_path / "records", config)
