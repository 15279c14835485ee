"""Runs and records of an earlier release, kept as files: this one continues, loads, measures and
exports them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from model_fixtures import ROOT

from kbert.config import PretrainingConfig
from kbert.formats.load_and_save import load, save
from kbert.pretraining import pretrain
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import MAY_CHANGE, Run, load_run
from kbert.run.evaluation import evaluate
from tfrecords import InputError, load_manifest

FROZEN = ROOT / "tests" / "frozen"
RECORDS = FROZEN / "records_of_runs"
"""33 records to train on and 15 to validate on."""


@pytest.fixture
def copied(tmp_path):
    """A function that copies a frozen run by its name, since continuing one changes it."""

    def copy(name):
        return shutil.copytree(FROZEN / name, tmp_path / name)

    return copy


def continued(directory):
    run = load_run(directory)
    return pretrain(RECORDS, directory, bert=run.bert, pretraining=run.pretraining, verbose=0)


def weights(directory):
    return safetensors.numpy.load_file(list_checkpoints(directory)[-1] / "weights.safetensors")


def results(directory):
    return json.loads((directory / "results.json").read_text())["held_out"]


def assert_near(actual, expected):
    """Equal but for the order of additions, which depends on the processor."""
    assert actual.keys() == expected.keys()
    assert actual.pop("pairs") == expected.pop("pairs")
    assert actual == pytest.approx(expected, rel=1e-4)


def test_the_records_are_read(copied):
    manifest = load_manifest(RECORDS)
    manifest.verify()
    assert (manifest.num_records("train"), manifest.num_records("validation")) == (33, 15)


def test_an_unfinished_run_ends_as_the_run_that_was_never_stopped(copied):
    directory = copied("run_unfinished")
    before = (directory / "config.json").read_bytes()
    _, measured = continued(directory)
    assert_near(measured, results(FROZEN / "run_finished"))
    there, expected = (weights(one / "checkpoints") for one in (directory, FROZEN / "run_finished"))
    assert there.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(there[name], value, atol=1e-4, err_msg=name)
    assert (directory / "config.json").read_bytes() == before
    rows = load_run(directory).history.rows()
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[0] == load_run(FROZEN / "run_finished").history.rows()[0] | {
        name: rows[0][name] for name in ("seconds", "sequences_per_second")
    }


def test_a_finished_run_is_finished(copied, monkeypatch):
    monkeypatch.setattr("keras.Model.fit", lambda *_, **__: pytest.fail("it trains again"))
    directory = copied("run_finished")
    model, measured = continued(directory)
    assert measured == results(FROZEN / "run_finished")
    assert int(model.optimizer.iterations.numpy()) == 20


def test_a_run_is_measured_and_exported(tmp_path):
    directory = FROZEN / "run_finished"
    assert_near(evaluate(directory, RECORDS, batch_size=4), results(directory))
    pretrained = load(directory)
    save(pretrained, tmp_path / "bert", "google")
    exported = load(tmp_path / "bert")
    assert exported.vocabulary == pretrained.vocabulary
    for name, value in pretrained.weights.items():
        np.testing.assert_array_equal(exported.weights[name], value, err_msg=name)
    assert "20 updates of 4 sequences" in (tmp_path / "bert" / "README.md").read_text()


def change_configuration(directory, change):
    path = directory / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


NEWER_FIELDS = (
    *("bert.attention_dropout", "bert.exact_gelu", "pretraining.decay_power"),
    *("pretraining.patience", "initial_sha256"),
)


@pytest.mark.parametrize("name", NEWER_FIELDS)
def test_a_run_from_before_a_field_is_the_same_run(copied, name):
    directory = copied("run_unfinished")
    change_configuration(directory, lambda fields: fields.pop(name))
    run = dataclasses.replace(load_run(FROZEN / "run_unfinished"), directory=directory)
    assert load_run(directory) == run
    assert run.claim() == ""
    run.check_claimed()


def test_a_field_added_tomorrow_does_not_refuse_the_runs_of_today(copied, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Tomorrow(PretrainingConfig):
        look_ahead: "int" = 5

    directory = copied("run_unfinished")
    monkeypatch.setattr("kbert.run.directory.PretrainingConfig", Tomorrow)
    run = load_run(directory)
    assert run.pretraining.look_ahead == 5
    assert run.claim() == ""
    other = dataclasses.replace(run, pretraining=dataclasses.replace(run.pretraining, look_ahead=6))
    with pytest.raises(InputError, match="look_ahead: 5 before, 6 now"):
        other.claim()


def test_a_field_of_a_later_release_is_refused(copied, refused):
    directory = copied("run_unfinished")
    run = load_run(directory)
    change_configuration(directory, lambda fields: fields.update({"pretraining.look_ahead": 5}))
    with refused(r"the fields pretraining\.look_ahead, which a newer release wrote"):
        run.claim()
    with refused("look_ahead"):
        load_run(directory)


def test_settings_that_no_update_depends_on_may_change(copied):
    directory = copied("run_unfinished")
    run = load_run(directory)
    now = dict.fromkeys(MAY_CHANGE, 7)
    changed = dataclasses.replace(run, pretraining=dataclasses.replace(run.pretraining, **now))
    assert changed.claim() == (
        "pretraining.checkpoint_every: 5 before, 7 now; pretraining.evaluate_every: 10 before, 7 "
        "now; pretraining.evaluate_steps: None before, 7 now; pretraining.keep_checkpoints: 1 "
        "before, 7 now; pretraining.patience: None before, 7 now"
    )
    assert load_run(directory) == changed
    assert changed.claim() == ""
    # Of several workers each must have the same.
    with pytest.raises(InputError, match="Expected the configuration of the first worker, in"):
        run.check_claimed()
    # All others are refused, together with these too.
    fields = {field.name for field in dataclasses.fields(PretrainingConfig)} - set(MAY_CHANGE)
    assert fields >= {"steps", "seed", "batch_size"}
    with pytest.raises(InputError, match=r"Received another: pretraining\.seed: 5 before, 7 now;"):
        dataclasses.replace(
            run, pretraining=dataclasses.replace(run.pretraining, seed=7, patience=3)
        ).claim()
    assert load_run(directory) == changed


def test_the_frozen_files_are_small():
    names = ("run_finished", "run_unfinished", RECORDS.name)
    files = [path for name in names for path in (FROZEN / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60_000
    assert {field.name for field in dataclasses.fields(Run)} > {"directory", "pairs"}
