"""One bucket of tokenized documents to one shard of records: pairs, shuffle, masks, file."""

import numpy as np
import tensorflow as tf

from tfrecords import schema
from tfrecords.hashing import record_keys
from tfrecords.masking import Masking, mask_tokens
from tfrecords.pairs import make_pairs
from tfrecords.writer import write_shard

# A batch and its records stay in a processor's second cache.
_RECORDS_PER_BATCH = 1024
_TOKENS_PER_BATCH = 1 << 17


class ShardMaker:
    """Makes shards for a vocabulary and a RecordsConfig."""

    def __init__(self, vocabulary, config):
        self._vocabulary = vocabulary
        self._config = config
        self._masking = Masking.of(vocabulary, config)

    def make(self, documents, split, index, directory, report=lambda *_: None):
        """Writes the shard number `index` of a split into `directory` (a Path), atomically.

        The bytes are a pure function of (documents, vocabulary, config, split, index).

        Args:
            documents: Documents of the bucket.
            split: "train" or "validation".
            index: Which of the split's shards.
            directory: Where.
            report: Called with the number of records of every batch.

        Returns:
            Its Shard, and its counts as a dict.
        """
        config = self._config
        number = schema.SPLITS.index(split)
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([config.seed, number, index]))
        )
        pairs = make_pairs(
            documents,
            config.pairs,
            config.sequence_length,
            config.short_sequence_probability,
            config.duplicates,
            self._vocabulary.cls_id,
            self._vocabulary.sep_id,
            generator,
        )
        order = generator.permutation(len(pairs))
        with tf.device("CPU"):  # there may be a GPU, which would gain nothing
            keys = record_keys(config.seed, number << 32 | index, np.arange(len(order))).numpy()
        counts = {
            "documents": len(documents),
            "records": len(pairs),
            "tokens": int(pairs.lengths.sum(dtype=np.int64)),
            "positive_labels": int(pairs.labels.sum()),
            "masked_tokens": 0,
            "truncated": int(pairs.num_truncated),
            "dropped": int(pairs.num_dropped),
        }

        def batches():
            size = max(1, min(_RECORDS_PER_BATCH, _TOKENS_PER_BATCH // config.sequence_length))
            for start in range(0, len(order), size):
                chosen = pairs.batch(order[start : start + size], config.sequence_length)
                if config.masking == "dynamic":
                    yield self._unmasked(*chosen)
                else:
                    features = self._masked(*chosen, keys=keys[start : start + size])
                    counts["masked_tokens"] += int(features[schema.MASKED_LM_WEIGHTS].sum())
                    yield features, None
                report(len(chosen[0]))

        num_shards = config.num_shards if split == "train" else config.num_validation_shards
        suffix = ".tfrecord.gz" if config.compression == "gzip" else ".tfrecord"
        path = directory / f"{split}-{index:05d}-of-{num_shards:05d}{suffix}"
        return write_shard(path, split, batches(), config.compression), counts

    def _masked(self, token_ids, segment_ids, lengths, labels, keys):
        """The features of records that are masked now."""
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

    def _unmasked(self, token_ids, segment_ids, lengths, labels):
        """The features of records that are masked in reading, and how many ids of each are text."""
        features = {
            schema.INPUT_IDS: token_ids,
            schema.FIRST_LENGTH: (lengths - segment_ids.sum(axis=1, dtype=np.int32))[:, None],
        }
        return features | self._labels(labels), {schema.INPUT_IDS: lengths}

    def _labels(self, labels):
        return (
            {} if self._config.pairs == "none" else {schema.NEXT_SENTENCE_LABELS: labels[:, None]}
        )
