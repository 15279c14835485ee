"""Records to a `tf.data.Dataset` of (x, y, sample_weight), as `model.fit` takes it; writer.py is
its twin.

An epoch is an order of all blocks of records (schema.BLOCK_RECORDS in a row, whose offsets the
manifest keeps) and then, in every window of _WINDOW_RECORDS, an order of its records. Both are
hashes of (seed, epoch), so that reading can start at any
batch: it opens the block where that batch's window begins, and nothing before it.
"""

import glob
import os
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tfrecords import schema
from tfrecords.batch import FEATURES, BatchSpec
from tfrecords.errors import InputError
from tfrecords.files import is_gzip
from tfrecords.hashing import record_keys
from tfrecords.schema import Manifest, Shard, load_manifest

_untouched = (
    tf.autograph.experimental.do_not_convert
)  # rewriting these functions would take half of the time to start
_WINDOW_RECORDS = 1 << 15
_BUFFER_BYTES = 1 << 18
# What is drawn in an epoch, each with hashes of its own.
_BLOCKS, _WINDOWS, _MASKS = range(3)


def read(
    records,
    split="train",
    *,
    batch_size,
    seed=0,
    epochs=1,
    start_step=0,
    shuffle=None,
    vocabulary_size=None,
    input_context=None,
):
    """Reads a split of records as batches for `fit` and `evaluate`.

    The order is a pure function of the records, the seed and the epoch, and so are the masks of
    records that are masked in reading. Shuffled, every epoch has another order and other masks, and
    the records that do not fill a batch are left out of it; not shuffled, every record comes, in
    the order of the shards, with the same masks in every epoch, and the last batch is filled up
    with records of weight zero. So every batch has the same static shape.

    Args:
        records: A directory with a manifest (of `kbert records`), a Manifest, or a file, pattern or
            list of files of records in Google's schema by any tool.
        split: "train" or "validation"; files by another tool have only "train".
        batch_size: B.
        seed: The key of the order.
        epochs: How many passes; None repeats without end.
        start_step: The number of batches that are passed over at the start. Of those at most a
            window of records is read, or with GZIP a shard.
        shuffle: Whether to shuffle; None shuffles the training split.
        vocabulary_size: The model's. Records by another tool do not tell theirs: reading stops at
            an id that is not below it.
        input_context: A tf.distribute.InputContext, as `strategy.distribute_datasets_from_function`
            gives it: B is the batch of all replicas, and what comes is this input pipeline's share
            of its rows, in pieces of one replica's, in the order of the replicas. Every pipeline
            reads all records, but parses only its own.

    Returns:
        A Dataset of (x, y, sample_weight), with x a dict of token_ids, segment_ids, padding_mask
        (int32 [B, S]) and mask_positions (int32 [B, P]); y a dict of mlm (int32 [B, P]) and nsp
        (int32 [B], 0 = B follows A, 1 = random or, with the pairs "sop", swapped); sample_weight a
        dict of mlm (float32 [B, P], 0 on unused slots) and nsp (float32 [B]). There is no nsp with
        the pairs "none".

    Raises:
        InputError: The records cannot be read, or are too few for a batch.
    """
    manifest = manifest_of(records)
    if split not in schema.SPLITS:
        raise InputError(f"Expected a split among {', '.join(schema.SPLITS)}. Received: {split!r}.")
    if (
        None not in (vocabulary_size, manifest.vocabulary_size)
        and vocabulary_size != manifest.vocabulary_size
    ):
        raise InputError(
            f"Expected records of a vocabulary of {vocabulary_size:,} pieces. "
            f"Received: {manifest.directory}, written with one of {manifest.vocabulary_size:,}."
        )
    shuffle = split == "train" if shuffle is None else shuffle
    num_records = manifest.num_records(split)
    if batch_size < 1:
        raise InputError(f"Expected a batch size of at least 1. Received: {batch_size}.")
    if num_records < (batch_size if shuffle else 1):
        raise InputError(
            f"Expected at least {batch_size if shuffle else 1} records in the split {split!r} of "
            f"{manifest.directory}. "
            f"Received: {num_records}; make more records or smaller batches."
        )
    if start_step < 0:
        raise InputError(f"Expected a start step of at least 0. Received: {start_step}.")
    rows = _rows(batch_size, input_context)
    steps = num_records // batch_size if shuffle else -(-num_records // batch_size)
    first_epoch, skipped_steps = divmod(start_step, steps)
    blocks = _blocks(manifest, split)

    @_untouched
    def epoch_batches(epoch):
        skipped = tf.where(epoch == first_epoch, tf.cast(skipped_steps * batch_size, tf.int64), 0)
        dataset = _epoch(blocks, skipped, seed, epoch, shuffle)
        return dataset.rebatch(batch_size, drop_remainder=shuffle)

    @_untouched
    def batch(serialized, keys):
        return _parse(
            serialized[rows], keys[rows], manifest, rows.stop - rows.start, vocabulary_size
        )

    dataset = tf.data.Dataset.range(
        first_epoch, tf.int64.max if epochs is None else epochs
    ).flat_map(epoch_batches)
    dataset = dataset.map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    cardinality = (
        tf.data.INFINITE_CARDINALITY if epochs is None else max(0, epochs * steps - start_step)
    )
    given_rows = rows.stop - rows.start
    if input_context is not None:
        replica_rows = batch_size // input_context.num_replicas_in_sync
        pieces = given_rows // replica_rows
        if pieces > 1:
            dataset = dataset.rebatch(replica_rows, drop_remainder=True)
            given_rows = replica_rows
            cardinality *= pieces if cardinality > 0 else 1
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    expected = BatchSpec.of(manifest).element_spec(given_rows)
    if dataset.element_spec != expected:
        raise AssertionError(
            f"Expected batches as in tfrecords/batch.py, {expected}. "
            f"Received: {dataset.element_spec}; this is a fault of tfrecords.reader."
        )
    # Under a strategy that reads on several machines, each shall read all and take its rows; a file
    # is not to be one machine's.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # The thread that tunes how many work in parallel holds up the end of `fit` and of every
    # evaluation, by up to as long as they took (TensorFlow 2.21); without it as many work as there
    # are processors.
    options.autotune.enabled = False
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _rows(batch_size, input_context):
    """The rows of a batch that this input pipeline gives."""
    if input_context is None:
        return slice(0, batch_size)
    replicas, pipelines = input_context.num_replicas_in_sync, input_context.num_input_pipelines
    if batch_size % replicas or batch_size % pipelines:
        step = int(np.lcm(replicas, pipelines))
        nearest = max(step, round(batch_size / step) * step)
        raise InputError(
            f"Expected a batch size that {replicas} replicas and {pipelines} input pipelines can "
            "share. "
            f"Received: {batch_size}; take {nearest}."
        )
    share = batch_size // pipelines
    return slice(
        input_context.input_pipeline_id * share, (input_context.input_pipeline_id + 1) * share
    )


def _blocks(manifest, split):
    """The runs of records that can be opened by themselves: a dict of tensors, one value for every
    block."""
    rows = []
    for shard in manifest.shards:
        if shard.split == split:
            path = str(manifest.directory / shard.name)
            kind = "GZIP" if shard.compression == "gzip" else ""
            if not shard.offsets:
                rows.append((path, kind, 0, shard.records))
            for number, offset in enumerate(shard.offsets):
                rows.append(
                    (
                        path,
                        kind,
                        offset,
                        min(schema.BLOCK_RECORDS, shard.records - number * schema.BLOCK_RECORDS),
                    )
                )
    path, kind, offset, count = zip(*rows, strict=True)
    return {
        "path": tf.constant(path),
        "kind": tf.constant(kind),
        "offset": tf.constant(offset, tf.int64),
        "count": tf.constant(count, tf.int64),
    }


def _epoch(blocks, skipped, seed, epoch, shuffle):
    """The records of an epoch behind the first `skipped`, as batches of (serialized record, key of
    its masks)."""
    if shuffle:
        order = tf.argsort(
            _keys(seed, epoch, _BLOCKS, tf.range(len(blocks["count"]), dtype=tf.int64)), stable=True
        )
        blocks = {name: tf.gather(values, order) for name, values in blocks.items()}
    # Where the window of the first record begins, and the block that this is in.
    first_window = skipped // _WINDOW_RECORDS
    begin = first_window * _WINDOW_RECORDS
    ends = tf.cumsum(blocks["count"])
    first_block = tf.searchsorted(ends, [begin], side="right")[0]
    inside = tf.maximum(begin - (ends - blocks["count"]), 0)
    some = {name: values[first_block:] for name, values in (blocks | {"skip": inside}).items()}
    records = tf.data.Dataset.from_tensor_slices(some).flat_map(_block_records)
    windows = tf.data.Dataset.zip(
        tf.data.Dataset.range(first_window, tf.int64.max), records.batch(_WINDOW_RECORDS)
    )

    @_untouched
    def ordered(window, serialized):
        begin = window * _WINDOW_RECORDS
        numbers = begin + tf.range(tf.size(serialized), dtype=tf.int64)
        if shuffle:
            serialized = tf.gather(
                serialized, tf.argsort(_keys(seed, epoch, _WINDOWS, numbers), stable=True)
            )
        first = tf.maximum(skipped - begin, 0)
        return serialized[first:], _keys(seed, epoch if shuffle else 0, _MASKS, numbers[first:])

    return windows.map(ordered).prefetch(1)


def _keys(seed, epoch, purpose, numbers):
    return record_keys(seed, tf.cast(epoch, tf.int64) * 4 + purpose, numbers)


@_untouched
def _block_records(block):
    # tf.data.TFRecordDataset has no byte offset, the operation below it has (TensorFlow 2.20 and
    # 2.21).
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=block["path"][None],
        compression_type=block["kind"],
        buffer_size=tf.constant(_BUFFER_BYTES, tf.int64),
        byte_offsets=block["offset"][None],
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return records.skip(block["skip"]).take(block["count"] - block["skip"])


def _parse(serialized, keys, manifest, batch_size, vocabulary_size):
    """Parses at most `batch_size` records and fills up with such of weight zero."""
    dynamic = manifest.config is not None and manifest.config.masking == "dynamic"
    features = tf.io.parse_example(serialized, features_of(manifest))
    if manifest.config is None:  # nobody has checked what other tools wrote
        features = _checked(features, manifest, vocabulary_size)
    values = _masked_now(features, keys, manifest) if dynamic else _masked_before(features)
    if manifest.pairs != "none":
        values["y", "nsp"] = tf.cast(features[schema.NEXT_SENTENCE_LABELS][:, 0], tf.int32)
        values["sample_weight", "nsp"] = tf.ones_like(values["y", "nsp"], tf.float32)

    def filled(feature, shape):
        value = values[feature.part, feature.name]
        missing = batch_size - tf.shape(value)[0]
        value = tf.pad(value, [[0, missing]] + [[0, 0]] * (value.shape.rank - 1))
        return tf.ensure_shape(value, shape)

    return BatchSpec.of(manifest).build(filled, batch_size)


def features_of(manifest):
    """What `tf.io.parse_example` is told of the records."""
    if manifest.config is not None and manifest.config.masking == "dynamic":
        features = {
            schema.INPUT_IDS: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
            schema.FIRST_LENGTH: tf.io.FixedLenFeature([1], tf.int64),
        }
        if manifest.pairs != "none":
            features[schema.NEXT_SENTENCE_LABELS] = tf.io.FixedLenFeature([1], tf.int64)
        return features
    spec = BatchSpec.of(manifest)
    return {
        feature.google_name: tf.io.FixedLenFeature(
            spec.shape(feature)[1:] or (1,),  # a scalar is a list of one value
            tf.float32 if feature.dtype == "float32" else tf.int64,
        )
        for feature in spec.features
        if feature.google_name is not None
    }


def limits_of(sequence_length, vocabulary_size):
    """What the values of each feature that is looked up or taken for a mask have to be below, by
    name; none is negative."""
    return {
        schema.INPUT_IDS: vocabulary_size,
        schema.MASKED_LM_IDS: vocabulary_size,
        schema.MASKED_LM_POSITIONS: sequence_length,
        schema.FIRST_LENGTH: sequence_length + 1,
        schema.INPUT_MASK: 2,
        schema.SEGMENT_IDS: 2,
        schema.NEXT_SENTENCE_LABELS: 2,
    }


def _masked_before(features):
    """The values of records that have their masks, by (part of the batch, name), without the
    labels of pairs."""
    return {
        (feature.part, feature.name): tf.cast(features[feature.google_name], feature.dtype)
        for feature in FEATURES
        if feature.google_name is not None and not feature.needs_pairs
    }


def _masked_now(features, keys, manifest):
    """The same of records that get their masks here."""
    from tfrecords.masking import (
        Masking,
        mask_tensors,
    )  # brings numba, which reading masked records does without

    token_ids = tf.cast(
        features[schema.INPUT_IDS].to_tensor(shape=[None, manifest.sequence_length]), tf.int32
    )
    lengths = tf.cast(features[schema.INPUT_IDS].row_lengths(), tf.int32)
    position = tf.range(manifest.sequence_length)
    inside = position < lengths[:, None]
    second = inside & (position >= tf.cast(features[schema.FIRST_LENGTH], tf.int32))
    masked = mask_tensors(
        token_ids, lengths, Masking.of(manifest.load_vocabulary(), manifest.config), keys
    )
    return {
        ("x", "token_ids"): masked["token_ids"],
        ("x", "segment_ids"): tf.cast(second, tf.int32),
        ("x", "padding_mask"): tf.cast(inside, tf.int32),
        ("x", "mask_positions"): masked["positions"],
        ("y", "mlm"): masked["labels"],
        ("sample_weight", "mlm"): masked["weights"],
    }


def _checked(features, manifest, vocabulary_size):
    """The features, unless they have ids or positions that would be gathered from beyond a table's
    end."""
    checks = []
    for name, limit in limits_of(manifest.sequence_length, vocabulary_size or tf.int32.max).items():
        if name not in features:
            continue
        wrong = tf.boolean_mask(features[name], (features[name] < 0) | (features[name] >= limit))
        message = f"{manifest.directory}: expected {name} from 0 to {limit - 1:,}. Received:"
        checks.append(tf.raw_ops.Assert(condition=tf.size(wrong) == 0, data=[message, wrong[:1]]))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, features)


def manifest_of(records):
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
            return load_manifest(matches[0] if matches else records)
        records = matches
    files = [pathlib.Path(file) for file in records]
    lengths = _first_record_lengths(
        files
    )  # of a file of another kind, this says best what is wrong
    return Manifest(
        directory=pathlib.Path(os.path.commonpath([file.absolute().parent for file in files])),
        sequence_length=lengths[schema.INPUT_IDS],
        max_predictions=lengths[schema.MASKED_LM_IDS],
        vocabulary_size=None,
        vocabulary_sha256=None,
        config=None,
        shards=tuple(_foreign_shard(file) for file in files),
        counts={},
    )


def _foreign_shard(file):
    from tfrecords.framing import (
        scan_records,
    )  # brings numba, which reading our own records does without

    count, offsets, compression = scan_records(file)
    return Shard(
        name=str(file.absolute()),
        split="train",
        records=count,
        bytes=file.stat().st_size,
        sha256="",
        offsets=offsets,
        compression=compression,
    )


def _first_record_lengths(files):
    """The number of values in each feature of the first record, by name; the record has the
    features of the schema."""
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(
            f"Expected files of records. Received: {', '.join(missing) or 'none'}, which is no "
            "file."
        )
    kind = "GZIP" if is_gzip(files[0]) else ""
    try:
        first = next(tf.data.TFRecordDataset(str(files[0]), kind).take(1).as_numpy_iterator(), b"")
        feature = tf.train.Example.FromString(first).features.feature
    except (tf.errors.DataLossError, DecodeError) as error:
        raise InputError(
            f"{files[0]}: expected TFRecords of tf.train.Example. Received: {error}."
        ) from None
    names = [*schema.SEQUENCE_FEATURES, *schema.PREDICTION_FEATURES, schema.NEXT_SENTENCE_LABELS]
    absent = [name for name in names if name not in feature]
    if absent:
        raise InputError(
            f"{files[0]}: expected records with {', '.join(names)}. Received: records without "
            f"{', '.join(absent)}."
        )
    kinds = {name: feature[name].WhichOneof("kind") or "no list" for name in names}
    lengths = {
        name: len(getattr(feature[name], kind).value) if kind != "no list" else 0
        for name, kind in kinds.items()
    }
    expected = dict.fromkeys(schema.SEQUENCE_FEATURES, lengths[schema.INPUT_IDS])
    expected |= dict.fromkeys(schema.PREDICTION_FEATURES, lengths[schema.MASKED_LM_IDS])
    expected |= {schema.NEXT_SENTENCE_LABELS: 1}
    for name in names:
        kind = "float_list" if name == schema.MASKED_LM_WEIGHTS else "int64_list"
        if (kinds[name], lengths[name]) != (kind, expected[name] or 1):
            raise InputError(
                f"{files[0]}: expected {name} as {kind} of {expected[name] or 1}. Received: "
                f"{kinds[name]} of {lengths[name]}."
            )
    return lengths
