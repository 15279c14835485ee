"""Checkpoints of google-research/bert: the names and shapes of its variables, and what other tools
make of them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from model_fixtures import assert_equal_values, random_model
from official.nlp.tools import tf1_bert_checkpoint_converter_lib as converter

import kbert
from kbert.cli import main
from kbert.formats.google import to_google
from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from tfrecords import InputError

pytest_plugins = ["model_fixtures"]

H, F, V = 26, 37, 53
BLOCK = {
    "attention/self/query/kernel": [H, H],
    "attention/self/query/bias": [H],
    "attention/self/key/kernel": [H, H],
    "attention/self/key/bias": [H],
    "attention/self/value/kernel": [H, H],
    "attention/self/value/bias": [H],
    "attention/output/dense/kernel": [H, H],
    "attention/output/dense/bias": [H],
    "attention/output/LayerNorm/gamma": [H],
    "attention/output/LayerNorm/beta": [H],
    "intermediate/dense/kernel": [H, F],
    "intermediate/dense/bias": [F],
    "output/dense/kernel": [F, H],
    "output/dense/bias": [H],
    "output/LayerNorm/gamma": [H],
    "output/LayerNorm/beta": [H],
}
NAMES = {
    "bert/embeddings/word_embeddings": [V, H],
    "bert/embeddings/position_embeddings": [29, H],
    "bert/embeddings/token_type_embeddings": [2, H],
    "bert/embeddings/LayerNorm/gamma": [H],
    "bert/embeddings/LayerNorm/beta": [H],
    **{
        f"bert/encoder/layer_{layer}/{name}": shape
        for layer in range(2)
        for name, shape in BLOCK.items()
    },
    "bert/pooler/dense/kernel": [H, H],
    "bert/pooler/dense/bias": [H],
    "cls/predictions/transform/dense/kernel": [H, H],
    "cls/predictions/transform/dense/bias": [H],
    "cls/predictions/transform/LayerNorm/gamma": [H],
    "cls/predictions/transform/LayerNorm/beta": [H],
    "cls/predictions/output_bias": [V],
    "cls/seq_relationship/output_weights": [2, H],
    "cls/seq_relationship/output_bias": [2],
}
"""The variables of run_pretraining.py for two layers."""


@pytest.fixture(scope="module")
def pretrained(tiny_vocabulary):
    return Pretrained.of_model(
        random_model(dropout=0.1, attention_dropout=0.2), tiny_vocabulary, sequence_length=23
    )


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    return save(pretrained, tmp_path_factory.mktemp("exported") / "bert", "google")


def test_the_variables_are_googles(pretrained, exported):
    prefix = str(exported / "bert_model.ckpt")
    assert dict(tf.train.list_variables(prefix)) == NAMES
    value = tf.train.load_variable(prefix, "cls/seq_relationship/output_weights")
    np.testing.assert_array_equal(value, pretrained.weights["nsp/kernel"].T)
    value = tf.train.load_variable(prefix, "bert/encoder/layer_1/attention/self/key/kernel")
    np.testing.assert_array_equal(value, pretrained.weights["layer_1/qkv/kernel"][:, H : 2 * H])
    value = tf.train.load_variable(prefix, "bert/encoder/layer_1/output/dense/kernel")
    np.testing.assert_array_equal(value, pretrained.weights["layer_1/output/kernel"])


def test_the_configuration_is_googles(exported):
    assert json.loads((exported / "bert_config.json").read_text()) == {
        "vocab_size": V,
        "num_hidden_layers": 2,
        "hidden_size": H,
        "num_attention_heads": 2,
        "intermediate_size": F,
        "max_position_embeddings": 29,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "initializer_range": 0.02,
    }
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "kbert.json",
        "vocab.txt",
    }


def test_a_graph_of_tensorflow_1_is_initialised_from_it(exported):
    """As modeling.get_assignment_map_from_checkpoint and tf.train.init_from_checkpoint do it."""
    prefix = str(exported / "bert_model.ckpt")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.get_variable(name, shape) for name, shape in NAMES.items()}
        tf.compat.v1.train.init_from_checkpoint(prefix, {name: name for name in NAMES})
        session.run(tf.compat.v1.global_variables_initializer())
        for name, value in session.run(variables).items():
            np.testing.assert_array_equal(value, tf.train.load_variable(prefix, name))


def test_the_model_garden_converts_it(exported, pretrained, tmp_path):
    """Its converter to TensorFlow 2 finds every variable, and gives it a name and a shape of its
    own models."""
    converter.convert(
        str(exported / "bert_model.ckpt"),
        str(tmp_path / "ckpt"),
        num_heads=2,
        name_replacements=converter.BERT_V2_NAME_REPLACEMENTS,
        permutations=converter.BERT_V2_PERMUTATIONS,
        exclude_patterns=["adam", "Adam"],
    )
    converted = dict(tf.train.list_variables(str(tmp_path / "ckpt")))
    assert len(converted) == len(NAMES)
    assert converted["transformer/layer_1/self_attention/query/kernel"] == [H, 2, H // 2]
    assert converted["transformer/layer_1/self_attention/attention_output/kernel"] == [2, H // 2, H]
    value = tf.train.load_variable(
        str(tmp_path / "ckpt"), "transformer/layer_1/self_attention/key/kernel"
    )
    np.testing.assert_array_equal(
        value.reshape(H, H), pretrained.weights["layer_1/qkv/kernel"][:, H : 2 * H]
    )
    value = tf.train.load_variable(str(tmp_path / "ckpt"), "predictions/transform/logits/kernel")
    np.testing.assert_array_equal(value, pretrained.weights["nsp/kernel"])


def checkpoint_of_training(directory, pretrained, step):
    """A checkpoint as run_pretraining.py leaves it: with the state of its optimizer and the step,
    and no released name."""
    tensors = to_google(pretrained.weights)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value)
            tf.compat.v1.get_variable(f"{name}/adam_m", initializer=np.zeros_like(value))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(step))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(directory / "model.ckpt"), global_step=step)


def test_a_checkpoint_of_run_pretraining_is_loaded(pretrained, exported, tmp_path):
    for name in ("bert_config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    with pytest.raises(
        InputError, match=r"Expected bert_model\.ckpt\.index in .* Received: no checkpoint"
    ):
        load(tmp_path)
    checkpoint_of_training(tmp_path, pretrained, step=7)
    loaded = load(tmp_path)
    assert_equal_values(loaded.weights, pretrained.weights)
    assert (loaded.sequence_length, loaded.cased, loaded.pairs) == (29, False, "nsp")


@pytest.fixture
def renamed(exported, tmp_path):
    """A checkpoint as others have published theirs: under a name of their own."""
    directory = tmp_path / "renamed"
    directory.mkdir()
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(exported / name, directory)
    for file in exported.glob("bert_model.ckpt.*"):
        shutil.copy(file, directory / file.name.replace("bert_model.ckpt", "model.ckpt-1000"))
    return directory


def test_a_checkpoint_under_any_name_by_directory_or_prefix(pretrained, renamed):
    (renamed / "bert_config.json").rename(renamed / "their_config_v2.json")
    for path in (renamed, renamed / "model.ckpt-1000", renamed / "model.ckpt-1000.index"):
        loaded = load(path)
        assert loaded.source == str(path)
        assert_equal_values(loaded.weights, pretrained.weights)
    (renamed / "their_config_v2.json").unlink()
    for path in (renamed, renamed / "model.ckpt-1000"):
        with pytest.raises(InputError, match=r"Expected bert_config\.json in .* Received: none\."):
            load(path)


def test_a_tokenizers_configuration_beside_it_tells_the_casing(renamed):
    (renamed / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load(renamed).cased
    (renamed / "tokenizer_config.json").write_text('{"strip_accents": false}')
    assert load(renamed).normalization.accents == "keep"


def test_commands_take_a_prefix(renamed, records, tmp_path, monkeypatch):
    prefix, started = str(renamed / "model.ckpt-1000"), []
    for words in (
        ["export", prefix, "--output", str(tmp_path / "out")],
        ["predict", prefix, "[MASK]"],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output

    def pretrain(*_, init_from, **__):
        started.append(str(init_from))
        raise kbert.TrainingError("as far as it is of interest here")

    monkeypatch.setattr(kbert, "pretrain", pretrain)
    command = ["pretrain", str(records), "--output", str(tmp_path / "run"), "--init-from", prefix]
    assert CliRunner().invoke(main, command).exit_code == 1
    assert started == [prefix]


def test_the_file_checkpoint_counts_where_what_it_names_is_there(pretrained, renamed):
    newer = {path: value + 1 for path, value in pretrained.weights.items()}
    save(dataclasses.replace(pretrained, weights=newer), renamed / "newer", "google")
    for file in (renamed / "newer").glob("bert_model.ckpt.*"):
        file.rename(renamed / file.name.replace("bert_model.ckpt", "model.ckpt-20000"))
    for named, weights in (("model.ckpt-1000", pretrained.weights), ("model.ckpt-20000", newer)):
        (renamed / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
        assert_equal_values(load(renamed).weights, weights)
    # Of another machine: the highest step, in numbers and not by the alphabet.
    (renamed / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-1000"\n')
    said = r"^Of the 2 checkpoints in .*renamed, model\.ckpt-20000 is taken, the one of the highest"
    with pytest.warns(UserWarning, match=said):
        assert_equal_values(load(renamed).weights, newer)
    assert_equal_values(load(renamed / "model.ckpt-1000").weights, pretrained.weights)


def test_checkpoints_without_a_step_are_to_be_chosen_from(renamed):
    for file in renamed.glob("model.ckpt*"):
        for name in ("early", "late"):
            shutil.copy(file, renamed / file.name.replace("model.ckpt-1000", name))
        file.unlink()
    with pytest.raises(InputError, match=r"one checkpoint in .* Received: early, late; give the"):
        load(renamed)


@pytest.mark.parametrize("prefix", ["module/bert/", ""], ids=["of a module", "of a bare encoder"])
def test_other_scopes_of_the_encoder_are_known(pretrained, exported, tmp_path, prefix):
    encoder = {
        name.replace("bert/", prefix, 1): value
        for name, value in to_google(pretrained.weights).items()
        if name.startswith("bert/")
    }
    tensors = encoder | {f"{name}/adam_m": value for name, value in encoder.items()}
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "encoder.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(exported / name, tmp_path)
    loaded = load(tmp_path)
    assert loaded.missing == ("masked language modelling", "next sentence prediction")
    expected = {path: pretrained.weights[path] for path in loaded.weights}
    assert len(expected) == len(encoder) - 4 * 2  # queries, keys and values are one here
    assert_equal_values(loaded.weights, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, r"expected hidden_act 'gelu', as BERT has\. Received: 'relu'"),
        (
            {"type_vocab_size": None},
            r"expected type_vocab_size\. Received: a configuration without it",
        ),
    ],
)
def test_what_kbert_has_not_is_refused(exported, tmp_path, change, message):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((exported / "bert_config.json").read_text()) | change
    (tmp_path / "bert_config.json").write_text(
        json.dumps({k: v for k, v in fields.items() if v is not None})
    )
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_layers_beyond_the_configuration_are_an_error(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "kbert.json").unlink()
    fields = json.loads((exported / "bert_config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "bert_config.json").write_text(json.dumps(fields))
    with pytest.raises(
        InputError, match=r"Expected in .*ckpt 1 layers, .* Received: bert/encoder/layer_1/.* too\."
    ):
        load(tmp_path)


def test_a_directory_of_the_hub_with_both_configurations(pretrained, exported, tmp_path):
    """Where the weights are Hugging Face's, a bert_config.json beside them says nothing."""
    both = save(pretrained, tmp_path / "both", "huggingface")
    (both / "bert_config.json").write_bytes((exported / "bert_config.json").read_bytes())
    assert_equal_values(load(both).weights, pretrained.weights)
