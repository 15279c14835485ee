"""Learns a WordPiece vocabulary from text."""

import numpy as np
import tensorflow as tf
import tokenizers

from tfrecords.documents import input_files, read_documents
from tfrecords.errors import InputError
from tfrecords.tokenizer import Tokenizer
from tfrecords.vocabulary import SPECIAL_TOKENS, Vocabulary

_SENTENCES_PER_BATCH = 4096
_CHARACTERS = 1000


def learn_vocabulary(inputs, size, *, cased=False, min_frequency=2, format="sentences", errors="strict", progress=False):
    """Learns a vocabulary of at most `size` pieces from text files with the `tokenizers` library.

    The pieces stand in canonical order: the five special tokens, then by falling frequency in the text, then by text. The
    library takes in the most frequent characters, 1,000 or a third of the size if that is more; text with a rarer one gets
    [UNK]. It breaks ties between equally good merges as it likes, so two runs may differ in a few rare pieces; what is made
    with a vocabulary therefore depends on its file, never on learning it again.

    Args:
        inputs: Text files and directories of them.
        size: The largest number of pieces, the special tokens included.
        cased: Whether to keep case and accents.
        min_frequency: How often two pieces must stand side by side to be merged into one.
        format: "sentences" or "text", as in `documents.read_documents`.
        errors: "strict" or "replace", for invalid UTF-8.
        progress: Whether to show the library's progress bars.

    Returns:
        A Vocabulary; smaller than `size` where the text has no more pieces to give.

    Raises:
        InputError: The text cannot be read or is empty, or the size leaves no room for the characters of the text.
    """
    if size < len(SPECIAL_TOKENS) + 1:
        raise InputError(f"Expected a vocabulary size above the {len(SPECIAL_TOKENS)} special tokens. Received: {size}.")
    files = input_files(inputs)

    def sentences():
        return (sentence for document in read_documents(files, format, errors) for sentence in document)

    learner = tokenizers.BertWordPieceTokenizer(lowercase=not cased, strip_accents=not cased)
    learner.train_from_iterator(
        sentences(),
        vocab_size=size,
        min_frequency=min_frequency,
        limit_alphabet=max(_CHARACTERS, size // 3),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=progress,
    )
    pieces = [piece for piece in learner.get_vocab() if piece not in SPECIAL_TOKENS]
    if not pieces:
        raise InputError("Expected text to learn a vocabulary from. Received: input files without a single word.")
    if len(pieces) + len(SPECIAL_TOKENS) > size:
        raise InputError(
            f"Expected a vocabulary size with room for every character of the text. Received: {size}, where the characters "
            f"alone take {len(pieces) + len(SPECIAL_TOKENS)}; ask for more."
        )
    learned = Vocabulary(SPECIAL_TOKENS + tuple(pieces))
    counts = _count_pieces(sentences(), Tokenizer(learned, cased))
    return Vocabulary(SPECIAL_TOKENS + tuple(sorted(pieces, key=lambda piece: (-counts[learned.ids[piece]], piece))))


def _count_pieces(sentences, tokenizer):
    """Counts how often each id stands in the tokenized sentences: int64 [V]."""
    call = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
    counts = np.zeros(len(tokenizer.vocabulary), np.int64)
    batch = []
    for sentence in sentences:
        batch.append(sentence)
        if len(batch) == _SENTENCES_PER_BATCH:
            counts += np.bincount(call(tf.constant(batch)).flat_values.numpy(), minlength=len(counts))
            batch = []
    if batch:
        counts += np.bincount(call(tf.constant(batch)).flat_values.numpy(), minlength=len(counts))
    return counts
