"""Records read with nothing but TensorFlow and the seven names of google-research/bert, as any
other tool reads them."""

import tensorflow as tf


def read_plain(path, sequence_length, max_predictions):
    """The records of one file in order, each a dict of NumPy arrays."""
    features = {
        "input_ids": tf.io.FixedLenFeature([sequence_length], tf.int64),
        "input_mask": tf.io.FixedLenFeature([sequence_length], tf.int64),
        "segment_ids": tf.io.FixedLenFeature([sequence_length], tf.int64),
        "masked_lm_positions": tf.io.FixedLenFeature([max_predictions], tf.int64),
        "masked_lm_ids": tf.io.FixedLenFeature([max_predictions], tf.int64),
        "masked_lm_weights": tf.io.FixedLenFeature([max_predictions], tf.float32),
        "next_sentence_labels": tf.io.FixedLenFeature([1], tf.int64),
    }
    dataset = tf.data.TFRecordDataset(str(path)).map(
        lambda record: tf.io.parse_single_example(record, features)
    )
    return list(dataset.as_numpy_iterator())


def content(directory):
    """The bytes of all files of a directory, hidden ones too, and of those below it, in the order
    of their names."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def unmasked(record):
    """The token ids of a record as they were before masking, without padding."""
    token_ids = record["input_ids"].copy()
    in_use = record["masked_lm_weights"] == 1
    token_ids[record["masked_lm_positions"][in_use]] = record["masked_lm_ids"][in_use]
    return token_ids[: record["input_mask"].sum()].tolist()


def parts(record):
    """A and B of a record, as lists of the ids before masking and without [CLS] and [SEP]."""
    token_ids = unmasked(record)
    first_length = len(token_ids) - int(record["segment_ids"].sum())
    return token_ids[1 : first_length - 1], token_ids[first_length:-1]
