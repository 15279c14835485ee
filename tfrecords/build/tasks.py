"""The tasks of a build, and the worker that does them.

There are three steps, and a kind of task for each: text to tokenized documents (Text), tokenized
documents sorted by the shard that they go to (Part), and the documents of a shard to records
(Bucket). A task is small and can be pickled. Its result is on disk before it is reported, so a
killed build loses at most the tasks that were under way."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from tfrecords.build.buckets import bucket_of, partition, read_bucket, save_part
from tfrecords.build.shards import ShardMaker
from tfrecords.build.tokenizing import COUNTERS, COVERAGE, CorpusTokenizer
from tfrecords.files import write_json
from tfrecords.schema import RecordsConfig
from tfrecords.text.spans import SpanGroup
from tfrecords.vocabulary import Vocabulary

_PARTITIONED = "-by-bucket"


@dataclasses.dataclass(frozen=True)
class Text:
    """Text to be tokenized."""

    number: int
    group: SpanGroup

    def __str__(self) -> str:
        return str(self.group)


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
        """The file that it becomes."""
        return self.path.with_name(self.path.name + _PARTITIONED)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket to be made a shard."""

    number: int
    config: RecordsConfig

    def __str__(self) -> str:
        return "the documents of {} shard {}".format(*bucket_of(self.number, self.config))


def result_path(unfinished: pathlib.Path, task: Text | Bucket) -> pathlib.Path:
    """The file that keeps the result of a task, in the directory of unfinished work."""
    step = "text" if isinstance(task, Text) else "bucket"
    return unfinished / f"{step}-{task.number:06d}.json"


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
        self._output = output
        self._unfinished = unfinished
        # Each is made when a step needs it, since it takes seconds or memory.
        self._tokenizer = functools.cache(
            lambda: CorpusTokenizer(vocabulary, config, format, errors, text_field)
        )
        self._shard_maker = functools.cache(lambda with_shards: ShardMaker(vocabulary, with_shards))

    @functools.cached_property
    def _parts(self) -> list[pathlib.Path]:
        # The names have numbers in the order of the text.
        return sorted(self._unfinished.glob(f"*{_PARTITIONED}"))

    def tokenize(self, text: Text, report: Callable[..., object]) -> dict[str, Any]:
        """Tokenizes text to files of documents, and returns what was counted and their names."""
        counts, without_text, parts = collections.Counter(), [], []
        documents = self._tokenizer().parts(text.group.spans, counts, without_text, report)
        for number, some in enumerate(documents):
            name = f"text-{text.number:06d}-{number:04d}"
            save_part(self._unfinished / name, some, len(self._vocabulary))
            parts.append((name, len(some)))
        # With zeros: a count that is not there is one that an earlier release did not know.
        known = {name: counts[name] for name in (*COUNTERS, *COVERAGE)}
        result = {"counts": known, "parts": parts, "without_text": without_text}
        write_json(result_path(self._unfinished, text), result)
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
