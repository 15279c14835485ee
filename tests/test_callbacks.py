"""What the callbacks of a run print, keep and decide, with a clock of the test."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from kbert.config import BertConfig, PretrainingConfig
from kbert.run import directory as runs
from kbert.run.callbacks import (
    Keeper,
    Patience,
    Progress,
    _duration,
    held_out_loss,
    is_exhausted,
)
from kbert.run.checkpoints import list_checkpoints
from kbert.run.errors import TrainingError, one_line_errors

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
    monkeypatch.setattr(
        "kbert.run.callbacks.time", types.SimpleNamespace(monotonic=lambda: clock.now)
    )
    return clock


@pytest.fixture
def run(tmp_path):
    """A run of 60 steps of 8 sequences, with checkpoints at every fourth."""
    shape = {"num_layers": 1, "hidden_size": 26, "num_heads": 2, "intermediate_size": 37}
    run = runs.Run(
        directory=tmp_path / "run",
        bert=BertConfig(vocabulary_size=53, **shape),
        pretraining=PretrainingConfig(steps=60, batch_size=8, checkpoint_every=4, patience=2),
        sequence_length=23,
        cased=False,
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


def keeper_of(run, start=10, verbose=2, writes=True):
    keeper = Keeper(
        run,
        start,
        reference=None,
        speed=lambda rate: f"{rate:g} a second",
        verbose=verbose,
        writes=writes,
    )
    keeper.set_model(small_model())
    return keeper


def epoch(keeper, clock, steps=5, logs=TRAIN | HELD_OUT):
    """`steps` updates in 2 s of the clock, and 2 s of evaluation where there is one."""
    keeper.on_epoch_begin(0)
    for batch in range(steps):
        keeper.on_train_batch_end(batch, TRAIN)
    clock.now += 2
    if any(name.startswith("val_") for name in logs):
        keeper.on_test_begin()
        clock.now += 2
    keeper.on_epoch_end(0, logs)


def test_progress_prints_steps_figures_and_held_out_figures(capsys):
    progress = Progress(3, 2000)
    progress.set_params({"steps": 1007})
    for number in range(1, 3):
        progress.on_epoch_begin(number)
        assert (
            capsys.readouterr().out
            == f"step {1007 * number - 1004:,} to {1007 * number + 3:,} of 2,000\n"
        )
        progress.on_train_batch_end(5, {name: 2 * value for name, value in TRAIN.items()})
        progress.on_train_batch_end(1006, TRAIN)
        bar = capsys.readouterr().out
        # The last figures as Keras has them, and not a mean with those before.
        assert bar.rstrip().endswith(
            "loss: 3.7500 - mlm_loss: 3.0000 - mlm_accuracy: 0.1250 - nsp_loss: 0.7500 - "
            "nsp_accuracy: 0.5000"
        )
        assert "1007/1007" in bar
        assert "cross_entropy" not in bar
        progress.on_epoch_end(number, TRAIN | HELD_OUT)
        assert capsys.readouterr().out == (
            "held-out - loss: 3.5000 - mlm_loss: 2.7500 - mlm_accuracy: 0.2500 - nsp_loss: 0.7500 "
            "- nsp_accuracy: 0.6250\n"
        )
    progress.on_epoch_end(2, TRAIN)
    assert capsys.readouterr().out == ""


def test_a_row_of_history_has_speed_and_figures(run, clock):
    keeper = keeper_of(run, verbose=0)
    epoch(keeper, clock)
    assert keeper.step == 15
    (row,) = runs.read_history(run)
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


def test_without_held_out_records_all_time_is_training(run, clock):
    epoch(keeper_of(run, verbose=0), clock, steps=3, logs=TRAIN)
    (row,) = runs.read_history(run)
    assert (row["step"], row["seconds"], row["sequences_per_second"]) == (13, 2.0, 12.0)
    assert not any(name.startswith("val_") for name in row)


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (0, []),
        (1, ["step 15 of 60", "  20 a second; 0:00:36 left"]),
        (
            2,
            [
                "step 15 of 60: mlm_loss 3.2500, mlm_accuracy 0.1250, nsp_loss 0.6875, "
                "nsp_accuracy 0.5000, "
                "val_mlm_loss 2.8750, val_mlm_accuracy 0.2500, val_nsp_loss 0.6562, "
                "val_nsp_accuracy 0.6250",
                "  20 a second; 0:00:36 left",
            ],
        ),
    ],
)
def test_lines_of_an_evaluation(run, clock, capsys, verbose, lines):
    epoch(keeper_of(run, verbose=verbose), clock)
    assert capsys.readouterr().out.splitlines() == lines  # 45 steps, of which 5 took 4 s


def test_who_does_not_write_does_not(run, clock):
    keeper = keeper_of(run, verbose=0, writes=False)
    epoch(keeper, clock)
    assert keeper.step == 15
    assert [path.name for path in run.directory.iterdir()] == ["config.json"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_loss_that_is_not_a_number_stops(run, clock, loss):
    keeper = keeper_of(run, verbose=0)
    epoch(keeper, clock)
    said = (
        rf"^Step 16: expected a finite loss\. Received: {float(loss)}; the last good checkpoint is "
        r".*step-000000015; try"
    )
    with pytest.raises(TrainingError, match=said):
        keeper.on_train_batch_end(0, TRAIN | {"loss": loss})


def test_weights_that_are_not_numbers_are_not_saved(run, clock):
    keeper = keeper_of(run, verbose=0)
    keeper.model.trainable_variables[0].assign(np.full((3, 2), np.nan, np.float32))
    keeper.on_epoch_begin(0)
    with pytest.raises(
        TrainingError,
        match=r"^Step 12: expected finite weights.*; there is no checkpoint yet; try a lower",
    ):
        for batch in range(2):
            keeper.on_train_batch_end(batch, TRAIN)
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
        runs.append_history(run, {"step": step, "val_loss": loss})
    patience = Patience(run, 15)  # what came after step 15 is done anew
    patience.set_model(small_model())
    patience.on_epoch_end(0, {"loss": 0.5})  # no evaluation
    assert not patience.model.stop_training
    # What counts is the weighted sum of the exact losses.
    patience.on_epoch_end(
        0, {"val_loss": 0.5, "val_mlm_cross_entropy": 1.5, "val_nsp_cross_entropy": 0.75}
    )
    assert patience.model.stop_training


def test_the_held_out_loss_is_weighted():
    pretraining = PretrainingConfig(mlm_weight=0.5, nsp_weight=2.0)
    assert held_out_loss(HELD_OUT, pretraining) == 0.5 * 2.875 + 2 * 0.65625
    alone = {name: value for name, value in HELD_OUT.items() if "nsp" not in name}
    assert held_out_loss(alone, pretraining) == 0.5 * 2.875


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
        r"^Expected memory for a step\. Received: too little; take --accumulate, .* or a smaller "
        r"--batch-size\.$"
    )
    with (
        pytest.raises(TrainingError, match=message),
        one_line_errors(types.SimpleNamespace(name="one")),
    ):
        raise error
    with (
        pytest.raises(ValueError, match="something else"),
        one_line_errors(types.SimpleNamespace(name="one")),
    ):
        raise ValueError("something else")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00:00"),
        (0.4, "0:00:00"),
        (59.6, "0:01:00"),
        (3599, "0:59:59"),
        (3725, "1:02:05"),
        (360_000, "100:00:00"),
    ],
)
def test_durations(seconds, words):
    assert _duration(seconds) == words
