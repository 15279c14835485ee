"""A corpus to a directory of records, in two passes whose memory does not grow with the corpus.

First the text is tokenized, piece by piece, and its documents are parted by the shard they go to
(buckets.py). Then every shard is made by itself (shards.py). What is finished stays across a kill,
and the same call goes on from there; the manifest is written last."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import threading
import warnings

import numpy as np
from tqdm import tqdm

from tfrecords import schema
from tfrecords.build.buckets import (
    automatic_shards,
    bucket_of,
    buckets,
    partition,
    read_bucket,
    save_part,
)
from tfrecords.build.shards import ShardMaker
from tfrecords.build.tokenizing import COUNTERS, CorpusTokenizer
from tfrecords.errors import InputError
from tfrecords.files import (
    PARTIAL_SUFFIX,
    claim_directory,
    locked,
    make_directory,
    read_json,
    sha256,
    with_defaults,
    write_json,
)
from tfrecords.inputs import STANDARD_INPUT, Batch, batches, input_files, pieces, spool
from tfrecords.schema import Manifest, RecordsConfig, Shard, load_manifest
from tfrecords.workers import Workers, automatic_workers

CONFIGURATION = "config.json"
SPILL = "unfinished"
"""The directory of what is tokenized but not in a shard yet; it is gone when the build is
finished."""
_PARTITIONED = "-by-bucket"
_MADE_WITH = "made-with.json"
# Bytes of text per second and process, tokenized and written once; about, to judge what is worth a
# process.
_TEXT_SPEED, _RECORDS_SPEED = 10e6, 25e6


def build_records(
    inputs,
    vocabulary,
    output,
    config,
    *,
    format="sentences",
    errors="strict",
    workers=1,
    beam_options=None,
    progress=False,
):
    """Makes records of sentence pairs from text files.

    The bytes of the records and of the manifest are a pure function of the documents, the
    vocabulary and the configuration, however the documents are spread over files and the work over
    processes. The manifest is written last; a directory with a manifest is complete. Called again
    on its own directory it goes on where it stopped, or returns what is there.

    Args:
        inputs: Text files, directories and patterns of them, "-" for standard input; see
            `inputs.input_files`.
        vocabulary: A Vocabulary.
        output: The directory to make.
        config: A RecordsConfig.
        format: "sentences", "text", "jsonl" or "parquet"; see `documents.read_documents`.
        errors: "strict" or "replace", for invalid UTF-8.
        workers: The number of processes; with more than one, a script needs `if __name__ ==
            "__main__":`. None: as many as there are processors and the work is worth.
        beam_options: Options of Apache Beam, which then does the work in place of local processes:
            a list of strings as on a command line, empty for Beam's runner on this machine. Needs
            the extra `beam`; see beam.py.
        progress: Whether to show progress bars.

    Returns:
        The Manifest.

    Raises:
        InputError: The text or the output directory cannot be used, or the documents are too few.
        WorkerError: A process died.
        OSError: The disk is full, among others; what is finished stays.
    """
    if workers is not None and workers < 1:
        raise InputError(f"Expected at least 1 worker. Received: {workers}.")
    if config.cased is None:
        config = dataclasses.replace(config, cased=vocabulary.cased)
    output = pathlib.Path(output)
    files = _apart_from(output, inputs, input_files(inputs))
    if beam_options is not None:  # other machines have other working directories
        output, files = (
            output.resolve(),
            [file if file == STANDARD_INPUT else file.resolve() for file in files],
        )
    with locked(output), _spooled(files, output) as files:
        num_bytes = sum(file.stat().st_size for file in files)
        if workers is None:
            workers = automatic_workers(
                num_bytes * (1 / _TEXT_SPEED + config.duplicates / _RECORDS_SPEED)
            )
        identity = {
            "kind": "records",
            "version": schema.VERSION,
            "input_bytes": num_bytes,
            "input_sha256": _digest(files, num_bytes, workers, progress),
            "format": format,
            "errors": errors,
            "vocabulary_sha256": vocabulary.sha256,
            **dataclasses.asdict(config),
        }
        with _space_named(output, lambda: _bytes_needed(num_bytes, config) - _bytes_there(output)):
            job = (_Worker, vocabulary, config, output, format, errors)
            pool = (
                Workers(workers, *job)
                if beam_options is None
                else _beam_workers(beam_options, output / SPILL, *job)
            )
            claim_directory(
                output, identity, CONFIGURATION, lambda there: with_defaults(there, RecordsConfig)
            )
            if not (output / schema.MANIFEST).exists():
                _build(files, vocabulary, output, config, format, pool, progress)
        shutil.rmtree(output / SPILL, ignore_errors=True)
        return load_manifest(output)


@contextlib.contextmanager
def _spooled(files, output):
    """The files with one beside the output in the place of standard input, gone at the end."""
    output = output.resolve()  # "." has no name
    path = output.with_name(f"{output.name}.standard-input{PARTIAL_SUFFIX}")
    try:
        with _space_named(path):
            files = spool(files, path)
        yield files
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _space_named(path, need=lambda: None):
    """Says where space is missing when the disk is full, and how many bytes if `need` knows."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = "" if need() is None else f": about {max(need(), 1e6) / 1e6:,.0f} MB more are needed"
        raise OSError(
            errno.ENOSPC,
            f"no space left{what}; free some and run the same command again, it continues",
            str(error.filename or path),
        ) from None


def _apart_from(output, inputs, files):
    """The files but those in the output that a pattern matches; an output that is input, or has it,
    is refused."""
    output = output.resolve()
    for path in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        there = pathlib.Path(path).resolve()
        inside = there.is_relative_to(output) and output.is_dir()
        if inside or (there.is_dir() and output.is_relative_to(there)):
            raise InputError(
                f"Expected an output directory apart from the input. Received: {output} for the input {path}."
            )
    return [file for file in files if not file.resolve().is_relative_to(output)]


def _digest(files, num_bytes, workers, progress):
    """The SHA-256 of the SHA-256s of files of so many bytes together."""
    digest = hashlib.sha256()
    stopped = threading.Event()
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        _bar("reading", num_bytes, "B", progress) as bar,
    ):

        def advance(num_read):
            bar.update(num_read)
            if stopped.is_set():
                raise InterruptedError

        try:
            for one in pool.map(lambda file: sha256(file, advance), files):
                digest.update(bytes.fromhex(one))
        finally:
            stopped.set()  # or the end of the block would wait for whole files
    return digest.hexdigest()


def _bar(what, total, unit, progress):
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        disable=not progress,
        leave=total > 0,
        delay=1,
    )


def _beam_workers(*arguments):
    from tfrecords.build.beam import BeamWorkers  # an extra, and slow to import

    return BeamWorkers(*arguments)


def _build(files, vocabulary, output, config, format, pool, progress):
    spill = _spill(output)
    try:
        with pool:
            # Pass one: the text, piece by piece, to tokenized documents on disk.
            tasks = [
                _Text(number, batch) for number, batch in enumerate(batches(pieces(files, format)))
            ]
            texts = _tokenize(pool, tasks, spill, progress)
            counts = {name: sum(text["counts"].get(name, 0) for text in texts) for name in COUNTERS}
            config = _with_shards(config, counts)

            # Every document to the bucket that its number in the corpus gives.
            _partition(pool, texts, config, spill)

            # Pass two: every bucket to a shard.
            shards, totals = _write(pool, config, counts, spill, progress)
    except InputError:
        # It takes other text or another configuration: the directory is free for a corrected
        # attempt.
        _forget(output)
        (output / CONFIGURATION).unlink()
        raise
    _warn_of_empty_files(files, tasks, texts)
    vocabulary.save(output / schema.VOCABULARY)
    Manifest(
        directory=output,
        sequence_length=config.sequence_length,
        max_predictions=config.max_predictions,
        vocabulary_size=len(vocabulary),
        vocabulary_sha256=vocabulary.sha256,
        config=config,
        shards=tuple(shards),
        counts={"corpus": counts, **{split: total for split, total in totals.items() if total}},
    ).save()


def _spill(output):
    """The directory of unfinished work, with that of an earlier attempt unless it was another
    version that did it."""
    spill = output / SPILL
    distributions = {
        "kbert": "kbert-pretraining",
        "tensorflow-text": "tensorflow-text",
        "nupunkt": "nupunkt",
    }
    made_with = {name: _version(distribution) for name, distribution in distributions.items()}
    if (spill / _MADE_WITH).exists() and read_json(
        spill / _MADE_WITH, "the versions of an earlier attempt"
    ) != made_with:
        _forget(output)
    for leftover in [*output.glob(f"*{PARTIAL_SUFFIX}"), *spill.glob(f"*{PARTIAL_SUFFIX}")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    make_directory(spill)
    write_json(spill / _MADE_WITH, made_with)
    return spill


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # it runs from its sources
        return None


def _forget(output):
    """Removes unfinished work, in an order in which a kill leaves nothing that would be taken for
    finished."""
    spill, gone = output / SPILL, output / f"{SPILL}{PARTIAL_SUFFIX}"
    if gone.exists():
        shutil.rmtree(gone)
    if spill.exists():
        spill.replace(gone)
        shutil.rmtree(gone)
    for path in output.glob("*.tfrecord*"):
        path.unlink()


@dataclasses.dataclass(frozen=True)
class _Text:
    """Text to be tokenized."""

    number: int
    batch: Batch

    def __str__(self):
        return str(self.batch)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A file of tokenized documents to be partitioned, and the number of the first of them in the
    corpus."""

    path: pathlib.Path
    first: int
    config: RecordsConfig

    def __str__(self):
        return str(self.path)


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """A bucket to be made a shard."""

    number: int
    config: RecordsConfig

    def __str__(self):
        return "the documents of {} shard {}".format(*bucket_of(self.number, self.config))


class _Worker:
    """What a process does: a method for every step. Each writes its result to disk before it is
    reported."""

    def __init__(self, vocabulary, config, output, format, errors):
        self._vocabulary = vocabulary
        self._output = output
        self._spill = output / SPILL
        # Each is made when a step needs it; the shards need the configuration with their number.
        self._tokenizer = functools.cache(
            lambda: CorpusTokenizer(vocabulary, config, format, errors)
        )
        self._shard_maker = functools.cache(lambda with_shards: ShardMaker(vocabulary, with_shards))

    @functools.cached_property
    def _parts(self):
        return sorted(
            self._spill.glob(f"*{_PARTITIONED}")
        )  # the names have numbers in the order of the text

    def tokenize(self, text, report):
        counts, without_text, parts = collections.Counter(), [], []
        for number, documents in enumerate(
            self._tokenizer().parts(text.batch.pieces, counts, without_text, report)
        ):
            name = f"text-{text.number:06d}-{number:04d}"
            save_part(self._spill / name, documents, len(self._vocabulary))
            parts.append((name, len(documents)))
        result = {"counts": dict(counts), "parts": parts, "without_text": without_text}
        write_json(_result(self._spill, "text", text.number), result)
        return result

    def partition(self, part, report):
        path = _partitioned(part.path)
        if not path.exists():  # a runner may do a task twice
            partition(part.path, path, part.first, part.config)
        part.path.unlink(missing_ok=True)

    def write(self, bucket, report):
        documents = read_bucket(self._parts, bucket.number)
        split, index = bucket_of(bucket.number, bucket.config)
        shard, counts = self._shard_maker(bucket.config).make(
            documents, split, index, self._output, report
        )
        result = {"shard": dataclasses.asdict(shard), "counts": counts}
        write_json(_result(self._spill, "bucket", bucket.number), result)
        return result


def _result(spill, step, number):
    return spill / f"{step}-{number:06d}.json"


def _partitioned(part):
    return part.with_name(part.name + _PARTITIONED)


def _finished(pool, method, step, tasks, spill, advance, finish):
    """Runs `method` for all tasks but those whose result is on disk, and returns the results in the
    order of the tasks."""
    results = {}
    for task in tasks:
        path = _result(spill, step, task.number)
        if path.exists():
            results[task.number] = read_json(path, "the result of an earlier attempt")
            finish(task)
    waiting = [task for task in tasks if task.number not in results]
    for task, result in pool.map(method, waiting, advance):
        results[task.number] = result
        finish(task)
    return [results[task.number] for task in tasks]


def _tokenize(pool, tasks, spill, progress):
    seen = collections.Counter()
    with _bar("tokenizing", sum(task.batch.bytes for task in tasks), "B", progress) as bar:

        def advance(task, num_bytes, documents, tokens):
            seen.update({task.number: num_bytes, "documents": documents, "tokens": tokens})
            bar.set_postfix_str(
                f"{seen['documents']:,} documents, {seen['tokens']:,} tokens", refresh=False
            )
            bar.update(num_bytes)

        def finish(task):
            bar.update(task.batch.bytes - seen[task.number])

        return _finished(pool, "tokenize", "text", tasks, spill, advance, finish)


def _with_shards(config, counts):
    """The configuration with its number of shards, for which the corpus must have enough
    documents."""
    documents = counts["documents"]
    if not documents:
        raise InputError("Expected text. Received: input files without a single word.")
    if documents == 1 and config.pairs == "nsp":
        raise InputError(
            "Next sentence prediction needs another document to draw from: expected at least 2 "
            "documents. Received: 1; part "
            "the documents with empty lines, or choose --pairs sop or --pairs none, for which one "
            "is enough" + (" with --validation-fraction 0." if config.validation_fraction else ".")
        )
    if config.num_shards is None:
        config = dataclasses.replace(
            config, num_shards=automatic_shards(counts["tokens"], documents, config)
        )
    sizes = np.zeros(config.num_shards + config.num_validation_shards, np.int64)
    for first in range(0, documents, 1 << 20):
        sizes += np.bincount(
            buckets(first, min(1 << 20, documents - first), config), minlength=len(sizes)
        )
    least = 2 if config.pairs == "nsp" else 1
    if sizes.min() < least:
        split, index = bucket_of(int(sizes.argmin()), config)
        mend = "give more text or fewer --shards"
        if split == "validation":
            mend = "set --validation-fraction to 0"
            if documents >= 10:
                mend = (
                    f"set --validation-fraction to {min(0.5, 5 / documents):.2g}, or to 0 for none"
                )
        if documents < 10:
            mend += ", and check that empty lines part the documents"
        why = (
            "Next sentence prediction needs another document to draw from: expected"
            if least == 2
            else "Expected"
        )
        raise InputError(
            f"{why} at least {least} document{'s' * (least > 1)} in every part. "
            f"Received: {sizes.min()} of {documents} documents in {split} shard {index}; {mend}."
        )
    return config


def _partition(pool, texts, config, spill):
    """Partitions all files of tokenized documents."""
    tasks, first = [], 0
    for text in texts:
        for name, documents in text["parts"]:
            tasks.append(_Part(spill / name, first, config))
            first += documents
    for _ in pool.map(
        "partition", [task for task in tasks if not _partitioned(task.path).exists()]
    ):
        pass


def _write(pool, config, counts, spill, progress):
    num_buckets = config.num_shards + config.num_validation_shards
    tasks = [_Bucket(number, config) for number in range(num_buckets)]
    seen = collections.Counter()
    share = counts["tokens"] / num_buckets
    with _bar("writing", counts["tokens"], " tokens", progress) as bar:

        def advance(task, records):
            seen["records"] += records
            bar.set_postfix_str(
                f"{seen['shards']} of {num_buckets} shards, {seen['records']:,} records",
                refresh=False,
            )
            bar.update(0)

        def finish(task):
            seen["shards"] += 1
            bar.update(share)

        results = _finished(pool, "write", "bucket", tasks, spill, advance, finish)
    totals = {split: collections.Counter() for split in schema.SPLITS}
    for task, result in zip(tasks, results, strict=True):
        totals[bucket_of(task.number, config)[0]].update(result["counts"])
    shards = [Shard(**result["shard"]) for result in results]
    return shards, {split: dict(total) for split, total in totals.items()}


def _bytes_needed(num_bytes, config):
    """About how many bytes a build of so many bytes of text takes, when most of it is done: a
    guess, for a message."""
    tokens = num_bytes / 4.5
    records = tokens * config.duplicates / (0.85 * config.sequence_length)
    record = 200 + 9 * config.max_predictions + 4.2 * config.sequence_length
    return 2.2 * tokens + records * (
        60 + 2 * config.sequence_length if config.masking == "dynamic" else record
    )


def _bytes_there(output):
    return sum(path.stat().st_size for path in output.rglob("*") if path.is_file())


def _warn_of_empty_files(files, tasks, texts):
    with_text = set()
    for task, text in zip(tasks, texts, strict=True):
        empty = set(text["without_text"])
        with_text.update(
            piece.path for place, piece in enumerate(task.batch.pieces) if place not in empty
        )
    empty = [str(file) for file in files if str(file) not in with_text]
    if empty:
        more = f" and {len(empty) - 3:,} more" if len(empty) > 3 else ""
        warnings.warn(f"{', '.join(empty[:3])}{more}: no text in there", stacklevel=4)
