"""Every way out and in: what is loaded is what was exported, bit for bit, through any chain of
formats."""

import dataclasses
import inspect
import itertools
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from model_fixtures import assert_equal_values, random_model, tiny_config, values_of

from kbert.config import BertConfig, PretrainingConfig
from kbert.formats.load_and_save import FORMATS, format_of, load, save
from kbert.formats.pretrained import Pretrained, assign_weights, weight_shapes
from kbert.formats.protocol import EXPORT_FORMATS
from kbert.model.bert import pretraining_model
from kbert.run.checkpoints import save_checkpoint
from kbert.run.directory import Run, load_run
from tfrecords import InputError, Normalization, Vocabulary
from tfrecords.schema import PAIRS

pytest_plugins = ["model_fixtures"]

S = 23
TRAINING = "3 updates.\n"


@pytest.fixture(scope="module")
def pretrained(tiny_vocabulary):
    # Trained on packed rows or on single pairs, a model's exports are the same: these are of one
    # for packed rows.
    model = random_model(dropout=0.2, attention_dropout=0.1, initializer_range=0.03, pack=3)
    return Pretrained.of_model(
        model, tiny_vocabulary, sequence_length=S, cased=True, pairs="sop", training=TRAINING
    )


@pytest.fixture(scope="module")
def of_single_segments(tiny_vocabulary):
    return Pretrained.of_model(random_model(pairs="none"), tiny_vocabulary, sequence_length=S)


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    """The directories of the model in every format."""
    place = tmp_path_factory.mktemp("exported")
    return {format: save(pretrained, place / format, format) for format in EXPORT_FORMATS}


def assert_same(actual, expected):
    """All but where it came from, the weights bit for bit."""
    assert_equal_values(actual.weights, expected.weights)
    assert all(value.dtype == np.float32 for value in actual.weights.values())
    assert actual.sha256 == expected.sha256
    for field in dataclasses.fields(Pretrained):
        if field.name not in ("weights", "source"):
            assert getattr(actual, field.name) == getattr(expected, field.name), field.name


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_round_trip(pretrained, exported, format):
    assert format_of(exported[format]) == format
    loaded = load(str(exported[format]))
    assert loaded.source == str(exported[format])
    assert_same(loaded, pretrained)
    assert_equal_values(values_of(loaded.model.trainable_variables), pretrained.weights)


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_round_trip_of_a_model_of_single_segments(of_single_segments, tmp_path, format):
    loaded = load(save(of_single_segments, tmp_path / "bert", format))
    assert loaded.pairs == "none"
    assert_same(loaded, of_single_segments)


@pytest.mark.parametrize("format", ["saved-model", "huggingface"])
def test_a_round_trip_of_the_exact_gelu(tiny_vocabulary, tmp_path, format):
    other = Pretrained.of_model(
        random_model(num_layers=1, exact_gelu=True, layer_norm_epsilon=1e-7), tiny_vocabulary
    )
    loaded = load(save(other, tmp_path / "bert", format))
    assert loaded.bert.exact_gelu
    assert_same(loaded, other)


@pytest.mark.parametrize("format", ["keras-hub", "google"])
@pytest.mark.parametrize("change", [{"exact_gelu": True}, {"layer_norm_epsilon": 1e-7}], ids=str)
def test_a_form_that_a_format_has_not_is_refused(tiny_vocabulary, tmp_path, format, change):
    other = Pretrained.of_model(random_model(**change), tiny_vocabulary)
    with pytest.raises(
        InputError,
        match=r"^Expected the tanh form of gelu and .* Received: .*; export it to huggingface\.$",
    ):
        save(other, tmp_path / "bert", format)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_every_chain_of_two_formats(pretrained, exported, tmp_path):
    for first, second in itertools.permutations(EXPORT_FORMATS, 2):
        output = save(load(exported[first]), tmp_path / f"{first}-{second}", second)
        assert_same(load(output), pretrained)


def test_a_run_becomes_every_format(tiny_run, tmp_path):
    run = load(tiny_run.directory)
    assert_equal_values(
        run.weights,
        {path: value for path, value in tiny_run.weights.items() if path in run.weights},
    )
    assert list(run.weights) == list(weight_shapes(run.bert))
    described = load_run(tiny_run.directory)
    for name in ("bert", "vocabulary", "sequence_length", "normalization", "pairs"):
        assert getattr(run, name) == getattr(described, name)
    for format in EXPORT_FORMATS:
        assert_same(load(save(run, tmp_path / format, format)), run)
        card = (tmp_path / format / "README.md").read_text()
        # What a reader wants to know of the training is there.
        assert "60 updates of 8 sequences of up to 23 tokens" in card
        assert "37 documents" in card
        assert (
            "The settings:\n\n    --max-positions 29 --steps 60 --batch-size 8 --learning-rate 0.01"
            in card
        )
        assert f"| {tiny_run.results['mlm_loss']:.3f} |" in card
        assert f"| {tiny_run.results['nsp_accuracy']:.1%} |" in card


@pytest.mark.parametrize(
    ("changes", "initial", "words"),
    [
        (
            {},
            None,
            "kbert pretrain RECORDS --output RUN --size mini --dropout 0.2 --steps 70 --batch-size "
            "24 --optimizer lamb",
        ),
        (
            {"num_layers": 5},
            "ab" * 32,
            "kbert pretrain RECORDS --output RUN --init-from PATH --dropout 0.2 --steps 70",
        ),
        ({"num_layers": 5}, None, "--dropout 0.2 --steps 70 --batch-size 24 --optimizer lamb"),
        (
            {"attention_dropout": 0.1},
            None,
            "kbert pretrain RECORDS --output RUN --size mini --dropout 0.2 --attention-dropout 0.1 "
            "--steps 70 --batch-size 24",
        ),
    ],
)
def test_the_command_of_a_run_in_the_card(tmp_path, tiny_vocabulary, changes, initial, words):
    run = Run(
        directory=tmp_path / "run",
        bert=BertConfig.of_size("mini", vocabulary_size=53, dropout=0.2, **changes),
        pretraining=PretrainingConfig(steps=70, batch_size=24, optimizer="lamb"),
        sequence_length=23,
        normalization=Normalization(cased=False),
        pairs="nsp",
        records_sha256="0" * 64,
        initial_sha256=initial,
    )
    run.claim()
    tiny_vocabulary.save(run.directory / "vocab.txt")
    model = run.new_model()
    save_checkpoint(run.checkpoints, model, 50)
    training = load(run.directory).training
    assert training.startswith(
        "50 updates of 24 sequences of up to 23 tokens each.\n"
    )  # it is not at its end
    assert f":\n\n    {words}" in training
    assert "Validation results" not in training
    # What only tells of the training costs no model.
    (run.directory / "records.json").write_text('{"counts": {"corpus": {"documents": 1}}}')
    with pytest.warns(UserWarning, match="The model card will not say how .*run was trained"):
        assert load(run.directory).training == ""


def test_weight_shapes_are_those_of_the_model():
    for pairs in PAIRS:
        model = pretraining_model(tiny_config(num_segments=3), pairs=pairs)
        shapes = {variable.path: tuple(variable.shape) for variable in model.trainable_variables}
        assert weight_shapes(tiny_config(num_segments=3), pairs) == shapes


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_a_directory_with_something_in_it_is_refused_and_untouched(pretrained, tmp_path, format):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(
        InputError,
        match=r"Expected an empty or new directory\. Received: .*already holds thesis\.tex",
    ):
        save(pretrained, tmp_path, format)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"thesis.tex": "x"}


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_an_export_that_breaks_off_leaves_nothing(pretrained, tmp_path, format, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(
        "kbert.formats.load_and_save.save_notes", full
    )  # the last but one of the files
    with pytest.raises(OSError, match="No space left"):
        save(pretrained, tmp_path / "bert", format)
    assert not list(tmp_path.iterdir())


def test_every_export_format_has_its_module():
    exporters = [format for format in FORMATS if format.NAME != "run"]
    assert sorted(format.NAME for format in exporters) == sorted(EXPORT_FORMATS)
    for format in exporters:
        parameters = list(inspect.signature(format.write).parameters)
        assert parameters == ["pretrained", "directory", *format.OPTIONS]


def test_only_its_own_format_recognises_an_export(exported, tiny_run):
    for name, directory in {**exported, "run": tiny_run.directory}.items():
        recognised = [format.NAME for format in FORMATS if format.recognises(directory)]
        assert recognised == [name]


LOADED = """
import sys
import kbert
kbert.load(sys.argv[1])
print(*sys.modules)
"""


def test_loading_a_run_loads_the_libraries_of_no_format(tiny_run):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, tiny_run.directory],
        check=True,
        capture_output=True,
        text=True,
    )
    modules = set(done.stdout.split())
    assert "kbert.formats.keras_hub" in modules
    assert not modules & {"keras_hub", "tensorflow_text", "tokenizers", "transformers", "torch"}


def test_an_option_of_another_format_is_refused(pretrained, tmp_path):
    with pytest.raises(
        InputError, match=r"options of the format google, which has none\. Received: top_k\."
    ):
        save(pretrained, tmp_path / "bert", "google", top_k=3)
    with pytest.raises(
        InputError, match=r"of the format saved-model, which has top_k\. Received: topk\."
    ):
        save(pretrained, tmp_path / "bert", topk=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (None, "to predict masked words and next sentences"),
        ("sop", "to predict masked words and sentence order"),
    ],
)
def test_the_card_says_what_was_learned_from_pairs(tiny_vocabulary, tmp_path, pairs, expected):
    described = Pretrained.of_model(random_model(), tiny_vocabulary, pairs=pairs)
    assert expected in (save(described, tmp_path / "bert", "google") / "README.md").read_text()
    assert load(tmp_path / "bert").pairs == (pairs or "nsp")


@pytest.mark.parametrize(("of_model", "pairs"), [("nsp", "none"), ("none", "sop")])
def test_pairs_that_a_model_has_no_head_for_are_refused(tiny_vocabulary, of_model, pairs):
    with pytest.raises(InputError, match=rf"Expected pairs .* Received: '{pairs}'"):
        Pretrained.of_model(random_model(pairs=of_model), tiny_vocabulary, pairs=pairs)


def test_an_unknown_format_is_refused(pretrained, tmp_path):
    with pytest.raises(
        InputError, match=r"Expected a format among saved-model, .* Received: 'onnx'"
    ):
        save(pretrained, tmp_path / "bert", "onnx")


@pytest.mark.parametrize("name", ["nowhere", "empty", "file", "other"])
def test_what_is_no_model_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"kind": "something else"}')
    with pytest.raises(
        InputError,
        match=(
            r"Expected a run by 'kbert pretrain' or a BERT in .* at "
            rf".*{name}\. Received: (neither|no such directory)\."
        ),
    ):
        load(tmp_path / name)


WEIGHT_FILES = {
    "saved-model": "variables/variables.data-00000-of-00001",
    "keras-hub": "model.weights.h5",
    "huggingface": "model.safetensors",
    "google": "bert_model.ckpt.data-00000-of-00001",
}


@pytest.mark.parametrize("format", EXPORT_FORMATS)
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_weights_are_refused(exported, tmp_path, format, damage):
    path = shutil.copytree(exported[format], tmp_path / "bert") / WEIGHT_FILES[format]
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
    with pytest.raises(
        InputError,
        match=r"as kbert\.json there says, with num_heads=2\. Received: num_heads=13; remove",
    ):
        load(tmp_path / "bert")


def test_a_shape_that_the_configuration_contradicts_is_an_error_with_both(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "huggingface")
    edit(output / "config.json", ("intermediate_size",), 41)
    message = (
        r"Expected in .*bert layer_0/intermediate/kernel of shape \(26, 41\), .* Received: \(26, "
        r"37\)\."
    )
    with pytest.raises(InputError, match=message):
        load(output)


def test_shapes_that_keras_hub_contradicts_are_an_error(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "keras-hub")
    (output / "kbert.json").unlink()
    edit(output / "config.json", ("config", "intermediate_dim"), 41)
    with pytest.raises(
        InputError, match=r"the weights that its configuration says\. Received: others \(.*37.*\)"
    ) as caught:
        load(output)
    assert "\n" not in str(caught.value)
    edit(output / "config.json", ("config", "num_layers"), 1)
    with pytest.raises(
        InputError, match=r"Expected in .*bert 1 layers, as its configuration says\. Received: 2\."
    ):
        load(output)


def test_casing_that_the_notes_contradict_is_an_error(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "huggingface")
    edit(output / "tokenizer.json", ("normalizer", "lowercase"), True)
    edit(output / "tokenizer_config.json", ("do_lower_case",), True)
    with pytest.raises(
        InputError,
        match=r"as kbert\.json there says, with cased=True\. Received: cased=False; remove",
    ):
        load(output)


@pytest.mark.parametrize(
    ("format", "file", "keys", "value"),
    [
        ("huggingface", "config.json", ("vocab_size",), "53"),
        ("huggingface", "config.json", ("hidden_size",), None),
        ("huggingface", "config.json", ("num_hidden_layers",), 2.5),
        ("huggingface", "config.json", ("layer_norm_eps",), "x"),
        ("huggingface", "tokenizer_config.json", ("model_max_length",), "x"),
        ("huggingface", "tokenizer.json", ("model", "vocab", "ba"), "x"),
        ("huggingface", "tokenizer.json", ("model", "type"), 5),
        ("google", "bert_config.json", ("hidden_size",), "26"),
        ("google", "bert_config.json", ("initializer_range",), "x"),
        ("keras-hub", "config.json", ("config", "hidden_dim"), 26.5),
        ("keras-hub", "tokenizer.json", ("config",), None),
        ("keras-hub", "tokenizer.json", ("config", "suffix_indicator"), "@@"),
        ("saved-model", "kbert.json", ("sequence_length",), "10"),
        ("saved-model", "kbert.json", ("sequence_length",), 10.0),
        ("saved-model", "kbert.json", ("cased",), "no"),
        ("saved-model", "kbert.json", ("training",), 5),
        ("saved-model", "kbert.json", ("pairs",), "foo"),
        ("saved-model", "kbert.json", ("bert",), None),
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_one_line(exported, tmp_path, format, file, keys, value):
    output = tmp_path / "bert"
    shutil.copytree(exported[format], output)
    if file != "kbert.json":
        (output / "kbert.json").unlink()
    edit(output / file, keys, value)
    with pytest.raises(InputError, match=r"(?i)expected .* Received: ") as caught:
        load(output)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"cut", None], ids=["empty", "cut", "other names"])
def test_a_damaged_head_of_next_sentences_is_refused(exported, tmp_path, content):
    shutil.copytree(exported["keras-hub"], tmp_path / "bert")
    path = tmp_path / "bert" / "next_sentence.safetensors"
    if content is None:
        safetensors.numpy.save_file({"embeddings/layer_norm/gamma": np.ones(26, np.float32)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^Expected .* Received: "):
        load(tmp_path / "bert")


def test_weights_that_are_not_floats_are_refused(exported, tmp_path):
    shutil.copytree(exported["huggingface"], tmp_path / "bert")
    tensors = safetensors.numpy.load_file(tmp_path / "bert" / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = np.round(tensors[name]).astype(np.int8)
    safetensors.numpy.save_file(tensors, tmp_path / "bert" / "model.safetensors")
    with pytest.raises(
        InputError,
        match=r"layer_0/output/kernel of floats\. Received: int8; quantised weights are not read",
    ):
        load(tmp_path / "bert")


def test_weights_that_are_no_numbers_are_refused(exported, tmp_path):
    shutil.copytree(exported["huggingface"], tmp_path / "bert")
    tensors = safetensors.numpy.load_file(tmp_path / "bert" / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.weight"][3, 5] = np.nan
    safetensors.numpy.save_file(tensors, tmp_path / "bert" / "model.safetensors")
    with pytest.raises(
        InputError, match=r"layer_0/output/kernel of finite numbers\. Received: nan"
    ):
        load(tmp_path / "bert")


def test_an_export_to_the_empty_directory_that_one_is_in(of_single_segments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(of_single_segments, ".", "google")
    assert_same(load(tmp_path), of_single_segments)


KILLED = """
import os, signal, sys
import kbert, kbert.formats.load_and_save
kbert.formats.load_and_save.save_notes = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
kbert.save(kbert.load(sys.argv[1]), sys.argv[2], "google")
"""


def test_a_killed_export_leaves_no_model_and_is_done_again(exported, pretrained, tmp_path):
    output = tmp_path / "bert"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, exported["huggingface"], output],
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert format_of(output) is None
    assert_same(load(save(pretrained, output, "google")), pretrained)
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_an_encoder_with_a_hole_is_refused(pretrained, tmp_path):
    output = save(pretrained, tmp_path / "bert", "huggingface")
    tensors = safetensors.numpy.load_file(output / "model.safetensors")
    del tensors["bert.encoder.layer.1.attention.self.key.bias"]
    safetensors.numpy.save_file(tensors, output / "model.safetensors")
    with pytest.raises(
        InputError, match=r"all weights of the encoder\. Received: none for layer_1/qkv/bias\."
    ):
        load(output)


@pytest.mark.filterwarnings(
    "ignore:The masked language modelling head:UserWarning"
)  # KerasHub has another one
def test_without_notes_a_format_speaks_for_itself(pretrained, exported, tmp_path):
    for format in ("keras-hub", "huggingface", "google"):
        output = shutil.copytree(exported[format], tmp_path / format)
        (output / "kbert.json").unlink()
        loaded = load(output)
        assert_equal_values(loaded.weights, pretrained.weights)
        assert loaded.vocabulary == pretrained.vocabulary
        # A vocabulary of lower case alone tells of no casing; where the format does, that counts.
        assert loaded.cased is (format != "google")
        assert loaded.sequence_length == (S if format == "huggingface" else 29)
        assert not pretrained.shape_differences(loaded.bert)
        assert loaded.pairs == "nsp"  # of the order of sentences nothing but the notes tells
    output = shutil.copytree(exported["saved-model"], tmp_path / "saved-model")
    (output / "kbert.json").unlink()
    with pytest.raises(
        InputError,
        match=r"Expected a SavedModel by 'kbert export' at .* Received: one without kbert\.json",
    ):
        load(output)


def without(pretrained, *layers):
    weights = {
        path: value
        for path, value in pretrained.weights.items()
        if path.partition("/")[0] not in layers
    }
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
    said = [str(warning.message) for warning in recwarn if "at random" in str(warning.message)]
    assert sorted(said) == sorted(
        f"The {head} head is initialised at random: the model lacks it, or a part of it."
        for head in missing
    )
    new = values_of(pretraining_model(headless.bert).trainable_variables)
    expected = {path: headless.weights.get(path, new[path]) for path in new}
    assert_equal_values(values_of(model.trainable_variables), expected)
    if "masked language modelling" in missing:
        with pytest.raises(
            InputError,
            match=r"a masked language modelling head\. Received: the model without one;",
        ):
            save(headless, tmp_path / "bert")
        assert not list(tmp_path.iterdir())
    elif missing:  # what else there is can be written
        for format in EXPORT_FORMATS:
            with pytest.warns(
                UserWarning,
                match="has no trained next sentence prediction head; its pooler is left out",
            ):
                saved = load(save(headless, tmp_path / format, format))
            assert saved.pairs == "none"
            assert_equal_values(saved.weights, without(pretrained, "pooler", "nsp").weights)


def test_what_a_model_has_no_place_for_is_said(pretrained):
    model = pretraining_model(pretrained.bert, pairs="none")
    with pytest.warns(
        UserWarning,
        match=r"The next sentence prediction head of the model is ignored: this model has no such",
    ):
        assign_weights(model, pretrained)
    values = values_of(model.trainable_variables)
    assert_equal_values(values, {path: pretrained.weights[path] for path in values})


def test_parts_that_do_not_fit_are_refused(pretrained, tiny_vocabulary):
    with pytest.raises(
        InputError, match=r"Expected in the model a vocabulary of 53 tokens, .* Received: 52; is"
    ):
        dataclasses.replace(pretrained, vocabulary=Vocabulary(tiny_vocabulary.tokens[:-1]))
    with pytest.raises(
        InputError, match=r"Expected a sequence length from 4 to 29, .* Received: 30\."
    ):
        dataclasses.replace(pretrained, sequence_length=30)
