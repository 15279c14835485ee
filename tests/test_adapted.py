"""Weights for another vocabulary, and for more or fewer positions; a run that starts from them."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import transformers
from model_fixtures import assert_equal_values, random_batch, random_model, tiny_config, values_of
from transformers_twin import transformers_outputs

from kbert.config import PretrainingConfig
from kbert.formats.adapted import origins, with_positions, with_vocabulary
from kbert.formats.initial import check_fit, starting_weights
from kbert.formats.load_and_save import load, save
from kbert.formats.pretrained import Pretrained
from kbert.model.bert import pretraining_model
from kbert.prediction import predictor_of
from kbert.pretraining import pretrain
from tfrecords import (
    InputError,
    Normalization,
    RecordsConfig,
    Vocabulary,
    build_records,
    learn_vocabulary,
    load_manifest,
)
from tfrecords.vocabulary import SPECIAL_TOKENS

pytest_plugins = ["model_fixtures"]

ROWS, BIAS, POSITIONS = (
    "token_embedding/embeddings",
    "mlm/bias",
    "embeddings/position_embeddings",
)
OLD = Vocabulary((*SPECIAL_TOKENS, "run", "##n", "##ing", "a", "ü", "東", "-", "café"))
STEP = PretrainingConfig(
    steps=1, batch_size=8, learning_rate=0.0, warmup_steps=0, evaluate_every=1, evaluate_steps=1
)


CASED, UNCASED = Normalization(cased=True), Normalization(cased=False)


def sources(token, normalization=CASED):
    """The tokens whose mean a new one starts from."""
    found = origins(OLD, Vocabulary((*SPECIAL_TOKENS, token)), normalization)
    return [OLD.tokens[row] for row in found.sources[-1]]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("run", ["run"]),
        ("running", ["run", "##n", "##ing"]),
        ("##ning", ["##n", "##ing"]),  # as the rest of a word
        ("##run", ["run"]),  # has no match as that
        ("ning", ["##n", "##ing"]),
        ("a-run", ["a", "-", "run"]),  # three words to the tokenizer
        ("東a", ["東", "a"]),
        ("runs", []),
        ("Run", []),
        ("##", []),
    ],
)
def test_a_new_piece_is_what_its_text_was(token, expected):
    assert sources(token) == expected


def test_the_text_is_normalized_as_the_old_model_had_it():
    assert sources("Running", UNCASED) == ["run", "##n", "##ing"]
    assert sources("à", UNCASED) == ["a"]
    assert sources("à") == sources("à", Normalization(cased=False, accents="keep")) == []


def pretrained(vocabulary=OLD, **changes):
    model = random_model(vocabulary_size=len(vocabulary), **changes)
    return Pretrained.of_model(model, vocabulary, sequence_length=23, cased=True)


def test_rows_are_copied_averaged_and_random():
    new = Vocabulary(("[MASK]", "running", *SPECIAL_TOKENS[:4], "zzz", "run"))
    found = origins(OLD, new, CASED)
    assert str(found) == ("6 tokens copied, 1 new as means of old ones, 1 random, 7 dropped")
    old = pretrained()
    ours = with_vocabulary(old, new, found, normalization=CASED, seed=5)
    rows, bias = ours.weights[ROWS], ours.weights[BIAS]
    for row, token in enumerate(new.tokens):
        if token in OLD.ids:
            np.testing.assert_array_equal(rows[row], old.weights[ROWS][OLD.ids[token]])
            assert bias[row] == old.weights[BIAS][OLD.ids[token]]
    np.testing.assert_allclose(rows[1], old.weights[ROWS][5:8].mean(0), rtol=1e-6)
    np.testing.assert_allclose(bias[1], old.weights[BIAS][5:8].mean(), rtol=1e-6)
    # A random row is that of a new model of this seed, and not of another's.
    fresh = values_of(pretraining_model(ours.bert, seed=5).variables)
    np.testing.assert_array_equal(rows[6], fresh[ROWS][6])
    np.testing.assert_allclose(bias[6], old.weights[BIAS].mean(), rtol=1e-6)
    other = with_vocabulary(old, new, found, normalization=CASED, seed=6)
    assert (other.weights[ROWS][6] != rows[6]).all()
    # Nothing else has changed.
    assert ours.vocabulary == new
    assert_equal_values(
        {path: value for path, value in ours.weights.items() if path not in (ROWS, BIAS)},
        {path: value for path, value in old.weights.items() if path not in (ROWS, BIAS)},
    )


def test_positions_are_cut_or_repeated():
    old = pretrained()
    there = old.weights[POSITIONS]
    fewer, more = with_positions(old, 7), with_positions(old, 71)
    np.testing.assert_array_equal(fewer.weights[POSITIONS], there[:7])
    np.testing.assert_array_equal(
        more.weights[POSITIONS], np.concatenate([there, there, there[:13]])
    )
    assert (fewer.bert.max_positions, fewer.sequence_length) == (7, 7)
    assert (more.bert.max_positions, more.sequence_length) == (71, 23)


# Runs.


@pytest.fixture(scope="module")
def domain(tmp_path_factory, tiny_corpus, tiny_vocabulary):
    """Text of a domain, whose words are longer, and records of it by an extended vocabulary."""
    place = tmp_path_factory.mktemp("domain")
    with open(place / "text.txt", "w") as file:
        for line in tiny_corpus.read_text().splitlines():
            words = line.split()
            pairs = zip(words[::2], words[1::2], strict=False)
            print(*("".join(pair) for pair in pairs), file=file)
    spelled = (*tiny_vocabulary.tokens, *(f"##{word}" for word in tiny_vocabulary.tokens[5:]))
    old = Vocabulary(spelled)
    extended = learn_vocabulary([place / "text.txt"], len(old) + 19, extend=old)
    config = RecordsConfig(
        sequence_length=23, max_predictions=3, duplicates=2, validation_fraction=0.2, seed=3
    )
    build_records([place / "text.txt"], extended, place / "records", config)
    assert len(extended) == len(old) + 19
    return place, old, extended


def test_a_run_starts_from_a_model_of_another_vocabulary(domain, tmp_path, capsys):
    place, old, extended = domain
    start = pretrained(old, num_layers=1)
    start = dataclasses.replace(start, normalization=UNCASED)
    save(start, tmp_path / "start", "huggingface")

    def run(name, init_from):
        return pretrain(
            *(place / "records", tmp_path / name),
            changes={"max_positions": 31},
            pretraining=STEP,
            init_from=init_from,
            verbose=2,
        )

    model, _ = run("run", tmp_path / "start")
    printed = capsys.readouterr().out
    assert f"{len(old)} tokens copied, 19 new as means of old ones, 0 r" in printed
    assert "31 positions from the 29 of " in printed
    assert printed.count("tokens copied") == 1
    found = origins(old, extended, UNCASED)
    expected = with_positions(
        with_vocabulary(start, extended, found, normalization=UNCASED, seed=0), 31
    )
    assert_equal_values(values_of(model.trainable_variables), expected.weights)

    # It goes on without the old model, and says nothing of it any more.
    shutil.rmtree(tmp_path / "start")
    run("run", tmp_path / "start")
    assert "pieces" not in capsys.readouterr().out

    # The export has the new size, and `transformers` computes the same.
    ours = load(tmp_path / "run")
    save(ours, tmp_path / "bert", "huggingface")
    theirs = transformers.BertForPreTraining.from_pretrained(
        str(tmp_path / "bert"), attn_implementation="eager"
    ).eval()
    assert theirs.config.vocab_size == len(extended)
    assert len(transformers.AutoTokenizer.from_pretrained(str(tmp_path / "bert"))) == len(extended)
    x, _, _ = random_batch(vocabulary_size=len(extended))
    with torch.no_grad():
        logits = transformers_outputs(theirs.double(), x)
    mlm = np.take_along_axis(
        logits.prediction_logits.numpy(), x["mask_positions"][:, :, None], axis=1
    )
    assert mlm.std() > 0.2
    np.testing.assert_allclose(ours.model(x)["mlm"], mlm, atol=1e-5)
    np.testing.assert_allclose(
        ours.model(x)["nsp"], logits.seq_relationship_logits.numpy(), atol=1e-5
    )


def test_a_vocabulary_that_shares_little_is_warned_of(domain):
    place, _, extended = domain
    start = pretrained(OLD, num_layers=1)
    said = rf"shares 5 of its {len(extended)} pieces with the model\. If that is not meant"
    bert = dataclasses.replace(start.bert, vocabulary_size=len(extended))
    manifest = load_manifest(place / "records")
    with pytest.warns(UserWarning, match=said):
        weights, changes = starting_weights(start, bert, extended, manifest, seed=0)
    assert weights is not None
    assert (weights.bert, weights.vocabulary, weights.cased) == (bert, extended, False)
    assert changes[1:] == ["the records are uncased, the model is cased"]


def test_a_model_with_one_segment_takes_no_pairs(domain, tmp_path):
    place, old, extended = domain
    start = pretrained(old, num_segments=1)
    with pytest.raises(InputError, match=r"with one segment embedding .* with --pairs none\."):
        pretrain(place / "records", tmp_path / "run", init_from=start, verbose=0)
    assert not (tmp_path / "run").exists()
    config = RecordsConfig(
        sequence_length=23, max_predictions=3, pairs="none", validation_fraction=0.0
    )
    build_records([place / "text.txt"], extended, tmp_path / "single", config)
    manifest = load_manifest(tmp_path / "single")
    bert = dataclasses.replace(start.bert, vocabulary_size=len(extended))
    check_fit(bert, STEP, manifest)
    weights, changes = starting_weights(start, bert, extended, manifest, seed=0)
    assert weights is not None and weights.bert == bert
    assert len(changes) == 2  # of the vocabulary and the casing
    # Questions that need a second segment have no answer.
    with pytest.raises(InputError, match="a trained next sentence prediction head"):
        predictor_of(start).next_sentence("ba", "be")


def test_the_shape_is_not_adapted(domain, tmp_path):
    place, old, extended = domain
    bert = tiny_config(vocabulary_size=len(extended), num_layers=1, max_positions=31)
    with pytest.raises(InputError, match=r"another: num_layers: 2 there, 1 here\.$"):
        pretrain(place / "records", tmp_path / "run", bert=bert, init_from=pretrained(old))
