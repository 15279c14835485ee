"""Presets beside KerasHub itself: what it loads of ours, and what is loaded of its own."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from model_fixtures import assert_equal_values, random_batch, random_model, randomize

from kbert.config import BertConfig
from kbert.formats.keras_hub import with_released_head
from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from kbert.model.bert import encoder_of, pretraining_model
from kbert.prediction import load_predictor
from tfrecords import InputError, Normalization, Tokenizer, Vocabulary
from tfrecords.vocabulary import SPECIAL_TOKENS

pytest_plugins = ["model_fixtures"]

S = 23


@pytest.fixture(scope="module")
def pretrained(tiny_vocabulary):
    return Pretrained.of_model(random_model(dropout=0.1), tiny_vocabulary, sequence_length=S)


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    return str(save(pretrained, tmp_path_factory.mktemp("exported") / "bert", "keras-hub"))


@pytest.mark.parametrize(
    ("size", "vocabulary_size"),
    [
        ("tiny", 30522),
        ("mini", 30522),
        pytest.param("base", 3000, marks=pytest.mark.long),
    ],
)
def test_predictions_of_keras_hub_are_ours(size, vocabulary_size, tmp_path):
    model = pretraining_model(BertConfig.of_size(size, vocabulary_size=vocabulary_size))
    randomize(model.variables, seed=1, scale=0.02)
    words = tuple(f"w{index}" for index in range(vocabulary_size - len(SPECIAL_TOKENS)))
    pretrained = Pretrained.of_model(model, Vocabulary(SPECIAL_TOKENS + words), sequence_length=128)
    path = str(save(pretrained, tmp_path / "bert", "keras-hub"))
    x, _, _ = random_batch(batch_size=4, sequence_length=41, vocabulary_size=vocabulary_size)
    masked_lm = with_released_head(keras_hub.models.BertMaskedLM.from_preset(path))
    expected = model(x)["mlm"]
    assert np.std(expected) > 0.2
    np.testing.assert_allclose(masked_lm(x), expected, atol=1e-5)
    del x["mask_positions"]
    backbone = keras_hub.models.BertBackbone.from_preset(path)
    ours, theirs = encoder_of(model)(x), backbone(x)
    in_use = x["padding_mask"] == 1
    np.testing.assert_allclose(
        theirs["sequence_output"][in_use], ours["sequence_output"][in_use], atol=1e-5
    )
    np.testing.assert_allclose(theirs["pooled_output"], ours["pooled_output"], atol=1e-5)


def test_the_head_of_keras_hub_is_another(pretrained, exported):
    x, _, _ = random_batch()
    masked_lm = keras_hub.models.BertMaskedLM.from_preset(exported)
    expected = np.array(pretrained.model(x)["mlm"])
    assert 1e-4 < np.abs(masked_lm(x) - expected).max() < 0.1
    assert with_released_head(masked_lm) is masked_lm
    np.testing.assert_allclose(masked_lm(x), expected, atol=1e-5)


def test_raw_text_is_answered_as_here(pretrained, exported):
    """From a text with [MASK] to probabilities, by KerasHub's tokenizer and model."""
    tokenizer = keras_hub.models.BertTokenizer.from_preset(exported)
    masked_lm = with_released_head(keras_hub.models.BertMaskedLM.from_preset(exported))
    text = "Ba [MASK] be du [MASK]"
    ids = [tokenizer.cls_token_id, *np.array(tokenizer(text)).tolist(), tokenizer.sep_token_id]
    positions = [index for index, token_id in enumerate(ids) if token_id == tokenizer.mask_token_id]
    assert len(positions) == 2
    logits = masked_lm(
        {
            "token_ids": np.array([ids]),
            "segment_ids": np.zeros((1, len(ids)), np.int32),
            "padding_mask": np.ones((1, len(ids)), np.int32),
            "mask_positions": np.array([positions]),
        }
    )
    probabilities = np.array(keras.ops.softmax(logits))[0]
    for row, words in zip(
        probabilities, load_predictor(exported, top_k=53).fill_mask(text), strict=True
    ):
        expected = {word.token: word.probability for word in words}
        actual = dict(zip(pretrained.vocabulary.tokens, row, strict=True))
        assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("cased", [False, True])
def test_the_tokenizer_of_keras_hub_gives_our_ids(tiny_vocabulary, tmp_path, cased):
    vocabulary = Vocabulary(
        (*tiny_vocabulary.tokens, "Ba", "##ba", "bá", "東", "!", "?", ",", "##", "e")
    )
    model = random_model(vocabulary_size=len(vocabulary))
    ours = Pretrained.of_model(model, vocabulary, sequence_length=S, cased=cased)
    path = str(save(ours, tmp_path / "bert", "keras-hub"))
    theirs = keras_hub.models.BertTokenizer.from_preset(path)
    texts = ["ba be bi", "Ba, BE! du?fa", "bá 東京 ba ばé\u0301", "baba bu", ""]
    assert [list(ids) for ids in theirs(texts)] == Tokenizer(vocabulary, Normalization(cased))(
        texts
    ).to_list()
    preprocessor = keras_hub.models.BertMaskedLMPreprocessor.from_preset(path)
    x, _, _ = preprocessor(texts)
    assert x["token_ids"].shape == (5, S)


@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:`shuffle=True` was passed:UserWarning"
)  # KerasHub makes a Dataset of arrays
def test_a_classifier_starts_from_it_and_learns(exported):
    keras.utils.set_random_seed(1)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
        exported, sequence_length=S
    )
    classifier = keras_hub.models.BertTextClassifier.from_preset(
        exported, num_classes=2, preprocessor=preprocessor
    )
    texts = ["ba be ba", "du fa du", "ba ba", "fa fa du"] * 8
    labels = [0, 1, 0, 1] * 8
    classifier.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(1e-3),
        metrics=["accuracy"],
    )
    classifier.fit(texts, labels, batch_size=8, epochs=12, verbose=0)
    assert classifier.evaluate(texts, labels, verbose=0)[1] > 0.9


# Presets that KerasHub made.


@pytest.fixture
def foreign(tmp_path, tiny_vocabulary):
    """A preset as its authors would have saved it, and the model."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=53,
        num_layers=2,
        num_heads=2,
        hidden_dim=26,
        intermediate_dim=37,
        max_sequence_length=29,
        dropout=0.3,
    )
    tokenizer = keras_hub.models.BertTokenizer(list(tiny_vocabulary.tokens), lowercase=True)
    preprocessor = keras_hub.models.BertMaskedLMPreprocessor(tokenizer, sequence_length=S)
    masked_lm = keras_hub.models.BertMaskedLM(backbone, preprocessor)
    randomize(masked_lm.weights, seed=2)
    return tmp_path / "preset", masked_lm


def test_a_preset_by_keras_hub_is_loaded(foreign, tiny_vocabulary):
    path, masked_lm = foreign
    masked_lm.save_to_preset(str(path))
    with pytest.warns(UserWarning, match="is read with the gelu and epsilon of released BERT"):
        loaded = load(path)
    assert (loaded.bert.dropout, loaded.bert.max_positions) == (0.3, 29)
    assert loaded.normalization == Normalization(cased=False, accents="keep")  # its default
    assert loaded.vocabulary == tiny_vocabulary
    assert loaded.missing == ("next sentence prediction",)
    x, _, _ = random_batch()
    with pytest.warns(
        UserWarning, match="The next sentence prediction head is initialised at random"
    ):
        outputs = loaded.model(x)
    np.testing.assert_allclose(outputs["mlm"], with_released_head(masked_lm)(x), atol=1e-5)


def test_a_bare_encoder_by_keras_hub_is_loaded(foreign):
    path, masked_lm = foreign
    masked_lm.backbone.save_to_preset(str(path))
    masked_lm.preprocessor.tokenizer.save_to_preset(str(path))
    loaded = load(path)
    assert loaded.missing == ("masked language modelling", "next sentence prediction")
    x, _, _ = random_batch()
    del x["mask_positions"]
    with pytest.warns(UserWarning, match="is initialised at random"):
        ours = encoder_of(loaded.model)(x)
    theirs = masked_lm.backbone(x)
    in_use = x["padding_mask"] == 1
    np.testing.assert_allclose(
        ours["sequence_output"][in_use], theirs["sequence_output"][in_use], atol=1e-5
    )
    np.testing.assert_allclose(ours["pooled_output"], theirs["pooled_output"], atol=1e-5)


def test_another_architecture_is_refused_and_no_class_is_loaded(foreign):
    path, masked_lm = foreign
    masked_lm.save_to_preset(str(path))
    fields = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(fields | {"registered_name": "evil>Backbone", "module": "evil"})
    )
    with pytest.raises(
        InputError, match=r"a preset of keras_hub>BertBackbone\. Received: 'evil>Backbone'"
    ):
        load(path)
    del fields["config"]["num_heads"]
    (path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(
        InputError, match=r"expected a BertBackbone\. Received: another configuration"
    ):
        load(path)


def test_round_trip_of_the_weights_that_keras_hub_saved(pretrained, exported, tmp_path):
    """What a user's own `save_to_preset` writes is loaded too."""
    keras_hub.models.BertMaskedLM.from_preset(exported).save_to_preset(str(tmp_path / "again"))
    with pytest.warns(UserWarning, match="is read with the gelu and epsilon of released BERT"):
        loaded = load(tmp_path / "again")
    expected = {
        path: value for path, value in pretrained.weights.items() if not path.startswith("nsp/")
    }
    assert_equal_values(loaded.weights, expected)
