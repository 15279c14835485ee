"""The losses and the metrics on logits that are given, against NumPy."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from kbert.objectives import objectives_of
from kbert.step.objective import CrossEntropy, WeightedMean, hits, pretraining_objective
from kbert.step.objective import cross_entropies as our_cross_entropies
from kbert.step.optimizers import BertAdamW, BertLamb, WarmupDecay
from kbert.step.pretrainer import Pretrainer


def logits_model(*, pairs="nsp", **objective):
    """A compiled model whose outputs are its inputs."""
    inputs = {
        "mlm_logits": keras.Input((None, 11), name="mlm_logits"),
        "nsp_logits": keras.Input((2,), name="nsp_logits"),
    }
    names = [objective.name for objective in objectives_of(pairs)]
    outputs = {name: keras.layers.Identity(name=name)(inputs[f"{name}_logits"]) for name in names}
    model = Pretrainer({f"{name}_logits": inputs[f"{name}_logits"] for name in names}, outputs)
    model.compile(**pretraining_objective(steps=1, pairs=pairs, **objective))
    return model


def batch(seed, batch_size=5, num_weights=None):
    """(x, y, sample_weight) with P = 3 slots, of which `num_weights` have weight, or as many as
    chance gives."""
    draw = np.random.default_rng(seed)
    x = {
        "mlm_logits": draw.standard_normal((batch_size, 3, 11)).astype(np.float32) * 3,
        "nsp_logits": draw.standard_normal((batch_size, 2)).astype(np.float32) * 3,
    }
    y = {"mlm": draw.integers(0, 11, (batch_size, 3)), "nsp": draw.integers(0, 2, batch_size)}
    weights = draw.integers(0, 2, (batch_size, 3)).astype(np.float32)
    if num_weights is not None:
        weights = (
            (np.arange(batch_size * 3) < num_weights).astype(np.float32).reshape(batch_size, 3)
        )
    return x, y, {"mlm": weights, "nsp": (np.arange(batch_size) != 1).astype(np.float32)}


def cross_entropies(logits, labels):
    """-log softmax(logits)[labels], float64, for every label."""
    logits = np.float64(logits)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, labels[..., None], -1)[..., 0]


def weighted_mean(values, weights):
    return float((values * weights).sum() / weights.sum())


def evaluate(model, batches):
    datasets = [tf.data.Dataset.from_tensors(one) for one in batches]
    dataset = datasets[0]
    for other in datasets[1:]:
        dataset = dataset.concatenate(other)
    return model.evaluate(dataset, verbose=0, return_dict=True)


def test_losses_are_means_over_what_has_weight():
    x, y, sample_weight = batch(0, num_weights=4)
    logs = evaluate(logits_model(), [(x, y, sample_weight)])
    mlm = weighted_mean(cross_entropies(x["mlm_logits"], y["mlm"]), sample_weight["mlm"])
    nsp = weighted_mean(cross_entropies(x["nsp_logits"], y["nsp"]), sample_weight["nsp"])
    assert logs["mlm_loss"] == pytest.approx(mlm, abs=1e-5)
    assert logs["nsp_loss"] == pytest.approx(nsp, abs=1e-5)
    assert logs["loss"] == pytest.approx(mlm + nsp, abs=1e-5)


def test_unused_slots_change_nothing():
    x, y, sample_weight = batch(0, num_weights=4)
    before = evaluate(logits_model(), [(x, y, sample_weight)])
    wider = {
        "mlm_logits": np.pad(x["mlm_logits"], ((0, 0), (0, 4), (0, 0)), constant_values=7.0),
        "nsp_logits": x["nsp_logits"],
    }
    y = {"mlm": np.pad(y["mlm"], ((0, 0), (0, 4))), "nsp": y["nsp"]}
    weights = {"mlm": np.pad(sample_weight["mlm"], ((0, 0), (0, 4))), "nsp": sample_weight["nsp"]}
    assert evaluate(logits_model(), [(wider, y, weights)]) == pytest.approx(before, abs=1e-6)


def test_a_batch_without_a_masked_word_has_no_loss_of_masked_words():
    x, y, sample_weight = batch(0, num_weights=0)
    model = logits_model()
    logs = evaluate(model, [(x, y, sample_weight)])
    assert logs["mlm_loss"] == 0
    assert logs["loss"] == pytest.approx(logs["nsp_loss"])
    with tf.GradientTape() as tape:
        logits = tf.constant(x["mlm_logits"])
        tape.watch(logits)
        outputs = {"mlm": logits, "nsp": tf.constant(x["nsp_logits"])}
        loss = model.compute_loss(x, y, outputs, sample_weight)
    np.testing.assert_array_equal(tape.gradient(loss, logits), np.zeros_like(x["mlm_logits"]))


@pytest.mark.parametrize("jit_compile", [True, False])
def test_labels_that_are_no_class_are_no_hits_and_no_error(jit_compile):
    logits = np.array([[1.0, 3.0, 2.0], [9.0, 9.0, 5.0], [1.0, 1.0, 7.0]], np.float32)

    @tf.function(jit_compile=jit_compile)
    def measured(labels, logits):
        return our_cross_entropies(labels, logits), hits(labels, logits)

    losses, hit = measured(np.array([-100, 3, -1]), logits)
    sums = np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(losses, sums, rtol=1e-6)
    np.testing.assert_array_equal(hit, [0, 0, 0])
    losses, hit = measured(np.array([1, 1, 2]), logits)
    np.testing.assert_allclose(losses, sums - [3, 9, 7], atol=1e-6)
    np.testing.assert_array_equal(hit, [1, 0, 1])  # the first of equal ones is the answer


@pytest.mark.parametrize(("mlm_weight", "nsp_weight"), [(1.0, 0.0), (0.0, 1.0), (0.25, 3.0)])
def test_loss_weights_weigh_the_sum_alone(mlm_weight, nsp_weight):
    plain = evaluate(logits_model(), [batch(0)])
    logs = evaluate(logits_model(mlm_weight=mlm_weight, nsp_weight=nsp_weight), [batch(0)])
    assert logs["loss"] == pytest.approx(
        mlm_weight * plain["mlm_loss"] + nsp_weight * plain["nsp_loss"], abs=1e-5
    )
    for name in ("mlm_cross_entropy", "nsp_cross_entropy", "mlm_accuracy", "nsp_accuracy"):
        assert logs[name] == plain[name]


def test_metrics_are_exact_over_batches_of_unequal_weights():
    batches = [
        batch(0, num_weights=2),
        batch(1, num_weights=13),
        batch(2, num_weights=0),
        batch(3, batch_size=2, num_weights=3),
    ]
    logs = evaluate(logits_model(), batches)
    for name, num_classes in (("mlm", 11), ("nsp", 2)):
        logits = np.concatenate(
            [x[f"{name}_logits"].reshape(-1, num_classes) for x, _, _ in batches]
        )
        labels = np.concatenate([y[name].ravel() for _, y, _ in batches])
        weights = np.concatenate([sample_weight[name].ravel() for _, _, sample_weight in batches])
        assert logs[f"{name}_cross_entropy"] == pytest.approx(
            weighted_mean(cross_entropies(logits, labels), weights), abs=1e-5
        )
        assert logs[f"{name}_accuracy"] == pytest.approx(
            weighted_mean(logits.argmax(-1) == labels, weights), abs=1e-6
        )


def test_losses_over_batches_are_means_of_the_batches_by_their_rows():
    # As training has them: each batch divides by its own number of masked words, however few or
    # many.
    batches = [
        batch(0, num_weights=2),
        batch(1, num_weights=13),
        batch(2, num_weights=0),
        batch(3, batch_size=2, num_weights=3),
    ]
    logs = evaluate(logits_model(mlm_weight=0.5, nsp_weight=2.0), batches)
    losses, rows = {"mlm": [], "nsp": []}, []
    for x, y, sample_weight in batches:
        rows.append(len(x["nsp_logits"]))
        for name, values in losses.items():
            weights, entropies = sample_weight[name], cross_entropies(x[f"{name}_logits"], y[name])
            values.append(weighted_mean(entropies, weights) if weights.sum() else 0.0)
    expected = {name: np.average(values, weights=rows) for name, values in losses.items()}
    assert logs["loss"] == pytest.approx(0.5 * expected["mlm"] + 2.0 * expected["nsp"], abs=1e-5)
    assert logs["mlm_loss"] != pytest.approx(
        logs["mlm_cross_entropy"], abs=1e-3
    )  # that one is exact over all of them


def test_names_of_losses_and_metrics():
    assert set(evaluate(logits_model(), [batch(0)])) == {
        "loss",
        "mlm_loss",
        "mlm_accuracy",
        "mlm_cross_entropy",
        "nsp_loss",
        "nsp_accuracy",
        "nsp_cross_entropy",
    }


def test_without_next_sentence_the_figures_of_masked_words_are_the_same_and_the_only_ones():
    batches = [batch(0, num_weights=2), batch(1, num_weights=13), batch(2, num_weights=0)]
    whole = evaluate(logits_model(), batches)
    alone = [
        ({"mlm_logits": x["mlm_logits"]}, {"mlm": y["mlm"]}, {"mlm": weight["mlm"]})
        for x, y, weight in batches
    ]
    logs = evaluate(logits_model(pairs="none"), alone)
    assert set(logs) == {"loss", "mlm_accuracy", "mlm_cross_entropy"}
    assert logs["mlm_accuracy"] == whole["mlm_accuracy"]
    assert logs["mlm_cross_entropy"] == pytest.approx(whole["mlm_cross_entropy"], abs=1e-6)
    assert logs["loss"] == pytest.approx(whole["mlm_loss"], abs=1e-5)
    weighted = evaluate(logits_model(pairs="none", mlm_weight=0.25), alone)
    assert weighted["loss"] == pytest.approx(0.25 * logs["loss"], abs=1e-5)
    assert weighted["mlm_cross_entropy"] == logs["mlm_cross_entropy"]


def test_the_optimizer_follows_the_arguments():
    objective = pretraining_objective(
        learning_rate=0.3, steps=70, warmup_steps=11, weight_decay=0.05
    )
    assert isinstance(objective["optimizer"], BertAdamW)
    assert objective["optimizer"].weight_decay == 0.05
    schedule = objective["optimizer"]._learning_rate
    assert isinstance(schedule, WarmupDecay)
    assert schedule.get_config() == {"peak": 0.3, "steps": 70, "warmup_steps": 11, "power": 1.0}


def test_lamb_and_the_power_of_the_decay_reach_the_optimizer():
    options = {
        "learning_rate": 0.3,
        "steps": 70,
        "warmup_steps": 11,
        "weight_decay": 0.05,
        "decay_power": 0.5,
    }
    optimizer = pretraining_objective(optimizer="lamb", **options)["optimizer"]
    assert type(optimizer) is BertLamb
    assert (optimizer.decay, optimizer.weight_decay) == (
        0.05,
        None,
    )  # Keras is not told, which would apply it once more
    assert optimizer._learning_rate.get_config() == {
        "peak": 0.3,
        "steps": 70,
        "warmup_steps": 11,
        "power": 0.5,
    }
    assert float(optimizer._learning_rate(35)) == pytest.approx(0.3 * 0.5**0.5)
    assert pretraining_objective(**options)["optimizer"]._learning_rate.power == 0.5
    with pytest.raises(KeyError, match="sgd"):
        pretraining_objective(optimizer="sgd", **options)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(1_000_000, 10_000), (70, 7), (7, 0)])
def test_the_warmup_is_at_most_a_tenth(steps, warmup_steps):
    assert (
        pretraining_objective(steps=steps)["optimizer"]._learning_rate.warmup_steps == warmup_steps
    )


def test_cross_entropies_and_their_gradient_are_those_of_tensorflow():
    draw = np.random.default_rng(0)
    logits = tf.constant(draw.standard_normal((5, 3, 11)) * 30 + 100, tf.float32)
    labels = draw.integers(0, 11, (5, 3)).astype(np.int32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        ours = our_cross_entropies(labels, logits)
        theirs = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-6
    )


def test_of_equal_logits_the_first_counts():
    logits = np.array([[1, 3, 3, 0], [3, 3, 3, 3], [0, 1, 2, 3]], np.float32)
    for labels in ([1, 0, 3], [2, 1, 0], [0, 2, 2]):
        np.testing.assert_array_equal(hits(np.array(labels), logits), logits.argmax(-1) == labels)


def test_labels_and_weights_of_one_column_count_as_without_it():
    # As the Model Garden's loader, FixedLenFeature([1]) and tables give them. Broadcast to B x B,
    # they would teach the head nothing.
    x, y, weights = batch(0)
    whole = evaluate(logits_model(), [(x, y, weights)])
    labels = y | {"nsp": y["nsp"][:, None]}
    for weight in (weights["nsp"], weights["nsp"][:, None]):
        logs = evaluate(logits_model(), [(x, labels, weights | {"nsp": weight})])
        assert logs == whole
    np.testing.assert_array_equal(
        our_cross_entropies(labels["nsp"], x["nsp_logits"]),
        our_cross_entropies(y["nsp"], x["nsp_logits"]),
    )


@pytest.mark.parametrize("shape", [(5, 2), (4,), (1, 5), (), (5, 1, 1)])
def test_labels_and_logits_that_do_not_belong_together_are_refused(shape, refused):
    labels, logits = np.zeros(shape, np.int32), np.zeros((5, 2), np.float32)
    for function in (our_cross_entropies, hits):
        with refused(
            rf"^Expected labels of shape \(5,\), one for each row of the logits \(5, 2\)\. "
            rf"Received: {re.escape(str(shape))}\.$"
        ):
            function(labels, logits)


@pytest.mark.parametrize("shape", [(5, 3, 2), (5,), (3,), (5, 1)])
def test_weights_of_another_shape_than_the_labels_are_refused(shape, refused):
    labels, logits = np.zeros((5, 3), np.int32), np.zeros((5, 3, 11), np.float32)
    for made in (CrossEntropy(), WeightedMean(hits)):
        with refused(r"^Expected weights of shape \(5, 3\)"):
            made(labels, logits, np.ones(shape, np.float32))
