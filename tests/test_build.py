import dataclasses
import hashlib
import itertools
import json
import re
import shutil

import plain_tokenizer
import pytest
from plain_records import parts, read_plain, unmasked

import tfrecords.build
from tfrecords import RecordsConfig, Vocabulary, build_records, load_manifest
from tfrecords.vocabulary import SPECIAL_TOKENS


def content(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def records_of(directory, split):
    """The records of each shard of a split."""
    return [read_plain(path, 29, 5) for path in sorted(directory.glob(f"{split}-*.tfrecord"))]


def document_of(token_id, vocabulary):
    return int(vocabulary.tokens[token_id][1:].split("s")[0])


def documents_of(records, vocabulary):
    return {document_of(token, vocabulary) for record in records for part in parts(record) for token in part}


def write(path, *documents):
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def test_directory_holds_the_shards_and_all_that_is_needed_to_read_them(records, vocabulary, config, corpus):
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
    assert (manifest.vocabulary_size, manifest.vocabulary_sha256) == (len(vocabulary), vocabulary.sha256)
    assert (manifest.sequence_length, manifest.max_predictions, manifest.config) == (29, 5, config)
    job = json.loads((records / "config.json").read_text())
    assert job["input_bytes"] == corpus.stat().st_size
    assert {name: job[name] for name in dataclasses.asdict(config)} == dataclasses.asdict(config)
    for shard in manifest.shards:
        there = (records / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(there), hashlib.sha256(there).hexdigest())


def test_same_input_configuration_and_seed_give_the_same_bytes(tmp_path, corpus, vocabulary, config, records, global_seed):
    global_seed(11)  # must not matter
    build_records([corpus], vocabulary, tmp_path / "again", config)
    assert content(tmp_path / "again") == content(records)


@pytest.mark.parametrize("change", [{"seed": 8}, {"mask_rate": 0.2}, {"duplicates": 2}, {"short_sequence_probability": 0.9}])
def test_another_configuration_gives_other_bytes(tmp_path, corpus, vocabulary, config, records, change):
    build_records([corpus], vocabulary, tmp_path / "other", dataclasses.replace(config, **change))
    first, other = content(records), content(tmp_path / "other")
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".tfrecord"))


def test_other_seed_holds_out_other_documents(tmp_path, corpus, vocabulary, config, records):
    build_records([corpus], vocabulary, tmp_path / "other", dataclasses.replace(config, seed=8))
    first, other = (
        documents_of(records_of(directory, "validation")[0], vocabulary) for directory in (records, tmp_path / "other")
    )
    assert first != other


def test_every_document_is_in_one_shard_of_one_split(records, vocabulary, documents):
    shards = records_of(records, "train") + records_of(records, "validation")
    there = [documents_of(shard, vocabulary) for shard in shards]
    assert len(there) == 4
    # B is drawn from the own shard, too, or some document would be in two.
    assert sum(map(len, there)) == len(set().union(*there)) == len(documents)
    assert set().union(*there) == set(range(len(documents)))


def test_validation_does_not_depend_on_the_number_of_shards(tmp_path, corpus, vocabulary, config, records):
    build_records([corpus], vocabulary, tmp_path / "one", dataclasses.replace(config, num_shards=1))
    name = "validation-00000-of-00001.tfrecord"
    assert (tmp_path / "one" / name).read_bytes() == (records / name).read_bytes()
    ((one,), three) = records_of(tmp_path / "one", "train"), records_of(records, "train")
    assert documents_of(one, vocabulary) == set().union(*(documents_of(shard, vocabulary) for shard in three))


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


def test_every_token_is_in_every_pass_that_cuts_nothing(tmp_path, corpus, vocabulary, config, documents):
    # Pairs long enough for two documents are never cut.
    long = dataclasses.replace(config, sequence_length=257, short_sequence_probability=0.0, duplicates=2)
    manifest = build_records([corpus], vocabulary, tmp_path / "long", long)
    assert manifest.counts["train"]["truncated_pairs"] == manifest.counts["validation"]["truncated_pairs"] == 0
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


def test_every_shard_of_every_split_has_draws_of_its_own(tmp_path, corpus, vocabulary, config, monkeypatch):
    # With the same documents in all of them, nothing but the draws can make two shards differ.
    places = [("train", 0), ("train", 1), ("train", 2), ("validation", 0)]
    monkeypatch.setattr("tfrecords.build._partition", lambda documents, _: [(*place, documents) for place in places])
    manifest = build_records([corpus], vocabulary, tmp_path / "out", config)
    assert len({shard.sha256 for shard in manifest.shards}) == 4


def test_counts_are_true(records, documents):
    manifest = load_manifest(records)
    assert manifest.counts["corpus"] == {
        "documents": len(documents),
        "sentences": sum(map(len, documents)),
        "tokens": sum(len(sentence) for document in documents for sentence in document),
        "unknown_tokens": 0,
        "empty_sentences": 0,
        "empty_documents": 0,
    }
    for split in ("train", "validation"):
        there = [record for shard in records_of(records, split) for record in shard]
        counts = manifest.counts[split]
        truncated = counts.pop("truncated_pairs")
        assert counts == {
            "documents": counts["documents"],
            "records": len(there),
            "tokens": sum(int(record["input_mask"].sum()) for record in there),
            "random_next": sum(int(record["next_sentence_labels"][0]) for record in there),
            "masked_tokens": sum(int(record["masked_lm_weights"].sum()) for record in there),
        }
        assert 0 < truncated <= sum(int(record["input_mask"].sum()) == 29 for record in there)
        assert [shard.records for shard in manifest.shards if shard.split == split] == [
            len(shard) for shard in records_of(records, split)
        ]
    assert manifest.counts["train"]["documents"] + manifest.counts["validation"]["documents"] == len(documents)


def test_sentences_without_a_token_are_dropped_and_counted(tmp_path):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "b", "c"))
    text = ["a b", "\x01\u200b", "unheard of"], ["\ufffd", "\x02"], ["c"]
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0, mask_rate=0.0)
    manifest = build_records([write(tmp_path / "a.txt", *text)], vocabulary, tmp_path / "out", config)
    assert manifest.counts["corpus"] == {
        "documents": 2,
        "sentences": 3,
        "tokens": 5,
        "unknown_tokens": 2,
        "empty_sentences": 3,
        "empty_documents": 1,
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
    config = RecordsConfig(sequence_length=5, max_predictions=1, duplicates=1, validation_fraction=0.1, num_shards=3)
    manifest = build_records([path], vocabulary, tmp_path / "out", config)
    firsts = [{parts(record)[0][0] for record in read_plain(tmp_path / "out" / shard.name, 5, 1)} for shard in manifest.shards]
    # Every document is one sentence and makes one record, as A.
    assert [shard.records for shard in manifest.shards] == list(map(len, firsts))
    assert set().union(*firsts) == set(range(5, 5008))
    # Four standard deviations of a binomial: of 5,003 documents with p = 0.1, and of the rest with p = 1/3.
    held_out = len(firsts[3])
    assert abs(held_out - 500.3) < 85
    rest = 5003 - held_out
    assert all(abs(len(shard) - rest / 3) < 4 * (rest * 2 / 9) ** 0.5 for shard in firsts[:3])


def test_text_is_tokenised_as_bert_does(tmp_path):
    lines = ["Der FLUSS fließt, naïve Façade!", "「中文」 a[MASK]b", "x" * 200 + " " + "x" * 201, "\ufeffEnd."]
    pieces = sorted({char for line in lines for form in (line, line.lower()) for char in form if not char.isspace()})
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *pieces, "c", *(f"##{piece}" for piece in [*pieces, "c"])))
    config = RecordsConfig(sequence_length=257, max_predictions=3, validation_fraction=0.0, mask_rate=0.0, duplicates=1)
    for cased in (False, True):
        path = write(tmp_path / "a.txt", *([line] for line in lines))
        output = tmp_path / str(cased)
        build_records([path], vocabulary, output, dataclasses.replace(config, cased=cased))
        expected = {
            tuple(vocabulary.ids[piece] for piece in plain_tokenizer.tokenize(line, vocabulary.ids, cased)) for line in lines
        }
        records = read_plain(output / "train-00000-of-00001.tfrecord", 257, 3)
        assert {tuple(parts(record)[0]) for record in records if record["input_mask"].sum() < 257} >= {
            row for row in expected if len(row) < 100
        }


def test_finished_output_is_left_as_it_is(tmp_path, corpus, vocabulary, config, records):
    output, elsewhere = tmp_path / "copy", tmp_path / "renamed.txt"
    shutil.copytree(records, output)
    shutil.copy(corpus, elsewhere)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()}
    manifest = build_records([elsewhere], vocabulary, output, config)
    assert manifest == load_manifest(records)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()} == before


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
def test_another_configuration_in_the_same_directory_is_refused(corpus, vocabulary, config, records, refused, change, pattern):
    before = content(records)
    with refused(rf"Expected the configuration that {re.escape(str(records))} was made with\. Received another: {pattern};"):
        build_records([corpus], vocabulary, records, dataclasses.replace(config, **change))
    assert content(records) == before


def test_another_vocabulary_format_or_text_is_refused(tmp_path, corpus, vocabulary, config, records, refused):
    before = content(records)
    with refused(r"vocabulary_sha256: '[0-9a-f]{64}' before, '[0-9a-f]{64}' now"):
        build_records([corpus], Vocabulary((*vocabulary.tokens, "more")), records, config)
    with refused(r"format: 'sentences' before, 'text' now"):
        build_records([corpus], vocabulary, records, config, format="text")
    text = write(tmp_path / "a.txt", ["d0s0w0"], ["d1s0w0"])
    with refused(r"input_bytes: \d+ before, 15 now; input_sha256: '[0-9a-f]{64}' before, '[0-9a-f]{64}' now; use the same"):
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
    for name in ("manifest.json", "vocab.txt", "train-00002-of-00003.tfrecord", "validation-00000-of-00001.tfrecord"):
        (output / name).unlink()
    shard.with_name(shard.name + ".partial").write_bytes(shard.read_bytes()[:1009])
    shard.write_bytes(b"not what should be here")
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interruption_leaves_nothing_that_looks_finished(
    tmp_path, corpus, vocabulary, config, records, refused, monkeypatch, error
):
    output, write_shard, calls = tmp_path / "out", tfrecords.build.write_shard, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return write_shard(*arguments)

    monkeypatch.setattr(tfrecords.build, "write_shard", interrupted)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        build_records([corpus], vocabulary, output, config)
    with refused(r"Expected manifest\.json in .*so no finished records"):
        load_manifest(output)
    monkeypatch.undo()
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


def test_second_build_into_the_same_directory_is_refused_while_the_first_runs(
    tmp_path, corpus, vocabulary, config, records, refused, monkeypatch
):
    output, write_shard = tmp_path / "out", tfrecords.build.write_shard

    def meanwhile(*arguments):
        monkeypatch.undo()
        with refused(rf"xpected .*{re.escape(str(output))}"):
            build_records([corpus], vocabulary, output, config)
        return write_shard(*arguments)

    monkeypatch.setattr(tfrecords.build, "write_shard", meanwhile)
    build_records([corpus], vocabulary, output, config)
    assert content(output) == content(records)


def test_directory_with_other_files_is_refused_and_untouched(tmp_path, corpus, vocabulary, config, refused):
    (tmp_path / "mine.tfrecord").write_text("years of work")
    (tmp_path / "draft.partial").write_text("days of work")
    with refused(r"Expected an empty or new directory\. Received: .*, which already holds draft\.partial and 1 more;"):
        build_records([corpus], vocabulary, tmp_path, config)
    assert content(tmp_path) == {"mine.tfrecord": b"years of work", "draft.partial": b"days of work"}


def test_output_among_the_input_is_refused(tmp_path, corpus, vocabulary, config, refused):
    text = tmp_path / "text"
    text.mkdir()
    shutil.copy(corpus, text)
    before = content(text)
    with refused(r"Expected an output directory apart from the input\. Received: .*text for the input .*text"):
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
    with refused(r"Expected the name of a directory to make\. Received: .*out, which is a file"):
        build_records([corpus], vocabulary, tmp_path / "out", config)


@pytest.mark.parametrize(
    ("text", "fraction", "shards", "pattern"),
    [
        (
            "one\ntwo\nthree\n",
            0.0,
            1,
            r"expected at least 2 documents .*\. Received: 1 of 1 documents in train shard 0;.*empty",
        ),
        ("one\n\ntwo\n", 0.0, 2, r"Received: [01] of 2 documents in train shard [01]; .* fewer --shards"),
        ("one\n\ntwo\n\nthree\n", 0.01, 1, r"Received: [01] of 3 documents in validation shard 0; .* --validation-fraction"),
    ],
)
def test_too_few_documents_are_refused(tmp_path, refused, text, fraction, shards, pattern):
    (tmp_path / "a.txt").write_text(text)
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=fraction, num_shards=shards)
    with refused(pattern):
        build_records([tmp_path / "a.txt"], Vocabulary((*SPECIAL_TOKENS, "one", "two")), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "\n\n \n", "\x00\n\u200b\n"])
def test_corpus_of_nothing_is_refused(tmp_path, refused, text):
    (tmp_path / "a.txt").write_text(text)
    with refused(r"Expected text\. Received: input files without a single word"):
        build_records([tmp_path / "a.txt"], Vocabulary((*SPECIAL_TOKENS, "a")), tmp_path / "out", RecordsConfig())


def test_invalid_utf8_is_refused_or_replaced(tmp_path, refused):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two"))
    (tmp_path / "a.txt").write_bytes(b"one\n\ntw\xffo\n")
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
    with refused(r"a\.txt: expected UTF-8\. Received: an invalid byte at offset 7;"):
        build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "strict", config)
    manifest = build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "replaced", config, errors="replace")
    assert manifest.counts["corpus"]["unknown_tokens"] == 0


def test_mended_input_may_be_built_where_the_broken_one_was_refused(tmp_path, refused):
    # Nothing was written for the broken one, and the message said how to mend it.
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two"))
    path, config = tmp_path / "a.txt", RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
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
    assert shards == {name: there for name, there in content(records).items() if name.endswith(".tfrecord")}
