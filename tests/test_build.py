import bz2
import csv
import dataclasses
import errno
import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import pkgutil
import re
import shutil
import subprocess
import warnings

import plain_tokenizer
import pytest
import tensorflow as tf
from plain_records import content, parts, read_plain, unmasked

import tfrecords.build.recipe
import tfrecords.build.tasks
import tfrecords.build.tokenizing
import tfrecords.build.unfinished
from tfrecords import (
    RecordsConfig,
    Vocabulary,
    build_records,
    inspect,
    load_manifest,
    schema,
)
from tfrecords.decompression import opened
from tfrecords.text.formats import TEXT_FORMATS
from tfrecords.text.spans import span_groups
from tfrecords.vocabulary import SPECIAL_TOKENS


def output_of(directory):
    """What is made of the text, without the configuration, which tells of the input files."""
    return {name: there for name, there in content(directory).items() if name != "config.json"}


def records_of(directory, split):
    """The records of each shard of a split."""
    return [read_plain(path, 29, 5) for path in sorted(directory.glob(f"{split}-*.tfrecord"))]


def document_of(token_id, vocabulary):
    return int(vocabulary.tokens[token_id][1:].split("s")[0])


def documents_of(records, vocabulary):
    return {
        document_of(token, vocabulary)
        for record in records
        for part in parts(record)
        for token in part
    }


def write(path, *documents):
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def settled(config):
    """The configuration of new records, with what was left open."""
    return dataclasses.replace(config, accents="strip", long_sentences="split")


def test_directory_holds_the_shards_and_all_that_is_needed_to_read_them(
    records, vocabulary, config, corpus
):
    assert sorted(path.name for path in records.iterdir()) == [
        "config.json",
        "manifest.json",
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
        "validation-00000-of-00001.tfrecord",
        "vocab.txt",
    ]
    manifest = load_manifest(records)
    assert manifest.load_vocabulary() == vocabulary
    assert (manifest.vocabulary_size, manifest.vocabulary_sha256) == (
        len(vocabulary),
        vocabulary.sha256,
    )
    assert (manifest.sequence_length, manifest.max_predictions) == (29, 5)
    assert manifest.config == settled(config)
    job = json.loads((records / "config.json").read_text())
    assert job["input_bytes"] == corpus.stat().st_size
    fields = dataclasses.asdict(settled(config))
    assert {name: job[name] for name in fields} == fields
    for shard in manifest.shards:
        there = (records / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(there), hashlib.sha256(there).hexdigest())


def test_same_input_configuration_and_seed_give_the_same_bytes(
    tmp_path, corpus, vocabulary, config, records, global_seed
):
    global_seed(11)  # must not matter
    build_records([corpus], vocabulary, tmp_path / "again", config)
    assert content(tmp_path / "again") == content(records)


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"mask_rate": 0.2}, {"duplicates": 2}, {"short_sequence_probability": 0.9}],
)
def test_another_configuration_gives_other_bytes(
    tmp_path, corpus, vocabulary, config, records, change
):
    build_records([corpus], vocabulary, tmp_path / "other", dataclasses.replace(config, **change))
    first, other = content(records), content(tmp_path / "other")
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".tfrecord"))


def test_other_seed_holds_out_other_documents(tmp_path, corpus, vocabulary, config, records):
    build_records([corpus], vocabulary, tmp_path / "other", dataclasses.replace(config, seed=8))
    first, other = (
        documents_of(records_of(directory, "validation")[0], vocabulary)
        for directory in (records, tmp_path / "other")
    )
    assert first != other


def test_every_document_is_in_one_shard_of_one_split(records, vocabulary, documents):
    shards = records_of(records, "train") + records_of(records, "validation")
    there = [documents_of(shard, vocabulary) for shard in shards]
    assert len(there) == 4
    # B is drawn from the own shard, too, or some document would be in two.
    assert sum(map(len, there)) == len(set().union(*there)) == len(documents)
    assert set().union(*there) == set(range(len(documents)))


def test_validation_does_not_depend_on_the_number_of_shards(
    tmp_path, corpus, vocabulary, config, records
):
    build_records([corpus], vocabulary, tmp_path / "one", dataclasses.replace(config, num_shards=1))
    name = "validation-00000-of-00001.tfrecord"
    assert (tmp_path / "one" / name).read_bytes() == (records / name).read_bytes()
    ((one,), three) = records_of(tmp_path / "one", "train"), records_of(records, "train")
    assert documents_of(one, vocabulary) == set().union(
        *(documents_of(shard, vocabulary) for shard in three)
    )


def test_labels_and_text_of_the_records(records, vocabulary):
    num_random = 0
    for shard in records_of(records, "train"):
        for record in shard:
            a, b = parts(record)
            assert a == list(range(a[0], a[0] + len(a)))
            assert b == list(range(b[0], b[0] + len(b)))
            same = document_of(a[0], vocabulary) == document_of(b[0], vocabulary)
            assert record["next_sentence_labels"].tolist() == [0 if same else 1]
            assert not same or b[0] > a[-1]
            num_random += not same
    assert num_random > 50


def test_every_token_is_in_every_pass_that_cuts_nothing(
    tmp_path, corpus, vocabulary, config, documents
):
    # Pairs long enough for two documents are never cut.
    long = dataclasses.replace(
        config, sequence_length=257, short_sequence_probability=0.0, duplicates=2
    )
    manifest = build_records([corpus], vocabulary, tmp_path / "long", long)
    assert manifest.counts["train"]["truncated"] == manifest.counts["validation"]["truncated"] == 0
    used = dict.fromkeys(range(5, len(vocabulary)), 0)
    for path in (tmp_path / "long").glob("*.tfrecord"):
        for record in read_plain(path, 257, 5):
            a, b = parts(record)
            for token in a if record["next_sentence_labels"][0] else a + b:
                used[token] += 1
    assert set(used.values()) == {2}


def test_records_are_shuffled(records, vocabulary):
    for shard in records_of(records, "train"):
        order = [document_of(parts(record)[0][0], vocabulary) for record in shard]
        # In the order they are made, the document would hardly ever change but upwards.
        assert sum(before > after for before, after in itertools.pairwise(order)) > len(order) / 4


def test_passes_have_other_masks(records):
    seen = {}
    for shard in records_of(records, "train"):
        for record in shard:
            positions = record["masked_lm_positions"][record["masked_lm_weights"] == 1]
            seen.setdefault(tuple(unmasked(record)), set()).add(tuple(positions.tolist()))
    assert max(map(len, seen.values())) > 1


def test_counts_are_true(records, documents):
    manifest = load_manifest(records)
    assert manifest.counts["corpus"] == {
        "documents": len(documents),
        "sentences": sum(map(len, documents)),
        "tokens": sum(len(sentence) for document in documents for sentence in document),
        "unknown_tokens": 0,
        "long_sentences": 0,
        "empty_sentences": 0,
        "empty_documents": 0,
        "cut_documents": 0,
        "broken_lines": 0,
        "replaced_characters": 0,
        "characters": sum(len("".join(s)) for document in documents for s in document),
        "letters": 3 * sum(len(s) for document in documents for s in document),
        "stripped_marks": 0,
        "parted_letters": 0,
        "unknown_characters": 0,
        "long_words": 0,
        "long_word_characters": 0,
        "longest_document": max(sum(map(len, document)) for document in documents),
        "empty_texts": 0,
        "left_out_members": 0,
        "duplicate_paragraphs": 0,
        "duplicate_characters": 0,
        "copied_documents": 0,
        "copied_tokens": 0,
    }
    for split in ("train", "validation"):
        there = [record for shard in records_of(records, split) for record in shard]
        counts = manifest.counts[split]
        truncated, unused = counts.pop("truncated"), counts.pop("unused_tokens")
        assert len(there) / 2 < counts.pop("packed_records") < len(there)
        masked = sum(int(record["masked_lm_weights"].sum()) for record in there)
        assert counts == {
            "documents": counts["documents"],
            "records": len(there),
            "pairs": len(there),
            "tokens": sum(int(record["input_mask"].sum()) for record in there),
            "positive_labels": sum(int(record["next_sentence_labels"][0]) for record in there),
            "masked_tokens": masked,
            "sampled_masks": masked,
            "wanted_masks": masked,
            "sampled_records": len(there),
            "dropped": 0,
            "document_tokens": counts["document_tokens"],
        }
        # Every token of the corpus is unlike every other one.
        used = {int(token) for record in there for token in unmasked(record) if token > 4}
        assert len(used) == counts["document_tokens"] - unused
        assert 0 < truncated <= sum(int(record["input_mask"].sum()) == 29 for record in there)
        assert [shard.records for shard in manifest.shards if shard.split == split] == [
            len(shard) for shard in records_of(records, split)
        ]
    assert manifest.counts["train"]["documents"] + manifest.counts["validation"][
        "documents"
    ] == len(documents)


def test_sentences_without_a_token_are_dropped_and_counted(tmp_path):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "b", "c"))
    text = ["a b", "\x01\u200b", "unheard of"], ["\ufffd", "\x02"], ["c"]
    config = RecordsConfig(
        sequence_length=13, max_predictions=3, validation_fraction=0.0, mask_rate=0.0
    )
    manifest = build_records(
        [write(tmp_path / "a.txt", *text)], vocabulary, tmp_path / "out", config
    )
    assert {name: count for name, count in manifest.counts["corpus"].items() if count} == {
        "documents": 2,
        "sentences": 3,
        "tokens": 5,
        "unknown_tokens": 2,
        "empty_sentences": 3,
        "empty_documents": 1,
        "characters": 16,
        "letters": 12,
        "unknown_characters": 9,
        "longest_document": 4,
    }
    assert manifest.counts.keys() == {"corpus", "train"}
    there = read_plain(tmp_path / "out" / "train-00000-of-00001.tfrecord", 13, 3)
    assert {tuple(part) for record in there for part in parts(record)} >= {(7,), (1, 1)}
    assert sum(record["masked_lm_weights"].sum() for record in there) == 0


def test_many_documents_cross_the_batches(tmp_path):
    # More sentences than are tokenised at once, more records than are masked at once.
    words = [f"w{n}" for n in range(5003)]
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *words))
    path = write(tmp_path / "a.txt", *([word] for word in words))
    config = RecordsConfig(
        sequence_length=5, max_predictions=1, duplicates=1, validation_fraction=0.1, num_shards=3
    )
    manifest = build_records([path], vocabulary, tmp_path / "out", config)
    firsts = [
        {parts(record)[0][0] for record in read_plain(tmp_path / "out" / shard.name, 5, 1)}
        for shard in manifest.shards
    ]
    # Every document is one sentence and makes one record, as A.
    assert [shard.records for shard in manifest.shards] == list(map(len, firsts))
    assert set().union(*firsts) == set(range(5, 5008))
    # Four standard deviations of a binomial: of 5,003 documents with p = 0.1, and of the rest with
    # p = 1/3.
    held_out = len(firsts[3])
    assert abs(held_out - 500.3) < 85
    rest = 5003 - held_out
    assert all(abs(len(shard) - rest / 3) < 4 * (rest * 2 / 9) ** 0.5 for shard in firsts[:3])


def test_text_is_tokenised_as_bert_does(tmp_path):
    lines = [
        "Der FLUSS fließt, naïve Façade!",
        "「中文」 a[MASK]b",
        "x" * 200 + " " + "x" * 201,
        "\ufeffEnd.",
    ]
    pieces = sorted(
        {
            char
            for line in lines
            for form in (line, line.lower())
            for char in form
            if not char.isspace()
        }
    )
    vocabulary = Vocabulary(
        (*SPECIAL_TOKENS, *pieces, "c", *(f"##{piece}" for piece in [*pieces, "c"]))
    )
    config = RecordsConfig(
        sequence_length=257, max_predictions=3, validation_fraction=0.0, mask_rate=0.0, duplicates=1
    )
    for cased in (False, True):
        path = write(tmp_path / "a.txt", *([line] for line in lines))
        output = tmp_path / str(cased)
        build_records([path], vocabulary, output, dataclasses.replace(config, cased=cased))
        expected = {
            tuple(
                vocabulary.ids[piece]
                for piece in plain_tokenizer.tokenize(line, vocabulary.ids, cased)
            )
            for line in lines
        }
        records = read_plain(output / "train-00000-of-00001.tfrecord", 257, 3)
        assert {
            tuple(parts(record)[0]) for record in records if record["input_mask"].sum() < 257
        } >= {row for row in expected if len(row) < 100}


def test_finished_output_is_left_as_it_is(tmp_path, corpus, vocabulary, config, records):
    output, elsewhere = tmp_path / "copy", tmp_path / "renamed.txt"
    shutil.copytree(records, output)
    shutil.copy(corpus, elsewhere)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()}
    manifest = build_records([elsewhere], vocabulary, output, config)
    assert manifest == load_manifest(records)
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()
    } == before


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"seed": 8}, r"seed: 7 before, 8 now"),
        (
            {"sequence_length": 31, "mask_rate": 0.2},
            r"mask_rate: 0\.15 before, 0\.2 now; sequence_length: 29 before, 31 now",
        ),
    ],
)
def test_another_configuration_in_the_same_directory_is_refused(
    corpus, vocabulary, config, records, refused, change, pattern
):
    before = content(records)
    with refused(
        rf"Expected the configuration that {re.escape(str(records))} was made with\. Received "
        rf"another: {pattern};"
    ):
        build_records([corpus], vocabulary, records, dataclasses.replace(config, **change))
    assert content(records) == before


def test_another_vocabulary_format_or_text_is_refused(
    tmp_path, corpus, vocabulary, config, records, refused
):
    before = content(records)
    with refused(r"vocabulary_sha256: '[0-9a-f]{64}' before, '[0-9a-f]{64}' now"):
        build_records([corpus], Vocabulary((*vocabulary.tokens, "more")), records, config)
    with refused(r"format: 'sentences' before, 'text' now"):
        build_records([corpus], vocabulary, records, config, format="text")
    text = write(tmp_path / "a.txt", ["d0s0w0"], ["d1s0w0"])
    with refused(
        r"input_bytes: \d+ before, 15 now; input_sha256: '[0-9a-f]{64}' before, '[0-9a-f]{64}' "
        r"now; use the same"
    ):
        build_records([text], vocabulary, records, config)
    assert content(records) == before


def test_text_that_moved_from_one_file_to_the_next_is_changed_text(tmp_path, refused):
    # The end of a file ends a document: the bytes in a row are the same, the documents are not.
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *"abc"))
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
    paths = [tmp_path / "1.txt", tmp_path / "2.txt"]
    paths[0].write_text("a\n\nb\n")
    paths[1].write_text("c\n")
    build_records(paths, vocabulary, tmp_path / "out", config)
    paths[0].write_text("a\n\n")
    paths[1].write_text("b\nc\n")
    with refused(r"input_sha256"):
        build_records(paths, vocabulary, tmp_path / "out", config)


def test_interrupted_build_is_made_anew(tmp_path, corpus, vocabulary, config, records):
    output = tmp_path / "out"
    shutil.copytree(records, output)
    shard = output / "train-00001-of-00003.tfrecord"
    for name in (
        "manifest.json",
        "vocab.txt",
        "train-00002-of-00003.tfrecord",
        "validation-00000-of-00001.tfrecord",
    ):
        (output / name).unlink()
    shard.with_name(shard.name + ".partial").write_bytes(shard.read_bytes()[:1009])
    shard.write_bytes(b"not what should be here")
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


class NthCall:
    """Calls a function, and raises an error in the place of call number `last`."""

    def __init__(self, function, last, error):
        self.function, self.left, self.error = function, last, error

    def __call__(self, *arguments, **options):
        self.left -= 1
        if not self.left:
            raise self.error
        return self.function(*arguments, **options)

    def __get__(self, instance, owner=None):
        return self if instance is None else lambda *arguments: self(instance, *arguments)


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("where", "last"),
    [
        ("tfrecords.files.write_text", 1),  # config.json
        ("tfrecords.build.tokenized.save_part", 2),
        ("tfrecords.build.buckets.save_arrays", 3),
        ("tfrecords.build.tasks.partition", 2),
        ("tfrecords.writer.encode_records", 1),
        ("tfrecords.writer.encode_records", 3),
        ("tfrecords.files._fsync", 11),
        ("tfrecords.vocabulary.Vocabulary.save", 1),
        ("tfrecords.schema.Manifest.save", 1),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), NO_SPACE], ids=["interrupt", "no-space"])
def test_interruption_leaves_nothing_that_looks_finished(
    tmp_path, corpus, vocabulary, config, records, refused, monkeypatch, where, last, error
):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tfrecords.build.tokenizing, "_SENTENCES_PER_BATCH", 31)
        patch.setattr(tfrecords.build.tokenizing, "PART_TOKENS", 300)
        patch.setattr(where, NthCall(pkgutil.resolve_name(where), last, error))
        with pytest.raises(type(error)) as caught:
            build_records([corpus], vocabulary, output, config)
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(output)
        assert re.fullmatch(
            r"no space left on the disk; free some and run the same command again to continue",
            caught.value.strerror,
        )
    if output.exists():
        assert ".lock" not in content(output)
        with refused(r"Expected manifest\.json in .*so no finished records"):
            load_manifest(output)
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


def test_disk_that_is_really_full(tmp_path, corpus, vocabulary, config, records):
    disk = tmp_path / "disk"
    disk.mkdir()
    half = sum(map(len, content(records).values())) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={half}", "tmpfs", str(disk)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here")
    try:
        (disk / "mine").write_text("earlier work")
        with pytest.raises(
            OSError,
            match=rf"no space left on the disk; .*{re.escape(str(disk / 'out'))}",
        ) as caught:
            build_records([corpus], vocabulary, disk / "out", config)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "out" / "config.json").exists()
        assert not (disk / "out" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        build_records([corpus], vocabulary, disk / "out", config)
        assert content(disk / "out") == content(records)
        assert (disk / "mine").read_text() == "earlier work"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_second_build_into_the_same_directory_is_refused_while_the_first_runs(
    tmp_path, corpus, vocabulary, config, records, refused, monkeypatch
):
    output, partition = tmp_path / "out", tfrecords.build.tasks.partition

    def meanwhile(*arguments):
        monkeypatch.undo()
        with refused(
            rf"Expected {re.escape(str(output))} to be free\. Received: a directory that another "
            r"process works on"
        ):
            build_records([corpus], vocabulary, output, config)
        return partition(*arguments)

    monkeypatch.setattr(tfrecords.build.tasks, "partition", meanwhile)
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


def test_directory_with_other_files_is_refused_and_untouched(
    tmp_path, corpus, vocabulary, config, refused
):
    (tmp_path / "mine.tfrecord").write_text("years of work")
    (tmp_path / "draft.partial").write_text("days of work")
    with refused(
        r"Expected an empty or new directory\. Received: .*, which already holds draft\.partial "
        r"and 1 more;"
    ):
        build_records([corpus], vocabulary, tmp_path, config)
    assert content(tmp_path) == {
        "mine.tfrecord": b"years of work",
        "draft.partial": b"days of work",
    }


def test_output_among_the_input_is_refused(tmp_path, corpus, vocabulary, config, refused):
    text = tmp_path / "text"
    text.mkdir()
    shutil.copy(corpus, text)
    before = content(text)
    with refused(
        r"Expected an output directory apart from the input\. Received: .*text for the input .*text"
    ):
        build_records([text], vocabulary, text, config)
    assert content(text) == before


def test_output_below_an_input_directory_is_refused(tmp_path, corpus, vocabulary, config, refused):
    # The records would be text to the next build.
    text = tmp_path / "text"
    text.mkdir()
    shutil.copy(corpus, text)
    with refused(r"Expected an output directory apart from the input\. Received: .*records"):
        build_records([text], vocabulary, text / "records", config)
    assert [path.name for path in text.iterdir()] == ["corpus.txt"]


def test_output_that_is_a_file_is_refused(tmp_path, corpus, vocabulary, config, refused):
    (tmp_path / "out").write_text("a file")
    with refused(
        r"Expected the name of a directory\. Received: .*out, which is a file; name another"
    ):
        build_records([corpus], vocabulary, tmp_path / "out", config)


@pytest.mark.parametrize(
    ("text", "fraction", "shards", "pattern"),
    [
        (
            "one\ntwo\nthree\n",
            0.0,
            1,
            r"Next sentence prediction .* expected at least 2 documents\. Received: 1; separate "
            r"the documents with empty lines, choose --format documents or paragraphs if every "
            r"line is one, or choose --pairs sop or --pairs none, for which one is enough\.$",
        ),
        (
            "one\ntwo\nthree\n",
            0.1,
            None,
            r"choose --pairs sop or --pairs none, for which one is enough with "
            r"--validation-fraction 0\.$",
        ),
        (
            "one\n\ntwo\n",
            0.0,
            2,
            r"Received: [01] of 2 documents in train shard [01]; .* fewer --shards",
        ),
        (
            "one\n\ntwo\n\nthree\n",
            0.01,
            1,
            r"Received: [01] of 3 documents in validation shard 0; .* --validation-fraction",
        ),
    ],
)
def test_too_few_documents_are_refused(tmp_path, refused, text, fraction, shards, pattern):
    (tmp_path / "a.txt").write_text(text)
    config = RecordsConfig(
        sequence_length=13, max_predictions=3, validation_fraction=fraction, num_shards=shards
    )
    with refused(pattern):
        build_records(
            [tmp_path / "a.txt"],
            Vocabulary((*SPECIAL_TOKENS, "one", "two")),
            tmp_path / "out",
            config,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "\n\n \n", "\x01\n\u200b\n"])
def test_corpus_of_nothing_is_refused(tmp_path, refused, text):
    (tmp_path / "a.txt").write_text(text)
    with refused(r"Expected text\. Received: input files without a single word"):
        build_records(
            [tmp_path / "a.txt"],
            Vocabulary((*SPECIAL_TOKENS, "a")),
            tmp_path / "out",
            RecordsConfig(),
        )


def test_invalid_utf8_is_refused_or_replaced(tmp_path, refused):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two"))
    (tmp_path / "a.txt").write_bytes(b"one\n\ntw\xffo\n")
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
    with refused(r"a\.txt: expected UTF-8\. Received: an invalid byte at offset 7;"):
        build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "strict", config)
    manifest = build_records(
        [tmp_path / "a.txt"], vocabulary, tmp_path / "replaced", config, errors="replace"
    )
    assert manifest.counts["corpus"]["unknown_tokens"] == 0


def test_an_invalid_byte_is_told_before_any_work(tmp_path, refused, monkeypatch):
    # Also behind the first block that is read, and where a file ends inside a character.
    monkeypatch.setattr(tfrecords.build.recipe, "_build", None)
    (tmp_path / "a").write_text("one\n\ntwo\n")
    for broken, offset in [
        (b"one\xff", 3),
        (b"x" * (1 << 20) + "é\xff".encode("latin-1"), 1 << 20),
    ]:
        for number in (0, 1):
            content = b"\n" * number + broken
            (tmp_path / "b").write_bytes(content)
            with refused(rf"b: expected UTF-8\. .* invalid byte at offset {offset + number:,};"):
                build_records(
                    [tmp_path / "a", tmp_path / "b"],
                    Vocabulary((*SPECIAL_TOKENS, "one", "two")),
                    tmp_path / "out",
                    RecordsConfig(),
                )
    assert not (tmp_path / "out").exists()


def test_mended_input_may_be_built_where_the_broken_one_was_refused(tmp_path, refused):
    # Nothing was written for the broken one, and the message said how to mend it.
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two"))
    path, config = (
        tmp_path / "a.txt",
        RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0),
    )
    path.write_bytes(b"one\n\ntw\xffo\n")
    with refused(r"expected UTF-8"):
        build_records([path], vocabulary, tmp_path / "out", config)
    manifest = build_records([path], vocabulary, tmp_path / "out", config, errors="replace")
    assert manifest.counts["corpus"]["documents"] == 2


def test_names_with_spaces_and_other_letters(tmp_path, corpus, vocabulary, config, records):
    text = tmp_path / "Ein Körper [1]" / "中 文.txt"
    text.parent.mkdir()
    shutil.copy(corpus, text)
    output = tmp_path / "Sätze [*] 1"
    build_records([text.parent], vocabulary, output, config)
    shards = {name: there for name, there in content(output).items() if name.endswith(".tfrecord")}
    assert shards == {
        name: there for name, there in content(records).items() if name.endswith(".tfrecord")
    }


# The same bytes, whatever the text is kept in.


def in_format(format, documents):
    """The same documents as the content of a file in another format."""
    texts = ["\n".join(" ".join(sentence) for sentence in document) for document in documents]
    if format == "paragraphs":
        return "\n\n".join(texts)
    if format == "wikiextractor":
        return "".join(f'<doc id="{n}">\n{text}\n</doc>\n' for n, text in enumerate(texts))
    if format == "jsonl":
        return "".join(json.dumps({"a": {"b": text}}) + "\n" for text in ["", *texts])
    delimiter = {"csv": ",", "tsv": "\t"}[format]
    rows = io.StringIO(newline="")
    csv.writer(rows, delimiter=delimiter).writerows([["n", "a.b"], *enumerate(["", *texts])])
    return rows.getvalue()


# Those whose documents are no paragraphs of running text in a file of text.
OTHERS = ("sentences", "text", "documents", "parquet")


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("format", [name for name in TEXT_FORMATS if name not in OTHERS])
def test_every_format_gives_the_same_records(
    tmp_path, documents, vocabulary, config, records, format
):
    (tmp_path / "a").write_text(in_format(format, documents), newline="")
    has_field = TEXT_FORMATS[format].rows is not None
    manifest = build_records(
        [tmp_path / "a"],
        vocabulary,
        tmp_path / "out",
        config,
        format=format,
        text_field="a.b" if has_field else "text",
        workers=3 if format == "wikiextractor" else 1,
    )
    assert manifest.shards == load_manifest(records).shards
    assert manifest.counts["corpus"]["empty_texts"] == has_field
    assert ("1 row or document without text" in inspect(tmp_path / "out", 0)) == has_field


def test_a_build_from_before_text_fields_continues(tmp_path, corpus, vocabulary, config, records):
    shutil.copytree(records, tmp_path / "out")
    there = tmp_path / "out" / "config.json"
    job = json.loads(there.read_text())
    del job["text_field"]
    there.write_text(json.dumps(job))
    assert build_records([corpus], vocabulary, tmp_path / "out", config).shards == (
        load_manifest(records).shards
    )


# The same bytes, however the text is spread over files and the work over spans and processes.


@pytest.fixture(scope="module")
def five_files(tmp_path_factory, documents):
    """The corpus in files of 1, 7, 19, 3 and 13 documents, every other one compressed."""
    place, first, paths = tmp_path_factory.mktemp("five files"), 0, []
    for number, count in enumerate([1, 7, 19, 3, 13]):
        some = documents[first : first + count]
        text = "\n\n".join(
            "\n".join(" ".join(words) for words in document) for document in some
        ).encode()
        paths.append(place / f"{9 - number}.txt")  # not in the order of their names
        paths[-1].write_bytes(gzip.compress(text) if number % 2 else text)
        first += count
    return paths


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    ("workers", "pack"), [(1, 1), (2, 3), pytest.param(5, 1, marks=pytest.mark.long)]
)
def test_number_of_workers_and_files_does_not_matter(
    tmp_path, five_files, vocabulary, config, records, packed_records, workers, pack
):
    config = dataclasses.replace(config, pack=pack)
    build_records(five_files, vocabulary, tmp_path / "out", config, workers=workers)
    assert output_of(tmp_path / "out") == output_of(packed_records if pack > 1 else records)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_text_is_the_same_text(tmp_path, corpus, vocabulary, config, records, compress):
    (tmp_path / "corpus.txt").write_bytes(compress(corpus.read_bytes()))
    build_records([tmp_path / "corpus.txt"], vocabulary, tmp_path / "out", config)
    assert output_of(tmp_path / "out") == output_of(records)


@pytest.mark.parametrize(
    ("span_bytes", "group_bytes", "part_tokens", "sentences", "characters"),
    [
        (1, 1, 1 << 21, 4096, 1 << 19),
        (1, 1009, 1 << 21, 4096, 1 << 19),
        (997, 1, 1, 1, 1 << 19),
        (5003, 1 << 24, 101, 7, 1 << 19),
        (1 << 24, 1 << 24, 1, 13, 31),
    ],
)
def test_cuts_of_the_work_do_not_matter(
    tmp_path,
    corpus,
    vocabulary,
    config,
    records,
    monkeypatch,
    span_bytes,
    group_bytes,
    part_tokens,
    sentences,
    characters,
):
    spans_of, found = tfrecords.build.recipe.spans_of, []

    def small_spans(files, format):
        found.extend(spans_of(files, format, span_bytes))
        return found

    monkeypatch.setattr(tfrecords.build.recipe, "spans_of", small_spans)
    monkeypatch.setattr(
        tfrecords.build.recipe,
        "span_groups",
        functools.partial(span_groups, group_bytes=group_bytes),
    )
    monkeypatch.setattr(tfrecords.build.tokenizing, "PART_TOKENS", part_tokens)
    monkeypatch.setattr(tfrecords.build.tokenizing, "_SENTENCES_PER_BATCH", sentences)
    monkeypatch.setattr(tfrecords.build.tokenizing, "_CHARACTERS_PER_BATCH", characters)
    build_records([corpus], vocabulary, tmp_path / "out", config)
    assert content(tmp_path / "out") == content(records)
    assert len(found) == {1: 43, 1 << 24: 1}.get(span_bytes, len(found))
    assert span_bytes > corpus.stat().st_size or len(found) > 1


@pytest.mark.parametrize("pairs", schema.PAIRS)
@pytest.mark.parametrize("masking", schema.MASKINGS)
@pytest.mark.parametrize("compression", schema.COMPRESSIONS)
def test_every_kind_of_records(
    tmp_path, corpus, vocabulary, config, documents, pairs, masking, compression
):
    config = dataclasses.replace(config, pairs=pairs, masking=masking, compression=compression)
    manifest = build_records([corpus], vocabulary, tmp_path / "out", config)
    manifest.verify()
    suffix = ".tfrecord.gz" if compression == "gzip" else ".tfrecord"
    assert [shard.name for shard in manifest.shards] == [
        *(f"train-0000{n}-of-00003{suffix}" for n in range(3)),
        f"validation-00000-of-00001{suffix}",
    ]
    names = {"input_ids"} if pairs == "none" else {"input_ids", "next_sentence_labels"}
    if masking == "dynamic":
        names |= {"first_length"}
    else:
        names |= {
            "input_mask",
            "segment_ids",
            "masked_lm_positions",
            "masked_lm_ids",
            "masked_lm_weights",
        }
    used, count = set(), 0
    for shard in manifest.shards:
        paths, kind = str(tmp_path / "out" / shard.name), "GZIP" if compression == "gzip" else ""
        for record in tf.data.TFRecordDataset(paths, kind).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            assert set(feature) == names
            ids = list(feature["input_ids"].int64_list.value)
            if masking == "dynamic":
                assert (
                    ids[-1]
                    == ids[feature["first_length"].int64_list.value[0] - 1]
                    == vocabulary.sep_id
                )
                assert len(ids) <= 29
                assert ids.count(vocabulary.sep_id) == (1 if pairs == "none" else 2)
                used.update(ids[1:])
            else:
                assert len(ids) == 29
                used.update(ids)
                used.update(feature["masked_lm_ids"].int64_list.value)
            count += 1
    assert count == sum(shard.records for shard in manifest.shards) > 43
    # Of full sentences nothing is lost; pairs are cut to length.
    lost = set(range(5, len(vocabulary))) - used
    assert not lost if pairs == "none" else len(lost) < len(vocabulary) / 5
    assert inspect(tmp_path / "out", num_examples=2, verify=True).count("[SEP]") >= 2
    assert (manifest.counts["train"]["masked_tokens"] == 0) == (masking == "dynamic")


def test_manifest_tells_where_every_block_begins(
    tmp_path, corpus, vocabulary, config, records, monkeypatch
):
    monkeypatch.setattr(schema, "BLOCK_RECORDS", 7)
    manifest = build_records([corpus], vocabulary, tmp_path / "out", config)
    for shard in load_manifest(tmp_path / "out").shards:
        path = tmp_path / "out" / shard.name
        there = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        content = path.read_bytes()
        assert content == (records / shard.name).read_bytes()
        assert len(shard.offsets) == -(-len(there) // 7) > 1
        for record, offset in zip(there[::7], shard.offsets, strict=True):
            size = int.from_bytes(content[offset : offset + 8], "little")
            assert content[offset + 12 : offset + 12 + size] == record
    assert load_manifest(tmp_path / "out") == manifest


def test_number_of_shards_follows_from_the_text(tmp_path, corpus, vocabulary, config):
    manifest = build_records(
        [corpus], vocabulary, tmp_path / "out", dataclasses.replace(config, num_shards=None)
    )
    assert [shard.name for shard in manifest.shards] == [
        "train-00000-of-00001.tfrecord",
        "validation-00000-of-00001.tfrecord",
    ]
    assert manifest.config == dataclasses.replace(settled(config), num_shards=1)


# Input that cannot be what was meant.


@pytest.mark.parametrize("nothing", [b"", b"\n\n  \n"])
def test_file_without_text_is_warned_of(tmp_path, corpus, vocabulary, config, records, nothing):
    (tmp_path / "empty ü.txt").write_bytes(nothing)
    with pytest.warns(
        UserWarning, match=rf"^{re.escape(str(tmp_path / 'empty ü.txt'))}: no text in there$"
    ) as caught:
        build_records([corpus, tmp_path / "empty ü.txt"], vocabulary, tmp_path / "out", config)
    assert [warning.filename for warning in caught] == [__file__]
    shards = {
        name: there
        for name, there in output_of(tmp_path / "out").items()
        if name != "manifest.json"
    }
    assert shards == {
        name: there for name, there in output_of(records).items() if name != "manifest.json"
    }


def test_renamed_input_of_a_build_that_goes_on_is_not_warned_of(
    tmp_path, corpus, vocabulary, config, records, monkeypatch
):
    shutil.copy(corpus, tmp_path / "a.txt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfrecords.build.tasks, "partition", NthCall(None, 1, KeyboardInterrupt()))
        build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "out", config)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_records([tmp_path / "b.txt"], vocabulary, tmp_path / "out", config)
    assert not [warning for warning in caught if "no text" in str(warning.message)]
    assert content(tmp_path / "out") == content(records)


@pytest.mark.parametrize("pairs", ["sop", "none"])
def test_single_document(tmp_path, refused, pairs):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two", "three"))
    (tmp_path / "a.txt").write_text("one two\nthree\ntwo two two\n")
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
    with refused(r"or choose --pairs sop or --pairs none"):
        build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    # In the same directory, as the message says.
    manifest = build_records(
        [tmp_path / "a.txt"], vocabulary, tmp_path / "out", dataclasses.replace(config, pairs=pairs)
    )
    assert manifest.counts["train"]["documents"] == 1
    assert manifest.counts["train"]["records"] >= 5


def test_text_without_empty_lines_is_warned_of(tmp_path):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two", "three"))
    config = RecordsConfig(
        sequence_length=13, max_predictions=3, validation_fraction=0.0, pairs="none", duplicates=1
    )
    for empty_line in (False, True):
        documents = ["one two\nthree two\n" * 501, "three one\n" * 1001]
        (tmp_path / "a.txt").write_text(
            ("\n" if empty_line else "").join(documents[: 1 + empty_line])
        )
        output = tmp_path / str(empty_line)
        build_records([tmp_path / "a.txt"], vocabulary, output, config)
        found = [
            line
            for line in inspect(output).split("\n")
            if "do empty lines separate the documents" in line
        ]
        assert len(found) == 1
        assert found[0].startswith("warning: 1,00")
    (tmp_path / "a.txt").write_text("one two three one\n" * 1000)
    build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "enough", config)
    assert "do empty lines separate" not in inspect(tmp_path / "enough")


@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_sentences_longer_than_a_sequence_are_counted_and_kept(tmp_path, pairs):
    words = [f"w{n}" for n in range(60)]
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *words))
    # 13 tokens leave 11 for a single segment, 10 for a pair. This is Google's algorithm, and that
    # of RoBERTa.
    sentences = [words[:10], words[10:21], words[21:33], words[33:60]]
    path = write(tmp_path / "a.txt", *([" ".join(sentence)] for sentence in sentences))
    config = RecordsConfig(
        sequence_length=13,
        max_predictions=1,
        pairs=pairs,
        masking="dynamic",
        validation_fraction=0.0,
        mask_rate=0.0,
        long_sentences="truncate",
    )
    manifest = build_records([path], vocabulary, tmp_path / "out", config)
    assert manifest.counts["corpus"]["long_sentences"] == (2 if pairs == "none" else 3)
    used = set()
    for record in tf.data.TFRecordDataset(manifest.files("train")).as_numpy_iterator():
        used.update(
            tf.train.Example.FromString(record).features.feature["input_ids"].int64_list.value
        )
    # Single segments lose nothing; of a pair of long sentences there is a part.
    assert used >= (set(range(5, 65)) if pairs == "none" else set())
    assert all(used & {vocabulary.ids[word] for word in sentence} for sentence in sentences)
    assert manifest.counts["train"]["records"] >= 4
    assert manifest.counts["train"]["unused_tokens"] == len(set(range(5, 65)) - used)
    assert inspect(tmp_path / "out").count(
        "\n  2 sentences longer than a sequence were split"
        if pairs == "none"
        else "\n  3 sentences longer than a sequence lose what does not fit"
    )


# Places.


def test_refused_directory_is_left_as_it_was(tmp_path, corpus, vocabulary, config, refused):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "mine").write_text("x")
    with refused(r"already holds sub"):
        build_records([corpus], vocabulary, tmp_path / "out", config)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["sub", "mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_current_directory_as_output(tmp_path, corpus, vocabulary, config, records, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build_records([corpus], vocabulary, ".", config)
    assert content(tmp_path / "here") == content(records)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    "name", ["../train-00000-of-00003.tfrecord", "/etc/passwd", "sub/train.tfrecord", "..", ""]
)
def test_shard_elsewhere_is_refused(tmp_path, records, refused, name):
    shutil.copytree(records, tmp_path / "out")
    fields = json.loads((records / "manifest.json").read_text())
    shutil.move(tmp_path / "out" / fields["shards"][0]["name"], tmp_path)
    fields["shards"][0]["name"] = name
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(fields))
    with refused(
        r"expected (shards beside it, by name\. Received: '.*/.*'|\d+ bytes.* Received: no such "
        r"file)"
    ):
        load_manifest(tmp_path / "out")


def test_standard_input(tmp_path, corpus, vocabulary, config, records, refused, monkeypatch):
    class Input:
        buffer = None

    def feed(text):
        Input.buffer = io.BytesIO(text)
        monkeypatch.setattr("sys.stdin", Input)

    output = tmp_path / "out"
    feed(corpus.read_bytes())
    build_records(["-"], vocabulary, output, config)
    assert output_of(output) == output_of(records)
    feed(gzip.compress(b"other text"))
    with refused(r"Received another: input_bytes: \d+ before, \d+ now; input_sha256"):
        build_records(["-"], vocabulary, output, config)
    assert output_of(output) == output_of(records)
    # Neither the copy of standard input nor the lock stays.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert ".lock" not in content(output)


def test_no_space_for_standard_input(tmp_path, vocabulary, config, monkeypatch):
    monkeypatch.setattr("shutil.copyfileobj", NthCall(None, 1, NO_SPACE))
    with pytest.raises(
        OSError, match=r"no space left on the disk; free some.*out\.standard-input\.partial"
    ):
        build_records(["-"], vocabulary, tmp_path / "out", config)
    assert not list(tmp_path.iterdir())


def test_a_read_error_is_not_the_users_to_mend(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("One.\n")
    with pytest.raises(OSError, match="Input/output error") as caught, opened(tmp_path / "a.txt"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_pattern_that_matches_the_output(tmp_path, corpus, vocabulary, config, records):
    (tmp_path / "a").mkdir()
    shutil.copy(corpus, tmp_path / "a" / "text")
    for _ in range(2):
        build_records(str(tmp_path / "a" / "**"), vocabulary, tmp_path / "a" / "out", config)
    assert content(tmp_path / "a" / "out") == content(records)


def test_many_files_without_text_are_one_warning(tmp_path, corpus, vocabulary, config):
    for number in range(7):
        (tmp_path / f"{number}").touch()
    with pytest.warns(UserWarning, match=r"0, .*1, .*2 and 4 more: no text in there") as caught:
        build_records(
            [corpus, *map(str, sorted(tmp_path.glob("?")))], vocabulary, tmp_path / "out", config
        )
    assert len(caught) == 1
