"""What the tests of the model half share: tiny models and batches, records of a language that can
be learned, a finished run.

Both imported and named in `pytest_plugins`, for its fixtures; pytest then wants the word
PYTEST_DONT_REWRITE here."""

import dataclasses
import math
import pathlib
import random

import numpy as np
import pytest
import tensorflow as tf

import kbert.run.history
import kbert.run.tensorboard
from kbert.config import BertConfig, PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.pretraining import pretrain
from kbert.run.evaluation import evaluate
from tfrecords import RecordsConfig, Vocabulary, build_records
from tfrecords.batch import BatchSpec
from tfrecords.schema import PAIRS
from tfrecords.vocabulary import SPECIAL_TOKENS

# On a slow machine a minute may pass between evaluations: no rows for that in the tests.
kbert.run.history.ROWS_EVERY = kbert.run.tensorboard.ROWS_EVERY = math.inf

ROOT = pathlib.Path(__file__).parent.parent
WORDS = tuple(consonant + vowel for consonant in "bdfghklmnprs" for vowel in "aeiu")
"""The words of the language of the tests, the frequent ones first."""

RUN_SETTINGS = PretrainingConfig(
    steps=60,
    batch_size=8,
    learning_rate=0.01,
    evaluate_every=25,
    evaluate_steps=1000,
    checkpoint_every=10,
    seed=5,
)
"""Of the held-out batches there are fewer than evaluate_steps."""


def tiny_config(**changes):
    """The configuration of a model that is ready in no time; heads of 13, two layers."""
    shape = {
        "num_layers": 2,
        "hidden_size": 26,
        "num_heads": 2,
        "intermediate_size": 37,
        "max_positions": 29,
    }
    return BertConfig(**({"vocabulary_size": 53} | shape | changes))


def run_config():
    """The configuration of the models that are trained here: one layer, with dropout."""
    return tiny_config(num_layers=1, dropout=0.1)


def random_batch(seed=0, batch_size=5, sequence_length=17, max_predictions=3, vocabulary_size=53):
    """(x, y, sample_weight) as `tfrecords.read` gives them, as NumPy arrays: padding, two segments,
    unused slots."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(7, sequence_length, size=batch_size)
    lengths[0] = sequence_length
    index = np.arange(sequence_length)
    used = draw.integers(1, max_predictions + 1, size=batch_size)
    positions = np.zeros((batch_size, max_predictions), np.int32)
    for row in range(batch_size):
        positions[row, : used[row]] = np.sort(
            draw.choice(np.arange(1, lengths[row]), used[row], replace=False)
        )
    weights = (np.arange(max_predictions) < used[:, None]).astype(np.float32)
    padding_mask = (index < lengths[:, None]).astype(np.int32)
    values = {
        ("x", "token_ids"): draw.integers(0, vocabulary_size, (batch_size, sequence_length))
        * padding_mask,
        ("x", "segment_ids"): (index >= lengths[:, None] // 2) * padding_mask,
        ("x", "padding_mask"): padding_mask,
        ("x", "mask_positions"): positions,
        ("y", "mlm"): draw.integers(0, vocabulary_size, (batch_size, max_predictions)) * weights,
        ("y", "nsp"): draw.integers(0, 2, batch_size),
        ("sample_weight", "mlm"): weights,
        ("sample_weight", "nsp"): np.ones(batch_size),
    }
    spec = BatchSpec(sequence_length=sequence_length, max_predictions=max_predictions)
    return spec.arrays(values, batch_size)


def single_segments(batch):
    """The batch as records of single segments give it: no second segment, and no y and no weights
    for sentence pairs."""
    x, y, sample_weight = batch
    x = x | {"segment_ids": np.zeros_like(x["segment_ids"])}
    return x, {"mlm": y["mlm"]}, {"mlm": sample_weight["mlm"]}


def randomize(variables, seed=0, scale=0.3):
    """Moves every float variable off its initial value, so that no default is left that could hide
    a fault."""
    draw = np.random.default_rng(seed)
    for variable in variables:
        if "float" in variable.dtype:
            centre = 1.0 if variable.name == "gamma" else 0.0
            variable.assign(centre + scale * draw.standard_normal(variable.shape))


def random_model(*, pairs="nsp", pack=1, **changes):
    """A pretraining model of `tiny_config` with weights that make it answer decidedly."""
    model = pretraining_model(tiny_config(**changes), pairs=pairs, pack=pack)
    randomize(model.variables, seed=3)
    return model


def values_of(variables):
    """Copies of the values of variables, by path."""
    return {variable.path: np.array(variable.numpy()) for variable in variables}


def assert_equal_values(actual, expected):
    """Bit for bit."""
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path)


def plain_records(files):
    """The records of files as lists of ints and floats by Google's names, parsed by the protocol
    buffer's own class."""
    for serialized in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(serialized).features.feature
        yield {
            name: list(value.int64_list.value or value.float_list.value)
            for name, value in feature.items()
        }


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """A finished run, what `pretrain` returned for it, and what was measured right after."""

    directory: pathlib.Path
    weights: dict
    results: dict
    evaluated: dict


@pytest.fixture(scope="session")
def tiny_vocabulary():
    return Vocabulary(SPECIAL_TOKENS + WORDS)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """37 documents of 3 to 7 sentences of 3 to 7 words, drawn by Zipf's law: the first thing to
    learn is soon learned."""
    draw = random.Random(1)
    frequencies = [1 / rank**1.5 for rank in range(1, len(WORDS) + 1)]

    def sentence():
        return " ".join(draw.choices(WORDS, frequencies, k=draw.randint(3, 7)))

    documents = ["\n".join(sentence() for _ in range(draw.randint(3, 7))) + "\n" for _ in range(37)]
    path = tmp_path_factory.mktemp("tiny_corpus") / "corpus.txt"
    path.write_text("\n".join(documents))
    return path


@pytest.fixture(scope="session")
def records_by_pairs(tmp_path_factory, tiny_corpus, tiny_vocabulary):
    """Directories of records, S = 23 and P = 3, by their kind of pairs."""
    place = tmp_path_factory.mktemp("tiny_records")
    for pairs in PAIRS:
        config = RecordsConfig(
            sequence_length=23,
            max_predictions=3,
            pairs=pairs,
            duplicates=2,
            validation_fraction=0.2,
            seed=3,
        )
        build_records([tiny_corpus], tiny_vocabulary, place / pairs, config)
    return {pairs: place / pairs for pairs in PAIRS}


@pytest.fixture(scope="session")
def tiny_records(records_by_pairs):
    """Some 140 records to train on and 40 to validate on."""
    return records_by_pairs["nsp"]


@pytest.fixture(scope="session")
def records_by_pack(tmp_path_factory, tiny_corpus, tiny_vocabulary):
    """Directories of the same short pairs, S = 29 and P = 5: one in a row, and up to three."""
    place = tmp_path_factory.mktemp("records_by_pack")
    for pack in (1, 3):
        config = RecordsConfig(
            sequence_length=29,
            max_predictions=5,
            duplicates=3,
            short_sequence_probability=0.8,
            validation_fraction=0.2,
            seed=3,
            pack=pack,
        )
        build_records([tiny_corpus], tiny_vocabulary, place / f"{pack}", config)
    return {pack: place / f"{pack}" for pack in (1, 3)}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_records):
    """A run of RUN_SETTINGS from its first step to its last without a break."""
    directory = tmp_path_factory.mktemp("tiny_run") / "run"
    model, results = pretrain(
        tiny_records, directory, bert=run_config(), pretraining=RUN_SETTINGS, verbose=0
    )
    return TinyRun(
        directory=directory,
        weights=values_of([*model.variables, *model.optimizer.variables]),
        results=results,
        evaluated=evaluate(model, tiny_records, batch_size=8),
    )
