"""Serialized records to the tensors of a batch: parsed, checked, masked if they are not yet, and
filled up to the size of a batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrecords import schema
from tfrecords.batch import FEATURES, Batch, BatchSpec, Feature
from tfrecords.schema import Manifest


def parse(
    serialized: tf.Tensor,
    keys: tf.Tensor,
    manifest: Manifest,
    batch_size: int,
    vocabulary_size: int | None,
) -> Batch[tf.Tensor]:
    """Parses at most `batch_size` records and fills up with records of weight zero.

    Args:
        serialized: string [n], n at most `batch_size`.
        keys: int64 [n], the keys of the masks of records with dynamic masking.
        manifest: Of the records.
        batch_size: B.
        vocabulary_size: The model's, which the ids of records by another tool are checked against.

    Returns:
        (x, y, sample_weight) as in BatchSpec.
    """
    features: dict[str, Any] = tf.io.parse_example(serialized, features_of(manifest))
    if manifest.config is None:  # nobody has checked what other tools wrote
        features = _checked(features, manifest, vocabulary_size)
    if manifest.is_dynamic:
        values = _masked_now(features, keys, manifest)
    else:
        values = _masked_before(features)
    if manifest.pairs != "none":
        values["y", "nsp"] = tf.cast(features[schema.NEXT_SENTENCE_LABELS][:, 0], tf.int32)
        values["sample_weight", "nsp"] = tf.ones_like(values["y", "nsp"], tf.float32)

    missing = [0, batch_size - tf.size(serialized)]
    paddings = {rank: tf.stack([missing, [0, 0]][:rank]) for rank in (1, 2)}

    def filled(feature: Feature, shape: tuple[int | None, ...]) -> tf.Tensor:
        value = values[feature.part, feature.name]
        return tf.ensure_shape(tf.pad(value, paddings[value.shape.rank]), shape)

    return BatchSpec.of(manifest).build(filled, batch_size)


def features_of(manifest: Manifest) -> dict[str, Any]:
    """The features of the records as `tf.io.parse_example` takes them."""
    if manifest.is_dynamic:
        features: dict[str, Any] = {
            schema.INPUT_IDS: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
            schema.FIRST_LENGTH: tf.io.FixedLenFeature([1], tf.int64),
        }
        if manifest.pairs != "none":
            features[schema.NEXT_SENTENCE_LABELS] = tf.io.FixedLenFeature([1], tf.int64)
        return features
    spec = BatchSpec.of(manifest)
    return {
        feature.google_name: tf.io.FixedLenFeature(
            spec.shape(feature)[1:] or (1,),  # a record has lists alone, also of one value
            tf.float32 if feature.dtype == "float32" else tf.int64,
        )
        for feature in spec.features
        if feature.google_name is not None
    }


def limits_of(sequence_length: int, vocabulary_size: int) -> dict[str, int]:
    """The bounds that the values of a record have to be below, by the name of the feature; none is
    negative. Ids and positions beyond theirs would be gathered from beyond a table's end."""
    return {
        schema.INPUT_IDS: vocabulary_size,
        schema.MASKED_LM_IDS: vocabulary_size,
        schema.MASKED_LM_POSITIONS: sequence_length,
        schema.FIRST_LENGTH: sequence_length + 1,
        schema.INPUT_MASK: 2,
        schema.SEGMENT_IDS: 2,
        schema.NEXT_SENTENCE_LABELS: 2,
    }


def _masked_before(features: dict[str, Any]) -> dict[tuple[str, str], tf.Tensor]:
    """The values of records with static masking, by (part of the batch, name), without the labels
    of pairs."""
    return {
        (feature.part, feature.name): tf.cast(features[feature.google_name], feature.dtype)
        for feature in FEATURES
        if feature.google_name is not None
        and not feature.needs_pairs
        and feature.packed in (None, False)
    }


def _masked_now(
    features: dict[str, Any], keys: tf.Tensor, manifest: Manifest
) -> dict[tuple[str, str], tf.Tensor]:
    """The same of records with dynamic masking, which are masked here."""
    # Imported here because it brings numba, which reading statically masked records does without.
    from tfrecords.masking import Masking, mask_tensors

    assert manifest.config is not None
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


def _checked(
    features: dict[str, Any], manifest: Manifest, vocabulary_size: int | None
) -> dict[str, Any]:
    """The features, with assertions in the graph that their values are within `limits_of`."""
    checks = []
    for name, limit in limits_of(manifest.sequence_length, vocabulary_size or tf.int32.max).items():
        if name not in features:
            continue
        wrong = tf.boolean_mask(features[name], (features[name] < 0) | (features[name] >= limit))
        message = f"{manifest.directory}: expected {name} from 0 to {limit - 1:,}. Received:"
        checks.append(tf.raw_ops.Assert(condition=tf.size(wrong) == 0, data=[message, wrong[:1]]))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, features)
