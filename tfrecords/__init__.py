"""The data half of kbert: text to masked sentence pairs in TFRecord shards, and those to
tf.data."""

import importlib

_HOMES = {
    "InputError": "tfrecords.errors",
    "Manifest": "tfrecords.schema",
    "RecordsConfig": "tfrecords.schema",
    "Tokenizer": "tfrecords.tokenizer",
    "Vocabulary": "tfrecords.vocabulary",
    "WorkerError": "tfrecords.errors",
    "build_records": "tfrecords.build.recipe",
    "describe": "tfrecords.reader",
    "inspect": "tfrecords.inspection",
    "learn_vocabulary": "tfrecords.vocabulary_learning",
    "load_manifest": "tfrecords.schema",
    "python_documents": "tfrecords.python_docs",
    "read": "tfrecords.reader",
    "read_documents": "tfrecords.sentences",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    """Imports what is asked for and no more: reading records does not load the tokenizer, nor
    `kbert --help` TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tfrecords' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return __all__
