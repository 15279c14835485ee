"""The released sizes, the defaults, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

import kbert.config
from kbert.config import BertConfig, PretrainingConfig, resolve_bert
from kbert.step.optimizers import OPTIMIZERS
from tfrecords import InputError

SHAPE = {
    "vocabulary_size": 53,
    "num_layers": 2,
    "hidden_size": 26,
    "num_heads": 2,
    "intermediate_size": 37,
}


@pytest.mark.parametrize("num_layers", [2, 4, 6, 8, 10, 12])
@pytest.mark.parametrize("hidden_size", [128, 256, 512, 768])
def test_miniatures_have_the_released_numbers(num_layers, hidden_size):
    heads_and_intermediate = {128: (2, 512), 256: (4, 1024), 512: (8, 2048), 768: (12, 3072)}
    config = BertConfig.of_size(f"L-{num_layers}_H-{hidden_size}", vocabulary_size=30522)
    assert (config.num_layers, config.hidden_size) == (num_layers, hidden_size)
    assert (config.num_heads, config.intermediate_size) == heads_and_intermediate[hidden_size]


@pytest.mark.parametrize(
    ("size", "numbers"),
    [
        ("tiny", (2, 128, 2, 512)),
        ("mini", (4, 256, 4, 1024)),
        ("small", (4, 512, 8, 2048)),
        ("medium", (8, 512, 8, 2048)),
        ("base", (12, 768, 12, 3072)),
        ("large", (24, 1024, 16, 4096)),
    ],
)
def test_named_sizes_have_the_released_numbers(size, numbers):
    config = BertConfig.of_size(size, vocabulary_size=28996)
    assert (
        config.num_layers,
        config.hidden_size,
        config.num_heads,
        config.intermediate_size,
    ) == numbers
    assert config.vocabulary_size == 28996


def test_what_is_not_a_size_has_the_released_values():
    config = BertConfig.of_size("base", vocabulary_size=30522)
    assert (config.max_positions, config.num_segments, config.dropout) == (512, 2, 0.1)
    assert (config.exact_gelu, config.layer_norm_epsilon, config.initializer_range) == (
        False,
        1e-12,
        0.02,
    )


def test_a_size_can_depart_from_the_released_one():
    config = BertConfig.of_size("tiny", vocabulary_size=53, dropout=0.3, max_positions=41)
    assert (config.dropout, config.max_positions, config.hidden_size) == (0.3, 41, 128)


@pytest.mark.parametrize(
    "size", ["Tiny", "huge", "", "L-3_H-128", "L-2_H-64", "L-2_H-128 ", "2_128"]
)
def test_another_size_is_refused(size):
    with pytest.raises(
        InputError,
        match=r"^Expected a size among tiny, .*, or a miniature such as L-4_H-256\. "
        r"Received: '.*'\.$",
    ):
        BertConfig.of_size(size, vocabulary_size=53)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 0}, r"vocabulary_size of at least 1\. Received: 0"),
        ({"num_layers": 0}, r"num_layers of at least 1\. Received: 0"),
        ({"max_positions": -1}, r"max_positions of at least 1\. Received: -1"),
        ({"num_segments": 0}, r"num_segments of at least 1\. Received: 0"),
        ({"dropout": 1.0}, r"dropout from 0.0 to 0.999\. Received: 1.0"),
        ({"dropout": -0.1}, r"dropout from 0.0 to 0.999\. Received: -0.1"),
        ({"dropout": float("nan")}, r"dropout from 0.0 to 0.999\. Received: nan"),
        ({"num_heads": 3}, r"a hidden size that 3 heads share evenly\. Received: hidden_size=26"),
    ],
)
def test_model_values_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        BertConfig(**(SHAPE | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"steps of at least 1\. Received: 0"),
        ({"batch_size": 0}, r"batch_size of at least 1\. Received: 0"),
        ({"learning_rate": -1e-4}, r"learning_rate of at least 0.0\. Received: -0.0001"),
        ({"learning_rate": float("nan")}, r"learning_rate of at least 0.0\. Received: nan"),
        ({"learning_rate": float("inf")}, r"learning_rate of at least 0.0\. Received: inf"),
        ({"steps": 10, "warmup_steps": 11}, r"warmup_steps from 0 to 10\. Received: 11"),
        ({"mlm_weight": -1.0}, r"mlm_weight of at least 0.0\. Received: -1.0"),
        ({"evaluate_every": 0}, r"evaluate_every of at least 1\. Received: 0"),
        ({"evaluate_steps": 0}, r"evaluate_steps of at least 1\. Received: 0"),
        ({"checkpoint_every": 0}, r"checkpoint_every of at least 1\. Received: 0"),
        ({"keep_checkpoints": 0}, r"keep_checkpoints of at least 1\. Received: 0"),
        ({"optimizer": "adam"}, r"^Expected optimizer among adamw, lamb\. Received: 'adam'\.$"),
        ({"weight_decay": -0.01}, r"weight_decay from 0.0 to 1.0\. Received: -0.01"),
        ({"weight_decay": 1.5}, r"weight_decay from 0.0 to 1.0\. Received: 1.5"),
        ({"weight_decay": float("nan")}, r"weight_decay from 0.0 to 1.0\. Received: nan"),
        ({"decay_power": -1.0}, r"decay_power of at least 0.0\. Received: -1.0"),
        ({"decay_power": float("inf")}, r"decay_power of at least 0.0\. Received: inf"),
        ({"patience": 0}, r"patience of at least 1\. Received: 0"),
        ({"patience": -3}, r"patience of at least 1\. Received: -3"),
        ({"seed": -1}, r"seed from 0 to 2147483647\. Received: -1"),
        (
            {"precision": "float64"},
            r"precision among float32, bfloat16, float16\. Received: 'float64'",
        ),
        ({"learning_rate": float("inf")}, r"learning_rate of at least 0\.0\. Received: inf"),
    ],
)
def test_pretraining_values_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        PretrainingConfig(**changes)


@pytest.mark.parametrize(
    ("steps", "warmup_steps", "evaluate_every"),
    [(1_000_000, 10_000, 50_000), (100_000, 10_000, 5_000), (70, 7, 3), (7, 0, 1)],
)
def test_warmup_and_evaluations_follow_the_steps(steps, warmup_steps, evaluate_every):
    config = PretrainingConfig(steps=steps)
    assert (config.warmup_steps, config.evaluate_every) == (warmup_steps, evaluate_every)


def test_warmup_and_evaluations_can_be_set():
    config = PretrainingConfig(steps=70, warmup_steps=0, evaluate_every=70)
    assert (config.warmup_steps, config.evaluate_every) == (0, 70)


def test_defaults_are_those_of_the_paper():
    config = PretrainingConfig()
    assert (config.optimizer, config.weight_decay, config.decay_power, config.patience) == (
        "adamw",
        0.01,
        1.0,
        None,
    )
    assert (config.learning_rate, config.batch_size, config.mlm_weight, config.nsp_weight) == (
        1e-4,
        256,
        1.0,
        1.0,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "lamb", "weight_decay": 0.0, "decay_power": 0.5, "patience": 1},
        {"optimizer": "adamw", "weight_decay": 1.0, "decay_power": 0.0, "patience": None},
    ],
)
def test_optimizer_decay_and_patience_can_be_set(changes):
    config = PretrainingConfig(**changes)
    assert {name: getattr(config, name) for name in changes} == changes
    assert PretrainingConfig(**dataclasses.asdict(config)) == config


def test_every_optimizer_of_a_configuration_is_there():
    assert tuple(OPTIMIZERS) == kbert.config.OPTIMIZERS
    for name in OPTIMIZERS:
        assert PretrainingConfig(optimizer=name).optimizer == name


def test_precision_names_a_keras_policy():
    assert PretrainingConfig().dtype_policy == "float32"
    assert PretrainingConfig(precision="bfloat16").dtype_policy == "mixed_bfloat16"
    assert PretrainingConfig(precision="float16").dtype_policy == "mixed_float16"


@pytest.mark.parametrize("config", [BertConfig(**SHAPE), PretrainingConfig()])
def test_configurations_are_frozen_and_survive_a_round_trip(config):
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 1)
    assert type(config)(**dataclasses.asdict(config)) == config


def test_unknown_fields_and_positions_are_refused():
    with pytest.raises(TypeError, match="hiden_size"):
        BertConfig(**SHAPE, hiden_size=26)
    with pytest.raises(TypeError, match="positional"):
        BertConfig(53, 2, 26, 2, 37)


@pytest.mark.parametrize(
    "kind", [float, np.int64, np.uint8, np.float32], ids=lambda kind: kind.__name__
)
def test_whole_numbers_of_other_types_become_integers(kind):
    bert = BertConfig(**{name: kind(value) for name, value in SHAPE.items()}, dropout=np.float32(0))
    assert bert == BertConfig(**SHAPE, dropout=0.0)
    pretraining = PretrainingConfig(steps=kind(70), patience=kind(3), learning_rate=np.float64(1))
    assert pretraining == PretrainingConfig(steps=70, patience=3, learning_rate=1.0)
    for config in (bert, pretraining):
        for value in dataclasses.asdict(config).values():
            assert type(value) in (int, float, str, bool, type(None))
        assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2.5}, "num_layers to be an integer. Received: 2.5."),
        ({"num_layers": float("nan")}, "num_layers to be an integer. Received: nan."),
        ({"num_layers": np.float64("inf")}, "num_layers to be an integer. Received: "),
        ({"num_layers": True}, "num_layers to be a number. Received: True."),
        ({"num_layers": "2"}, "num_layers to be a number. Received: '2'."),
        ({"num_layers": None}, "num_layers to be a number. Received: None."),
        ({"dropout": "0.1"}, "dropout to be a number. Received: '0.1'."),
        ({"dropout": np.array([0.1])}, r"dropout to be a number. Received: array\(\[0.1\]\)."),
        ({"exact_gelu": 1}, "exact_gelu to be True or False. Received: 1."),
    ],
)
def test_values_of_another_type_are_refused(refused, changes, message):
    with refused(message):
        BertConfig(**(SHAPE | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 10.5}, "steps to be an integer. Received: 10.5."),
        ({"optimizer": ["adamw"]}, "optimizer to be a string. Received: ..adamw..."),
        ({"patience": False}, "patience to be a number. Received: False."),
    ],
)
def test_training_values_of_another_type_are_refused(refused, changes, message):
    with refused(message):
        PretrainingConfig(**changes)


def test_a_numpy_bool_is_a_bool():
    assert BertConfig(**SHAPE, exact_gelu=np.bool_(True)).exact_gelu is True


INITIAL = BertConfig(
    **SHAPE, exact_gelu=True, dropout=0.3, attention_dropout=0.2, max_positions=41, num_segments=3
)


@pytest.mark.parametrize(
    ("bert", "changes", "initial", "expected"),
    [
        ("tiny", {}, None, BertConfig.of_size("tiny", vocabulary_size=97)),
        (
            "tiny",
            {"dropout": 0.4},
            None,
            BertConfig.of_size("tiny", vocabulary_size=97, dropout=0.4, attention_dropout=0.4),
        ),
        (None, {}, INITIAL, dataclasses.replace(INITIAL, vocabulary_size=97)),
        (
            None,
            {"dropout": 0.4},
            INITIAL,
            dataclasses.replace(INITIAL, vocabulary_size=97, dropout=0.4, attention_dropout=0.4),
        ),
        (
            None,
            {"dropout": 0.4, "attention_dropout": 0.0},
            INITIAL,
            dataclasses.replace(INITIAL, vocabulary_size=97, dropout=0.4, attention_dropout=0.0),
        ),
        (
            "tiny",
            {"max_positions": 31},
            INITIAL,
            dataclasses.replace(
                INITIAL,
                vocabulary_size=97,
                num_layers=2,
                hidden_size=128,
                num_heads=2,
                intermediate_size=512,
                max_positions=31,
            ),
        ),
        (INITIAL, {}, None, INITIAL),
        (INITIAL, {"max_positions": 31}, None, dataclasses.replace(INITIAL, max_positions=31)),
    ],
)
def test_size_changes_and_initial_model_say_the_configuration(bert, changes, initial, expected):
    assert resolve_bert(bert, changes, vocabulary_size=97, initial=initial) == expected


def test_a_model_of_no_shape_or_with_unknown_fields_is_refused(refused):
    with refused("Expected a size or a BertConfig, or init_from to take it from"):
        resolve_bert(None, vocabulary_size=97)
    with refused("Expected fields of BertConfig. Received: hiden_size."):
        resolve_bert("tiny", {"hiden_size": 26}, vocabulary_size=97)
