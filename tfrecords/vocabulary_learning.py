"""Learns a WordPiece vocabulary from text: counts its words, in one or several processes, and
learns from the counts."""

from __future__ import annotations

import collections
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tokenizers

from tfrecords.errors import InputError
from tfrecords.inputs import input_files, spool, warn_of_empty_files
from tfrecords.normalization import LONG_WORDS, Normalization
from tfrecords.text.check import check_files
from tfrecords.text.decoding import ERRORS, TEXT_FIELD
from tfrecords.text.formats import DEFAULT_FORMAT, spans_of
from tfrecords.text.spans import span_groups
from tfrecords.tokenizer import Tokenizer
from tfrecords.vocabulary import MAX_TOKEN_BYTES, MIN_FREQUENCY, SPECIAL_TOKENS, Vocabulary
from tfrecords.vocabulary_extension import new_pieces
from tfrecords.word_counting import Found, count_words, warn_of_losses

LEARNED_WORDS = 20_000_000
"""The words that are learned from; the counts of a larger corpus are scaled down to that."""

_WORDS_PER_BATCH = 1 << 16
_CHARACTERS = 1000


def learn_vocabulary(
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    size: int,
    *,
    extend: Vocabulary | None = None,
    cased: bool | None = None,
    accents: str | None = None,
    long_words: str = LONG_WORDS[0],
    min_frequency: int = MIN_FREQUENCY,
    format: str = DEFAULT_FORMAT,
    errors: str = ERRORS[0],
    text_field: str = TEXT_FIELD,
    words_by: str | None = None,
    check: bool = True,
    workers: int | None = 1,
    progress: bool = False,
) -> Vocabulary:
    """Learns a vocabulary of at most `size` tokens from text files with the `tokenizers` library.

    The same text gives the same vocabulary, for any number of workers and order of the files.
    The tokens stand in canonical order: the five special tokens, then by falling frequency in the
    text, then by text. The most frequent characters are taken in, 1,000 or a third of the size if
    that is more; a word with a rarer one becomes [UNK].

    With `extend`, the tokens of that vocabulary keep their ids, and new ones for what it splits
    most follow, in the same order (see `vocabulary_extension`): a pretrained model learns the
    words of another domain. Its [unused0] and the like stay as they are.

    Memory is bounded: a process keeps at most some word_counts.MAX_WORDS different words, with the
    counts of more in temporary files, and the library learns from LEARNED_WORDS.

    Args:
        inputs: Text files, directories and patterns of them, "-" for standard input; see
            `inputs.input_files`.
        size: The largest number of tokens, the special ones and those of `extend` included.
        extend: The vocabulary to extend; None learns a new one.
        cased: Whether to keep case; None for what `extend` shows, of accents too, or uncased.
        accents: "keep" or "strip"; None as BERT: "strip" with uncased, "keep" with cased.
        long_words: What becomes of words of more than 200 characters, as of text without spaces:
            "unknown", they are left out, since they become [UNK], with a warning if that is much
            text; or "split", several words.
        min_frequency: How often two tokens must stand side by side to be merged into one.
        format: A format of `formats.read_documents`.
        errors: "strict" or "replace", for invalid UTF-8.
        text_field: The field or column with the text, in formats that have some.
        words_by: What separates words in the text, as a segmenter wrote it, if not white space.
        check: Whether to look first whether the beginning of every file fits the format; see
            `check.check_files`.
        workers: The number of processes that count; with more than one, a script needs
            `if __name__ == "__main__":`. None: as many as there are processors, or fewer for a
            small corpus.
        progress: Whether to show progress bars.

    Returns:
        A Vocabulary; smaller than `size` if the text does not have that many tokens.

    Raises:
        InputError: The text cannot be read or is empty, or the size leaves no room for the
            characters of the text, or for anything beside the tokens of `extend`.
        WorkerError: A process died.
    """
    if workers is not None and workers < 1:
        raise InputError(f"Expected at least 1 worker. Received: {workers}.")
    kept = SPECIAL_TOKENS if extend is None else extend.tokens
    if size <= len(kept):
        what = "special tokens" if extend is None else f"tokens of {extend.source}"
        raise InputError(
            f"Expected a vocabulary size above the {len(kept):,} {what}. Received: {size}."
        )
    shown = Normalization(cased=False) if extend is None else extend.normalization
    normalization = shown.chosen(cased, accents, long_words)

    # Count the words.
    found_in_text = Found()
    with tempfile.TemporaryDirectory(prefix="kbert-") as directory:
        files = spool(input_files(inputs), pathlib.Path(directory, "standard-input"))
        check_files(files, format, errors, text_field, looks=check)
        groups = list(span_groups(spans_of(files, format)))
        reading = (format, errors, text_field, words_by)
        words = count_words(
            groups, normalization, reading, workers, progress, directory, found_in_text
        )
    warn_of_losses(found_in_text)
    if not words:
        raise InputError(
            "Expected text to learn a vocabulary from. Received: input files without a single word."
        )
    empty = [file for file in files if str(file) not in found_in_text.with_text]
    warn_of_empty_files(empty, stacklevel=2)

    if extend is None:
        found = _learn(words, size, min_frequency)
    else:
        found = new_pieces(words, extend, size - len(kept), min_frequency)
    if len(found) + len(kept) > size:
        raise InputError(
            "Expected a vocabulary size with room for every character of the text. Received: "
            f"{size}, where the characters alone take {len(found) + len(SPECIAL_TOKENS)}; ask for "
            "more."
        )

    # Both learners order tokens in ways of their own: sort by how often each is used.
    learned = Vocabulary(kept + tuple(found))
    counts = _count_tokens(words, Tokenizer(learned, Normalization(cased=True)))
    return Vocabulary(
        kept + tuple(sorted(found, key=lambda token: (-counts[learned.ids[token]], token)))
    )


def _learn(words: collections.Counter[str], size: int, min_frequency: int) -> list[str]:
    """The tokens that the library learns, without the special ones.

    It takes texts alone, so it gets one in which each word stands as often as it was counted.
    Between equally frequent merges it prefers those of the tokens that it numbered first; it
    numbers the characters within words as they turn up in a hash table, but special tokens as they
    are listed (tokenizers/src/models/bpe/trainer.rs). So all characters are fixed here: plain as
    its initial alphabet, which it sorts, and as they stand within words as special tokens.
    """
    scale = min(1.0, LEARNED_WORDS / words.total())
    alphabet, within = _characters(words, scale, limit=max(_CHARACTERS, size // 3))
    # Tokens that are too long for the WordPiece operation are left out: of a text without spaces,
    # whole clauses can become tokens. Then as many more are learned.
    asked = size
    while True:
        learned = _learned_tokens(words, scale, asked, min_frequency, alphabet, within)
        short = [token for token in learned if len(token.encode()) <= MAX_TOKEN_BYTES]
        full = len(learned) + len(SPECIAL_TOKENS) >= asked
        if not full or len(short) + len(SPECIAL_TOKENS) >= size:
            return short[: max(size - len(SPECIAL_TOKENS), len(alphabet) + len(within))]
        asked += size - len(short) - len(SPECIAL_TOKENS)


def _learned_tokens(
    words: collections.Counter[str],
    scale: float,
    size: int,
    min_frequency: int,
    alphabet: list[str],
    within: list[str],
) -> list[str]:
    """What the library learns, in the order in which it did."""
    learner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=max(1, round(min_frequency * scale)),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*SPECIAL_TOKENS, *within],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(words, scale), trainer)
    vocabulary = learner.get_vocab()
    return [
        token
        for token in sorted(vocabulary, key=vocabulary.__getitem__)
        if token not in SPECIAL_TOKENS
    ]


def _characters(
    words: collections.Counter[str], scale: float, limit: int
) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters, and of these the ones that stand within words, with
    "##" before them."""
    counts: collections.Counter[str] = collections.Counter()
    within = set()
    for word, count in words.items():
        count = round(count * scale)
        if count > 0:
            for character in word:
                counts[character] += count
            within.update(word[1:])
    order = sorted(counts, key=lambda character: (-counts[character], character))
    kept = sorted(order[:limit])
    return kept, [f"##{character}" for character in kept if character in within]


def _repeated(words: collections.Counter[str], scale: float) -> Iterator[str]:
    """Yields texts in which every word stands as often as it was counted, scaled."""
    for word in sorted(words, key=lambda word: (-words[word], word)):
        count = round(words[word] * scale)
        while count > 0:
            yield " ".join([word] * min(count, 1000))
            count -= 1000


def _count_tokens(words: collections.Counter[str], tokenizer: Tokenizer) -> np.ndarray:
    """How often each id stands in the text: int64 [V]."""
    call = tf.function(
        tokenizer, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    counts = np.zeros(len(tokenizer.vocabulary), np.int64)
    items = list(words.items())
    for start in range(0, len(items), _WORDS_PER_BATCH):
        texts, times = zip(*items[start : start + _WORDS_PER_BATCH], strict=True)
        ids = call(tf.constant(texts))
        weights = np.repeat(np.array(times, np.float64), ids.row_lengths().numpy())
        counts += np.bincount(ids.flat_values.numpy(), weights, len(counts)).astype(np.int64)
    return counts
