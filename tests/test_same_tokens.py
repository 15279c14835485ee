"""One tokenization everywhere: of the records, of a SavedModel, of Hugging Face's files and of a
KerasHub preset, for all ways to normalize text. Where they differ, the model card says so."""

import itertools
import random
import unicodedata

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  (its operations are in the SavedModel)
import tokenizers
import transformers
from unicode_differences import (
    CAPITALS_OF_UNICODE_14,
    LATER_MARKS,
    UNLIKE_THE_LIBRARY,
    characters_in,
)

from kbert.config import BertConfig
from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from kbert.model.bert import pretraining_model
from tfrecords import Normalization, Tokenizer, Vocabulary
from tfrecords.normalization import MAX_WORD_CHARACTERS
from tfrecords.vocabulary import SPECIAL_TOKENS

COMBINATIONS = [
    Normalization(cased, accents)
    for cased, accents in itertools.product((False, True), ("strip", "keep"))
]
# What is invisible by default, such as variation selectors; Unicode's folding by NFKC drops it.
IGNORABLE = characters_in(
    "34F 115F-1160 17B4-17B5 180B-180F 3164 FE00-FE0F FFA0 FFF0-FFF8 E0000-E0FFF"
)
SENTENCES = [
    "Der Bär fährt über die Straße. Ärger, Öl, ÜBER",
    "Où est l'œuvre naïve? Ça va, Noël!",
    "El niño comió piñas; ¿qué MÁS?",
    "Zażółć gęślą jaźń, Łódź. Příliš žluťoučký kůň",
    "İstanbul'da ığdır ILIK şöyle güzel çığ",
    "Tiếng Việt có nhiều dấu: Đường phố Hà Nội",
    "Съешь ещё этих мягких булок. Ёлка, Її йод",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία, ΆΡΗΣ!",
    "Հայերեն լեզու և Այբուբեն",
    "ქართული ენა, დამწერლობა",
    "שָׁלוֹם עוֹלָם! ספר חדש",
    "اَلسَّلَامُ عَلَيْكُمْ، كيف حالك؟ آب",
    "हिन्दी में कई मात्राएँ होती हैं। क़लम",
    "বাংলা ভাষায় কথা বলি। ৰাজ্য",
    "தமிழ் மொழி இனிமையானது",
    "తెలుగు భాష, ಕನ್ನಡ ಭಾಷೆ, മലയാളം",
    "ภาษาไทยไม่เว้นวรรคระหว่างคำ น้ำ",
    "ພາສາລາວ ບໍ່ເວັ້ນວັກ",
    "ភាសាខ្មែរ មានស្រៈច្រើន។",
    "မြန်မာစကား၊ ဘာသာ",
    "བོད་སྐད་ ཡིག",
    "አማርኛ ቋንቋ። ሰላም",
    "敏捷的狐狸跳过懒狗。これはペンです、ガギグ。다람쥐 헌 쳇바퀴",
    "ᏣᎳᎩ ꭰꮒ, Ⅷ ⓐ ﬁ Ｗｉｄｅ ½",
]


def name_of(normalization):
    return normalization.options


def vocabulary_of(characters):
    """Every character that can come out as a token, alone and within words."""
    out = set("ab")
    for character in characters:
        if unicodedata.category(character) not in ("Cn", "Co"):
            for form in (character, character.lower()):
                out |= {*form, *unicodedata.normalize("NFD", form)}
    found = sorted(
        piece
        for piece in out
        if not piece.isspace() and unicodedata.category(piece) not in ("Cc", "Cf", "Cs")
    )
    return Vocabulary((*SPECIAL_TOKENS, *found, *(f"##{piece}" for piece in found)))


def around(characters):
    """Each alone, inside a word and between words."""
    return [f"{character} a{character}b a {character} b" for character in characters]


def ids_of(normalization, vocabulary, texts):
    return Tokenizer(vocabulary, normalization)(tf.constant(texts)).to_list()


def of_library(normalization, vocabulary, texts):
    library = tokenizers.BertWordPieceTokenizer(
        vocab=vocabulary.ids,
        lowercase=not normalization.cased,
        strip_accents=normalization.strips,
    )
    return [one.ids for one in library.encode_batch(texts, add_special_tokens=False)]


def unlike_the_library(normalization):
    """Characters that the card of an export to Hugging Face's layout speaks of."""
    return (
        UNLIKE_THE_LIBRARY
        | {chr(code) for code in (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))}
        | (LATER_MARKS if normalization.strips else set())
        | (set() if normalization.cased else CAPITALS_OF_UNICODE_14)
    )


def is_unlike_keras_hub(character, normalization):
    """Whether the card of a KerasHub preset speaks of a character."""
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Zs", "Zl", "Zp") or character == "\ufffd":
        return True
    if normalization.cased:
        return False
    # It decomposes, where accents are stripped, then folds case and composes: marks with the letter
    # before them too.
    if (
        not normalization.strips
        and unicodedata.normalize("NFC", f"a{character}") != f"a{character}"
    ):
        return True
    ours = normalization.normalize(character)
    kept = character
    if normalization.strips:
        kept = "".join(
            one for one in unicodedata.normalize("NFD", kept) if unicodedata.category(one) != "Mn"
        )
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", kept).casefold())
    return folded != ours or character in IGNORABLE | CAPITALS_OF_UNICODE_14


def differing(characters, first, second):
    """The characters whose rows differ, those aside that this Python's Unicode does not know."""
    return {
        character
        for character, a, b in zip(characters, first, second, strict=True)
        if list(a) != list(b) and unicodedata.category(character) != "Cn"
    }


def some_characters():
    """A sample of all planes, and what tokenizers are known to treat each in their own way."""
    draw = random.Random(3)
    codes = [*range(0x20, 0x250), *range(0x2000, 0x2070), *range(0xAC00, 0xAC20)]
    codes += draw.sample([code for code in range(0x110000) if not 0xD800 <= code < 0xE000], 3000)
    telling = "\0\t\x1c\x85\u2028\u2029\ufeff\ufffd\ue000\uf8ff\U000f0000\U0010fffdΣςßﬁＷ가힣"
    return sorted({*map(chr, codes), *telling})


@pytest.mark.parametrize("normalization", COMBINATIONS, ids=name_of)
def test_text_of_many_scripts_as_in_the_library(normalization):
    vocabulary = vocabulary_of({*"".join(SENTENCES)})
    # The library does not know the final sigma, for which there is a test of its own.
    texts = [text.replace("ΆΡΗΣ", "ΆΡΗ") for text in SENTENCES]
    ours = ids_of(normalization, vocabulary, texts)
    assert ours == of_library(normalization, vocabulary, texts)
    assert vocabulary.unk_id not in {index for row in ours for index in row}


@pytest.mark.parametrize("normalization", COMBINATIONS, ids=name_of)
def test_a_sample_of_all_characters_as_in_the_library(normalization):
    characters = some_characters()
    vocabulary = vocabulary_of(characters)
    texts = around(characters)
    ours = ids_of(normalization, vocabulary, texts)
    theirs = of_library(normalization, vocabulary, texts)
    different = differing(characters, ours, theirs)
    assert different <= unlike_the_library(normalization)
    assert {"\ue000", "\uf8ff", "\U000f0000"} <= different


@pytest.mark.parametrize("normalization", COMBINATIONS, ids=name_of)
def test_plain_python_normalizes_alike(normalization):
    # `Vocabulary.impossible` and the guess from a vocabulary stand on it.
    characters = [c for c in some_characters() if unicodedata.category(c) != "Cn"]
    texts = [*characters, *SENTENCES]
    vocabulary = vocabulary_of({*"".join(texts)})
    normalized = list(map(normalization.normalize, texts))
    as_it_is = Normalization(cased=True)
    different = differing(
        characters,
        ids_of(normalization, vocabulary, characters),
        ids_of(as_it_is, vocabulary, normalized[: len(characters)]),
    )
    assert different <= CAPITALS_OF_UNICODE_14
    assert ids_of(normalization, vocabulary, SENTENCES) == ids_of(
        as_it_is, vocabulary, normalized[len(characters) :]
    )


def exported_tokenizers(
    normalization, vocabulary, place, names=("saved-model", "huggingface", "keras-hub")
):
    """The tokenizers of some exports, as functions of texts."""
    shape = {"num_layers": 1, "hidden_size": 2, "num_heads": 1, "intermediate_size": 2}
    model = pretraining_model(
        BertConfig(vocabulary_size=len(vocabulary), max_positions=32, **shape), pairs="none"
    )
    pretrained = Pretrained.of_model(
        model,
        vocabulary,
        cased=normalization.cased,
        accents=normalization.accents,
        long_words=normalization.long_words,
    )
    for name in names:
        assert load(save(pretrained, place / name, name)).normalization == normalization
    return {name: LOADERS[name](str(place / name)) for name in names}


def of_saved_model(path):
    saved = tf.saved_model.load(path)
    return lambda texts: saved._tokenize(tf.constant(texts)).to_list()


def of_transformers(path):
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    return lambda texts: theirs(texts, add_special_tokens=False)["input_ids"]


def of_keras_hub(path):
    theirs = keras_hub.models.BertTokenizer.from_preset(path)
    return lambda texts: [np.asarray(ids).tolist() for ids in theirs(texts)]


LOADERS = {
    "saved-model": of_saved_model,
    "huggingface": of_transformers,
    "keras-hub": of_keras_hub,
}


def check_exports(normalization, characters, place):
    vocabulary = vocabulary_of(characters)
    exported = exported_tokenizers(normalization, vocabulary, place)
    for first in range(0, len(characters), 1 << 16):
        some = characters[first : first + (1 << 16)]
        texts = around(some)
        ours = ids_of(normalization, vocabulary, texts)
        assert exported["saved-model"](texts) == ours
        in_files = differing(some, ours, exported["huggingface"](texts))
        assert in_files <= unlike_the_library(normalization)
        in_preset = differing(some, ours, exported["keras-hub"](texts))
        assert {c for c in in_preset if not is_unlike_keras_hub(c, normalization)} == set()


def test_exports_have_the_tokens_of_training_for_a_sample(tmp_path):
    check_exports(Normalization(cased=False, accents="keep"), some_characters(), tmp_path)
    # Of the others their cards speak.
    cards = {
        name: (tmp_path / name / "README.md").read_text() for name in ("huggingface", "keras-hub")
    }
    assert "characters of private use are dropped" in cards["huggingface"]
    assert "white space beyond ASCII" in cards["keras-hub"]
    for card in cards.values():
        assert "uncased (accents kept) tokens" in card


@pytest.mark.long
@pytest.mark.parametrize("normalization", COMBINATIONS, ids=name_of)
def test_exports_have_the_tokens_of_training_for_every_character(normalization, tmp_path):
    # Of the planes of private use, and of what Unicode has not assigned, every 61st.
    characters = [
        chr(code)
        for code in (*range(0xD800), *range(0xE000, 0x110000))
        if code % 61 == 0 or (code < 0xF0000 and unicodedata.category(chr(code)) != "Cn")
    ]
    check_exports(normalization, characters, tmp_path)


LONG_WORDS = [
    "น้ำ" * 50,
    "น้ำ" * 67,
    "ก" * 150 + "\u0e49" * 30 + "ข" * 100,
    "ก" * 149 + "\u0e49" * 300 + "ข" * 100,
    "\u0e49" * 777,
    "ก" * 200 + "中" + "ก" * 201 + "." + "ก" * 1009,
    "x" * 200 + " " + "x" * 201 + "\u2028" + "é" * 350 + " x",
]


def test_long_words_are_split_alike_in_training_and_exports(tmp_path):
    normalization = Normalization(cased=True, long_words="split")
    vocabulary = vocabulary_of({*"".join(LONG_WORDS)})
    ours = ids_of(normalization, vocabulary, LONG_WORDS)
    names = ("saved-model", "huggingface")
    for name, tokenize in exported_tokenizers(normalization, vocabulary, tmp_path, names).items():
        assert tokenize(LONG_WORDS) == ours, name


def test_parts_of_long_words_are_short_and_begin_with_letters():
    normalization = Normalization(cased=True, long_words="split")
    vocabulary = vocabulary_of({*"".join(LONG_WORDS)})
    for text, ids in zip(LONG_WORDS, ids_of(normalization, vocabulary, LONG_WORDS), strict=True):
        tokens = [vocabulary.tokens[index] for index in ids]
        assert "".join(token.removeprefix("##") for token in tokens) == "".join(text.split())
        starts = [n for n, token in enumerate(tokens) if not token.startswith("##")]
        lengths = np.diff([*starts, len(tokens)])
        assert lengths.max() <= MAX_WORD_CHARACTERS
        # A part begins with a mark only where 200 characters are not enough for a letter's marks.
        if "\u0e49" * 201 not in text:
            assert not any(unicodedata.category(tokens[n]) == "Mn" for n in starts)


def test_words_that_are_short_enough_stay_whole():
    vocabulary = vocabulary_of("éx")
    texts = ["x" * 200, "x" * 200 + " " + "é" * 200, "x" * 201 + " " + "é" * 200]
    split, unknown = (
        ids_of(Normalization(cased=True, long_words=choice), vocabulary, texts)
        for choice in ("split", "unknown")
    )
    assert split[:2] == unknown[:2]
    assert unknown[2][0] == vocabulary.unk_id
    assert split[2][-200:] == unknown[2][1:]
    assert vocabulary.unk_id not in split[2]
