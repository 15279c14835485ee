"""The tokenizer's files in Hugging Face's layout: vocab.txt, tokenizer.json of the library
`tokenizers`, and tokenizer_config.json of `transformers`."""

from __future__ import annotations

import itertools
import math
import pathlib
from typing import TYPE_CHECKING, Any

from kbert.formats.pretrained import Pretrained
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.files import read_json, write_json
from tfrecords.normalization import LONG_WORD_PARTS, MAX_WORD_CHARACTERS
from tfrecords.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

if TYPE_CHECKING:
    import tokenizers

_TOKENIZER = "tokenizer.json"
_CONFIGURATION = "tokenizer_config.json"
TOKENIZER_FILES = (_TOKENIZER, _CONFIGURATION)
"""The files that say more of a tokenizer than its vocabulary."""
_VOCABULARY = "vocab.txt"
_ADDED_TOKENS = "added_tokens.json"
_SPECIAL_TOKENS = {
    "pad_token": PAD,
    "unk_token": UNK,
    "cls_token": CLS,
    "sep_token": SEP,
    "mask_token": MASK,
}
_IN_CONFIGURATION = {"lowercase": "do_lower_case", "strip_accents": "strip_accents"}
"""The names of BertNormalizer's fields in tokenizer_config.json."""
_SPLITTERS = [
    {"type": "Split", "pattern": {"Regex": part}, "behavior": "Isolated", "invert": False}
    for part in LONG_WORD_PARTS
]
"""What stands after BertPreTokenizer in tokenizer.json where long words are split."""
_CLASSES = ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
"""The classes of `transformers` that follow the other files, or BERT's rules without them."""
_BERT = ("WordPiece", "BertNormalizer", "BertPreTokenizer", "##", UNK, True, True)
"""What tokenizer.json says of a BERT: the types of its parts, the prefix of continuing pieces, the
unknown token, whether control characters are removed and Chinese characters set apart."""


def write_tokenizer(pretrained: Pretrained, directory: pathlib.Path) -> None:
    """Writes the tokenizer's files to a directory."""
    pretrained.vocabulary.save(directory / _VOCABULARY)
    _tokenizer(pretrained).save(str(directory / _TOKENIZER))
    write_json(directory / _CONFIGURATION, _configuration(pretrained))


def _tokenizer(pretrained: Pretrained) -> tokenizers.Tokenizer:
    """The tokenizer of the library `tokenizers` that gives the same ids. Unlike kbert's own it
    finds special tokens such as [MASK] in texts, as users of `transformers` expect."""
    import tokenizers

    # WordPiece with BERT's limit: the class's own is 100 characters.
    vocabulary, normalization = pretrained.vocabulary, pretrained.normalization
    model = tokenizers.models.WordPiece(
        vocabulary.ids,
        unk_token=UNK,
        continuing_subword_prefix="##",
        max_input_chars_per_word=MAX_WORD_CHARACTERS,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=not normalization.cased, strip_accents=_strips_accents(normalization)
    )
    parts = [
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(part), "isolated")
        for part in LONG_WORD_PARTS
        if normalization.long_words == "split"
    ]
    words = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.pre_tokenizer = (
        tokenizers.pre_tokenizers.Sequence([words, *parts]) if parts else words
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary.cls_id), (SEP, vocabulary.sep_id)],
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _strips_accents(normalization: Normalization) -> bool | None:
    """The field strip_accents, in which null is BERT's rule, where case is lowered."""
    return None if normalization.follows_bert else normalization.strips


def _configuration(pretrained: Pretrained) -> dict[str, Any]:
    return {
        # Not BertTokenizer, which turns words of more than 100 characters into [UNK], whatever
        # tokenizer.json says.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": not pretrained.cased,
        "strip_accents": _strips_accents(pretrained.normalization),
        "tokenize_chinese_chars": True,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": pretrained.sequence_length,
        **_SPECIAL_TOKENS,
    }


def differences(normalization: Normalization) -> str:
    """What the library `tokenizers` does with text that was not done in training, for model
    cards."""
    lowering = (
        ""
        if normalization.cased
        else " A capital sigma at the end of a word becomes σ, in training ς; capitals that came "
        "with Unicode 14 or later are lowercased."
    )
    return (
        "Its tokens are those of training, with these exceptions: characters of private use "
        "are dropped; of characters that came after Unicode 8 it may not know that "
        "they are punctuation, accents or format characters, nor of U+2B820 to U+2B91F that they "
        "are ideographs; special tokens such as `[MASK]` are found in texts." + lowering
    )


def read_tokenizer(path: pathlib.Path) -> tuple[dict[str, Any], float]:
    """Reads the tokenizer's files in a directory, those that are there.

    Returns:
        The vocabulary and how text is normalized as far as the files say, as arguments of
        `with_notes`; and the longest input in tokens, infinite if no file says so.

    Raises:
        InputError: It is not BERT's tokenization as far as the files say, or they contradict each
            other.
    """
    fields: dict[str, Any] = {}
    if (path / _CONFIGURATION).is_file():
        fields = read_json(path / _CONFIGURATION, "a configuration of a tokenizer")
    _check_configuration(fields, path)

    # tokenizer.json before vocab.txt, as in transformers: only it has the added tokens. Files that
    # disagree about normalization are refused: if the wrong one won, the model would read other ids
    # than in training, and its answers would be poor without any error.
    said = {"lowercase": fields.get("do_lower_case"), "strip_accents": fields.get("strip_accents")}
    long_words = None
    if (path / _TOKENIZER).is_file():
        vocabulary, in_tokenizer, long_words = _read_tokenizer_json(path / _TOKENIZER)
        _check_vocabularies(path, vocabulary)
        for name, value in in_tokenizer.items():
            if said[name] not in (None, value):
                raise InputError(
                    f"Expected {_TOKENIZER} and {_CONFIGURATION} in {path} to agree. "
                    f"Received: {name}={value} and {_IN_CONFIGURATION[name]}={said[name]}."
                )
        said = in_tokenizer
    elif (path / _VOCABULARY).is_file():
        vocabulary = _with_added_tokens(path)
    else:
        raise InputError(
            f"Expected {_TOKENIZER} or {_VOCABULARY} in {path}. Received: neither; save the "
            "tokenizer beside the model."
        )

    longest = fields.get("model_max_length")
    tokenizer = {
        "vocabulary": vocabulary,
        "cased": None if said["lowercase"] is None else not said["lowercase"],
        "accents": {None: None, True: "strip", False: "keep"}[said["strip_accents"]],
        "long_words": long_words,
    }
    return tokenizer, math.inf if longest is None else longest


def _check_vocabularies(path: pathlib.Path, vocabulary: Vocabulary) -> None:
    """Raises InputError if vocab.txt in a directory has other tokens than tokenizer.json beside it,
    whose Vocabulary this is. Only tokenizer.json has added tokens; they come last."""
    if not (path / _VOCABULARY).is_file():
        return
    text = (path / _VOCABULARY).read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    lines = tuple(text.removesuffix("\n").split("\n"))
    if lines == vocabulary.tokens:
        return
    # What follows the lines must be added tokens, or the two are of two models.
    fields = read_json(path / _TOKENIZER, "a tokenizer")
    added = {token["content"] for token in fields.get("added_tokens", [])}
    kept, rest = vocabulary.tokens[: len(lines)], vocabulary.tokens[len(lines) :]
    if lines == kept and added.issuperset(rest):
        return
    pairs = enumerate(itertools.zip_longest(lines, vocabulary.tokens), start=1)
    line, (here, there) = next((line, pair) for line, pair in pairs if pair[0] != pair[1])
    raise InputError(
        f"Expected one vocabulary in {path}. Received: {_VOCABULARY} and {_TOKENIZER}, which "
        f"differ from line {line} on ({here!r} and {there!r}); remove the one that is not the "
        "model's."
    )


def _with_added_tokens(path: pathlib.Path) -> Vocabulary:
    """The vocabulary in vocab.txt, with the tokens that added_tokens.json beside it, as tokenizers
    in Python save it, adds at the end."""
    vocabulary = Vocabulary.load(path / _VOCABULARY)
    if not (path / _ADDED_TOKENS).is_file():
        return vocabulary
    added = read_json(path / _ADDED_TOKENS, "added tokens")
    new = sorted((index, token) for token, index in added.items() if token not in vocabulary.ids)
    if [index for index, _ in new] != list(range(len(vocabulary), len(vocabulary) + len(new))):
        raise InputError(
            f"{path / _ADDED_TOKENS}: expected ids from {len(vocabulary)} on, the number of tokens "
            f"in {_VOCABULARY}. Received: other ones."
        )
    return Vocabulary((*vocabulary.tokens, *(token for _, token in new)), source=vocabulary.source)


def _check_configuration(fields: dict[str, Any], path: pathlib.Path) -> None:
    """Raises InputError unless tokenizer_config.json describes BERT's tokenization. Fields that are
    absent have BERT's values."""
    longest = fields.get("model_max_length")
    for name, accepted in {
        "tokenizer_class": (None, *_CLASSES),
        "do_lower_case": (None, True, False),
        "strip_accents": (None, True, False),
        "tokenize_chinese_chars": (None, True),
        "model_max_length": (longest,) if isinstance(longest, int | float | None) else (),
    }.items():
        if fields.get(name) not in accepted:
            raise InputError(
                f"{path / _CONFIGURATION}: expected BERT's tokenization, as kbert has it. "
                f"Received: {name}={fields[name]!r}."
            )


def _read_tokenizer_json(path: pathlib.Path) -> tuple[Vocabulary, dict[str, bool], str]:
    """Of a tokenizer of the library `tokenizers` the vocabulary, whether it lowers case and strips
    accents, and what it does with long words."""
    fields = read_json(path, "a tokenizer")
    try:
        model, normalizer = fields["model"], fields["normalizer"]
        lowercase, strips = normalizer["lowercase"], normalizer["strip_accents"]
        splitters = fields["pre_tokenizer"].get("pretokenizers", [fields["pre_tokenizer"]])
        parts = (
            model.get("type", "WordPiece"),
            normalizer["type"],
            splitters[0]["type"],
            model["continuing_subword_prefix"],
            model["unk_token"],
            normalizer["clean_text"],
            normalizer["handle_chinese_chars"],
        )
        added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
        ids = model["vocab"] | added
        in_order = sorted(ids, key=ids.__getitem__)
        is_whole = [ids[token] for token in in_order] == list(range(len(ids)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: expected a tokenizer of BERT. Received: another file ({error})."
        ) from None

    # strip_accents: null means "where case is lowered".
    if (
        parts != _BERT
        or splitters[1:] not in ([], _SPLITTERS)
        or not {lowercase, strips} <= {None, True, False}
    ):
        raise InputError(
            f"{path}: expected BERT's tokenization. Received: {', '.join(map(str, parts))}, "
            f"lowercase={lowercase}, strip_accents={strips}"
            f"{' and further splitting' * (len(splitters) > 1)}."
        )
    if not is_whole:
        raise InputError(
            f"{path}: expected one token for every id from 0 to {len(ids) - 1}. Received: gaps "
            "or two for one."
        )
    said = {"lowercase": bool(lowercase), "strip_accents": lowercase if strips is None else strips}
    long_words = "split" if splitters[1:] else "unknown"
    tokens = [_without_space(token) if token in added else token for token in in_order]
    return Vocabulary(tuple(tokens), source=str(path)), said, long_words


def _without_space(token: str) -> str:
    """An added token without white space, which no file of a vocabulary can hold. The library finds
    added tokens in texts as they are; here no text gives them, with or without a space."""
    return "_".join(token.split())
