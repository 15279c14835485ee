"""Sentences that are longer than a sequence go on as several, of which nothing is lost."""

import itertools
import json
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import InputError, RecordsConfig, Vocabulary, build_records, inspect, schema
from tfrecords.build.splitting import SentenceSplitter
from tfrecords.vocabulary import SPECIAL_TOKENS

WORDS = ("a", "b", "##c", "##d", ",", "।", "”", "...", "##,", "+")
VOCABULARY = Vocabulary((*SPECIAL_TOKENS, *WORDS))


def ids(text):
    return [VOCABULARY.ids[token] for token in text.split()]


def split(sentences, longest, longest_part):
    """The parts of each sentence, as text."""
    tokens = np.array(list(itertools.chain(*map(ids, sentences))), np.int32)
    lengths = np.array([len(ids(sentence)) for sentence in sentences], np.int64)
    parts, numbers = SentenceSplitter(VOCABULARY, longest, longest_part).parts(tokens, lengths)
    assert len(numbers) == len(sentences)
    assert (parts.sum(), numbers.sum()) == (len(tokens), len(parts))
    texts = np.split(np.array(VOCABULARY.tokens)[tokens], np.cumsum(parts)[:-1])
    ends = np.cumsum(numbers)
    return [
        [" ".join(one) for one in texts[end - n : end]]
        for n, end in zip(numbers, ends, strict=True)
    ]


def plain(tokens, longest, longest_part):
    """The parts of one sentence, in plain Python."""
    if len(tokens) <= longest:
        return [tokens]

    def is_mark(token):
        return len(token) == 1 and unicodedata.category(token).startswith("P")

    parts = []
    while len(tokens) > longest_part:
        cuts = range(longest_part // 2 + 1, longest_part + 1)
        marks = [cut for cut in cuts if is_mark(tokens[cut - 1]) and not is_mark(tokens[cut])]
        words = [cut for cut in cuts if not tokens[cut].startswith("##")]
        cut = (marks or words or cuts)[-1]
        parts.append(tokens[:cut])
        tokens = tokens[cut:]
    return [*parts, tokens]


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("a b a b a b", ["a b a b a b"]),
        ("a b a b a b a", ["a b a b a b", "a"]),
        ("a b a b , a b a b", ["a b a b ,", "a b a b"]),
        ("a , a , a ##c ##d", ["a , a ,", "a ##c ##d"]),
        ("a , a b ##c ##d ##c", ["a , a b ##c ##d", "##c"]),  # the mark is in the first half
        ("a ##c ##c b ##c ##d ##c ##d", ["a ##c ##c b ##c ##d", "##c ##d"]),
        ("a ##c ##c ##c b ##d ##c ##d", ["a ##c ##c ##c", "b ##d ##c ##d"]),
        ("a ##c ##c ##c ##c ##c ##c ##d", ["a ##c ##c ##c ##c ##c", "##c ##d"]),
        ("a b a b । ” b a", ["a b a b । ”", "b a"]),
        ("a b a । ” , ” b", ["a b a । ” ,", "” b"]),  # more marks than there is room for
        ("a b a b ##, ... + b", ["a b a b ##, ...", "+ b"]),  # no marks by themselves
    ],
)
def test_where_a_sentence_is_split(sentence, parts):
    assert split([sentence], 6, 6) == [parts]


def test_sentences_that_fit_stay_whole():
    assert split(["a b", "a b a b a b a", "b", "a , b a b"], 6, 3) == [
        ["a b"],
        ["a b a", "b a b", "a"],
        ["b"],
        ["a , b a b"],
    ]
    assert split(["a b", "a"], 6, 3) == [["a b"], ["a"]]
    assert split([], 6, 3) == []


@pytest.mark.parametrize("longest_part", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("longest", [11, 23])
def test_parts_are_those_of_the_plain_version(longest, longest_part):
    draw = np.random.default_rng(longest_part)
    weights = np.array([3, 3, 3, 3, 1, 0.5, 1, 0.5, 0.5, 0.5])
    sentences = [
        draw.choice(WORDS, draw.integers(1, 97), p=weights / weights.sum()).tolist()
        for _ in range(501)
    ]
    found = split([" ".join(sentence) for sentence in sentences], longest, longest_part)
    assert found == [
        [" ".join(part) for part in plain(sentence, longest, longest_part)]
        for sentence in sentences
    ]
    parts = [part.split() for parts in found if len(parts) > 1 for part in parts[:-1]]
    assert all(longest_part / 2 < len(part) <= longest_part for part in parts)


def test_what_no_option_says_is_refused():
    with pytest.raises(InputError, match=r"long_sentences.*Received: 'cut'"):
        RecordsConfig(long_sentences="cut")


@pytest.fixture
def text(tmp_path):
    """Documents of long and short sentences, every word unlike every other one, and the vocabulary
    of the words."""
    draw = np.random.default_rng(5)
    count, documents = 0, []
    for _ in range(17):
        lengths = draw.choice([3, 7, 29, 307], draw.integers(2, 6))
        documents.append(
            [" ".join(f"w{count + n}" for n in range(sum(lengths[:k]), sum(lengths[: k + 1])))
             for k in range(len(lengths))]
        )  # fmt: skip
        count += sum(lengths)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *(f"w{n}" for n in range(count))))
    (tmp_path / "a.txt").write_text("\n\n".join("\n".join(document) for document in documents))
    return tmp_path / "a.txt", documents, vocabulary


def config_of(pairs, **options):
    return RecordsConfig(
        sequence_length=29,
        max_predictions=3,
        pairs=pairs,
        mask_rate=0.0,
        validation_fraction=0.0,
        num_shards=2,
        **options,
    )


def tokens_of(files):
    """The ids in all records of the files."""
    used = set()
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        used.update(features["input_ids"].int64_list.value)
    return used


@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_nothing_of_long_sentences_is_lost(tmp_path, text, pairs):
    path, documents, vocabulary = text
    shares = {}
    for what in (None, "truncate"):
        config = config_of(pairs, long_sentences=what)
        manifest = build_records([path], vocabulary, tmp_path / f"{what}", config)
        used = tokens_of(manifest.files("train")) - set(range(5))
        total = len(vocabulary) - 5
        assert manifest.counts["corpus"]["tokens"] == total
        assert manifest.counts["train"]["unused_tokens"] == total - len(used)
        # The counts are of the text as it was.
        assert manifest.counts["corpus"]["sentences"] == sum(map(len, documents))
        assert manifest.counts["corpus"]["long_sentences"] == sum(
            len(sentence.split()) > config.longest_text
            for document in documents
            for sentence in document
        )
        shares[what] = 1 - len(used) / total
    assert manifest.config.long_sentences == "truncate"
    assert shares[None] == 0 if pairs == "none" else shares[None] < 0.05
    assert shares["truncate"] == 0 if pairs == "none" else shares["truncate"] > 0.4
    lost = "of the tokens are in no record"
    assert lost not in inspect(tmp_path / "None")
    if pairs != "none":
        (warning,) = [line for line in inspect(tmp_path / "truncate").split("\n") if lost in line]
        assert "--long-sentences split; --duplicates 10" in warning


def test_bytes_do_not_depend_on_files_and_spans(tmp_path, text, monkeypatch):
    path, documents, vocabulary = text
    config = config_of("nsp")
    build_records([path], vocabulary, tmp_path / "one", config)
    files = []
    for number, document in enumerate(documents):
        files.append(tmp_path / f"part-{number:02d}.txt")
        files[-1].write_text("\n".join(document))
    monkeypatch.setattr("tfrecords.build.tokenizing._SENTENCES_PER_BATCH", 2)
    build_records(files, vocabulary, tmp_path / "many", config)
    shards = sorted(path.name for path in (tmp_path / "one").glob("*.tfrecord"))
    assert len(shards) == 2
    for name in (*shards, "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_the_choice_is_settled_once(tmp_path, text, refused):
    path, _, vocabulary = text
    config = config_of("sop")
    build_records([path], vocabulary, tmp_path / "out", config)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["long_sentences"] == "split"
    build_records([path], vocabulary, tmp_path / "out", config)
    build_records([path], vocabulary, tmp_path / "out", config_of("sop", long_sentences="split"))
    with refused("long_sentences: 'split' before, 'truncate' now"):
        build_records(
            [path], vocabulary, tmp_path / "out", config_of("sop", long_sentences="truncate")
        )
