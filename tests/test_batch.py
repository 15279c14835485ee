"""The one description of a batch, beside the batches of the reader, the model's inputs and random
batches."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import ROOT, tiny_config

import tfrecords.reader
from kbert.model.bert import encoder_model, pretraining_model
from kbert.speed.tpu_compiler import batch_shapes
from tfrecords import batch, schema
from tfrecords.batch import ENCODER_INPUTS, FEATURES, BatchSpec, random_batch
from tfrecords.reader import read

pytest_plugins = ["model_fixtures"]

SEQUENCES = ("token_ids", "segment_ids", "padding_mask")
B, S, P, K = 11, 17, 3, 5


def test_the_whole_of_a_batch():
    spec = BatchSpec(sequence_length=S, max_predictions=P)
    assert spec.build(lambda feature, shape: (shape, feature.dtype), B) == (
        {
            "token_ids": ((B, S), "int32"),
            "segment_ids": ((B, S), "int32"),
            "padding_mask": ((B, S), "int32"),
            "mask_positions": ((B, P), "int32"),
        },
        {"mlm": ((B, P), "int32"), "nsp": ((B,), "int32")},
        {"mlm": ((B, P), "float32"), "nsp": ((B,), "float32")},
    )
    assert ENCODER_INPUTS == SEQUENCES


def test_google_names_beside_ours():
    assert {
        (feature.part, feature.name): feature.google_name for feature in BatchSpec().features
    } == {
        ("x", "token_ids"): "input_ids",
        ("x", "segment_ids"): "segment_ids",
        ("x", "padding_mask"): "input_mask",
        ("x", "mask_positions"): "masked_lm_positions",
        ("y", "mlm"): "masked_lm_ids",
        ("y", "nsp"): "next_sentence_labels",
        ("sample_weight", "mlm"): "masked_lm_weights",
        ("sample_weight", "nsp"): None,
    }


def test_the_whole_of_a_packed_batch():
    spec = BatchSpec(sequence_length=S, max_predictions=P, pack=K)
    assert spec.build(lambda feature, shape: (shape, feature.dtype), B) == (
        {
            "token_ids": ((B, S), "int32"),
            "segment_ids": ((B, S), "int32"),
            "pair_numbers": ((B, S), "int32"),
            "positions": ((B, S), "int32"),
            "mask_positions": ((B, P), "int32"),
            "cls_positions": ((B, K), "int32"),
        },
        {"mlm": ((B, P), "int32"), "nsp": ((B, K), "int32")},
        {"mlm": ((B, P), "float32"), "nsp": ((B, K), "float32")},
    )
    added = {feature.google_name for feature in spec.features} - {
        feature.google_name for feature in BatchSpec().features
    }
    assert added == {"position_ids", "next_sentence_positions", "next_sentence_weights"}
    alone = BatchSpec(pack=K, pairs="none")
    assert set(alone.x) == set(spec.x) - {"cls_positions"}
    assert set(alone.y) == set(alone.sample_weight) == {"mlm"}


def test_the_table_in_the_docs_is_this_one():
    rows = re.findall(
        r"^\| (x|y|sample_weight) \| `(\w+)` \| (\w+) \[(.*?)\] \| .* \| (?:`(\w+)` )?\|$",
        (ROOT / "docs" / "records.md").read_text(),
        re.MULTILINE,
    )
    # One table for all batches, and one for what packed ones have in the place of some of it.
    assert rows == [
        (one.part, one.name, one.dtype, ", ".join(one.axes), one.google_name or "")
        for packed in (False, True)
        for one in FEATURES
        if (one.packed is True) == packed
    ]


@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_pairs_alone_have_labels_for_pairs(pairs):
    spec = BatchSpec(pairs=pairs)
    names = ["mlm"] if pairs == "none" else ["mlm", "nsp"]
    assert list(spec.y) == list(spec.sample_weight) == names
    assert list(spec.x) == [*SEQUENCES, "mask_positions"]


def test_open_lengths_are_none():
    shapes = BatchSpec().build(lambda feature, shape: shape)
    assert shapes[0]["token_ids"] == (None, None)
    assert shapes[1] == {"mlm": (None, None), "nsp": (None,)}
    assert BatchSpec(sequence_length=S).build(lambda feature, shape: shape, B)[0] == {
        **dict.fromkeys(SEQUENCES, (B, S)),
        "mask_positions": (B, None),
    }


def test_other_pairs_are_refused(refused):
    with refused("Expected pairs among nsp, sop, none. Received: 'both'."):
        BatchSpec(pairs="both")


@pytest.mark.parametrize("pairs", schema.PAIRS)
def test_the_reader_gives_batches_of_this_form(pairs, records_by_pairs):
    manifest = schema.load_manifest(records_by_pairs[pairs])
    spec = BatchSpec.of(manifest)
    assert spec == BatchSpec(sequence_length=23, max_predictions=3, pairs=pairs)
    dataset = read(manifest, batch_size=B)
    assert dataset.element_spec == spec.element_spec(B)
    arrays = next(dataset.as_numpy_iterator())
    assert spec.build(lambda feature, shape: (shape, feature.dtype), B) == tuple(
        {name: (values.shape, values.dtype.name) for name, values in part.items()}
        for part in arrays
    )


def test_a_reader_with_another_form_says_so(tiny_records, monkeypatch):
    parse = tfrecords.reader.parse

    def without_weights(*arguments):
        x, y, _ = parse(*arguments)
        return x, y, {}

    monkeypatch.setattr(tfrecords.reader, "parse", without_weights)
    with pytest.raises(AssertionError, match=r"Expected batches as in tfrecords/batch\.py"):
        read(tiny_records, batch_size=B)


def test_the_models_take_it():
    spec = BatchSpec()
    model = pretraining_model(tiny_config())
    assert {name: (one.shape, one.dtype) for name, one in model.input.items()} == {
        name: (spec.shape(feature), feature.dtype) for name, feature in spec.x.items()
    }
    assert set(model.output) == set(spec.y)
    assert tuple(encoder_model(tiny_config()).input) == ENCODER_INPUTS
    alone = pretraining_model(tiny_config(), pairs="none")
    assert set(alone.output) == set(BatchSpec(pairs="none").y)


def test_shapes_for_compilers():
    spec = BatchSpec(sequence_length=S, max_predictions=P, pairs="none")
    x, y, sample_weight = batch_shapes(spec, B)
    assert {name: (one.shape, one.dtype) for name, one in x.items()} == {
        **dict.fromkeys(SEQUENCES, ((B, S), "int32")),
        "mask_positions": ((B, P), "int32"),
    }
    assert [(one.shape, one.dtype) for one in (y["mlm"], sample_weight["mlm"])] == [
        ((B, P), "int32"),
        ((B, P), "float32"),
    ]
    assert set(y) == set(sample_weight) == {"mlm"}


def test_one_more_feature_is_one_more_line(monkeypatch):
    """Everything that is made from the table has it: what `read` is compared with, the inputs of
    models, the shapes for compilers, arrays."""
    more = batch.Feature(
        part="x", name="letters", axes=("B", "S"), dtype="int32", google_name=None, meaning=""
    )
    monkeypatch.setattr(batch, "FEATURES", (*FEATURES, more))
    spec = BatchSpec(sequence_length=S, max_predictions=P)
    assert spec.element_spec(B)[0]["letters"] == tf.TensorSpec((B, S), "int32")
    assert batch_shapes(spec, B)[0]["letters"].shape == (B, S)
    assert pretraining_model(tiny_config()).input["letters"].shape == (None, None)


def test_arrays_take_dtypes_and_keep_shapes():
    spec = BatchSpec(sequence_length=2, max_predictions=1, pairs="none")
    values = {
        **{("x", name): np.ones((3, 2), "int64") for name in SEQUENCES},
        ("x", "mask_positions"): [[1], [0], [1]],
        ("y", "mlm"): np.zeros((3, 1)),
        ("y", "nsp"): "left out",
        ("sample_weight", "mlm"): np.ones((3, 1), bool),
    }
    x, y, sample_weight = spec.arrays(values, 3)
    assert {values.dtype.name for values in (x | y).values()} == {"int32"}
    assert sample_weight["mlm"].dtype == np.float32
    assert x["mask_positions"].tolist() == [[1], [0], [1]]
    with pytest.raises(ValueError, match=re.escape("x['token_ids'] of shape (4, 2). Received:")):
        spec.arrays(values, 4)


def test_a_random_batch_is_like_one_of_records():
    x, y, sample_weight = random_batch(BatchSpec(sequence_length=17, max_predictions=3), 11, 53)
    assert {name: values.shape for name, values in (x | y).items()} == {
        "token_ids": (11, 17),
        "segment_ids": (11, 17),
        "padding_mask": (11, 17),
        "mask_positions": (11, 3),
        "mlm": (11, 3),
        "nsp": (11,),
    }
    assert {name: values.shape for name, values in sample_weight.items()} == {
        "mlm": (11, 3),
        "nsp": (11,),
    }
    assert {values.dtype.name for values in (x | y).values()} == {"int32"}
    assert {values.dtype.name for values in sample_weight.values()} == {"float32"}
    assert x["padding_mask"].sum(axis=1).tolist() == [8, *[17] * 9, 8]  # one in ten is short
    assert sample_weight["mlm"].sum(axis=1).tolist() == [1, *[3] * 9, 1]  # 15 %
    for row, (positions, used) in enumerate(
        zip(x["mask_positions"], sample_weight["mlm"] > 0, strict=True)
    ):
        assert np.all(np.diff(positions[used]) > 0)
        assert np.all(x["padding_mask"][row, positions[used]])
    assert 0 <= x["token_ids"].min() < x["token_ids"].max() < 53
    assert set(y["nsp"]) == {0, 1}


def test_a_random_batch_of_single_segments_has_one_segment():
    spec = BatchSpec(sequence_length=S, max_predictions=P, pairs="none")
    x, y, sample_weight = random_batch(spec, B, 53)
    assert not x["segment_ids"].any()
    assert set(y) == set(sample_weight) == {"mlm"}
    both = random_batch(BatchSpec(sequence_length=S, max_predictions=P), B, 53)
    assert both[0]["segment_ids"].any()
    np.testing.assert_array_equal(x["token_ids"], both[0]["token_ids"])


@pytest.mark.parametrize("pairs", ["nsp", "none"])
def test_a_random_packed_batch_is_like_one_of_records(pairs):
    spec = BatchSpec(sequence_length=S, max_predictions=P, pairs=pairs, pack=3)
    batch = x, y, sample_weight = random_batch(spec, B, 53)
    assert spec.build(lambda feature, shape: (shape, feature.dtype), B) == tuple(
        {name: (values.shape, values.dtype.name) for name, values in part.items()} for part in batch
    )
    alone = dataclasses.replace(spec, pack=1)
    np.testing.assert_array_equal(x["token_ids"], random_batch(alone, B, 53)[0]["token_ids"])
    found = set()
    for row, numbers in enumerate(x["pair_numbers"]):
        (count,) = {numbers.max()}
        found.add(int(count))
        starts = []
        for number in range(1, count + 1):
            (where,) = np.nonzero(numbers == number)
            starts.append(where[0])
            assert len(where) >= (3 if pairs == "none" else 5)
            assert where.tolist() == list(range(where[0], where[0] + len(where)))  # in one piece
            assert x["positions"][row, where].tolist() == list(range(len(where)))
            assert x["segment_ids"][row, where].any() == (pairs != "none")
            assert np.all(np.diff(x["segment_ids"][row, where]) >= 0)
        padding = numbers == 0
        for name in ("token_ids", "segment_ids", "positions"):
            assert not x[name][row, padding].any()
        assert not numbers[padding.argmax() :].any() or not padding.any()
        if pairs == "nsp":
            assert x["cls_positions"][row].tolist() == starts + [0] * (3 - count)
            assert sample_weight["nsp"][row].tolist() == [1] * count + [0] * (3 - count)
            assert not y["nsp"][row, count:].any()
        in_use = x["mask_positions"][row, sample_weight["mlm"][row] > 0]
        assert not padding[in_use].any()
    assert found == {1, 2, 3}


def test_a_random_batch_needs_lengths():
    with pytest.raises(ValueError, match="Expected a sequence length and a number of slots"):
        random_batch(BatchSpec(sequence_length=S), B, 53)


def test_a_random_batch_stays_the_same():
    """What benchmarks of earlier releases measured on."""

    def digest(one):
        content = hashlib.sha256()
        for part in one:
            for name, values in sorted(part.items()):
                content.update(name.encode() + values.dtype.str.encode() + values.tobytes())
        return content.hexdigest()[:16]

    small = BatchSpec(sequence_length=17, max_predictions=3)
    usual = BatchSpec(sequence_length=128, max_predictions=20)
    assert digest(random_batch(small, 11, 53)) == "b1dee8dc4e189d86"
    assert digest(random_batch(usual, 5, 30522, seed=7)) == "51d239217f9eecd4"


def test_the_description_loads_nothing_large():
    program = "import sys, tfrecords.batch; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    modules = subprocess.check_output(
        [sys.executable, "-c", program], env=environment, text=True, timeout=60
    ).split()
    assert "tfrecords.batch" in modules
    assert not {"numpy", "tensorflow", "keras", "numba"} & set(modules)
