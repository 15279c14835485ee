import collections
import dataclasses
import gzip
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from plain_records import parts, read_plain

from tfrecords import (
    Manifest,
    RecordsConfig,
    Tokenizer,
    Vocabulary,
    build_records,
    load_manifest,
    manifest_of,
    read,
    reader,
)
from tfrecords.build.shards import ShardMaker
from tfrecords.documents import Documents
from tfrecords.masking import Masking
from tfrecords.schema import MASK_UNITS, Shard
from tfrecords.vocabulary import SPECIAL_TOKENS
from tfrecords.writer import write_shard

S, P = 7, 3


def features(numbers):
    """A record for each number, told by its first token: most arrays have no other value like
    it."""
    n = np.asarray(numbers, np.int32)[:, None]
    return {
        "input_ids": n * 100 + np.arange(S, dtype=np.int32),
        "input_mask": (np.arange(S) < 2 + n % 5).astype(np.int32),
        "segment_ids": (np.arange(S) > n % 5).astype(np.int32),
        "masked_lm_positions": n % 4 + np.arange(P, dtype=np.int32),
        "masked_lm_ids": n * 10 + np.arange(P, dtype=np.int32),
        "masked_lm_weights": (np.arange(P) <= n % 3).astype(np.float32),
        "next_sentence_labels": n % 2,
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Records 1 to 37 in three files of 17, 13 and 7."""
    directory = tmp_path_factory.mktemp("other tool é")
    paths = [directory / f"{name}.tfrecord" for name in "abc"]
    for path, numbers in zip(paths, (range(1, 18), range(18, 31), range(31, 38)), strict=True):
        write_shard(path, "train", [(features(numbers), None)])
    return paths


# A third of the pieces continue a word.
VOCABULARY = Vocabulary(SPECIAL_TOKENS + tuple(f"{'##' * (i % 3 == 0)}p{i}" for i in range(5, 997)))


def texts(numbers):
    """[CLS] n [SEP] n [SEP], with one to three tokens n + 5 behind the first [SEP], for each
    number; and the lengths."""
    n = np.asarray(numbers, np.int32)[:, None]
    lengths = 5 + n[:, 0] % 3
    ids = np.where(np.arange(S) < lengths[:, None], n + 5, 0)
    ids[:, 0], ids[:, 2] = VOCABULARY.cls_id, VOCABULARY.sep_id
    ids[np.arange(len(n)), lengths - 1] = VOCABULARY.sep_id
    return ids.astype(np.int32), lengths.astype(np.int32)


def made(
    directory, sizes, masking="static", compression="none", pairs="nsp", split="train", **config
):
    """A Manifest of records 1, 2, ... in shards of these sizes; the static ones have no masks."""
    directory.mkdir()
    VOCABULARY.save(directory / "vocab.txt")
    shards, first = [], 1
    for index, size in enumerate(sizes):
        ids, lengths = texts(range(first, first + size))
        inside = (np.arange(S) < lengths[:, None]).astype(np.int32)
        labels = {} if pairs == "none" else {"next_sentence_labels": lengths[:, None] % 2}
        if masking == "dynamic":
            batch = (
                {"input_ids": ids, "first_length": np.full([size, 1], 3, np.int32)} | labels,
                {"input_ids": lengths},
            )
        else:
            nothing = np.zeros([size, P], np.int32)
            batch = (
                {
                    "input_ids": ids,
                    "input_mask": inside,
                    "segment_ids": inside * (np.arange(S, dtype=np.int32) >= 3),
                    "masked_lm_positions": nothing,
                    "masked_lm_ids": nothing,
                    "masked_lm_weights": nothing.astype(np.float32),
                }
                | labels,
                None,
            )
        shards.append(write_shard(directory / f"{index}.tfrecord", split, [batch], compression))
        first += size
    config = {"mask_rate": 0.4, "num_shards": len(sizes)} | config
    manifest = Manifest(
        directory=directory,
        sequence_length=S,
        max_predictions=P,
        vocabulary_size=len(VOCABULARY),
        vocabulary_sha256=VOCABULARY.sha256,
        config=RecordsConfig(
            sequence_length=S,
            max_predictions=P,
            masking=masking,
            compression=compression,
            pairs=pairs,
            **config,
        ),
        shards=tuple(shards),
        counts={},
    )
    manifest.save()
    return load_manifest(directory)


@pytest.fixture
def small(monkeypatch):
    """Windows and blocks of a few records each, for records that are made and read in the test."""

    def set_sizes(window, block):
        monkeypatch.setattr("tfrecords.reader._WINDOW_RECORDS", window)
        monkeypatch.setattr("tfrecords.schema.BLOCK_RECORDS", block)

    return set_sizes


def numbers(dataset):
    """The numbers of the records in each batch."""
    return [(x["token_ids"][:, 0] // 100).tolist() for x, _, _ in dataset.as_numpy_iterator()]


def restored(x, y, sample_weight):
    """The token ids of a batch as they were before masking."""
    token_ids = x["token_ids"].copy()
    rows, slots = sample_weight["mlm"].nonzero()
    token_ids[rows, x["mask_positions"][rows, slots]] = y["mlm"][rows, slots]
    return token_ids


def made_numbers(dataset):
    """The numbers of the records in each batch, of records by `made`; 0 for what is filled up."""
    return [
        np.maximum(restored(*batch)[:, 1] - 5, 0).tolist() for batch in dataset.as_numpy_iterator()
    ]


def plain(batch):
    """A batch as one dict of lists, to compare."""
    return {
        (part, name): value.tolist()
        for part, values in zip("xyw", batch, strict=True)
        for name, value in values.items()
    }


def batches(dataset):
    return [plain(batch) for batch in dataset.as_numpy_iterator()]


def rows(dataset):
    """All rows of a dataset behind one another, as one dict of arrays."""
    all_batches = batches(dataset)
    return {key: np.concatenate([batch[key] for batch in all_batches]) for key in all_batches[0]}


def same(some, others):
    assert some.keys() == others.keys()
    for key, values in some.items():
        np.testing.assert_array_equal(values, others[key], err_msg=str(key))


def flat(batches):
    return [number for batch in batches for number in batch]


def test_batch_in_full(files):
    x, y, sample_weight = next(read(files, batch_size=2, shuffle=False).as_numpy_iterator())
    expected = (
        {
            "token_ids": [[100, 101, 102, 103, 104, 105, 106], [200, 201, 202, 203, 204, 205, 206]],
            "segment_ids": [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]],
            "padding_mask": [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]],
            "mask_positions": [[1, 2, 3], [2, 3, 4]],
        },
        {"mlm": [[10, 11, 12], [20, 21, 22]], "nsp": [1, 0]},
        {"mlm": [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], "nsp": [1.0, 1.0]},
    )
    got = tuple(
        {name: value.tolist() for name, value in part.items()} for part in (x, y, sample_weight)
    )
    assert got == expected


def test_shapes_are_static_and_names_are_those_of_keras_hub(files):
    for shuffle in (True, False):
        x, y, sample_weight = read(files, batch_size=5, shuffle=shuffle).element_spec
        assert {name: (tuple(spec.shape), spec.dtype) for name, spec in x.items()} == {
            "token_ids": ((5, S), tf.int32),
            "segment_ids": ((5, S), tf.int32),
            "padding_mask": ((5, S), tf.int32),
            "mask_positions": ((5, P), tf.int32),
        }
        assert {name: (tuple(spec.shape), spec.dtype) for name, spec in y.items()} == {
            "mlm": ((5, P), tf.int32),
            "nsp": ((5,), tf.int32),
        }
        assert {name: (tuple(spec.shape), spec.dtype) for name, spec in sample_weight.items()} == {
            "mlm": ((5, P), tf.float32),
            "nsp": ((5,), tf.float32),
        }


def test_every_record_as_parsed_by_hand(records, config):
    for split, shards in [("train", 3), ("validation", 1)]:
        paths = [
            records / f"{split}-{index:05d}-of-{shards:05d}.tfrecord" for index in range(shards)
        ]
        expected = [
            record
            for path in paths
            for record in read_plain(path, config.sequence_length, config.max_predictions)
        ]
        got = list(read(records, split, batch_size=1, shuffle=False).as_numpy_iterator())
        assert len(got) == len(expected) > 10
        for (x, y, sample_weight), record in zip(got, expected, strict=True):
            for value, name in [
                (x["token_ids"], "input_ids"),
                (x["segment_ids"], "segment_ids"),
                (x["padding_mask"], "input_mask"),
                (x["mask_positions"], "masked_lm_positions"),
                (y["mlm"], "masked_lm_ids"),
                (sample_weight["mlm"], "masked_lm_weights"),
            ]:
                assert value.tolist() == [record[name].tolist()]
            assert y["nsp"].tolist() == record["next_sentence_labels"].tolist()


def test_order_depends_on_seed_and_epoch_alone(files):
    dataset = read(files, batch_size=5, seed=3, epochs=2)
    first = numbers(dataset)
    assert first == numbers(dataset)
    assert first == numbers(read(manifest_of(files), batch_size=5, seed=3, epochs=2))
    assert first != numbers(read(files, batch_size=5, seed=4, epochs=2))
    one, two = flat(first[:7]), flat(first[7:])
    assert one != two
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 15
    assert one != sorted(one)


def test_order_and_masks_do_not_depend_on_global_seeds(tmp_path, global_seed):
    # A run that is resumed must see the same order all the same.
    manifest = made(tmp_path / "made", (11, 7, 5), "dynamic")
    first = batches(read(manifest, batch_size=5, seed=3, epochs=2))
    global_seed(1)
    assert batches(read(manifest, batch_size=5, seed=3, epochs=2)) == first
    keras.utils.set_random_seed(2)
    tf.random.uniform([3])
    assert batches(read(manifest, batch_size=5, seed=3, epochs=2)) == first


def test_order_does_not_depend_on_the_batch_size(tmp_path, small):
    small(window=6, block=4)
    manifest = made(tmp_path / "made", (11, 7, 5), "dynamic")
    one = rows(read(manifest, batch_size=1, seed=3, epochs=2))
    for size in (3, 7):
        whole = 23 // size * size
        some = rows(read(manifest, batch_size=size, seed=3, epochs=2))
        same(
            some,
            {
                key: np.concatenate([values[:whole], values[23 : 23 + whole]])
                for key, values in one.items()
            },
        )


def test_every_epoch_has_every_record_once(files):
    batches = numbers(read(files, batch_size=1, seed=5, epochs=3))
    for epoch in range(3):
        assert sorted(flat(batches[37 * epoch : 37 * (epoch + 1)])) == list(range(1, 38))


def test_records_that_do_not_fill_a_batch_wait_for_the_next_epoch(files):
    batches = numbers(read(files, batch_size=5, seed=5, epochs=50))
    assert len(batches) == 50 * 7
    for epoch in range(50):
        there = flat(batches[7 * epoch : 7 * (epoch + 1)])
        assert len(set(there)) == len(there) == 35
    # Another two each time: each record is left out of an epoch with p = 2/37, of 50 epochs with p
    # = 10 ** -63.
    counts = collections.Counter(flat(batches))
    assert set(counts) == set(range(1, 38))
    # Four standard deviations of a binomial of n = 50 and p = 35/37: 6.4.
    assert all(abs(count - 50 * 35 / 37) < 6.4 for count in counts.values())


def test_shuffling_mixes_all_records_of_a_window(tmp_path):
    # 30 epochs of 3 shards of 300 records, in one window: all orders of the 900 are alike.
    sizes, epochs = (300, 300, 300), 30
    manifest = made(tmp_path / "made", sizes)
    order = (
        np.reshape(
            made_numbers(read(manifest, batch_size=900, seed=1, epochs=epochs)), [epochs, 900]
        )
        - 1
    )
    assert (np.sort(order, axis=1) == np.arange(900)).all()
    # Of the first 300, those of one shard are hypergeometric: mean 100, and a variance of 300 / 9 *
    # 2 * 600 / 899.
    for shard in range(3):
        there = (order[:, :300] // 300 == shard).sum(axis=1)
        assert abs(there - 100).max() < 4.5 * (300 * 2 / 9 * 600 / 899) ** 0.5
        assert abs(there.mean() - 100) < 4.5 * (300 * 2 / 9 * 600 / 899 / epochs) ** 0.5
    # The mean of a record's position has the variance 900 ** 2 / 12 / epochs; of 900 the largest is
    # within 4.5 deviations.
    mean_positions = np.argsort(order, axis=1).mean(axis=0)
    assert abs(mean_positions - 449.5).max() < 4.5 * 900 / (12 * epochs) ** 0.5
    # A record is followed by its neighbour once in an epoch: a Poisson variable of mean 30.
    assert (np.diff(order, axis=1) == 1).sum() < 30 + 4.5 * 30**0.5
    # Two epochs have as many records in the same place, on average one.
    assert (order[1:] == order[:-1]).sum() < 29 + 4.5 * 29**0.5


def test_shuffling_in_small_windows_mixes_the_shards(tmp_path, small):
    small(window=60, block=10)
    epochs = 30
    manifest = made(tmp_path / "made", (300, 300, 300))
    order = (
        np.reshape(
            made_numbers(read(manifest, batch_size=900, seed=1, epochs=epochs)), [epochs, 900]
        )
        - 1
    )
    assert (np.sort(order, axis=1) == np.arange(900)).all()
    # A window is 6 blocks of 90: it has them of all shards but with p = 3 * (2 / 3) ** 6 = 0.26 at
    # most.
    windows = order.reshape([epochs * 15, 60]) // 300
    mixed = np.mean([len(set(window)) == 3 for window in windows.tolist()])
    assert mixed > 0.74 - 4.5 * (0.26 * 0.74 / (epochs * 15)) ** 0.5
    # The position of a block is uniform in 90 places, so its mean over epochs has the variance 90
    # ** 2 / 12 / epochs.
    blocks = np.argsort(order, axis=1).reshape([epochs, 90, 10]).mean(axis=(0, 2))
    assert abs(blocks - 449.5).max() < 4.5 * 900 / (12 * epochs) ** 0.5
    # In a window, 9 of the 59 others are of a record's own block; a neighbour is of it with p = 9 /
    # 59, not always.
    own = (np.diff(order.reshape([-1, 60]) // 10, axis=1) == 0).mean()
    assert abs(own - 9 / 59) < 0.02


@pytest.mark.parametrize(
    ("masking", "compression", "shuffle", "epochs"),
    [("static", "none", True, 3), ("dynamic", "gzip", True, 1), ("dynamic", "none", False, 1)],
)
def test_every_start_step_gives_the_rest(tmp_path, small, masking, compression, shuffle, epochs):
    small(window=6, block=4)
    manifest = made(tmp_path / "made", (11, 7, 5), masking, compression)
    whole = batches(read(manifest, batch_size=7, seed=3, epochs=epochs, shuffle=shuffle))
    assert len(whole) == (3 if shuffle else 4) * epochs
    for step in range(len(whole) + 1):
        rest = read(manifest, batch_size=7, seed=3, epochs=epochs, shuffle=shuffle, start_step=step)
        assert rest.cardinality().numpy() == len(whole) - step
        assert batches(rest) == whole[step:]


@pytest.mark.parametrize(
    ("window", "block", "compression", "shuffle"),
    [
        (1, 5, "none", True),
        (3, 1, "none", True),
        (6, 4, "none", True),
        (7, 3, "none", True),
        (4, 100, "none", True),
        (100, 4, "none", True),
        (6, 100, "gzip", True),
        (6, 4, "none", False),
        (6, 100, "gzip", False),
    ],
)
def test_every_number_of_records_can_be_passed_over(
    tmp_path, small, window, block, compression, shuffle
):
    small(window, block)
    blocks = reader._blocks(
        made(tmp_path / "made", (11, 1, 0, 7, 5), compression=compression), "train"
    )

    def rest(skipped):
        return (
            reader._epoch(blocks, skipped, 3, tf.constant(1, tf.int64), shuffle).unbatch().batch(24)
        )

    found = [
        list(zip(serialized.tolist(), keys.tolist(), strict=True))
        for serialized, keys in tf.data.Dataset.range(24).flat_map(rest).as_numpy_iterator()
    ]
    whole = found[0]
    assert len(set(whole)) == 24
    for skipped in range(24):
        assert found[skipped] == whole[skipped:]


@pytest.mark.long
def test_start_steps_of_many_records(tmp_path):
    """100,003 records, four windows of the size that they have in use: from within, the border of
    and behind a window."""
    paths = [tmp_path / name for name in "abc"]
    for path, (first, last) in zip(
        paths, [(1, 50_000), (50_000, 50_001), (50_001, 100_004)], strict=True
    ):
        write_shard(path, "train", [(features(range(first, last)), None)])
    manifest = manifest_of(paths)
    assert [len(shard.offsets) for shard in manifest.shards] == [13, 1, 13]
    whole = numbers(read(manifest, batch_size=997, seed=3, epochs=2))
    assert len(whole) == 200
    assert len(set(flat(whole[:100]))) == len(set(flat(whole[100:]))) == 99_700
    for step in (33, 166):
        assert (
            numbers(read(manifest, batch_size=997, seed=3, epochs=2, start_step=step))
            == whole[step:]
        )


def damage(path, start, end):
    content = bytearray(path.read_bytes())
    content[start + 12 : end] = bytes(byte ^ 255 for byte in content[start + 12 : end])
    path.write_bytes(content)


@pytest.mark.parametrize("shuffle", [True, False])
def test_blocks_before_the_start_are_not_read(tmp_path, small, monkeypatch, shuffle):
    small(window=6, block=4)
    manifest = made(tmp_path / "made", (11, 7, 5))
    settings = {"seed": 3, "shuffle": shuffle, "epochs": 2}
    whole = batches(read(manifest, batch_size=3, **settings))
    steps = len(whole) // 2
    monkeypatch.setattr("tfrecords.reader._WINDOW_RECORDS", 1)
    # With windows of one record each, an epoch shows the order of its blocks.
    order = flat(made_numbers(read(manifest, batch_size=1, start_step=23, **settings)))
    monkeypatch.setattr("tfrecords.reader._WINDOW_RECORDS", 6)
    block_of, first, places = {}, 1, {}
    for index, shard in enumerate(manifest.shards):
        ends = [*shard.offsets[1:], shard.bytes]
        for number in range(shard.records):
            block_of[first + number] = block = index, number // 4
            places[block] = shard.offsets[number // 4], ends[number // 4]
        first += shard.records
    for step in (4, 7):
        begin = step * 3 // 6 * 6
        unread = {block_of[number] for number in order[:begin]} - {
            block_of[number] for number in order[begin:]
        }
        copy = dataclasses.replace(manifest, directory=tmp_path / str(step))
        shutil.copytree(manifest.directory, copy.directory)
        for index, number in unread:
            damage(copy.directory / f"{index}.tfrecord", *places[index, number])
        assert (
            batches(read(copy, batch_size=3, start_step=steps + step, **settings))
            == whole[steps + step :]
        )
        assert unread
    # What comes before cannot be read, so it was not.
    with pytest.raises(tf.errors.DataLossError):
        batches(read(copy, batch_size=3, start_step=steps, **settings))


@pytest.mark.parametrize(("compression", "seed"), [("none", 0), ("gzip", 1)])
def test_shard_before_the_start_may_be_gone(tmp_path, small, monkeypatch, compression, seed):
    small(window=1, block=100)
    manifest = made(tmp_path / "made", (5, 10, 5), compression=compression)
    first = made_numbers(read(manifest, batch_size=1, seed=seed).take(1))[0][0]
    index = (first > 5) + (first > 15)
    monkeypatch.setattr("tfrecords.reader._WINDOW_RECORDS", 5)
    whole = batches(read(manifest, batch_size=5, seed=seed))
    (manifest.directory / f"{index}.tfrecord").unlink()
    step = 2 if index == 1 else 1
    assert batches(read(manifest, batch_size=5, seed=seed, start_step=step)) == whole[step:]
    with pytest.raises(tf.errors.NotFoundError):
        batches(read(manifest, batch_size=5, seed=seed))


def test_without_end_the_epochs_follow_one_another(files):
    whole = numbers(read(files, batch_size=5, seed=3, epochs=4))
    assert numbers(read(files, batch_size=5, seed=3, epochs=None).take(28)) == whole
    assert (
        numbers(read(files, batch_size=5, seed=3, epochs=None, start_step=16).take(12))
        == whole[16:]
    )


def test_without_end_fit_is_told_so(files):
    # Keras then asks for steps_per_epoch; with an unknown length it would never end the first
    # epoch.
    assert (
        read(files, batch_size=5, epochs=None).cardinality().numpy() == tf.data.INFINITE_CARDINALITY
    )


def test_start_step_beyond_the_end_leaves_nothing(files):
    rest = read(files, batch_size=5, epochs=2, start_step=23)
    assert rest.cardinality().numpy() == 0
    assert numbers(rest) == []


def test_unshuffled_every_record_comes_once_and_the_last_batch_is_filled_with_weight_zero(files):
    dataset = read(files, batch_size=11, shuffle=False)
    assert dataset.cardinality().numpy() == 4
    batches = list(dataset.as_numpy_iterator())
    assert flat(numbers(dataset)) == [*range(1, 38), *[0] * 7]
    x, y, sample_weight = batches[-1]
    assert sample_weight["nsp"].tolist() == [1.0] * 4 + [0.0] * 7
    assert not any(value[4:].any() for part in (x, y, sample_weight) for value in part.values())
    assert all((weight["nsp"] == 1).all() for _, _, weight in batches[:-1])


def test_validation_split_is_not_shuffled_and_whole(records):
    manifest = load_manifest(records)
    n = manifest.num_records("validation")
    batches = list(read(records, "validation", batch_size=7).as_numpy_iterator())
    assert n % 7 != 0
    assert len(batches) == -(-n // 7)
    assert sum(weight["nsp"].sum() for _, _, weight in batches) == n
    paths = manifest.files("validation")
    expected = [
        record["input_ids"].tolist() for path in paths for record in read_plain(path, 29, 5)
    ]
    assert [row for x, _, _ in batches for row in x["token_ids"].tolist()][:n] == expected


def test_batch_larger_than_the_validation_split_is_filled_up(records):
    n = load_manifest(records).num_records("validation")
    ((x, _, weight),) = read(records, "validation", batch_size=n + 3).as_numpy_iterator()
    assert weight["nsp"].tolist() == [1.0] * n + [0.0] * 3
    assert x["token_ids"].shape == (n + 3, 29)


def test_too_few_records_are_refused(files, records, refused):
    assert numbers(read(files, batch_size=37))[0] != list(range(1, 38))
    with refused(
        r"Expected at least 38 records in the split 'train' of .*\. Received: 37; make more "
        r"records or take a smaller batch size"
    ):
        read(files, batch_size=38)
    with refused(r"Expected at least 1 records in the split 'validation' of .*\. Received: 0;"):
        read(files, "validation", batch_size=1)
    with refused(r"Expected a split among train, validation\. Received: 'test'"):
        read(records, "test", batch_size=1)
    for size in (0, -1):
        with refused(rf"Expected a batch size of at least 1\. Received: {size}"):
            read(files, batch_size=size)


def test_negative_start_step_is_refused(files, refused):
    with refused(r"xpected .*start.* Received: -1"):
        read(files, batch_size=5, epochs=2, start_step=-1)


def test_files_by_another_tool_are_described(files, tmp_path):
    manifest = manifest_of(files)
    assert (manifest.sequence_length, manifest.max_predictions) == (S, P)
    assert (manifest.vocabulary_size, manifest.config) == (None, None)
    assert manifest.files("train") == [str(path) for path in files]
    assert [shard.records for shard in manifest.shards] == [17, 13, 7]
    assert manifest.shards[0] == Shard(
        name=str(files[0]),
        split="train",
        records=17,
        bytes=files[0].stat().st_size,
        sha256="",
        offsets=(0,),
    )
    assert manifest_of(manifest) is manifest


def test_one_file_a_pattern_and_a_list_in_its_own_order(files):
    folder = files[0].parent
    assert (
        manifest_of(files[1]).files("train")
        == manifest_of(str(files[1])).files("train")
        == [str(files[1])]
    )
    assert flat(numbers(read(f"{folder}/*.tfrecord", batch_size=1, shuffle=False))) == list(
        range(1, 38)
    )
    assert flat(numbers(read([files[2], str(files[0])], batch_size=1, shuffle=False))) == [
        *range(31, 38),
        *range(1, 18),
    ]


def test_relative_name_is_read_from_where_one_is(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    manifest = manifest_of(["b.tfrecord"])
    monkeypatch.chdir("/")
    assert flat(numbers(read(manifest, batch_size=1, shuffle=False))) == list(range(18, 31))


def test_name_may_look_like_a_pattern(tmp_path):
    path = tmp_path / "train[1].tfrecord"
    write_shard(path, "train", [(features([7]), None)])
    assert flat(numbers(read(path, batch_size=1))) == [7]


def test_files_that_are_no_records_are_refused(tmp_path, files, refused):
    (tmp_path / "text.tfrecord").write_text("This is no record. " * 7)
    (tmp_path / "empty.tfrecord").touch()
    with tf.io.TFRecordWriter(str(tmp_path / "junk.tfrecord")) as writer:
        writer.write(b"\xff\xff\xff")
    some = features([1])
    del some["segment_ids"], some["masked_lm_weights"]
    write_shard(tmp_path / "lacking.tfrecord", "train", [(some, None)])
    for name, pattern in [
        (
            "text",
            r"text\.tfrecord: expected TFRecords of tf\.train\.Example\. Received: .*corrupted "
            r"record",
        ),
        ("junk", r"junk\.tfrecord: expected TFRecords of tf\.train\.Example\. Received: .*pars"),
        (
            "empty",
            r"empty\.tfrecord: expected records with input_ids, .*\. Received: records without "
            r"input_ids,",
        ),
        (
            "lacking",
            r"lacking\.tfrecord: .*\. Received: records without segment_ids, masked_lm_weights\.$",
        ),
    ]:
        with refused(pattern):
            read(tmp_path / f"{name}.tfrecord", batch_size=1)
    with refused(r"Expected files of records\. Received: .*none\.tfrecord, which is no file"):
        read([files[0], tmp_path / "none.tfrecord"], batch_size=1)
    with refused(r"Expected files of records\. Received: none"):
        read([], batch_size=1)
    with refused(
        r"Expected a directory of records\. Received: .*none\.tfrecord, which is no directory"
    ):
        read(tmp_path / "none.tfrecord", batch_size=1)


def cut(content):
    return content[:-7]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_file_that_is_cut_is_named_before_anything_is_read(tmp_path, files, refused):
    broken = tmp_path / "broken.tfrecord"
    for content in (cut(files[1].read_bytes()), cut(gzip.compress(files[1].read_bytes()))):
        broken.write_bytes(content)
        with refused(
            r"broken\.tfrecord: .*xpected .*Received: a file that is cut or damaged in record "
            r"1[0-9]\."
        ):
            manifest_of([files[0], broken])


def test_first_record_that_is_damaged_is_named_before_anything_is_read(tmp_path, files, refused):
    for content in (files[2].read_bytes()[:150], gzip.compress(files[2].read_bytes())[:50]):
        (tmp_path / "broken.tfrecord").write_bytes(flipped(content))
        with refused(r"broken\.tfrecord: expected TFRecords of tf\.train\.Example\. Received: "):
            manifest_of(tmp_path / "broken.tfrecord")


def test_flipped_bit_stops_reading(tmp_path, files):
    (tmp_path / "broken.tfrecord").write_bytes(flipped(files[1].read_bytes()))
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        numbers(read(tmp_path / "broken.tfrecord", batch_size=1))


def foreign(path, records, compression=None):
    """Records by TensorFlow's own hand, each a dict of lists; floats are a float list."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            feature = {
                name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
                if isinstance(values[0], float)
                else tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in record.items()
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            )
    return path


def listed(number):
    return {name: values[0].tolist() for name, values in features([number]).items()}


@pytest.fixture
def mixed(tmp_path):
    """Records 1 to 23 by TensorFlow's own hand, in a plain file, a gzip file and another plain
    one."""
    return [
        foreign(tmp_path / "a.tfrecord", map(listed, range(1, 12))),
        foreign(tmp_path / "b.tfrecord", map(listed, range(12, 19)), "GZIP"),
        foreign(tmp_path / "c.tfrecord", map(listed, range(19, 24))),
    ]


def test_records_by_tensorflow_plain_and_gzip(mixed, small):
    small(window=6, block=4)
    manifest = manifest_of(f"{mixed[0].parent}/?.tfrecord")
    assert [
        (shard.records, len(shard.offsets), shard.compression) for shard in manifest.shards
    ] == [
        (11, 3, "none"),
        (7, 0, "gzip"),
        (5, 2, "none"),
    ]
    whole = batches(read(manifest, batch_size=5, seed=3, epochs=2, vocabulary_size=10_000))
    order = flat([[row[0] // 100 for row in batch["x", "token_ids"]] for batch in whole])
    assert len(set(order[:20])) == len(set(order[20:])) == 20
    assert order[:20] != sorted(order[:20]) != order[20:]
    assert (
        batches(
            read(manifest, batch_size=5, seed=3, epochs=2, vocabulary_size=10_000, start_step=3)
        )
        == whole[3:]
    )
    assert flat(numbers(read(mixed[1], batch_size=7, shuffle=False))) == list(range(12, 19))
    # What they hold is what our own writer's records hold.
    row = rows(read(mixed[0], batch_size=11, shuffle=False))
    expected = features(range(1, 12))
    for key, name in [
        (("x", "token_ids"), "input_ids"),
        (("x", "segment_ids"), "segment_ids"),
        (("x", "padding_mask"), "input_mask"),
        (("x", "mask_positions"), "masked_lm_positions"),
        (("y", "mlm"), "masked_lm_ids"),
        (("w", "mlm"), "masked_lm_weights"),
    ]:
        np.testing.assert_array_equal(row[key], expected[name])


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (
            {"input_ids": [1.0] * S},
            rf"expected input_ids as int64_list of {S}\. Received: float_list of {S}\.$",
        ),
        (
            {"masked_lm_weights": [1] * P},
            rf"expected masked_lm_weights as float_list of {P}\. Received: int64_list of {P}\.$",
        ),
        (
            {"next_sentence_labels": [0.0]},
            r"expected next_sentence_labels as int64_list of 1\. Received: float_list of 1\.$",
        ),
        (
            {"next_sentence_labels": [0, 1]},
            r"expected next_sentence_labels as int64_list of 1\. Received: int64_list of 2\.$",
        ),
        (
            {"segment_ids": [0] * 5},
            rf"expected segment_ids as int64_list of {S}\. Received: int64_list of 5\.$",
        ),
        (
            {"masked_lm_positions": [1] * 4},
            rf"expected masked_lm_positions as int64_list of {P}\. Received: int64_list of 4\.$",
        ),
    ],
)
def test_first_record_of_other_kinds_or_lengths_is_refused(tmp_path, refused, change, pattern):
    with refused(r"a\.tfrecord: " + pattern):
        manifest_of(foreign(tmp_path / "a.tfrecord", [listed(1) | change]))


def test_first_record_without_values_is_refused(tmp_path, refused):
    example = tf.train.Example()
    for name in listed(1):
        example.features.feature[name].int64_list.SetInParent()
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    with refused(
        r"a\.tfrecord: expected input_ids as int64_list of 1\. Received: int64_list of 0\."
    ):
        manifest_of(tmp_path / "a.tfrecord")


def test_later_record_of_another_length_stops_reading(tmp_path):
    path = foreign(tmp_path / "a.tfrecord", [listed(1), listed(2) | {"input_ids": [1] * 5}])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"Key: input_ids.*Number of int64 values != expected"
    ):
        numbers(read(path, batch_size=1, shuffle=False))


@pytest.mark.parametrize(
    ("name", "wrong", "vocabulary_size", "limit"),
    [
        ("input_ids", 997, 997, "996"),
        ("input_ids", -1, 997, "996"),
        ("input_ids", (1 << 32) + 5, 997, "996"),  # as an int32, it would be a 5
        ("input_ids", -1, None, "2,147,483,646"),
        ("input_ids", (1 << 32) + 5, None, "2,147,483,646"),
        ("masked_lm_ids", 997, 997, "996"),
        ("masked_lm_ids", -1, 997, "996"),
        ("masked_lm_positions", S, 997, "6"),
        ("masked_lm_positions", -1, 997, "6"),
        ("segment_ids", 2, 997, "1"),
        ("input_mask", 2, 997, "1"),
        ("next_sentence_labels", 2, 997, "1"),
    ],
)
def test_ids_and_positions_out_of_range_stop_reading(tmp_path, name, wrong, vocabulary_size, limit):
    bad = listed(2)
    bad[name] = [*bad[name][:-1], wrong]
    path = foreign(tmp_path / "a.tfrecord", [listed(1), bad])
    some = read(
        path, batch_size=1, shuffle=False, vocabulary_size=vocabulary_size
    ).as_numpy_iterator()
    assert next(some)[0]["token_ids"].tolist() == [listed(1)["input_ids"]]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(some)
    assert f"{tmp_path}: expected {name} from 0 to {limit}. Received:] [{wrong}]" in str(
        caught.value
    )


def test_largest_ids_and_positions_are_read(tmp_path):
    most = {
        "input_ids": [996] * S,
        "masked_lm_ids": [996] * P,
        "masked_lm_positions": [S - 1] * P,
        "segment_ids": [1] * S,
    }
    path = foreign(tmp_path / "a.tfrecord", [listed(1) | most])
    ((x, y, _),) = read(path, batch_size=1, vocabulary_size=997).as_numpy_iterator()
    assert x["token_ids"].tolist() == [[996] * S]
    assert x["mask_positions"].tolist() == [[S - 1] * P]
    assert y["mlm"].tolist() == [[996] * P]


@pytest.mark.parametrize("pairs", ["nsp", "sop", "none"])
@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_batch_of_every_kind_of_pairs_and_masks_in_full(tmp_path, masking, pairs):
    manifest = made(tmp_path / "made", (2, 1), masking, pairs=pairs, mask_rate=0.0)
    dataset = read(manifest, batch_size=5, shuffle=False)
    (batch,) = dataset.as_numpy_iterator()
    nsp = (
        ({"nsp": [0, 1, 1, 0, 0]}, {"nsp": [1.0, 1.0, 1.0, 0.0, 0.0]})
        if pairs != "none"
        else ({}, {})
    )
    expected = (
        {
            "token_ids": [
                [2, 6, 3, 6, 6, 3, 0],
                [2, 7, 3, 7, 7, 7, 3],
                [2, 8, 3, 8, 3, 0, 0],
                [0] * S,
                [0] * S,
            ],
            "segment_ids": [
                [0, 0, 0, 1, 1, 1, 0],
                [0, 0, 0, 1, 1, 1, 1],
                [0, 0, 0, 1, 1, 0, 0],
                [0] * S,
                [0] * S,
            ],
            "padding_mask": [
                [1, 1, 1, 1, 1, 1, 0],
                [1, 1, 1, 1, 1, 1, 1],
                [1, 1, 1, 1, 1, 0, 0],
                [0] * S,
                [0] * S,
            ],
            "mask_positions": [[0] * P] * 5,
        },
        {"mlm": [[0] * P] * 5} | nsp[0],
        {"mlm": [[0.0] * P] * 5} | nsp[1],
    )
    assert (
        tuple({name: value.tolist() for name, value in part.items()} for part in batch) == expected
    )
    x, y, sample_weight = dataset.element_spec
    assert {name: (tuple(spec.shape), spec.dtype) for name, spec in x.items()} == {
        "token_ids": ((5, S), tf.int32),
        "segment_ids": ((5, S), tf.int32),
        "padding_mask": ((5, S), tf.int32),
        "mask_positions": ((5, P), tf.int32),
    }
    labels = {"nsp": ((5,), tf.int32)} if pairs != "none" else {}
    weights = {"nsp": ((5,), tf.float32)} if pairs != "none" else {}
    assert {name: (tuple(spec.shape), spec.dtype) for name, spec in y.items()} == {
        "mlm": ((5, P), tf.int32)
    } | labels
    assert {name: (tuple(spec.shape), spec.dtype) for name, spec in sample_weight.items()} == {
        "mlm": ((5, P), tf.float32)
    } | weights


def test_masks_drawn_in_reading_are_of_the_seed_and_the_epoch(tmp_path):
    manifest = made(tmp_path / "made", (37, 20), "dynamic")

    def masks(seed):
        """Which positions of every record are predicted, by number, in each of two epochs."""
        row = rows(read(manifest, batch_size=57, seed=seed, epochs=2))
        ids = restored(*({name: row[part, name] for p, name in row if p == part} for part in "xyw"))
        same({"ids": np.sort(ids, axis=0)[:, 1]}, {"ids": np.repeat(np.arange(1, 58) + 5, 2)})
        where = [
            frozenset(positions[used > 0].tolist())
            for positions, used in zip(row["x", "mask_positions"], row["w", "mlm"], strict=True)
        ]
        return [
            dict(zip((ids[some, 1] - 5).tolist(), where[some], strict=True))
            for some in (slice(57), slice(57, 114))
        ]

    one, two = masks(seed=3)
    assert masks(seed=3) == [one, two]
    assert all(1 <= len(one[number]) <= P for number in one)
    # Two or three of three to five positions: two draws are the same with p = 1 / 3 at most, in 57
    # records 19 +- 4 * 3.6.
    for others in (two, masks(seed=4)[0]):
        assert sum(one[number] == others[number] for number in one) < 34


def test_masks_in_validation_are_the_same_in_every_epoch_and_batch(tmp_path, small):
    small(window=6, block=4)
    manifest = made(tmp_path / "made", (11, 7, 5), "dynamic", split="validation")
    one = rows(read(manifest, "validation", batch_size=1, epochs=2))
    assert one["w", "mlm"].any()
    first, second = (
        {key: values[some] for key, values in one.items()} for some in (slice(23), slice(23, 46))
    )
    same(first, second)
    same(
        {
            key: values[:23]
            for key, values in rows(read(manifest, "validation", batch_size=7)).items()
        },
        first,
    )
    other = rows(read(manifest, "validation", batch_size=23, seed=1))
    assert (other["x", "mask_positions"] != first["x", "mask_positions"]).any()


def test_masked_in_reading_or_in_writing_it_is_the_same_text(
    tmp_path, corpus, vocabulary, config, records
):
    build_records(
        [corpus], vocabulary, tmp_path / "dynamic", dataclasses.replace(config, masking="dynamic")
    )
    manifest = load_manifest(tmp_path / "dynamic")
    number = manifest.num_records("train")
    (masked,) = read(tmp_path / "dynamic", batch_size=number, shuffle=False).as_numpy_iterator()
    (written,) = read(records, batch_size=number, shuffle=False).as_numpy_iterator()
    assert restored(*masked).tolist() == restored(*written).tolist()
    for part, name in [(0, "segment_ids"), (0, "padding_mask"), (1, "nsp"), (2, "nsp"), (2, "mlm")]:
        assert masked[part][name].tolist() == written[part][name].tolist()
    assert (masked[0]["mask_positions"] != written[0]["mask_positions"]).any()


@pytest.mark.parametrize("unit", MASK_UNITS)
def test_masks_drawn_in_reading_or_in_writing_have_the_same_statistics(tmp_path, unit):
    draw = np.random.default_rng(5)
    documents = Documents.of(
        [
            [draw.integers(5, 997, draw.integers(1, 14)) for _ in range(draw.integers(2, 8))]
            for _ in range(211)
        ]
    )
    config = RecordsConfig(
        sequence_length=31,
        max_predictions=P + 2,
        duplicates=3,
        mask_unit=unit,
        num_shards=1,
        validation_fraction=0.0,
    )
    found = {}
    for masking in ("static", "dynamic"):
        config = dataclasses.replace(config, masking=masking)
        directory = tmp_path / masking
        directory.mkdir()
        VOCABULARY.save(directory / "vocab.txt")
        shard, counts = ShardMaker(VOCABULARY, config).make(documents, "train", 0, directory)
        manifest = Manifest(
            directory=directory,
            sequence_length=31,
            max_predictions=P + 2,
            vocabulary_size=len(VOCABULARY),
            vocabulary_sha256=VOCABULARY.sha256,
            config=config,
            shards=(shard,),
            counts={"train": counts},
        )
        (batch,) = read(manifest, batch_size=shard.records, shuffle=False).as_numpy_iterator()
        found[masking] = x, y, weight = batch
        used = weight["mlm"] > 0
        assert used.sum() > 2000
        labels = y["mlm"][used]
        shown = np.take_along_axis(x["token_ids"], x["mask_positions"], axis=1)[used]
        # A random token may be [MASK] or the label by chance.
        chance = 0.1 / len(VOCABULARY)
        for share, expected in [
            ((shown == VOCABULARY.mask_id).mean(), 0.8 + chance),
            ((shown == labels).mean(), 0.1 + chance),
            (((shown != VOCABULARY.mask_id) & (shown != labels)).mean(), 0.1 - 2 * chance),
        ]:
            assert abs(share - expected) < 4.5 * (expected * (1 - expected) / used.sum()) ** 0.5
    static, dynamic = found["static"], found["dynamic"]
    assert restored(*static).tolist() == restored(*dynamic).tolist()
    predicted = [weight["mlm"].sum(axis=1) for _, _, weight in (static, dynamic)]
    difference = predicted[0] - predicted[1]
    assert abs(difference.mean()) <= 4.5 * difference.std() / len(difference) ** 0.5
    if unit == "token":
        masking = Masking.of(VOCABULARY, config)
        expected = [
            masking.num_predictions(length)
            for length in static[0]["padding_mask"].sum(axis=1).tolist()
        ]
        assert predicted[0].tolist() == predicted[1].tolist() == expected


def pipelines(manifest, number, batch_size, replicas=None, **settings):
    """The batches of all input pipelines, the rows of their replicas put together in order."""
    each = (replicas or number) // number
    shares = [
        batches(
            read(
                manifest,
                batch_size=batch_size,
                input_context=tf.distribute.InputContext(
                    num_input_pipelines=number,
                    input_pipeline_id=index,
                    num_replicas_in_sync=replicas or number,
                ),
                **settings,
            )
        )
        for index in range(number)
    ]
    assert all(
        len(share["y", "mlm"]) == batch_size // number // each for some in shares for share in some
    )
    steps = [[some[first : first + each] for first in range(0, len(some), each)] for some in shares]
    return [
        {key: flat(share[key] for some in step for share in some) for key in step[0][0]}
        for step in zip(*steps, strict=True)
    ]


def test_pipelines_share_the_global_batches(tmp_path, small):
    small(window=6, block=4)
    manifest = made(tmp_path / "made", (11, 7, 5))
    whole = batches(read(manifest, batch_size=6, seed=3, epochs=2))
    for number, replicas in [(1, 6), (2, 6), (3, 3)]:
        assert pipelines(manifest, number, 6, replicas, seed=3, epochs=2) == whole
    # Resumed with another number of replicas, it is the same stream.
    assert pipelines(manifest, 2, 6, 2, seed=3, epochs=2, start_step=4) == whole[4:]


def test_more_pipelines_than_shards(tmp_path):
    manifest = made(tmp_path / "made", (11, 12))
    assert pipelines(manifest, 3, 3, seed=3) == batches(read(manifest, batch_size=3, seed=3))


def test_pipelines_share_a_batch_that_is_filled_up(tmp_path):
    # Of the last batch, 5 records of 9: the third pipeline has none.
    manifest = made(tmp_path / "made", (11, 7, 5), "dynamic")
    whole = pipelines(manifest, 3, 9, shuffle=False)
    assert whole == batches(read(manifest, batch_size=9, shuffle=False))
    assert whole[-1]["w", "nsp"] == [1.0] * 5 + [0.0] * 4


@pytest.mark.parametrize(
    ("batch_size", "replicas", "number", "nearest"),
    [
        (10, 4, 2, 8),
        (11, 4, 1, 12),
        (1, 4, 1, 4),
        (8, 2, 3, 6),
        (10, 2, 3, 12),
        (7, 1, 2, 8),
        (3, 8, 8, 8),
    ],
)
def test_batch_that_cannot_be_shared_is_refused(
    files, refused, batch_size, replicas, number, nearest
):
    context = tf.distribute.InputContext(
        num_input_pipelines=number, input_pipeline_id=0, num_replicas_in_sync=replicas
    )
    with refused(
        rf"Expected a batch size that {replicas} replicas and {number} input pipelines can share\. "
        rf"Received: {batch_size}; take {nearest}\."
    ):
        read(files, batch_size=batch_size, input_context=context)


def test_records_of_the_model_gardens_script(tmp_path, corpus, documents, vocabulary):
    """create_pretraining_data of tf-models-official, as it is, writes; we read."""
    vocabulary.save(tmp_path / "vocab.txt")
    outputs = [tmp_path / "one.tfrecord", tmp_path / "two.tfrecord"]
    subprocess.run(
        [
            *[
                sys.executable,
                "-m",
                "official.nlp.data.create_pretraining_data",
                f"--input_file={corpus}",
            ],
            *[
                f"--vocab_file={tmp_path / 'vocab.txt'}",
                f"--output_file={outputs[0]},{outputs[1]}",
                "--max_seq_length=29",
            ],
            *["--max_predictions_per_seq=5", "--dupe_factor=3", "--random_seed=7"],
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    expected = [record for path in outputs for record in read_plain(path, 29, 5)]
    got = list(read(f"{tmp_path}/*.tfrecord", batch_size=1, shuffle=False).as_numpy_iterator())
    assert len(got) == len(expected) > 100
    for (x, y, sample_weight), record in zip(got, expected, strict=True):
        assert x["token_ids"][0].tolist() == record["input_ids"].tolist()
        assert x["segment_ids"][0].tolist() == record["segment_ids"].tolist()
        assert x["padding_mask"][0].tolist() == record["input_mask"].tolist()
        assert x["mask_positions"][0].tolist() == record["masked_lm_positions"].tolist()
        assert y["mlm"][0].tolist() == record["masked_lm_ids"].tolist()
        assert y["nsp"].tolist() == record["next_sentence_labels"].tolist()
        assert sample_weight["mlm"][0].tolist() == record["masked_lm_weights"].tolist()
        # Its label means what ours means, and its tokens are ours: B goes on where A ends, or comes
        # from elsewhere.
        a, b = parts(record)
        assert np.diff(a).tolist() == [1] * (len(a) - 1)
        if y["nsp"][0] == 0:
            assert b[0] > a[-1]
            assert vocabulary.tokens[a[0]].split("s")[0] == vocabulary.tokens[b[0]].split("s")[0]
    sentences = [" ".join(sentence) for document in documents for sentence in document]
    assert Tokenizer(vocabulary)(tf.constant(sentences)).flat_values.numpy().tolist() == list(
        range(5, len(vocabulary))
    )


def test_another_vocabulary_is_refused(records, vocabulary, refused):
    n = len(vocabulary)
    with refused(
        rf"Expected records with a vocabulary of {n + 1:,} tokens\. Received: .*, written with one "
        rf"of {n:,}\."
    ):
        read(records, batch_size=3, vocabulary_size=n + 1)
    next(iter(read(records, batch_size=3, vocabulary_size=n)))


def test_no_thread_tunes_the_reading(files):
    """It would hold up the end of every evaluation, by up to as long as that took."""
    assert read(files, batch_size=5).options().autotune.enabled is False
    mapped = read(files, batch_size=5, shuffle=False).map(
        lambda *batch: batch, num_parallel_calls=tf.data.AUTOTUNE
    )
    assert mapped.options().autotune.enabled is False
    assert len(list(mapped)) == 8
