"""The main job: what a run leaves behind, how it goes on after a stop, and what it refuses."""

import dataclasses
import errno
import itertools
import json
import math
import pathlib

import keras
import matplotlib.image
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from model_fixtures import RUN_SETTINGS, assert_equal_values, run_config, tiny_config, values_of

import kbert.run.saving
import kbert.step.objective
import tfrecords
from kbert.cli import main
from kbert.config import PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.model.heads import HEADS
from kbert.objectives import NSP, OBJECTIVES
from kbert.prediction import load_predictor
from kbert.pretraining import _segments, pretrain
from kbert.run.baseline import baselines
from kbert.run.checkpoints import list_checkpoints
from kbert.run.curves import draw_curves
from kbert.run.directory import load_run
from kbert.run.errors import TrainingError
from kbert.run.evaluation import evaluate, results_table
from tfrecords import InputError, Normalization, RecordsConfig, build_records
from tfrecords.files import locked

pytest_plugins = ["model_fixtures"]

SHORT = PretrainingConfig(steps=6, batch_size=8, evaluate_every=3, checkpoint_every=2, seed=5)


@dataclasses.dataclass(frozen=True)
class OtherRun:
    """A finished run on records of the kind of pairs that is named, and what `pretrain` returned
    for it."""

    pairs: str
    records: pathlib.Path
    directory: pathlib.Path
    model: keras.Model
    results: dict


@pytest.fixture(scope="module", params=["sop", "none"])
def other_run(request, records_by_pairs, tmp_path_factory):
    records, directory = (
        records_by_pairs[request.param],
        tmp_path_factory.mktemp("other_run") / "run",
    )
    model, results = pretrain(records, directory, bert=run_config(), pretraining=SHORT, verbose=0)
    return OtherRun(request.param, records, directory, model, results)


def saved_weights(checkpoint):
    return safetensors.numpy.load_file(checkpoint / "weights.safetensors")


def test_a_run_leaves_all_that_belongs_to_it(tiny_run, tiny_vocabulary):
    assert {path.name for path in tiny_run.directory.iterdir()} == {
        "config.json",
        "vocab.txt",
        "history.csv",
        "curves.png",
        "checkpoints",
        "results.json",
        "records.json",
    }
    run = load_run(tiny_run.directory)
    assert (run.bert, run.pretraining, run.sequence_length, run.normalization) == (
        run_config(),
        RUN_SETTINGS,
        23,
        Normalization(cased=False),
    )
    assert run.vocabulary == tiny_vocabulary
    assert [path.name for path in list_checkpoints(run.checkpoints)] == [
        f"step-{step:09d}" for step in (40, 50, 60)
    ]
    assert not list(tiny_run.directory.rglob("*.partial"))
    assert (tiny_run.directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_history_has_a_row_per_evaluation(tiny_run, tiny_records):
    rows = load_run(tiny_run.directory).history.rows()
    assert [row["step"] for row in rows] == [25, 50, 60]
    measured = {
        f"{kind}_{figure}" for kind in ("mlm", "nsp") for figure in ("loss", "accuracy")
    } | {"loss"}
    expected = (
        {"step", "seconds", "sequences_per_second", "learning_rate"}
        | measured
        | {f"val_{name}" for name in measured}
    )
    for row in rows:
        assert set(row) == expected
        assert row["loss"] == pytest.approx(row["mlm_loss"] + row["nsp_loss"], rel=0.05)
    # The rate of the next update, on the line from the peak at step 0 to 0 at step 60.
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [0.01 * 35 / 60, 0.01 * 10 / 60, 0.0], rel=1e-5
    )
    assert rows[-1]["val_mlm_loss"] == pytest.approx(tiny_run.results["mlm_loss"], abs=1e-5)
    assert rows[-1]["val_nsp_accuracy"] == pytest.approx(tiny_run.results["nsp_accuracy"], abs=1e-5)


def test_results_are_those_of_an_evaluation_at_the_end(tiny_run, tiny_records):
    assert tiny_run.results == tiny_run.evaluated
    assert json.loads((tiny_run.directory / "results.json").read_text()) == {
        "step": 60,
        "held_out": tiny_run.results,
    }
    assert tiny_run.results["unigram_loss"] == baselines(tiny_records).unigram_loss


def test_the_loss_falls(tiny_run):
    rows = load_run(tiny_run.directory).history.rows()
    assert rows[-1]["mlm_loss"] < rows[0]["mlm_loss"] - 0.2
    assert (
        tiny_run.results["mlm_loss"] < math.log(53) - 1
    )  # from the loss of a model that knows nothing
    assert tiny_run.results["mlm_accuracy"] > 0.3
    assert tiny_run.results["mlm_perplexity"] == pytest.approx(
        math.exp(tiny_run.results["mlm_loss"])
    )


def test_the_last_checkpoint_is_the_model_that_was_returned(tiny_run):
    values = saved_weights(list_checkpoints(tiny_run.directory / "checkpoints")[-1])
    assert_equal_values(
        {name.split("/", 1)[1]: value for name, value in values.items()}, tiny_run.weights
    )


def test_dropout_needs_no_state_in_training(tiny_run):
    counters = {
        path: int(value) for path, value in tiny_run.weights.items() if path.endswith("/counter")
    }
    assert counters == dict.fromkeys(counters, 0)
    assert len(counters) == 4


@pytest.fixture
def stop_at(monkeypatch):
    """A function that presses Ctrl-C before the checkpoint of `step` is written: what follows the
    one before it is lost."""
    save = kbert.run.saving.save_checkpoint

    def stop(step):
        def save_or_stop(directory, model, now, **options):
            if now == step:
                raise KeyboardInterrupt
            return save(directory, model, now, **options)

        monkeypatch.setattr("kbert.run.saving.save_checkpoint", save_or_stop)

    return stop


@pytest.mark.long
def test_stopped_twice_and_continued_it_ends_with_the_same_weights(
    tiny_run, tiny_records, tmp_path, stop_at, capsys
):
    def run(verbose=0):
        return pretrain(
            tiny_records,
            tmp_path / "run",
            bert=run_config(),
            pretraining=RUN_SETTINGS,
            verbose=verbose,
        )

    for stop, last in ((25, 20), (40, 30)):  # at an evaluation, and between two of them
        stop_at(stop)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step-{last:09d}"
    stop_at(None)
    model, results = run(verbose=2)

    assert_equal_values(values_of([*model.variables, *model.optimizer.variables]), tiny_run.weights)
    assert results == tiny_run.results
    assert f"continuing {tmp_path / 'run'} at step 30 of 60" in capsys.readouterr().out
    rows, whole = (
        load_run(directory).history.rows() for directory in (tmp_path / "run", tiny_run.directory)
    )
    assert [row["step"] for row in rows] == [25, 50, 60]
    assert [row["val_mlm_loss"] for row in rows] == [row["val_mlm_loss"] for row in whole]


def test_the_kind_of_pairs_decides_what_a_run_learns(other_run):
    run = load_run(other_run.directory)
    assert run.pairs == other_run.results["pairs"] == other_run.pairs
    names = ["mlm"] if other_run.pairs == "none" else ["mlm", "nsp"]
    assert list(other_run.model.output) == names
    measured = {f"{name}_{figure}" for name in names for figure in ("loss", "accuracy")}
    for row in run.history.rows():
        columns = measured | {"loss"}
        times = {"step", "seconds", "sequences_per_second", "learning_rate"}
        assert set(row) == times | columns | {f"val_{name}" for name in columns}
        assert row["val_loss"] == pytest.approx(
            sum(row[f"val_{name}_loss"] for name in names), rel=0.05
        )
    assert measured < set(other_run.results)
    assert ("majority_loss" in other_run.results) == ("nsp" in names)
    assert ("sentence order: accuracy" in results_table(other_run.results)) == (
        other_run.pairs == "sop"
    )
    assert "next sentence" not in results_table(other_run.results)
    # What is loaded again is the model that was trained.
    loaded = run.load_model()
    assert_equal_values(values_of(loaded.variables), values_of(other_run.model.variables))
    assert evaluate(loaded, other_run.records, batch_size=SHORT.batch_size) == other_run.results


@pytest.mark.long
def test_a_run_of_other_pairs_is_continued(other_run, tmp_path, stop_at):
    def run():
        return pretrain(
            other_run.records, tmp_path / "run", bert=run_config(), pretraining=SHORT, verbose=0
        )

    stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-000000003"
    stop_at(None)
    model, results = run()
    assert_equal_values(
        values_of([*model.variables, *model.optimizer.variables]),
        values_of([*other_run.model.variables, *other_run.model.optimizer.variables]),
    )
    assert results == other_run.results


def test_a_run_of_other_pairs_answers(other_run, tmp_path):
    exported = CliRunner().invoke(
        main, ["export", str(other_run.directory), "--output", str(tmp_path / "bert")]
    )
    assert exported.exit_code == 0
    assert ("next_sentence" in (tmp_path / "bert" / "README.md").read_text()) == (
        other_run.pairs != "none"
    )
    predictors = [load_predictor(other_run.directory), load_predictor(tmp_path / "bert")]
    words = [
        [word.token for word in predictor.fill_mask("ba [MASK] be")[0]] for predictor in predictors
    ]
    assert words[0] == words[1]
    for predictor in predictors:
        if other_run.pairs == "none":
            with pytest.raises(InputError, match="Received: one trained on single segments"):
                predictor.next_sentence("ba be", "du")
        else:
            assert 0 < predictor.next_sentence("ba be", "du") < 1


def test_a_run_is_not_measured_on_records_of_other_pairs(other_run, records_by_pairs):
    for pairs in records_by_pairs.keys() - {other_run.pairs}:
        done = CliRunner().invoke(
            main, ["evaluate", str(other_run.directory), str(records_by_pairs[pairs])]
        )
        assert done.exit_code == 2
        assert done.stderr.startswith(
            f"Error: Expected records with the pairs of the run, '{other_run.pairs}'. Received: "
        )
        assert done.stderr.endswith(f"made with '{pairs}'.\n")


def test_other_pairs_in_the_same_directory_are_refused(other_run, tiny_records):
    before = {path: path.read_bytes() for path in other_run.directory.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"pairs: '{other_run.pairs}' before, 'nsp' now"):
        pretrain(tiny_records, other_run.directory, bert=run_config(), pretraining=SHORT, verbose=0)
    assert {
        path: path.read_bytes() for path in other_run.directory.rglob("*") if path.is_file()
    } == before


def test_a_weight_for_what_is_not_learned_is_refused(records_by_pairs, tmp_path):
    settings = dataclasses.replace(SHORT, nsp_weight=0.5)
    message = (
        r"^Expected no nsp_weight for records of single segments, .* Received: 0\.5; leave it at "
        r"1\.0\.$"
    )
    with pytest.raises(InputError, match=message):
        pretrain(
            records_by_pairs["none"],
            tmp_path / "run",
            bert=run_config(),
            pretraining=settings,
            verbose=0,
        )
    assert not (tmp_path / "run").exists()


def test_a_directory_with_something_else_stays_as_it_is(tiny_records, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"already holds thesis\.tex"):
        pretrain(tiny_records, tmp_path, bert=run_config(), pretraining=SHORT, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_another_process_works_on_is_refused(tiny_records, tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(InputError, match="a directory that another process works on"),
    ):
        pretrain(tiny_records, tmp_path / "run", bert=run_config(), pretraining=SHORT, verbose=0)
    assert not (tmp_path / "run").exists()  # not even a configuration


def test_a_finished_run_returns_at_once(tiny_run, tiny_records, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("it trained or evaluated again")

    monkeypatch.setattr("keras.Model.fit", fail)
    monkeypatch.setattr("keras.Model.evaluate", fail)
    before = {
        path: path.stat().st_mtime_ns for path in (tiny_run.directory / "checkpoints").rglob("*")
    }
    model, results = pretrain(
        tiny_records, tiny_run.directory, bert=run_config(), pretraining=RUN_SETTINGS, verbose=0
    )
    assert results == tiny_run.results
    assert_equal_values(values_of([*model.variables, *model.optimizer.variables]), tiny_run.weights)
    assert {
        path: path.stat().st_mtime_ns for path in (tiny_run.directory / "checkpoints").rglob("*")
    } == before


@pytest.mark.parametrize(
    ("bert", "pretraining", "message"),
    [
        (
            run_config(),
            dataclasses.replace(RUN_SETTINGS, steps=61),
            "pretraining.steps: 60 before, 61 now",
        ),
        (
            run_config(),
            dataclasses.replace(RUN_SETTINGS, seed=6),
            "pretraining.seed: 5 before, 6 now",
        ),
        (tiny_config(num_layers=1, dropout=0.2), RUN_SETTINGS, "bert.dropout: 0.1 before, 0.2 now"),
        (tiny_config(num_layers=2), RUN_SETTINGS, "bert.num_layers: 1 before, 2 now"),
    ],
)
def test_another_configuration_in_the_same_directory_is_refused(
    tiny_run, tiny_records, bert, pretraining, message
):
    before = {path: path.read_bytes() for path in tiny_run.directory.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        pretrain(tiny_records, tiny_run.directory, bert=bert, pretraining=pretraining, verbose=0)
    assert {
        path: path.read_bytes() for path in tiny_run.directory.rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize(
    ("bert", "pretraining", "message"),
    [
        (
            tiny_config(vocabulary_size=59),
            SHORT,
            r"Expected a model with the 53 tokens .* Received: vocabulary_size=59\.",
        ),
        (
            tiny_config(max_positions=19),
            SHORT,
            r"Expected records of at most 19 tokens.*Received: 23 in",
        ),
        (
            tiny_config(),
            dataclasses.replace(SHORT, batch_size=1000),
            r"at least 1000 records in the split 'train'.*: 1",
        ),
        ("tiniest", SHORT, r"Expected a size among .* Received: 'tiniest'\."),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tiny_records, tmp_path, bert, pretraining, message
):
    with pytest.raises(InputError, match=message):
        pretrain(tiny_records, tmp_path / "run", bert=bert, pretraining=pretraining, verbose=0)
    assert not (tmp_path / "run").exists()


def test_records_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected a directory of records\. Received: .*nowhere"):
        pretrain(
            tmp_path / "nowhere", tmp_path / "run", bert=tiny_config(), pretraining=SHORT, verbose=0
        )
    assert not (tmp_path / "run").exists()


@keras.saving.register_keras_serializable("tests")
class NotANumberAt(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that makes every weight NaN with update number `step` (the first is 1)."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step):
        return keras.ops.where(keras.ops.cast(step, "int32") == self.step - 1, float("nan"), 1e-3)


@pytest.fixture
def poisoned(monkeypatch):
    """A function that lets the weights of the next run become NaN with update number `step`."""

    def poison(step):
        objective = kbert.step.objective.pretraining_objective

        def poisoned_objective(**arguments):
            arguments = objective(**arguments)
            arguments["optimizer"].learning_rate = NotANumberAt(step)
            return arguments

        monkeypatch.setattr("kbert.step.objective.pretraining_objective", poisoned_objective)

    return poison


@pytest.mark.parametrize(
    ("poisoned_step", "named"),
    [pytest.param(5, {6}, marks=pytest.mark.long), (6, {6, 7})],
    ids=["between checkpoints", "at a checkpoint"],
)
def test_a_loss_that_is_not_a_number_stops_the_run(
    tiny_records, tmp_path, poisoned, poisoned_step, named
):
    settings = dataclasses.replace(SHORT, steps=12, evaluate_every=12, checkpoint_every=3)
    poisoned(poisoned_step)
    with pytest.raises(TrainingError) as caught:
        pretrain(tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0)
    message = str(caught.value)
    assert "\n" not in message
    # A loss is that of the weights before its update; bad weights may be named earlier, where they
    # would be saved.
    assert message.startswith(tuple(f"Step {step}: " for step in named))
    assert "Received: " in message
    assert str(tmp_path / "run" / "checkpoints") in message
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in checkpoints] == ["step-000000003"]
    assert all(np.isfinite(value).all() for value in saved_weights(checkpoints[0]).values())


def test_a_run_without_a_checkpoint_does_not_promise_one(tiny_records, tmp_path, poisoned):
    poisoned(2)
    settings = dataclasses.replace(SHORT, evaluate_every=6, checkpoint_every=1000)
    with pytest.raises(
        TrainingError,
        match=r"^Step 3: expected a finite loss\. Received: nan; there is no checkpoint yet",
    ):
        pretrain(tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0)


@pytest.mark.long
def test_a_full_disk_costs_checkpoints_and_no_training(tiny_records, tmp_path, monkeypatch):
    save = safetensors.numpy.save_file

    def fail_at_first(values, path, metadata=None):
        if "step-000000006" not in str(path):
            pathlib.Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(values, path, metadata=metadata)

    monkeypatch.setattr("safetensors.numpy.save_file", fail_at_first)
    settings = dataclasses.replace(SHORT, evaluate_every=6)
    with pytest.warns(
        UserWarning, match=r"Step [24]: no checkpoint could be written \(.*No space left"
    ) as caught:
        model, _ = pretrain(
            tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0
        )
    assert len(caught) == 2
    assert int(model.optimizer.iterations.numpy()) == 6
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-000000006"
    ]


def test_the_settings_reach_the_model(tiny_records, tmp_path):
    settings = dataclasses.replace(
        SHORT,
        learning_rate=0.0,
        warmup_steps=4,
        mlm_weight=0.5,
        nsp_weight=2.0,
        precision="bfloat16",
        evaluate_every=2,
        evaluate_steps=1,
        keep_checkpoints=2,
    )
    model, results = pretrain(
        tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0
    )
    assert model.get_layer("layer_0").compute_dtype == "bfloat16"
    assert model.optimizer._learning_rate.get_config() == {
        "peak": 0.0,
        "steps": 6,
        "warmup_steps": 4,
        "power": 1.0,
    }
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2
    # Without a learning rate the weights stay those of the seed.
    assert_equal_values(
        values_of(model.trainable_variables),
        values_of(pretraining_model(run_config(), seed=5).trainable_variables),
    )
    rows = load_run(tmp_path / "run").history.rows()
    for row in rows:
        assert row["loss"] == pytest.approx(0.5 * row["mlm_loss"] + 2 * row["nsp_loss"], rel=0.02)
    # A part of the held-out records is the same part every time.
    assert len(rows) == 3
    assert len({row["val_mlm_loss"] for row in rows}) == 1
    assert abs(rows[0]["val_mlm_loss"] - results["mlm_loss"]) > 1e-4


def test_without_held_out_records_there_are_no_results(
    tiny_corpus, tiny_vocabulary, tmp_path, capsys
):
    config = RecordsConfig(
        sequence_length=23, max_predictions=3, duplicates=1, validation_fraction=0.0, seed=3
    )
    build_records([tiny_corpus], tiny_vocabulary, tmp_path / "records", config)
    settings = dataclasses.replace(SHORT, evaluate_every=4, evaluate_steps=1000)
    for _ in range(2):  # the second time it is finished
        _, results = pretrain(
            tmp_path / "records",
            tmp_path / "run",
            bert=run_config(),
            pretraining=settings,
            verbose=1,
        )
        assert results is None
    assert "step 4 to 6 of 6" in capsys.readouterr().out
    rows = load_run(tmp_path / "run").history.rows()
    assert [row["step"] for row in rows] == [4, 6]
    assert not any(name.startswith("val_") for row in rows for name in row)
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_third_objective_is_an_entry_a_head_and_its_labels(tiny_records, tmp_path, monkeypatch):
    # Whether a sequence has no padding, told from the state of [CLS].
    full = dataclasses.replace(
        NSP,
        name="full",
        titles={"nsp": "full length"},
        figures=tuple(dataclasses.replace(figure, baseline=None) for figure in NSP.figures),
    )

    def head(inputs):
        return keras.layers.Dense(2, name="full", dtype="float32")(inputs.rows_BRH[:, 0, :])

    def label(x, y, weights):
        return x, y | {"full": x["padding_mask"][:, -1]}, weights | {"full": weights["nsp"]}

    read = tfrecords.read
    monkeypatch.setattr("kbert.run.history.draw_curves", draw_curves)
    monkeypatch.setattr("kbert.objectives.OBJECTIVES", (*OBJECTIVES, full))
    monkeypatch.setitem(HEADS, "full", head)
    monkeypatch.setattr(
        "tfrecords.read", lambda *given, **options: read(*given, **options).map(label)
    )
    model, results = pretrain(
        tiny_records, tmp_path / "run", bert=run_config(), pretraining=SHORT, verbose=2
    )
    assert list(model.output) == ["mlm", "nsp", "full"]
    (*_, row) = load_run(tmp_path / "run").history.rows()
    assert row["loss"] == pytest.approx(
        row["mlm_loss"] + row["nsp_loss"] + row["full_loss"], rel=0.05
    )
    assert 0 <= row["val_full_accuracy"] <= 1
    assert results["full_loss"] < 2
    assert "  full length: accuracy " in results_table(results)
    picture = matplotlib.image.imread(tmp_path / "run" / "curves.png")
    assert picture.shape[0] == round(3 * 3.25 * 110)  # three rows of panels


def test_segments_in_full():
    assert list(_segments(0, 20, 10)) == [(0, 20, 10)]
    assert list(_segments(0, 7, 10)) == [(0, 7, 7)]
    assert list(_segments(10, 23, 10)) == [(10, 20, 10), (20, 23, 3)]
    assert list(_segments(13, 17, 10)) == [(13, 17, 4)]
    assert list(_segments(20, 20, 10)) == []


def test_segments_cover_every_step_once_and_stop_at_every_evaluation():
    for first, last, interval in itertools.product(range(23), range(1, 23), range(1, 11)):
        segments = list(_segments(first, last, interval)) if first <= last else []
        stops = []
        at = first
        for start, stop, steps_per_epoch in segments:
            assert start == at < stop
            assert (stop - start) % steps_per_epoch == 0
            stops += range(start + steps_per_epoch, stop + 1, steps_per_epoch)
            at = stop
        assert at == max(first, last) or not segments
        due = {step for step in range(first + 1, last + 1) if step % interval == 0 or step == last}
        assert stops == sorted(due), (first, last, interval)
