"""The table of objectives: it agrees with the places that it names, and one more entry is one more
objective."""

import dataclasses

import keras
import numpy as np
import pytest
from model_fixtures import random_batch, tiny_config

from kbert import objectives
from kbert.config import PretrainingConfig
from kbert.formats import pretrained
from kbert.formats.card import model_card
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
from kbert.run.directory import Run
from kbert.run.evaluation import results_rows
from kbert.step.objective import METRICS, compile_model
from tfrecords import Normalization, Vocabulary
from tfrecords.schema import PAIRS
from tfrecords.vocabulary import SPECIAL_TOKENS


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
    if objective.optional:
        assert getattr(PretrainingConfig, objective.weight_field) == 0
    shapes = weight_shapes(tiny_config(), optional=[objective.name])
    layers = {path.partition("/")[0] for path in shapes}
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


def add_full(monkeypatch, **fields):
    """Adds the objective "full": whether a sequence has padding, told from the state of [CLS]."""
    words = {field: {"nsp": "full length"} for field in ("titles", "descriptions")}
    full = dataclasses.replace(NSP, name="full", layers=("full",), **words, **fields)
    monkeypatch.setattr(objectives, "OBJECTIVES", (*OBJECTIVES, full))

    def head(inputs):
        return keras.layers.Dense(2, name="full", dtype="float32")(inputs.rows_BRH[:, 0, :])

    monkeypatch.setitem(heads.HEADS, "full", head)


def batch_with_full(seed=0):
    x, y, weights = random_batch(seed)
    y["full"] = x["padding_mask"][:, -1]
    weights["full"] = np.ones(5, np.float32)
    return x, y, weights


def test_one_more_entry_is_one_more_objective(monkeypatch):
    add_full(monkeypatch)
    model = pretraining_model(tiny_config(num_layers=1))
    compile_model(model, PretrainingConfig(steps=60, batch_size=5, learning_rate=0.005))
    logs = []
    for _ in range(40):
        model.reset_metrics()
        logs.append(model.train_on_batch(*batch_with_full(), return_dict=True))
    assert logs[-1]["full_cross_entropy"] < logs[0]["full_cross_entropy"] / 4
    assert logs[0].keys() >= {"full_loss", "full_accuracy", "mlm_accuracy", "nsp_cross_entropy"}


@pytest.mark.usefixtures("eager_steps")
@pytest.mark.parametrize("accumulate", [1, 5])
def test_labels_of_an_objective_that_is_off_change_nothing(monkeypatch, accumulate):
    pretraining = PretrainingConfig(steps=60, batch_size=5, learning_rate=0.005)

    def losses(batches):
        model = pretraining_model(tiny_config(num_layers=1))
        compile_model(model, pretraining, accumulate)
        logs = [model.train_on_batch(*one, return_dict=True) for one in batches]
        return [*logs, model.test_on_batch(*batches[0], return_dict=True)]

    without = losses([random_batch(seed) for seed in range(3)])
    add_full(monkeypatch, optional=True, weight_field="decay_power")
    assert losses([batch_with_full(seed) for seed in range(3)]) == without


def test_a_label_or_a_weight_under_a_wrong_name_is_refused():
    model = pretraining_model(tiny_config(num_layers=1))
    compile_model(model, PretrainingConfig(steps=60, batch_size=5))
    x, y, weights = random_batch()
    renamed = {"mlm": "mlm", "nsp": "nps"}
    with pytest.raises(KeyError, match="nsp"):
        model.train_on_batch(x, {renamed[name]: values for name, values in y.items()}, weights)
    with pytest.raises((KeyError, ValueError), match=r"nsp|structure"):
        model.train_on_batch(x, y, {renamed[name]: values for name, values in weights.items()})


@pytest.mark.usefixtures("eager_steps")
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_an_optional_objective_has_a_head_where_it_has_weight(monkeypatch, tmp_path, weight):
    # The weight of next sentence prediction stands for its own.
    add_full(monkeypatch, optional=True)
    there = {"full"} if weight else set()
    run = Run(
        directory=tmp_path,
        bert=tiny_config(num_layers=1),
        pretraining=PretrainingConfig(steps=60, batch_size=5, nsp_weight=weight),
        sequence_length=17,
        normalization=Normalization(cased=False),
        pairs="nsp",
        records_sha256="",
    )
    model = run.new_model()
    assert set(model.output) == {"mlm", "nsp"} | there == set(run.loss_weights)
    compile_model(model, run.pretraining)
    logs = model.train_on_batch(*batch_with_full(), return_dict=True)
    assert ("full_accuracy" in logs) == bool(weight)
    # Of a model that is read from its weights, too.
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    shapes = weight_shapes(run.bert) | {"full/kernel": (26, 2), "full/bias": (2,)}
    monkeypatch.setattr(pretrained, "weight_shapes", lambda *_, **__: shapes)
    monkeypatch.setitem(pretrained.HEADS, "full", "full length")
    read = pretrained.Pretrained(
        bert=run.bert,
        weights=weights,
        vocabulary=Vocabulary([*SPECIAL_TOKENS, *(f"w{number}" for number in range(48))]),
        normalization=run.normalization,
        sequence_length=17,
    )
    assert set(read.model.output) == set(model.output)
    assert ("full length" in model_card(read, "")) == bool(weight)


def test_figures_are_those_of_the_objectives_that_were_measured(monkeypatch):
    results = {"pairs": "nsp", "mlm_loss": 1.0, "mlm_perplexity": 2.7, "mlm_accuracy": 0.5}
    results |= {"nsp_loss": 1.0, "nsp_accuracy": 0.5}
    before = results_rows(results)
    add_full(monkeypatch, optional=True)
    assert results_rows(results) == before
    after = results_rows(results | {"full_loss": 0.25, "full_accuracy": 0.75})
    assert [row[:2] for row in after[len(before) :]] == [
        ("full length: loss (nats)", "0.250"),
        ("full length: accuracy", "75.0%"),
    ]
