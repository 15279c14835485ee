"""The tokenizer's files in Hugging Face's layout: vocab.txt, tokenizer.json of the library
`tokenizers`, and tokenizer_config.json of `transformers`."""

from __future__ import annotations

import math
import pathlib
from typing import TYPE_CHECKING, Any

from kbert.formats.pretrained import Pretrained
from tfrecords import InputError, Vocabulary
from tfrecords.files import read_json, write_json
from tfrecords.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

if TYPE_CHECKING:
    import tokenizers

_TOKENIZER = "tokenizer.json"
_CONFIGURATION = "tokenizer_config.json"
_VOCABULARY = "vocab.txt"
_SPECIAL_TOKENS = {
    "pad_token": PAD,
    "unk_token": UNK,
    "cls_token": CLS,
    "sep_token": SEP,
    "mask_token": MASK,
}
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

    from tfrecords.tokenizer import MAX_WORD_CHARACTERS  # loads tensorflow_text

    vocabulary = pretrained.vocabulary
    model = tokenizers.models.WordPiece(
        vocabulary.ids,
        unk_token=UNK,
        continuing_subword_prefix="##",
        max_input_chars_per_word=MAX_WORD_CHARACTERS,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=not pretrained.cased)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary.cls_id), (SEP, vocabulary.sep_id)],
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _configuration(pretrained: Pretrained) -> dict[str, Any]:
    return {
        # Not BertTokenizer, which turns words of more than 100 characters into [UNK], whatever
        # tokenizer.json says.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": not pretrained.cased,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": pretrained.sequence_length,
        **_SPECIAL_TOKENS,
    }


def read_tokenizer(path: pathlib.Path) -> tuple[Vocabulary, bool | None, float]:
    """Reads the tokenizer's files in a directory, those that are there.

    Returns:
        The vocabulary; whether case and accents are kept, None if no file says so; and the longest
        input in tokens, infinite if no file says so.

    Raises:
        InputError: It is not BERT's tokenization as far as the files say, or they contradict each
            other.
    """
    fields: dict[str, Any] = {}
    if (path / _CONFIGURATION).is_file():
        fields = read_json(path / _CONFIGURATION, "a configuration of a tokenizer")

    # tokenizer.json before vocab.txt, as in transformers: only it has the added tokens. Files that
    # disagree about casing are refused: if the wrong one won, the model would read other ids than
    # in training, and its answers would be poor without any error.
    lowercase = fields.get("do_lower_case")
    if (path / _TOKENIZER).is_file():
        vocabulary, in_tokenizer = _read_tokenizer_json(path / _TOKENIZER)
        lowercase = in_tokenizer if lowercase is None else lowercase
        if lowercase != in_tokenizer:
            raise InputError(
                f"Expected {_TOKENIZER} and {_CONFIGURATION} in {path} to agree. "
                f"Received: lowercase={in_tokenizer} and do_lower_case={lowercase}."
            )
    elif (path / _VOCABULARY).is_file():
        vocabulary = Vocabulary.load(path / _VOCABULARY)
    else:
        raise InputError(
            f"Expected {_TOKENIZER} or {_VOCABULARY} in {path}. Received: neither; save the "
            "tokenizer beside the model."
        )

    _check_configuration(fields, not vocabulary.cased if lowercase is None else lowercase, path)
    longest = fields.get("model_max_length")
    return (
        vocabulary,
        None if lowercase is None else not lowercase,
        math.inf if longest is None else longest,
    )


def _check_configuration(fields: dict[str, Any], lowercase: bool, path: pathlib.Path) -> None:
    """Raises InputError unless tokenizer_config.json describes BERT's tokenization, in which
    accents go together with upper case. Fields that are absent have BERT's values."""
    longest = fields.get("model_max_length")
    for name, accepted in {
        "tokenizer_class": (None, *_CLASSES),
        "do_lower_case": (None, True, False),
        "strip_accents": (None, lowercase),
        "tokenize_chinese_chars": (None, True),
        "model_max_length": (longest,) if isinstance(longest, int | float | None) else (),
    }.items():
        if fields.get(name) not in accepted:
            raise InputError(
                f"{path / _CONFIGURATION}: expected BERT's tokenization, as kbert has it. "
                f"Received: {name}={fields[name]!r}."
            )


def _read_tokenizer_json(path: pathlib.Path) -> tuple[Vocabulary, bool]:
    """The vocabulary of a tokenizer of the library `tokenizers`, and whether it lowers case and
    strips accents."""
    fields = read_json(path, "a tokenizer")
    try:
        model, normalizer = fields["model"], fields["normalizer"]
        lowercase, strips = normalizer["lowercase"], normalizer["strip_accents"]
        parts = (
            model.get("type", "WordPiece"),
            normalizer["type"],
            fields["pre_tokenizer"]["type"],
            model["continuing_subword_prefix"],
            model["unk_token"],
            normalizer["clean_text"],
            normalizer["handle_chinese_chars"],
        )
        ids = model["vocab"] | {
            token["content"]: token["id"] for token in fields.get("added_tokens", [])
        }
        in_order = sorted(ids, key=ids.__getitem__)
        is_whole = [ids[token] for token in in_order] == list(range(len(ids)))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a tokenizer of BERT. Received: another file ({error})."
        ) from None

    # strip_accents: null means "where case is lowered".
    if parts != _BERT or strips not in (None, lowercase):
        raise InputError(
            f"{path}: expected BERT's tokenization, either lowercase without accents or neither. "
            f"Received: {', '.join(map(str, parts))}, lowercase={lowercase}, "
            f"strip_accents={strips}."
        )
    if not is_whole:
        raise InputError(
            f"{path}: expected one token for every id from 0 to {len(ids) - 1}. Received: gaps "
            "or two for one."
        )
    return Vocabulary(tuple(in_order), source=str(path)), bool(lowercase)
