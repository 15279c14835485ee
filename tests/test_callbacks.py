"""What the callbacks of a run print, keep and decide, with a clock of the test."""

import itertools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from kbert.config import BertConfig, PretrainingConfig
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import Run
from kbert.run.errors import TrainingError, one_line_errors
from kbert.run.history import History, validation_loss
from kbert.run.pace import Pace, Timer
from kbert.run.progress import Lines, ProgressBar, duration
from kbert.run.saving import Checkpoints
from kbert.run.stops import Patience, is_exhausted
from tfrecords import Normalization

WEIGHTS = {"mlm": 1.0, "nsp": 1.0}
TRAIN = {
    "loss": 3.75,
    "mlm_loss": 3.0,  # Keras' mean of batches: not what is kept
    "mlm_cross_entropy": 3.25,
    "mlm_accuracy": 0.125,
    "nsp_loss": 0.75,
    "nsp_cross_entropy": 0.6875,
    "nsp_accuracy": 0.5,
}
HELD_OUT = {
    "val_loss": 3.5,
    "val_mlm_loss": 2.75,
    "val_mlm_cross_entropy": 2.875,
    "val_mlm_accuracy": 0.25,
    "val_nsp_loss": 0.75,
    "val_nsp_cross_entropy": 0.65625,
    "val_nsp_accuracy": 0.625,
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; set `clock.now`."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr("kbert.run.pace.time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def run(tmp_path):
    """A run of 60 steps of 8 sequences, with checkpoints at every fourth."""
    shape = {"num_layers": 1, "hidden_size": 26, "num_heads": 2, "intermediate_size": 37}
    run = Run(
        directory=tmp_path / "run",
        bert=BertConfig(vocabulary_size=53, **shape),
        pretraining=PretrainingConfig(steps=60, batch_size=8, checkpoint_every=4, patience=2),
        sequence_length=23,
        normalization=Normalization(cased=False),
        pairs="nsp",
        records_sha256="0" * 64,
    )
    run.claim()
    return run


def small_model():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile(keras.optimizers.SGD(0.0078125), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.stop_training = False
    return model


class Callbacks:
    """The callbacks of a run from step 10 on, called as `fit` calls them."""

    def __init__(self, run, clock, verbose=0, writes=True):
        self.pace = Pace(10, 8)
        self.history = History(
            run.history,
            self.pace,
            WEIGHTS,
            pairs="nsp",
            curves=run.directory / "curves.png",
            baselines=None,
        )
        self.checkpoints = Checkpoints(
            run.checkpoints, self.pace, every=4, keep=3, best=lambda: None, writes=writes
        )
        lines = Lines(
            self.pace,
            60,
            WEIGHTS,
            speed=lambda rate: f"{rate:g} a second",
            between=verbose == 2,
        )
        printers = [lines] if verbose else []
        writers = [self.history] if writes else []
        self._all = [self.pace, *printers, *writers, self.checkpoints]
        self._clock = clock
        self.model = small_model()
        for callback in self._all:
            callback.set_model(self.model)

    def call(self, name, *arguments):
        for callback in self._all:
            getattr(callback, name)(*arguments)

    def epoch(self, steps=5, logs=TRAIN | HELD_OUT, step_seconds=0.4):
        """`steps` updates, and 2 s of evaluation where there is one."""
        self.call("on_epoch_begin", 0)
        for batch in range(steps):
            self._clock.now += step_seconds
            self.call("on_train_batch_end", batch, TRAIN)
        if any(name.startswith("val_") for name in logs):
            self.call("on_test_begin")
            self._clock.now += 2
        self.call("on_epoch_end", 0, logs)


def test_the_bar_shows_steps_figures_and_those_of_validation(capsys):
    pace = Pace(3, 8)
    bar = ProgressBar(pace, 2000, WEIGHTS)
    bar.set_params({"steps": 1007})
    for number in range(1, 3):
        bar.on_epoch_begin(number)
        assert (
            capsys.readouterr().out
            == f"step {1007 * number - 1004:,} to {1007 * number + 3:,} of 2,000\n"
        )
        bar.on_train_batch_end(5, {name: 2 * value for name, value in TRAIN.items()})
        bar.on_train_batch_end(1006, TRAIN)
        pace.step += 1007
        said = capsys.readouterr().out
        # The last figures, and not a mean with those before.
        assert said.rstrip().endswith(
            "loss: 3.7500 - mlm_loss: 3.2500 - mlm_accuracy: 0.1250 - nsp_loss: 0.6875 - "
            "nsp_accuracy: 0.5000"
        )
        assert "1007/1007" in said
        assert "cross_entropy" not in said
        bar.on_epoch_end(number, TRAIN | HELD_OUT)
        assert capsys.readouterr().out == (
            "validation - loss: 3.5312 - mlm_loss: 2.8750 - mlm_accuracy: 0.2500 - "
            "nsp_loss: 0.6562 - nsp_accuracy: 0.6250\n"
        )
    bar.on_epoch_end(2, TRAIN)
    assert capsys.readouterr().out == ""


def test_a_row_of_history_has_speed_and_figures(run, clock):
    callbacks = Callbacks(run, clock)
    callbacks.epoch()
    assert callbacks.pace.step == 15
    (row,) = run.history.rows()
    assert row == {
        "step": 15,
        "seconds": 4.0,
        "sequences_per_second": 20.0,  # 5 updates of 8 in the 2 s before the evaluation
        "loss": 3.75,
        "mlm_loss": 3.25,
        "mlm_accuracy": 0.125,
        "nsp_loss": 0.6875,
        "nsp_accuracy": 0.5,
        "val_loss": 3.53125,  # the sum of the two, and not Keras' mean over batches
        "val_mlm_loss": 2.875,
        "val_mlm_accuracy": 0.25,
        "val_nsp_loss": 0.65625,
        "val_nsp_accuracy": 0.625,
        "learning_rate": 0.0078125,
    }
    assert (run.directory / "history.csv").read_text().splitlines() == [
        ",".join(row),
        "15,4.0,20.0,3.75,3.25,0.125,0.6875,0.5,3.53125,2.875,0.25,0.65625,0.625,0.0078125",
    ]
    assert (run.directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in list_checkpoints(run.checkpoints)] == [
        f"step-{step:09d}" for step in (10 + 2, 15)
    ]


def test_without_validation_all_time_is_training(run, clock):
    Callbacks(run, clock).epoch(steps=3, logs=TRAIN, step_seconds=0.5)
    (row,) = run.history.rows()
    assert (row["step"], row["seconds"], row["sequences_per_second"]) == (13, 1.5, 16.0)
    assert not any(name.startswith("val_") for name in row)


def test_rows_come_between_evaluations_too(run, clock, monkeypatch):
    monkeypatch.setattr("kbert.run.history.ROWS_EVERY", 60.0)  # other tests have none
    Callbacks(run, clock).epoch(steps=5, step_seconds=25.0)
    rows = run.history.rows()
    # After 75 s, the first step that more than a minute has passed at, and at the end.
    assert [row["step"] for row in rows] == [13, 15]
    assert (rows[0]["seconds"], rows[0]["mlm_loss"]) == (75.0, 3.25)
    assert not any(name.startswith("val_") for name in rows[0])
    assert run.history.validation_losses(15) == {15: 3.53125}


TRAIN_LINE = "mlm_loss 3.2500, mlm_accuracy 0.1250, nsp_loss 0.6875, nsp_accuracy 0.5000"


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (0, []),
        (1, ["step 15 of 60", "  20 a second; 36 seconds left"]),
        (
            2,
            [
                f"step 11 of 60: {TRAIN_LINE}",
                f"step 15 of 60: {TRAIN_LINE}, val_mlm_loss 2.8750, val_mlm_accuracy 0.2500, "
                "val_nsp_loss 0.6562, val_nsp_accuracy 0.6250",
                "  20 a second; 36 seconds left",
            ],
        ),
    ],
)
def test_lines_of_an_evaluation(run, clock, capsys, verbose, lines):
    Callbacks(run, clock, verbose).epoch()
    assert capsys.readouterr().out.splitlines() == lines  # 45 steps, of which 5 took 4 s


def test_a_log_has_lines_from_the_start(run, clock, capsys):
    Callbacks(run, clock, verbose=2).epoch(steps=30, logs=TRAIN, step_seconds=6.0)
    *between, last, rate = capsys.readouterr().out.splitlines()
    # After the first update, and then 12, 24, 42, 102 and 162 s later: pauses of 10, 20, 40 and
    # 60 s, each up to the end of a step of 6 s.
    steps = [int(line.split()[1]) for line in between]
    assert steps[:2] == [11, 13]
    pauses = [6 * (late - early) for early, late in itertools.pairwise(steps)]
    assert pauses == [12, 24, 42, 60]
    # Compilation is in the time up to the first rate: no estimate follows from it.
    assert between[1] == f"step 13 of 60: {TRAIN_LINE}; 1.33333 a second"
    assert between[2].endswith("a second; 4.3 minutes left")
    assert (last, rate) == (f"step 40 of 60: {TRAIN_LINE}", "  1.33333 a second; 2.0 minutes left")


def test_a_timer_waits_longer_every_time(clock):
    timer, due = Timer(10.0, 60.0), []
    for _ in range(200):
        clock.now += 1
        if timer.is_due():
            due.append(clock.now - 100)
    assert due == [10, 30, 70, 130, 190]


def test_who_does_not_write_does_not(run, clock):
    callbacks = Callbacks(run, clock, writes=False)
    callbacks.epoch()
    assert callbacks.pace.step == 15
    assert [path.name for path in run.directory.iterdir()] == ["config.json"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_loss_that_is_not_a_number_stops(run, clock, loss):
    callbacks = Callbacks(run, clock)
    callbacks.epoch()
    said = (
        rf"^Step 16: expected a finite loss\. Received: {float(loss)}; the last good checkpoint is "
        r".*step-000000015; try"
    )
    with pytest.raises(TrainingError, match=said):
        callbacks.call("on_train_batch_end", 0, TRAIN | {"loss": loss})


def test_weights_that_are_not_numbers_are_not_saved(run, clock):
    callbacks = Callbacks(run, clock)
    callbacks.model.trainable_variables[0].assign(np.full((3, 2), np.nan, np.float32))
    callbacks.call("on_epoch_begin", 0)
    with pytest.raises(
        TrainingError,
        match=r"^Step 12: expected finite weights.*; there is no checkpoint yet; try a lower",
    ):
        for batch in range(2):
            callbacks.call("on_train_batch_end", batch, TRAIN)
    assert list_checkpoints(run.checkpoints) == []


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([2.0, 3.0], 1, True),
        ([2.0, 2.0], 1, True),  # as good is not better
        ([2.0, 3.0], 2, False),
        ([2.0, 3.0, 2.5], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([3.0, 2.0, 2.5, 2.4], 2, True),
        ([3.0, 4.0, 5.0, 6.0], None, False),
    ],
)
def test_patience_is_exhausted(losses, patience, expected):
    assert is_exhausted(losses, patience) is expected


def test_patience_counts_what_was_before_a_resumption(run):
    for step, loss in ((5, 3.0), (10, 2.0), (15, 2.5), (20, 1.0)):
        run.history.append({"step": step, "val_loss": loss})
    pace = Pace(15, 8)
    # What came after step 15 is done once more.
    patience = Patience(pace, 2, run.history.validation_losses(15), WEIGHTS, saved={5, 10, 15})
    patience.set_model(small_model())
    pace.step = 20
    patience.on_epoch_end(0, {"loss": 0.5})  # no evaluation
    assert not patience.model.stop_training
    # What counts is the weighted sum of the exact losses.
    patience.on_epoch_end(
        0, {"val_loss": 0.5, "val_mlm_cross_entropy": 1.5, "val_nsp_cross_entropy": 0.75}
    )
    assert patience.model.stop_training
    assert patience.best_step == 10
    assert Patience(pace, None, {10: 2.0}, WEIGHTS, saved={10}).best_step is None


def test_the_validation_loss_is_weighted():
    weights = {"mlm": 0.5, "nsp": 2.0}
    assert validation_loss(HELD_OUT, weights) == 0.5 * 2.875 + 2 * 0.65625
    assert validation_loss(HELD_OUT, {"mlm": 0.5}) == 0.5 * 2.875


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        tf.errors.ResourceExhaustedError(None, None, "OOM"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
    ids=repr,
)
def test_a_lack_of_memory_is_one_line(error):
    message = (
        r"^Out of memory\. Try --accumulate N \(micro-batches\), --recompute \(gradient "
        r"checkpointing\), or, for evaluations too, a smaller --batch-size\.$"
    )
    with (
        pytest.raises(TrainingError, match=message),
        one_line_errors("one"),
    ):
        raise error
    with (
        pytest.raises(ValueError, match="something else"),
        one_line_errors("one"),
    ):
        raise ValueError("something else")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (0.4, "0 seconds"),
        (59.6, "60 seconds"),
        (600, "10.0 minutes"),
        (15_000, "4.2 hours"),
        (700_000, "8.1 days"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
