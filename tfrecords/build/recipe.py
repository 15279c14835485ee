"""A corpus to a directory of records, in two passes whose memory does not grow with the corpus.

First the text is tokenized, span by span, and its documents are sorted by the shard that they go to
(buckets.py). Then every shard is made by itself (shards.py). Finished work survives a kill, and the
same call continues from there; the manifest is written last."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfrecords import schema
from tfrecords.build import unfinished
from tfrecords.build.buckets import automatic_shards, bucket_of, buckets, num_buckets
from tfrecords.build.copies import count_copies
from tfrecords.build.corpus import (
    corpus_digest,
    corpus_files,
    file_digests,
    files_without_text,
    full_disk_explained,
    spooled,
    text_digests,
)
from tfrecords.build.steps import (
    find_duplicates,
    partition_documents,
    summed,
    tokenize_text,
    write_shards,
)
from tfrecords.build.tasks import BuildWorker, Text
from tfrecords.build.tokenized import sample_path
from tfrecords.build.tokenizing import COUNTERS
from tfrecords.errors import InputError
from tfrecords.files import claim_directory, locked, read_json, values_before, with_defaults
from tfrecords.inputs import STANDARD_INPUT, warn_of_empty_files
from tfrecords.normalization import Normalization
from tfrecords.schema import LONG_SENTENCES, Manifest, RecordsConfig, load_manifest
from tfrecords.text.check import check_files
from tfrecords.text.decoding import ERRORS, TEXT_FIELD
from tfrecords.text.formats import DEFAULT_FORMAT, TEXT_FORMATS, spans_of
from tfrecords.text.spans import span_groups
from tfrecords.vocabulary import Vocabulary, warn_of_impossible
from tfrecords.workers import Pool, Workers, automatic_workers

CONFIGURATION = "config.json"
_NO_TEXT = "Expected text. Received: input files without a single word."
# About how many bytes of text a process tokenizes, and writes once, in a second; to judge how many
# processes are worth their start.
_TEXT_SPEED, _RECORDS_SPEED = 10e6, 25e6
# The documents whose buckets are counted at a time, which bounds memory.
_DOCUMENTS_AT_A_TIME = 1 << 20


def build_records(
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    vocabulary: Vocabulary,
    output: str | os.PathLike,
    config: RecordsConfig,
    *,
    format: str = DEFAULT_FORMAT,
    errors: str = ERRORS[0],
    text_field: str = TEXT_FIELD,
    check: bool = True,
    workers: int | None = 1,
    beam_options: Sequence[str] | None = None,
    progress: bool = False,
) -> Manifest:
    """Makes records from text files.

    The bytes of the records and of the manifest are a pure function of the documents, the
    vocabulary and the configuration, however the documents are spread over files and the work over
    processes. The manifest is written last; a directory with a manifest is complete. Called again
    on its own directory, it continues where it stopped, or returns the manifest that is there.

    Args:
        inputs: Text files, directories and patterns of them, "-" for standard input; see
            `inputs.input_files`.
        vocabulary: The vocabulary.
        output: The directory to make.
        config: How records are made. A later release with new fields continues what an earlier one
            began: their defaults are the behaviour before they existed.
        format: A format of `formats.read_documents`.
        errors: "strict" or "replace", for invalid UTF-8.
        text_field: The field or column with the text, in formats that have some.
        check: Whether to look first whether the beginning of every file fits the format; see
            `check.check_files`.
        workers: The number of processes; with more than one, a script needs
            `if __name__ == "__main__":`. None: as many as there are processors, or fewer for a
            small corpus.
        beam_options: Options of Apache Beam, which then does the work in place of local processes:
            a list of strings as on a command line, empty for Beam's runner on this machine. Needs
            the extra `beam`; see build/beam.py.
        progress: Whether to show progress bars.

    Returns:
        The Manifest.

    Raises:
        InputError: The text or the output directory cannot be used, or there are too few documents.
        WorkerError: A process died.
        OSError: Among others, the disk is full; finished work stays.
    """
    if workers is not None and workers < 1:
        raise InputError(f"Expected at least 1 worker. Received: {workers}.")
    warn_of_impossible(vocabulary, config.normalization(vocabulary))
    output = pathlib.Path(output)
    files = corpus_files(inputs, output)
    if beam_options is not None:  # other machines have other working directories
        output = output.resolve()
        files = {
            file if file == STANDARD_INPUT else file.resolve(): weight
            for file, weight in files.items()
        }

    with locked(output), spooled(files, output) as files:
        check_files(files, format, errors, text_field, looks=check)
        # The directory is this job's from here on: everything that the records depend on is in its
        # identity, the text by its hash.
        config = _settled(config, vocabulary, output)
        num_bytes = sum(file.stat().st_size for file in files)
        if workers is None:
            assert config.duplicates is not None
            seconds = num_bytes * (1 / _TEXT_SPEED + config.duplicates / _RECORDS_SPEED)
            workers = automatic_workers(seconds)
        digests = file_digests(
            files, workers, progress, is_text=errors == "strict" and format != "parquet"
        )
        identity = {
            "kind": "records",
            "version": schema.VERSION,
            "input_bytes": num_bytes,
            "input_sha256": corpus_digest(digests.values()),
            "format": format,
            "errors": errors,
            "text_field": text_field,
            "weights": _weights(files),
            "vocabulary_sha256": vocabulary.sha256,
            **dataclasses.asdict(config),
        }
        with full_disk_explained(output):
            # Options of Beam are checked before anything is written.
            job = (vocabulary, config, output, output / unfinished.NAME, format, errors, text_field)
            pool = _pool(workers, beam_options, output / unfinished.NAME, job)
            leftovers = [unfinished.NAME] if unfinished.was_refused(output) else []
            claim_directory(output, identity, CONFIGURATION, _completed, leftovers)
            if not (output / schema.MANIFEST).exists():
                _build(files, digests, vocabulary, output, config, identity, pool, progress)
        # A kill between the manifest and this line leaves it for the next call.
        shutil.rmtree(output / unfinished.NAME, ignore_errors=True)
        return load_manifest(output)


def _completed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that an earlier build wrote, with those that its release did not know yet."""
    known = with_defaults(with_defaults(fields, RecordsConfig), Normalization)
    return {"text_field": TEXT_FIELD, "weights": None} | known


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    """What decides, beside the text of a task, what is tokenized of it: a part of the identity."""
    # Tasks have digests and weights of their own files, and depend on others by duplicates alone.
    of_text = {"input_bytes"} if identity["deduplicate"] else {"input_bytes", "input_sha256"}
    return {name: value for name, value in identity.items() if name not in of_text} | {
        "weights": None
    }


def _weights(files: dict[pathlib.Path, int]) -> list[list[int]] | None:
    """The weights of the files in a row, as [weight, number of files]; None if all have 1."""
    if set(files.values()) == {1}:
        return None
    runs = itertools.groupby(files.values())
    return [[weight, sum(1 for _ in run)] for weight, run in runs]


def _settled(config: RecordsConfig, vocabulary: Vocabulary, output: pathlib.Path) -> RecordsConfig:
    """The configuration with a value for everything that was left open."""
    changes = dataclasses.asdict(config.normalization(vocabulary))
    if config.long_sentences is None:
        # A build that an earlier release began is continued as it was begun.
        claimed = output / CONFIGURATION
        begun = (
            read_json(claimed, "the configuration of an earlier run") if claimed.exists() else {}
        )
        earlier = begun and "long_sentences" not in begun
        before = values_before(RecordsConfig)["long_sentences"]
        changes["long_sentences"] = before if earlier else LONG_SENTENCES[0]
    return dataclasses.replace(config, **changes)


def _pool(workers: int, beam_options: Sequence[str] | None, results: pathlib.Path, job) -> Pool:
    if beam_options is None:
        return Workers(workers, BuildWorker, *job)
    from tfrecords.build.beam import BeamWorkers  # an extra, and slow to import

    return BeamWorkers(beam_options, results, BuildWorker, *job)


def _build(
    files: dict[pathlib.Path, int],
    digests: dict[str, str],
    vocabulary: Vocabulary,
    output: pathlib.Path,
    config: RecordsConfig,
    identity: dict[str, Any],
    pool: Pool,
    progress: bool,
) -> None:
    spill = unfinished.open_unfinished(output)
    format, texts = identity["format"], None
    try:
        with pool:
            # Pass one: the text, span by span, to tokenized documents on disk.
            groups = list(span_groups(spans_of(files, format)))
            if not groups:  # a Parquet file may have no rows at all
                raise InputError(_NO_TEXT)
            of_groups = text_digests(groups, digests)
            names = unfinished.text_names(output, _settings(identity), of_groups, _completed)
            tasks = [
                Text(number, group, name)
                for number, (group, name) in enumerate(zip(groups, names, strict=True))
            ]
            if config.deduplicate:
                find_duplicates(pool, tasks, spill, progress)
            texts = tokenize_text(pool, tasks, spill, progress)
            nothing = dict.fromkeys(COUNTERS, 0)  # earlier releases kept no zeros of these
            counts = summed([nothing | text["counts"] for text in texts])
            passed = sum(
                task.group.weight * text["counts"]["tokens"]
                for task, text in zip(tasks, texts, strict=True)
            )
            samples = [sample_path(spill / task.name) for task in tasks]
            counts |= count_copies(samples, counts["documents"], counts["tokens"])
            cuts = _cuts(texts)
            config = _with_shards(config, counts | {"tokens": passed}, cuts, format)

            # Every document to the bucket that its number in the corpus gives.
            partition_documents(pool, texts, config, spill)

            # Pass two: every bucket to a shard.
            shards, totals = write_shards(pool, config, counts["tokens"], spill, progress)
            _check_masks(config, totals["train"])
    except InputError as error:
        # The text or the configuration has to change: free the directory for a corrected attempt.
        if texts is None and not config.deduplicate and unfinished.may_be_kept(output):
            (output / CONFIGURATION).unlink()
            raise InputError(
                f"{error} What is tokenized already stays in {spill} for the same command with the "
                "text mended, or with --errors replace."
            ) from None
        unfinished.forget_unfinished(output)
        (output / CONFIGURATION).unlink()
        raise
    warn_of_empty_files(files_without_text(files, tasks, texts), stacklevel=3)

    # The manifest comes last: it says that everything else is complete.
    vocabulary.save(output / schema.VOCABULARY)
    Manifest(
        directory=output,
        sequence_length=config.sequence_length,
        max_predictions=config.row_predictions,
        vocabulary_size=len(vocabulary),
        vocabulary_sha256=vocabulary.sha256,
        config=config,
        format=format,
        shards=tuple(shards),
        counts={"corpus": counts, **{split: total for split, total in totals.items() if total}},
    ).save()


def _cuts(texts: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """The documents that were cut, from the results of `tokenize_text`: the number of the first
    part in the corpus, and how many there are."""
    cuts, start = [], 0
    for text in texts:
        cuts += [(start + first, parts) for first, parts in text.get("cuts", [])]
        start += sum(documents for _, documents in text["parts"])
    return cuts


def _with_shards(
    config: RecordsConfig, counts: dict[str, int], cuts: list[tuple[int, int]], format: str
) -> RecordsConfig:
    """The configuration with its number of shards.

    Args:
        config: The configuration.
        counts: What was counted in the corpus; of the documents each part of one.
        cuts: The documents that were cut; see `_cuts`.
        format: The format of the text.

    Raises:
        InputError: The corpus has too few documents for it, or none.
    """
    parts = [number for _, number in cuts]
    documents = counts["documents"] - sum(parts) + len(parts)
    if not documents:
        raise InputError(_NO_TEXT)
    if documents == 1 and config.pairs == "nsp":
        alone = " with --validation-fraction 0." if config.validation_fraction else "."
        raise InputError(
            "Next sentence prediction needs another document to draw from: expected at least 2 "
            f"documents. Received: 1; {TEXT_FORMATS[format].more_documents}, or choose --pairs sop "
            f"or --pairs none, for which one is enough{alone}"
        )
    if config.num_shards is None:
        num_shards = automatic_shards(counts["tokens"], counts["documents"], config, parts)
        config = dataclasses.replace(config, num_shards=num_shards)

    # The buckets are a hash, so a small corpus may leave one empty.
    sizes = np.zeros(num_buckets(config), np.int64)
    for first in range(0, counts["documents"], _DOCUMENTS_AT_A_TIME):
        count = min(_DOCUMENTS_AT_A_TIME, counts["documents"] - first)
        sizes += np.bincount(buckets(first, count, config), minlength=len(sizes))
    for first, number in cuts:  # the parts of one are one, where they are
        sizes -= np.bincount(buckets(first, number, config), minlength=len(sizes))
        sizes[np.unique(buckets(first, number, config, firsts=first))] += 1
    least = 2 if config.pairs == "nsp" else 1
    if sizes.min() < least:
        why = "Next sentence prediction needs another document to draw from: expected"
        split, index = bucket_of(int(sizes.argmin()), config)
        raise InputError(
            f"{why if least == 2 else 'Expected'} at least {least} "
            f"document{'s' * (least > 1)} in every shard. Received: {sizes.min()} of {documents} "
            f"documents in {split} shard {index}; {_advice(split, documents, format)}."
        )
    return config


def _check_masks(config: RecordsConfig, counts: dict[str, int]) -> None:
    """Raises InputError if no token of the training split is masked although some should be."""
    if counts.get("wanted_masks") and not counts["sampled_masks"]:
        sequences = counts["sampled_records"]
        raise InputError(
            f"Expected words that are short enough to be masked whole. Received: none in "
            f"{sequences:,} sequences, where {counts['wanted_masks'] / sequences:.1f} tokens of "
            "each are to be masked and every word has more; set --mask-unit token."
        )


def _advice(split: str, documents: int, format: str) -> str:
    """What to do about a shard of the split with too few documents."""
    advice = "give more text or fewer --shards"
    if split == "validation":
        advice = "set --validation-fraction to 0"
        if documents >= 10:  # about five documents in the split make a gap improbable
            fraction = min(0.5, 5 / documents)
            advice = f"set --validation-fraction to {fraction:.2g}, or to 0 for no validation split"
    if documents < 10 and (separator := TEXT_FORMATS[format].separator):
        advice += f", and check that {separator} separate the documents"
    return advice
