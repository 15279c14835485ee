"""One bucket of tokenized documents to one shard of records: pairs, shuffle, masks, rows, file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrecords import schema
from tfrecords.documents import Documents
from tfrecords.hashing import record_keys
from tfrecords.masking import Masking, mask_tokens
from tfrecords.packing import (
    Room,
    Rows,
    in_rows,
    packed_features,
    packed_rows,
    row_generator,
    shuffled_rows,
)
from tfrecords.pairs import Pairs, make_pairs
from tfrecords.schema import RecordsConfig
from tfrecords.vocabulary import Vocabulary
from tfrecords.writer import write_shard

# A batch and its records fit into a processor's second-level cache.
_RECORDS_PER_BATCH = 1024
_TOKENS_PER_BATCH = 1 << 17


class ShardMaker:
    """Makes shards for a vocabulary and a RecordsConfig."""

    def __init__(self, vocabulary: Vocabulary, config: RecordsConfig):
        self._vocabulary = vocabulary
        self._config = config
        self._masking = Masking.of(vocabulary, config)
        self._room = Room.of(config)

    def make(
        self,
        documents: Documents,
        split: str,
        index: int,
        directory: pathlib.Path,
        report: Callable[[int], object] = lambda _: None,
    ) -> tuple[schema.Shard, dict[str, int]]:
        """Writes shard number `index` of a split into `directory`, atomically.

        The bytes are a pure function of (documents, vocabulary, config, split, index).

        Args:
            documents: The documents of the bucket.
            split: "train" or "validation".
            index: The number of the shard in its split.
            directory: Where to write it.
            report: Called with the number of records of every batch.

        Returns:
            The Shard, and its counts.
        """
        config = self._config

        # Pairs and their order come from one generator, masks from a key for each record: so masks
        # do not depend on the batches, nor on what was drawn before.
        number = schema.SPLITS.index(split)
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([config.seed, number, index]))
        )
        pairs = self._pairs(documents, generator)
        order = generator.permutation(len(pairs))
        with tf.device("CPU"):  # a GPU would gain nothing, and take all of its memory
            keys = record_keys(config.seed, number << 32 | index, np.arange(len(order))).numpy()

        # Which of them share a row is decided when they have their places and their keys, so that
        # packed records hold the same pairs with the same masks.
        lengths = pairs.lengths[order]
        rows = self._rows(lengths, row_generator(config.seed, split, index))
        counts = self._counts(documents, pairs, lengths, len(rows))

        def batches():
            size = max(1, min(_RECORDS_PER_BATCH, _TOKENS_PER_BATCH // config.sequence_length))
            for start in range(0, len(rows), size):
                places, sizes = rows.some(start, start + size)
                chosen = pairs.batch(order[places], config.sequence_length)
                is_static = config.masking == "static"
                # Where masks are drawn on reading, the first batch tells how many that will be.
                if is_static or not start:
                    features = self._masked(*chosen, keys=keys[places])
                    self._count_masks(features, chosen[2], is_static, counts)
                    if is_static and config.pack > 1:
                        features = packed_features(features, sizes, self._room)
                    if is_static:
                        yield features, None
                if not is_static:
                    yield self._unmasked(*chosen, places, sizes, index)
                report(len(sizes))

        # The counts are complete when the writer has used up the batches.
        num_shards = config.num_shards if split == "train" else config.num_validation_shards
        suffix = ".tfrecord.gz" if config.compression == "gzip" else ".tfrecord"
        path = directory / f"{split}-{index:05d}-of-{num_shards:05d}{suffix}"
        shard = write_shard(path, split, batches(), config.compression)
        return dataclasses.replace(shard, pairs=len(pairs) if config.pack > 1 else None), counts

    def _rows(self, lengths: np.ndarray, generator: np.random.Generator) -> Rows:
        """The rows for pairs of these lengths (int32 [N])."""
        if self._config.pack == 1:
            return Rows.single(len(lengths))
        predictions = self._masking.num_predictions(lengths)
        return shuffled_rows(lengths, predictions, self._room, generator)

    def _counts(
        self, documents: Documents, pairs: Pairs, lengths: np.ndarray, num_rows: int
    ) -> dict[str, int]:
        """The counts of a shard, of its masks none yet; lengths of the pairs in their order."""
        counts = {
            "documents": len(documents),
            "records": num_rows,
            "pairs": len(pairs),
            "tokens": int(lengths.sum(dtype=np.int64)),
            "positive_labels": int(pairs.labels.sum()),
            "masked_tokens": 0,
            "sampled_records": 0,
            "sampled_masks": 0,
            "wanted_masks": 0,
            "truncated": int(pairs.num_truncated),
            "dropped": int(pairs.num_dropped),
            "document_tokens": len(documents.tokens),
            "unused_tokens": int(pairs.num_unused),
        }
        if self._config.pack == 1:
            # How many rows the usual packing would make: told to those who might want it.
            room = Room.of(dataclasses.replace(self._config, pack=schema.USUAL_PACK))
            rows = packed_rows(lengths, self._masking.num_predictions(lengths), room)
            counts["packed_records"] = len(rows)
        return counts

    def _pairs(self, documents: Documents, generator: np.random.Generator):
        assert self._config.duplicates is not None, "RecordsConfig settles it"
        return make_pairs(
            documents,
            self._config.pairs,
            self._config.sequence_length,
            self._config.short_sequence_probability,
            self._config.duplicates,
            self._vocabulary.cls_id,
            self._vocabulary.sep_id,
            generator,
        )

    def _masked(self, token_ids, segment_ids, lengths, labels, keys) -> dict[str, np.ndarray]:
        """The features of records with static masks, drawn now."""
        masked = mask_tokens(token_ids, lengths, self._masking, keys)
        return {
            schema.INPUT_IDS: masked["token_ids"],
            schema.INPUT_MASK: (
                np.arange(token_ids.shape[1], dtype=np.int32) < lengths[:, None]
            ).astype(np.int32),
            schema.SEGMENT_IDS: segment_ids,
            schema.MASKED_LM_POSITIONS: masked["positions"],
            schema.MASKED_LM_IDS: masked["labels"],
            schema.MASKED_LM_WEIGHTS: masked["weights"],
        } | self._labels(labels)

    def _count_masks(self, features, lengths: np.ndarray, are_written: bool, counts) -> None:
        """Counts the masks that were drawn for sequences of these lengths (int32 [B]), and those
        that were to be: words that are longer than what is to be masked get none."""
        drawn = int(features[schema.MASKED_LM_WEIGHTS].sum())
        counts["masked_tokens"] += drawn * are_written
        counts["sampled_records"] += len(lengths)
        counts["sampled_masks"] += drawn
        counts["wanted_masks"] += int(self._masking.num_predictions(lengths).sum())

    def _unmasked(self, token_ids, segment_ids, lengths, labels, places, sizes, index):
        """The features of records that are masked on reading, and how many values of each are
        written."""
        first_lengths = lengths - segment_ids.sum(axis=1, dtype=np.int32)
        if self._config.pack == 1:
            features = {schema.INPUT_IDS: token_ids, schema.FIRST_LENGTH: first_lengths[:, None]}
            return features | self._labels(labels), {schema.INPUT_IDS: lengths}

        # Rows of several pairs: their tokens one after the other, and a list of everything else.
        of_pairs = {
            schema.PAIR_LENGTHS: lengths,
            schema.FIRST_LENGTH: first_lengths,
            schema.PAIR_PLACES: places,
        } | {name: values[:, 0] for name, values in self._labels(labels).items()}
        inside = np.arange(token_ids.shape[1]) < lengths[:, None]
        row_lengths = in_rows(lengths, sizes, self._room).sum(axis=1)
        row_ids = np.zeros((len(sizes), self._room.tokens), np.int32)
        row_ids[np.arange(self._room.tokens) < row_lengths[:, None]] = token_ids[inside]
        features = {name: in_rows(values, sizes, self._room) for name, values in of_pairs.items()}
        features[schema.INPUT_IDS] = row_ids
        features[schema.SHARD_INDEX] = np.full((len(sizes), 1), index, np.int32)
        return features, {schema.INPUT_IDS: row_lengths, **dict.fromkeys(of_pairs, sizes)}

    def _labels(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        return (
            {} if self._config.pairs == "none" else {schema.NEXT_SENTENCE_LABELS: labels[:, None]}
        )
