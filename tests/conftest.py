"""A corpus that the tests make themselves, and what keeps all of them short.

Every word of the corpus is unlike every other and says where it stands."""

import atexit
import contextlib
import dataclasses
import gc
import os
import pathlib
import random
import shutil
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:
    # What XLA compiles in one process, every other process of this session finds: a process that
    # trains a tiny model takes 12 CPU seconds and not 19, with bit-equal losses [two cores,
    # 2026-11]. Within a process nothing is found again, since its functions are numbered.
    compiled = tempfile.mkdtemp(prefix="kbert-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ |= {
        "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={compiled}",
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

import forked
import keras
import pytest
import tensorflow as tf
from training_processes import blank_picture

import kbert.objectives
import kbert.pretraining
import kbert.run.baseline
import kbert.run.history
import tfrecords
from kbert.step.pretrainer import Pretrainer
from tfrecords import InputError, RecordsConfig, Vocabulary, build_records
from tfrecords.vocabulary import SPECIAL_TOKENS

os.environ.setdefault(
    "JAX_PLATFORMS", "cpu"
)  # for processes of the tests: where libtpu is installed, JAX looks for a TPU


SLOW = (
    *("test_training_kills", "test_multi_worker", "test_notebooks", "test_plan", "test_kills"),
    *("test_endurance", "test_pretrainer", "test_training_faults", "test_cli", "test_pretraining"),
    *("test_packed_training", "test_resuming", "test_saved_model", "test_formats", "test_model"),
    *("test_loss_scale", "test_build", "test_huggingface", "test_beam", "test_benchmark"),
)
"""Files that take long. One process takes a whole file, for its fixtures: a long one that came last
would keep a single processor busy."""


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


@pytest.fixture(autouse=True, scope="session")
def steps_without_xla():
    """In the processes of the tests themselves a step is compiled by XLA only where a test asks for
    it: that takes ten times as long as the step's graph. Processes that tests start compile as a
    user's do; test_pretrainer.py shows that the step is the same."""
    Pretrainer.compile.__kwdefaults__["jit_compile"] = False


@pytest.fixture
def eager_steps(monkeypatch):
    """Steps are not compiled at all: a few of them take less than their graph, which takes seconds.
    On JAX they are, where an eager step takes longer."""
    if keras.backend.backend() == "tensorflow":
        compile_model = Pretrainer.compile
        monkeypatch.setattr(
            Pretrainer,
            "compile",
            lambda model, *arguments, **options: compile_model(
                model, *arguments, **(options | {"run_eagerly": True})
            ),
        )


@pytest.fixture(autouse=True, scope="session")
def libraries_are_not_searched():
    """The garbage collector passes over what the libraries made while they were imported: a million
    objects, which it would look through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_pictures():
    """A test that looks at the picture of the curves sets `draw_curves` again."""
    kbert.run.history.draw_curves = blank_picture


@pytest.fixture(autouse=True, scope="session")
def no_measurement():
    """Every run that prints its steps would multiply matrices for most of a second."""
    kbert.pretraining.matrix_product_rate = lambda *_: 1e12


@pytest.fixture(autouse=True, scope="session")
def labels_are_counted_once():
    """Of records that many tests train on and evaluate: while their files, how they are read and
    the objectives are the same, the labels are."""
    count, counted = kbert.run.baseline._label_counts, {}
    usual = tfrecords.read, kbert.objectives.OBJECTIVES

    def counts_of(manifest, split, limit=None):
        files = [pathlib.Path(path) for path in manifest.files(split)]
        now = tfrecords.read, kbert.objectives.OBJECTIVES
        if any(one is not other for one, other in zip(now, usual, strict=True)) or not all(
            path.exists() for path in files
        ):
            return count(manifest, split, limit)
        found = [path.stat() for path in files]
        states = [(one.st_ino, one.st_mtime_ns, one.st_ctime_ns, one.st_size) for one in found]
        key = (*files, *states, split, limit)
        if key not in counted:
            counted[key] = count(manifest, split, limit)
        return counted[key]

    kbert.run.baseline._label_counts = counts_of


@pytest.fixture
def quick_workers(monkeypatch):
    """The workers of a build fork from a process that has imported TensorFlow and done nothing with
    it: each takes a third of a CPU second to start, and not five. test_workers.py and the commands
    in test_kills.py and test_cli.py start them as users do."""
    context = forked.build_context()
    monkeypatch.setattr("multiprocessing.get_context", lambda _: context)


@pytest.fixture(autouse=True, scope="module")
def nothing_is_kept():
    """Models and the graphs of their steps are freed after each file: kept, they came to gigabytes
    in a process."""
    yield
    keras.backend.clear_session()
    gc.collect()
    gc.freeze()  # what the next file need not look through: libraries imported since, tests


@pytest.fixture(scope="session")
def documents():
    """43 documents of 1 to 7 sentences of 1 to 11 words: "d2s3w5" is word 5 in sentence 3 of
    document 2."""
    draw = random.Random(1)
    return [
        [
            [f"d{d}s{s}w{w}" for w in range(draw.randint(1, 11))]
            for s in range(1 if d == 5 else draw.randint(1, 7))
        ]
        for d in range(43)
    ]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, documents):
    """The documents as a text file, one sentence per line and an empty line after each document."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(
        "".join(
            "".join(" ".join(words) + "\n" for words in document) + "\n" for document in documents
        )
    )
    return path


@pytest.fixture(scope="session")
def vocabulary(documents):
    """Every word of the documents is one piece of it."""
    words = [word for document in documents for sentence in document for word in sentence]
    return Vocabulary(SPECIAL_TOKENS + tuple(words))


@pytest.fixture(scope="session")
def config():
    return RecordsConfig(
        sequence_length=29,
        max_predictions=5,
        duplicates=3,
        validation_fraction=0.17,
        num_shards=3,
        seed=7,
        cased=False,
    )


@pytest.fixture(scope="session")
def records(tmp_path_factory, corpus, vocabulary, config):
    """A directory of records made from the corpus: three shards to train on, one to validate on."""
    directory = tmp_path_factory.mktemp("built") / "records"
    build_records([corpus], vocabulary, directory, config)
    return directory


@pytest.fixture(scope="session")
def packed_records(tmp_path_factory, corpus, vocabulary, config):
    """The same records with up to three pairs in a row."""
    directory = tmp_path_factory.mktemp("packed") / "records"
    build_records([corpus], vocabulary, directory, dataclasses.replace(config, pack=3))
    return directory


@pytest.fixture
def refused():
    """`with refused(pattern):` expects an InputError of one line that says what was expected and
    what was received."""

    @contextlib.contextmanager
    def expect(pattern):
        with pytest.raises(InputError, match=pattern) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert "xpected" in message
        assert "Received" in message

    return expect


@pytest.fixture
def global_seed():
    """tf.random.set_seed, undone after the test."""
    yield tf.random.set_seed
    tf.random.set_seed(None)
