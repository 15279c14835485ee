"""BERT's AdamW against Google's in plain NumPy and against torch, LAMB against the paper's, both on
JAX; the learning rate."""

import json

import forked
import keras
import numpy as np
import pytest
import torch
from model_fixtures import tiny_config

from kbert.model.bert import pretraining_model
from kbert.step.optimizers import OPTIMIZERS, BertAdamW, BertLamb, WarmupDecay
from tfrecords import InputError

SHAPES = {
    "kernel": (5, 7),
    "bias": (7,),
    "gamma": (3,),
    "beta": (3,),
    "embeddings": (11, 2),
    "position_embeddings": (2, 3),
}
DECAYED = {"kernel", "embeddings", "position_embeddings"}


def start():
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients(step):
    """Gradients whose global norm is far above 1 at even steps and below 1 at odd ones, each away
    from 0."""
    draw = np.random.default_rng(100 + step)
    scale = 1.0 if step % 2 == 0 else 0.03
    return {
        name: (scale * draw.choice([-1, 1], shape) * draw.uniform(0.5, 1.5, shape)).astype(
            np.float32
        )
        for name, shape in SHAPES.items()
    }


def run_ours(optimizer, num_steps):
    """The variables after `num_steps` updates, by name."""
    variables = [keras.Variable(value, name=name) for name, value in start().items()]
    optimizer.build(variables)
    for step in range(num_steps):
        optimizer.apply([gradients(step)[variable.name] for variable in variables], variables)
    return {variable.name: variable.numpy() for variable in variables}


def clipped_gradients(step, clip_norm=1.0):
    """The gradients of a step, float64, after clip_by_global_norm."""
    grads = {name: np.float64(value) for name, value in gradients(step).items()}
    norm = np.sqrt(sum((value**2).sum() for value in grads.values()))
    return {name: value * clip_norm / max(norm, clip_norm) for name, value in grads.items()}


def google_rate(step, peak, steps, warmup_steps):
    """create_optimizer of google-research/bert (optimization.py)."""
    rate = peak * (1 - min(step, steps) / steps)
    if warmup_steps:
        is_warmup = float(step < warmup_steps)
        rate = (1 - is_warmup) * rate + is_warmup * peak * step / warmup_steps
    return rate


def google_adam(num_steps, rate, weight_decay=0.01):
    """AdamWeightDecayOptimizer of google-research/bert after clip_by_global_norm, float64."""
    weights = {name: np.float64(value) for name, value in start().items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(num_steps):
        grads = clipped_gradients(step)
        for name, weight in weights.items():
            grad = grads[name]
            m[name] = 0.9 * m[name] + 0.1 * grad
            v[name] = 0.999 * v[name] + 0.001 * grad**2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name in DECAYED:
                update += weight_decay * weight
            weights[name] = weight - rate(step) * update
    return weights


def plain_lamb(num_steps, rate, weight_decay=0.01):
    """You et al. 2020, algorithm 2, float64, with the exclusions of BERT: biases and normalisation
    get plain Adam."""
    weights = {name: np.float64(value) for name, value in start().items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(num_steps):
        for name, g in clipped_gradients(step).items():
            m[name] = 0.9 * m[name] + (1 - 0.9) * g
            v[name] = 0.999 * v[name] + (1 - 0.999) * g**2
            m_hat = m[name] / (1 - 0.9 ** (step + 1))
            v_hat = v[name] / (1 - 0.999 ** (step + 1))
            r = m_hat / (np.sqrt(v_hat) + 1e-6)
            ratio = 1.0
            if name in DECAYED:
                r += weight_decay * weights[name]
                ratio = np.linalg.norm(weights[name]) / np.linalg.norm(r)
            weights[name] = weights[name] - rate(step) * ratio * r
    return weights


def test_gradients_of_the_test_are_clipped_at_every_other_step():
    norms = [
        np.sqrt(sum((value**2).sum() for value in gradients(step).values())) for step in range(20)
    ]
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


def torch_adam(num_steps, weight_decay, epsilon=1e-6):
    """torch.optim.AdamW on gradients that are not clipped."""
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
    groups = [
        {
            "params": [p for name, p in parameters.items() if name in DECAYED],
            "weight_decay": weight_decay,
        },
        {
            "params": [p for name, p in parameters.items() if name not in DECAYED],
            "weight_decay": 0.0,
        },
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=epsilon)
    for step in range(num_steps):
        for name, value in gradients(step).items():
            parameters[name].grad = torch.tensor(value)
        theirs.step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_bias_correction_it_is_that_of_torch(weight_decay):
    optimizer = BertAdamW(
        1e-3, weight_decay=weight_decay, bias_correction=True, global_clipnorm=None
    )
    actual = run_ours(optimizer, 20)
    for name, value in torch_adam(20, weight_decay).items():
        np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)
        assert np.abs(actual[name] - start()[name]).max() > 1e-3


def test_with_bias_correction_epsilon_is_that_of_torch():
    # An epsilon as large as the gradients shows on which side of the correction it is added.
    optimizer = BertAdamW(
        1e-3, weight_decay=0.1, epsilon=0.5, bias_correction=True, global_clipnorm=None
    )
    actual = run_ours(optimizer, 20)
    for name, value in torch_adam(20, 0.1, epsilon=0.5).items():
        # Each of 20 updates rounds weights of about 2 twice, by up to 1.2e-7.
        np.testing.assert_allclose(actual[name], value, atol=3e-6, err_msg=name)
        assert np.abs(actual[name] - start()[name]).max() > 1e-3


def test_bias_correction_makes_a_difference():
    plain, corrected = (
        run_ours(BertAdamW(1e-3), 3),
        run_ours(BertAdamW(1e-3, bias_correction=True), 3),
    )
    assert np.abs(plain["kernel"] - corrected["kernel"]).max() > 1e-4


def test_of_a_model_biases_and_normalisation_alone_do_not_decay():
    model = pretraining_model(tiny_config())
    optimizer = BertAdamW(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    optimizer.apply(
        [np.zeros(variable.shape, np.float32) for variable in model.trainable_variables]
    )
    for variable, value in zip(model.trainable_variables, before, strict=True):
        excluded = variable.path.endswith(("/bias", "/gamma", "/beta"))
        np.testing.assert_allclose(
            variable, value if excluded else 0.95 * value, rtol=1e-6, err_msg=variable.path
        )


@pytest.mark.parametrize("weight_decay", [0.01, 0.5])
def test_lamb_is_that_of_the_paper(weight_decay):
    actual = run_ours(BertLamb(WarmupDecay(0.01, 23, 5), weight_decay=weight_decay), 20)
    expected = plain_lamb(20, lambda step: google_rate(step, 0.01, 23, 5), weight_decay)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)
        assert np.abs(value - start()[name]).max() > 0.01


def lamb_step(name, weight, gradient, **options):
    """The variable after one update by LAMB with learning rate 0.1."""
    variable = keras.Variable(np.array(weight, np.float32), name=name)
    optimizer = BertLamb(0.1, global_clipnorm=None, **options)
    optimizer.build([variable])
    optimizer.apply([np.array(gradient, np.float32)], [variable])
    return variable.numpy()


def test_an_update_by_lamb_is_as_long_as_the_weight():
    # In the first update the corrected means are g and g squared: the direction is sign(g).
    np.testing.assert_allclose(
        lamb_step("kernel", [3.0, 4.0], [0.2, -0.7], weight_decay=0.0),
        [3, 4] - 0.5 / 2**0.5 * np.array([1, -1]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        lamb_step("bias", [3.0, 4.0], [0.2, -0.7], weight_decay=0.0), [2.9, 4.1], rtol=1e-5
    )
    # Without a gradient the decay alone has the direction, and the length is again that of the
    # weight.
    np.testing.assert_allclose(
        lamb_step("kernel", [3.0, 4.0], [0.0, 0.0], weight_decay=0.01), [2.7, 3.6], rtol=1e-5
    )
    np.testing.assert_array_equal(
        lamb_step("bias", [3.0, 4.0], [0.0, 0.0], weight_decay=0.01), [3.0, 4.0]
    )


def test_lamb_without_a_length_of_the_weight_or_of_the_update():
    np.testing.assert_allclose(
        lamb_step("kernel", [0.0, 0.0], [0.2, -0.7]), [-0.1, 0.1], rtol=1e-5
    )  # a ratio of 1
    np.testing.assert_array_equal(
        lamb_step("kernel", [3.0, 4.0], [0.0, 0.0], weight_decay=0.0), [3.0, 4.0]
    )
    np.testing.assert_array_equal(lamb_step("kernel", [0.0, 0.0], [0.0, 0.0]), [0.0, 0.0])


def test_of_a_model_biases_and_normalisation_alone_have_plain_adam_in_lamb():
    model = pretraining_model(tiny_config())
    optimizer = BertLamb(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    optimizer.apply(
        [np.zeros(variable.shape, np.float32) for variable in model.trainable_variables]
    )
    for variable, value in zip(model.trainable_variables, before, strict=True):
        excluded = variable.path.endswith(("/bias", "/gamma", "/beta"))
        np.testing.assert_allclose(
            variable, value if excluded else 0.9 * value, rtol=1e-5, err_msg=variable.path
        )


ON_JAX = """
import json, sys, keras, numpy as np
from kbert.step.optimizers import OPTIMIZERS, WarmupDecay
assert keras.backend.backend() == "jax"
values, kinds, result = np.load(sys.argv[1]), json.loads(sys.argv[2]), {}
names = sorted(name.removeprefix("start/") for name in values if name.startswith("start/"))
for number, (kind, options) in enumerate(kinds):
    variables = [keras.Variable(values[f"start/{name}"], name=name) for name in names]
    optimizer = OPTIMIZERS[kind](WarmupDecay(0.01, 23, 5, 2.0), **options)
    optimizer.build(variables)
    for step in range(20):
        optimizer.apply([values[f"{step}/{name}"] for name in names], variables)
    for name, variable in zip(names, variables):
        result[f"{number}/{name}"] = np.asarray(variable.value)
np.savez(sys.argv[3], **result)
"""


def test_on_jax_they_are_the_same(tmp_path):
    kinds = [("adamw", {}), ("adamw", {"bias_correction": True}), ("lamb", {})]
    values = {f"start/{name}": value for name, value in start().items()}
    values |= {
        f"{step}/{name}": value for step in range(20) for name, value in gradients(step).items()
    }
    np.savez(tmp_path / "values.npz", **values)
    words = [str(tmp_path / "values.npz"), json.dumps(kinds), str(tmp_path / "result.npz")]
    done = forked.run("-c", ON_JAX, *words, backend="jax")
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "result.npz") as actual:
        for number, (kind, options) in enumerate(kinds):
            expected = run_ours(OPTIMIZERS[kind](WarmupDecay(0.01, 23, 5, 2.0), **options), 20)
            for name, value in expected.items():
                np.testing.assert_allclose(
                    actual[f"{number}/{name}"], value, atol=1e-6, err_msg=f"{kind} {options} {name}"
                )


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


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (2.0, [0.0, 0.4, 0.45, 0.3125, 0.2, 0.1125, 0.05, 0.0125, 0.0, 0.0]),
        (0.5, [0.0, 0.4, *(0.8 * (left / 8) ** 0.5 for left in (6, 5, 4, 3, 2, 1)), 0.0, 0.0]),
    ],
)
def test_schedule_with_a_power(power, expected):
    schedule = WarmupDecay(0.8, 8, 2, power)
    np.testing.assert_allclose([float(schedule(step)) for step in range(10)], expected, atol=1e-7)


def test_the_first_update_has_the_rate_of_step_zero():
    after = run_ours(BertAdamW(WarmupDecay(0.01, 23, 5)), 1)
    np.testing.assert_array_equal(after["kernel"], start()["kernel"])


OTHERS = {
    "weight_decay": 0.5,
    "beta_1": 0.8,
    "beta_2": 0.99,
    "epsilon": 1e-4,
    "global_clipnorm": 0.7,
    "name": "x",
}


@pytest.mark.parametrize(
    "optimizer",
    [
        BertAdamW(WarmupDecay(0.01, 23, 5, 2.0), **OTHERS),
        BertAdamW(0.01, bias_correction=True, **OTHERS),
        BertLamb(WarmupDecay(0.01, 23, 5, 0.5), **OTHERS),
    ],
    ids=["adamw", "corrected", "lamb"],
)
def test_optimizers_survive_a_round_trip_through_their_configuration(optimizer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is type(optimizer)
    config = again.get_config()
    assert config == optimizer.get_config()
    assert {name: config[name] for name in OTHERS} == OTHERS
    expected = run_ours(optimizer, 7)
    for name, value in run_ours(again, 7).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_schedule_survives_a_round_trip_through_its_configuration():
    schedule = WarmupDecay(0.03, 23, 5, 2.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(again) is WarmupDecay
    assert (
        again.get_config()
        == schedule.get_config()
        == {"peak": 0.03, "steps": 23, "warmup_steps": 5, "power": 2.0}
    )


def test_what_berts_adamw_does_not_have_is_refused():
    with pytest.raises(
        InputError, match=r"^Expected .* no amsgrad\. Received: amsgrad=True; leave it out\.$"
    ):
        BertAdamW(amsgrad=True)


def test_defaults_are_those_of_bert():
    optimizer = BertAdamW()
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-6)
    assert (optimizer.weight_decay, optimizer.global_clipnorm, optimizer.bias_correction) == (
        0.01,
        1.0,
        False,
    )
    lamb = BertLamb()
    assert (lamb.beta_1, lamb.beta_2, lamb.epsilon, lamb.decay, lamb.global_clipnorm) == (
        0.9,
        0.999,
        1e-6,
        0.01,
        1.0,
    )
