"""Training beside `transformers` and torch: the same weights, batches, losses, gradients and
updates, for fifty steps."""

import numpy as np
import pytest
import torch
from model_fixtures import tiny_config, values_of
from transformers_twin import (
    assign,
    from_transformers,
    labels_of,
    transformers_model,
    transformers_outputs,
)

import tfrecords
from kbert.model.bert import pretraining_model
from kbert.step.objective import pretraining_objective
from kbert.step.optimizers import BertAdamW, WarmupDecay

pytest_plugins = ["model_fixtures"]

STEPS = 50
PEAK, LAST, WARMUP = 5e-3, 60, 10


def learning_rate(step):
    return PEAK * (step / WARMUP if step < WARMUP else 1 - step / LAST)


def train_theirs(model, batches):
    """The loss of every step, by plain torch.

    torch's AdamW takes the decay from the weights first and then makes Adam's update, Keras' does
    so too, and Google's makes one subtraction of both: the update does not depend on the weights,
    so all are the same. clip_grad_norm_ divides by the norm plus 1e-6, Keras by the norm: Adam does
    not see such a factor."""
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        (others if name.endswith(".bias") or "LayerNorm" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    losses, norms = [], []
    for step, (x, y, sample_weight) in enumerate(batches):
        loss = transformers_outputs(model, x, **labels_of(x, y, sample_weight)).loss
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), np.array(norms)


def train_ours(model, batches, **options):
    """The loss of every step, by kbert."""
    objective = pretraining_objective(steps=LAST)
    optimizer = BertAdamW(WarmupDecay(PEAK, LAST, WARMUP), weight_decay=0.01, **options)
    model.compile(**objective | {"optimizer": optimizer})
    losses = []
    for batch in batches:
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*batch, return_dict=True)["loss"]))
    return np.array(losses)


@pytest.fixture(scope="module")
def batches(tiny_records):
    """Fifty batches of real records, with unequal numbers of tokens and of masked tokens."""
    return list(
        tfrecords.read(tiny_records, "train", batch_size=8, seed=3, epochs=None)
        .take(STEPS)
        .as_numpy_iterator()
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of torch that wait for work take the processor from TensorFlow's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "exact_gelu",
    [
        pytest.param(False, id="tanh_gelu"),
        pytest.param(True, id="exact_gelu", marks=pytest.mark.long),
    ],
)
def test_fifty_losses_equal_those_of_transformers(batches, exact_gelu):
    config = tiny_config(exact_gelu=exact_gelu, dropout=0.0)
    theirs = transformers_model(config).double()
    initial = from_transformers(theirs.state_dict(), config.num_layers)
    ours = pretraining_model(config)
    assign(ours, initial)
    expected, norms = train_theirs(theirs, batches)
    actual = train_ours(ours, batches, bias_correction=True)
    assert len(batches) == len(expected) == STEPS
    assert expected[-5:].mean() < expected[:5].mean() - 0.5  # it learns
    assert norms.min() < 1 < norms.max()  # gradients are clipped, and not always
    assert len({float(sample_weight["mlm"].sum()) for _, _, sample_weight in batches}) > 1
    np.testing.assert_allclose(actual, expected, atol=1e-5)  # seen: 1e-6
    trained = from_transformers(theirs.state_dict(), config.num_layers)
    for path, value in values_of(ours.trainable_variables).items():
        np.testing.assert_allclose(value, trained[path], atol=1e-5, err_msg=path)  # seen: 1e-6
        assert np.abs(trained[path] - initial[path]).max() > 0.01, path
