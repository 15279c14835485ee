"""Serialized records to the tensors of a batch: parsed, checked, masked if they are not yet, and
filled up to the size of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrecords import schema
from tfrecords.batch import Batch, BatchSpec, Feature
from tfrecords.hashing import pair_keys
from tfrecords.schema import Manifest


def parse(
    serialized: tf.Tensor,
    keys: tf.Tensor,
    manifest: Manifest,
    batch_size: int,
    vocabulary_size: int | None,
    keys_of_places: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> Batch[tf.Tensor]:
    """Parses at most `batch_size` records and fills up with records of weight zero.

    Args:
        serialized: string [n], n at most `batch_size`.
        keys: int64 [n], the keys of the masks of records with dynamic masking.
        manifest: Of the records.
        batch_size: B.
        vocabulary_size: The model's, which the ids of records by another tool are checked against.
        keys_of_places: For packed records with dynamic masking, what gives the keys of pairs by
            (int64 [n], the number of the shard; int64 [n], the place in it). None: they follow from
            `keys`.

    Returns:
        (x, y, sample_weight) as in BatchSpec.
    """
    features: dict[str, Any] = tf.io.parse_example(serialized, features_of(manifest))
    if manifest.config is None:  # nobody has checked what other tools wrote
        features = _checked(features, manifest, vocabulary_size)
    if manifest.is_dynamic and manifest.pack > 1:
        features = _masked_rows(features, keys, manifest, keys_of_places)
    elif manifest.is_dynamic:
        features = _masked_now(features, keys, manifest)
    values = _by_name(features, BatchSpec.of(manifest))

    missing = [0, batch_size - tf.size(serialized)]
    paddings = {rank: tf.stack([missing, [0, 0]][:rank]) for rank in (1, 2)}

    def filled(feature: Feature, shape: tuple[int | None, ...]) -> tf.Tensor:
        value = values[feature.part, feature.name]
        return tf.ensure_shape(tf.pad(value, paddings[value.shape.rank]), shape)

    return BatchSpec.of(manifest).build(filled, batch_size)


def features_of(manifest: Manifest) -> dict[str, Any]:
    """The features of the records as `tf.io.parse_example` takes them."""
    if manifest.is_dynamic:
        return _unmasked_features(manifest)
    spec = BatchSpec.of(manifest)
    return {
        name: tf.io.FixedLenFeature(
            spec.shape(feature)[1:] or (1,),  # a record has lists alone, also of one value
            tf.float32 if feature.dtype == "float32" else tf.int64,
        )
        for name, feature in _by_google_name(spec).items()
    }


def _unmasked_features(manifest: Manifest) -> dict[str, Any]:
    """`features_of` records that are masked on reading."""
    ragged = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    single = tf.io.FixedLenFeature([1], tf.int64)
    is_packed = manifest.pack > 1
    features: dict[str, Any] = {schema.INPUT_IDS: ragged}
    features[schema.FIRST_LENGTH] = ragged if is_packed else single
    if manifest.pairs != "none":
        features[schema.NEXT_SENTENCE_LABELS] = ragged if is_packed else single
    if is_packed:
        features |= dict.fromkeys((schema.PAIR_LENGTHS, schema.PAIR_PLACES), ragged)
        features[schema.SHARD_INDEX] = single
    return features


def limits_of(sequence_length: int, vocabulary_size: int, most_pairs: int = 1) -> dict[str, int]:
    """The bounds that the values of a record have to be below, by the name of the feature; none is
    negative. Ids and positions beyond theirs would be gathered from beyond a table's end."""
    return {
        schema.INPUT_IDS: vocabulary_size,
        schema.MASKED_LM_IDS: vocabulary_size,
        schema.MASKED_LM_POSITIONS: sequence_length,
        schema.FIRST_LENGTH: sequence_length + 1,
        schema.PAIR_LENGTHS: sequence_length + 1,
        schema.INPUT_MASK: most_pairs + 1,
        schema.SEGMENT_IDS: 2,
        schema.POSITIONS: sequence_length,
        schema.NEXT_SENTENCE_POSITIONS: sequence_length,
        schema.NEXT_SENTENCE_LABELS: 2,
    }


def _by_name(features: dict[str, Any], spec: BatchSpec) -> dict[tuple[str, str], tf.Tensor]:
    """The values of masked records by (part of the batch, name)."""
    values = {
        (feature.part, feature.name): tf.cast(features[name], feature.dtype)
        for name, feature in _by_google_name(spec).items()
    }
    if spec.pairs != "none" and spec.pack == 1:  # a record has a list of one label
        values["y", "nsp"] = values["y", "nsp"][:, 0]
        values["sample_weight", "nsp"] = tf.ones_like(values["y", "nsp"], tf.float32)
    return values


def _masked_now(features: dict[str, Any], keys: tf.Tensor, manifest: Manifest) -> dict[str, Any]:
    """The features of records with dynamic masking, which are masked here, as those with static
    masking have them."""
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
    return features | {
        schema.INPUT_IDS: masked["token_ids"],
        schema.INPUT_MASK: inside,
        schema.SEGMENT_IDS: second,
        schema.MASKED_LM_POSITIONS: masked["positions"],
        schema.MASKED_LM_IDS: masked["labels"],
        schema.MASKED_LM_WEIGHTS: masked["weights"],
    }


def _masked_rows(
    rows: dict[str, Any],
    keys: tf.Tensor,
    manifest: Manifest,
    keys_of_places: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None,
) -> dict[str, Any]:
    """`_masked_now` for packed records: every pair is masked by itself and put into its row."""
    from tfrecords.packing import Room, packed_features

    # The pairs of all rows, as unpacked records would give them.
    lengths, sizes = rows[schema.PAIR_LENGTHS].values, rows[schema.PAIR_LENGTHS].row_lengths()
    of_pairs: Any = tf.RaggedTensor  # whose constructors a type checker does not see
    ids = of_pairs.from_row_lengths(rows[schema.INPUT_IDS].values, lengths)
    pairs = {schema.INPUT_IDS: ids, schema.FIRST_LENGTH: rows[schema.FIRST_LENGTH].values[:, None]}
    row_of = rows[schema.PAIR_LENGTHS].value_rowids()
    if keys_of_places is None:
        number = tf.range(tf.size(lengths, tf.int64)) - tf.gather(
            rows[schema.PAIR_LENGTHS].row_starts(), row_of
        )
        keys = pair_keys(tf.gather(keys, row_of), number)
    else:
        shards = tf.gather(rows[schema.SHARD_INDEX][:, 0], row_of)
        keys = keys_of_places(shards, rows[schema.PAIR_PLACES].values)
    pairs = _masked_now(pairs, keys, manifest)
    if manifest.pairs != "none":
        pairs[schema.NEXT_SENTENCE_LABELS] = rows[schema.NEXT_SENTENCE_LABELS].values[:, None]

    # And the rows, by the function that writes them.
    assert manifest.config is not None
    spec, room = BatchSpec.of(manifest), Room.of(manifest.config)
    given, wanted = _by_google_name(BatchSpec(pairs=manifest.pairs)), _by_google_name(spec)

    def pack(sizes, *values):
        packed = packed_features(dict(zip(given, values, strict=True)), sizes, room)
        return tuple(packed[name] for name in wanted)

    values = [tf.cast(pairs[name], feature.dtype) for name, feature in given.items()]
    types = [feature.dtype for feature in wanted.values()]
    results = tf.numpy_function(pack, [sizes, *values], types, stateful=False)
    for feature, result in zip(wanted.values(), results, strict=True):
        result.set_shape([None, *spec.shape(feature)[1:]])
    return dict(zip(wanted, results, strict=True))


def _by_google_name(spec: BatchSpec) -> dict[str, Feature]:
    """The features that records have, by their names there."""
    return {
        feature.google_name: feature for feature in spec.features if feature.google_name is not None
    }


def _checked(
    features: dict[str, Any], manifest: Manifest, vocabulary_size: int | None
) -> dict[str, Any]:
    """The features, with assertions in the graph that their values are within `limits_of`."""
    checks = []
    limits = limits_of(manifest.sequence_length, vocabulary_size or tf.int32.max, manifest.pack)
    for name, limit in limits.items():
        if name not in features:
            continue
        wrong = tf.boolean_mask(features[name], (features[name] < 0) | (features[name] >= limit))
        message = f"{manifest.directory}: expected {name} from 0 to {limit - 1:,}. Received:"
        checks.append(tf.raw_ops.Assert(condition=tf.size(wrong) == 0, data=[message, wrong[:1]]))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, features)
