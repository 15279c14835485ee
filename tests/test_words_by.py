"""Words that a segmenter has set apart are masked whole."""

import json
import pathlib
import re

import numpy as np
import pytest

from tfrecords import RecordsConfig, Vocabulary, build_records, inspect, learn_vocabulary, read
from tfrecords.inspection import verify_records
from tfrecords.vocabulary import SPECIAL_TOKENS

WORDS = ["我们", "北京", "大学生", "学习", "中文", "很", "好看", "的", "电影院"]
CHARACTERS = sorted({character for word in WORDS for character in word})
TOKENS = (*SPECIAL_TOKENS, "。", *CHARACTERS)
VOCABULARY = Vocabulary(TOKENS)


def config(**options):
    return RecordsConfig(
        **{
            "sequence_length": 32,
            "max_predictions": 6,
            "duplicates": 3,
            "validation_fraction": 0.0,
            "num_shards": 1,
            "mask_unit": "word",
            "words_by": " ",
        }
        | options
    )


@pytest.fixture(scope="module")
def sentences():
    """Sentences of words, each in a document with another."""
    draw = np.random.default_rng(3)
    return [[list(draw.choice(WORDS, 8)) for _ in range(2)] for _ in range(30)]


def write(path: pathlib.Path, sentences, separator=" "):
    lines = ["\n".join(separator.join([*some, "。"]) for some in pair) for pair in sentences]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def masked_words(directory):
    """How many words of several characters are masked whole, and how many in part."""
    whole = parts = 0
    for x, y, weight in read(directory, "train", batch_size=1, shuffle=False, epochs=1):
        ids, labels = x["token_ids"].numpy()[0], y["mlm"].numpy()[0]
        assert max(ids.max(), labels.max()) < len(VOCABULARY)
        positions = x["mask_positions"].numpy()[0][weight["mlm"].numpy()[0] > 0]
        ids[positions] = labels[: len(positions)]
        # Every token is a character, so that the text has the positions of the tokens.
        text = "".join(token if len(token) == 1 else "-" for token in np.array(TOKENS)[ids])
        for word in re.finditer("|".join(WORDS), text):
            chosen = np.isin(np.arange(*word.span()), positions)
            whole += chosen.all() and len(chosen) > 1
            parts += chosen.any() and not chosen.all()
    return whole, parts


@pytest.mark.parametrize("masking", ["static", "dynamic"])
@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_of_a_segmenter_are_masked_whole(tmp_path, sentences, masking, unit):
    path = write(tmp_path / "text", sentences)
    chosen = config(masking=masking, mask_unit=unit)
    manifest = build_records(path, VOCABULARY, tmp_path / "records", chosen)
    verify_records(manifest)
    whole, parts = masked_words(tmp_path / "records")
    assert whole > 30
    assert parts <= whole // 10  # words that a pair was truncated in
    assert "masked" in inspect(tmp_path / "records", num_examples=1)
    # Without, every character is a word.
    alone = config(masking=masking, mask_unit=unit, words_by=None)
    build_records(path, VOCABULARY, tmp_path / "alone", alone)
    assert masked_words(tmp_path / "alone")[1] > 30


def test_the_tokens_are_those_of_the_text_without_a_segmenter(tmp_path, sentences):
    path = write(tmp_path / "text", sentences)
    shards = []
    for words_by in (" ", None):
        chosen = config(words_by=words_by, mask_rate=0.0)
        build_records(path, VOCABULARY, tmp_path / str(words_by), chosen)
        shards.append((tmp_path / str(words_by) / "train-00000-of-00001.tfrecord").read_bytes())
    assert shards[0] == shards[1]


@pytest.mark.parametrize("separator", ["▁", "|", "<w>"])
def test_any_separator_will_do(tmp_path, sentences, separator):
    spaces = write(tmp_path / "spaces", sentences)
    other = write(tmp_path / "other", sentences, separator)
    one = build_records(spaces, VOCABULARY, tmp_path / "one", config())
    two = build_records(other, VOCABULARY, tmp_path / "two", config(words_by=separator))
    assert one.counts == two.counts
    assert one.shards[0].sha256 == two.shards[0].sha256
    learned = [
        learn_vocabulary(path, 60, words_by=words_by, check=False)
        for path, words_by in ((spaces, None), (other, separator))
    ]
    assert learned[0] == learned[1]


def test_workers_make_no_difference(tmp_path, sentences):
    # With the marks of words more than 2 ** 16 ids, which two bytes each would not hold.
    fillers = tuple(f"w{number}" for number in range(40_000))
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *fillers, "。", *CHARACTERS))
    files = [write(tmp_path / str(n), sentences[n::3]) for n in range(3)]
    for workers in (1, 2):
        build_records(files, vocabulary, tmp_path / f"r{workers}", config(), workers=workers)
    name = "train-00000-of-00001.tfrecord"
    assert (tmp_path / "r1" / name).read_bytes() == (tmp_path / "r2" / name).read_bytes()


def test_single_tokens_have_no_words(refused):
    with refused(r"with mask_unit=token"):
        config(mask_unit="token")
    with refused(r"Received: '' with mask_unit=word"):
        config(words_by="")


def test_the_manifest_keeps_it(tmp_path, sentences):
    path = write(tmp_path / "text", sentences)
    build_records(path, VOCABULARY, tmp_path / "records", config())
    manifest = json.loads((tmp_path / "records" / "manifest.json").read_text())
    assert manifest["config"]["words_by"] == " "
