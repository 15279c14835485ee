import hashlib

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.schema import Shard
from tfrecords.writer import encode_records, write_shard

BOUNDARIES = [0, 1, 127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21, (1 << 28) - 1, 1 << 28, (1 << 31) - 1]


def example(features, row):
    """The same record by protocol buffers' own hand."""
    feature = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=values[row]))
        if values.dtype == np.float32
        else tf.train.Feature(int64_list=tf.train.Int64List(value=values[row]))
        for name, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def random_features(num_records, lengths, seed=0):
    draw = np.random.default_rng(seed)
    features = {
        name: (1 << draw.integers(0, 31, [num_records, length])).astype(np.int32) + draw.integers(-1, 1, [num_records, length])
        for name, length in lengths.items()
    }
    features = {name: values.astype(np.int32) for name, values in features.items()}
    return features | {"weights": draw.standard_normal([num_records, 3]).astype(np.float32)}


def test_one_record_in_full():
    records = encode_records({"b": np.array([[1, 300]], np.int32), "a": np.array([[1.0]], np.float32)})
    # Example { features { {"a": float_list {1.0}}, {"b": int64_list {1, 300}} } }, the features in the order of their names.
    a = b"\x0a\x01a" + b"\x12\x08" + b"\x12\x06" + b"\x0a\x04" + b"\x00\x00\x80\x3f"
    b = b"\x0a\x01b" + b"\x12\x07" + b"\x1a\x05" + b"\x0a\x03" + b"\x01\xac\x02"
    inner = b"\x0a" + bytes([len(a)]) + a + b"\x0a" + bytes([len(b)]) + b
    assert records == [b"\x0a" + bytes([len(inner)]) + inner]


def test_boundaries_come_back():
    features = {"numbers": np.array([BOUNDARIES, BOUNDARIES[::-1]], np.int32)}
    for row, record in enumerate(encode_records(features)):
        parsed = tf.train.Example.FromString(record)
        assert list(parsed.features.feature["numbers"].int64_list.value) == features["numbers"][row].tolist()


@pytest.mark.parametrize("number", BOUNDARIES)
def test_every_boundary_has_the_bytes_of_protocol_buffers(number):
    features = {"n": np.full([1, 3], number, np.int32)}
    assert encode_records(features) == [example(features, 0).SerializeToString(deterministic=True)]


@pytest.mark.parametrize("length", [1, 13, 31, 32, 127, 128, 129, 4099, 16384])
def test_lists_of_every_length_have_the_bytes_of_protocol_buffers(length):
    # The lengths of the parts are varints, too, and pass the same boundaries.
    features = random_features(7, {"input_ids": length, "a_much_longer_name_than_the_others_have": 5, "z": 1}, seed=length)
    expected = [example(features, row).SerializeToString(deterministic=True) for row in range(7)]
    assert encode_records(features) == expected


def test_floats_keep_their_bits():
    values = np.array([[0.0, -0.0, 1.0, -1.5, np.inf, 1e-45, 3.4e38]], np.float32)
    parsed = tf.train.Example.FromString(encode_records({"weights": values})[0])
    assert np.array(parsed.features.feature["weights"].float_list.value, np.float32).tobytes() == values.tobytes()


def test_no_records():
    assert encode_records({"n": np.zeros([0, 3], np.int32), "w": np.zeros([0, 2], np.float32)}) == []


def test_shard_says_what_was_written(tmp_path):
    batches = [random_features(n, {"input_ids": 29}, seed=n) for n in (5, 1, 3)]
    path = tmp_path / "train-00000-of-00001.tfrecord"
    shard = write_shard(path, "train", iter(batches))
    content = path.read_bytes()
    assert shard == Shard(
        name="train-00000-of-00001.tfrecord",
        split="train",
        records=9,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    there = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert there == [record for batch in batches for record in encode_records(batch)]
    assert write_shard(tmp_path / "again.tfrecord", "train", iter(batches)).sha256 == shard.sha256


def test_shard_of_nothing(tmp_path):
    shard = write_shard(tmp_path / "a.tfrecord", "validation", [])
    assert (shard.split, shard.records, shard.bytes) == ("validation", 0, 0)


def test_failure_on_the_way_leaves_nothing(tmp_path):
    def batches():
        yield random_features(5, {"input_ids": 29})
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_shard(tmp_path / "a.tfrecord", "train", batches())
    assert list(tmp_path.iterdir()) == []
