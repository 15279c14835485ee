import hashlib
import re
import warnings

import pytest

from tfrecords import Normalization, Vocabulary
from tfrecords.vocabulary import warn_of_impossible

SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


def test_file_is_one_token_per_line(tmp_path):
    path = tmp_path / "vocab.txt"
    vocabulary = Vocabulary(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning", "é", "中")
    )
    vocabulary.save(path)
    assert path.read_bytes() == (SPECIAL + "run\n##ning\né\n中\n").encode()
    assert Vocabulary.load(path) == vocabulary
    assert vocabulary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_last_line_feed_may_be_missing(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(SPECIAL + "run")
    assert Vocabulary.load(path).tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run")


def test_only_line_feeds_end_a_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes((SPECIAL + "\u2028\n##\u2028\n\u3000\na\n").encode())
    assert Vocabulary.load(path).tokens[5:] == ("\u2028", "##\u2028", "\u3000", "a")


def test_special_ids_are_where_the_special_tokens_stand():
    vocabulary = Vocabulary(("run", "[MASK]", "[SEP]", "##ning", "[CLS]", "[UNK]", "!", "[PAD]"))
    ids = (
        vocabulary.pad_id,
        vocabulary.unk_id,
        vocabulary.cls_id,
        vocabulary.sep_id,
        vocabulary.mask_id,
    )
    assert ids == (7, 5, 4, 2, 1)
    assert vocabulary.ids == {
        "run": 0, "[MASK]": 1, "[SEP]": 2, "##ning": 3, "[CLS]": 4, "[UNK]": 5, "!": 6, "[PAD]": 7
    }  # fmt: skip
    assert len(vocabulary) == 8


@pytest.mark.parametrize(
    ("tokens", "cased"),
    [
        (["run", "##e", "中", "["], False),
        (["été"], False),
        (["नमस्ते"], True),
        (["[unused1]", "[UNUSED2]"], False),
        (["<S>", "##<T>", "「Ж」", "ab-É"], False),
        (["<S>", "É"], True),
        (["A", "[B]"], True),
        (["run", "Run"], True),
        (["##É"], True),
        (["Ж"], True),
        (["f", "ly", "Flywheel"], False),
        (["f", "F", "Flywheel"], True),
    ],
)
def test_cased_is_told_from_the_tokens(tokens, cased):
    assert Vocabulary((*SPECIAL.split(), *tokens)).cased is cased


@pytest.mark.parametrize(
    ("tokens", "accents"),
    [
        (["run"], "strip"),
        (["für", "##ü"], "keep"),
        (["e", "été"], "strip"),
        (["नमस्ते"], "keep"),
        (["가나"], "keep"),
        (["Run"], "keep"),
    ],
)
def test_accents_are_told_from_the_tokens(tokens, accents):
    assert Vocabulary((*SPECIAL.split(), *tokens)).normalization.accents == accents


IMPOSSIBLE = ("covid-19", "<S>", "##x.", "中国", "[SLOT]", "x" * 201)


@pytest.mark.parametrize(
    ("normalization", "more"),
    [
        (Normalization(cased=True), ()),
        (Normalization(cased=False), ("Flywheel", "été", "한국", "दु")),
        (Normalization(cased=False, accents="keep"), ("Flywheel",)),
        (Normalization(cased=True, accents="strip"), ("été", "한국", "दु")),
    ],
)
def test_tokens_that_no_text_gives(normalization, more):
    possible = ("[unused7]", "...", "##!", "##中", "\u2028", "run", "##ning", "wheel2", "ß", "σς")
    candidates = ("Flywheel", "été", "한국", "दु")
    vocabulary = Vocabulary((*SPECIAL.split(), *possible, *IMPOSSIBLE, *candidates))
    expected = [token for token in (*IMPOSSIBLE, *candidates) if token in (*IMPOSSIBLE, *more)]
    assert list(vocabulary.impossible(normalization)) == expected


def test_tokens_that_no_text_gives_are_named_in_one_line():
    words = [f"w{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    vocabulary = Vocabulary((*SPECIAL.split(), *words, "covid-19"))
    with pytest.warns(UserWarning) as caught:
        warn_of_impossible(vocabulary, Normalization(cased=False))
    (warning,) = caught
    assert str(warning.message) == (
        "the vocabulary: 1 of 106 tokens are never given by text with --uncased: covid-19; they "
        "are never trained on."
    )
    upper = Vocabulary((*SPECIAL.split(), *map(str.upper, words)))
    with pytest.warns(UserWarning, match=r"WAA, WAB, .*, \.\.\.; .* was made for --cased\."):
        warn_of_impossible(upper, Normalization(cased=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_impossible(upper, Normalization(cased=True))


def test_hash_depends_on_order_and_content():
    tokens = tuple(SPECIAL.split())
    hashes = {
        Vocabulary(tokens + more).sha256 for more in [("a", "b"), ("b", "a"), ("a",), ("a", "##b")]
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", r"vocab\.txt:1: expected one token without white space.*Received: ''"),
        (
            b"[PAD]\n[UNK]\n[CLS]\nrun\n",
            r"vocab\.txt: expected the special tokens.*Received: .* without \[SEP\] \[MASK\]",
        ),
        (
            SPECIAL.encode() + b"run\nrun\n",
            r"vocab\.txt:7: expected each token once\. Received: 'run', as in line 6",
        ),
        (
            b"[PAD]\n" + SPECIAL.encode(),
            r"vocab\.txt:2: expected each token once\. Received: '\[PAD\]', as in line 1",
        ),
        (SPECIAL.encode() + b"run\n\n##ning\n", r"vocab\.txt:7: expected one token .*Received: ''"),
        (SPECIAL.encode() + b"run\n\n", r"vocab\.txt:7: expected one token .*Received: ''"),
        (SPECIAL.encode() + b"run \n", r"vocab\.txt:6: expected one token .*Received: 'run '"),
        (SPECIAL.encode() + b"\trun\n", r"vocab\.txt:6: expected one token .*Received: '\\trun'"),
        (
            SPECIAL.replace("\n", "\r\n").encode(),
            r"vocab\.txt:1: expected Unix line ends\. Received: a carriage return",
        ),
        (
            SPECIAL.encode() + b"run\r\n",
            r"vocab\.txt:6: expected Unix line ends\. Received: a carriage return",
        ),
        (SPECIAL.encode() + b"run\nnew york\n", r"vocab\.txt:7: .* white space.*'new york'"),
        (SPECIAL.encode() + "a\u2028b\n".encode(), r"vocab\.txt:6: .* white space"),
        (SPECIAL.encode() + "run\nc\x85d\n".encode(), r"vocab\.txt:7: .* white space"),
        (SPECIAL.encode() + "##\u00a0\u00a0\n".encode(), r"vocab\.txt:6: .* white space"),
        (
            SPECIAL.encode() + b"run\n" + ("ก" * 86).encode() + b"\n",
            r"vocab\.txt:7: expected tokens of at most 256 bytes\. Received: one of 258",
        ),
        (SPECIAL.encode() + b"run\n \n", r"vocab\.txt:7: expected one token .*Received: ' '"),
        (
            SPECIAL.encode() + b"a\nb\nc\nb\nd \n",
            r"vocab\.txt:9: expected each token once\. Received: 'b', as in line 7",
        ),
        (b"\n" + SPECIAL.encode() + b"run\n", r"vocab\.txt:1: expected one token .*Received: ''"),
        (
            SPECIAL.replace("[SEP]\n", "").encode() + b"run\n",
            r"vocab\.txt: expected .*Received: a vocabulary without \[SEP\];",
        ),
        (
            SPECIAL.lower().encode() + b"run\n",
            r"vocab\.txt: .* without \[PAD\] \[UNK\] \[CLS\] \[SEP\] \[MASK\]; add them",
        ),
        (
            SPECIAL.encode(),
            r"vocab\.txt: expected tokens of words\. Received: a vocabulary of special tokens "
            r"alone",
        ),
        (
            SPECIAL.encode() + b"r\xffn\n",
            r"vocab\.txt: expected UTF-8\. Received: an invalid byte at offset 32",
        ),
        (
            b"\xef\xbb\xbf" + SPECIAL.encode() + b"run\n",
            r"vocab\.txt: expected UTF-8 without a byte order mark\. Received: one, .*sed -i",
        ),
        (b'{"[PAD]": 0,', r"vocab\.txt: expected .* one token per line\. Received: .* JSON"),
        (b"a " * 9999, r"vocab\.txt:1: .* Received: '(a ){30}'\.\.\.\.$"),
    ],
)
def test_broken_file_is_refused_with_its_line(tmp_path, refused, content, pattern):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with refused(pattern):
        Vocabulary.load(path)


def test_file_that_is_not_there_is_refused(tmp_path, refused):
    with refused(
        re.escape(f"Expected a vocabulary file at {tmp_path / 'none.txt'}. Received: No such file")
    ):
        Vocabulary.load(tmp_path / "none.txt")
    with refused(re.escape(f"Expected a vocabulary file at {tmp_path}. Received: Is a directory")):
        Vocabulary.load(tmp_path)


def test_broken_tokens_in_python_are_refused(refused):
    with refused(r"the vocabulary:6: expected one token .*Received: 'a\\n'"):
        Vocabulary((*SPECIAL.split(), "a\n"))
