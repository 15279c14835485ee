"""The tasks of a build, and the worker that does them.

There are three steps, and a kind of task for each: text to tokenized documents (Text), tokenized
documents sorted by the shard that they go to (Part), and the documents of a shard to records
(Bucket). Two more, before these, find the paragraphs that stand in the text twice (Paragraphs and
Hashes). A task is small and can be pickled. Its result is on disk before it is reported, so a
killed build loses at most the tasks that were under way."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

from tfrecords.build import duplicates
from tfrecords.build.buckets import bucket_of, partition, read_bucket
from tfrecords.build.shards import ShardMaker
from tfrecords.build.tokenized import TokenizedText
from tfrecords.build.tokenizing import CorpusTokenizer
from tfrecords.files import write_json
from tfrecords.schema import RecordsConfig
from tfrecords.text.formats import span_documents
from tfrecords.text.spans import SpanGroup
from tfrecords.vocabulary import Vocabulary

_PARTITIONED = "-by-bucket"
_HASHES = ".hashes"
_DUPLICATES = ".duplicates"


@dataclasses.dataclass(frozen=True)
class Text:
    """Text to be tokenized; `name` is what the names of its files begin with."""

    number: int
    group: SpanGroup
    name: str

    def __str__(self) -> str:
        return str(self.group)


class Paragraphs(Text):
    """Text whose paragraphs are to be hashed."""


@dataclasses.dataclass(frozen=True)
class Hashes:
    """Hashes to be compared, of all paragraphs: those whose first byte is from `start` to `end` -
    1."""

    number: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"the paragraphs with hashes from {self.start:02x} to {self.end - 1:02x}"


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of tokenized documents to be partitioned, and the number of the first of them in the
    corpus."""

    path: pathlib.Path
    first: int
    config: RecordsConfig

    def __str__(self) -> str:
        return str(self.path)

    @property
    def partitioned(self) -> pathlib.Path:
        """The file that it becomes: in the order of their names, they are in that of the text."""
        # An earlier release numbered the tasks.
        is_numbered = re.fullmatch(r"text-\d{6}-\d{4}", self.path.name)
        name = self.path.name if is_numbered else f"documents-{self.first:012d}"
        return self.path.with_name(name + _PARTITIONED)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket to be made a shard."""

    number: int
    config: RecordsConfig

    def __str__(self) -> str:
        return "the documents of {} shard {}".format(*bucket_of(self.number, self.config))


_STEPS = {Paragraphs: "paragraphs", Hashes: "hashes", Bucket: "bucket"}


def result_path(
    unfinished: pathlib.Path, task: Paragraphs | Hashes | Text | Bucket
) -> pathlib.Path:
    """The file that keeps the result of a task, in the directory of unfinished work."""
    name = task.name if type(task) is Text else f"{_STEPS[type(task)]}-{task.number:06d}"
    return unfinished / f"{name}.json"


class BuildWorker:
    """What a worker process owns: a method for every step, called by `Workers.map`.

    Args:
        vocabulary: A Vocabulary.
        config: A RecordsConfig; its number of shards is not used, the tasks have it.
        output: The directory of the records.
        unfinished: The directory of unfinished work.
        format: A format of `formats.read_documents`.
        errors: "strict" or "replace".
        text_field: The field with the text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        config: RecordsConfig,
        output: pathlib.Path,
        unfinished: pathlib.Path,
        format: str,
        errors: str,
        text_field: str,
    ):
        self._vocabulary = vocabulary
        self._deduplicates = config.deduplicate
        self._num_ids = config.num_ids(len(vocabulary))
        self._output = output
        self._unfinished = unfinished
        self._read = lambda span, keeps: span_documents(
            span, format, errors, collections.Counter(), text_field, keeps
        )
        # Each is made when a step needs it, since it takes seconds or memory.
        self._tokenizer = functools.cache(
            lambda: CorpusTokenizer(vocabulary, config, format, errors, text_field)
        )
        self._shard_maker = functools.cache(lambda with_shards: ShardMaker(vocabulary, with_shards))

    @functools.cached_property
    def _parts(self) -> list[pathlib.Path]:
        # The names have numbers in the order of the text.
        return sorted(self._unfinished.glob(f"*{_PARTITIONED}"))

    def hash_paragraphs(self, text: Paragraphs, report: Callable[..., object]) -> dict[str, Any]:
        """Writes the hashes of the text's paragraphs, and returns how many there are."""
        hasher = duplicates.ParagraphHasher()
        for span in text.group.spans:
            for _ in self._read(span, hasher):
                pass
        number = hasher.save(self._unfinished / f"text-{text.number:06d}{_HASHES}")
        result = {"paragraphs": number}
        write_json(result_path(self._unfinished, text), result)
        return result

    def compare_hashes(self, hashes: Hashes, report: Callable[..., object]) -> dict[str, Any]:
        """Writes which paragraphs have stood in the text before, and returns how many."""
        files = sorted(self._unfinished.glob(f"*{_HASHES}"))
        path = self._unfinished / f"hashes-{hashes.number:06d}{_DUPLICATES}"
        number = duplicates.find_duplicates(files, path, hashes.start, hashes.end)
        result = {"duplicates": number}
        write_json(result_path(self._unfinished, hashes), result)
        return result

    def tokenize(self, text: Text, report: Callable[..., object]) -> dict[str, Any]:
        """Tokenizes text to files of documents, and returns what was counted and their names."""
        keeps = None
        if self._deduplicates:
            found = sorted(self._unfinished.glob(f"*{_DUPLICATES}"))
            keeps = duplicates.FirstOccurrences(duplicates.read_duplicates(found, text.number))
        made = TokenizedText(self._unfinished / text.name, self._num_ids, text.group.weight)
        without_text: list[int] = []
        for documents in self._tokenizer().parts(
            text.group.spans, made.counts, without_text, report, keeps, made.cut
        ):
            made.add(documents)
        result = made.finish(without_text)
        write_json(result_path(self._unfinished, text), result)
        made.remove_state()
        return result

    def partition(self, part: Part, report: Callable[..., object]) -> None:
        """Sorts a file of documents by bucket, which takes its place."""
        if not part.partitioned.exists():  # a runner of Beam may do a task twice
            partition(part.path, part.partitioned, part.first, part.config)
        part.path.unlink(missing_ok=True)

    def write(self, bucket: Bucket, report: Callable[..., object]) -> dict[str, Any]:
        """Writes the shard of a bucket, and returns what the manifest says of it."""
        documents = read_bucket(self._parts, bucket.number)
        split, index = bucket_of(bucket.number, bucket.config)
        shard, counts = self._shard_maker(bucket.config).make(
            documents, split, index, self._output, report
        )
        result = {"shard": dataclasses.asdict(shard), "counts": counts}
        write_json(result_path(self._unfinished, bucket), result)
        return result
