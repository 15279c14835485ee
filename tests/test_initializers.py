"""The initial weights: their distribution, what they depend on, and that no backend has a part in
it."""

import json
import math

import forked
import keras
import numpy as np
import pytest
from model_fixtures import tiny_config

from kbert.model.bert import pretraining_model
from kbert.model.initializers import TruncatedNormal, kernel_initializer

SIGMAS = 5
"""How far a measured mean may lie from the expected one, in its standard deviations: 1 in 1.7
million by chance."""


def drawn(model):
    """The variables of a model that start from random numbers."""
    return [v for v in model.trainable_variables if "embeddings" in v.name or v.name == "kernel"]


def test_initial_weights_are_a_truncated_normal():
    model = pretraining_model(tiny_config(initializer_range=0.03))
    values = np.concatenate([variable.numpy().ravel() for variable in drawn(model)])
    assert len(values) > 10_000
    assert np.abs(values).max() <= 0.06
    # A standard normal cut at two standard deviations has a standard deviation of 0.87962 and a
    # kurtosis below a normal's.
    assert abs(values.std() / (0.03 * 0.87962) - 1) < SIGMAS / math.sqrt(2 * len(values))
    assert abs(values.mean()) < SIGMAS * 0.03 / math.sqrt(len(values))
    for variable in model.variables:
        if not any(variable is one for one in drawn(model)):
            assert (variable.numpy() == (1.0 if variable.name == "gamma" else 0.0)).all(), (
                variable.path
            )


def test_initial_weights_follow_from_the_seed_and_differ_everywhere():
    first, again, other = (
        drawn(pretraining_model(tiny_config(), seed=seed)) for seed in (11, 11, 12)
    )
    for one, same, changed in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one.numpy() != changed.numpy()).mean() > 0.9
    beginnings = {tuple(variable.numpy().ravel()[:5]) for variable in first}
    assert len(beginnings) == len(first)


def test_an_initializer_depends_on_its_whole_path():
    draws = [
        kernel_initializer(0.02, 0, *path)((5, 7)) for path in (("a", "b"), ("a", "c"), ("b", "b"))
    ]
    assert len({float(draw[0, 0]) for draw in draws}) == 3


def moments_of_the_cut_normal():
    """The second and the fourth moment of a standard normal cut at two standard deviations, by the
    trapezoidal rule."""
    x = np.linspace(-2, 2, 100_001)
    density = np.exp(-(x**2) / 2)
    return [np.trapezoid(x**n * density, x) / np.trapezoid(density, x) for n in (2, 4)]


def test_moments_are_those_of_a_normal_cut_at_two_standard_deviations():
    second, fourth = moments_of_the_cut_normal()
    assert math.sqrt(second) == pytest.approx(0.87962, abs=1e-5)
    values = np.float64(TruncatedNormal(stddev=1.0, seed=7)((1009, 997)))
    count = values.size
    assert np.abs(values).max() <= 2
    assert np.abs(values).max() > 1.999
    assert abs(values.mean()) < SIGMAS * math.sqrt(second / count)
    assert abs((values**2).mean() - second) < SIGMAS * math.sqrt((fourth - second**2) / count)
    assert abs((values**4).mean() - fourth) < SIGMAS * math.sqrt(
        2.0**8 / count
    )  # the fourth power has at most that variance
    # Redrawn, and not pushed to the limits: beyond 1.9 lies what the density says.
    share = math.erf(2 / math.sqrt(2))
    expected = (share - math.erf(1.9 / math.sqrt(2))) / share
    assert abs((np.abs(values) > 1.9).mean() - expected) < SIGMAS * math.sqrt(expected / count)


def test_neighbours_are_independent_across_pieces_too():
    values = np.array(TruncatedNormal(stddev=1.0, seed=7)((1 << 20,))).reshape(4, -1)
    for distance in (1, 768, 1 << 18):
        one, other = values.reshape(-1)[distance:], values.reshape(-1)[:-distance]
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / math.sqrt(one.size)


def test_shapes_types_and_scales():
    initializer = TruncatedNormal(stddev=0.02, seed=7)
    assert initializer(()).shape == ()
    assert initializer((0, 3)).shape == (0, 3)
    flat, folded = np.array(initializer((35,))), np.array(initializer((5, 7)))
    assert flat.dtype == folded.dtype == np.float32
    np.testing.assert_array_equal(folded, flat.reshape(5, 7))
    np.testing.assert_array_equal(initializer((35,)), flat)  # called twice, the same
    np.testing.assert_allclose(TruncatedNormal(stddev=0.04, seed=7)((35,)), 2 * flat, rtol=1e-6)
    assert initializer((5, 7), dtype="bfloat16").dtype.name == "bfloat16"


def test_an_initializer_survives_a_round_trip_through_its_configuration():
    initializer = kernel_initializer(0.03, 5, "a", "b")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(initializer))
    assert type(again) is TruncatedNormal
    assert again.get_config() == initializer.get_config() == {"stddev": 0.03, "seed": 2936530573}
    np.testing.assert_array_equal(again((5, 7)), initializer((5, 7)))


DRAW = """
import json, keras, numpy as np
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
from kbert.config import BertConfig
from kbert.model.bert import pretraining_model
shape = {"num_layers": 2, "hidden_size": 26, "num_heads": 2, "intermediate_size": 37}
model = pretraining_model(BertConfig(vocabulary_size=53, max_positions=29, **shape), seed=11)
values = {v.path: np.array(v.value).ravel().tolist() for v in model.trainable_variables}
print(keras.backend.backend(), json.dumps(values))
"""


def test_jax_starts_from_the_same_bits():
    flags = "--xla_force_host_platform_device_count=2"
    done = forked.run("-c", DRAW, backend="jax", XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-2000:]
    backend, values = done.stdout.split(" ", 1)
    assert backend == "jax"
    values = json.loads(values)
    variables = pretraining_model(tiny_config(), seed=11).trainable_variables
    assert {variable.path for variable in variables} == values.keys()
    for variable in variables:
        np.testing.assert_array_equal(
            np.float32(values[variable.path]), variable.numpy().ravel(), err_msg=variable.path
        )
