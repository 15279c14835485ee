"""The data half of kbert: text to masked sentence pairs in TFRecord shards, and those to
tf.data.

Editors and type checkers read the names from __init__.pyi beside this file."""

import importlib

_HOMES = {
    "BatchSpec": "tfrecords.batch",
    "InputError": "tfrecords.errors",
    "Manifest": "tfrecords.schema",
    "Normalization": "tfrecords.normalization",
    "RecordsConfig": "tfrecords.schema",
    "Tokenizer": "tfrecords.tokenizer",
    "Vocabulary": "tfrecords.vocabulary",
    "WorkerError": "tfrecords.errors",
    "build_records": "tfrecords.build.recipe",
    "inspect": "tfrecords.inspection",
    "learn_vocabulary": "tfrecords.vocabulary_learning",
    "load_manifest": "tfrecords.schema",
    "manifest_of": "tfrecords.reader",
    "pack_records": "tfrecords.build.packed",
    "python_documents": "tfrecords.python_docs",
    "read": "tfrecords.reader",
    "read_documents": "tfrecords.text.formats",
}
"""The module that each public name is defined in."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Imports only what is asked for: reading records does not load the tokenizer, and
    `kbert --help` does not load TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tfrecords' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
