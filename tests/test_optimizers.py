"""BERT's AdamW against Google's in plain NumPy and against torch, and the learning rate against Google's formula."""

import keras
import numpy as np
import pytest
import torch
from model_fixtures import tiny_config

from kbert.model import pretraining_model
from kbert.optimizers import BertAdamW, WarmupDecay

SHAPES = {"kernel": (5, 7), "bias": (7,), "gamma": (3,), "beta": (3,), "embeddings": (11, 2), "position_embeddings": (2, 3)}
DECAYED = {"kernel", "embeddings", "position_embeddings"}


def start():
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients(step):
    """Gradients whose global norm is far above 1 at even steps and below 1 at odd ones, each away from 0."""
    draw = np.random.default_rng(100 + step)
    scale = 1.0 if step % 2 == 0 else 0.03
    return {
        name: (scale * draw.choice([-1, 1], shape) * draw.uniform(0.5, 1.5, shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def run_ours(optimizer, num_steps):
    """The variables after `num_steps` updates, by name."""
    variables = [keras.Variable(value, name=name) for name, value in start().items()]
    optimizer.build(variables)
    for step in range(num_steps):
        optimizer.apply([gradients(step)[variable.name] for variable in variables], variables)
    return {variable.name: variable.numpy() for variable in variables}


def google_rate(step, peak, steps, warmup_steps):
    """create_optimizer of google-research/bert (optimization.py)."""
    rate = peak * (1 - min(step, steps) / steps)
    if warmup_steps:
        is_warmup = float(step < warmup_steps)
        rate = (1 - is_warmup) * rate + is_warmup * peak * step / warmup_steps
    return rate


def google_adam(num_steps, rate, weight_decay=0.01, clip_norm=1.0):
    """AdamWeightDecayOptimizer of google-research/bert after clip_by_global_norm, float64."""
    weights = {name: np.float64(value) for name, value in start().items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(num_steps):
        grads = {name: np.float64(value) for name, value in gradients(step).items()}
        norm = np.sqrt(sum((value**2).sum() for value in grads.values()))
        for name, weight in weights.items():
            grad = grads[name] * clip_norm / max(norm, clip_norm)
            m[name] = 0.9 * m[name] + 0.1 * grad
            v[name] = 0.999 * v[name] + 0.001 * grad**2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name in DECAYED:
                update += weight_decay * weight
            weights[name] = weight - rate(step) * update
    return weights


def test_gradients_of_the_test_are_clipped_at_every_other_step():
    norms = [np.sqrt(sum((value**2).sum() for value in gradients(step).values())) for step in range(20)]
    assert [norm > 1 for norm in norms] == [True, False] * 10


def test_without_bias_correction_it_is_googles_optimizer():
    actual = run_ours(BertAdamW(WarmupDecay(0.01, 23, 5)), 20)
    expected = google_adam(20, lambda step: google_rate(step, 0.01, 23, 5))
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)
        assert np.abs(value - start()[name]).max() > 0.01


def test_decay_is_strong_enough_to_be_seen():
    actual = run_ours(BertAdamW(0.01, weight_decay=0.5), 20)
    without = run_ours(BertAdamW(0.01, weight_decay=0.0), 20)
    for name, value in google_adam(20, lambda step: 0.01, weight_decay=0.5).items():
        np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)
        assert (np.abs(actual[name] - without[name]).max() > 0.01) == (name in DECAYED), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_bias_correction_it_is_that_of_torch(weight_decay):
    optimizer = BertAdamW(1e-3, weight_decay=weight_decay, bias_correction=True, global_clipnorm=None)
    actual = run_ours(optimizer, 20)
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
    groups = [
        {"params": [p for name, p in parameters.items() if name in DECAYED], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters.items() if name not in DECAYED], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-6)
    for step in range(20):
        for name, value in gradients(step).items():
            parameters[name].grad = torch.tensor(value)
        theirs.step()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(actual[name], parameter.detach().numpy(), atol=3e-6, err_msg=name)
        assert np.abs(actual[name] - start()[name]).max() > 1e-3


def test_bias_correction_makes_a_difference():
    plain, corrected = run_ours(BertAdamW(1e-3), 3), run_ours(BertAdamW(1e-3, bias_correction=True), 3)
    assert np.abs(plain["kernel"] - corrected["kernel"]).max() > 1e-4


def test_of_a_model_biases_and_normalisation_alone_do_not_decay():
    model = pretraining_model(tiny_config())
    optimizer = BertAdamW(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    optimizer.apply([np.zeros(variable.shape, np.float32) for variable in model.trainable_variables])
    for variable, value in zip(model.trainable_variables, before, strict=True):
        excluded = variable.path.endswith(("/bias", "/gamma", "/beta"))
        np.testing.assert_allclose(variable, value if excluded else 0.95 * value, rtol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(23, 5), (23, 0), (23, 1), (23, 23), (1, 0)])
def test_schedule_is_googles_at_every_step(steps, warmup_steps):
    schedule = WarmupDecay(0.03, steps, warmup_steps)
    actual = [float(schedule(step)) for step in range(steps + 3)]
    expected = [google_rate(step, 0.03, steps, warmup_steps) for step in range(steps + 3)]
    np.testing.assert_allclose(actual, expected, atol=1e-8)


def test_schedule_in_full():
    schedule = WarmupDecay(0.8, 8, 2)
    expected = [0.0, 0.4, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    np.testing.assert_allclose([float(schedule(step)) for step in range(10)], expected, atol=1e-7)


def test_the_first_update_has_the_rate_of_step_zero():
    after = run_ours(BertAdamW(WarmupDecay(0.01, 23, 5)), 1)
    np.testing.assert_array_equal(after["kernel"], start()["kernel"])


def test_round_trips_through_configurations():
    optimizer = BertAdamW(
        WarmupDecay(0.01, 23, 5), weight_decay=0.5, beta_1=0.8, beta_2=0.99, epsilon=1e-4, global_clipnorm=0.7, name="x"
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is BertAdamW
    assert again.get_config() == optimizer.get_config()
    expected = run_ours(optimizer, 7)
    for name, value in run_ours(again, 7).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert BertAdamW.from_config(BertAdamW(bias_correction=True).get_config()).bias_correction is True
    schedule = WarmupDecay(0.03, 23, 5)
    assert WarmupDecay.from_config(schedule.get_config()).get_config() == schedule.get_config()


def test_defaults_are_those_of_bert():
    optimizer = BertAdamW()
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-6)
    assert (optimizer.weight_decay, optimizer.global_clipnorm, optimizer.bias_correction) == (0.01, 1.0, False)
