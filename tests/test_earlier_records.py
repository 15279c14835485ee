"""Records and an unfinished build as an earlier release wrote them (tests/frozen, made by the code
of version 0.1.0): they are read and continued, and give the same bytes."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from plain_records import content

import tfrecords
import tfrecords.build.recipe
import tfrecords.build.tasks
from tfrecords import RecordsConfig, Vocabulary, build_records, load_manifest
from tfrecords.build import unfinished
from tfrecords.build.tokenizing import COVERAGE

FROZEN = pathlib.Path(__file__).parent / "frozen"
CONFIG = RecordsConfig(
    sequence_length=23,
    max_predictions=3,
    duplicates=1,
    validation_fraction=0.25,
    num_shards=2,
    seed=3,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewerConfig(RecordsConfig):
    """The configuration of a release that has added a field, whose default is what was before."""

    rounds: int = 1


@pytest.fixture
def build(tmp_path):
    """Builds what the frozen directories were built from."""
    vocabulary = Vocabulary.load(FROZEN / "records" / "vocab.txt")

    def build(output, config=CONFIG):
        return build_records([FROZEN / "text.txt"], vocabulary, output, config)

    return build


@pytest.fixture
def newer(monkeypatch):
    """Makes NewerConfig what this release knows as its configuration."""
    monkeypatch.setattr("tfrecords.build.recipe.RecordsConfig", NewerConfig)
    monkeypatch.setattr("tfrecords.schema.RecordsConfig", NewerConfig)


@pytest.fixture
def unfinished_build(tmp_path):
    """The unfinished build, as if by this machine's versions of the packages that it stands on."""
    output = tmp_path / "out"
    shutil.copytree(FROZEN / "unfinished_build", output)
    (output / "unfinished" / "made-with.json").write_text(json.dumps(unfinished.versions()))
    return output


def no_tokenizer(*_):
    raise AssertionError("the text was tokenized before the kill")


TRUNCATE = dataclasses.replace(CONFIG, long_sentences="truncate")


def without_new_fields(found):
    """The files of records as an earlier release would have written them, from `content`."""
    config, manifest = (json.loads(found.pop(name)) for name in ("config.json", "manifest.json"))
    frozen_config, frozen = (
        json.loads((FROZEN / "records" / name).read_text())
        for name in ("config.json", "manifest.json")
    )
    assert config["long_sentences"] == manifest["config"]["long_sentences"] == "truncate"
    assert manifest["format"] == config["format"]
    assert (config["accents"], config["long_words"]) == ("strip", "unknown")
    kept = {part: counts.items() for part, counts in manifest["counts"].items()}
    assert all(counts.items() <= kept[part] for part, counts in frozen["counts"].items())
    manifest |= {"config": {name: manifest["config"][name] for name in frozen["config"]}}
    assert {name: config[name] for name in frozen_config} == frozen_config
    assert {name: manifest[name] for name in frozen if name != "counts"} == {
        name: value for name, value in frozen.items() if name != "counts"
    }
    return found


def shards_of_then():
    found = content(FROZEN / "records")
    return {name: found[name] for name in found if not name.endswith(".json")}


def test_todays_records_have_the_bytes_of_then(tmp_path, build):
    build(tmp_path / "out", TRUNCATE)
    assert without_new_fields(content(tmp_path / "out")) == shards_of_then()


def test_a_new_directory_has_long_sentences_split(tmp_path, build):
    manifest = build(tmp_path / "out")
    assert manifest.config.long_sentences == "split"
    found = content(tmp_path / "out")
    assert json.loads(found["config.json"])["long_sentences"] == "split"
    assert build(tmp_path / "out") == manifest  # the same command again
    assert content(tmp_path / "out") == found


def test_records_of_then_are_no_records_with_split_sentences(tmp_path, build, refused):
    shutil.copytree(FROZEN / "records", tmp_path / "out")
    with refused(r"long_sentences: 'truncate' before, 'split' now"):
        build(tmp_path / "out", dataclasses.replace(CONFIG, long_sentences="split"))
    assert content(tmp_path / "out") == content(FROZEN / "records")


def test_records_of_then_are_described_without_what_was_not_counted():
    text = tfrecords.inspect(FROZEN / "records", num_examples=0)
    assert "\ncoverage: 3.1% of the tokens are [UNK]\ntrain: 8 records" in text
    assert "characters" not in text
    assert "in no record" not in text


def test_records_are_read():
    manifest = load_manifest(FROZEN / "records")
    manifest.verify()
    assert manifest.config == dataclasses.replace(TRUNCATE, cased=False)
    assert manifest.load_vocabulary().tokens[:2] == ("[PAD]", "[UNK]")
    (batch,) = tfrecords.read(manifest, "validation", batch_size=6, shuffle=False).take(1)
    ids = batch[0]["token_ids"].numpy()
    assert ids.shape == (6, 23)
    assert (ids[:, 0] == manifest.load_vocabulary().cls_id).all()
    assert np.unique(ids).max() < len(manifest.load_vocabulary())


def test_finished_records_are_recognised(tmp_path, build):
    shutil.copytree(FROZEN / "records", tmp_path / "out")
    assert build(tmp_path / "out").num_records("train") == 8
    assert content(tmp_path / "out") == content(FROZEN / "records")


def test_a_release_with_a_new_field_recognises_them(tmp_path, build, newer):
    shutil.copytree(FROZEN / "records", tmp_path / "out")
    manifest = build(tmp_path / "out", NewerConfig(**dataclasses.asdict(CONFIG)))
    assert manifest.config.rounds == 1
    assert content(tmp_path / "out") == content(FROZEN / "records")


def test_an_unfinished_build_is_continued(unfinished_build, build, monkeypatch):
    shard = unfinished_build / "train-00000-of-00002.tfrecord"
    before = shard.stat()
    monkeypatch.setattr(tfrecords.build.tasks, "CorpusTokenizer", no_tokenizer)
    build(unfinished_build)
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    found = content(unfinished_build)
    manifest, frozen = load_manifest(unfinished_build), load_manifest(FROZEN / "records")
    assert manifest.config == dataclasses.replace(frozen.config, accents="strip")
    assert manifest.shards == frozen.shards
    # The text and a shard were done before, without the counts of today, and are not done again.
    assert manifest.counts["corpus"].items() >= frozen.counts["corpus"].items()
    assert not manifest.counts["corpus"].keys() & {*COVERAGE}
    assert manifest.counts["train"] == frozen.counts["train"]
    assert manifest.counts["validation"]["unused_tokens"] >= 0
    text = tfrecords.inspect(unfinished_build, num_examples=0)
    assert "characters" not in text
    assert "in no record" not in text
    del found["manifest.json"]
    expected = content(FROZEN / "records")
    assert found == {name: expected[name] for name in found}
    assert len(found) == len(expected) - 1


def test_a_release_with_a_new_field_continues_it(unfinished_build, build, newer, monkeypatch):
    monkeypatch.setattr(tfrecords.build.tasks, "CorpusTokenizer", no_tokenizer)
    build(unfinished_build, NewerConfig(**dataclasses.asdict(CONFIG)))
    found = content(unfinished_build)
    assert json.loads(found.pop("manifest.json"))["config"]["rounds"] == 1
    expected = content(FROZEN / "records")
    assert found == {name: expected[name] for name in found}
    assert len(found) == len(expected) - 1


def test_a_new_field_with_another_value_is_another_configuration(
    unfinished_build, build, newer, refused
):
    before = content(unfinished_build)
    with refused(r"Received another: rounds: 1 before, 2 now; use the same"):
        build(unfinished_build, NewerConfig(**dataclasses.asdict(CONFIG), rounds=2))
    with refused(r"Received another: seed: 3 before, 5 now; use the same"):
        changed = dataclasses.replace(CONFIG, seed=5)
        build(unfinished_build, NewerConfig(**dataclasses.asdict(changed)))
    assert content(unfinished_build) == before


def test_a_build_of_a_newer_release_is_refused(tmp_path, build, refused):
    shutil.copytree(FROZEN / "unfinished_build", tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(fields | {"rounds": 1}))
    before = content(tmp_path / "out")
    with refused(r"config\.json\. Received: the fields rounds, which a newer release wrote"):
        build(tmp_path / "out")
    assert content(tmp_path / "out") == before
