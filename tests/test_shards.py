import dataclasses
import gzip

import numpy as np
import pytest
import tensorflow as tf
from plain_records import parts, read_plain, unmasked

from tfrecords import schema
from tfrecords.build import shards
from tfrecords.build.shards import ShardMaker
from tfrecords.documents import Documents
from tfrecords.framing import scan_records
from tfrecords.pairs import make_pairs


@pytest.fixture(scope="module")
def all_documents(documents, vocabulary):
    return Documents.of(
        [[[vocabulary.ids[word] for word in words] for words in document] for document in documents]
    )


@pytest.fixture
def make(tmp_path, all_documents, vocabulary, config):
    """Makes a shard with the configuration changed, and returns its path, Shard and counts."""

    def make(split="train", index=1, documents=all_documents, place="", **changes):
        (tmp_path / place).mkdir(exist_ok=True)
        maker = ShardMaker(vocabulary, dataclasses.replace(config, **changes))
        shard, counts = maker.make(documents, split, index, tmp_path / place)
        return tmp_path / place / shard.name, shard, counts

    return make


def examples(path, compression=""):
    """The features of the records of a file as protocol buffers have them."""
    return [
        {
            name: list(value.int64_list.value or value.float_list.value)
            for name, value in tf.train.Example.FromString(record).features.feature.items()
        }
        for record in tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator()
    ]


def expected_pairs(all_documents, vocabulary, config, split, index):
    """The pairs and their order in a shard, as `make` draws them."""
    generator = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([config.seed, split, index]))
    )
    pairs = make_pairs(
        all_documents,
        config.pairs,
        config.sequence_length,
        config.short_sequence_probability,
        config.duplicates,
        vocabulary.cls_id,
        vocabulary.sep_id,
        generator,
    )
    return pairs, generator.permutation(len(pairs))


@pytest.mark.parametrize("masking", schema.MASKINGS)
@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_records_are_the_pairs_in_a_random_order(
    make, all_documents, vocabulary, config, pairs, masking
):
    path, shard, counts = make(pairs=pairs, masking=masking)
    assert path.name == "train-00001-of-00003.tfrecord"
    config = dataclasses.replace(config, pairs=pairs, masking=masking)
    expected, order = expected_pairs(all_documents, vocabulary, config, 0, 1)
    token_ids, segment_ids, lengths, labels = expected.batch(order, 29)
    there = examples(path)
    assert shard.records == counts["records"] == len(there) == len(order)
    for row, record in enumerate(there):
        ids = token_ids[row, : lengths[row]].tolist()
        assert record.pop("next_sentence_labels", None) == (
            None if pairs == "none" else [labels[row]]
        )
        if masking == "dynamic":
            first_length = int(lengths[row] - segment_ids[row].sum())
            assert record == {"input_ids": ids, "first_length": [first_length]}
            assert ids[first_length - 1] == vocabulary.sep_id
        else:
            assert unmasked({name: np.array(values) for name, values in record.items()}) == ids
            assert record["segment_ids"] == segment_ids[row].tolist()
            assert set(record) == {*schema.SEQUENCE_FEATURES, *schema.PREDICTION_FEATURES}


@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_counts_are_true(make, all_documents, vocabulary, config, pairs):
    path, _, counts = make(pairs=pairs)
    there = examples(path)
    expected, _ = expected_pairs(
        all_documents, vocabulary, dataclasses.replace(config, pairs=pairs), 0, 1
    )
    assert counts == {
        "documents": 43,
        "records": len(there),
        "pairs": len(there),
        "packed_records": counts["packed_records"],
        "tokens": sum(sum(record["input_mask"]) for record in there),
        "positive_labels": sum(record.get("next_sentence_labels", [0])[0] for record in there),
        "masked_tokens": sum(int(sum(record["masked_lm_weights"])) for record in there),
        "truncated": expected.num_truncated,
        "dropped": expected.num_dropped,
        "document_tokens": len(all_documents.tokens),
        "unused_tokens": expected.num_unused,
        "sampled_records": len(there),
        "sampled_masks": counts["masked_tokens"],
        "wanted_masks": counts["masked_tokens"],
    }
    assert counts["masked_tokens"] > len(there)
    # One-word documents make no pair for sentence order prediction.
    assert (counts["dropped"] > 0) == (pairs == "sop")
    assert (counts["positive_labels"] > 0) == (pairs != "none")
    assert make(pairs=pairs, masking="dynamic", place="dynamic")[2] == counts | {"masked_tokens": 0}


@pytest.mark.parametrize("unit", schema.MASK_UNITS)
def test_masks_do_not_depend_on_the_batches(make, monkeypatch, unit):
    path, shard, counts = make(mask_unit=unit)
    for size in (1 << 20, 31):
        monkeypatch.setattr(shards, "_RECORDS_PER_BATCH", size)
        again, shard_again, counts_again = make(mask_unit=unit, place=str(size))
        assert again.read_bytes() == path.read_bytes()
        assert (shard_again, counts_again) == (shard, counts)


def test_progress_is_reported(tmp_path, all_documents, vocabulary, config, monkeypatch):
    monkeypatch.setattr(shards, "_RECORDS_PER_BATCH", 31)
    reports = []
    shard, _ = ShardMaker(vocabulary, config).make(
        all_documents, "train", 0, tmp_path, reports.append
    )
    assert sum(reports) == shard.records
    assert set(reports[:-1]) == {31}


def test_one_maker_makes_what_several_make(tmp_path, make, all_documents, vocabulary, config):
    maker = ShardMaker(vocabulary, config)
    for split, index in (("validation", 0), ("train", 0), ("train", 1)):
        shard, _ = maker.make(all_documents, split, index, tmp_path)
        assert make(split, index, place="alone")[1] == shard


def test_every_shard_of_every_split_has_draws_of_its_own(make):
    # With the same documents in all of them, nothing but the draws can make two shards differ.
    found = [
        make(split, index)
        for split, index in [("train", 0), ("train", 1), ("train", 2), ("validation", 0)]
    ]
    assert [path.name for path, _, _ in found] == [
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
        "validation-00000-of-00001.tfrecord",
    ]
    assert [shard.split for _, shard, _ in found] == ["train"] * 3 + ["validation"]
    texts = [[unmasked(record) for record in read_plain(path, 29, 5)] for path, _, _ in found]
    assert all(texts[i] != texts[j] for i in range(4) for j in range(i))


def test_masks_of_every_shard_are_its_own(make, all_documents):
    # Single segments of one whole document each: the same pairs and nothing to draw but their order
    # and the masks.
    masks = {}
    for split, index in [("train", 0), ("train", 1), ("validation", 0)]:
        path, *_ = make(
            split,
            index,
            pairs="none",
            sequence_length=257,
            max_predictions=5,
            short_sequence_probability=0.0,
            duplicates=1,
        )
        for record in examples(path):
            text = tuple(unmasked({name: np.array(values) for name, values in record.items()}))
            masks.setdefault(text, []).append(tuple(record["masked_lm_positions"]))
    assert len(masks) == len(all_documents)
    assert all(len(found) == 3 for found in masks.values())
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        same = sum(found[i] == found[j] for found in masks.values())
        assert same < len(masks) / 2


@pytest.mark.parametrize("masking", schema.MASKINGS)
def test_offsets_are_where_records_begin(make, monkeypatch, masking):
    monkeypatch.setattr(schema, "BLOCK_RECORDS", 13)
    monkeypatch.setattr(
        shards, "_RECORDS_PER_BATCH", 31
    )  # batches and blocks do not begin at the same records
    path, shard, _ = make(masking=masking)
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert len(shard.offsets) == -(-shard.records // 13) > 5
    content = path.read_bytes()
    for number, offset in enumerate(shard.offsets):
        size = int.from_bytes(content[offset : offset + 8], "little")
        assert content[offset + 12 : offset + 12 + size] == records[number * 13]
    assert shard.bytes == len(content)


@pytest.mark.parametrize("masking", schema.MASKINGS)
def test_compressed_shard_holds_the_same(make, masking):
    plain, shard, counts = make(masking=masking)
    path, compressed, counts_compressed = make(masking=masking, compression="gzip")
    assert path.name == "train-00001-of-00003.tfrecord.gz"
    assert gzip.decompress(path.read_bytes()) == plain.read_bytes()
    assert compressed.bytes == path.stat().st_size < shard.bytes
    assert (compressed.compression, compressed.offsets, compressed.records) == (
        "gzip",
        (),
        shard.records,
    )
    assert counts_compressed == counts
    assert examples(path, "GZIP") == examples(plain)
    # No time and no name, which would make equal records unequal files.
    assert path.read_bytes()[3:8] == bytes(5)


def test_manifest_tells_what_a_scan_finds(make):
    for compression in schema.COMPRESSIONS:
        path, shard, _ = make(compression=compression)
        assert scan_records(path) == (shard.records, shard.offsets, shard.compression)


def test_b_is_of_another_document_of_the_shard(make, documents, vocabulary):
    path, *_ = make(documents=Documents.of([[[5, 6], [7]], [[8], [9]]]), duplicates=31)
    for record in read_plain(path, 29, 5):
        a, b = parts(record)
        same = (max(a) <= 7) == (max(b) <= 7)
        assert record["next_sentence_labels"][0] == (not same)
