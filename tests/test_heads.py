"""The pooler and the two halves of the masked language modelling head against plain NumPy."""

import math

import keras
import numpy as np
import pytest
from model_fixtures import randomize

from kbert.model.heads import MaskedTransform, Pooler, VocabularyBias

HIDDEN = np.random.default_rng(0).standard_normal((2, 11, 7)).astype(np.float32)


def weights_of(layer):
    return {variable.path.split("/", 1)[1]: variable.numpy() for variable in layer.variables}


def test_pooler_is_a_dense_layer_with_tanh_on_the_first_token():
    pooler = Pooler(name="pooler")
    pooler.build(HIDDEN.shape)
    randomize(pooler.variables)
    weights = weights_of(pooler)
    expected = np.tanh(HIDDEN[:, 0] @ weights["dense/kernel"] + weights["dense/bias"])
    np.testing.assert_allclose(pooler(HIDDEN), expected, atol=1e-6)


@pytest.mark.parametrize("exact_gelu", [False, True])
def test_masked_transform_equals_plain_numpy(exact_gelu):
    transform = MaskedTransform(exact_gelu=exact_gelu, name="transform")
    transform.build(HIDDEN.shape)
    randomize(transform.variables)
    weights = weights_of(transform)
    x = np.float64(HIDDEN) @ weights["dense/kernel"] + weights["dense/bias"]
    if exact_gelu:
        x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    else:
        x = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    expected = expected * weights["layer_norm/gamma"] + weights["layer_norm/beta"]
    np.testing.assert_allclose(transform(HIDDEN), expected, atol=1e-5)


def test_vocabulary_bias_adds_a_number_for_every_piece():
    layer = VocabularyBias()
    scores = np.zeros((2, 3, 5), np.float32)
    np.testing.assert_array_equal(layer(scores), scores)
    layer.bias.assign([1, 2, 3, 5, 7])
    np.testing.assert_array_equal(layer(scores)[1, 2], [1, 2, 3, 5, 7])


@pytest.mark.parametrize(
    "layer",
    [
        Pooler(initializer_range=0.03, seed=5, name="a", dtype="mixed_bfloat16"),
        MaskedTransform(
            exact_gelu=True, layer_norm_epsilon=1e-5, initializer_range=0.03, seed=5, name="b"
        ),
        VocabularyBias(name="c"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_heads_survive_a_round_trip_through_their_configuration(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
