"""The table of objectives: it agrees with the places that it names, and one more entry is one more
objective."""

import dataclasses

import keras
import numpy as np
import pytest
from model_fixtures import random_batch, tiny_config

from kbert import objectives
from kbert.config import PretrainingConfig
from kbert.formats.pretrained import weight_shapes
from kbert.model import heads
from kbert.model.bert import pretraining_model
from kbert.objectives import (
    MLM,
    NSP,
    OBJECTIVES,
    objectives_in,
    objectives_of,
    pairs_of_outputs,
    perplexity,
)
from kbert.run.baseline import Baselines
from kbert.step.objective import METRICS, compile_model
from tfrecords.schema import PAIRS


def test_the_objectives_of_each_kind_of_pairs(refused):
    assert objectives_of("nsp") == objectives_of("sop") == (MLM, NSP)
    assert objectives_of("none") == (MLM,)
    with refused(r"^Expected pairs among nsp, sop, none\. Received: pairs=True\.$"):
        objectives_of(True)
    assert objectives_in({"nsp": 1, "x": 2}) == (NSP,)
    assert [pairs_of_outputs(names) for names in ({"mlm", "nsp"}, {"mlm"})] == ["nsp", "none"]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.name)
def test_an_objective_names_what_is_there(objective):
    fields = {field.name for field in dataclasses.fields(PretrainingConfig)}
    assert objective.weight_field in fields
    assert objective.titles.keys() == objective.descriptions.keys() <= set(PAIRS)
    baselines = {field.name for field in dataclasses.fields(Baselines)}
    assert {figure.baseline for figure in objective.figures} <= baselines
    assert {figure.metric for figure in objective.figures} <= METRICS.keys()
    layers = {path.partition("/")[0] for path in weight_shapes(tiny_config())}
    assert set(objective.layers) <= layers
    assert objective.name == objective.layers[-1]
    assert objective.name in heads.HEADS


def test_a_model_has_the_outputs_of_its_objectives():
    for pairs in PAIRS:
        model = pretraining_model(tiny_config(num_layers=1), pairs=pairs)
        assert list(model.output) == [objective.name for objective in objectives_of(pairs)]


def test_names_of_figures():
    names = [(one.key(figure), one.metric(figure)) for one in OBJECTIVES for figure in one.history]
    assert names == [
        ("mlm_loss", "mlm_cross_entropy"),
        ("mlm_accuracy", "mlm_accuracy"),
        ("nsp_loss", "nsp_cross_entropy"),
        ("nsp_accuracy", "nsp_accuracy"),
    ]
    (derived,) = [figure for figure in MLM.figures if figure not in MLM.history]
    assert MLM.key(derived) == "mlm_perplexity"
    assert derived.value(3.0) == perplexity(3.0)
    assert MLM.history[0].value(3.0) == 3.0


def test_one_more_entry_is_one_more_objective(monkeypatch):
    # Whether a sequence has padding, told from the state of [CLS].
    full = dataclasses.replace(NSP, name="full", titles={"nsp": "full length"}, layers=("full",))
    monkeypatch.setattr(objectives, "OBJECTIVES", (*OBJECTIVES, full))

    def head(inputs):
        return keras.layers.Dense(2, name="full", dtype="float32")(inputs.rows_BRH[:, 0, :])

    monkeypatch.setitem(heads.HEADS, "full", head)
    model = pretraining_model(tiny_config(num_layers=1))
    compile_model(model, PretrainingConfig(steps=60, batch_size=5, learning_rate=0.005))
    x, y, weights = random_batch()
    y["full"] = x["padding_mask"][:, -1]
    weights["full"] = np.ones(5, np.float32)
    logs = []
    for _ in range(40):
        model.reset_metrics()
        logs.append(model.train_on_batch(x, y, weights, return_dict=True))
    assert logs[-1]["full_cross_entropy"] < logs[0]["full_cross_entropy"] / 4
    assert logs[0].keys() >= {"full_loss", "full_accuracy", "mlm_accuracy", "nsp_cross_entropy"}
