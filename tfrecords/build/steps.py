"""The three steps of a build, each for all of its tasks, with a progress bar."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from tfrecords import schema
from tfrecords.build.buckets import bucket_of, num_buckets
from tfrecords.build.duplicates import hash_ranges
from tfrecords.build.tasks import (
    Bucket,
    BuildWorker,
    Hashes,
    Paragraphs,
    Part,
    Text,
    result_path,
)
from tfrecords.build.tokenizing import LARGEST
from tfrecords.files import read_json
from tfrecords.progress import progress_bar
from tfrecords.schema import RecordsConfig, Shard
from tfrecords.workers import Pool


def find_duplicates(
    pool: Pool, tasks: Sequence[Text], unfinished: pathlib.Path, progress: bool
) -> None:
    """Finds the paragraphs that stand in the text more than once, for `tokenize_text`."""
    hashing = [Paragraphs(task.number, task.group, task.name) for task in tasks]
    total = sum(task.group.bytes for task in hashing)
    with progress_bar("looking for duplicates", total, "B", progress) as bar:

        def finish(task):
            bar.update(task.group.bytes)

        found = _finished(pool, BuildWorker.hash_paragraphs, hashing, unfinished, finish=finish)
    ranges = hash_ranges(sum(result["paragraphs"] for result in found))
    comparing = [Hashes(number, *bounds) for number, bounds in enumerate(ranges)]
    _finished(pool, BuildWorker.compare_hashes, comparing, unfinished)


def tokenize_text(
    pool: Pool, tasks: Sequence[Text], unfinished: pathlib.Path, progress: bool
) -> list[dict[str, Any]]:
    """Tokenizes all text to files of documents, and returns the results of the tasks."""
    seen = collections.Counter()
    with progress_bar("tokenizing", sum(task.group.bytes for task in tasks), "B", progress) as bar:

        def advance(task, num_bytes, documents, tokens):
            seen.update({task.number: num_bytes, "documents": documents, "tokens": tokens})
            bar.set_postfix_str(
                f"{seen['documents']:,} documents, {seen['tokens']:,} tokens", refresh=False
            )
            bar.update(num_bytes)

        def finish(task):
            bar.update(task.group.bytes - seen[task.number])

        return _finished(pool, BuildWorker.tokenize, tasks, unfinished, advance, finish)


def partition_documents(
    pool: Pool, texts: Sequence[dict[str, Any]], config: RecordsConfig, unfinished: pathlib.Path
) -> None:
    """Sorts every file of tokenized documents by bucket."""
    tasks, first = [], 0
    for text in texts:
        for name, documents in text["parts"]:
            tasks.append(Part(unfinished / name, first, config))
            first += documents
    waiting = [task for task in tasks if not task.partitioned.exists()]
    for _ in pool.map(BuildWorker.partition, waiting):
        pass


def write_shards(
    pool: Pool, config: RecordsConfig, tokens: int, unfinished: pathlib.Path, progress: bool
) -> tuple[list[Shard], dict[str, dict[str, int]]]:
    """Writes every bucket to a shard, and returns the shards and the counts of each split."""
    tasks = [Bucket(number, config) for number in range(num_buckets(config))]
    seen = collections.Counter()
    share = tokens / len(tasks)
    with progress_bar("writing", tokens, " tokens", progress) as bar:

        def advance(task, records):
            seen["records"] += records
            bar.set_postfix_str(
                f"{seen['shards']} of {len(tasks)} shards, {seen['records']:,} records",
                refresh=False,
            )
            bar.update(0)

        def finish(task):
            seen["shards"] += 1
            bar.update(share)

        results = _finished(pool, BuildWorker.write, tasks, unfinished, advance, finish)

    # The manifest's counts are those of the splits.
    counts = {split: [] for split in schema.SPLITS}
    for task, result in zip(tasks, results, strict=True):
        counts[bucket_of(task.number, config)[0]].append(result["counts"])
    shards = [Shard(**result["shard"]) for result in results]
    return shards, {split: summed(of_shards) for split, of_shards in counts.items()}


def summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """The sums of counts by name; of those that are the largest of something, the maximum.

    A name that one of the dicts lacks is left out: an earlier release, which did not count it, has
    done a part of the build, and a sum of the others would be of nothing.

    >>> summed([{"tokens": 2, "words": 1}, {"tokens": 3}])
    {'tokens': 5}
    """
    return {
        name: (max if name in LARGEST else sum)(one[name] for one in counts)
        for name in (counts[0] if counts else {})
        if all(name in one for one in counts)
    }


def _finished(
    pool: Pool,
    function: Callable[..., dict[str, Any]],
    tasks: Sequence[Any],
    unfinished: pathlib.Path,
    advance: Callable[..., object] = lambda *_: None,
    finish: Callable[[Any], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Calls `function` for every task whose result is not on disk yet, and returns the results in
    the order of the tasks."""
    results = {}
    for task in tasks:
        path = result_path(unfinished, task)
        if path.exists():
            results[task.number] = read_json(path, "the result of an earlier attempt")
            finish(task)
    waiting = [task for task in tasks if task.number not in results]
    for task, result in pool.map(function, waiting, advance):
        results[task.number] = result
        finish(task)
    return [results[task.number] for task in tasks]
