"""Packed rows beside the same pairs one to a row: equal logits, losses, metrics and gradients,
equal results, and runs on packed records."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import warnings

import forked
import keras
import numpy as np
import pytest
from model_fixtures import (
    ROOT,
    RUN_SETTINGS,
    assert_equal_values,
    random_batch,
    random_model,
    run_config,
    single_segments,
    tiny_config,
    values_of,
)
from packed_batches import S, packed_into_rows, pairs_to_pack, updates

from kbert.config import PretrainingConfig
from kbert.formats.load_and_save import load
from kbert.formats.pretrained import Pretrained, assign_weights
from kbert.model.bert import encoder_of, packed_as, pretraining_model
from kbert.model.layers import EncoderBlock
from kbert.pretraining import pretrain
from kbert.run.evaluation import evaluate
from kbert.run.progress import pairs_in_a_row, what_is_ahead
from tfrecords import load_manifest
from tfrecords.batch import BatchSpec
from tfrecords.files import read_json

pytest_plugins = ["model_fixtures"]

K = 3


# The model.


@pytest.mark.parametrize("pairs", ["nsp", "none"])
def test_the_logits_of_each_pair_are_the_same(pairs):
    batch = pairs_to_pack() if pairs == "nsp" else single_segments(pairs_to_pack())
    rows, places = packed_into_rows(batch, K)
    model = random_model(pairs=pairs, dropout=0.0)
    alone, packed = model(batch[0]), packed_as(model, K)(rows[0])
    assert len(rows[0]["token_ids"]) < len(places)
    assert (rows[0]["pair_numbers"] == 0).any()
    for pair, (row, number, slots) in enumerate(places):
        there = packed["mlm"].numpy()[row, slots]
        np.testing.assert_allclose(alone["mlm"][pair, : len(slots)], there, atol=1e-5)
        if pairs == "nsp":
            np.testing.assert_allclose(alone["nsp"][pair], packed["nsp"][row, number], atol=1e-5)
    assert np.std(alone["mlm"]) > 0.5  # logits that say something


def test_inputs_and_outputs_are_those_of_packed_batches():
    for pairs in ("nsp", "none"):
        spec = BatchSpec(pairs=pairs, pack=K)
        model = pretraining_model(tiny_config(num_layers=1), pairs=pairs, pack=K)
        assert {name: (one.shape, one.dtype) for name, one in model.input.items()} == {
            name: (spec.shape(feature), feature.dtype) for name, feature in spec.x.items()
        }
        assert set(model.output) == set(spec.y)


def test_weights_are_those_of_a_model_of_single_pairs():
    packed, alone = (pretraining_model(tiny_config(), seed=5, pack=pack) for pack in (K, 1))
    for attribute in ("variables", "trainable_variables"):
        there, expected = (values_of(getattr(model, attribute)) for model in (packed, alone))
        assert list(there) == list(expected)
        assert_equal_values(there, expected)


def test_one_form_is_made_of_the_other_with_the_same_layers():
    model = random_model()
    packed = packed_as(model, K)
    assert packed_as(model, 1) is model
    assert packed_as(packed, K) is packed
    assert packed_as(packed, 2).input["cls_positions"].shape == (None, 2)
    for one, other in zip(packed.variables, model.variables, strict=True):
        assert one is other
    x, _, _ = random_batch()
    for name, expected in model(x).items():
        np.testing.assert_array_equal(packed_as(packed, 1)(x)[name], expected)


def test_more_pairs_than_the_schema_knows_are_refused(refused):
    with refused("Expected pack from 1 to 64. Received: 65"):
        pretraining_model(tiny_config(), pack=65)


def test_encoders_and_exports_of_a_packed_model_are_the_usual_ones(tiny_vocabulary, tmp_path):
    model = random_model()
    # Built packed, so that the first call of each layer is that of packed rows.
    packed = pretraining_model(tiny_config(), pack=K)
    for variable, value in zip(packed.variables, model.variables, strict=True):
        variable.assign(value)
    x, _, _ = random_batch()
    x = {name: x[name] for name in encoder_of(packed).input}
    for name, expected in encoder_of(model)(x).items():
        np.testing.assert_array_equal(encoder_of(packed)(x)[name], expected)
        np.testing.assert_array_equal(encoder_of(packed_as(packed, 1))(x)[name], expected)
    one, other = (Pretrained.of_model(each, tiny_vocabulary) for each in (packed, model))
    assert (one.sha256, one.bert, one.pairs) == (other.sha256, other.bert, other.pairs)
    # And Keras' own format.
    rows, _ = packed_into_rows(pairs_to_pack(), K)
    packed.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for name, expected in packed(rows[0]).items():
        np.testing.assert_array_equal(again(rows[0])[name], expected)


def test_a_row_without_a_pair_is_harmless():
    block = EncoderBlock(num_heads=2, intermediate_size=37)
    hidden = np.random.default_rng(0).standard_normal((2, 7, 26)).astype("float32")
    numbers = np.array([[1, 1, 1, 2, 2, 0, 0], [0] * 7])
    whole = block(hidden, pair_numbers=numbers)
    assert np.isfinite(whole).all()
    rows = np.array([[0, 3, 6], [0, 0, 0]])
    wanted = block(hidden, rows=rows, pair_numbers=numbers)
    np.testing.assert_allclose(
        wanted, np.take_along_axis(whole.numpy(), rows[..., None], 1), atol=1e-5
    )
    # What another pair holds changes nothing.
    other = hidden.copy()
    other[0, 3:] += 1.0
    np.testing.assert_array_equal(block(other, pair_numbers=numbers)[0, :3], whole[0, :3])


# Updates.


@pytest.fixture(scope="module")
def alone():
    """What updates on single pairs give."""
    return updates()


@pytest.fixture
def in_processes(tmp_path):
    """Runs `updates` in one process, or in one for each worker."""

    def run(workers=1, **options):
        script, output = ROOT / "tests" / "packed_batches.py", tmp_path / "0.npz"
        if workers == 1:
            backend = options.get("backend", "tensorflow")
            done = forked.run(script, output, json.dumps(options), backend=backend)
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            together(script, workers, options)
        with np.load(output) as arrays:
            return dict(arrays)

    def together(script, workers, options):
        sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        processes = []
        for index in range(workers):
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            environment |= {"TF_CONFIG": json.dumps(cluster)}
            output = tmp_path / f"{index}.npz"
            command = [sys.executable, str(script), str(output), json.dumps(options)]
            pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            processes.append(subprocess.Popen(command, env=environment, **pipe))
        said = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * workers, said[0][-3000:]

    return run


def assert_same_updates(one, other, atol=1e-5):
    assert other.keys() == one.keys()
    assert len(one) > 30
    # In an evaluation on several devices Keras' own means of single losses are others, packed or
    # not; kbert reports the cross-entropies.
    for name in one.keys() - {"replicas", "logs/val_mlm_loss", "logs/val_nsp_loss"}:
        np.testing.assert_allclose(other[name], one[name], atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 3}, {"recompute": True, "accumulate": 2}], ids=str
)
def test_updates_are_the_same(alone, options):
    assert alone["logs/nsp_accuracy"][0] not in (0.0, 1.0)
    assert_same_updates(alone, updates(pack=K, **options))


def test_updates_are_the_same_on_two_devices(alone, in_processes):
    other = in_processes(pack=K, strategy="mirrored", devices=2)
    assert other["replicas"] == 2
    assert_same_updates(alone, other)


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 2, "strategy": "mirrored", "accumulate": 3},
        pytest.param({}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_updates_are_the_same_on_jax(alone, in_processes, options):
    # Without dropout it takes its fused attention, with the mask.
    assert_same_updates(alone, in_processes(pack=K, backend="jax", **options))


def test_updates_are_the_same_in_two_processes(alone, in_processes):
    other = in_processes(pack=K, strategy="multi-worker", workers=2)
    assert other["replicas"] == 2
    # The logs of several workers are vectors of one.
    assert_same_updates(
        alone, {name: np.reshape(value, alone[name].shape) for name, value in other.items()}
    )


def test_updates_in_bfloat16_are_near(alone):
    near = updates(pack=K, dtype="mixed_bfloat16", steps=1)
    assert near["logs/loss"][0] == pytest.approx(alone["logs/loss"][0], rel=0.02)


def test_dropout_has_its_part():
    rows, _ = packed_into_rows(pairs_to_pack(), K)
    model = pretraining_model(tiny_config(dropout=0.3), pack=K)
    one, other = (model(rows[0], training=True)["nsp"] for _ in range(2))
    assert np.abs(one - other).max() > 1e-3


# Runs.


@pytest.fixture
def packed(records_by_pack):
    return records_by_pack[K]


@pytest.fixture
def unpacked(records_by_pack):
    return records_by_pack[1]


def figures(results):
    return {name: value for name, value in results.items() if name != "pairs"}


@pytest.mark.parametrize("form", [1, K])
def test_packed_and_unpacked_records_give_the_same_results(packed, unpacked, form):
    model = packed_as(random_model(num_layers=1), form)
    expected = figures(evaluate(packed_as(model, 1), unpacked, batch_size=16))
    for records in (packed, unpacked):
        measured = figures(evaluate(model, records, batch_size=16))
        assert measured == pytest.approx(expected, rel=1e-5)


def test_a_run_on_packed_records(packed, unpacked, tmp_path, capsys):
    settings = dataclasses.replace(RUN_SETTINGS, steps=12, evaluate_every=12, checkpoint_every=12)
    model, results = pretrain(
        packed, tmp_path / "run", bert=run_config(), pretraining=settings, accumulate=2, verbose=2
    )
    assert model.input["cls_positions"].shape == (None, K)
    # What is ahead, and the rate, in pairs.
    said, pairs = capsys.readouterr().out, pairs_in_a_row(load_manifest(packed))
    assert 1.2 < pairs < K
    assert f"packed: 8 rows of {S} tokens in an update, with {pairs:.3g} pairs each" in said
    # The same results on the same pairs unpacked, of the model and of the run.
    assert results["mlm_loss"] < results["unigram_loss"] + 1.0
    for measured in (model, tmp_path / "run"):
        again = figures(evaluate(measured, unpacked, batch_size=8))
        assert again == pytest.approx(figures(results), rel=1e-4)
    # It is called again, loaded, and another run of packed rows starts from it.
    _, again = pretrain(
        packed, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0
    )
    assert again == results
    assert "pack" not in read_json(tmp_path / "run" / "config.json", "a run")
    loaded = load(tmp_path / "run")
    assert f"8 rows of {S} tokens, with up to {K} sequences each" in loaded.training
    x, _, _ = random_batch()
    for name, expected in packed_as(model, 1)(x).items():
        np.testing.assert_array_equal(loaded.model(x)[name], expected)
    start = pretraining_model(run_config(), seed=9, pack=K)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assign_weights(start, loaded)
    assert_equal_values(values_of(start.trainable_variables), loaded.weights)


def test_what_is_said_before_the_first_step(packed, unpacked):
    manifest = load_manifest(packed)
    pretraining = PretrainingConfig(steps=1000, batch_size=8, evaluate_steps=1)
    rows, pairs = manifest.num_records("train"), manifest.counts["train"]["pairs"]
    assert what_is_ahead(pretraining, manifest) == [
        f"packed: 8 rows of {S} tokens in an update, with {pairs / rows:.3g} pairs each on "
        f"average: {8 * pairs / rows:.0f} pairs"
    ]
    # Where nobody has counted the pairs.
    counts = {"train": {"records": rows}}
    uncounted = dataclasses.replace(manifest, counts=counts)
    assert what_is_ahead(pretraining, uncounted) == [f"packed: 8 rows of {S} tokens in an update"]
    assert pairs_in_a_row(uncounted) == 1.0
    assert what_is_ahead(pretraining, load_manifest(unpacked)) == []
    assert pairs_in_a_row(load_manifest(unpacked)) == 1.0
