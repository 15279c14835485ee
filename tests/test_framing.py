import gzip

import numpy as np
import pytest
import tensorflow as tf

from tfrecords.framing import scan_records

BLOCK = 4
_COMPRESSED = {"none": None, "gzip": "GZIP"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("tfrecords.schema.BLOCK_RECORDS", BLOCK)


def written(path, records, compression="none"):
    """A file by TensorFlow's own hand."""
    with tf.io.TFRecordWriter(str(path), _COMPRESSED[compression]) as writer:
        for record in records:
            writer.write(record)
    return path


def random_records(number, longest, seed):
    draw = np.random.default_rng(seed)
    return [draw.bytes(length) for length in draw.integers(0, longest, number)]


def starts(records):
    """Where each record begins, and the end: 8 bytes of length and 2 CRCs of 4 stand around the
    data."""
    return np.cumsum([0] + [len(record) + 16 for record in records]).tolist()


@pytest.mark.parametrize(
    ("number", "longest"), [(1, 7), (3, 300), (4, 300), (5, 300), (8, 1), (997, 401), (13, 70001)]
)
def test_count_and_offsets_are_those_of_tensorflow(tmp_path, number, longest):
    records = random_records(number, longest, seed=number)
    path = written(tmp_path / "a.tfrecord", records)
    assert len(list(tf.data.TFRecordDataset(str(path)))) == number
    assert scan_records(path) == (number, tuple(starts(records)[:-1:BLOCK]), "none")


def test_tensorflow_reads_on_from_every_offset(tmp_path):
    records = random_records(29, 131, seed=1)
    path = written(tmp_path / "a.tfrecord", records)
    _, offsets, _ = scan_records(path)
    assert len(offsets) == 8

    def behind(offset):
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[str(path)],
            compression_type="",
            buffer_size=tf.constant(1 << 10, tf.int64),
            byte_offsets=offset[None],
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    found = (
        tf.data.Dataset.from_tensor_slices(np.array(offsets)).flat_map(behind).as_numpy_iterator()
    )
    assert list(found) == [record for n in range(8) for record in records[n * BLOCK :]]


def test_file_cut_at_every_byte(tmp_path, refused):
    records = random_records(7, 13, seed=2)
    content = written(tmp_path / "whole.tfrecord", records).read_bytes()
    ends = starts(records)
    assert ends[-1] == len(content)
    path = tmp_path / "cut.tfrecord"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends[1:])
        if size in ends:  # nothing but a manifest could tell that records are missing
            assert scan_records(path) == (whole, tuple(ends[:whole:BLOCK]), "none")
        else:
            with refused(
                r"cut\.tfrecord: expected TFRecords .* Received: a file that is cut or damaged in "
                rf"record {whole}\.$"
            ):
                scan_records(path)


@pytest.mark.parametrize(
    "length",
    [6, 1 << 31, 1 << 62, (1 << 63) - 17, (1 << 63) - 16, (1 << 63) - 1, 1 << 63, (1 << 64) - 1],
)
def test_length_that_is_damaged(tmp_path, refused, length):
    # Some of these overflow in 64 bits: reading must neither go round in circles nor leave the
    # file.
    content = bytearray(written(tmp_path / "a.tfrecord", [b"abc", b"defgh"]).read_bytes())
    content[19:27] = length.to_bytes(8, "little")
    (tmp_path / "a.tfrecord").write_bytes(content)
    with refused(r"a\.tfrecord: .*cut or damaged in record 1\."):
        scan_records(tmp_path / "a.tfrecord")


def test_empty_file(tmp_path):
    (tmp_path / "a.tfrecord").touch()
    assert scan_records(tmp_path / "a.tfrecord") == (0, (), "none")


@pytest.mark.parametrize(("number", "longest"), [(1, 7), (5, 300), (997, 401), (2, 3 << 20)])
def test_gzip_is_counted_and_told_by_its_content(tmp_path, number, longest):
    path = written(tmp_path / "no suffix tells it", random_records(number, longest, seed=3), "gzip")
    assert scan_records(path) == (number, (), "gzip")


def test_gzip_of_several_members(tmp_path):
    one = written(tmp_path / "one", random_records(3, 50, seed=4), "gzip").read_bytes()
    two = written(tmp_path / "two", random_records(5, 50, seed=5), "gzip").read_bytes()
    (tmp_path / "both").write_bytes(one + two)
    assert len(list(tf.data.TFRecordDataset(str(tmp_path / "both"), "GZIP"))) == 8
    assert scan_records(tmp_path / "both") == (8, (), "gzip")


def test_gzip_cut_at_every_byte(tmp_path, refused):
    content = written(tmp_path / "whole", random_records(7, 13, seed=6), "gzip").read_bytes()
    path = tmp_path / "cut.gz"
    for size in range(2, len(content)):
        path.write_bytes(content[:size])
        with refused(
            r"cut\.gz: expected TFRecords .* Received: a file that is cut or damaged in record \d\."
        ):
            scan_records(path)


def test_whole_gzip_of_records_that_are_cut(tmp_path, refused):
    records = random_records(3, 13, seed=7)
    content = written(tmp_path / "whole", records).read_bytes()
    ends = starts(records)
    path = tmp_path / "cut.gz"
    for size in range(len(content)):
        path.write_bytes(gzip.compress(content[:size]))
        if size in ends:
            assert scan_records(path) == (ends.index(size), (), "gzip")
        else:
            with refused(rf"cut or damaged in record {sum(end <= size for end in ends[1:])}\."):
                scan_records(path)
