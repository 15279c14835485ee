import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from plain_records import read_plain

from tfrecords import RecordsConfig, Vocabulary, build_records, inspect, load_manifest
from tfrecords.files import sha256
from tfrecords.inspection import decode
from tfrecords.parsing import features_of
from tfrecords.vocabulary import SPECIAL_TOKENS
from tfrecords.writer import write_shard


def test_one_record_in_words():
    vocabulary = Vocabulary(
        (*SPECIAL_TOKENS, "the", "run", "##ning", "man", "sees", "red", "##dish", ".")
    )
    # [CLS] the run ##ning man [SEP] sees red ##dish . [SEP], of which the, ##ning, man, red and .
    # are predicted.
    token_ids, positions = [2, 4, 6, 4, 11, 3, 9, 10, 11, 12, 3], [1, 3, 4, 7, 9, 0]
    text = decode(
        token_ids, [5, 7, 8, 10, 12, 0], positions, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0], vocabulary
    )
    assert (
        text == "  [CLS] [MASK→the] run[MASK→ning] [dish→man] [SEP]\n  sees [red=]dish [.=] [SEP]"
    )


def test_words_that_were_cut_in_words():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "the", "run", "##ning", "man"))
    text = decode([2, 7, 5, 3, 4, 8, 3], [7, 0], [4, 0], [1.0, 0.0], vocabulary)
    assert text == "  [CLS] …ning the [SEP]\n  …[MASK→ning] man [SEP]"


def test_description_says_what_the_manifest_says(records, vocabulary):
    manifest = load_manifest(records)
    text = inspect(records, num_examples=2)
    head, legend, *examples = text.split("\n\n")
    assert "[y→x]: x is replaced by y" in legend
    first, corpus, coverage, train, validation, advice = head.split("\n")
    assert f"{records}: records of S = 29 tokens with P = 5 slots" in first
    assert "(tokens, masked when written), pairs: nsp, " in first
    assert f"vocabulary of {len(vocabulary):,} tokens ({vocabulary.sha256[:12]})" in first
    assert corpus.startswith("corpus: 43 documents, ")
    assert corpus.endswith(f" {manifest.counts['corpus']['characters']:,} characters")
    counts = [manifest.counts[split] for split in ("train", "validation")]
    tokens, unused = (
        sum(one[name] for one in counts) for name in ("document_tokens", "unused_tokens")
    )
    assert coverage.startswith("coverage: 100% of the characters are in tokens; ")
    assert unused == 0
    assert "; 100% of the tokens are in records; " in coverage
    assert coverage.endswith(
        f"{counts[1]['document_tokens'] / tokens:.1%} of the tokens are held out for validation"
    )
    counts = manifest.counts["train"]
    assert train.startswith(f"train: {counts['records']:,} records in 3 files (")
    assert (
        f"from {counts['documents']} documents; "
        f"{counts['positive_labels'] / counts['records']:.1%} random next" in train
    )
    assert f"{1 - counts['tokens'] / (29 * counts['records']):.1%} padding" in train
    assert validation.startswith(
        f"validation: {manifest.counts['validation']['records']:,} records in 1 file ("
    )
    padding = 1 - counts["tokens"] / (29 * counts["records"])
    assert advice == (
        f"advice: {padding:.1%} of the train split is padding; --pack 8 would make "
        f"{counts['records'] / counts['packed_records']:.2f} times fewer records of the same "
        "pairs, as 'kbert pack' does with records that are there."
    )
    assert [example.split("\n")[0].split(":")[0] for example in examples] == [
        "train record 0",
        "train record 1",
    ]
    assert all("[CLS] " in example and example.count("[SEP]") >= 2 for example in examples)
    assert "[MASK→d" in text


def test_number_of_examples(records):
    assert inspect(records, num_examples=0).count("record 0") == 0
    assert inspect(str(records), num_examples=7).count("train record ") == 7
    n = load_manifest(records).num_records("train")
    assert inspect(records, num_examples=n + 7).count("train record ") == n


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory, corpus, vocabulary, config):
    """Records that are masked in reading, of swapped pairs of words, as gzip."""
    directory = tmp_path_factory.mktemp("built") / "records"
    config = dataclasses.replace(
        config, masking="dynamic", pairs="sop", mask_unit="word", compression="gzip", num_shards=2
    )
    build_records([corpus], vocabulary, directory, config)
    return directory


def test_description_of_records_that_are_masked_in_reading(dynamic):
    head, _, *examples = inspect(dynamic, num_examples=17, verify=True).split("\n\n")
    manifest = load_manifest(dynamic)
    assert "(words, masked on reading, other masks in every epoch), pairs: sop, " in head
    counts = manifest.counts["train"]
    assert f"documents; {counts['positive_labels'] / counts['records']:.1%} swapped, " in head
    assert "masked tokens per record" not in head
    assert (
        f"all {manifest.num_records('train') + manifest.num_records('validation'):,} records are "
        "sound" in head
    )
    titles = {example.split("\n")[0].split(": ")[1] for example in examples}
    assert titles == {"A and B in order (0)", "A and B swapped (1)"}
    assert "[MASK→d" in "".join(examples)


def test_description_of_single_segments(tmp_path, corpus, vocabulary, config):
    build_records(
        [corpus],
        vocabulary,
        tmp_path / "out",
        dataclasses.replace(config, pairs="none", validation_fraction=0.0),
    )
    head, _, example = inspect(tmp_path / "out", num_examples=1, verify=True).split("\n\n")
    assert ", pairs: none, " in head
    assert "random" not in head
    assert "swapped" not in head
    assert "truncated (" not in head
    assert "masked tokens per record" in head
    assert "validation: " not in head
    assert example.split("\n")[0] == "train record 0:"
    assert example.count("[SEP]") == 1


def test_sound_records_are_said_to_be_sound_only_if_they_were_read(records):
    manifest = load_manifest(records)
    number = manifest.num_records("train") + manifest.num_records("validation")
    assert f"\nall {number:,} records are sound\n" in inspect(records, verify=True)
    assert "sound" not in inspect(records)


def copied(records, tmp_path):
    shutil.copytree(records, tmp_path / "copy")
    return tmp_path / "copy"


def rewritten(directory, index, batch):
    """Other records in place of a shard's, with a manifest that says so."""
    manifest = load_manifest(directory)
    old = manifest.shards[index]
    new = write_shard(directory / old.name, old.split, [batch], old.compression)
    shards = (*manifest.shards[:index], new, *manifest.shards[index + 1 :])
    dataclasses.replace(manifest, shards=shards).save()
    return directory / old.name


def test_flipped_bit_is_found(records, tmp_path, refused):
    directory = copied(records, tmp_path)
    shard = directory / "train-00002-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 128
    shard.write_bytes(content)
    assert "train: " in inspect(directory, num_examples=0)
    with refused(
        r"copy: expected whole records\. Received: damage \(.*corrupted record.*\); --verify names "
        r"the file\."
    ):
        inspect(directory, num_examples=1)
    with refused(r"train-00002-of-00003\.tfrecord: expected the content with SHA-256 "):
        inspect(directory, verify=True)


def test_flipped_bit_is_found_although_the_hash_says_otherwise(records, tmp_path, refused):
    # The hash was taken of the damaged file: the CRCs of its records still tell.
    directory = copied(records, tmp_path)
    manifest = load_manifest(directory)
    shard = directory / manifest.shards[1].name
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    new = dataclasses.replace(manifest.shards[1], sha256=sha256(shard))
    dataclasses.replace(manifest, shards=(manifest.shards[0], new, *manifest.shards[2:])).save()
    with refused(
        rf"{shard.name}: expected whole records\. Received: damage behind record 0 \(.*corrupted"
    ):
        inspect(directory, verify=True)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("input_ids", None, None),
        ("masked_lm_ids", None, None),
        ("masked_lm_positions", 29, 28),
        ("segment_ids", 2, 1),
        ("input_mask", 2, 1),
        ("next_sentence_labels", 2, 1),
    ],
)
def test_value_out_of_range_is_found(records, tmp_path, vocabulary, refused, name, value, limit):
    value, limit = (len(vocabulary), len(vocabulary) - 1) if value is None else (value, limit)
    directory = copied(records, tmp_path)
    there = read_plain(directory / load_manifest(directory).shards[1].name, 29, 5)
    features = {
        key: np.stack([record[key] for record in there]).astype(
            np.float32 if "weights" in key else np.int32
        )
        for key in there[0]
    }
    shard = rewritten(directory, 1, (features, None))
    assert "are sound" in inspect(directory, verify=True)
    features[name][13, -1] = value
    rewritten(directory, 1, (features, None))
    with refused(
        rf"{shard.name}, record 13: expected {name} from 0 to {limit:,}\. Received: {value}\."
    ):
        inspect(directory, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"id": 10_000}, r", record 3: expected input_ids from 0 to [0-9,]+\. Received: 10000\."),
        ({"first_length": 30}, r", record 3: expected first_length from 0 to 29\. Received: 30\."),
        (
            {"length": 30},
            r", record 3: expected a number of input_ids from 0 to 29\. Received: 30\.",
        ),
    ],
)
def test_value_out_of_range_is_found_in_records_that_are_masked_in_reading(
    dynamic, tmp_path, refused, change, message
):
    directory = copied(dynamic, tmp_path)
    features = {
        "input_ids": np.full([5, 30], 7, np.int32),
        "first_length": np.full([5, 1], 4, np.int32),
        "next_sentence_labels": np.zeros([5, 1], np.int32),
    }
    lengths = np.array([5, 29, 7, 11, 13])
    features["input_ids"][3, 5] = change.get("id", 7)
    features["first_length"][3] = change.get("first_length", 4)
    lengths[3] = change.get("length", 11)
    shard = rewritten(directory, 0, (features, {"input_ids": lengths}))
    if message is None:
        assert "are sound" in inspect(directory, verify=True)
        return
    with refused(shard.name + message):
        inspect(directory, verify=True)


@pytest.mark.parametrize("more", [1, -1])
def test_wrong_number_of_records_is_found(records, tmp_path, refused, more):
    directory = copied(records, tmp_path)
    manifest = load_manifest(directory)
    right = manifest.shards[2]
    wrong = dataclasses.replace(right, records=right.records + more)
    dataclasses.replace(manifest, shards=(*manifest.shards[:2], wrong, *manifest.shards[3:])).save()
    with refused(
        rf"{right.name}: expected {wrong.records} records, as in the manifest\. Received: "
        rf"{right.records}\."
    ):
        inspect(directory, verify=True)


def test_packed_records_are_decoded_by_pair(packed_records, records):
    manifest = load_manifest(packed_records)
    head, _, *examples = inspect(packed_records, num_examples=40, verify=True).split("\n\n")
    first, _, _, train, *rest = head.split("\n")
    assert "pairs: nsp, up to 3 in a record, vocabulary" in first
    counts, single = (
        load_manifest(directory).counts["train"] for directory in (packed_records, records)
    )
    assert train.startswith(
        f"train: {counts['records']} records of {single['records']} pairs in 3 files ("
    )
    assert f"{single['positive_labels'] / single['records']:.1%} random next sentences, " in train
    assert f", {1 - counts['tokens'] / (29 * counts['records']):.1%} padding, " in train
    assert not any(line.startswith("advice") for line in rest)
    assert rest[-1] == f"all {sum(shard.records for shard in manifest.shards)} records are sound"

    # All pairs of the first records, each as it would be alone.
    titles = [example.split("\n")[0] for example in examples]
    assert len({title.split(",")[0] for title in titles}) == 40
    assert any(", pair 2 of 2: B is random (1)" in title for title in titles)
    alone = inspect(records, num_examples=1000).split("\n\n")[2:]
    texts = {example.split("\n", 1)[1] for example in alone}
    assert {example.split("\n", 1)[1] for example in examples} <= texts


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("input_mask", 0, 2, "input_mask to number the pairs from 1"),
        ("input_mask", 28, 4, "input_mask from 0 to 3. Received: 4"),
        ("position_ids", 3, 4, "position_ids to count the tokens of each pair from 0"),
        ("input_ids", 0, 7, "every pair to begin with [CLS]"),
        ("next_sentence_positions", 1, 1, "next_sentence_positions to name the [CLS] of each pair"),
        ("next_sentence_weights", 0, 0, "next_sentence_weights of 1 for each pair"),
        ("next_sentence_labels", 2, 1, "next_sentence_labels for pairs alone"),
    ],
)
def test_packed_records_that_do_not_hang_together_are_found(
    packed_records, tmp_path, refused, name, place, value, message
):
    directory = copied(packed_records, tmp_path)
    manifest = load_manifest(directory)
    record = tf.data.TFRecordDataset(str(directory / manifest.shards[1].name)).batch(1000)
    features = {
        key: values.numpy().astype(np.float32 if "weights" in key else np.int32)
        for key, values in tf.io.parse_example(next(iter(record)), features_of(manifest)).items()
    }
    (row,) = np.nonzero(features["next_sentence_weights"].sum(axis=1) == 2)
    features[name][row[0], place] = value
    shard = rewritten(directory, 1, (features, None))
    with refused(re.escape(f"{shard.name}, record {row[0]}: expected {message}")):
        inspect(directory, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"pair_lengths": 4}, "record 1: expected pair_lengths of all tokens"),
        ({"first_length": 6}, "record 1: expected first_length of at most the length of the pair"),
        ({"input_ids": 7}, "record 1: expected every pair to begin with [CLS]"),
    ],
)
def test_packed_records_that_are_masked_in_reading_are_checked_too(
    packed_records, tmp_path, refused, change, message
):
    directory = copied(packed_records, tmp_path)
    manifest = load_manifest(directory)
    cls_id = manifest.load_vocabulary().cls_id
    features = {
        "input_ids": np.full([2, 11], 9, np.int32),
        "pair_lengths": np.array([[5, 6], [5, 0]], np.int32),
        "first_length": np.array([[4, 4], [4, 0]], np.int32),
        "next_sentence_labels": np.array([[1, 0], [0, 0]], np.int32),
        "pair_places": np.array([[0, 2], [1, 0]], np.int32),
        "shard_index": np.zeros([2, 1], np.int32),
    }
    features["input_ids"][:, 0] = features["input_ids"][0, 5] = cls_id
    for name, value in change.items():
        features[name][1, 0] = value
    sizes = np.array([2, 1])
    lengths = {name: sizes for name in features if name not in ("input_ids", "shard_index")}
    for index, shard in enumerate(manifest.shards):
        new = rewritten(directory, index, (features, lengths | {"input_ids": np.array([11, 5])}))
        assert new.name == shard.name
    manifest = load_manifest(directory)
    dynamic = dataclasses.replace(manifest.config, masking="dynamic")
    dataclasses.replace(manifest, config=dynamic).save()
    if message is None:
        assert "are sound" in inspect(directory, verify=True)
        return
    with refused(re.escape(message)):
        inspect(directory, verify=True)


def warnings_of(directory):
    return [
        line.removeprefix("warning: ")
        for line in inspect(directory).split("\n")
        if line.startswith("warning: ")
    ]


@pytest.mark.parametrize(
    ("text", "pairs", "expected"),
    [
        ("one two three\n" * 29, "nsp", []),
        ("one two unheard\n" * 29, "nsp", ["33.3% of the tokens are [UNK]"]),
        ("one two three four five six seven\n", "nsp", ["100% of the train pairs are random"]),
        ("one two three four five six seven\n", "sop", []),
        ("one\ntwo\n", "nsp", ["more than half of the train split is padding"]),
        (
            "one two three four five six seven " * 3 + "\n" + "one two three\n",
            "sop",
            ["50.0% of the sentences are longer than"],
        ),
        (
            "one\n",
            "sop",
            ["100% of the tokens are in no record, as documents", "there are no records in the"],
        ),
    ],
)
def test_warnings(tmp_path, text, pairs, expected):
    vocabulary = Vocabulary(
        (*SPECIAL_TOKENS, "one", "two", "three", "four", "five", "six", "seven")
    )
    (tmp_path / "a.txt").write_text("\n".join([text] * 31))
    config = RecordsConfig(
        sequence_length=13, max_predictions=3, validation_fraction=0.0, pairs=pairs
    )
    build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "out", config)
    copies = "96.8% of the tokens are in documents that are copies of others; --deduplicate drops"
    found = warnings_of(tmp_path / "out")
    assert sum(line.startswith(copies) for line in found) == 1
    found = [line for line in found if not line.startswith(copies)]
    assert len(found) == len(expected)
    assert all(line.startswith(start) for start, line in zip(expected, found, strict=True))


def test_every_warning_begins_where_it_says(records, tmp_path):
    """The counts on both sides of each limit."""
    directory = copied(records, tmp_path)
    manifest = load_manifest(directory)
    corpus = {
        "documents": 7,
        "sentences": 7000,
        "tokens": 10_000,
        "unknown_tokens": 100,
        "long_sentences": 700,
        "characters": 30_000,
        "unknown_characters": 300,
        "letters": 20_000,
        "stripped_marks": 200,
        "parted_letters": 200,
        "longest_document": 500,
        "copied_documents": 1,
        "copied_tokens": 100,
    }
    split = {
        "document_tokens": 6600,
        "unused_tokens": 500,
        "sampled_records": 1000,
        "sampled_masks": 2000,
        "wanted_masks": 4000,
        "documents": 7,
        "records": 1000,
        "pairs": 1000,
        "tokens": 14_500,
        "positive_labels": 300,
        "masked_tokens": 1,
        "truncated": 0,
    }
    quiet = {
        "corpus": manifest.counts["corpus"] | corpus,
        "train": manifest.counts["train"] | split,
        "validation": manifest.counts["validation"] | split | {"document_tokens": 3400},
    }
    quiet["validation"]["unused_tokens"] = 0

    def found(part=None, **change):
        counts = quiet if part is None else quiet | {part: quiet[part] | change}
        dataclasses.replace(manifest, counts=counts).save()
        return warnings_of(directory)

    assert found() == []
    assert found("train", positive_labels=700) == []
    for part, change, start in [
        ("corpus", {"unknown_tokens": 101}, "1.0% of the tokens are [UNK]"),
        (
            "corpus",
            {"sentences": 7001},
            "1,000 sentences in a document; do empty lines separate the documents",
        ),
        (
            "corpus",
            {"long_sentences": 701},
            "10.0% of the sentences are longer than a sequence and were split; if a line is a "
            "paragraph, --format paragraphs breaks it into sentences",
        ),
        (
            "corpus",
            {"unknown_characters": 301},
            "1.0% of the tokens are [UNK], which stand for 1.0% of the characters; 'kbert "
            "vocabulary' makes",
        ),
        (
            "corpus",
            {"unknown_characters": 301, "long_words": 1, "long_word_characters": 151},
            "1.0% of the tokens are [UNK], which stand for 1.0% of the characters; most of that is "
            "in 1 words of more than 200 characters, which --long-words split keeps",
        ),
        (
            "corpus",
            {"characters": 99 * 300, "unknown_characters": 0, "replaced_characters": 301},
            "1.0% of the text's characters stand for invalid UTF-8, which is lost; --errors",
        ),
        (
            "corpus",
            {"stripped_marks": 201},
            "--accents strip takes away marks such as accents, umlauts and vowel signs, 1.0 for "
            "every 100 letters; --accents keep",
        ),
        (
            "corpus",
            {"parted_letters": 201},
            "--accents strip takes apart 1.0% of the letters, such as Hangul syllables; --accents",
        ),
        (
            "train",
            {"unused_tokens": 501},
            "5.0% of the tokens are in no record, as pairs are truncated to the length of a "
            "sequence; what helps: --duplicates 6, which makes more pairs of it; or --pairs none",
        ),
        (
            "train",
            {"unused_tokens": 501, "dropped": 1000},
            "5.0% of the tokens are in no record, as documents of a single token make no pair",
        ),
        (
            "validation",
            {"document_tokens": 3401},
            "34.0% of the tokens are held out for validation, where --validation-fraction asks for "
            "0.17 of the documents: documents are few or unequal; give more of them, or change "
            "--validation-fraction or --seed",
        ),
        (
            "train",
            {"sampled_masks": 1999},
            "2.0 tokens per sequence are masked in the train split, where 4.0 should be: longer "
            "words are never masked; --mask-unit token",
        ),
        (
            "corpus",
            {"copied_tokens": 101},
            "1.0% of the tokens are in documents that are copies of others, so that held-out text "
            "may be in training too; --deduplicate drops",
        ),
        ("train", {"positive_labels": 299}, "30% of the train pairs are random"),
        ("train", {"positive_labels": 701}, "70% of the train pairs are random"),
        ("train", {"tokens": 14_499}, "more than half of the train split is padding"),
    ]:
        (warning,) = found(part, **change)
        assert warning.startswith(start)


def test_advice_is_never_what_was_done(records, tmp_path):
    directory = copied(records, tmp_path)
    manifest = load_manifest(directory)

    def found(format, config, part="corpus", **change):
        counts = manifest.counts | {part: manifest.counts[part] | change}
        config = dataclasses.replace(manifest.config, **config)
        dataclasses.replace(manifest, counts=counts, format=format, config=config).save()
        return warnings_of(directory)

    # Sentences that were split lose nothing, and in running text they are none of the user's.
    long = {"sentences": 100, "long_sentences": 90}
    truncated = "90.0% of the sentences are longer than a sequence and lose what does not fit"
    for format, config, expected in [
        ("text", {}, []),
        ("jsonl", {}, []),
        (None, {}, []),
        ("text", {"pairs": "none", "long_sentences": "truncate"}, []),
        ("text", {"long_sentences": "truncate"}, [f"{truncated}; --long-sentences split keeps"]),
        (
            "sentences",
            {"long_sentences": "truncate"},
            [f"{truncated}; --long-sentences split keeps all of them, and if a line is a"],
        ),
    ]:
        warnings = found(format, config, **long)
        assert len(warnings) == len(expected)
        assert all(map(str.startswith, warnings, expected))
        assert "--format" not in "".join(warnings) or format == "sentences"

    # Whether the text is read as the vocabulary was made. It is an uncased one.
    unknown = {"unknown_characters": 1000}
    (warning,) = found("text", {"cased": True}, **unknown)
    assert warning.endswith("the vocabulary looks uncased, as --uncased would read the text.")
    (warning,) = found("text", {}, **unknown)
    assert "--cased" not in warning
    assert "--uncased" not in warning

    # How documents are told apart depends on the format.
    many = {"sentences": 1001 * 43}
    (warning,) = found("sentences", {}, **many)
    assert "do empty lines separate" in warning
    for format, advice in [
        ("text", "do two empty lines separate the documents, as the format requires?"),
        ("jsonl", "is the text one JSON object per line and document?"),
    ]:
        (warning,) = found(format, {}, **many)
        assert warning.endswith(advice)


def test_what_was_mended_in_the_text_has_a_line_if_there_is_any(records, tmp_path):
    directory = copied(records, tmp_path)
    manifest = load_manifest(directory)
    names = {
        "empty_sentences": "lines without a token",
        "empty_documents": "documents without a token",
        "cut_documents": "times a document longer than",
        "broken_lines": "lines longer than 1 MiB",
        "replaced_characters": "characters stand for invalid UTF-8",
        "long_sentences": "sentences longer than a sequence were split",
        "long_words": "words of more than 200 characters",
        "stripped_marks": "marks, such as accents and vowel signs, were taken from letters",
        "parted_letters": "letters, such as Hangul syllables, were taken apart",
    }
    none = manifest.counts["corpus"] | dict.fromkeys(names, 0)
    for name, text in names.items():
        dataclasses.replace(
            manifest, counts=manifest.counts | {"corpus": none | {name: 1234}}
        ).save()
        lines = [
            line for line in inspect(directory, num_examples=0).split("\n") if line.startswith("  ")
        ]
        assert len(lines) == 1
        assert lines[0].startswith(f"  1,234 {text}")


def test_directory_without_records_is_refused(tmp_path, refused):
    with refused(r"Expected manifest\.json in .*\. Received: a directory without it"):
        inspect(tmp_path)
    with refused(r"Expected a directory of records\. Received: .*none, which is no directory"):
        inspect(tmp_path / "none")


def test_files_without_a_manifest_are_refused(records, refused):
    # There is no vocabulary to put them into words with.
    with refused(r"xpected .*(directory|manifest)"):
        inspect(records / "train-00000-of-00003.tfrecord")


def test_wrong_offsets_are_found(tmp_path, records, refused):
    shutil.copytree(records, tmp_path / "records")
    fields = json.loads((tmp_path / "records" / "manifest.json").read_text())
    fields["shards"][0]["offsets"][0] = 1
    (tmp_path / "records" / "manifest.json").write_text(json.dumps(fields))
    with refused(r"expected blocks of records at \(1,\), as in the manifest\. Received: \(0,\)\."):
        inspect(tmp_path / "records", verify=True)
