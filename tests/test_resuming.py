"""What a resumed run may change, what it does without, and which of its weights count."""

import dataclasses
import json
import shutil

import pytest
import safetensors.numpy
from model_fixtures import RUN_SETTINGS, assert_equal_values, run_config, values_of

from kbert.config import PretrainingConfig
from kbert.formats.load_and_save import load
from kbert.pretraining import pretrain
from kbert.run.checkpoints import list_checkpoints, save_checkpoint
from kbert.run.directory import Run, load_run
from kbert.run.evaluation import evaluate
from kbert.run.pace import Pace
from tfrecords import InputError, Normalization

pytest_plugins = ["model_fixtures"]

SHORT = PretrainingConfig(steps=6, batch_size=8, evaluate_every=3, checkpoint_every=2, seed=5)


@pytest.fixture
def stop_at(monkeypatch):
    """A function that presses Ctrl-C before the checkpoint of `step` is written."""

    def stop(step):
        def save_or_stop(directory, model, now, **options):
            if now == step:
                raise KeyboardInterrupt
            return save_checkpoint(directory, model, now, **options)

        monkeypatch.setattr("kbert.run.saving.save_checkpoint", save_or_stop)

    return stop


# Settings that no update depends on.


def test_a_resumed_run_may_be_evaluated_and_saved_at_other_steps(
    tiny_run, tiny_records, tmp_path, stop_at, capsys
):
    def run(settings):
        return pretrain(
            *(tiny_records, tmp_path / "run"), bert=run_config(), pretraining=settings, verbose=2
        )

    stop_at(40)
    with pytest.raises(KeyboardInterrupt):
        run(RUN_SETTINGS)
    stop_at(None)
    settings = dataclasses.replace(
        RUN_SETTINGS, evaluate_every=16, evaluate_steps=2, checkpoint_every=7, keep_checkpoints=5
    )
    model, results = run(settings)
    assert_equal_values(values_of([*model.variables, *model.optimizer.variables]), tiny_run.weights)
    assert results == tiny_run.results
    said = capsys.readouterr().out
    assert (
        f"settings of {tmp_path / 'run'}: pretraining.checkpoint_every: 10 before, 7 now; "
        "pretraining.evaluate_every: 25 before, 16 now;"
    ) in said
    assert load_run(tmp_path / "run").pretraining == settings
    rows = load_run(tmp_path / "run").history.rows()
    assert [row["step"] for row in rows if "val_loss" in row] == [25, 32, 48, 60]
    kept = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == [f"step-{step:09d}" for step in (42, 48, 49, 56, 60)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 1000}, 15),
        ({"steps": 100_000}, 1500),
        ({"steps": 6}, 1),
        ({"steps": 1000, "evaluate_every": 500}, 150),
        ({"steps": 1000, "evaluate_steps": 400}, 400),
    ],
)
def test_evaluations_take_a_tenth_of_the_time_at_most(settings, expected):
    assert PretrainingConfig(**settings).validation_steps == expected


def test_a_part_of_the_validation_split_is_said(tiny_records, tmp_path, capsys):
    settings = dataclasses.replace(SHORT, steps=2, evaluate_every=1)
    pretrain(*(tiny_records, tmp_path / "run"), bert=run_config(), pretraining=settings, verbose=2)
    said = capsys.readouterr().out
    assert "validation every 1 steps on 8 of " in said
    assert " records, about a tenth of the time; --evaluate-steps sets " in said
    assert "step 1 of 2: mlm_loss " in said  # the log begins with the first update


# The best checkpoint.


@pytest.mark.long
def test_the_best_is_one_whose_checkpoint_is_there(tiny_records, tmp_path, monkeypatch, stop_at):
    # Patience is set when the checkpoint of the best evaluation, the first, is gone.
    losses, begun = {4: 1.0, 8: 2.5, 12: 2.0, 16: 2.25}, Pace.on_test_begin
    now = []
    monkeypatch.setattr(
        Pace, "on_test_begin", lambda pace, logs=None: (now.append(pace.step), begun(pace, logs))
    )
    for module in ("history", "stops"):
        monkeypatch.setattr(f"kbert.run.{module}.validation_loss", lambda *_: losses[now[-1]])

    def run(patience):
        settings = dataclasses.replace(
            SHORT, steps=16, evaluate_every=4, checkpoint_every=3, keep_checkpoints=1
        )
        return pretrain(
            *(tiny_records, tmp_path / "run"),
            bert=run_config(),
            pretraining=dataclasses.replace(settings, patience=patience),
            verbose=0,
        )

    stop_at(12)
    with pytest.raises(KeyboardInterrupt):
        run(None)
    assert load_run(tmp_path / "run").saved_steps() == {9}
    stop_at(None)
    model, results = run(4)
    assert int(model.optimizer.iterations.numpy()) == load_run(tmp_path / "run").best_step() == 12
    # Finished is finished.
    monkeypatch.setattr("kbert.pretraining.evaluate", lambda *_, **__: pytest.fail("again"))
    assert run(4)[1] == results


def test_patience_keeps_measures_and_returns_the_best(tiny_records, tmp_path, monkeypatch):
    # The losses of the evaluations are set: the second is the best, and later the sixth.
    losses, begun = [3.0, 2.0, 2.5, 2.75, 2.25, 1.5, 1.75], []
    began = Pace.on_test_begin
    monkeypatch.setattr(Pace, "on_test_begin", lambda *given: (begun.append(1), began(*given)))
    for module in ("history", "stops"):
        monkeypatch.setattr(
            f"kbert.run.{module}.validation_loss", lambda *_: losses[len(begun) - 1]
        )
    settings = dataclasses.replace(
        SHORT, steps=28, evaluate_every=4, checkpoint_every=3, keep_checkpoints=2, patience=2
    )
    directory = tmp_path / "run"

    def run(patience=2):
        return pretrain(
            *(tiny_records, directory),
            bert=run_config(),
            pretraining=dataclasses.replace(settings, patience=patience),
            verbose=0,
        )

    def kept():
        return [int(path.name[-9:]) for path in list_checkpoints(directory / "checkpoints")]

    model, results = run()
    assert kept() == [8, 15, 16]
    assert int(model.optimizer.iterations.numpy()) == 8
    best = safetensors.numpy.load_file(
        directory / "checkpoints" / "step-000000008" / "weights.safetensors"
    )
    weights = {f"model/{name}": value for name, value in values_of(model.variables).items()}
    assert_equal_values(weights, {name: best[name] for name in weights})
    assert json.loads((directory / "results.json").read_text()) == {
        "step": 16,
        "best_step": 8,
        "held_out": results,
    }
    # All that reads the run reads the same weights.
    assert evaluate(model, tiny_records, batch_size=8) == results
    assert evaluate(directory, tiny_records, batch_size=8) == results
    pretrained = load(directory)
    assert_equal_values(
        {f"model/{name}": value for name, value in pretrained.weights.items()},
        {f"model/{name}": best[f"model/{name}"] for name in pretrained.weights},
    )
    assert "8 updates" in pretrained.training
    assert f"{results['mlm_loss']:.3f}" in pretrained.training

    # Finished is finished; with more patience it goes on from the last step, and finds a better.
    monkeypatch.setattr("kbert.pretraining.evaluate", lambda *_, **__: pytest.fail("again"))
    again, same = run()
    assert same == results
    assert_equal_values(values_of(again.variables), values_of(model.variables))
    monkeypatch.setattr("kbert.pretraining.evaluate", evaluate)
    model, results = run(patience=4)
    assert int(model.optimizer.iterations.numpy()) == 24
    assert kept() == [24, 27, 28]
    assert json.loads((directory / "results.json").read_text())["best_step"] == 24


def test_without_patience_the_last_step_counts(tiny_run):
    assert load_run(tiny_run.directory).best_step() is None
    assert "best_step" not in json.loads((tiny_run.directory / "results.json").read_text())


# What a resumed run does without.


@pytest.mark.long
def test_a_run_resumes_without_the_model_that_it_began_with(
    tiny_run, tiny_records, tmp_path, stop_at
):
    source = shutil.copytree(tiny_run.directory, tmp_path / "source")

    def run(name):
        return pretrain(
            *(tiny_records, tmp_path / name), pretraining=SHORT, init_from=source, verbose=0
        )

    model, results = run("whole")
    stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    with Moved(source, tmp_path / "moved"):
        stop_at(None)
        # One that has not begun cannot do without.
        with pytest.raises(InputError, match=r"Expected a run by 'kbert pretrain' or a BERT"):
            run("new")
        assert not (tmp_path / "new").exists()
        continued, same = run("stopped")
    assert same == results
    assert_equal_values(values_of(continued.variables), values_of(model.variables))


class Moved:
    """Within the block a directory has another name."""

    def __init__(self, path, name):
        self._path, self._name = path, name

    def __enter__(self):
        self._path.rename(self._name)

    def __exit__(self, *_):
        self._name.rename(self._path)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda text: text.replace("\n10,", "\nten,"), "2"),
        (lambda text: text.replace("step,", "stop,"), "2"),
        (lambda text: text + "20,1.5,3.0,nine\n", "3"),
        (lambda text: text + "20,1.5,3.0,4,5,6,7\n", "3"),
        (lambda text: text + "\0\0\0\n", "3"),
        (lambda text: text + '20,"1.5\n', "3"),
        (lambda text: text + ",1.5,3.0\n", "3"),
    ],
)
def test_a_damaged_history_is_named(tiny_records, tmp_path, refused, change, place):
    run = small_run(tmp_path)
    run.history.append({"step": 10, "seconds": 1.5, "val_loss": 2.5, "loss": 3.0})
    assert run.history.rows() == [{"step": 10, "seconds": 1.5, "val_loss": 2.5, "loss": 3.0}]
    path = run.directory / "history.csv"
    path.write_text(change(path.read_text()))
    with refused(rf"history\.csv:{place}: expected numbers .* Received: .*; correct that file"):
        run.history.rows()


def test_a_history_of_bytes_is_named(tmp_path, refused):
    run = small_run(tmp_path)
    (run.directory / "history.csv").write_bytes(b"step,loss\n\xff\xfe\n")
    with refused(r"history\.csv:1: expected numbers"):
        run.history.rows()


def small_run(tmp_path):
    run = Run(
        directory=tmp_path / "run",
        bert=run_config(),
        pretraining=SHORT,
        sequence_length=23,
        normalization=Normalization(cased=False),
        pairs="nsp",
        records_sha256="0" * 64,
    )
    run.claim()
    return run


def test_a_damaged_history_stops_a_resumption_and_not_a_training(
    tiny_records, tmp_path, stop_at, refused
):
    def run():
        return pretrain(
            *(tiny_records, tmp_path / "run"), bert=run_config(), pretraining=SHORT, verbose=0
        )

    stop_at(4)
    with pytest.raises(KeyboardInterrupt):
        run()
    stop_at(None)
    history = tmp_path / "run" / "history.csv"
    rows = history.read_text()
    history.write_text("step,val_loss\n3,low\n")
    with refused(r"run/history\.csv:2: expected numbers"):
        run()
    history.write_text(rows)

    began = Pace.on_epoch_begin

    def damage(pace, epoch, logs=None):
        began(pace, epoch, logs)
        history.write_text("step,val_loss\n3,low\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "on_epoch_begin", damage)
        with pytest.warns(UserWarning, match=r"Step 6: no history could be written .*goes on\."):
            model, _ = run()
    assert int(model.optimizer.iterations.numpy()) == 6
