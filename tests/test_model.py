"""The whole model: outputs, number of weights, round trips, and parity with transformers and
KerasHub."""

import dataclasses

import forked
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers
from model_fixtures import (
    random_batch,
    random_model,
    randomize,
    single_segments,
    tiny_config,
    values_of,
)
from transformers_twin import (
    assign,
    from_transformers,
    labels_of,
    randomize_transformers,
    transformers_model,
    transformers_outputs,
)

from kbert.config import BertConfig
from kbert.model.bert import encoder_model, encoder_of, pretraining_model
from kbert.step.dropout import Dropout
from kbert.step.objective import pretraining_objective


def to_keras_hub(weights, num_layers, num_heads):
    """The weights of a kbert model (arrays by path), by the paths of a keras_hub BertBackbone."""
    hub = {
        "token_embedding/embeddings": weights["token_embedding/embeddings"],
        "position_embedding/embeddings": weights["embeddings/position_embeddings"],
        "segment_embedding/embeddings": weights["embeddings/segment_embeddings"],
    }

    def copy(theirs, ours, kinds):
        hub.update({f"{theirs}/{kind}": weights[f"{ours}/{kind}"] for kind in kinds})

    copy("embeddings_layer_norm", "embeddings/layer_norm", ("gamma", "beta"))
    copy("pooled_dense", "pooler/dense", ("kernel", "bias"))
    for index in range(num_layers):
        ours, theirs = f"layer_{index}", f"transformer_layer_{index}"
        kernels = np.split(weights[f"{ours}/qkv/kernel"], 3, axis=-1)
        biases = np.split(weights[f"{ours}/qkv/bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            hub[f"{theirs}/self_attention_layer/{part}/kernel"] = kernel.reshape(
                len(kernel), num_heads, -1
            )
            hub[f"{theirs}/self_attention_layer/{part}/bias"] = bias.reshape(num_heads, -1)
        kernel = weights[f"{ours}/attention_output/kernel"]
        hub[f"{theirs}/self_attention_layer/attention_output/kernel"] = kernel.reshape(
            num_heads, -1, len(kernel)
        )
        hub[f"{theirs}/self_attention_layer/attention_output/bias"] = weights[
            f"{ours}/attention_output/bias"
        ]
        copy(f"{theirs}/self_attention_layer_norm", f"{ours}/attention_norm", ("gamma", "beta"))
        copy(f"{theirs}/feedforward_intermediate_dense", f"{ours}/intermediate", ("kernel", "bias"))
        copy(f"{theirs}/feedforward_output_dense", f"{ours}/output", ("kernel", "bias"))
        copy(f"{theirs}/feedforward_layer_norm", f"{ours}/output_norm", ("gamma", "beta"))
    return hub


@pytest.fixture(scope="module", params=[False, True], ids=["tanh_gelu", "exact_gelu"])
def twins(request):
    """(kbert's model, transformers' model) with the same weights."""
    config = tiny_config(exact_gelu=request.param)
    theirs = randomize_transformers(transformers_model(config))
    ours = pretraining_model(config)
    assign(ours, from_transformers(theirs.state_dict(), config.num_layers))
    # In float32, torch's own rounding reaches 1e-5 on some processors [one with AVX-512, 2026-11].
    return ours, theirs.double()


def test_logits_equal_those_of_transformers(twins):
    ours, theirs = twins
    x, _, sample_weight = random_batch(batch_size=7)
    assert 0 < x["padding_mask"].mean() < 1
    assert 0 < sample_weight["mlm"].mean() < 1
    with torch.no_grad():
        outputs = transformers_outputs(theirs, x)
    mlm = np.take_along_axis(
        outputs.prediction_logits.numpy(), x["mask_positions"][:, :, None], axis=1
    )
    actual = ours(x)
    assert mlm.std() > 0.5  # logits that say something
    np.testing.assert_allclose(actual["mlm"], mlm, atol=1e-5)
    np.testing.assert_allclose(actual["nsp"], outputs.seq_relationship_logits.numpy(), atol=1e-5)


def test_loss_equals_that_of_transformers(twins):
    ours, theirs = twins
    x, y, sample_weight = random_batch(seed=1, batch_size=7)
    with torch.no_grad():
        expected = float(transformers_outputs(theirs, x, **labels_of(x, y, sample_weight)).loss)
    ours.compile(**pretraining_objective(steps=1))
    assert (
        abs(
            ours.evaluate(x, y, sample_weight=sample_weight, verbose=0, return_dict=True)["loss"]
            - expected
        )
        < 1e-5
    )


def test_the_wrong_gelu_would_be_noticed(twins):
    ours, theirs = twins
    config = tiny_config(exact_gelu=theirs.config.hidden_act != "gelu")
    other = pretraining_model(config)
    other.set_weights(ours.get_weights())
    x, _, _ = random_batch()
    assert np.abs(other(x)["mlm"] - ours(x)["mlm"]).max() > 1e-4


def test_encoder_equals_that_of_keras_hub():
    config = tiny_config()
    model = random_model()
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=config.vocabulary_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        max_sequence_length=config.max_positions,
    )
    assign(backbone, to_keras_hub(weights, config.num_layers, config.num_heads))
    x, _, _ = random_batch()
    del x["mask_positions"]
    ours, theirs = encoder_of(model)(x), backbone(x)
    assert ours.keys() == theirs.keys()
    in_use = x["padding_mask"] == 1
    np.testing.assert_allclose(
        ours["sequence_output"][in_use], theirs["sequence_output"][in_use], atol=1e-5
    )
    np.testing.assert_allclose(ours["pooled_output"], theirs["pooled_output"], atol=1e-5)


def test_outputs_have_names_shapes_and_types():
    x, _, _ = random_batch(batch_size=3, sequence_length=17, max_predictions=5)
    model = random_model()
    assert {name: tensor.shape for name, tensor in model.input.items()} == {
        "token_ids": (None, None),
        "segment_ids": (None, None),
        "padding_mask": (None, None),
        "mask_positions": (None, None),
    }
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in model.output.items()} == {
        "mlm": ((None, None, 53), "float32"),
        "nsp": ((None, 2), "float32"),
    }
    outputs = model(x)
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in outputs.items()} == {
        "mlm": ((3, 5, 53), "float32"),
        "nsp": ((3, 2), "float32"),
    }
    encoded = encoder_of(model)(
        {name: x[name] for name in ("token_ids", "segment_ids", "padding_mask")}
    )
    assert {name: tensor.shape for name, tensor in encoded.items()} == {
        "sequence_output": (3, 17, 26),
        "pooled_output": (3, 26),
    }


def number_of_weights(config):
    """Counted from the paper's description: embeddings, blocks, pooler, and both heads with the
    decoder tied."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    embeddings = (
        config.vocabulary_size + config.max_positions + config.num_segments
    ) * hidden + 2 * hidden
    attention = 4 * (hidden * hidden + hidden) + 2 * hidden
    feed_forward = (
        (hidden * intermediate + intermediate) + (intermediate * hidden + hidden) + 2 * hidden
    )
    pooler = hidden * hidden + hidden
    mlm = hidden * hidden + hidden + 2 * hidden + config.vocabulary_size
    nsp = hidden * 2 + 2
    return embeddings + config.num_layers * (attention + feed_forward) + pooler + mlm + nsp


@pytest.mark.parametrize(
    "changes", [{}, {"num_layers": 3, "hidden_size": 22, "vocabulary_size": 59, "num_segments": 3}]
)
def test_model_has_the_weights_that_the_paper_describes(changes):
    config = tiny_config(**changes)
    model = pretraining_model(config)
    assert sum(
        int(np.prod(variable.shape)) for variable in model.trainable_variables
    ) == number_of_weights(config)
    assert len(model.trainable_variables) == 5 + 12 * config.num_layers + 2 + 4 + 1 + 2
    assert len(model.non_trainable_variables) == 1 + 3 * config.num_layers  # dropout's counters
    assert len({variable.path for variable in model.variables}) == len(model.variables)


def test_bert_base_has_the_published_number_of_weights():
    with torch.device("meta"):
        theirs = transformers.BertForPreTraining(transformers.BertConfig())
    base = BertConfig.of_size("base", vocabulary_size=30522)
    assert (
        number_of_weights(base)
        == 110_106_428
        == sum(parameter.numel() for parameter in theirs.parameters())
    )


def test_padding_does_not_influence_the_answers():
    x, _, _ = random_batch()
    model = random_model()
    other = x | {
        name: np.where(x["padding_mask"] == 1, x[name], 1) for name in ("token_ids", "segment_ids")
    }
    for name, expected in model(x).items():
        np.testing.assert_array_equal(model(other)[name], expected)


def test_every_input_matters():
    x, _, _ = random_batch()
    model = random_model()
    expected = model(x)
    for name in ("token_ids", "segment_ids", "padding_mask"):
        changed = x | {name: np.where(np.arange(17) == 5, 1 - np.minimum(x[name], 1), x[name])}
        outputs = model(changed)
        assert np.abs(outputs["mlm"] - expected["mlm"]).max() > 1e-3, name
        assert np.abs(outputs["nsp"] - expected["nsp"]).max() > 1e-3, name


def test_encoder_of_shares_the_weights():
    model = random_model()
    encoder = encoder_of(model)
    own = {id(variable) for variable in model.variables}
    assert len(encoder.trainable_variables) == len(model.trainable_variables) - 7
    assert all(id(variable) in own for variable in encoder.variables)


def test_encoder_model_is_the_encoder_of_a_pretraining_model():
    config = tiny_config()
    encoder, model = encoder_model(config, seed=5), pretraining_model(config, seed=5)
    x, _, _ = random_batch()
    del x["mask_positions"]
    for name, expected in encoder_of(model)(x).items():
        np.testing.assert_array_equal(encoder(x)[name], expected)


@pytest.mark.parametrize("pairs", ["nsp", "none"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_rows_that_the_heads_read_are_those_of_the_sequence_output(num_layers, pairs):
    model = random_model(pairs=pairs, num_layers=num_layers)
    x, _, _ = random_batch()
    answers = model(x)
    mask_positions = x.pop("mask_positions")
    for _ in range(2):  # an encoder is made as often as it is asked for
        encoded = encoder_of(model)(x)
        rows_BPH = np.take_along_axis(
            encoded["sequence_output"].numpy(), mask_positions[:, :, None], 1
        )
        scores_BPV = model.get_layer("token_embedding")(
            model.get_layer("mlm_transform")(rows_BPH), reverse=True
        )
        np.testing.assert_allclose(answers["mlm"], model.get_layer("mlm")(scores_BPV), atol=1e-5)
        if pairs == "nsp":
            np.testing.assert_allclose(
                answers["nsp"], model.get_layer("nsp")(encoded["pooled_output"]), atol=1e-5
            )


def test_without_next_sentence_the_pooler_and_its_head_are_left_out_and_nothing_else():
    whole, model = random_model(), pretraining_model(tiny_config(), pairs="none")
    left_out = {"pooler/dense/kernel", "pooler/dense/bias", "nsp/kernel", "nsp/bias"}
    weights = values_of(whole.variables)
    assert {variable.path for variable in model.variables} == weights.keys() - left_out
    assert left_out < weights.keys()
    for variable in model.variables:
        variable.assign(weights[variable.path])
    x, _, _ = random_batch()
    assert model.output.keys() == {"mlm"}
    assert model(x).keys() == {"mlm"}
    np.testing.assert_allclose(model(x)["mlm"], whole(x)["mlm"], atol=1e-5)


def test_without_next_sentence_the_seed_gives_the_same_weights():
    whole, model = (
        values_of(pretraining_model(tiny_config(), seed=5, pairs=pairs).variables)
        for pairs in ("nsp", "none")
    )
    for path, value in model.items():
        np.testing.assert_array_equal(value, whole[path], err_msg=path)


@pytest.mark.usefixtures("eager_steps")
def test_without_next_sentence_every_weight_is_trained():
    x, y, sample_weight = random_batch()  # two segments, so that both of their embeddings count
    model = random_model(pairs="none")
    model.compile(
        **pretraining_objective(learning_rate=0.1, steps=7, weight_decay=0.0, pairs="none")
    )
    before = values_of(model.trainable_variables)
    model.train_on_batch(x, {"mlm": y["mlm"]}, {"mlm": sample_weight["mlm"]})
    for path, value in values_of(model.trainable_variables).items():
        assert (value != before[path]).any(), path


def test_without_a_pooler_the_encoder_pools_the_last_state_of_cls():
    model = random_model(pairs="none")
    encoder = encoder_of(model)
    own = {id(variable) for variable in model.variables}
    assert all(id(variable) in own for variable in encoder.variables)
    x, _, _ = random_batch()
    del x["mask_positions"]
    encoded = encoder(x)
    assert encoded.keys() == {"sequence_output", "pooled_output"}
    np.testing.assert_array_equal(encoded["pooled_output"], encoded["sequence_output"][:, 0])
    whole = random_model()
    for variable in model.variables:
        variable.assign(next(value for value in whole.variables if value.path == variable.path))
    np.testing.assert_array_equal(
        encoder(x)["sequence_output"], encoder_of(whole)(x)["sequence_output"]
    )
    assert np.abs(encoder(x)["pooled_output"] - encoder_of(whole)(x)["pooled_output"]).max() > 0.1


@pytest.mark.parametrize("pairs", ["nsp", "none"])
def test_models_of_both_kinds_are_fitted_and_evaluated(pairs):
    batch = random_batch(batch_size=7)
    x, y, sample_weight = single_segments(batch) if pairs == "none" else batch
    dataset = tf.data.Dataset.from_tensors((x, y, sample_weight))
    model = pretraining_model(tiny_config(num_layers=1), pairs=pairs)
    model.compile(**pretraining_objective(learning_rate=0.003, steps=40, pairs=pairs))
    before = model.evaluate(dataset, verbose=0, return_dict=True)
    history = model.fit(
        dataset.repeat(),
        steps_per_epoch=20,
        epochs=2,
        validation_data=dataset,
        shuffle=False,
        verbose=0,
    ).history
    after = model.evaluate(dataset, verbose=0, return_dict=True)
    names = ["mlm"] if pairs == "none" else ["mlm", "nsp"]
    for name in names:
        assert after[f"{name}_cross_entropy"] < 0.8 * before[f"{name}_cross_entropy"]
        assert history[f"val_{name}_accuracy"][-1] == pytest.approx(after[f"{name}_accuracy"])
    assert after["loss"] == pytest.approx(
        sum(after[f"{name}_cross_entropy"] for name in names), abs=1e-5
    )
    assert any("nsp" in name for name in history) == (pairs != "none")


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)  # Keras
@pytest.mark.parametrize("pairs", ["nsp", "none"])
def test_a_saved_model_predicts_what_it_did(tmp_path, pairs):
    x, _, _ = random_batch()
    model = random_model(pairs=pairs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for again in (loaded, clone):
        assert [variable.path for variable in again.variables] == [
            variable.path for variable in model.variables
        ]
        for name, expected in model(x).items():
            np.testing.assert_array_equal(again(x)[name], expected)
        inputs = {name: x[name] for name in ("token_ids", "segment_ids", "padding_mask")}
        for name, expected in encoder_of(model)(inputs).items():
            np.testing.assert_array_equal(encoder_of(again)(inputs)[name], expected)


def test_mixed_precision_keeps_weights_and_logits_in_float32():
    x, y, sample_weight = random_batch()
    exact = random_model(num_layers=1)
    model = pretraining_model(tiny_config(num_layers=1), dtype="mixed_bfloat16")
    model.set_weights(exact.get_weights())
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert {layer.compute_dtype for layer in model.layers if layer.name.startswith("layer_")} == {
        "bfloat16"
    }
    outputs = model(x)
    for name, expected in exact(x).items():
        assert outputs[name].dtype == "float32"
        assert 0 < np.abs(outputs[name] - expected).max() < 0.5  # three significant digits
    model.compile(**pretraining_objective(steps=1))
    assert np.isfinite(model.train_on_batch(x, y, sample_weight)[0])


def test_the_configuration_reaches_every_layer():
    config = tiny_config(layer_norm_epsilon=1e-3, dropout=0.2, initializer_range=0.01)
    model = pretraining_model(config, seed=5)
    layers = list(model._flatten_layers())
    epsilons = [
        layer.epsilon for layer in layers if isinstance(layer, keras.layers.LayerNormalization)
    ]
    assert epsilons == [1e-3] * (
        2 + 2 * config.num_layers
    )  # of BERT 1e-12, in the masked language modelling head too
    assert [layer.rate for layer in layers if isinstance(layer, Dropout)] == [0.2] * (
        1 + 3 * config.num_layers
    )
    assert (
        max(
            np.abs(v.numpy()).max()
            for v in model.trainable_variables
            if v.name not in ("gamma", "beta", "bias")
        )
        <= 0.02
    )
    own = [
        layer.get_config() for layer in model.layers if type(layer).__module__.startswith("kbert")
    ]
    assert {values["seed"] for values in own if "seed" in values} == {5}
    assert {values["exact_gelu"] for values in own if "exact_gelu" in values} == {False}


def test_longer_and_shorter_batches_go_through_one_model():
    model = random_model()
    long, _, _ = random_batch(batch_size=2, sequence_length=29)
    short = {
        name: value[:, :11] if name != "mask_positions" else value % 11
        for name, value in long.items()
    }
    assert model(short)["mlm"].shape == (2, 3, 53)
    assert model(long)["mlm"].shape == (2, 3, 53)


def test_of_size_builds_what_it_names():
    config = dataclasses.replace(BertConfig.of_size("tiny", vocabulary_size=53), max_positions=31)
    model = pretraining_model(config)
    randomize(model.variables)
    assert len([layer for layer in model.layers if layer.name.startswith("layer_")]) == 2
    assert model.get_layer("layer_1").num_heads == 2
    assert model(random_batch()[0])["mlm"].shape == (5, 3, 53)


def test_weights_in_half_precision_are_refused(refused):
    for build in (pretraining_model, encoder_model):
        with refused(
            r"^Expected layers with float32 weights\. Received: float16; take mixed_float16, "
        ):
            build(tiny_config(num_layers=1), dtype="float16")


def test_an_input_too_many_or_too_few_is_refused(refused):
    x, _, _ = random_batch()
    model = random_model(num_layers=1)
    with refused(r"^Expected the inputs mask_positions, .*, token_ids\. Received: lengths, .*\.$"):
        model(x | {"lengths": x["mask_positions"]})
    del x["mask_positions"]
    with refused(r"Received: padding_mask, segment_ids, token_ids\.$"):
        model(x)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of Keras, with NumPy 2
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_is_saved_and_loaded(tmp_path):
    model = random_model(num_layers=1)
    x, _, _ = random_batch()
    before = model.predict_on_batch(x)
    assert "quantized" not in model.get_layer("layer_0").get_config()
    model.quantize("int8")
    answers = model.predict_on_batch(x)
    assert (answers["mlm"] != before["mlm"]).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("layer_0").qkv.quantization_mode == "int8"
    for name, values in loaded.predict_on_batch(x).items():
        np.testing.assert_array_equal(values, answers[name])


@pytest.mark.filterwarnings(r"ignore:[\s\S]*tf.lite.Interpreter is deprecated:UserWarning")
def test_the_encoder_becomes_a_tflite_model_of_built_in_operations(tmp_path):
    encoder = encoder_of(random_model(num_layers=1))
    ids = tf.TensorSpec([None, None], tf.int32)
    module = tf.Module()
    module.weights = [variable.value for variable in encoder.variables]

    @tf.function(input_signature=[ids, ids, ids])
    def embed(token_ids, segment_ids, padding_mask):
        return encoder(
            {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": padding_mask}
        )

    module.embed = embed
    tf.saved_model.save(module, str(tmp_path), signatures={"embed": embed})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["embed"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    x, _, _ = random_batch()
    del x["mask_positions"]
    answers = interpreter.get_signature_runner("embed")(**x)
    for name, values in embed(**x).items():
        np.testing.assert_allclose(answers[name], values, atol=1e-4)


JAX_EXPORT = """
import jax, numpy as np
from jax import export
from model_fixtures import random_batch, tiny_config
from kbert.model.bert import pretraining_model

model = pretraining_model(tiny_config(num_layers=1))
rows, length, slots = export.symbolic_shape("rows, length, slots")
x, _, _ = random_batch()
shapes = {
    name: jax.ShapeDtypeStruct((rows, slots if name == "mask_positions" else length), "int32")
    for name in x
}
compiled = jax.jit(lambda x: model(x, training=False))
answers = export.export(compiled)(shapes).call(x)
differences = [abs(answers[name] - values).max() for name, values in compiled(x).items()]
print("difference", float(max(differences)))
"""


def test_jax_exports_the_model_for_any_length():
    done = forked.run("-c", JAX_EXPORT, backend="jax")
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.rpartition("difference ")[2]) < 1e-5
