"""Records that are there, packed: the bytes of records that were packed when they were made."""

import dataclasses
import gzip
import json
import shutil

import numpy as np
import pytest
from plain_records import read_plain

import tfrecords.build.packed
from tfrecords import load_manifest, manifest_of, pack_records, packing, read
from tfrecords.build.shards import ShardMaker
from tfrecords.documents import Documents
from tfrecords.writer import write_shard


def content(directory):
    """The bytes of all files but the configuration, which tells of the input."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "config.json"
    }


def test_our_own_records_become_those_that_were_packed_at_once(records, packed_records, tmp_path):
    before = content(records)
    manifest = pack_records(records, tmp_path / "out", 3)
    assert content(tmp_path / "out") == content(packed_records)
    assert content(records) == before
    assert manifest == load_manifest(packed_records) == pack_records(records, tmp_path / "out", 3)


def test_windows_and_whole_words_too(tmp_path, documents, vocabulary, config, monkeypatch):
    """Words leave slots empty, windows end in the middle of a batch, and files are compressed."""
    monkeypatch.setattr(packing, "WINDOW_TOKENS", 501)
    monkeypatch.setattr("tfrecords.build.unpacked._TOKENS_PER_BATCH", 31 * config.sequence_length)
    monkeypatch.setattr("tfrecords.build.packed._TOKENS_PER_BATCH", 7 * config.sequence_length)
    how = {"mask_unit": "ngram", "pairs": "sop", "compression": "gzip", "num_shards": 1}
    config = dataclasses.replace(config, **how, validation_fraction=0.0)
    one = Documents.of(
        [[[vocabulary.ids[word] for word in words] for words in document] for document in documents]
    )
    found = {}
    for pack in (1, 4):
        maker = ShardMaker(vocabulary, dataclasses.replace(config, pack=pack))
        (tmp_path / str(pack)).mkdir()
        found[pack], counts = maker.make(one, "train", 0, tmp_path / str(pack))
    assert counts["tokens"] > 5 * 501
    vocabulary.save(tmp_path / "1" / "vocab.txt")
    there = manifest_of(tmp_path / "1" / found[1].name)
    manifest = dataclasses.replace(
        there,
        config=config,
        vocabulary_size=len(vocabulary),
        vocabulary_sha256=vocabulary.sha256,
        shards=(found[1],),
        counts={"train": counts},
    )
    packed = pack_records(manifest, tmp_path / "out", 4)
    assert packed.shards == (found[4],)
    assert (tmp_path / "out" / found[4].name).read_bytes() == (
        tmp_path / "4" / found[4].name
    ).read_bytes()


@pytest.fixture
def foreign(tmp_path, records):
    """The training records as files of another tool, one of them compressed."""
    paths = sorted(records.glob("train*"))
    (tmp_path / "theirs").mkdir()
    shutil.copyfile(paths[0], tmp_path / "theirs" / "a.tfrecord")
    (tmp_path / "theirs" / "b.tfrecord").write_bytes(gzip.compress(paths[1].read_bytes()))
    return tmp_path / "theirs"


def test_records_of_another_tool(foreign, records, tmp_path, refused):
    manifest = pack_records(foreign / "*.tfrecord", tmp_path / "out", 3)
    assert [shard.name for shard in manifest.shards] == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord.gz",
    ]
    assert (manifest.config, manifest.pack, manifest.max_predictions) == (None, 3, 5)
    # The pairs are all there, masked as they were.
    singles = [
        tuple(record["input_ids"][: record["input_mask"].sum()])
        for index in range(2)
        for record in read_plain(records / f"train-0000{index}-of-00003.tfrecord", 29, 5)
    ]
    for there in (tmp_path / "out", str(tmp_path / "out" / "*.tfrecord*")):
        found = [
            tuple(x["token_ids"][0][x["pair_numbers"][0] == number])
            for x, _, _ in read(there, batch_size=1, vocabulary_size=1073).as_numpy_iterator()
            for number in range(1, x["pair_numbers"].max() + 1)
        ]
        assert sorted(found) == sorted(singles)
    counts = manifest.counts["train"]
    assert counts == {
        "tokens": sum(map(len, singles)),
        "records": manifest.num_records("train"),
        "pairs": len(singles),
    }
    with refused("Expected records that name their vocabulary and configuration. Received: "):
        load_manifest(tmp_path / "out")


def features_of(path):
    """The features of a file of records, by name."""
    there = read_plain(path, 29, 5)
    return {
        key: np.stack([record[key] for record in there]).astype(
            np.float32 if "weights" in key else np.int32
        )
        for key in there[0]
    }


def test_positions_alone_do_not_make_packed_records(records, tmp_path):
    features = features_of(records / "train-00000-of-00003.tfrecord")
    features["position_ids"] = np.tile(
        np.arange(29, dtype=np.int32), (len(features["input_ids"]), 1)
    )
    write_shard(tmp_path / "a.tfrecord", "train", [(features, None)])
    assert manifest_of(tmp_path / "a.tfrecord").pack == 1


def test_an_interrupted_packing_goes_on(records, packed_records, tmp_path, monkeypatch):
    pack_shard, done = tfrecords.build.packed._pack_shard, []

    def interrupted(manifest, number, *others):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return pack_shard(manifest, number, *others)

    monkeypatch.setattr(tfrecords.build.packed, "_pack_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_records(records, tmp_path / "out", 3)
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = []

    def counted(manifest, number, *others):
        again.append(number)
        return pack_shard(manifest, number, *others)

    monkeypatch.setattr(tfrecords.build.packed, "_pack_shard", counted)
    pack_records(records, tmp_path / "out", 3)
    assert (done, again) == ([0, 1], [2, 3])
    assert content(tmp_path / "out") == content(packed_records)
    # A release that knew less of configurations would have written this.
    path = tmp_path / "out" / "config.json"
    fields = json.loads(path.read_text())
    del fields["deduplicate"]
    path.write_text(json.dumps(fields))
    assert pack_records(records, tmp_path / "out", 3) == load_manifest(packed_records)


def test_a_changed_shard_of_ours_is_told(records, tmp_path, refused):
    shutil.copytree(records, tmp_path / "changed")
    path = next((tmp_path / "changed").glob("train*"))
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1
    path.write_bytes(changed)
    with refused(f"{path.name}: expected the content with SHA-256 .*, as in the manifest"):
        pack_records(tmp_path / "changed", tmp_path / "out", 3)


def test_what_cannot_be_packed_is_said(records, packed_records, tmp_path, refused):
    with refused("Expected records that are not packed. Received: .*, with up to 3 pairs"):
        pack_records(packed_records, tmp_path / "out")
    dynamic = load_manifest(records)
    dynamic = dataclasses.replace(
        dynamic, config=dataclasses.replace(dynamic.config, masking="dynamic")
    )
    with refused("Expected records with masks. Received: .* 'kbert records --pack'"):
        pack_records(dynamic, tmp_path / "out")
    for pack in (1, 65):
        with refused(f"Expected pack from 2 to 64. Received: {pack}."):
            pack_records(records, tmp_path / "out", pack)
    assert not (tmp_path / "out").exists()
    before = content(records)
    with refused("Expected a directory for packed records. Received: .*, which holds records"):
        pack_records(records, records)
    assert content(records) == before
    pack_records(records, tmp_path / "out", 2)
    with refused("Received another: pack: 2 before, 3 now"):
        pack_records(records, tmp_path / "out", 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_mask", 0, "record 13: expected input_mask of 1 on the tokens and of 0 behind them"),
        ("segment_ids", 2, "record 13: expected segment_ids from 0 to 1"),
        ("masked_lm_positions", 28, "record 13: expected masked tokens among the tokens"),
        ("masked_lm_weights", -1, "record 13: expected masked_lm_weights of 0 or more"),
        (None, None, "expected whole records in Google's schema. Received: damage behind record"),
    ],
)
def test_damage_is_told_and_leaves_the_directory_free(
    records, tmp_path, refused, name, value, message
):
    features = features_of(records / "train-00000-of-00003.tfrecord")
    if name:
        features["input_ids"][13, 20:] = features["input_mask"][13, 20:] = 0
        features[name][13, 0] = value
    write_shard(tmp_path / "a.tfrecord", "train", [(features, None)])
    if not name:
        damaged = bytearray((tmp_path / "a.tfrecord").read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "a.tfrecord").write_bytes(damaged)
    with refused(message):
        pack_records(tmp_path / "a.tfrecord", tmp_path / "out")
    assert not (tmp_path / "out").exists()
