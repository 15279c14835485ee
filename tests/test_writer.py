import gzip
import hashlib
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.schema import Shard
from tfrecords.writer import encode_records, write_shard

BOUNDARIES = [
    0,
    1,
    127,
    128,
    16383,
    16384,
    (1 << 21) - 1,
    1 << 21,
    (1 << 28) - 1,
    1 << 28,
    (1 << 31) - 1,
]


def example(features, row, lengths=None):
    """The same record by protocol buffers' own hand."""
    feature = {}
    for name, values in features.items():
        some = values[row, : None if name not in (lengths or {}) else lengths[name][row]]
        feature[name] = (
            tf.train.Feature(float_list=tf.train.FloatList(value=some))
            if values.dtype == np.float32
            else tf.train.Feature(int64_list=tf.train.Int64List(value=some))
        )
    return tf.train.Example(features=tf.train.Features(feature=feature))


def plain_file(path, features, lengths=None):
    """The bytes of a file with these records by TensorFlow's own hand."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(len(next(iter(features.values())))):
            writer.write(example(features, row, lengths).SerializeToString(deterministic=True))
    return path.read_bytes()


def data(features, lengths=None):
    """The records without the framing around them, as bytes."""
    content, starts = encode_records(features, lengths)
    content = content.tobytes()
    assert starts[0] == 0
    assert starts[-1] == len(content)
    return [content[start + 12 : end - 4] for start, end in itertools.pairwise(starts)]


def random_features(num_records, lengths, seed=0):
    draw = np.random.default_rng(seed)
    features = {
        name: (1 << draw.integers(0, 31, [num_records, length]))
        + draw.integers(-1, 1, [num_records, length])
        for name, length in lengths.items()
    }
    features = {name: values.astype(np.int32) for name, values in features.items()}
    return features | {"weights": draw.standard_normal([num_records, 3]).astype(np.float32)}


def batches_of(*numbers):
    return [(random_features(n, {"input_ids": 29}, seed=n), None) for n in numbers]


def test_one_record_in_full():
    content, starts = encode_records(
        {"b": np.array([[1, 300]], np.int32), "a": np.array([[1.0]], np.float32)}
    )
    # Example { features { {"a": float_list {1.0}}, {"b": int64_list {1, 300}} } }, the features in
    # the order of their names.
    a = b"\x0a\x01a" + b"\x12\x08" + b"\x12\x06" + b"\x0a\x04" + b"\x00\x00\x80\x3f"
    b = b"\x0a\x01b" + b"\x12\x07" + b"\x1a\x05" + b"\x0a\x03" + b"\x01\xac\x02"
    inner = b"\x0a" + bytes([len(a)]) + a + b"\x0a" + bytes([len(b)]) + b
    record = b"\x0a" + bytes([len(inner)]) + inner
    assert (content.dtype, starts.dtype) == (np.uint8, np.int64)
    assert content[12:-4].tobytes() == record
    assert content[:8].tolist() == [len(record), 0, 0, 0, 0, 0, 0, 0]
    assert starts.tolist() == [0, 12 + len(record) + 4]


def test_boundaries_come_back():
    features = {"numbers": np.array([BOUNDARIES, BOUNDARIES[::-1]], np.int32)}
    for row, record in enumerate(data(features)):
        parsed = tf.train.Example.FromString(record)
        assert (
            list(parsed.features.feature["numbers"].int64_list.value)
            == features["numbers"][row].tolist()
        )


@pytest.mark.parametrize("number", BOUNDARIES)
def test_every_boundary_has_the_bytes_of_protocol_buffers(number):
    features = {"n": np.full([1, 3], number, np.int32)}
    assert data(features) == [example(features, 0).SerializeToString(deterministic=True)]


@pytest.mark.parametrize("length", [1, 13, 31, 32, 127, 128, 129, 4099, 16384])
def test_lists_of_every_length_have_the_bytes_of_tensorflow(tmp_path, length):
    # The lengths of the parts are varints, too, and pass the same boundaries; the file has the CRCs
    # as well.
    features = random_features(
        7, {"input_ids": length, "a_much_longer_name_than_the_others_have": 5, "z": 1}, seed=length
    )
    content, starts = encode_records(features)
    assert content.tobytes() == plain_file(tmp_path / "plain", features)
    sizes = [
        len(example(features, row).SerializeToString(deterministic=True)) + 16 for row in range(7)
    ]
    assert starts.tolist() == [0, *np.cumsum(sizes)]


@pytest.mark.parametrize("seed", range(11))
def test_random_features_have_the_bytes_of_tensorflow(tmp_path, seed):
    draw = np.random.default_rng(seed)
    num_records, features = int(draw.integers(1, 29)), {}
    for index in range(draw.integers(1, 8)):
        # A name of more than 127 bytes has a length of two.
        name, length = (
            chr(draw.integers(97, 123)) * int(draw.integers(1, 151)) + f"é{index}",
            int(draw.integers(1, 61)),
        )
        if draw.random() < 0.3:
            features[name] = draw.integers(0, 1 << 32, [num_records, length], np.uint32).view(
                np.float32
            )
        else:
            features[name] = (
                draw.integers(0, 1 << 31, [num_records, length]) >> draw.integers(0, 31)
            ).astype(np.int32)
    features = {
        name: np.nan_to_num(x) if x.dtype == np.float32 else x for name, x in features.items()
    }
    expected = plain_file(tmp_path / "plain", features)
    assert encode_records(features)[0].tobytes() == expected
    # Not every array is laid out row by row.
    features = {name: np.asfortranarray(values) for name, values in features.items()}
    assert encode_records(features)[0].tobytes() == expected


def test_ragged_lists_have_the_bytes_of_tensorflow(tmp_path):
    features = random_features(13, {"input_ids": 31, "other": 5})
    lengths = {
        "input_ids": np.arange(1, 32)[[0, 1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 30]],
        "other": np.full(13, 5),
    }
    content, _ = encode_records(features, lengths)
    assert content.tobytes() == plain_file(tmp_path / "plain", features, lengths)
    assert data(features, {"other": lengths["other"]}) == data(features)


@pytest.mark.parametrize("length", [0, 1, 31])
def test_ragged_lists_come_back(tmp_path, length):
    features = random_features(3, {"input_ids": 31, "other": 5})
    lengths = {"input_ids": np.array([length, 7, length], np.int32)}
    records = data(features, lengths)
    for row, record in enumerate(records):
        assert tf.train.Example.FromString(record) == example(features, row, lengths)
    parsed = tf.io.parse_example(
        records,
        {
            "input_ids": tf.io.RaggedFeature(tf.int64),
            "other": tf.io.FixedLenFeature([5], tf.int64),
            "weights": tf.io.FixedLenFeature([3], tf.float32),
        },
    )
    assert parsed["input_ids"].to_list() == [
        features["input_ids"][row, :n].tolist() for row, n in enumerate([length, 7, length])
    ]
    assert parsed["other"].numpy().tolist() == features["other"].tolist()
    assert parsed["weights"].numpy().tolist() == features["weights"].tolist()


def test_floats_keep_their_bits():
    values = np.array([[0.0, -0.0, 1.0, -1.5, np.inf, 1e-45, 3.4e38]], np.float32)
    parsed = tf.train.Example.FromString(data({"weights": values})[0])
    assert (
        np.array(parsed.features.feature["weights"].float_list.value, np.float32).tobytes()
        == values.tobytes()
    )


def test_no_records():
    content, starts = encode_records(
        {"n": np.zeros([0, 3], np.int32), "w": np.zeros([0, 2], np.float32)}
    )
    assert (content.tolist(), starts.tolist()) == ([], [0])


def test_shard_says_what_was_written(tmp_path):
    batches = batches_of(5, 1, 3)
    path = tmp_path / "train-00000-of-00001.tfrecord"
    shard = write_shard(path, "train", iter(batches))
    content = path.read_bytes()
    assert shard == Shard(
        name="train-00000-of-00001.tfrecord",
        split="train",
        records=9,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        offsets=(0,),
        compression="none",
    )
    there = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert there == [record for features, lengths in batches for record in data(features, lengths)]
    assert write_shard(tmp_path / "again.tfrecord", "train", iter(batches)).sha256 == shard.sha256


@pytest.mark.parametrize(
    "sizes", [(1,), (4,), (5,), (8,), (3, 1, 4), (3, 2, 0, 7, 13, 1), (1,) * 9, (0, 0), (17, 1)]
)
def test_offsets_are_those_of_every_so_many_records(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr("tfrecords.schema.BLOCK_RECORDS", 4)
    batches = batches_of(*sizes)
    shard = write_shard(tmp_path / "a.tfrecord", "train", batches)
    starts, end = [], 0
    for features, lengths in batches:
        _, these = encode_records(features, lengths)
        starts += (these[:-1] + end).tolist()
        end += int(these[-1])
    assert shard.records == len(starts) == sum(sizes)
    assert shard.offsets == tuple(starts[::4])
    assert shard.bytes == end
    assert all(type(offset) is int for offset in shard.offsets)  # as JSON needs


def test_gzip_has_the_same_records_and_is_deterministic(tmp_path):
    batches = batches_of(5, 1, 3)
    plain = write_shard(tmp_path / "a.tfrecord", "train", batches)
    shard = write_shard(tmp_path / "a.tfrecord.gz", "train", batches, "gzip")
    content = (tmp_path / "a.tfrecord.gz").read_bytes()
    assert gzip.decompress(content) == (tmp_path / "a.tfrecord").read_bytes()
    assert (shard.records, shard.bytes, shard.offsets, shard.compression) == (
        9,
        len(content),
        (),
        "gzip",
    )
    assert shard.sha256 == hashlib.sha256(content).hexdigest() != plain.sha256
    assert len(list(tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord.gz"), "GZIP"))) == 9
    # Neither the time nor the name is in it.
    assert content[3:8] == b"\0" * 5
    assert (
        write_shard(tmp_path / "of another name.gz", "train", batches, "gzip").sha256
        == shard.sha256
    )


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_shard_of_nothing(tmp_path, compression):
    shard = write_shard(tmp_path / "a.tfrecord", "validation", [], compression)
    assert (shard.split, shard.records, shard.offsets) == ("validation", 0, ())
    kind = "GZIP" if compression == "gzip" else ""
    assert list(tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord"), kind)) == []


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_failure_on_the_way_leaves_what_was_there(tmp_path, compression):
    def batches():
        yield from batches_of(5)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_shard(tmp_path / "a.tfrecord", "train", batches(), compression)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.tfrecord").write_text("earlier")
    with pytest.raises(OSError, match="no space left"):
        write_shard(tmp_path / "a.tfrecord", "train", batches(), compression)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
