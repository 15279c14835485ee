"""Records to a `tf.data.Dataset` of (x, y, sample_weight), as `model.fit` takes it; writer.py is its twin."""

import glob
import os
import pathlib

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfrecords import schema
from tfrecords.errors import InputError
from tfrecords.schema import Manifest, Shard, load_manifest

_SHUFFLE_RECORDS = 1 << 15
_SHARDS_AT_ONCE = 8


def read(records, split="train", *, batch_size, seed=0, epochs=1, start_step=0, shuffle=None):
    """Reads a split of records as batches for `fit` and `evaluate`.

    The order is a pure function of (seed, epoch). Shuffled, every epoch has another order and the records that do not
    fill a batch are left out of it; not shuffled, every record comes, in the order of the shards, and the last batch is
    filled up with records of weight zero. So every batch has the same static shape.

    Args:
        records: A directory with a manifest (of `kbert records`), a Manifest, or a file, pattern or list of files of records
            in Google's schema by any tool.
        split: "train" or "validation"; files by another tool have only "train".
        batch_size: B.
        seed: The key of the order.
        epochs: How many passes; None repeats without end.
        start_step: The number of batches that are passed over at the start.
        shuffle: Whether to shuffle; None shuffles the training split.

    Returns:
        A Dataset of (x, y, sample_weight), with x a dict of token_ids, segment_ids, padding_mask (int32 [B, S]) and
        mask_positions (int32 [B, P]); y a dict of mlm (int32 [B, P]) and nsp (int32 [B], 0 = B follows A, 1 = random);
        sample_weight a dict of mlm (float32 [B, P], 0 on unused slots) and nsp (float32 [B]).

    Raises:
        InputError: The records cannot be read, or are too few for a batch.
    """
    manifest = describe(records)
    if split not in schema.SPLITS:
        raise InputError(f"Expected a split among {', '.join(schema.SPLITS)}. Received: {split!r}.")
    shuffle = split == "train" if shuffle is None else shuffle
    num_records = manifest.num_records(split)
    if batch_size < 1:
        raise InputError(f"Expected a batch size of at least 1. Received: {batch_size}.")
    if num_records < (batch_size if shuffle else 1):
        raise InputError(
            f"Expected at least {batch_size if shuffle else 1} records in the split {split!r} of {manifest.directory}. "
            f"Received: {num_records}; make more records or smaller batches."
        )
    if start_step < 0:
        raise InputError(f"Expected a start step of at least 0. Received: {start_step}.")
    steps = num_records // batch_size if shuffle else -(-num_records // batch_size)
    first_epoch, skipped = divmod(start_step, steps)

    def epoch_batches(epoch):
        dataset = _epoch_records(manifest.files(split), epoch, seed) if shuffle else _records(manifest.files(split))
        dataset = dataset.batch(batch_size, drop_remainder=shuffle)
        return dataset.skip(tf.where(epoch == first_epoch, tf.cast(skipped, tf.int64), 0))

    dataset = tf.data.Dataset.range(first_epoch, tf.int64.max if epochs is None else epochs).flat_map(epoch_batches)
    dataset = dataset.map(lambda batch: _parse(batch, manifest, batch_size), num_parallel_calls=tf.data.AUTOTUNE)
    cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else max(0, epochs * steps - start_step)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _records(files):
    return tf.data.TFRecordDataset(files)


def _epoch_records(files, epoch, seed):
    """All records of `files`: the shards in the order that (seed, epoch) gives, several at once, through a shuffle buffer."""
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    files = tf.random.experimental.stateless_shuffle(files, key)
    shards = tf.data.Dataset.from_tensor_slices(files)
    dataset = shards.interleave(tf.data.TFRecordDataset, cycle_length=_SHARDS_AT_ONCE)
    tf.random.set_seed(1)  # of the graph that this is traced in: the order must not follow the global seed
    buffer_seed = tf.random.stateless_uniform([], key, minval=None, maxval=None, dtype=tf.int64, alg="philox")
    return dataset.shuffle(_SHUFFLE_RECORDS, seed=buffer_seed, reshuffle_each_iteration=False)


def _parse(serialized, manifest, batch_size):
    features = tf.io.parse_example(serialized, _features(manifest.sequence_length, manifest.max_predictions))
    missing = batch_size - tf.shape(serialized)[0]

    def dense(name, dtype=tf.int32):
        values = tf.cast(features[name], dtype)
        values = tf.pad(values, [[0, missing], [0, 0]])
        return tf.ensure_shape(values, [batch_size, None])

    x = {
        "token_ids": dense(schema.INPUT_IDS),
        "segment_ids": dense(schema.SEGMENT_IDS),
        "padding_mask": dense(schema.INPUT_MASK),
        "mask_positions": dense(schema.MASKED_LM_POSITIONS),
    }
    y = {"mlm": dense(schema.MASKED_LM_IDS), "nsp": dense(schema.NEXT_SENTENCE_LABELS)[:, 0]}
    sample_weight = {
        "mlm": dense(schema.MASKED_LM_WEIGHTS, tf.float32),
        "nsp": tf.cast(tf.range(batch_size) < batch_size - missing, tf.float32),
    }
    return x, y, sample_weight


def _features(sequence_length, max_predictions):
    lengths = dict.fromkeys(schema.SEQUENCE_FEATURES, sequence_length)
    lengths |= dict.fromkeys(schema.PREDICTION_FEATURES, max_predictions)
    lengths[schema.NEXT_SENTENCE_LABELS] = 1
    return {
        name: tf.io.FixedLenFeature([length], tf.float32 if name == schema.MASKED_LM_WEIGHTS else tf.int64)
        for name, length in lengths.items()
    }


def describe(records):
    """Returns the Manifest of `records`: a Manifest, a directory with one, or files by any tool, which are then looked at.

    Raises:
        InputError: There are no such files, or the first record lacks a feature of Google's schema.
    """
    if isinstance(records, Manifest):
        return records
    if isinstance(records, str | os.PathLike):
        matches = [records] if pathlib.Path(records).exists() else sorted(glob.glob(str(records)))
        if not matches and glob.has_magic(str(records)):
            raise InputError(f"Expected files of records. Received: {records}, a pattern that matches nothing.")
        if not matches or pathlib.Path(matches[0]).is_dir():
            return load_manifest(matches[0] if matches else records)
        records = matches
    files = [pathlib.Path(file) for file in records]
    lengths = _first_record_lengths(files)
    return Manifest(
        directory=pathlib.Path(os.path.commonpath([file.absolute().parent for file in files])),
        sequence_length=lengths[schema.INPUT_IDS],
        max_predictions=lengths[schema.MASKED_LM_IDS],
        vocabulary_size=None,
        vocabulary_sha256=None,
        config=None,
        shards=tuple(
            Shard(
                name=str(file.absolute()),
                split="train",
                records=_count_records(file),
                bytes=file.stat().st_size,
                sha256="",
            )
            for file in files
        ),
        counts={},
    )


def _count_records(file):
    try:
        return sum(1 for _ in tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    except tf.errors.DataLossError as error:
        raise InputError(f"{file}: expected TFRecords of tf.train.Example. Received: {error}.") from None


def _first_record_lengths(files):
    """The number of values in each feature of the first record, by name; the record has all features of the schema."""
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(f"Expected files of records. Received: {', '.join(missing) or 'none'}, which is no file.")
    try:
        first = next(tf.data.TFRecordDataset([str(file) for file in files]).take(1).as_numpy_iterator(), b"")
        feature = tf.train.Example.FromString(first).features.feature
    except (tf.errors.DataLossError, DecodeError) as error:
        raise InputError(f"{files[0]}: expected TFRecords of tf.train.Example. Received: {error}.") from None
    lengths = {name: len(value.int64_list.value) or len(value.float_list.value) for name, value in feature.items()}
    names = [*schema.SEQUENCE_FEATURES, *schema.PREDICTION_FEATURES, schema.NEXT_SENTENCE_LABELS]
    absent = [name for name in names if name not in lengths]
    if absent:
        raise InputError(
            f"{files[0]}: expected records with {', '.join(names)}. Received: records without {', '.join(absent)}."
        )
    return lengths
