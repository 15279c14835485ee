"""What a build that ended early leaves for the next: work that is finished is kept, or thrown away
as a whole."""

import errno
import functools
import gzip
import json
import pathlib

import pytest
from plain_records import content

import tfrecords.build.recipe
import tfrecords.build.tokenized
import tfrecords.build.tokenizing
import tfrecords.build.unfinished
from tfrecords import InputError, RecordsConfig, Vocabulary, build_records
from tfrecords.text.spans import span_groups
from tfrecords.vocabulary import SPECIAL_TOKENS


def fail_once_at(monkeypatch, error):
    """Makes the second span of text raise `error` when it is read, and returns what lets it be."""
    original = tfrecords.build.tokenizing.span_documents
    spans_of = tfrecords.build.recipe.spans_of
    monkeypatch.setattr(
        tfrecords.build.recipe, "spans_of", lambda files, format: spans_of(files, format, 997)
    )
    monkeypatch.setattr(
        tfrecords.build.recipe, "span_groups", functools.partial(span_groups, group_bytes=1)
    )

    def failing(span, *arguments):
        if span.start:
            raise error
        return original(span, *arguments)

    monkeypatch.setattr(tfrecords.build.tokenizing, "span_documents", failing)
    return lambda: monkeypatch.setattr(tfrecords.build.tokenizing, "span_documents", original)


def test_a_disk_that_fails_costs_nothing_that_is_finished(
    tmp_path, corpus, vocabulary, config, records, monkeypatch
):
    mend = fail_once_at(monkeypatch, OSError(errno.EIO, "Input/output error", str(corpus)))
    with pytest.raises(OSError, match="Input/output error"):
        build_records([corpus], vocabulary, tmp_path / "out", config)
    (finished,) = (tmp_path / "out" / "unfinished").glob("text-*.json")
    before = finished.stat().st_mtime_ns
    mend()
    monkeypatch.setattr(tfrecords.build.unfinished, "forget_unfinished", None)
    partitioned = []
    original = tfrecords.build.recipe.partition_documents
    monkeypatch.setattr(
        tfrecords.build.recipe,
        "partition_documents",
        lambda *a: (partitioned.append(finished.stat().st_mtime_ns), original(*a)),
    )
    build_records([corpus], vocabulary, tmp_path / "out", config)
    assert partitioned == [before]
    assert content(tmp_path / "out") == content(records)


def test_unfinished_work_of_another_version_is_done_again(
    tmp_path, corpus, vocabulary, config, records, monkeypatch
):
    mend = fail_once_at(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        build_records([corpus], vocabulary, tmp_path / "out", config)
    mend()
    spill = tmp_path / "out" / "unfinished"
    (spill / "made-with.json").write_text('{"kbert": "0.0.1"}')
    (spill / "text-000000.json").write_text(
        '{"counts": {"documents": 9}, "parts": [], "without_text": []}'
    )
    build_records([corpus], vocabulary, tmp_path / "out", config)
    assert content(tmp_path / "out") == content(records)


def refuse_masks(monkeypatch):
    """Makes a build end with an error of the user's when all of its shards are written."""

    def refusing(config, counts):
        raise InputError("Expected a. Received: b.")

    original = tfrecords.build.recipe._check_masks
    monkeypatch.setattr(tfrecords.build.recipe, "_check_masks", refusing)
    return lambda: monkeypatch.setattr(tfrecords.build.recipe, "_check_masks", original)


def test_a_refusal_frees_the_directory(tmp_path, corpus, vocabulary, config, monkeypatch):
    refuse_masks(monkeypatch)
    with pytest.raises(InputError):
        build_records([corpus], vocabulary, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_kill_while_the_directory_is_freed(
    tmp_path, corpus, vocabulary, config, records, monkeypatch
):
    mend = refuse_masks(monkeypatch)
    original = tfrecords.build.unfinished.shutil.rmtree

    def killed(path, *arguments, **options):
        # Half of the work is gone, and then the process.
        for file in sorted(pathlib.Path(path).iterdir())[::2]:
            file.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(tfrecords.build.unfinished.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        build_records([corpus], vocabulary, tmp_path / "out", config)
    mend()
    monkeypatch.setattr(tfrecords.build.unfinished.shutil, "rmtree", original)
    build_records([corpus], vocabulary, tmp_path / "out", config)
    assert content(tmp_path / "out") == content(records)


# Text that cannot be read costs what was read of it, and not the rest.

WORDS = Vocabulary((*SPECIAL_TOKENS, "one", "two", "three"))
ROWS = RecordsConfig(sequence_length=13, max_predictions=3, num_shards=1, validation_fraction=0)


@pytest.fixture
def tokenized(monkeypatch):
    """The names of the files that are tokenized from here on, each of them a task."""
    names = []
    monkeypatch.setattr(
        tfrecords.build.recipe, "span_groups", functools.partial(span_groups, group_bytes=1)
    )
    original = tfrecords.build.tokenizing.span_documents

    def counted(span, *arguments):
        names.append(pathlib.Path(span.path).name)
        return original(span, *arguments)

    monkeypatch.setattr(tfrecords.build.tokenizing, "span_documents", counted)
    return names


def rows(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def files(tmp_path):
    """Four files of rows; the third has a row that is none behind where a first look reads."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name, texts in {"a": ["one", "two"], "b": ["two one", "one"], "d": ["one three"]}.items():
        (folder / name).write_bytes(rows(*texts))
    (folder / "c").write_bytes(gzip.compress(rows("three", "two") + b'{"text": "one\xff"}\n'))
    return folder


def test_text_that_is_mended_costs_its_own_file_alone(tmp_path, files, refused, tokenized):
    output = tmp_path / "out"

    def build(output=output, **changes):
        return build_records([files], WORDS, output, ROWS, format="jsonl", **changes)

    spill = output / "unfinished"
    with refused(
        rf"c: expected UTF-8\. Received: an invalid byte .* pass --errors replace\. "
        rf"What is tokenized already stays in {spill} for the same command with the text mended"
    ):
        build()
    assert tokenized == ["a", "b", "c"]
    # Another file in front gives the tasks other numbers; a file that is gone leaves no trace.
    (files / "0").write_bytes(rows("three one"))
    (files / "b").unlink()
    (files / "c").write_bytes(gzip.compress(rows("three", "two", "one")))
    del tokenized[:]
    build()
    assert tokenized == ["0", "c", "d"]
    build(tmp_path / "expected")
    assert content(output) == content(tmp_path / "expected")


def test_what_is_strict_needs_nothing_replaced(tmp_path, files, refused, tokenized):
    with refused("expected UTF-8"):
        build_records([files], WORDS, tmp_path / "out", ROWS, format="jsonl")
    del tokenized[:]
    build_records([files], WORDS, tmp_path / "out", ROWS, format="jsonl", errors="replace")
    assert tokenized == ["c", "d"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"vocabulary": Vocabulary((*SPECIAL_TOKENS, "one", "two"))}),
        ({}, {"config": RecordsConfig(**{**vars(ROWS), "sequence_length": 15})}),
        ({"config": RecordsConfig(**{**vars(ROWS), "deduplicate": True})},) * 2,
        # What was replaced would not be told of.
        ({"errors": "replace"}, {}),
    ],
    ids=["vocabulary", "configuration", "duplicates", "errors"],
)
def test_text_is_tokenized_again_for_another_job(
    tmp_path, files, refused, tokenized, before, after
):
    def build(output, vocabulary=WORDS, config=ROWS, **changes):
        return build_records([files], vocabulary, output, config, format="jsonl", **changes)

    (files / "c").write_bytes(rows("one") + b"[]\n")
    with refused(r"expected a line with a JSON object"):
        build(tmp_path / "out", **before)
    (files / "c").write_bytes(rows("one", "three"))
    del tokenized[:]
    build(tmp_path / "out", **after)
    assert tokenized == ["a", "b", "c", "d"]
    build(tmp_path / "expected", **after)
    assert content(tmp_path / "out") == content(tmp_path / "expected")


@pytest.mark.parametrize("call", range(1, 7))
def test_a_kill_while_the_rest_is_removed(tmp_path, files, refused, monkeypatch, call, tokenized):
    def build(output=tmp_path / "out"):
        return build_records([files], WORDS, output, ROWS, format="jsonl")

    with refused("expected UTF-8"):
        build()
    (files / "a").write_bytes(rows("three one"))
    (files / "c").write_bytes(rows("three", "two", "one"))
    calls, original = [], pathlib.Path.unlink

    def killed(path, *arguments, **options):
        calls.append(path)
        if len(calls) == call:
            raise KeyboardInterrupt
        original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            build()
    del tokenized[:]
    build()
    assert "b" not in tokenized
    build(tmp_path / "expected")
    assert content(tmp_path / "out") == content(tmp_path / "expected")


def test_a_directory_of_the_users_own_is_refused(tmp_path, files, refused):
    (tmp_path / "out" / "unfinished").mkdir(parents=True)
    (tmp_path / "out" / "unfinished" / "novel.txt").write_text("Chapter one.")
    (files / "c").unlink()
    with refused(r"Expected an empty or new directory\. Received: .*already holds unfinished"):
        build_records([files], WORDS, tmp_path / "out", ROWS, format="jsonl")
    assert (tmp_path / "out" / "unfinished" / "novel.txt").read_text() == "Chapter one."


# A task of hours is saved as it goes on.


@pytest.fixture
def one_large_file(tmp_path, monkeypatch):
    """A compressed file, which is one task, of many files of documents: some empty, some of which
    nothing is known, some cut."""
    monkeypatch.setattr(tfrecords.build.tokenizing, "PART_TOKENS", 40)
    monkeypatch.setattr(tfrecords.build.tokenizing, "_SENTENCES_PER_BATCH", 4)
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 60)
    monkeypatch.setattr(tfrecords.build.tokenized, "FILES_BETWEEN", 2)
    documents = []
    for number in range(60):
        sentences = [f"{'one two three four'[: 3 + (number * 7 + n) % 16]}" for n in range(5)]
        documents.append("\u200b" if number % 11 == 3 else "\n".join(sentences))
    documents.insert(20, "\n".join(["one two three"] * 50))  # cut, over several files
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress("\n\n".join(documents).encode()))
    return path


@pytest.mark.parametrize("last", [1, 2, 3, 5, 8, 13])
def test_a_kill_within_one_large_file(tmp_path, one_large_file, monkeypatch, last):
    config = RecordsConfig(sequence_length=32, max_predictions=5, num_shards=2, pairs="none")
    build_records([one_large_file], WORDS, tmp_path / "expected", config)

    saved, original = [], tfrecords.build.tokenized.save_part

    def killed(path, *arguments):
        saved.append(path.name)
        if len(saved) == last:
            raise KeyboardInterrupt
        original(path, *arguments)

    monkeypatch.setattr(tfrecords.build.tokenized, "save_part", killed)
    with pytest.raises(KeyboardInterrupt):
        build_records([one_large_file], WORDS, tmp_path / "out", config)
    del saved[last - 1 - (last - 1) % 2 :]  # since the state was saved the last time
    last = None
    build_records([one_large_file], WORDS, tmp_path / "out", config)
    assert len(saved) == len(set(saved)) > 15
    assert content(tmp_path / "out") == content(tmp_path / "expected")


def test_an_error_at_the_end_of_one_large_file(tmp_path, one_large_file, refused, monkeypatch):
    # What was tokenized of the file itself stays, too: bytes that are replaced come later.
    config = RecordsConfig(sequence_length=32, max_predictions=5, num_shards=2, pairs="none")
    text = gzip.decompress(one_large_file.read_bytes())
    text += b"\n\n" + b"one two\n" * 1000 + b"\n\xff\n"
    one_large_file.write_bytes(gzip.compress(text))
    monkeypatch.setattr("tfrecords.text.spans.LINE_BYTES", 1 << 12)  # which are decoded at a time
    saved, original = [], tfrecords.build.tokenized.save_part

    def counted(path, *arguments):
        saved.append(path.name)
        original(path, *arguments)

    monkeypatch.setattr(tfrecords.build.tokenized, "save_part", counted)
    with refused(r"expected UTF-8.* for the same command with the text mended, or with --errors"):
        build_records([one_large_file], WORDS, tmp_path / "out", config)
    before = len(saved)
    build_records([one_large_file], WORDS, tmp_path / "out", config, errors="replace")
    assert len(saved) - len(set(saved)) <= 1 < before
    build_records([one_large_file], WORDS, tmp_path / "expected", config, errors="replace")
    assert content(tmp_path / "out") == content(tmp_path / "expected")
