import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from tfrecords import RecordsConfig
from tfrecords.build.buckets import (
    SHARD_TOKENS,
    automatic_shards,
    bucket_of,
    buckets,
    num_buckets,
    partition,
    read_bucket,
    save_part,
)
from tfrecords.documents import Documents


@pytest.fixture
def config():
    return RecordsConfig(num_shards=5, validation_fraction=0.3, seed=7)


def plain(documents):
    """Documents as nested lists."""
    sentences = (
        [s.tolist() for s in np.split(documents.tokens, documents.sentence_starts[1:-1])]
        if len(documents)
        else []
    )
    return [
        sentences[start:end]
        for start, end in zip(
            documents.document_starts[:-1], documents.document_starts[1:], strict=True
        )
    ]


def numbered_documents(count, vocabulary_size, seed):
    draw = np.random.default_rng(seed)
    return [
        [
            draw.integers(0, vocabulary_size, draw.integers(1, 7)).tolist()
            for _ in range(draw.integers(1, 5))
        ]
        for _ in range(count)
    ]


def test_bucket_depends_on_the_number_and_the_seed_alone(config):
    whole = buckets(0, 997, config)
    for first, count in [(0, 1), (0, 13), (13, 31), (101, 0), (996, 1)]:
        np.testing.assert_array_equal(buckets(first, count, config), whole[first : first + count])
    unrelated = dataclasses.replace(
        config, sequence_length=29, pairs="sop", masking="dynamic", duplicates=3, cased=True
    )
    np.testing.assert_array_equal(buckets(0, 997, unrelated), whole)
    assert (buckets(0, 997, dataclasses.replace(config, seed=8)) != whole).mean() > 0.5


def test_buckets_stay_what_they_are():
    # Records that are made again from the same text have to be the same, with later versions as
    # well.
    config = RecordsConfig(num_shards=3, validation_fraction=0.17, seed=7)
    assert buckets(0, 17, config).tolist() == [0, 2, 3, 3, 1, 2, 3, 2, 0, 0, 2, 2, 1, 1, 2, 1, 2]


def test_held_out_documents_do_not_depend_on_the_number_of_shards(config):
    held_out = buckets(0, 997, config) >= 5
    for shards in (1, 2, 17):
        more = dataclasses.replace(config, num_shards=shards)
        np.testing.assert_array_equal(buckets(0, 997, more) >= shards, held_out)


def test_documents_are_spread_evenly(config):
    count = 100_003
    sizes = np.bincount(buckets(0, count, config))
    assert len(sizes) == 5 + config.num_validation_shards == 7
    share = np.array([0.7 / 5] * 5 + [0.3 / 2] * 2)
    # Four standard deviations of a binomial.
    assert (np.abs(sizes - count * share) < 4 * np.sqrt(count * share * (1 - share))).all()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5])
def test_share_of_held_out_documents(fraction):
    config = RecordsConfig(num_shards=3, validation_fraction=fraction, seed=(1 << 63) - 1)
    held_out = (buckets(1 << 40, 100_003, config) >= 3).sum()
    assert abs(held_out - 100_003 * fraction) <= 4 * (100_003 * fraction * (1 - fraction)) ** 0.5


def test_bucket_becomes_a_shard_of_a_split(config):
    assert [bucket_of(number, config) for number in (0, 4, 5, 6)] == [
        ("train", 0),
        ("train", 4),
        ("validation", 0),
        ("validation", 1),
    ]


def test_number_of_shards():
    config = RecordsConfig(duplicates=3, validation_fraction=0.0)
    assert automatic_shards(1, 1, config) == 1
    assert automatic_shards(SHARD_TOKENS // 3, 10**6, config) == 1
    assert automatic_shards(SHARD_TOKENS // 3 + 1, 10**6, config) == 2
    assert automatic_shards(SHARD_TOKENS, 10**6, config) == 3
    # No more than there is text for: of a few long documents, one shard.
    assert automatic_shards(SHARD_TOKENS, 63, config) == 1
    assert automatic_shards(SHARD_TOKENS, 95, config) == 2
    assert automatic_shards(10**15, 10**12, config) == 1 << 16
    assert automatic_shards(SHARD_TOKENS, 10**6, dataclasses.replace(config, duplicates=6)) == 6
    assert (
        automatic_shards(SHARD_TOKENS, 10**6, dataclasses.replace(config, validation_fraction=0.5))
        == 2
    )


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.int32)]
)
def test_documents_come_back_from_their_buckets_in_order(tmp_path, config, vocabulary_size, dtype):
    parts = [
        numbered_documents(count, vocabulary_size, seed) for seed, count in enumerate([31, 1, 17])
    ]
    parts[0][0][0][0] = vocabulary_size - 1  # the largest id there is
    bucket = buckets(0, 49, config)
    partitioned, first = [], 0
    for number, documents in enumerate(parts):
        part, path = tmp_path / f"part-{number}", tmp_path / f"partitioned {number}"
        save_part(part, Documents.of(documents), vocabulary_size)
        assert safetensors.numpy.load_file(part)["tokens"].dtype == dtype
        partition(part, path, first, config)
        assert safetensors.numpy.load_file(path)["tokens"].dtype == dtype
        partitioned.append(path)
        first += len(documents)
    documents = [document for part in parts for document in part]
    for number in range(7):
        found = read_bucket(partitioned, number)
        assert found.tokens.dtype == np.int32
        assert plain(found) == [
            document for document, here in zip(documents, bucket, strict=True) if here == number
        ]


def test_fewer_shards_where_one_might_have_parts_of_a_single_document():
    config = RecordsConfig(duplicates=3, validation_fraction=0.0)
    tokens, documents = 1000 * SHARD_TOKENS, 3200
    assert automatic_shards(tokens, documents, config) == 100
    # Many books of some parts each, or a few of very many, are in every shard.
    assert automatic_shards(tokens, documents, config, [2] * 1600) == 100
    assert automatic_shards(tokens, documents, config, [1600, 1600]) < 90
    assert automatic_shards(tokens, documents, config, [1000, 1000, 1200]) == 100
    # One book and little else.
    assert automatic_shards(tokens, documents, config, [3199]) == 1
    few = automatic_shards(tokens, documents, config, [3100])
    assert 1 < few <= 8
    # It happens as rarely as it says.
    assert few * (1 - 1 / few) ** 100 < 1e-4
    assert automatic_shards(tokens, 10**9, config, [10**8, 10**5]) == 3000


def test_parts_of_a_document_go_to_the_same_split(config):
    numbers = np.arange(1000)
    firsts = numbers - numbers % 10
    bucket = buckets(70, 1000, config, 70 + firsts)
    held_out = (bucket >= 5).reshape(100, 10)
    np.testing.assert_array_equal(held_out, np.repeat(held_out[:, :1], 10, axis=1))
    assert 10 < held_out[:, 0].sum() < 50
    # That of their first, and elsewhere they go as documents do.
    alone = buckets(70, 1000, config)
    np.testing.assert_array_equal(bucket[::10], alone[::10])
    same = (bucket >= 5) == (alone >= 5)
    np.testing.assert_array_equal(bucket[same], alone[same])
    np.testing.assert_array_equal(buckets(80, 10, config, 80), bucket[10:20])


def test_parts_of_a_document_are_known_in_their_bucket(tmp_path, config):
    # A document of five parts, of which two stand in the second file.
    documents = numbered_documents(9, 97, 0)
    for number, (start, end, firsts) in enumerate(
        [(0, 6, [0, 1, 2, 3, 3, 3]), (6, 9, [-3, -3, 2])]
    ):
        some = dataclasses.replace(Documents.of(documents[start:end]), firsts=np.array(firsts))
        save_part(tmp_path / "part", some, 97)
        partition(tmp_path / "part", tmp_path / f"{number}", 20 + start, config)
    firsts = np.array([20, 21, 22, 23, 23, 23, 23, 23, 28])
    bucket = buckets(20, 9, config, firsts)
    for number in range(num_buckets(config)):
        here = read_bucket([tmp_path / "0", tmp_path / "1"], number)
        there = np.flatnonzero(bucket == number)
        assert plain(here) == [documents[place] for place in there]
        for run, place in enumerate(there):
            same = np.flatnonzero(firsts[there] == firsts[place])
            assert [ends[run] for ends in here.whole()] == [same[0], same[-1] + 1]


def test_buckets_without_documents(tmp_path):
    config = RecordsConfig(num_shards=31, validation_fraction=0.5)
    save_part(tmp_path / "part", Documents.of([[[7, 8], [9]]]), 97)
    partition(tmp_path / "part", tmp_path / "partitioned", 5, config)
    (number,) = buckets(5, 1, config)
    for bucket in range(31 + config.num_validation_shards):
        expected = [[[7, 8], [9]]] if bucket == number else []
        assert plain(read_bucket([tmp_path / "partitioned"] * 2, bucket)) == 2 * expected
    assert len(read_bucket([], 0)) == 0


def test_files_appear_whole(tmp_path, config, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    save_part(tmp_path / "part", Documents.of([[[7]]]), 97)
    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        partition(tmp_path / "part", tmp_path / "partitioned", 0, config)
    assert not (tmp_path / "partitioned").exists()
    assert (tmp_path / "part").exists()
