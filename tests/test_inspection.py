import pytest

from tfrecords import RecordsConfig, Vocabulary, build_records, inspect, load_manifest
from tfrecords.inspection import decode
from tfrecords.vocabulary import SPECIAL_TOKENS


def test_one_record_in_words():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "the", "run", "##ning", "man", "sees", "red", "##dish", "."))
    # [CLS] the run ##ning man [SEP] sees red ##dish . [SEP], of which the, ##ning, man, red and . are predicted.
    token_ids, positions = [2, 4, 6, 4, 11, 3, 9, 10, 11, 12, 3], [1, 3, 4, 7, 9, 0]
    text = decode(token_ids, [5, 7, 8, 10, 12, 0], positions, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0], 0, vocabulary)
    assert text == "B follows A (0)\n  [CLS] [MASK→the] run[MASK→ning] [dish→man] [SEP]\n  sees [red=]dish [.=] [SEP]"


def test_words_that_were_cut_in_words():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "the", "run", "##ning", "man"))
    text = decode([2, 7, 5, 3, 4, 8, 3], [7, 0], [4, 0], [1.0, 0.0], 1, vocabulary)
    assert text == "B is random (1)\n  [CLS] …ning the [SEP]\n  …[MASK→ning] man [SEP]"


def test_description_says_what_the_manifest_says(records, vocabulary):
    manifest = load_manifest(records)
    text = inspect(records, num_examples=2)
    head, legend, *examples = text.split("\n\n")
    assert "[y→x]: x is replaced by y" in legend
    first, corpus, train, validation = head.split("\n")
    assert f"{records}: records of S = 29 tokens with P = 5 slots" in first
    assert f"{len(vocabulary):,} pieces of vocabulary ({vocabulary.sha256[:12]})" in first
    assert corpus.startswith("corpus: 43 documents, ")
    counts = manifest.counts["train"]
    assert train.startswith(f"train: {counts['records']:,} records in 3 files (")
    assert f"from {counts['documents']} documents; {counts['random_next'] / counts['records']:.1%} random next" in train
    assert f"{1 - counts['tokens'] / (29 * counts['records']):.1%} padding" in train
    assert validation.startswith(f"validation: {manifest.counts['validation']['records']:,} records in 1 files (")
    assert [example.split("\n")[0].split(":")[0] for example in examples] == ["train record 0", "train record 1"]
    assert all("[CLS] " in example and example.count("[SEP]") >= 2 for example in examples)
    assert "[MASK→d" in text


def test_number_of_examples(records):
    assert inspect(records, num_examples=0).count("record 0") == 0
    assert inspect(str(records), num_examples=7).count("train record ") == 7
    n = load_manifest(records).num_records("train")
    assert inspect(records, num_examples=n + 7).count("train record ") == n


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("one two three\n" * 29, []),
        ("one two unheard\n" * 29, [r"33.3% of the tokens are \[UNK\]"]),
        ("one two three four five six seven\n", ["of the train pairs are random"]),
        ("one\ntwo\n", ["more than half of the train split is padding"]),
    ],
)
def test_warnings(tmp_path, text, warnings):
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two", "three", "four", "five", "six", "seven"))
    (tmp_path / "a.txt").write_text("\n".join([text] * 31))
    config = RecordsConfig(sequence_length=13, max_predictions=3, validation_fraction=0.0)
    build_records([tmp_path / "a.txt"], vocabulary, tmp_path / "out", config)
    found = [line for line in inspect(tmp_path / "out").split("\n") if line.startswith("warning: ")]
    assert len(found) == len(warnings)
    assert all(warning.replace("\\", "") in line for warning, line in zip(warnings, found, strict=True))


def test_directory_without_records_is_refused(tmp_path, refused):
    with refused(r"Expected manifest\.json in .*\. Received: a directory without it"):
        inspect(tmp_path)
    with refused(r"Expected a directory of records\. Received: .*none, which is no directory"):
        inspect(tmp_path / "none")


def test_files_without_a_manifest_are_refused(records, refused):
    # There is no vocabulary to put them into words with.
    with refused(r"xpected .*(directory|manifest)"):
        inspect(records / "train-00000-of-00003.tfrecord")
