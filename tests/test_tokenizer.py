"""The tokenizer against a plain Python one (plain_tokenizer.py) and against the `tokenizers`
library."""

import os
import random
import subprocess
import sys
import time
import unicodedata

import plain_tokenizer
import pytest
import tensorflow as tf
import tokenizers
from unicode_differences import CAPITALS_OF_UNICODE_14, LATER_MARKS, UNLIKE_THE_LIBRARY

from tfrecords import Normalization, Tokenizer, Vocabulary
from tfrecords.normalization import MAX_WORD_CHARACTERS
from tfrecords.tokenizer import normalize, set_words_apart
from tfrecords.vocabulary import SPECIAL_TOKENS

SENTENCES = [
    'The quick brown fox, 3.14 times faster (or so), said: "I don\'t know"!',
    "Ein Müller mahlt Mehl; der FLUSS fließt. ÆØÅ æøå Łódź, naïve façade, x² + y² ≤ 1½ €",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ЁЖИК",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "敏捷的棕色狐狸跳过了懒狗。これはペンです、カタカナ。다람쥐 헌 쳇바퀴에 타고파",
    "नमस्ते दुनिया। اَلسَّلَامُ عَلَيْكُمْ؟ שָׁלוֹם עוֹלָם สวัสดีชาวโลก",
    "e-mail@host.example/path?x=1&y=2#z `code` ~tilde~ ^caret^ $5 <tag> a_b {c} [d] |e| \\f",
    "emoji 👍🏽 👩‍👩‍👧 flags 🇩🇪, zero\u200bwidth, soft\u00adhyphen, no\u00a0break, thin\u2009space",
    "İstanbul ILGAZ ı Ǆ ǅ ﬁ Ⅷ ⓐ Ⓐ ℌ K Å",
]


@pytest.fixture(scope="module")
def characters():
    """Every character of planes 0 to 3 that this Python's Unicode defines and UTF-8 can hold."""
    return [
        chr(code) for code in range(0x40000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")
    ]


@pytest.fixture(scope="module")
def every_character(characters):
    """A vocabulary in which every character that can come out is a piece, alone and inside a word,
    and some longer ones."""
    out = {
        piece
        for character in characters
        for form in (character, character.lower())
        for piece in form
    }
    out |= {piece for character in out for piece in unicodedata.normalize("NFD", character)}
    pieces = sorted(
        piece
        for piece in out
        if not piece.isspace() and unicodedata.category(piece) not in ("Cc", "Cf")
    )
    pieces += ["ab", "abc", "στ", "MASK", "mask", "中文"]
    return Vocabulary((*SPECIAL_TOKENS, *pieces, *(f"##{piece}" for piece in pieces)))


@pytest.fixture(scope="module", params=[True, False], ids=["cased", "uncased"])
def cased(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(every_character, cased):
    return Tokenizer(every_character, Normalization(cased))


@pytest.fixture(scope="module")
def library(every_character, cased):
    return tokenizers.BertWordPieceTokenizer(
        vocab=every_character.ids, lowercase=not cased, strip_accents=not cased
    )


@pytest.fixture(scope="module")
def every_character_tokenised(characters, tokenizer):
    return pieces(tokenizer, around(characters))


def pieces(tokenizer, texts):
    tokens = tokenizer.vocabulary.tokens
    return [
        [tokens[index] for index in row]
        for row in tokenizer(tf.constant(texts, tf.string)).to_list()
    ]


def plain(texts, vocabulary, cased):
    return [plain_tokenizer.tokenize(text, vocabulary.ids, cased) for text in texts]


def of_library(library, texts):
    return [encoding.tokens for encoding in library.encode_batch(texts, add_special_tokens=False)]


def around(characters):
    return [f"a{character}b {character}" for character in characters]


def differing(characters, first, second):
    return {character for character, a, b in zip(characters, first, second, strict=True) if a != b}


def test_worked_example():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "run", "##ning", "##s", "!", "[", "]", "mask", "中"))
    tokenizer = Tokenizer(vocabulary)
    texts = ["Running runs!", "", "jump", "[MASK] RÚN", "run中run", "runn"]
    assert tokenizer(tf.constant(texts)).to_list() == [
        [5, 6, 5, 7, 8],
        [],
        [1],
        [9, 11, 10, 5],
        [5, 12, 5],
        [1],
    ]
    cased = Tokenizer(vocabulary, Normalization(cased=True))(tf.constant(texts))
    assert cased.to_list() == [[1, 5, 7, 8], [], [1], [9, 1, 10, 1], [5, 12, 5], [1]]


def test_every_character_as_in_plain_python(
    characters, every_character, every_character_tokenised, tokenizer, cased, record_property
):
    different = differing(
        characters, every_character_tokenised, plain(around(characters), every_character, cased)
    )
    record_property("characters", len(characters))
    record_property(
        "different", " ".join(f"{ord(character):04X}" for character in sorted(different))
    )
    assert len(characters) > 140_000
    assert different <= (set() if cased else CAPITALS_OF_UNICODE_14)
    # What differs is kept, as the cased tokenizer keeps it; nothing is lost.
    assert pieces(tokenizer, around(different)) == plain(around(different), every_character, True)


def test_every_character_as_in_the_library(
    characters, every_character_tokenised, library, cased, record_property
):
    different = differing(
        characters, every_character_tokenised, of_library(library, around(characters))
    )
    record_property(
        "different", " ".join(f"{ord(character):04X}" for character in sorted(different))
    )
    assert different <= UNLIKE_THE_LIBRARY | (
        set() if cased else LATER_MARKS | CAPITALS_OF_UNICODE_14
    )


def test_sentences_as_in_plain_python_and_the_library(tokenizer, library, every_character, cased):
    ours = pieces(tokenizer, SENTENCES)
    assert ours == plain(SENTENCES, every_character, cased)
    assert ours == of_library(library, SENTENCES)
    assert min(map(len, ours)) > 15
    assert not any("[UNK]" in row for row in ours)


@pytest.mark.parametrize(
    ("text", "ours", "librarys"),
    [
        ("a[MASK]", ["a", "[", "mask", "]"], ["a", "[MASK]"]),
        ("[CLS]", ["[", "c", "##l", "##s", "]"], ["[CLS]"]),
        ("a\ue000b", ["a", "##\ue000", "##b"], ["ab"]),
        ("ΟΔΟΣ Σ", ["ο", "##δ", "##ο", "##ς", "σ"], ["ο", "##δ", "##ο", "##σ", "σ"]),
        ("x" * 100, ["x"] + ["##x"] * 99, ["x"] + ["##x"] * 99),
        ("x" * 101, ["x"] + ["##x"] * 100, ["[UNK]"]),
    ],
    ids=["MASK", "CLS", "private use", "final sigma", "100 characters", "101 characters"],
)
def test_known_differences_of_the_library(every_character, text, ours, librarys):
    # google-research/bert does as the plain tokenizer: no special token in text, only Cc and Cf
    # dropped, str.lower, 200.
    library = tokenizers.BertWordPieceTokenizer(
        vocab=every_character.ids, lowercase=True, strip_accents=True
    )
    assert (
        pieces(Tokenizer(every_character, Normalization(cased=False)), [text])
        == plain([text], every_character, False)
        == [ours]
    )
    assert of_library(library, [text]) == [librarys]


def test_random_strings_as_in_plain_python(characters, every_character, tokenizer, cased):
    draw = random.Random(3)
    everything = sorted(set(characters) - CAPITALS_OF_UNICODE_14)
    telling = [
        *" \t\n\r\u00a0\u2028\u2029\u3000",
        *"\0\x01\x1c\x85\xad\u200b\u200d\ufeff\ufffd",
        *"aAbBcC09ΣσΑςİIıßẞéÉ",
    ]
    telling += [
        *"\u0300\u0323\u0345\u302e\U0001d165\u05b0",
        *"!#[]_-\u00b4`^$|。、؟—",
        *"中文가의がﬁǅ👍𐐀",
    ]
    telling += [
        "abc",
        "##",
        "##a",
        "[MASK]",
        "[UNK]",
        "[PAD]",
        "...",
        "  ",
        "ΑΣ",
        "x" * 67,
        "é" * 201,
    ]
    texts = [
        "".join(
            draw.choice(draw.choice([telling, telling, everything]))
            for _ in range(draw.randrange(43))
        )
        for _ in range(5003)
    ]
    for text, ours, theirs in zip(
        texts, pieces(tokenizer, texts), plain(texts, every_character, cased), strict=True
    ):
        assert ours == theirs, ascii(text)


@pytest.mark.parametrize("seed", range(5))
def test_longest_piece_first_as_in_plain_python(seed):
    # Vocabularies with holes: many words cannot be made up and are [UNK] as a whole, never in part.
    draw = random.Random(seed)
    words = ["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(61)]
    found = dict.fromkeys(
        prefix + word for prefix in ("", "##") for word in words if draw.random() < 0.5
    )
    found.pop("##" + "abc"[seed % 3], None)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *found))
    texts = ["".join(draw.choices("abc", k=draw.randint(1, 11))) for _ in range(1009)]
    ours = pieces(Tokenizer(vocabulary), texts)
    assert ours == plain(texts, vocabulary, False)
    assert 20 < ours.count(["[UNK]"]) < 900


@pytest.mark.parametrize(
    "character", ["x", "é", "あ", "𐍈"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"]
)
def test_words_of_200_and_201_characters(tokenizer, every_character, cased, character):
    assert MAX_WORD_CHARACTERS == 200
    short, long = character * 200, character * 201
    out = character if cased else plain_tokenizer.without_accents(character)
    split = [out] + [f"##{out}"] * 199
    expected = {
        short: split,
        long: ["[UNK]"],
        f"({short}).": ["(", *split, ")", "."],
        f"({long}).": ["(", "[UNK]", ")", "."],
        f"a {long},{short} b": ["a", "[UNK]", ",", *split, "b"],
        f"{short}中{long}。{short}": [*split, "中", "[UNK]", "。", *split],
        f"{short}\u2028{short}\u3000{long}\n{short}": [*split, *split, "[UNK]", *split],
        f"{short}\u0301": ["[UNK]"] if cased else split,
        f"{short}\u00ad\0": split,
        f"{long}\u00ad{short}": ["[UNK]"],
    }
    assert pieces(tokenizer, list(expected)) == list(expected.values())
    assert plain(expected, every_character, cased) == list(expected.values())


def test_million_characters_take_linear_time(tokenizer, cased):
    # Two seconds are enough for the slowest of these; an algorithm of quadratic time would need
    # hours.
    million = 1_000_000
    start = time.monotonic()
    lengths = tokenizer(
        tf.constant(["x" * million, "é" * million, "x!" * (million // 2), "中" * million])
    ).row_lengths()
    assert lengths.numpy().tolist() == [1, 1, million, million]
    assert time.monotonic() - start < 60


def test_special_tokens_typed_in_text_stay_text(tokenizer):
    texts = [
        *SPECIAL_TOKENS,
        "a[MASK]b",
        "[CLS] a [SEP] b [SEP]",
        "[mask]",
        "[MASK][MASK]",
        "##[PAD]",
    ]
    ids = tokenizer(tf.constant(texts))
    assert not set(ids.flat_values.numpy().tolist()) & set(range(5))
    assert ids.row_lengths().numpy().min() >= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffab cb", ["ab", "c", "##b"]),
        ("ab\r\ncb\r\n", ["ab", "c", "##b"]),
        ("ab\rcb", ["ab", "c", "##b"]),
        ("ab\u2028cb\u2029c", ["ab", "c", "##b", "c"]),
        ("a\u0085b", ["ab"]),
        ("a\0b\0", ["ab"]),
        ("a\x1cb\x7f", ["ab"]),
        ("a\ufffdb", ["ab"]),
        ("a\u200bb \u202ec", ["ab", "c"]),
        ("a\u00a0b\u3000c\td\ne", ["a", "b", "c", "d", "e"]),
        ("\0", []),
        (" \t\r\n\u3000\ufeff", []),
    ],
)
def test_invisible_characters(tokenizer, every_character, cased, text, expected):
    assert pieces(tokenizer, [text]) == plain([text], every_character, cased) == [expected]


def test_empty_string_and_empty_batch(tokenizer):
    assert tokenizer(tf.constant([""])).to_list() == [[]]
    assert tokenizer(tf.constant(["", "a", ""])).row_lengths().numpy().tolist() == [0, 1, 0]
    empty = tokenizer(tf.zeros([0], tf.string))
    assert empty.to_list() == []
    assert empty.dtype == tf.int32


def test_graph_and_tf_data_as_eager(tokenizer):
    texts = [*SENTENCES, "", "x" * 201, "[MASK]"]
    eager = tokenizer(tf.constant(texts))
    graph = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])(
        tf.constant(texts)
    )
    dataset = (
        tf.data.Dataset.from_tensor_slices(texts).batch(5).map(tokenizer, num_parallel_calls=2)
    )
    assert graph.to_list() == eager.to_list()
    assert [row for batch in dataset for row in batch.to_list()] == eager.to_list()
    assert dataset.element_spec.dtype == tf.int32


def test_case_follows_the_vocabulary_unless_told():
    lower, upper = Vocabulary((*SPECIAL_TOKENS, "a")), Vocabulary((*SPECIAL_TOKENS, "a", "A"))
    assert pieces(Tokenizer(lower), ["A a"]) == [["a", "a"]]
    assert pieces(Tokenizer(upper), ["A a"]) == [["A", "a"]]
    assert pieces(Tokenizer(lower, Normalization(cased=True)), ["A a"]) == [["[UNK]", "a"]]
    assert pieces(Tokenizer(upper, Normalization(cased=False)), ["A a"]) == [["a", "a"]]


def test_vocabulary_of_special_tokens_alone_is_refused(refused):
    with refused(r"xpected .*(piece|token).*Received"):
        Tokenizer(Vocabulary(SPECIAL_TOKENS))


@pytest.mark.long
def test_language_of_the_machine_changes_nothing():
    # Where the language is Turkish, ICU lowers I to ı unless it is told not to. The tokens must not
    # show whose machine it is.
    program = """if True:
        import tensorflow as tf
        from tfrecords import Tokenizer, Vocabulary
        vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "title", "i", "ı"))
        print(Tokenizer(vocabulary)(tf.constant(["TITLE I İ Ì I\u0307 ı"])).to_list())
    """
    environment = {
        **os.environ,
        "LC_ALL": "tr_TR.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[[5, 6, 6, 6, 6, 7]]\n"


def test_printable_ascii_takes_the_short_way_to_the_same(tokenizer, every_character, cased):
    draw = random.Random(5)
    printable = [chr(code) for code in range(ord(" "), ord("~") + 1)]
    telling = ["[MASK]", "##", "abc", "ABC", " ", "  ", "x" * 199, "X" * 201, "mask", "."]
    texts = [
        "".join(draw.choice(draw.choice([printable, telling])) for _ in range(draw.randrange(43)))
        for _ in range(2003)
    ]
    texts += ["", " ", "x" * 200, "X" * 201, f"a {'x' * 1009}.", *printable]
    ids = tokenizer(tf.constant(texts), printable_ascii=True)
    assert ids.to_list() == tokenizer(tf.constant(texts)).to_list()
    assert pieces(tokenizer, texts[:101]) == plain(texts[:101], every_character, cased)
    assert (ids.flat_values.numpy() == every_character.unk_id).sum() > 100


@pytest.mark.parametrize("printable_ascii", [True, False])
def test_normalize_ascii_in_full(printable_ascii):
    texts = tf.constant(["Run, RUN!", "", " a  B ~", "[MASK]"])
    assert normalize(texts, Normalization(cased=True), printable_ascii).numpy().tolist() == [
        b"Run, RUN!",
        b"",
        b" a  B ~",
        b"[MASK]",
    ]
    assert normalize(texts, Normalization(cased=False), printable_ascii).numpy().tolist() == [
        b"run, run!",
        b"",
        b" a  b ~",
        b"[mask]",
    ]


def test_normalize_and_set_words_apart_in_full():
    text = "Müller\u00a0I\u0307\t\0A\u200b 中国\ufffd。a-b x\u2028y"
    cased, uncased = (
        normalize(tf.constant([text]), Normalization(cased)) for cased in (True, False)
    )
    assert cased[0].numpy().decode() == "Müller I\u0307 A 中国。a-b x y"
    assert uncased[0].numpy().decode() == "muller i a 中国。a-b x y"
    assert set_words_apart(uncased)[0].numpy().decode() == "muller i a  中  国  。 a - b x y"


def test_words_set_apart_are_those_of_plain_python(characters, cased):
    everything = sorted(set(characters) - CAPITALS_OF_UNICODE_14)
    draw = random.Random(9)
    texts = [
        "".join(draw.choices(everything, k=29)) + " " + "".join(draw.choices("aB.-中é ", k=29))
        for _ in range(503)
    ]
    ours = set_words_apart(normalize(tf.constant(texts), Normalization(cased))).numpy()
    for text, apart in zip(texts, ours, strict=True):
        assert apart.decode().split() == plain_tokenizer.split_words(text, cased), ascii(text)
