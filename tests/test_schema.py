import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from plain_records import read_plain

from tfrecords import Manifest, RecordsConfig, load_manifest
from tfrecords.schema import Shard
from tfrecords.writer import write_shard


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "a b é.tfrecord").write_bytes(b"x" * 17)
    return Manifest(
        directory=tmp_path,
        sequence_length=29,
        max_predictions=5,
        vocabulary_size=997,
        vocabulary_sha256="f" * 64,
        config=RecordsConfig(
            sequence_length=29, max_predictions=5, seed=(1 << 63) - 1, mask_rate=0.15
        ),
        shards=(
            Shard(
                name="a b é.tfrecord",
                split="train",
                records=7,
                bytes=17,
                sha256="0" * 64,
                offsets=(0, 11),
            ),
        ),
        counts={"corpus": {"documents": 3}, "train": {"records": 7}},
    )


def edited(directory, **changes):
    fields = json.loads((directory / "manifest.json").read_text())
    fields = {name: value for name, value in (fields | changes).items() if value is not ...}
    (directory / "manifest.json").write_text(json.dumps(fields))


def test_records_have_the_seven_features_of_google(records, config):
    lengths = {
        "input_ids": 29,
        "input_mask": 29,
        "segment_ids": 29,
        "masked_lm_positions": 5,
        "masked_lm_ids": 5,
        "masked_lm_weights": 5,
        "next_sentence_labels": 1,
    }
    for path in records.glob("*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            assert {
                name: len(value.int64_list.value or value.float_list.value)
                for name, value in feature.items()
            } == lengths
            kinds = {name: value.WhichOneof("kind") for name, value in feature.items()}
            assert kinds == dict.fromkeys(lengths, "int64_list") | {
                "masked_lm_weights": "float_list"
            }


def test_records_are_well_formed(records, vocabulary):
    for path in sorted(records.glob("*.tfrecord")):
        for record in read_plain(path, 29, 5):
            ids, mask, segments = record["input_ids"], record["input_mask"], record["segment_ids"]
            length, num_predictions = mask.sum(), int(record["masked_lm_weights"].sum())
            assert mask.tolist() == [1] * length + [0] * (29 - length)
            assert not ids[length:].any()
            assert 0 <= ids.min() <= ids.max() < len(vocabulary)
            ends = (ids == vocabulary.sep_id).nonzero()[0].tolist()
            assert ids[0] == vocabulary.cls_id
            # A random replacement may be [SEP] by chance; these two stand at the ends of the
            # segments.
            first = length - segments.sum()
            assert {first - 1, length - 1} <= set(ends)
            assert segments.tolist() == [0] * first + [1] * (length - first) + [0] * (29 - length)
            assert record["masked_lm_weights"].tolist() == [1.0] * num_predictions + [0.0] * (
                5 - num_predictions
            )
            assert num_predictions == min(5, max(1, round(int(length) * 0.15)))
            assert not record["masked_lm_ids"][num_predictions:].any()
            assert not record["masked_lm_positions"][num_predictions:].any()
            assert (record["masked_lm_ids"][:num_predictions] >= 5).all()
            assert record["next_sentence_labels"][0] in (0, 1)


def test_manifest_comes_back(manifest):
    manifest.save()
    loaded = load_manifest(manifest.directory)
    assert loaded == manifest
    assert loaded.config == manifest.config
    assert loaded.shards == manifest.shards
    assert loaded.files("train") == [str(manifest.directory / "a b é.tfrecord")]
    assert loaded.files("validation") == []
    assert (loaded.num_records("train"), loaded.num_records("validation")) == (7, 0)


def test_manifest_is_readable_json(manifest):
    manifest.save()
    fields = json.loads((manifest.directory / "manifest.json").read_text())
    assert fields["sequence_length"] == 29
    assert fields["version"] == 2
    assert fields["shards"] == [
        {
            "name": "a b é.tfrecord",
            "split": "train",
            "records": 7,
            "bytes": 17,
            "sha256": "0" * 64,
            "offsets": [0, 11],
            "compression": "none",
        }
    ]
    assert "directory" not in fields


def test_directory_may_be_moved(manifest, tmp_path_factory):
    manifest.save()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(manifest.directory, elsewhere)
    assert load_manifest(str(elsewhere)) == manifest
    assert load_manifest(elsewhere).files("train") == [str(elsewhere / "a b é.tfrecord")]


def test_directory_without_finished_records_is_refused(tmp_path, refused):
    with refused(r"Expected a directory of records\. Received: .*none, which is no directory"):
        load_manifest(tmp_path / "none")
    with refused(
        r"Expected manifest\.json in .*\. Received: a directory without it, so no finished "
        r"records; make them"
    ):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"version": 1}, r"manifest\.json: expected version 2\. Received: 1"),
        ({"version": 3}, r"manifest\.json: expected version 2\. Received: 3"),
        ({"version": ...}, r"manifest\.json: expected version 2\. Received: None"),
        (
            {"unheard_of": 1, "another": 2},
            r"manifest\.json: expected a manifest that this release of kbert knows\. Received: the "
            r"fields another, unheard_of, which a newer release wrote; upgrade, or make",
        ),
        (
            {"sequence_length": ...},
            r"expected a manifest by 'kbert records'\. Received: .*sequence_length",
        ),
        ({"shards": ...}, r"expected a manifest by 'kbert records'\. Received: .*shards"),
        (
            {"shards": [{"name": "a"}]},
            r"expected a manifest by 'kbert records'\. Received: .*offsets",
        ),
        (
            {"shards": [{"name": "a", "offsets": []}]},
            r"expected a manifest by 'kbert records'\. Received: .*split",
        ),
        (
            {"shards": ["a"]},
            r"a manifest by 'kbert records'\. Received: 'a' in the place of a Shard",
        ),
        ({"shards": 7}, r"expected a manifest by 'kbert records'\. Received: "),
        ({"config": None}, r"expected a manifest by 'kbert records'\. Received: "),
        (
            {"config": {"unheard_of": 1}},
            r"knows\. Received: the fields unheard_of, which a newer release wrote; upgrade",
        ),
        ({"config": {"mask_rate": 2.0}}, r"Expected mask_rate from 0\.0 to 1\.0\. Received: 2\.0"),
    ],
)
def test_manifest_by_another_hand_is_refused(manifest, refused, changes, pattern):
    manifest.save()
    edited(manifest.directory, **changes)
    with refused(pattern):
        load_manifest(manifest.directory)


def test_manifest_of_an_earlier_release_takes_defaults(manifest):
    """It lacks what later releases added, here everything that has a default."""
    manifest.save()
    fields = json.loads((manifest.directory / "manifest.json").read_text())
    for shard in fields["shards"]:
        del shard["compression"]
    edited(
        manifest.directory,
        config={"sequence_length": 29, "max_predictions": 5, "seed": (1 << 63) - 1},
        shards=fields["shards"],
    )
    # What became of long sentences was no choice then.
    earlier = dataclasses.replace(manifest.config, long_sentences="truncate")
    assert load_manifest(manifest.directory) == dataclasses.replace(manifest, config=earlier)


def test_manifest_that_is_no_json_is_refused(manifest, refused):
    for content in ("{", "[]", ""):
        (manifest.directory / "manifest.json").write_text(content)
        with refused(r"Expected the manifest of records at .*manifest\.json"):
            load_manifest(manifest.directory)


def test_shard_that_is_cut_or_missing_is_refused(manifest, refused):
    manifest.save()
    shard = manifest.directory / "a b é.tfrecord"
    for size in (16, 0, 18):
        shard.write_bytes(b"x" * size)
        with refused(
            rf"a b é\.tfrecord: expected 17 bytes, as in the manifest\. Received: {size} bytes; "
            r"remove the directory and make"
        ):
            load_manifest(manifest.directory)
    shard.unlink()
    with refused(
        r"a b é\.tfrecord: expected 17 bytes, as in the manifest\. Received: no such file"
    ):
        load_manifest(manifest.directory)


@pytest.mark.parametrize(
    "name", ["../other/a.tfrecord", "/etc/passwd", "sub/a.tfrecord", "..", ".", ""]
)
def test_shard_elsewhere_is_refused(manifest, refused, name):
    other = manifest.directory.parent / "other"
    other.mkdir(exist_ok=True)
    (manifest.directory / "sub").mkdir()
    for directory in (other, manifest.directory / "sub"):
        (directory / "a.tfrecord").write_bytes(b"x" * 17)
    dataclasses.replace(
        manifest, shards=(dataclasses.replace(manifest.shards[0], name=name),)
    ).save()
    (manifest.directory / "a b é.tfrecord").unlink()
    with refused(r"xpected"):
        load_manifest(manifest.directory)


def test_file_that_the_manifest_does_not_name_is_refused(manifest, refused):
    manifest.save()
    for name in ("train-00007-of-00007.tfrecord", "a.tfrecord.gz", "a.tfrecord.partial"):
        (manifest.directory / name).touch()
        with refused(
            rf"{name}: expected only the files that the manifest names\. Received: another; remove "
            r"it"
        ):
            load_manifest(manifest.directory)
        (manifest.directory / name).unlink()
    (manifest.directory / "notes.txt").touch()
    assert load_manifest(manifest.directory) == manifest


def test_shard_cut_anywhere_is_named(manifest, refused):
    """In a record and between two; the latter is a file of whole records, which only the manifest
    can tell from its own."""
    batch = {"n": np.arange(21, dtype=np.int32).reshape([7, 3])}
    shard = write_shard(manifest.directory / "a b é.tfrecord", "train", [(batch, None)])
    dataclasses.replace(manifest, shards=(shard,)).save()
    path = manifest.directory / "a b é.tfrecord"
    content = path.read_bytes()
    assert len(content) % 7 == 0
    for size in (0, 1, len(content) // 7, len(content) - len(content) // 7, len(content) - 1):
        path.write_bytes(content[:size])
        with refused(
            rf"a b é\.tfrecord: expected {len(content)} bytes, as in the manifest\. Received: "
            rf"{size} bytes;"
        ):
            load_manifest(manifest.directory)


def test_one_flipped_bit_anywhere_is_noticed(manifest, refused):
    batch = {"n": np.arange(21, dtype=np.int32).reshape([7, 3])}
    shard = write_shard(manifest.directory / "a b é.tfrecord", "train", [(batch, None)])
    dataclasses.replace(manifest, shards=(shard,)).save()
    path = manifest.directory / "a b é.tfrecord"
    content = path.read_bytes()
    loaded = load_manifest(manifest.directory)
    loaded.verify()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with refused(r"a b é\.tfrecord: expected the content with SHA-256 .* Received: .* damaged"):
            loaded.verify()


@pytest.mark.parametrize(
    ("name", "value", "pattern"),
    [
        ("sequence_length", 4, r"Expected sequence_length from 5 to 65536\. Received: 4"),
        ("sequence_length", 65537, r"Expected sequence_length from 5 to 65536\. Received: 65537"),
        ("max_predictions", 0, r"Expected max_predictions from 1 to 128\. Received: 0"),
        ("max_predictions", 129, r"Expected max_predictions from 1 to 128\. Received: 129"),
        ("duplicates", 0, r"Expected duplicates from 1 to 65536\. Received: 0"),
        ("duplicates", 65537, r"Expected duplicates from 1 to 65536\. Received: 65537"),
        ("pairs", "mlm", r"Expected pairs among nsp, sop, none\. Received: 'mlm'"),
        ("masking", "both", r"Expected masking among static, dynamic\. Received: 'both'"),
        (
            "mask_unit",
            "sentence",
            r"Expected mask_unit among token, word, ngram\. Received: 'sentence'",
        ),
        ("compression", "zstd", r"Expected compression among none, gzip\. Received: 'zstd'"),
        ("mask_share", 1.01, r"Expected mask_share from 0\.0 to 1\.0\. Received: 1\.01"),
        (
            "mask_share",
            0.91,
            r"Expected mask_share and random_share of at most 1\.0 together\. Received: 0\.91 and "
            r"0\.1\.",
        ),
        ("random_share", -0.1, r"Expected random_share from 0\.0 to 1\.0\. Received: -0\.1"),
        (
            "random_share",
            0.21,
            r"Expected mask_share and random_share of at most 1\.0 together\. Received: 0\.8 and "
            r"0\.21\.",
        ),
        ("mask_rate", -0.01, r"Expected mask_rate from 0\.0 to 1\.0\. Received: -0\.01"),
        ("mask_rate", 1.01, r"Expected mask_rate from 0\.0 to 1\.0\. Received: 1\.01"),
        ("mask_rate", float("nan"), r"Expected mask_rate from 0\.0 to 1\.0\. Received: nan"),
        (
            "short_sequence_probability",
            1.5,
            r"Expected short_sequence_probability from 0\.0 to 1\.0\. Received: 1\.5",
        ),
        (
            "validation_fraction",
            0.51,
            r"Expected validation_fraction from 0\.0 to 0\.5\. Received: 0\.51",
        ),
        ("num_shards", 0, r"Expected num_shards from 1 to 65536\. Received: 0"),
        ("num_shards", 65537, r"Expected num_shards from 1 to 65536\. Received: 65537"),
        ("seed", -1, r"Expected seed from 0 "),
        (
            "seed",
            1 << 63,
            r"Expected seed from 0 to 9223372036854775807\. Received: 9223372036854775808",
        ),
    ],
)
def test_configuration_out_of_range_is_refused(refused, name, value, pattern):
    with refused(pattern):
        RecordsConfig(**{name: value})


def test_configuration_at_the_ends_of_its_ranges():
    least = {
        "sequence_length": 5,
        "max_predictions": 1,
        "duplicates": 1,
        "short_sequence_probability": 0.0,
        "mask_rate": 0.0,
        "mask_share": 0.0,
        "random_share": 0.0,
        "validation_fraction": 0.0,
        "num_shards": 1,
        "seed": 0,
    }
    most = {
        "sequence_length": 1 << 16,
        "max_predictions": 1 << 16,
        "duplicates": 1 << 16,
        "short_sequence_probability": 1.0,
        "mask_rate": 1.0,
        "mask_share": 1.0,
        "random_share": 0.0,
        "validation_fraction": 0.5,
        "num_shards": 1 << 16,
        "seed": (1 << 63) - 1,
    }
    for values in (least, most, {"mask_share": 0.0, "random_share": 1.0}, {"max_predictions": 128}):
        config = RecordsConfig(**values)
        assert {name: getattr(config, name) for name in values} == values


def test_duplicates_that_are_not_given():
    assert RecordsConfig().duplicates == 5
    assert RecordsConfig(masking="dynamic").duplicates == 1
    assert RecordsConfig(masking="static", duplicates=1).duplicates == 1
    assert RecordsConfig(masking="dynamic", duplicates=5).duplicates == 5
    # A copy of another kind keeps the number that was settled.
    assert dataclasses.replace(RecordsConfig(), masking="dynamic").duplicates == 5


def test_longest_text():
    assert [
        RecordsConfig(sequence_length=29, max_predictions=5, pairs=pairs).longest_text
        for pairs in ("nsp", "sop", "none")
    ] == [
        26,
        26,
        27,
    ]


@pytest.mark.parametrize(
    ("fraction", "num_shards", "expected"),
    [
        (0.0, 7, 0),
        (0.05, 1, 1),
        (0.05, 19, 1),
        (0.05, 30, 2),
        (0.05, 190, 10),
        (0.5, 7, 7),
        (0.001, 3, 1),
        (0.25, 9, 3),
    ],
)
def test_number_of_validation_shards(fraction, num_shards, expected):
    # As many of all shards as of all documents, and one at least where there is a validation split.
    assert (
        RecordsConfig(validation_fraction=fraction, num_shards=num_shards).num_validation_shards
        == expected
    )


def test_configuration_is_frozen_named_and_knows_its_fields():
    assert RecordsConfig() == RecordsConfig(
        sequence_length=128, max_predictions=20, duplicates=5, mask_rate=0.15, seed=12345
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        RecordsConfig().seed = 1
    with pytest.raises(TypeError, match="unheard_of"):
        RecordsConfig(unheard_of=1)
    with pytest.raises(TypeError, match="positional"):
        RecordsConfig(128)


def test_damage_that_keeps_the_size_is_noticed(records, tmp_path, refused):
    copy = tmp_path / "records"
    shutil.copytree(records, copy)
    load_manifest(copy).verify()
    shard = copy / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with refused(
        r"train-00001-of-00003\.tfrecord: expected the content with SHA-256 .* Received: .* damaged"
    ):
        load_manifest(copy).verify()


def test_another_vocabulary_beside_the_records_is_refused(records, tmp_path, refused):
    copy = tmp_path / "records"
    shutil.copytree(records, copy)
    text = (copy / "vocab.txt").read_text()
    (copy / "vocab.txt").write_text(text.replace("d0s0w0\n", "other\n"))
    with refused(r"vocab\.txt: expected the vocabulary that the records were written with"):
        load_manifest(copy).load_vocabulary()
