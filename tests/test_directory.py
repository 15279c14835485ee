"""The directory of a run: claimed once, read back, its history kept in order."""

import dataclasses
import json

import pytest
from model_fixtures import assert_equal_values, randomize, tiny_config, values_of

from kbert.config import PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.run.checkpoints import save_checkpoint
from kbert.run.directory import Run, load_run
from kbert.step.objective import pretraining_objective
from tfrecords import InputError, Normalization

pytest_plugins = ["model_fixtures"]


@pytest.fixture
def run(tmp_path):
    return Run(
        directory=tmp_path / "run",
        bert=tiny_config(num_layers=1),
        pretraining=PretrainingConfig(steps=70, precision="bfloat16", seed=5),
        sequence_length=23,
        normalization=Normalization(cased=False),
        pairs="sop",
        records_sha256="ab" * 32,
    )


def test_a_run_is_read_back_as_it_was_claimed(run):
    run.claim()
    assert load_run(run.directory) == run
    assert load_run(str(run.directory)) == run
    fields = json.loads((run.directory / "config.json").read_text())
    assert fields["bert.hidden_size"] == 26
    assert fields["pretraining.warmup_steps"] == 7  # resolved
    assert fields["sequence_length"] == 23
    assert fields["pairs"] == "sop"


def test_the_same_run_is_recognised(run):
    run.claim()
    before = (run.directory / "config.json").read_bytes()
    run.claim()
    assert (run.directory / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pretraining": PretrainingConfig(steps=71, precision="bfloat16", seed=5)},
            r"pretraining.steps: 70 before, 71 now.* To train beyond its 70 steps, .*--init-from",
        ),
        ({"bert": tiny_config(num_layers=2)}, "bert.num_layers: 1 before, 2 now"),
        ({"sequence_length": 29}, "sequence_length: 23 before, 29 now"),
        ({"pairs": "none"}, "pairs: 'sop' before, 'none' now"),
        ({"records_sha256": "cd" * 32}, "records_sha256: 'abab"),
    ],
)
def test_another_run_is_refused_with_the_difference(run, changes, message):
    run.claim()
    before = (run.directory / "config.json").read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        dataclasses.replace(run, **changes).claim()
    assert ("--init-from" in str(caught.value)) == ("steps" in message)
    assert (run.directory / "config.json").read_bytes() == before


def test_a_directory_with_something_else_is_refused(run):
    run.directory.mkdir()
    (run.directory / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"already holds thesis\.tex"):
        run.claim()
    assert [path.name for path in run.directory.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        '{"bert.hidden_size": 26}',
        '{"bert.hidden_size": 26, "optimiser": "adamw"}',
    ],
)
def test_what_is_not_a_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"Expected .*run.*Received: "):
        load_run(tmp_path)


def test_an_unknown_or_wrong_field_is_refused(run):
    run.claim()
    fields = json.loads((run.directory / "config.json").read_text())
    for change in ({"bert.hiden_size": 26}, {"pretraining.steps": -1}, {"colour": "red"}):
        (run.directory / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(InputError):
            load_run(run.directory)


def test_load_model_takes_the_newest_checkpoint_and_the_precision(run):
    run.claim()
    with pytest.raises(InputError, match="none yet; train with 'kbert pretrain'"):
        run.load_model()
    model = pretraining_model(run.bert)
    model.compile(**pretraining_objective(steps=1))
    for step in (3, 5):
        model.get_layer("nsp").bias.assign([step, 0.0])
        save_checkpoint(run.checkpoints, model, step)
    loaded = run.load_model()
    assert loaded.get_layer("nsp").bias.numpy().tolist() == [5.0, 0.0]
    assert loaded.get_layer("layer_0").compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("pairs", "outputs"), [("nsp", {"mlm", "nsp"}), ("sop", {"mlm", "nsp"}), ("none", {"mlm"})]
)
def test_the_pairs_decide_on_the_model(run, pairs, outputs):
    run = dataclasses.replace(run, pairs=pairs)
    run.claim()
    model = load_run(run.directory).new_model()
    assert model.output.keys() == outputs
    assert ("pooler" in {layer.name for layer in model.layers}) == ("nsp" in outputs)
    randomize(model.variables)
    save_checkpoint(run.checkpoints, model, 7)
    assert_equal_values(
        values_of(load_run(run.directory).load_model().variables), values_of(model.variables)
    )


def test_history_is_kept_in_order(run):
    run.claim()
    assert run.history.rows() == []
    for step in (10, 20, 30):
        run.history.append({"step": step, "mlm_loss": 3.0 - step / 100})
    run.history.append({"step": 20, "mlm_loss": 1.5})  # continued from a checkpoint of step 10
    assert run.history.rows() == [{"step": 10, "mlm_loss": 2.9}, {"step": 20, "mlm_loss": 1.5}]
    assert (run.directory / "history.csv").read_text().splitlines() == [
        "step,mlm_loss",
        "10,2.9",
        "20,1.5",
    ]


def test_history_survives_a_failure_while_it_is_written(run, monkeypatch):
    run.claim()
    run.history.append({"step": 10, "mlm_loss": 2.9})
    before = (run.directory / "history.csv").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("csv.DictWriter.writerows", fail)
    with pytest.raises(KeyboardInterrupt):
        run.history.append({"step": 20, "mlm_loss": 2.8})
    assert (run.directory / "history.csv").read_bytes() == before


@pytest.mark.parametrize("results", [{"mlm_loss": 2.9}, None])
def test_results_are_read_back_and_end_a_run(run, results):
    run.claim()
    assert not run.is_finished(70)
    run.save_results(70, results)
    assert run.is_finished(70)
    assert not run.is_finished(50)  # back at an earlier checkpoint it goes on
    assert run.results_of(70) == results
