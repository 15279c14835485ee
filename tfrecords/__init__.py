"""The data half of kbert: text to masked sentence pairs in TFRecord shards, and those to tf.data."""

from tfrecords.build import build
from tfrecords.documents import read_documents
from tfrecords.errors import InputError
from tfrecords.inspection import inspect
from tfrecords.python_docs import python_docs
from tfrecords.reader import describe, read
from tfrecords.schema import Manifest, RecordsConfig, load_manifest
from tfrecords.tokenizer import Tokenizer
from tfrecords.vocabulary import Vocabulary
from tfrecords.wordpiece import learn_vocabulary

__all__ = [
    "InputError",
    "Manifest",
    "RecordsConfig",
    "Tokenizer",
    "Vocabulary",
    "build",
    "describe",
    "inspect",
    "learn_vocabulary",
    "load_manifest",
    "python_docs",
    "read",
    "read_documents",
]
