"""Training in float16: the scale of the loss, updates that are skipped, and what stays in range."""

import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from model_fixtures import (
    ROOT,
    assert_equal_values,
    random_batch,
    randomize,
    run_config,
    tiny_config,
    values_of,
)

import kbert.run.saving
from kbert.config import PretrainingConfig
from kbert.model.bert import encoder_of, pretraining_model
from kbert.model.layers import gelu
from kbert.pretraining import pretrain
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import load_run
from kbert.run.errors import TrainingError
from kbert.step.loss_scale import FIRST_SCALE, GROWS_AFTER, LEAST_SCALE, LossScale
from kbert.step.objective import pretraining_objective

pytest_plugins = ["model_fixtures"]

NOT_FINITE = 3e38
"""A scale at which gradients are beyond float16."""
ON_JAX = keras.backend.backend() == "jax"


def half_precision_model(dtype="mixed_float16", accumulate=1, recompute=False):
    bert = tiny_config(num_layers=1, dropout=0.3)
    model = pretraining_model(bert, seed=7, dtype=dtype, recompute=recompute)
    randomize(model.trainable_variables, seed=3, scale=0.1)
    model.compile(
        **pretraining_objective(learning_rate=1e-3, steps=20, warmup_steps=0), accumulate=accumulate
    )
    model.optimizer.build(model.trainable_variables)
    return model


def losses(model, number=6):
    """The loss of each of so many updates on one batch."""
    batch = random_batch(batch_size=6)
    logs = []
    for _ in range(number):
        model.reset_metrics()
        logs.append(model.train_on_batch(*batch, return_dict=True))
    return [float(one["loss"]) for one in logs], logs[-1]


def scale_of(model):
    return [float(variable.numpy()) for variable in model.loss_scale.variables]


@pytest.mark.parametrize(
    ("before", "is_finite", "after"),
    [
        ((8.0, 0, 0), True, (8.0, 1, 0)),
        ((8.0, 7, 3), False, (4.0, 0, 4)),
        ((8.0, GROWS_AFTER - 1, 2), True, (16.0, 0, 2)),
        ((8.0, GROWS_AFTER - 1, 2), False, (4.0, 0, 3)),
    ],
)
def test_the_scale_is_halved_and_doubled(before, is_finite, after):
    values = [np.float32(before[0]), *map(np.int32, before[1:])]
    found = LossScale.following(
        [ops.convert_to_tensor(value) for value in values], ops.convert_to_tensor(is_finite)
    )
    assert tuple(float(value) for value in found) == after
    assert [keras.backend.standardize_dtype(value.dtype) for value in found] == [
        "float32",
        "int32",
        "int32",
    ]


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"accumulate": 3, "recompute": True}, marks=pytest.mark.long)],
    ids=str,
)
def test_it_learns_as_float32_does(options):
    single, _ = losses(half_precision_model("float32", **options))
    half, logs = losses(half_precision_model(**options))
    np.testing.assert_allclose(half, single, atol=0.01)
    assert half[-1] < half[0] - 0.3
    assert {name: float(logs[name]) for name in LossScale.FIGURES} == {
        "loss_scale": FIRST_SCALE,
        "skipped_updates": 0,
    }


@pytest.mark.usefixtures("eager_steps")
def test_without_a_scale_gradients_are_lost():
    """What the scale is for: with a small one, more gradients are 0."""

    def zeros(scale):
        model = half_precision_model()
        model.loss_scale.variables[0].assign(scale)
        losses(model, 1)
        momentums = [one.numpy() for one in model.optimizer.variables if "velocity" in one.path]
        return np.mean(np.concatenate([one.ravel() for one in momentums]) == 0)

    assert zeros(1e-5) > 2 * zeros(FIRST_SCALE)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"accumulate": 2}, marks=pytest.mark.long)], ids=str
)
def test_an_update_with_an_overflow_changes_nothing(options):
    model = half_precision_model(**options)
    losses(model, 2)
    model.loss_scale.variables[0].assign(NOT_FINITE)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    scaling = {variable.path for variable in model.loss_scale.variables}
    counter = model.optimizer.iterations.path
    kept = [one for one in variables if one.path not in {*scaling, counter}]
    before = values_of(kept)
    _, logs = losses(model, 1)
    assert_equal_values(values_of(kept), before)
    assert int(model.optimizer.iterations.numpy()) == 3
    halved = np.float32(NOT_FINITE) / 2
    assert scale_of(model) == [halved, 0, 1]
    assert (float(logs["loss_scale"]), int(logs["skipped_updates"])) == (halved, 1)
    # The next one that fits is made.
    model.loss_scale.variables[0].assign(FIRST_SCALE)
    losses(model, 1)
    assert scale_of(model) == [FIRST_SCALE, 1, 1]
    assert any((values_of(kept)[path] != value).any() for path, value in before.items())


def test_a_model_that_is_compiled_again_keeps_its_scale():
    model = half_precision_model()
    model.loss_scale.variables[0].assign(8.0)
    number = len(model.optimizer.variables)
    model.compile(model.optimizer, model.loss)
    assert scale_of(model) == [8.0, 0, 0]
    assert len(model.optimizer.variables) == number


def test_padding_is_not_attended_to():
    model = pretraining_model(tiny_config(), dtype="mixed_float16")
    randomize(model.variables, seed=3)
    x, _, _ = random_batch()
    encoder = encoder_of(model)
    x = {name: x[name] for name in encoder.input}
    other = x | {"token_ids": np.where(x["padding_mask"], x["token_ids"], 7)}
    one, another = (np.asarray(encoder(some)["sequence_output"]) for some in (x, other))
    inside = x["padding_mask"].astype(bool)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one[inside], another[inside])


@pytest.mark.parametrize("exact", [False, True])
def test_gelu_stays_in_range(exact):
    values = ops.convert_to_tensor(np.array([-60000, -300, 0, 300, 60000]), "float16")
    assert np.asarray(gelu(values, exact)).tolist() == [0, 0, 0, 300, 60000]
    assert keras.backend.standardize_dtype(gelu(values, exact).dtype) == "float16"


@pytest.mark.skipif(ON_JAX, reason="this is the process of JAX")
@pytest.mark.long
def test_all_of_it_on_jax():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


SETTINGS = PretrainingConfig(
    steps=12, batch_size=8, evaluate_every=6, checkpoint_every=4, seed=5, precision="float16"
)


@pytest.fixture
def first_scale(monkeypatch):
    """A function that sets the scale that training starts with."""
    return lambda scale: monkeypatch.setattr("kbert.step.loss_scale.FIRST_SCALE", scale)


@pytest.mark.skipif(ON_JAX, reason="`pretrain` is the same on both")
def test_a_run_says_what_it_skips_and_resumes_with_its_scale(
    tiny_records, tmp_path, first_scale, monkeypatch, capsys
):
    """Its first scale is too large by some powers of two, so that it skips some updates."""
    first_scale(2.0**24)

    def run(name):
        return pretrain(
            *(tiny_records, tmp_path / name), bert=run_config(), pretraining=SETTINGS, verbose=2
        )

    model, _ = run("whole")
    scale, _, skipped = scale_of(model)
    assert 0 < skipped < 11 and scale == 2.0 ** (24 - skipped)
    assert f"; {skipped:.0f} updates skipped, whose gradients float16" in capsys.readouterr().out
    rows = load_run(tmp_path / "whole").history.rows()
    assert (rows[-1]["loss_scale"], rows[-1]["skipped_updates"]) == (scale, skipped)
    # Stopped in the middle, and continued.
    save = kbert.run.saving.save_checkpoint

    def save_or_stop(directory, model, step, **options):
        if step == 6:
            raise KeyboardInterrupt
        return save(directory, model, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr("kbert.run.saving.save_checkpoint", save_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    assert [path.name for path in list_checkpoints(tmp_path / "parts/checkpoints")] == [
        "step-000000004"
    ]
    again, _ = run("parts")
    assert_equal_values(
        values_of([*again.variables, *again.optimizer.variables]),
        values_of([*model.variables, *model.optimizer.variables]),
    )


@pytest.mark.skipif(ON_JAX, reason="`pretrain` is the same on both")
def test_gradients_that_no_scale_makes_finite_end_the_run(tiny_records, tmp_path, first_scale):
    first_scale(LEAST_SCALE)

    def never(gradients, scale):
        return list(gradients), ops.convert_to_tensor(False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossScale, "unscaled", staticmethod(never))
        with pytest.raises(
            TrainingError,
            match=r"^Step 1: expected finite gradients\. Received: infinity or NaN in float16 in .*"
            r"; there is no checkpoint yet; try a lower learning rate in another directory\.$",
        ):
            pretrain(
                *(tiny_records, tmp_path / "run"),
                bert=run_config(),
                pretraining=dataclasses.replace(SETTINGS, steps=2, evaluate_every=2),
                verbose=0,
            )
