import collections
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from plain_records import parts, read_plain

from tfrecords import Tokenizer, describe, load_manifest, read
from tfrecords.schema import Shard
from tfrecords.writer import write_shard

S, P = 7, 3


def features(numbers):
    """A record for each number, told by its first token: most arrays have no other value like it."""
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
        write_shard(path, "train", [features(numbers)])
    return paths


def numbers(dataset):
    """The numbers of the records in each batch."""
    return [(x["token_ids"][:, 0] // 100).tolist() for x, _, _ in dataset.as_numpy_iterator()]


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
    got = tuple({name: value.tolist() for name, value in part.items()} for part in (x, y, sample_weight))
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
        paths = [records / f"{split}-{index:05d}-of-{shards:05d}.tfrecord" for index in range(shards)]
        expected = [record for path in paths for record in read_plain(path, config.sequence_length, config.max_predictions)]
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
    assert first == numbers(read(files, batch_size=5, seed=3, epochs=2))
    assert first == numbers(read(describe(files), batch_size=5, seed=3, epochs=2))
    assert first != numbers(read(files, batch_size=5, seed=4, epochs=2))
    one, two = flat(first[:7]), flat(first[7:])
    assert one != two
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 15
    assert one != sorted(one)


def test_order_does_not_depend_on_the_global_seed(files, global_seed):
    # keras.utils.set_random_seed sets it; a run that is resumed must see the same order all the same.
    first = numbers(read(files, batch_size=5, seed=3, epochs=2))
    for seed in (0, 1, 2):
        global_seed(seed)
        assert numbers(read(files, batch_size=5, seed=3, epochs=2)) == first


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
    # Another two each time: each record is left out of an epoch with p = 2/37, of 50 epochs with p = 10 ** -63.
    counts = collections.Counter(flat(batches))
    assert set(counts) == set(range(1, 38))
    # Four standard deviations of a binomial of n = 50 and p = 35/37: 6.4.
    assert all(abs(count - 50 * 35 / 37) < 6.4 for count in counts.values())


def test_shards_are_mixed_although_they_do_not_fit_the_buffer(files, monkeypatch):
    # The shards are read in turn: the first six records are two of each, but for the two that wait in the buffer.
    monkeypatch.setattr("tfrecords.reader._SHUFFLE_RECORDS", 2)
    for seed in range(3):
        (batch,) = numbers(read(files, batch_size=7, seed=seed).take(1))
        assert {(number > 17) + (number > 30) for number in batch} == {0, 1, 2}


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_start_step_gives_the_rest(files, shuffle):
    manifest = describe(files)
    whole = numbers(read(manifest, batch_size=11, seed=3, epochs=2, shuffle=shuffle))
    assert len(whole) == (6 if shuffle else 8)
    for step in range(len(whole) + 1):
        rest = read(manifest, batch_size=11, seed=3, epochs=2, shuffle=shuffle, start_step=step)
        assert rest.cardinality().numpy() == len(whole) - step
        assert numbers(rest) == whole[step:]


def test_without_end_the_epochs_follow_one_another(files):
    whole = numbers(read(files, batch_size=5, seed=3, epochs=4))
    assert numbers(read(files, batch_size=5, seed=3, epochs=None).take(28)) == whole
    assert numbers(read(files, batch_size=5, seed=3, epochs=None, start_step=16).take(12)) == whole[16:]


def test_without_end_fit_is_told_so(files):
    # Keras then asks for steps_per_epoch; with an unknown length it would never end the first epoch.
    assert read(files, batch_size=5, epochs=None).cardinality().numpy() == tf.data.INFINITE_CARDINALITY


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
    expected = [record["input_ids"].tolist() for path in paths for record in read_plain(path, 29, 5)]
    assert [row for x, _, _ in batches for row in x["token_ids"].tolist()][:n] == expected


def test_batch_larger_than_the_validation_split_is_filled_up(records):
    n = load_manifest(records).num_records("validation")
    ((x, _, weight),) = read(records, "validation", batch_size=n + 3).as_numpy_iterator()
    assert weight["nsp"].tolist() == [1.0] * n + [0.0] * 3
    assert x["token_ids"].shape == (n + 3, 29)


def test_too_few_records_are_refused(files, records, refused):
    assert numbers(read(files, batch_size=37))[0] != list(range(1, 38))
    with refused(r"Expected at least 38 records in the split 'train' of .*\. Received: 37; make more records or smaller"):
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
    manifest = describe(files)
    assert (manifest.sequence_length, manifest.max_predictions) == (S, P)
    assert (manifest.vocabulary_size, manifest.config) == (None, None)
    assert manifest.files("train") == [str(path) for path in files]
    assert [shard.records for shard in manifest.shards] == [17, 13, 7]
    assert manifest.shards[0] == Shard(name=str(files[0]), split="train", records=17, bytes=files[0].stat().st_size, sha256="")
    assert describe(manifest) is manifest


def test_one_file_a_pattern_and_a_list_in_its_own_order(files):
    folder = files[0].parent
    assert flat(numbers(read(files[1], batch_size=1, shuffle=False))) == list(range(18, 31))
    assert flat(numbers(read(str(files[1]), batch_size=1, shuffle=False))) == list(range(18, 31))
    assert flat(numbers(read(f"{folder}/*.tfrecord", batch_size=1, shuffle=False))) == list(range(1, 38))
    assert flat(numbers(read([files[2], str(files[0])], batch_size=1, shuffle=False))) == [*range(31, 38), *range(1, 18)]


def test_relative_name_is_read_from_where_one_is(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    manifest = describe(["b.tfrecord"])
    monkeypatch.chdir("/")
    assert flat(numbers(read(manifest, batch_size=1, shuffle=False))) == list(range(18, 31))


def test_name_may_look_like_a_pattern(tmp_path):
    path = tmp_path / "train[1].tfrecord"
    write_shard(path, "train", [features([7])])
    assert flat(numbers(read(path, batch_size=1))) == [7]


def test_files_that_are_no_records_are_refused(tmp_path, files, refused):
    (tmp_path / "text.tfrecord").write_text("This is no record. " * 7)
    (tmp_path / "empty.tfrecord").touch()
    with tf.io.TFRecordWriter(str(tmp_path / "junk.tfrecord")) as writer:
        writer.write(b"\xff\xff\xff")
    some = features([1])
    del some["segment_ids"], some["masked_lm_weights"]
    write_shard(tmp_path / "lacking.tfrecord", "train", [some])
    for name, pattern in [
        ("text", r"text\.tfrecord: expected TFRecords of tf\.train\.Example\. Received: .*corrupted record"),
        ("junk", r"junk\.tfrecord: expected TFRecords of tf\.train\.Example\. Received: .*pars"),
        ("empty", r"empty\.tfrecord: expected records with input_ids, .*\. Received: records without input_ids,"),
        ("lacking", r"lacking\.tfrecord: .*\. Received: records without segment_ids, masked_lm_weights\.$"),
    ]:
        with refused(pattern):
            read(tmp_path / f"{name}.tfrecord", batch_size=1)
    with refused(r"Expected files of records\. Received: .*none\.tfrecord, which is no file"):
        read([files[0], tmp_path / "none.tfrecord"], batch_size=1)
    with refused(r"Expected files of records\. Received: none"):
        read([], batch_size=1)
    with refused(r"Expected a directory of records\. Received: .*none\.tfrecord, which is no directory"):
        read(tmp_path / "none.tfrecord", batch_size=1)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_file_is_named_before_anything_is_read(tmp_path, files, refused, damage):
    content = bytearray(files[1].read_bytes())
    if damage == "cut":
        del content[-7:]
    else:
        content[len(content) // 2] ^= 1
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(content)
    with refused(r"broken\.tfrecord: .*xpected .*Received: .*(corrupted|truncated) record"):
        describe([files[0], broken])


def test_records_of_the_model_gardens_script(tmp_path, corpus, documents, vocabulary):
    """create_pretraining_data of tf-models-official, as it is, writes; we read."""
    vocabulary.save(tmp_path / "vocab.txt")
    outputs = [tmp_path / "one.tfrecord", tmp_path / "two.tfrecord"]
    subprocess.run(
        [
            *[sys.executable, "-m", "official.nlp.data.create_pretraining_data", f"--input_file={corpus}"],
            *[f"--vocab_file={tmp_path / 'vocab.txt'}", f"--output_file={outputs[0]},{outputs[1]}", "--max_seq_length=29"],
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
        # Its label means what ours means, and its tokens are ours: B goes on where A ends, or comes from elsewhere.
        a, b = parts(record)
        assert np.diff(a).tolist() == [1] * (len(a) - 1)
        if y["nsp"][0] == 0:
            assert b[0] > a[-1]
            assert vocabulary.tokens[a[0]].split("s")[0] == vocabulary.tokens[b[0]].split("s")[0]
    sentences = [" ".join(sentence) for document in documents for sentence in document]
    assert Tokenizer(vocabulary)(tf.constant(sentences)).flat_values.numpy().tolist() == list(range(5, len(vocabulary)))
