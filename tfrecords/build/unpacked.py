"""Records in Google's schema back to pairs without padding, as many at a time as are put into rows
together."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfrecords import packing, schema
from tfrecords.damage import check_hash
from tfrecords.errors import InputError, one_line
from tfrecords.parsing import features_of, limits_of
from tfrecords.schema import Manifest, Shard

_TOKENS_PER_BATCH = 1 << 17


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of different lengths, one after the other, with a value of every name in each place.

    Args:
        lengths: int64 [n].
        values: Arrays of [sum of the lengths] by name.
    """

    lengths: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, padded: dict[str, np.ndarray], inside: np.ndarray) -> Lists:
        """The lists of padded arrays, [n, width]; `inside`, bool of that shape, says which values
        are in them."""
        return cls(inside.sum(axis=1), {name: array[inside] for name, array in padded.items()})

    @classmethod
    def joined(cls, parts: Sequence[Lists]) -> Lists:
        """The lists of several, one after the other."""
        return cls(
            np.concatenate([part.lengths for part in parts]),
            {
                name: np.concatenate([part.values[name] for part in parts])
                for name in parts[0].values
            },
        )

    def part(self, start: int, stop: int) -> Lists:
        """Lists `start` to `stop` - 1."""
        first, last = (int(self.lengths[:end].sum()) for end in (start, stop))
        return Lists(
            self.lengths[start:stop], {name: v[first:last] for name, v in self.values.items()}
        )

    def padded(self, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """The lists at `rows` (int64 [n]) as arrays padded with zeros, [n, width]."""
        starts, index = (np.cumsum(self.lengths) - self.lengths)[rows], np.arange(width)
        inside = index < self.lengths[rows, None]
        places = (starts[:, None] + index)[inside]
        arrays = {name: np.zeros(inside.shape, v.dtype) for name, v in self.values.items()}
        for name, array in arrays.items():
            array[inside] = self.values[name][places]
        return arrays


@dataclasses.dataclass(frozen=True)
class Window:
    """Pairs with their masks.

    Args:
        tokens: input_ids and segment_ids of each pair.
        predictions: masked_lm_positions, masked_lm_ids and masked_lm_weights, of the slots in use.
        labels: next_sentence_labels, int32 [n, 1]; None for single segments.
        shape: S and the P of a pair.
    """

    tokens: Lists
    predictions: Lists
    labels: np.ndarray | None
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tokens.lengths)

    def features(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """The pairs at `places` (int64 [n]) in Google's schema."""
        length, slots = self.shape
        features = self.tokens.padded(places, length) | self.predictions.padded(places, slots)
        inside = np.arange(length) < self.tokens.lengths[places, None]
        features[schema.INPUT_MASK] = inside.astype(np.int32)
        if self.labels is not None:
            features[schema.NEXT_SENTENCE_LABELS] = self.labels[places]
        return features

    def part(self, start: int, stop: int) -> Window:
        """Pairs `start` to `stop` - 1."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Window(
            self.tokens.part(start, stop), self.predictions.part(start, stop), labels, self.shape
        )

    @classmethod
    def joined(cls, parts: Sequence[Window]) -> Window:
        """The pairs of several, one after the other."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            Lists.joined([part.tokens for part in parts]),
            Lists.joined([part.predictions for part in parts]),
            np.concatenate(labels) if labels else None,
            parts[0].shape,
        )


def pair_windows(
    manifest: Manifest, shard: Shard, report: Callable[[int], object]
) -> Iterator[Window]:
    """Reads a shard as the windows of `packing.windows`.

    Args:
        manifest: Of records with static masks that are not packed.
        shard: One of its shards.
        report: Called with the number of pairs of every batch.

    Raises:
        InputError: The shard is damaged, or a record is none of Google's schema.
    """
    waiting: list[Window] = []
    tokens = 0
    for batch in _batches(manifest, shard):
        report(len(batch))
        # A window ends with the pair that fills it, in the middle of a batch as a rule.
        while tokens + batch.tokens.lengths.sum() >= packing.WINDOW_TOKENS:
            stop = packing.window_end(np.cumsum(batch.tokens.lengths), -tokens)
            yield Window.joined([*waiting, batch.part(0, stop)])
            waiting, tokens, batch = [], 0, batch.part(stop, len(batch))
        waiting.append(batch)
        tokens += int(batch.tokens.lengths.sum())
    if any(map(len, waiting)):
        yield Window.joined(waiting)


def _batches(manifest: Manifest, shard: Shard) -> Iterator[Window]:
    path, count = manifest.directory / shard.name, 0
    if shard.sha256:  # records by another tool have no hash
        check_hash(path, shard.sha256)
    records = tf.data.TFRecordDataset(str(path), "GZIP" if shard.compression == "gzip" else "")
    try:
        for batch in records.batch(max(1, _TOKENS_PER_BATCH // manifest.sequence_length)):
            features = {
                name: values.numpy()
                for name, values in tf.io.parse_example(batch, features_of(manifest)).items()
            }
            yield _window(features, manifest, path, count)
            count += len(batch)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(
            f"{path}: expected whole records in Google's schema. Received: damage behind record "
            f"{count:,} ({one_line(error.message)})."
        ) from None
    if count != shard.records:
        raise InputError(
            f"{path}: expected {shard.records:,} records, as in the manifest. Received: {count:,}."
        )


def _window(
    features: dict[str, np.ndarray], manifest: Manifest, path: pathlib.Path, first: int
) -> Window:
    """The pairs of a batch of records that begins with the record number `first` of a file."""
    mask = features[schema.INPUT_MASK]
    inside = np.arange(mask.shape[1]) < mask.sum(axis=1, keepdims=True)
    used = features[schema.MASKED_LM_WEIGHTS] > 0

    # Packing moves tokens and what points to them: it has to know where they are.
    limits = limits_of(manifest.sequence_length, manifest.vocabulary_size or 1 << 31)
    checks = {
        f"{name} from 0 to {limits[name] - 1:,}": (values >= 0) & (values < limits[name])
        for name, values in features.items()
        if name in limits
    }
    checks[f"{schema.INPUT_MASK} of 1 on the tokens and of 0 behind them"] = mask == inside
    checks["a token at least"] = inside[:, :1]
    weights = features[schema.MASKED_LM_WEIGHTS]
    checks[f"{schema.MASKED_LM_WEIGHTS} of 0 or more"] = weights >= 0
    checks["masked tokens among the tokens"] = ~used | (
        features[schema.MASKED_LM_POSITIONS] < mask.sum(axis=1, keepdims=True)
    )
    for expected, right in checks.items():
        if not right.all():
            record = first + int(right.all(axis=1).argmin())
            raise InputError(
                f"{path}, record {record:,}: expected {expected}. Received: other values."
            )

    integers = {
        name: values if values.dtype == np.float32 else values.astype(np.int32)
        for name, values in features.items()
    }
    return Window(
        Lists.of({name: integers[name] for name in (schema.INPUT_IDS, schema.SEGMENT_IDS)}, inside),
        Lists.of({name: integers[name] for name in schema.PREDICTION_FEATURES}, used),
        integers.get(schema.NEXT_SENTENCE_LABELS),
        (manifest.sequence_length, manifest.max_predictions),
    )
