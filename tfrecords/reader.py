"""TFRecord shards to a `tf.data.Dataset` of (x, y, sample_weight), as `model.fit` takes it; the
counterpart of writer.py.

In every epoch the order is drawn in two steps: first an order of all blocks of records
(schema.BLOCK_RECORDS consecutive ones, whose offsets the manifest keeps), then, in every window of
_WINDOW_RECORDS, an order of its records. Both follow from hashes of (seed, epoch), so that reading
can start at any batch: it opens the block where that batch's window begins, and nothing before it.
"""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import schema
from tfrecords.batch import BatchSpec
from tfrecords.errors import InputError
from tfrecords.foreign import foreign_manifest
from tfrecords.hashing import record_keys
from tfrecords.parsing import parse
from tfrecords.schema import Manifest, load_any_manifest

# Rewriting the functions below by AutoGraph would take half of the time to the first batch.
_untouched = tf.autograph.experimental.do_not_convert
_WINDOW_RECORDS = 1 << 15
_BUFFER_BYTES = 1 << 18
# What is drawn in an epoch, each from a stream of hashes of its own.
_BLOCKS, _WINDOWS, _MASKS = range(3)


def read(
    records: str | os.PathLike | Sequence[str | os.PathLike] | Manifest,
    split: str = "train",
    *,
    batch_size: int,
    seed: int = 0,
    epochs: int | None = 1,
    start_step: int = 0,
    shuffle: bool | None = None,
    vocabulary_size: int | None = None,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Reads a split of records as batches for `fit` and `evaluate`.

    The order is a pure function of the records, the seed and the epoch, and so are the masks of
    records with dynamic masking. With shuffling, every epoch has another order and other masks, and
    records that do not fill a batch are left out of the epoch. Without, every record comes, in the
    order of the shards and with the same masks in every epoch, and the last batch is filled up with
    records of weight zero. So all batches have the same static shapes.

    >>> train = tfrecords.read("records", batch_size=256, epochs=None)  # doctest: +SKIP
    >>> validation = tfrecords.read("records", "validation", batch_size=256)  # doctest: +SKIP

    Args:
        records: A directory with a manifest (made by `kbert records`), a Manifest, or a file,
            pattern or list of files of records in Google's schema by any tool.
        split: "train" or "validation"; files by another tool have only "train".
        batch_size: B.
        seed: The key of the order and of dynamic masks.
        epochs: The number of passes; None repeats without end.
        start_step: The number of batches to skip at the start. At most one window of the skipped
            records is read, or one shard if it is compressed.
        shuffle: Whether to shuffle; None shuffles the training split.
        vocabulary_size: The model's. Records by another tool do not tell theirs; reading them stops
            at an id that is not below this.
        input_context: A tf.distribute.InputContext, as `strategy.distribute_datasets_from_function`
            gives it. B is then the batch of all replicas, and the dataset has this input pipeline's
            share of its rows, in batches for one replica each, in the order of the replicas. Every
            pipeline reads all records, but parses only its own.

    Returns:
        A Dataset of (x, y, sample_weight), with x a dict of token_ids, segment_ids, padding_mask
        (int32 [B, S]) and mask_positions (int32 [B, P]); y a dict of mlm (int32 [B, P]) and nsp
        (int32 [B], 0 = B follows A, 1 = random or, with the pairs "sop", swapped); sample_weight a
        dict of mlm (float32 [B, P], 0 on unused slots) and nsp (float32 [B]). With the pairs "none"
        there is no nsp. Packed records have pair_numbers and positions (int32 [B, S]) in the place
        of padding_mask, cls_positions (int32 [B, K]), and nsp of [B, K]. See `tfrecords.BatchSpec`.

    Raises:
        InputError: The records cannot be read, or are too few for a batch.
    """
    manifest = manifest_of(records)
    shuffle = split == "train" if shuffle is None else shuffle
    check_request(manifest, split, batch_size, start_step, shuffle, vocabulary_size)
    num_records = manifest.num_records(split)

    # The order: global batches of serialized records, the same ones on every machine.
    steps = num_records // batch_size if shuffle else -(-num_records // batch_size)
    first_epoch, skipped_steps = divmod(start_step, steps)
    blocks = _blocks(manifest, split)

    @_untouched
    def epoch_batches(epoch):
        skipped = tf.where(epoch == first_epoch, tf.cast(skipped_steps * batch_size, tf.int64), 0)
        dataset = _epoch(blocks, skipped, seed, epoch, shuffle)
        return dataset.rebatch(batch_size, drop_remainder=shuffle)

    dataset = tf.data.Dataset.range(
        first_epoch, tf.int64.max if epochs is None else epochs
    ).flat_map(epoch_batches)
    num_batches = (
        tf.data.INFINITE_CARDINALITY if epochs is None else max(0, epochs * steps - start_step)
    )

    # The contents: each pipeline parses, and masks, only its own rows of a global batch.
    rows = _rows(batch_size, input_context)
    num_rows = rows.stop - rows.start

    keys_of_places = None if shuffle else _keys_of_places(manifest, split, seed)

    @_untouched
    def batch(serialized, keys):
        return parse(
            serialized[rows], keys[rows], manifest, num_rows, vocabulary_size, keys_of_places
        )

    dataset = dataset.map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    if input_context is not None:
        replica_rows = batch_size // input_context.num_replicas_in_sync
        if (replicas := num_rows // replica_rows) > 1:
            dataset = dataset.rebatch(replica_rows, drop_remainder=True)
            num_batches *= replicas if num_batches > 0 else 1  # a negative number says "infinite"
            num_rows = replica_rows

    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    expected = BatchSpec.of(manifest).element_spec(num_rows)
    if dataset.element_spec != expected:
        raise AssertionError(
            f"Expected batches as in tfrecords/batch.py, {expected}. "
            f"Received: {dataset.element_spec}; this is a fault of tfrecords/reader.py."
        )
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def check_request(
    manifest: Manifest,
    split: str,
    batch_size: int,
    start_step: int = 0,
    shuffle: bool = True,
    vocabulary_size: int | None = None,
) -> None:
    """Raises InputError unless the records have what `read` is asked for."""
    if split not in schema.SPLITS:
        raise InputError(f"Expected a split among {', '.join(schema.SPLITS)}. Received: {split!r}.")
    sizes = vocabulary_size, manifest.vocabulary_size
    if None not in sizes and vocabulary_size != manifest.vocabulary_size:
        raise InputError(
            f"Expected records with a vocabulary of {vocabulary_size:,} tokens. Received: "
            f"{manifest.directory}, written with one of {manifest.vocabulary_size:,}."
        )
    if batch_size < 1:
        raise InputError(f"Expected a batch size of at least 1. Received: {batch_size}.")
    num_records = manifest.num_records(split)
    fewest = batch_size if shuffle else 1
    if num_records < fewest:
        raise InputError(
            f"Expected at least {fewest} records in the split {split!r} of {manifest.directory}. "
            f"Received: {num_records}; make more records or take a smaller batch size."
        )
    if start_step < 0:
        raise InputError(f"Expected a start step of at least 0. Received: {start_step}.")


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Under a strategy that reads on several machines, every machine reads all files and takes its
    # rows; the default would give each of them some of the files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # The thread that tunes the parallelism holds up the end of `fit` and of every evaluation, by
    # up to as long as they took (TensorFlow 2.21). Without it, as many calls run in parallel as
    # there are processors.
    options.autotune.enabled = False
    return options


def _rows(batch_size: int, input_context: tf.distribute.InputContext | None) -> slice:
    """The rows of a global batch that this input pipeline gives."""
    if input_context is None:
        return slice(0, batch_size)
    replicas, pipelines = input_context.num_replicas_in_sync, input_context.num_input_pipelines
    if batch_size % replicas or batch_size % pipelines:
        step = int(np.lcm(replicas, pipelines))
        nearest = max(step, round(batch_size / step) * step)
        raise InputError(
            f"Expected a batch size that {replicas} replicas and {pipelines} input pipelines can "
            f"share. Received: {batch_size}; take {nearest}."
        )
    share = batch_size // pipelines
    first = input_context.input_pipeline_id * share
    return slice(first, first + share)


def _blocks(manifest: Manifest, split: str) -> dict[str, tf.Tensor]:
    """The runs of records that can be opened by themselves: tensors with one value per block, its
    path, kind of compression, offset and number of records."""
    rows = []
    for shard in manifest.shards:
        if shard.split != split:
            continue
        path = str(manifest.directory / shard.name)
        kind = "GZIP" if shard.compression == "gzip" else ""
        if not shard.offsets:  # a compressed shard can only be read from its beginning
            rows.append((path, kind, 0, shard.records))
        for number, offset in enumerate(shard.offsets):
            remaining = shard.records - number * schema.BLOCK_RECORDS
            rows.append((path, kind, offset, min(schema.BLOCK_RECORDS, remaining)))
    path, kind, offset, count = zip(*rows, strict=True)
    return {
        "path": tf.constant(path),
        "kind": tf.constant(kind),
        "offset": tf.constant(offset, tf.int64),
        "count": tf.constant(count, tf.int64),
    }


def _epoch(
    blocks: dict[str, tf.Tensor], skipped: tf.Tensor, seed: int, epoch: tf.Tensor, shuffle: bool
) -> tf.data.Dataset:
    """The records of an epoch after the first `skipped`, as batches of (serialized record, key of
    its masks)."""
    # The order of the blocks, and in it the block and the place inside of it where the window
    # with the first record begins. Whatever comes before is never opened.
    if shuffle:
        keys = _keys(seed, epoch, _BLOCKS, tf.range(len(blocks["count"]), dtype=tf.int64))
        order = tf.argsort(keys, stable=True)
        blocks = {name: tf.gather(values, order) for name, values in blocks.items()}
    first_window = skipped // _WINDOW_RECORDS
    begin = first_window * _WINDOW_RECORDS
    ends = tf.cumsum(blocks["count"])
    first_block = tf.searchsorted(ends, [begin], side="right")[0]
    inside = tf.maximum(begin - (ends - blocks["count"]), 0)
    some: Any = {name: values[first_block:] for name, values in (blocks | {"skip": inside}).items()}
    records = tf.data.Dataset.from_tensor_slices(some).flat_map(_block_records)

    # The order in every window. Masks have keys by the record's number in the epoch's order; not
    # shuffled, they are those of epoch 0, so that an evaluation is the same in every epoch.
    windows = tf.data.Dataset.zip(
        tf.data.Dataset.range(first_window, tf.int64.max), records.batch(_WINDOW_RECORDS)
    )

    @_untouched
    def ordered(window, serialized):
        begin = window * _WINDOW_RECORDS
        numbers = begin + tf.range(tf.size(serialized), dtype=tf.int64)
        if shuffle:
            order = tf.argsort(_keys(seed, epoch, _WINDOWS, numbers), stable=True)
            serialized = tf.gather(serialized, order)
        first = tf.maximum(skipped - begin, 0)
        return serialized[first:], _keys(seed, epoch if shuffle else 0, _MASKS, numbers[first:])

    return windows.map(ordered).prefetch(1)


def _keys(seed: int, epoch: tf.Tensor | int, purpose: int, numbers: tf.Tensor) -> tf.Tensor:
    return record_keys(seed, tf.cast(epoch, tf.int64) * 4 + purpose, numbers)


def _keys_of_places(
    manifest: Manifest, split: str, seed: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """What gives the keys of pairs by the number of their shard and their place in it: those that
    the pairs have, not shuffled, in records that are not packed."""
    pairs = [shard.num_pairs for shard in manifest.shards if shard.split == split]
    firsts = np.cumsum([0, *pairs])

    def keys(shards, places):
        return _keys(seed, 0, _MASKS, tf.gather(tf.constant(firsts), shards) + places)

    return keys


@_untouched
def _block_records(block: dict[str, tf.Tensor]) -> tf.data.Dataset:
    # tf.data.TFRecordDataset takes no byte offset; the operation behind it does (TensorFlow 2.20
    # and 2.21, tensorflow/core/ops/dataset_ops.cc, TFRecordDatasetV2).
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=block["path"][None],
        compression_type=block["kind"],
        buffer_size=tf.constant(_BUFFER_BYTES, tf.int64),
        byte_offsets=block["offset"][None],
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return records.skip(block["skip"]).take(block["count"] - block["skip"])


def manifest_of(
    records: str | os.PathLike | Sequence[str | os.PathLike] | Manifest,
) -> Manifest:
    """Returns the Manifest of `records`: a Manifest, a directory with one, or files by any tool,
    which are then looked at.

    Raises:
        InputError: There are no such files, or the first record lacks a feature of Google's schema.
    """
    if isinstance(records, Manifest):
        return records
    if isinstance(records, str | os.PathLike):
        matches = [records] if pathlib.Path(records).exists() else sorted(glob.glob(str(records)))
        if not matches and glob.has_magic(str(records)):
            raise InputError(
                f"Expected files of records. Received: {records}, a pattern that matches nothing."
            )
        if not matches or pathlib.Path(matches[0]).is_dir():
            return load_any_manifest(matches[0] if matches else records)
        records = matches
    return foreign_manifest(records)
