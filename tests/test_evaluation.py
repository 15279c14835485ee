"""Held-out results against NumPy over every record once, and the baselines against a count by
hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
from model_fixtures import plain_records, random_model, tiny_config

from kbert.model.bert import pretraining_model
from kbert.run.baseline import baselines
from kbert.run.evaluation import evaluate, results_table
from tfrecords import InputError, RecordsConfig, load_manifest
from tfrecords.schema import PAIRS, Manifest
from tfrecords.writer import write_shard

pytest_plugins = ["model_fixtures"]

P = 3


def write_by_hand(directory, splits, vocabulary_size, pairs="nsp"):
    """Records of S = 7 with the given masked words (lists of ids) and labels per record, by
    split."""
    shards = []
    for split, rows in splits.items():
        count = len(rows)
        features = {
            name: np.ones((count, 7), np.int32)
            for name in ("input_ids", "input_mask", "segment_ids")
        } | {
            "masked_lm_positions": np.ones((count, P), np.int32),
            "masked_lm_ids": np.array(
                [words + [0] * (P - len(words)) for words, _ in rows], np.int32
            ),
            "masked_lm_weights": np.array(
                [[1.0] * len(words) + [0.0] * (P - len(words)) for words, _ in rows], np.float32
            ),
            "next_sentence_labels": np.array([[label] for _, label in rows], np.int32),
        }
        if pairs == "none":
            del features["next_sentence_labels"]
        shards.append(
            write_shard(directory / f"{split}-00000-of-00001.tfrecord", split, [(features, {})])
        )
    manifest = Manifest(
        directory=directory,
        sequence_length=7,
        max_predictions=P,
        vocabulary_size=vocabulary_size,
        vocabulary_sha256="0" * 64,
        config=RecordsConfig(sequence_length=7, max_predictions=P, pairs=pairs),
        shards=tuple(shards),
        counts={},
    )
    manifest.save()
    return manifest


def test_baselines_equal_a_count_by_hand(tmp_path):
    train = [
        ([7, 7, 9], 0),
        ([7], 0),
        ([8, 9], 1),
        ([0], 0),
    ]  # 7 x 3, 9 x 2, 8 and 0 once; B follows three times in four
    validation = [([7, 9], 0), ([5, 7, 7], 1), ([], 1)]
    write_by_hand(tmp_path, {"train": train, "validation": validation}, vocabulary_size=11)
    result = baselines(tmp_path)
    # Counts raised by one: 7 has 4 of 18, 9 has 3, 5 has 1; label 0 has 4 of 6, label 1 has 2.
    unigram_loss = -(3 * math.log(4 / 18) + math.log(3 / 18) + math.log(1 / 18)) / 5
    majority_loss = -(math.log(4 / 6) + 2 * math.log(2 / 6)) / 3
    assert result.unigram_loss == pytest.approx(unigram_loss, abs=1e-12)
    assert result.unigram_accuracy == pytest.approx(3 / 5, abs=1e-12)
    assert result.majority_loss == pytest.approx(majority_loss, abs=1e-12)
    assert result.majority_accuracy == pytest.approx(1 / 3, abs=1e-12)
    assert baselines(tmp_path, "train").unigram_accuracy == pytest.approx(3 / 7, abs=1e-12)


def test_baselines_of_single_segments_have_no_labels(tmp_path):
    train = [([7, 7, 9], 0), ([7], 0), ([8, 9], 1), ([0], 0)]
    validation = [([7, 9], 0), ([5, 7, 7], 1), ([], 1)]
    (tmp_path / "nsp").mkdir()
    (tmp_path / "none").mkdir()
    splits = {"train": train, "validation": validation}
    whole, alone = (
        baselines(write_by_hand(tmp_path / pairs, splits, 11, pairs)) for pairs in ("nsp", "none")
    )
    assert alone == dataclasses.replace(whole, majority_loss=None, majority_accuracy=None)


def test_baselines_of_words_that_training_never_saw_are_finite(tmp_path):
    splits = {"train": [([7], 0), ([7], 0)], "validation": [([], 1)]}
    manifest = write_by_hand(tmp_path, splits, vocabulary_size=11)
    assert baselines(manifest).unigram_loss == 0
    assert baselines(manifest).majority_loss == pytest.approx(-math.log(1 / 4))
    assert baselines(manifest).majority_accuracy == 0


def evaluate_plainly(model, files):
    """The figures of `evaluate` in NumPy, float64, from records parsed one by one."""
    records = list(plain_records(files))
    x = {
        ours: np.array([record[theirs] for record in records], np.int32)
        for ours, theirs in {
            "token_ids": "input_ids",
            "segment_ids": "segment_ids",
            "padding_mask": "input_mask",
            "mask_positions": "masked_lm_positions",
        }.items()
    }
    logits = {name: np.float64(value) for name, value in model(x).items()}
    in_use = np.array([record["masked_lm_weights"] for record in records]) == 1
    words = np.array([record["masked_lm_ids"] for record in records])[in_use]

    def figures(logits, labels):
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
        return losses.mean(), (logits.argmax(-1) == labels).mean()

    mlm_loss, mlm_accuracy = figures(logits["mlm"][in_use], words)
    results = {
        "mlm_loss": mlm_loss,
        "mlm_perplexity": math.exp(mlm_loss),
        "mlm_accuracy": mlm_accuracy,
    }
    if "nsp" in logits:
        labels = np.array([record["next_sentence_labels"][0] for record in records])
        results["nsp_loss"], results["nsp_accuracy"] = figures(logits["nsp"], labels)
    return results


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("batch_size", [7, 64])
def test_every_record_counts_once_whatever_the_batches(records_by_pairs, batch_size, pairs):
    manifest = load_manifest(records_by_pairs[pairs])
    num_records = manifest.num_records("validation")
    assert num_records % 7 and num_records < 64  # the last batch is not full
    model = random_model(num_layers=1, pairs=pairs)
    results = evaluate(model, records_by_pairs[pairs], batch_size=batch_size)
    expected = evaluate_plainly(model, manifest.files("validation"))
    assert {name: results[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert results["unigram_loss"] == baselines(manifest).unigram_loss
    assert results["mlm_perplexity"] == math.exp(results["mlm_loss"])
    names = {"mlm_loss", "mlm_perplexity", "mlm_accuracy", "unigram_loss", "unigram_accuracy"}
    if pairs != "none":
        names |= {"nsp_loss", "nsp_accuracy", "majority_loss", "majority_accuracy"}
    assert set(results) == {"pairs"} | names
    assert results["pairs"] == pairs
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize(
    ("model_pairs", "pairs", "expected"),
    [
        ("nsp", "none", "sentence pairs"),
        ("none", "nsp", "single segments"),
        ("none", "sop", "single segments"),
    ],
)
def test_records_of_another_kind_than_the_model_are_refused(tmp_path, model_pairs, pairs, expected):
    manifest = write_by_hand(tmp_path, {"train": [([7], 0)], "validation": [([7], 0)]}, 11, pairs)
    model = pretraining_model(tiny_config(vocabulary_size=11, num_layers=1), pairs=model_pairs)
    with pytest.raises(
        InputError,
        match=rf"Expected records of {expected}, .* Received: .*, made with pairs '{pairs}'\.",
    ):
        evaluate(model, manifest)


def test_evaluation_changes_nothing_and_takes_the_split_it_is_told(tiny_records):
    model = random_model(num_layers=1, dropout=0.5)
    before = [variable.numpy() for variable in model.variables]
    manifest = load_manifest(tiny_records)
    results = evaluate(model, manifest, split="train", batch_size=32)
    assert results["mlm_loss"] == pytest.approx(
        evaluate_plainly(model, manifest.files("train"))["mlm_loss"], rel=1e-5
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_diverged_model_has_infinite_perplexity(tiny_records):
    model = pretraining_model(tiny_config(num_layers=1))
    model.get_layer("mlm").bias.assign(np.where(np.arange(53) == 0, 1e5, 0.0))  # certain of [PAD]
    results = evaluate(model, tiny_records, batch_size=64)
    assert results["mlm_loss"] == pytest.approx(1e5, rel=1e-3)
    assert results["mlm_perplexity"] == math.inf
    assert "inf" in results_table(results)


def test_a_split_without_records_is_refused(tmp_path):
    manifest = write_by_hand(tmp_path, {"train": [([7], 0)]}, vocabulary_size=11)
    with pytest.raises(
        InputError, match=r"Expected a split 'validation' .* Received: records without it"
    ):
        evaluate(pretraining_model(tiny_config(vocabulary_size=11, num_layers=1)), manifest)


@pytest.mark.parametrize(("pairs", "task"), [("nsp", "next sentence"), ("sop", "sentence order")])
def test_results_table_in_full(pairs, task):
    results = {
        "pairs": pairs,
        "mlm_loss": 2.0,
        "mlm_perplexity": math.exp(2.0),
        "mlm_accuracy": 0.5,
        "nsp_loss": 0.25,
        "nsp_accuracy": 0.875,
        "unigram_loss": 7.0,
        "unigram_accuracy": 0.0625,
        "majority_loss": 0.7,
        "majority_accuracy": 0.515,
    }
    assert results_table(results).splitlines() == [
        "                                  model   without a model",
        "  masked tokens: loss (nats)      2.000   7.000  unigram",
        "  masked tokens: perplexity         7.4   1,096.6  unigram",
        "  masked tokens: accuracy         50.0%   6.2%  most frequent token",
        f"  {f'{task}: loss (nats)':<28}    0.250   0.700  label frequencies",
        f"  {f'{task}: accuracy':<28}    87.5%   51.5%  majority label",
    ]


def test_results_table_of_single_segments_in_full():
    results = {
        "pairs": "none",
        "mlm_loss": 2.0,
        "mlm_perplexity": math.exp(2.0),
        "mlm_accuracy": 0.5,
        "unigram_loss": 7.0,
        "unigram_accuracy": 0.0625,
    }
    assert results_table(results).splitlines() == [
        "                                  model   without a model",
        "  masked tokens: loss (nats)      2.000   7.000  unigram",
        "  masked tokens: perplexity         7.4   1,096.6  unigram",
        "  masked tokens: accuracy         50.0%   6.2%  most frequent token",
    ]
