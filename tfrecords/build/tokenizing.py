"""Spans of text to tokenized documents, with counts of what was in them."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfrecords.build import coverage
from tfrecords.build.splitting import SentenceSplitter
from tfrecords.documents import Documents
from tfrecords.schema import RecordsConfig
from tfrecords.text.decoding import TEXT_FIELD
from tfrecords.text.formats import span_documents
from tfrecords.text.running_text import Document
from tfrecords.text.spans import Span
from tfrecords.tokenizer import Tokenizer, words_apart
from tfrecords.vocabulary import Vocabulary

PART_TOKENS = 1 << 21
COUNTERS = (
    "documents",
    "sentences",
    "tokens",
    "unknown_tokens",
    "long_sentences",
    "empty_sentences",
    "empty_documents",
    "cut_documents",
    "broken_lines",
    "replaced_characters",
    "duplicate_paragraphs",
    "duplicate_characters",
    "empty_texts",
)
LARGEST = ("longest_document",)
"""Counts of which the largest is kept, and not the sum."""
COVERAGE = (*coverage.COUNTS, *LARGEST, "left_out_members")
"""Counts that came later: results of builds that were begun before lack them."""
_SENTENCES_PER_BATCH = 4096
_CHARACTERS_PER_BATCH = 1 << 19
_CHARACTERS_PER_CALL = 1 << 21
_SENTENCES_AT_ONCE = 32


class CorpusTokenizer:
    """Tokenizes spans of text, in batches large enough to be fast and small enough for bounded
    memory.

    Args:
        vocabulary: A Vocabulary.
        config: A RecordsConfig.
        format: A format of `formats.read_documents`.
        errors: "strict" or "replace".
        text_field: The field with the text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        config: RecordsConfig,
        format: str,
        errors: str,
        text_field: str = TEXT_FIELD,
    ):
        tokenizer = Tokenizer(vocabulary, config.normalization(vocabulary))
        self._tokenize = {
            simple: tf.function(
                functools.partial(tokenizer, printable_ascii=simple),
                input_signature=[tf.TensorSpec([None], tf.string)],
                autograph=False,
            )
            for simple in (True, False)
        }
        self._unk_id = vocabulary.unk_id
        self._words_by = config.words_by
        self._vocabulary_size = len(vocabulary)
        self._longest = config.longest_text
        self._text_counter = coverage.TextCounter(tokenizer)
        self._splitter = (
            SentenceSplitter(vocabulary, config.longest_text, config.longest_part)
            if config.long_sentences == "split"
            else None
        )
        # How text is read; the processes get it with the tasks.
        self._format = format
        self._errors = errors
        self._text_field = text_field

    def parts(
        self,
        spans: Iterable[Span],
        counts: collections.Counter,
        without_text: list[int] | None = None,
        report: Callable[[int, int, int], object] = lambda *_: None,
        keeps: Callable[[str], bool] | None = None,
        cut: CutDocuments | None = None,
    ) -> Iterator[Documents]:
        """Yields the documents of spans in a row as Documents of about PART_TOKENS tokens, and
        adds to `counts`.

        Sentences and documents without a token are dropped and counted.

        Args:
            spans: The spans.
            counts: A Counter; see COUNTERS.
            without_text: A list to which the positions of spans without a document are appended.
            report: Called for every batch with the bytes of the files, the documents and the tokens
                that were read since the last call.
            keeps: Whether a paragraph is to be kept, asked once for each, in order; None: all are.
            cut: What has followed the documents of an earlier call, which this one continues: as
                many are passed over. None: nothing has.

        Raises:
            InputError: The text cannot be read.
        """
        part, size, bytes_reported, cut = [], 0, 0, cut or CutDocuments()
        reading = collections.Counter()
        documents = self._documents(spans, reading, without_text, keeps)
        cut.pass_over(documents)
        for group in _groups(documents):
            batch = self._batch(group, counts, cut)
            part.append(batch)
            size += len(batch[0])
            report(reading["bytes_read"] - bytes_reported, len(batch[2]), len(batch[0]))
            bytes_reported = reading["bytes_read"]
            if size >= PART_TOKENS:
                yield _joined(part)
                part, size = [], 0
        if size:
            yield _joined(part)
        # Only now: a call that continues this one reads all of the text again.
        del reading["bytes_read"]
        counts.update(reading)

    def _documents(self, spans, reading, without_text, keeps) -> Iterator[Document]:
        """Yields the documents of the spans, and counts in `reading` what was met in reading them,
        among it "bytes_read", which is up to date with every document."""
        for place, span in enumerate(spans):
            found, before, documents = collections.Counter(), reading["bytes_read"], 0
            for document in span_documents(
                span, self._format, self._errors, found, self._text_field, keeps
            ):
                documents += 1
                reading["bytes_read"] = before + found["bytes_read"]
                yield document
            is_empty = not (documents or found["duplicate_paragraphs"])
            if is_empty and without_text is not None:
                without_text.append(place)
            del found["bytes_read"]
            reading.update(found)

    def _batch(self, group: list[Document], counts, cut: CutDocuments):
        """The tokens of some documents, the lengths of their sentences and of the documents,
        without empty ones, and how many parts of the same document each has before it. Sentences
        that are too long for a sequence are split."""
        texts = [sentence for document in group for sentence in document]
        if self._words_by is None:
            (tokens, lengths), continues = self.tokens(texts), 0
        else:
            texts = [words_apart(text, self._words_by) for text in texts]
            tokens, lengths, continues = self._tokens_of_words(texts)
        # Which document each sentence is of.
        owner = np.repeat(np.arange(len(group)), [len(document) for document in group])
        sizes = np.bincount(owner, weights=lengths).astype(np.int64)
        self._count(texts, tokens, lengths, sizes, counts)
        before, longest = cut.follow(group, sizes)
        counts["longest_document"] = max(counts["longest_document"], longest)
        full = lengths > 0
        owner, lengths = owner[full], lengths[full]
        if self._splitter:
            lengths, parts = self._splitter.parts(tokens, lengths)
            owner = np.repeat(owner, parts)
        sentences = np.bincount(owner, minlength=len(group))
        ids = tokens + self._vocabulary_size * continues
        return ids, lengths, sentences[sentences > 0], before

    def _tokens_of_words(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `tokens`, and for every token whether it continues a word (int32 [n]), where white
        space alone separates words."""
        words = [text.split() for text in texts]
        tokens, word_lengths = self.tokens([word for some in words for word in some])
        owner = np.repeat(np.arange(len(texts)), list(map(len, words)))
        lengths = np.bincount(owner, word_lengths, len(texts)).astype(np.int64)
        continues = np.ones(len(tokens), np.int32)
        continues[(np.cumsum(word_lengths) - word_lengths)[word_lengths > 0]] = 0
        return tokens, lengths, continues

    def _count(self, texts: list[str], tokens, lengths, sizes, counts) -> None:
        """Counts sentences (N), their tokens and the lengths of both (int64 [N]), of documents of
        `sizes` tokens (int64 [number of documents])."""
        counts["documents"] += int((sizes > 0).sum())
        counts["sentences"] += int((lengths > 0).sum())
        counts["tokens"] += len(tokens)
        counts["unknown_tokens"] += int((tokens == self._unk_id).sum())
        counts["long_sentences"] += int((lengths > self._longest).sum())
        counts["empty_sentences"] += int((lengths == 0).sum())
        counts["empty_documents"] += int((sizes == 0).sum())
        for name, number in self._text_counter.count(texts, tokens, lengths).items():
            counts[name] += number

    def tokens(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of sentences, one after the other (int32 [n]), and the length of each (int64
        [number of sentences]).

        Sentences of printable ASCII need half the work. They are tokenized apart from the others if
        they are at least three in four."""
        others = _not_printable_ascii(sentences)
        if 4 * len(others) > len(sentences):
            return self._call(sentences, False)

        # An empty sentence keeps the place of each of the others, whose tokens are put there after.
        simple = list(sentences)
        for n in others:
            simple[n] = ""
        tokens, lengths = self._call(simple, True)
        if others:
            other_tokens, other_lengths = self._call([sentences[n] for n in others], False)
            parts = np.split(tokens, np.cumsum(lengths)[others])
            other_parts = np.split(other_tokens, np.cumsum(other_lengths))
            tokens = np.concatenate(
                [part for both in zip(parts, other_parts, strict=True) for part in both]
            )
            lengths[others] = other_lengths
        return tokens, lengths

    def _call(self, sentences: list[str], simple: bool) -> tuple[np.ndarray, np.ndarray]:
        # A document may be far longer than a batch, and TensorFlow needs a hundred bytes for each
        # token during a call. So long batches are divided among several calls.
        sizes = np.fromiter(map(len, sentences), np.int64, len(sentences))
        call = np.cumsum(sizes) // _CHARACTERS_PER_CALL
        starts = [0, *(np.flatnonzero(np.diff(call)) + 1), len(sentences)]
        parts = []
        for start, end in itertools.pairwise(starts):
            ids = self._tokenize[simple](
                tf.constant(sentences[start:end], tf.string, [end - start])
            )
            parts.append((ids.flat_values.numpy(), ids.row_lengths().numpy()))
        tokens, lengths = map(np.concatenate, zip(*parts, strict=True))
        return tokens, lengths


def _are_printable(characters: bytes) -> bool:
    """Whether all characters of ASCII are printable, at five times the speed of
    `str.isprintable`."""
    codes = np.frombuffer(characters, np.uint8) - np.uint8(0x20)  # those below wrap around
    return not (codes > 0x7E - 0x20).any()


def _not_printable_ascii(sentences: list[str]) -> list[int]:
    """The places of the sentences with a character that is not printable ASCII."""
    found = []
    # Many at a time: most have none, and a call for each would take a tenth of the time of all.
    for start in range(0, len(sentences), _SENTENCES_AT_ONCE):
        some = sentences[start : start + _SENTENCES_AT_ONCE]
        text = "".join(some)
        if not (text.isascii() and _are_printable(text.encode())):
            found += [
                start + place
                for place, sentence in enumerate(some)
                if not (sentence.isascii() and sentence.isprintable())
            ]
    return found


class CutDocuments:
    """Follows documents of a text in order, and tells which are parts of one that was cut.

    Args:
        state: The `state` of one that has followed the beginning of the text, or None.
    """

    def __init__(self, state: Sequence[int] | None = None) -> None:
        # How many there were, empty ones too; of the last one the parts so far, and their tokens.
        self._documents, self._parts, self._tokens = state or (0, 0, 0)
        self._first: Document | None = None  # the first part of the last one

    @property
    def state(self) -> list[int]:
        """What another one needs to go on from here."""
        return [self._documents, self._parts, self._tokens]

    def pass_over(self, documents: Iterator[Document]) -> None:
        """Takes the documents from an iterator of all that were followed already."""
        for document in itertools.islice(documents, self._documents):
            self._first = document.first

    def follow(self, group: list[Document], sizes: np.ndarray) -> tuple[np.ndarray, int]:
        """The next documents, with their numbers of tokens (int64 [n]).

        Returns:
            How many parts of the same document stand before each that has tokens (int64 [at most
            n]), and the tokens of the longest document, all of its parts together.
        """
        self._documents += len(group)
        before, longest = [], 0
        for document, size in zip(group, sizes.tolist(), strict=True):
            if document.first is not self._first:
                self._first, self._parts, self._tokens = document.first, 0, 0
            if size:
                before.append(self._parts)
                self._parts += 1
                self._tokens += size
                longest = max(longest, self._tokens)
        return np.array(before, np.int64), longest


def _joined(batches) -> Documents:
    *arrays, before = map(np.concatenate, zip(*batches, strict=True))
    firsts = np.arange(len(before)) - before if before.any() else None
    return Documents.of_lengths(*arrays, firsts=firsts)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups documents so that each group, except for the last, has at least _SENTENCES_PER_BATCH
    sentences or _CHARACTERS_PER_BATCH characters."""
    group, sentences, characters = [], 0, 0
    for document in documents:
        group.append(document)
        sentences += len(document)
        characters += sum(map(len, document))
        if sentences >= _SENTENCES_PER_BATCH or characters >= _CHARACTERS_PER_BATCH:
            yield group
            group, sentences, characters = [], 0, 0
    if group:
        yield group
