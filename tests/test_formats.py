"""Every way out and in: what is loaded is what was exported, bit for bit, through any chain of formats."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import safetensors.numpy
from model_fixtures import assert_equal_values, random_model, tiny_config, values_of

from kbert.formats import FORMATS, format_of, load, save
from kbert.model import pretraining_model
from kbert.pretrained import Pretrained, assign_weights, weight_shapes
from kbert.runs import load_run
from tfrecords import InputError, Vocabulary

pytest_plugins = ["model_fixtures"]

S = 23
TRAINING = "3 updates.\n"


@pytest.fixture(scope="module")
def pretrained(tiny_vocabulary):
    model = random_model(dropout=0.2, attention_dropout=0.1, initializer_range=0.03)
    return Pretrained.of_model(model, tiny_vocabulary, sequence_length=S, cased=True, pairs="sop", training=TRAINING)


@pytest.fixture(scope="module")
def of_single_segments(tiny_vocabulary):
    return Pretrained.of_model(random_model(next_sentence=False), tiny_vocabulary, sequence_length=S)


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    """The directories of the model in every format."""
    place = tmp_path_factory.mktemp("exported")
    return {format: save(pretrained, place / format, format) for format in FORMATS}


def assert_same(actual, expected):
    """All but where it came from, the weights bit for bit."""
    assert_equal_values(actual.weights, expected.weights)
    assert all(value.dtype == np.float32 for value in actual.weights.values())
    assert actual.sha256 == expected.sha256
    for field in dataclasses.fields(Pretrained):
        if field.name not in ("weights", "source"):
            assert getattr(actual, field.name) == getattr(expected, field.name), field.name


@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip(pretrained, exported, format):
    assert format_of(exported[format]) == format
    loaded = load(str(exported[format]))
    assert loaded.source == str(exported[format])
    assert_same(loaded, pretrained)
    assert_equal_values(values_of(loaded.model.trainable_variables), pretrained.weights)


@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_of_a_model_of_single_segments(of_single_segments, tmp_path, format):
    loaded = load(save(of_single_segments, tmp_path / "bert", format))
    assert loaded.pairs == "none"
    assert_same(loaded, of_single_segments)


@pytest.mark.parametrize("format", ["saved-model", "huggingface"])
def test_a_round_trip_of_the_exact_gelu(tiny_vocabulary, tmp_path, format):
    other = Pretrained.of_model(random_model(exact_gelu=True, layer_norm_epsilon=1e-7), tiny_vocabulary)
    loaded = load(save(other, tmp_path / "bert", format))
    assert loaded.bert.exact_gelu
    assert_same(loaded, other)


@pytest.mark.parametrize("format", ["keras-hub", "google"])
@pytest.mark.parametrize("change", [{"exact_gelu": True}, {"layer_norm_epsilon": 1e-7}], ids=str)
def test_a_form_that_a_format_has_not_is_refused(tiny_vocabulary, tmp_path, format, change):
    other = Pretrained.of_model(random_model(**change), tiny_vocabulary)
    with pytest.raises(InputError, match=r"^Expected the tanh form of gelu and .* Received: .*; export it to huggingface\.$"):
        save(other, tmp_path / "bert", format)
    assert not list(tmp_path.iterdir())


def test_every_chain_of_two_formats(pretrained, exported, tmp_path):
    for first, second in itertools.permutations(FORMATS, 2):
        output = save(load(exported[first]), tmp_path / f"{first}-{second}", second)
        assert_same(load(output), pretrained)


def test_a_run_becomes_every_format(tiny_run, tmp_path):
    run = load(tiny_run.directory)
    assert_equal_values(run.weights, {path: value for path, value in tiny_run.weights.items() if path in run.weights})
    assert list(run.weights) == list(weight_shapes(run.bert))
    described = load_run(tiny_run.directory)
    for name in ("bert", "vocabulary", "sequence_length", "cased", "pairs"):
        assert getattr(run, name) == getattr(described, name)
    for format in FORMATS:
        assert_same(load(save(run, tmp_path / format, format)), run)
        card = (tmp_path / format / "README.md").read_text()
        # What a reader wants to know of the training is there.
        assert "60 updates of 8 sequences of up to 23 tokens" in card
        assert "37 documents" in card
        assert "kbert pretrain RECORDS --output RUN" in card
        assert "--learning-rate 0.01" in card
        assert f"| {tiny_run.results['mlm_loss']:.3f} |" in card
        assert f"| {tiny_run.results['nsp_accuracy']:.1%} |" in card


def test_weight_shapes_are_those_of_the_model():
    for next_sentence in (False, True):
        model = pretraining_model(tiny_config(num_segments=3), next_sentence=next_sentence)
        shapes = {variable.path: tuple(variable.shape) for variable in model.trainable_variables}
        assert weight_shapes(tiny_config(num_segments=3), next_sentence) == shapes


@pytest.mark.parametrize("format", FORMATS)
def test_a_directory_with_something_in_it_is_refused_and_untouched(pretrained, tmp_path, format):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"Expected an empty or new directory\. Received: .*already holds thesis\.tex"):
        save(pretrained, tmp_path, format)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"thesis.tex": "x"}


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_breaks_off_leaves_nothing(pretrained, tmp_path, format, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("kbert.formats.save_notes", full)  # the last but one of the files
    with pytest.raises(OSError, match="No space left"):
        save(pretrained, tmp_path / "bert", format)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused(pretrained, tmp_path):
    with pytest.raises(InputError, match=r"Expected a format among saved-model, .* Received: 'onnx'"):
        save(pretrained, tmp_path / "bert", "onnx")


@pytest.mark.parametrize("name", ["nowhere", "empty", "file", "other"])
def test_what_is_no_model_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"kind": "something else"}')
    with pytest.raises(InputError, match=rf"Expected a run by 'kbert pretrain' or a BERT .* at .*{name}\. Received: neither\."):
        load(tmp_path / name)


WEIGHT_FILES = {
    "saved-model": "variables/variables.data-00000-of-00001",
    "keras-hub": "model.weights.h5",
    "huggingface": "model.safetensors",
    "google": "bert_model.ckpt.data-00000-of-00001",
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_weights_are_refused(pretrained, tmp_path, format, damage):
    path = save(pretrained, tmp_path / "bert", format) / WEIGHT_FILES[format]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"^Expected .* Received: ") as caught:
        load(tmp_path / "bert")
    assert "\n" not in str(caught.value)


CONFIGURATIONS = {
    "huggingface": ("config.json", ("num_attention_heads",)),
    "google": ("bert_config.json", ("num_attention_heads",)),
}


def edit(path, keys, value):
    fields = json.loads(path.read_text())
    inner = fields
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("format", CONFIGURATIONS)
def test_notes_of_another_model_are_refused(pretrained, tmp_path, format):
    name, keys = CONFIGURATIONS[format]
    edit(save(pretrained, tmp_path / "bert", format) / name, keys, 13)
    with pytest.raises(InputError, match=r"as kbert\.json there says, with num_heads=2\. Received: num_heads=13; remove"):
        load(tmp_path / "bert")


def test_a_shape_that_the_configuration_contradicts_is_an_error_with_both(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "huggingface")
    edit(output / "config.json", ("intermediate_size",), 41)
    message = r"Expected in .*bert layer_0/intermediate/kernel of shape \(26, 41\), .* Received: \(26, 37\)\."
    with pytest.raises(InputError, match=message):
        load(output)


def test_an_encoder_with_a_hole_is_refused(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "huggingface")
    tensors = safetensors.numpy.load_file(output / "model.safetensors")
    del tensors["bert.encoder.layer.1.attention.self.key.bias"]
    safetensors.numpy.save_file(tensors, output / "model.safetensors")
    with pytest.raises(InputError, match=r"all weights of the encoder\. Received: none for layer_1/qkv/bias\."):
        load(output)


def test_without_notes_a_format_speaks_for_itself(pretrained, exported, tmp_path):
    for format in ("keras-hub", "huggingface", "google"):
        output = save(pretrained, tmp_path / format, format)
        (output / "kbert.json").unlink()
        loaded = load(output)
        assert_equal_values(loaded.weights, pretrained.weights)
        assert loaded.vocabulary == pretrained.vocabulary
        assert not pretrained.shape_differences(loaded.bert)
        assert loaded.pairs == "nsp"  # of the order of sentences nothing but the notes tells
    output = save(pretrained, tmp_path / "saved-model")
    (output / "kbert.json").unlink()
    with pytest.raises(InputError, match=r"Expected a SavedModel by 'kbert export' at .* Received: one without kbert\.json"):
        load(output)


def without(pretrained, *layers):
    weights = {path: value for path, value in pretrained.weights.items() if path.partition("/")[0] not in layers}
    return dataclasses.replace(pretrained, weights=weights)


@pytest.mark.parametrize(
    ("layers", "missing"),
    [
        ((), ()),
        (("mlm_transform", "mlm"), ("masked language modelling",)),
        (("mlm",), ("masked language modelling",)),
        (("nsp",), ("next sentence prediction",)),
        (("mlm", "pooler"), ("masked language modelling", "next sentence prediction")),
    ],
)
def test_missing_heads_are_new_and_said(pretrained, tmp_path, layers, missing, recwarn):
    headless = without(pretrained, *layers)
    assert headless.missing == missing
    model = headless.model
    said = [str(warning.message) for warning in recwarn if "is new" in str(warning.message)]
    assert sorted(said) == sorted(f"The head of {head} is new: the model has none, or a part of it." for head in missing)
    new = values_of(pretraining_model(headless.bert).trainable_variables)
    expected = {path: headless.weights.get(path, new[path]) for path in new}
    assert_equal_values(values_of(model.trainable_variables), expected)
    if missing:
        with pytest.raises(
            InputError, match=f"all of its heads. Received: the model without that of {' and of '.join(missing)};"
        ):
            save(headless, tmp_path / "bert")
        assert not list(tmp_path.iterdir())


def test_what_a_model_has_no_place_for_is_said(pretrained):
    model = pretraining_model(pretrained.bert, next_sentence=False)
    with pytest.warns(UserWarning, match=r"The head of next sentence prediction in the model is left out: this model has none"):
        assign_weights(model, pretrained)
    values = values_of(model.trainable_variables)
    assert_equal_values(values, {path: pretrained.weights[path] for path in values})


def test_parts_that_do_not_fit_are_refused(pretrained, tiny_vocabulary):
    with pytest.raises(InputError, match=r"Expected in the model a vocabulary of 53 pieces, .* Received: 52\."):
        dataclasses.replace(pretrained, vocabulary=Vocabulary(tiny_vocabulary.tokens[:-1]))
    with pytest.raises(InputError, match=r"Expected a sequence length from 4 to 29, .* Received: 30\."):
        dataclasses.replace(pretrained, sequence_length=30)
