"""Hugging Face's layout beside `transformers` itself: what it loads of ours, and what is loaded of
its own."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from model_fixtures import (
    assert_equal_values,
    random_batch,
    random_model,
    randomize,
    tiny_config,
    values_of,
)
from transformers_twin import (
    from_transformers,
    randomize_transformers,
    transformers_model,
    transformers_outputs,
)

from kbert.config import BertConfig, PretrainingConfig
from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from kbert.model.bert import pretraining_model
from kbert.prediction import load_predictor, predictor_of
from kbert.pretraining import pretrain
from kbert.run.directory import load_run
from tfrecords import InputError, Normalization, RecordsConfig, Tokenizer, Vocabulary, build_records
from tfrecords.vocabulary import SPECIAL_TOKENS

pytest_plugins = ["model_fixtures"]

S = 23
TEXTS = (
    "ba be bi",
    "",
    "Ba, BE! du?fa",
    "bá 東京 Ωba ばé\u0301",
    "\u200b\ufeffba\u00a0be\tbi\r\nbo",
    "ba" * 40,
    "ba" * 99 + " be",
    "b" * 201,
    "İstanbul ẞ ǅ",
)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of torch that wait for work take the processor from TensorFlow's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pretrained(tiny_vocabulary):
    return Pretrained.of_model(random_model(), tiny_vocabulary, sequence_length=S)


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    return save(pretrained, tmp_path_factory.mktemp("exported") / "bert", "huggingface")


def loaded_by_transformers(path, cls=transformers.BertForPreTraining):
    model, info = cls.from_pretrained(
        str(path), output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    return model.eval()


def of_shape(bert, seed=1, scale=0.02):
    """A model of this shape with random weights and a vocabulary of made-up words."""
    model = pretraining_model(bert)
    randomize(model.variables, seed=seed, scale=scale)
    words = tuple(f"w{index}" for index in range(bert.vocabulary_size - len(SPECIAL_TOKENS)))
    return Pretrained.of_model(model, Vocabulary(SPECIAL_TOKENS + words), sequence_length=128)


@pytest.mark.parametrize(
    ("size", "vocabulary_size", "changes"),
    [
        ("tiny", 30522, {}),
        ("mini", 30522, {}),
        pytest.param("base", 3000, {}, marks=pytest.mark.long),
        ("tiny", 101, {"exact_gelu": True, "layer_norm_epsilon": 1e-7}),
    ],
    ids=["tiny", "mini", "base", "exact gelu"],
)
def test_logits_of_transformers_are_ours(size, vocabulary_size, changes, tmp_path):
    ours = of_shape(BertConfig.of_size(size, vocabulary_size=vocabulary_size, **changes))
    theirs = loaded_by_transformers(save(ours, tmp_path / "bert", "huggingface"))
    x, _, _ = random_batch(batch_size=4, sequence_length=41, vocabulary_size=vocabulary_size)
    with torch.no_grad():
        expected = transformers_outputs(theirs.double(), x)
    mlm = np.take_along_axis(
        expected.prediction_logits.numpy(), x["mask_positions"][:, :, None], axis=1
    )
    actual = ours.model(x)
    assert mlm.std() > 0.2  # logits that say something
    np.testing.assert_allclose(actual["mlm"], mlm, atol=1e-5)
    np.testing.assert_allclose(actual["nsp"], expected.seq_relationship_logits.numpy(), atol=1e-5)


def test_the_weights_are_where_transformers_has_them(pretrained, exported):
    theirs = loaded_by_transformers(exported)
    assert_equal_values(
        from_transformers(theirs.state_dict(), pretrained.bert.num_layers), pretrained.weights
    )


def test_a_model_of_single_segments_is_a_bert_for_masked_lm(tiny_vocabulary, tmp_path):
    ours = Pretrained.of_model(random_model(pairs="none"), tiny_vocabulary, sequence_length=S)
    theirs = loaded_by_transformers(
        save(ours, tmp_path / "bert", "huggingface"), transformers.BertForMaskedLM
    )
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["architectures"] == [
        "BertForMaskedLM"
    ]
    x, _, _ = random_batch()
    with torch.no_grad():
        logits = transformers_outputs(theirs.double(), x).logits.numpy()
    np.testing.assert_allclose(
        ours.model(x)["mlm"],
        np.take_along_axis(logits, x["mask_positions"][:, :, None], axis=1),
        atol=1e-5,
    )


@pytest.mark.parametrize("cased", [False, True])
def test_the_tokenizer_of_transformers_gives_our_ids(tiny_vocabulary, tmp_path, cased):
    vocabulary = Vocabulary(
        (*tiny_vocabulary.tokens, "Ba", "##ba", "bá", "東", "!", "?", ",", "##", "e", "Ω", "##e")
    )
    model = random_model(vocabulary_size=len(vocabulary))
    ours = Pretrained.of_model(model, vocabulary, sequence_length=S, cased=cased)
    theirs = transformers.AutoTokenizer.from_pretrained(
        str(save(ours, tmp_path / "bert", "huggingface"))
    )
    assert theirs.model_max_length == S
    assert len(theirs) == len(vocabulary)
    expected = Tokenizer(vocabulary, Normalization(cased))(list(TEXTS)).to_list()
    for text, ids in zip(TEXTS, expected, strict=True):
        assert theirs(text)["input_ids"] == [vocabulary.cls_id, *ids, vocabulary.sep_id], text
    assert theirs("[MASK]")["input_ids"][1] == vocabulary.mask_id
    pair = theirs("ba", "be")
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


def test_the_pipeline_fills_masks_as_we_do(exported):
    words = load_predictor(exported, top_k=5).fill_mask("ba [MASK] be [MASK]")
    answers = transformers.pipeline("fill-mask", str(exported))("ba [MASK] be [MASK]", top_k=5)
    for ours, theirs in zip(words, answers, strict=True):
        assert [word.token for word in ours] == [answer["token_str"] for answer in theirs]
        np.testing.assert_allclose(
            [word.probability for word in ours], [answer["score"] for answer in theirs], atol=1e-5
        )


# Models that `transformers` made.


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, tiny_vocabulary):
    """A public model as its authors would have saved it: another vocabulary, the exact gelu,
    weights of its own."""
    place = tmp_path_factory.mktemp("foreign")
    vocabulary = (*tiny_vocabulary.tokens, "zu", "za", "##zu")
    vocabulary = (vocabulary[3], *vocabulary[:3], *vocabulary[4:])  # [SEP] first
    model = randomize_transformers(
        transformers_model(tiny_config(vocabulary_size=len(vocabulary), exact_gelu=True))
    )
    model.save_pretrained(place / "bert")
    (place / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizer(str(place / "vocab.txt"), model_max_length=S).save_pretrained(
        place / "bert"
    )
    return place / "bert", model


def test_a_model_by_transformers_predicts_the_same(foreign):
    path, theirs = foreign
    ours = load(path)
    assert ours.bert == tiny_config(vocabulary_size=56, exact_gelu=True, dropout=0.1)
    assert (ours.sequence_length, ours.cased, ours.pairs, ours.missing) == (S, False, "nsp", ())
    assert ours.vocabulary.ids["[SEP]"] == 0
    assert_equal_values(ours.weights, from_transformers(theirs.state_dict(), 2))
    x, _, _ = random_batch(vocabulary_size=56)
    with torch.no_grad():
        expected = transformers_outputs(theirs.double(), x)
    theirs.float()
    mlm = np.take_along_axis(
        expected.prediction_logits.numpy(), x["mask_positions"][:, :, None], axis=1
    )
    np.testing.assert_allclose(ours.model(x)["mlm"], mlm, atol=1e-5)
    np.testing.assert_allclose(
        ours.model(x)["nsp"], expected.seq_relationship_logits.numpy(), atol=1e-5
    )
    # From the text on, too.
    predictor = load_predictor(path, top_k=3)
    answers = transformers.pipeline("fill-mask", str(path))("ba [MASK] zu", top_k=3)
    words = predictor.fill_mask("ba [MASK] zu")[0]
    assert [word.token for word in words] == [answer["token_str"] for answer in answers]
    np.testing.assert_allclose(
        [word.probability for word in words], [answer["score"] for answer in answers], atol=1e-5
    )


@pytest.mark.long
def test_a_model_by_transformers_continues_pretraining(foreign, tiny_corpus, tmp_path):
    path, _ = foreign
    start = load(path)
    config = RecordsConfig(
        sequence_length=S,
        max_predictions=3,
        duplicates=2,
        validation_fraction=0.2,
        cased=start.cased,
    )
    build_records([tiny_corpus], start.vocabulary, tmp_path / "records", config)
    settings = PretrainingConfig(steps=60, batch_size=8, learning_rate=0.003, evaluate_every=60)
    untrained = dataclasses.replace(
        settings, steps=1, learning_rate=0.0, evaluate_every=1, warmup_steps=0
    )
    _, before = pretrain(
        tmp_path / "records", tmp_path / "before", pretraining=untrained, init_from=path, verbose=0
    )
    model, after = pretrain(
        tmp_path / "records", tmp_path / "run", pretraining=settings, init_from=path, verbose=0
    )
    assert_equal_values(load(tmp_path / "before").weights, start.weights)
    assert (
        after["mlm_loss"] < before["mlm_loss"] - 1
    )  # from weights of 0.3, which say much that is wrong
    run = load(tmp_path / "run")
    assert run.bert == start.bert
    assert_equal_values(values_of(model.trainable_variables), run.weights)
    # And goes back, with what it learned.
    theirs = loaded_by_transformers(save(run, tmp_path / "bert", "huggingface"))
    assert theirs.config.hidden_act == "gelu"
    assert_equal_values(from_transformers(theirs.state_dict(), 2), run.weights)
    assert "--init-from PATH" in (tmp_path / "bert" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "cased",
            r"Expected uncased records, as .* is\. Received: cased ones in .*; make them with "
            r"--uncased\.",
        ),
        (
            "shape",
            r"Expected a model as in .*\. Received another: num_layers: 2 there, 1 here; "
            r"exact_gelu: True there, False here\.",
        ),
    ],
)
def test_what_does_not_fit_the_initial_model_is_refused(
    foreign, tiny_corpus, tmp_path, change, message
):
    path, _ = foreign
    vocabulary = load(path).vocabulary
    bert = tiny_config(vocabulary_size=56, num_layers=1) if change == "shape" else None
    config = RecordsConfig(
        sequence_length=S, max_predictions=3, duplicates=1, cased=change == "cased"
    )
    build_records([tiny_corpus], vocabulary, tmp_path / "records", config)
    with pytest.raises(InputError, match=message):
        pretrain(tmp_path / "records", tmp_path / "run", bert=bert, init_from=path, verbose=0)
    assert not (tmp_path / "run").exists()


def test_heads_that_are_not_there_are_new(foreign, tmp_path):
    path, whole = foreign
    expected = from_transformers(whole.state_dict(), 2)
    for cls, missing, pairs in (
        (transformers.BertModel, ("masked language modelling", "next sentence prediction"), "nsp"),
        (transformers.BertForMaskedLM, (), "none"),
        (transformers.BertForNextSentencePrediction, ("masked language modelling",), "nsp"),
    ):
        part = tmp_path / cls.__name__
        cls.from_pretrained(str(path)).save_pretrained(part)
        (part / "vocab.txt").write_text(load(path).vocabulary.text)
        loaded = load(part)
        assert (loaded.missing, loaded.pairs, loaded.cased) == (missing, pairs, False)
        assert_equal_values(loaded.weights, {name: expected[name] for name in loaded.weights})
        with (
            pytest.warns(UserWarning, match="is initialised at random")
            if missing
            else contextlib.nullcontext()
        ):
            predictor = predictor_of(loaded)
        if missing:
            with pytest.raises(
                InputError,
                match=(r"a trained masked language modelling head\. Received: one without it"),
            ):
                predictor.fill_mask("ba [MASK]")
        else:
            assert predictor.fill_mask("ba [MASK]")
        assert predictor.embed(["ba", "be du"]).shape == (2, 26)


def test_what_is_not_berts_is_left_out_and_said(foreign, tmp_path):
    path, whole = foreign
    transformers.BertForSequenceClassification.from_pretrained(str(path)).save_pretrained(
        tmp_path / "bert"
    )
    (tmp_path / "bert" / "vocab.txt").write_text(load(path).vocabulary.text)
    with pytest.warns(
        UserWarning,
        match=(
            r"^2 weights in .*bert do not belong to BERT and are ignored, such as "
            r"classifier\.bias\.$"
        ),
    ):
        loaded = load(tmp_path / "bert")
    expected = from_transformers(whole.state_dict(), 2)
    assert_equal_values(loaded.weights, {name: expected[name] for name in loaded.weights})


def test_weights_in_several_files_and_of_16_bits(foreign, tmp_path):
    path, whole = foreign
    expected = from_transformers(whole.state_dict(), 2)
    vocabulary = load(path).vocabulary
    model = transformers.BertForPreTraining.from_pretrained(str(path))
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    model.half().save_pretrained(tmp_path / "half")
    model.float().bfloat16().save_pretrained(tmp_path / "bfloat16")
    for name, tolerance in {"many": 0, "half": 1e-3, "bfloat16": 1e-2}.items():
        (tmp_path / name / "vocab.txt").write_text(vocabulary.text)
        weights = load(tmp_path / name).weights
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, expected[key], atol=2 * tolerance)


def test_names_of_the_past_are_known(foreign, tmp_path):
    path, whole = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(29)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    safetensors.numpy.save_file(old, tmp_path / "model.safetensors")
    assert_equal_values(load(tmp_path).weights, from_transformers(whole.state_dict(), 2))
    old["cls.predictions.decoder.weight"][3, 3] += 1
    safetensors.numpy.save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match=r"one matrix for bert\.embeddings\.word_embeddings\.weight and"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, r"expected model_type among bert\. Received: 'roberta'"),
        (
            {"hidden_act": "relu"},
            r"expected hidden_act among gelu, gelu_new, gelu_pytorch_tanh\. Received: 'relu'",
        ),
        (
            {"position_embedding_type": "relative_key"},
            r"expected position_embedding_type among absolute\.",
        ),
        ({"is_decoder": True}, r"expected is_decoder among False\."),
        ({"hidden_size": None}, r"expected hidden_size\. Received: a configuration without it"),
        (
            {"vocab_size": 57},
            r"token_embedding/embeddings of shape \(57, 26\), .* Received: \(56, 26\)\.",
        ),
        ({"quantization_config": {"bits": 8}}, r"expected quantization_config among None\."),
        (
            {"num_hidden_layers": 1},
            r"1 layers, as its configuration says\. Received: bert\.encoder\.layer\.1\..* too",
        ),
    ],
    ids=str,
)
def test_what_kbert_has_not_is_refused(foreign, tmp_path, change, message):
    path, _ = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((path / "config.json").read_text()) | change
    fields = {name: value for name, value in fields.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_pickled_weights_are_not_read(foreign, tmp_path):
    path, whole = foreign
    for file in path.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError,
        match=r"Expected model\.safetensors in .*pickle files .* not read, since they can run code",
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model", "type"), "BPE", r"expected BERT's tokenization.* Received: BPE, BertNormalizer"),
        (
            ("normalizer", "handle_chinese_chars"),
            False,
            r"expected BERT's tokenization.* True, False, lowercase=True",
        ),
        (
            ("pre_tokenizer", "type"),
            "Whitespace",
            r"expected BERT's tokenization.* Received: WordPiece, BertNormalizer, White",
        ),
        (("model", "continuing_subword_prefix"), "@@", r"expected BERT's tokenization.* @@"),
        (
            ("normalizer", "strip_accents"),
            "some",
            r"Received: .*lowercase=True, strip_accents=some",
        ),
        (
            ("pre_tokenizer",),
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "BertPreTokenizer"}, {"type": "Digits"}],
            },
            r"Received: .* and further splitting",
        ),
        (
            ("model", "vocab", "ba"),
            6,
            r"one token for every id from 0 to 55\. Received: gaps or two for one",
        ),
        (("model",), None, r"expected a tokenizer of BERT\. Received: another file"),
    ],
    ids=str,
)
def test_another_tokenizer_is_refused(foreign, tmp_path, keys, value, message):
    path, _ = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((path / "tokenizer.json").read_text())
    inner = fields
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_case_and_accents_are_read_apart(foreign, tmp_path, lowercase):
    path, _ = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name, change in {
        "tokenizer.json": {"normalizer": {"lowercase": lowercase, "strip_accents": not lowercase}},
        "tokenizer_config.json": {"do_lower_case": lowercase, "strip_accents": not lowercase},
    }.items():
        fields = json.loads((tmp_path / name).read_text())
        for key, value in change.items():
            fields[key] = fields[key] | value if isinstance(value, dict) else value
        (tmp_path / name).write_text(json.dumps(fields))
    accents = "keep" if lowercase else "strip"
    expected = Normalization(cased=not lowercase, accents=accents)
    assert load(tmp_path).normalization == expected
    # vocab.txt and the configuration say as much.
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text(load(path).vocabulary.text)
    loaded = load(tmp_path)
    assert (loaded.normalization, loaded.is_guessed) == (expected, False)


def test_added_tokens_with_white_space_are_no_words(foreign, tmp_path):
    path, _ = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((path / "tokenizer.json").read_text())
    last = max(fields["model"]["vocab"], key=fields["model"]["vocab"].get)
    fields["added_tokens"].append({"id": fields["model"]["vocab"].pop(last), "content": "ba be"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.warns(UserWarning, match=r"1 of 56 tokens are never given by .*: ba_be; they"):
        vocabulary = load(tmp_path).vocabulary
    assert "ba_be" in vocabulary.ids
    assert Tokenizer(vocabulary)(["ba be bi"]).row_lengths().numpy() == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"do_lower_case": False},
            r"to agree\. Received: lowercase=True and do_lower_case=False",
        ),
        (
            {"strip_accents": False},
            r"to agree\. Received: strip_accents=True and strip_accents=False",
        ),
        ({"tokenize_chinese_chars": False}, r"Received: tokenize_chinese_chars=False"),
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            r"Received: tokenizer_class='BertJapaneseTokenizer'",
        ),
    ],
    ids=str,
)
def test_a_tokenizer_that_is_set_otherwise_is_refused(foreign, tmp_path, change, message):
    path, _ = foreign
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((path / "tokenizer_config.json").read_text()) | change
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_a_bias_under_another_name_and_a_stale_index(foreign, tmp_path):
    path, whole = foreign
    expected = from_transformers(whole.state_dict(), 2)
    model = transformers.BertForPreTraining.from_pretrained(str(path))
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    index = (tmp_path / "model.safetensors.index.json").read_bytes()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    (tmp_path / "vocab.txt").write_text(load(path).vocabulary.text)
    assert_equal_values(load(tmp_path).weights, expected)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    assert_equal_values(load(tmp_path).weights, expected)
    tensors["cls.predictions.bias"] = tensors["cls.predictions.decoder.bias"] + 1
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError,
        match=r"one matrix for cls\.predictions\.bias and cls\.predictions\.decoder\.bias",
    ):
        load(tmp_path)


def copied(path, directory):
    """A copy of a model's directory, to be changed."""
    return pathlib.Path(shutil.copytree(path, directory))


def test_a_configuration_of_before_model_types_is_one_of_a_bert(foreign, tmp_path):
    path, whole = foreign
    old = copied(path, tmp_path / "old")
    fields = json.loads((old / "config.json").read_text())
    del fields["model_type"], fields["architectures"]
    (old / "config.json").write_text(json.dumps(fields))
    assert_equal_values(load(old).weights, from_transformers(whole.state_dict(), 2))
    # A RoBERTa of that time has the same fields.
    fields["architectures"] = ["RobertaForMaskedLM"]
    (old / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"expected a model_type, or .* Received: RobertaForMask"):
        load(old)


def test_embeddings_beyond_the_tokens_are_dropped_and_said(foreign, tmp_path):
    path, whole = foreign
    model = transformers.BertForPreTraining.from_pretrained(str(path))
    model.resize_token_embeddings(64, mean_resizing=False)
    model.save_pretrained(tmp_path / "padded")
    for file in path.glob("tok*"):
        shutil.copy(file, tmp_path / "padded")
    said = r"padded has 64 embeddings for 56 tokens: the 8 beyond .* dropped, and exports have 56\."
    with pytest.warns(UserWarning, match=said):
        loaded = load(tmp_path / "padded")
    assert_equal_values(loaded.weights, from_transformers(whole.state_dict(), 2))
    theirs = loaded_by_transformers(save(loaded, tmp_path / "bert", "huggingface"))
    assert theirs.config.vocab_size == 56


def test_two_vocabularies_that_differ_are_named(foreign, tmp_path):
    path, _ = foreign
    both = copied(path, tmp_path / "both")
    tokens = load(path).vocabulary.tokens
    for lines in (tokens, tokens[:9], (*tokens, "new"), (*tokens[:7], tokens[8], *tokens[8:])):
        (both / "vocab.txt").write_text("\n".join(lines) + "\n")
        if lines == tokens:
            assert load(both).vocabulary.tokens == tokens
            continue
        with pytest.raises(InputError, match=r"vocab\.txt and tokenizer\.json, which differ from "):
            load(both)
    # Tokens that were added later are in tokenizer.json alone.
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(both)
    model = transformers.BertForPreTraining.from_pretrained(str(path))
    model.resize_token_embeddings(57, mean_resizing=False)
    model.save_pretrained(both)
    (both / "vocab.txt").write_text("\n".join(tokens) + "\n")
    assert load(both).vocabulary.tokens == (*tokens, "newword")
    # Or, by tokenizers in Python, in a file of their own.
    (both / "tokenizer.json").unlink()
    (both / "added_tokens.json").write_text('{"newword": 56, "[MASK]": 5}')
    assert load(both).vocabulary.tokens == (*tokens, "newword")
    (both / "added_tokens.json").write_text('{"newword": 57}')
    with pytest.raises(InputError, match=r"added_tokens\.json: expected ids from 56 on"):
        load(both)


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("bert-base-uncased", "hf download bert-base-uncased --local-dir bert-base-uncased"),
        ("google-bert/bert-tiny", "hf download google-bert/bert-tiny --local-dir bert-tiny"),
        ("hf://google-bert/bert-tiny", "hf download google-bert/bert-tiny --local-dir bert-tiny"),
        ("https://huggingface.co/a/b", "hf download a/b --local-dir b"),
    ],
)
def test_a_name_of_the_hub_is_no_path(path, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function in (load, load_predictor, load_run):
        with pytest.raises(InputError, match=f"kbert downloads nothing: .* '{command}' and give"):
            function(path)
    with pytest.raises(InputError, match=r"Received: no such directory\.$"):
        load(tmp_path / "nowhere")


def test_a_model_without_a_tokenizer_is_refused(foreign, tmp_path):
    path, _ = foreign
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    with pytest.raises(
        InputError, match=r"Expected tokenizer\.json or vocab\.txt in .* Received: neither"
    ):
        load(tmp_path)
