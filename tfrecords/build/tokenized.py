"""What a task has made of its text so far: files of tokenized documents, and what was counted.

A large compressed file is one task, and may take hours. So its state is saved now and then, and a
killed build continues such a task where it was."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from safetensors import safe_open

from tfrecords.build.buckets import save_arrays, save_part
from tfrecords.build.copies import DocumentSample
from tfrecords.build.tokenizing import COUNTERS, COVERAGE, CutDocuments
from tfrecords.documents import Documents

_SO_FAR = ".so-far"
FILES_BETWEEN = 8
"""After how many files of documents the state is saved: text of some seconds."""


def sample_path(stem: pathlib.Path) -> pathlib.Path:
    """The file with the DocumentSample of a task whose files begin with `stem`."""
    return stem.with_name(f"{stem.name}.sample")


class TokenizedText:
    """The files of documents that a task writes. One that was begun before a kill is continued.

    Args:
        stem: The path of all of its files, without what follows it in their names.
        num_ids: The number of ids that tokens may have.
        weight: How many times the documents are passed over.
    """

    def __init__(self, stem: pathlib.Path, num_ids: int, weight: int):
        self._stem, self._num_ids, self._weight = stem, num_ids, weight
        self.counts: collections.Counter = collections.Counter()
        """What the tokenizer counted of the documents so far."""
        self.cut = CutDocuments()
        """Has followed the documents so far."""
        self._files: list[tuple[str, int]] = []  # names, and numbers of documents
        # The documents that were cut: the number of the first part in this task, and of the parts.
        self._cuts: dict[int, int] = {}
        self._sample = DocumentSample()
        if self._so_far.exists():
            self._load()

    @property
    def _so_far(self) -> pathlib.Path:
        return self._stem.with_name(self._stem.name + _SO_FAR)

    def add(self, documents: Documents) -> None:
        """Writes the next documents to a file."""
        name = f"{self._stem.name}-{len(self._files):04d}"
        before = sum(number for _, number in self._files)
        self._sample.add(documents)
        if documents.firsts is not None:
            later = documents.firsts != np.arange(len(documents))
            for first in (before + documents.firsts[later]).tolist():
                self._cuts[first] = self._cuts.get(first, 1) + 1
        if self._weight > 1:
            weights = np.full(len(documents), self._weight, np.int32)
            documents = dataclasses.replace(documents, weights=weights)
        save_part(self._stem.with_name(name), documents, self._num_ids)
        self._files.append((name, len(documents)))
        if len(self._files) % FILES_BETWEEN == 0:
            self._save()

    def _save(self) -> None:
        state = {
            "counts": self.counts,
            "cut": self.cut.state,
            "files": self._files,
            "cuts": list(self._cuts.items()),
        }
        # One file: after a kill the sample and the counts must be of the same documents.
        as_json = np.frombuffer(json.dumps(state).encode(), np.uint8)
        save_arrays(self._so_far, self._sample.arrays() | {"state": as_json})

    def _load(self) -> None:
        with safe_open(self._so_far, "numpy") as file:
            state = json.loads(file.get_tensor("state").tobytes())
        self._sample = DocumentSample.read([self._so_far])
        self.counts.update(state["counts"])
        self.cut = CutDocuments(state["cut"])
        self._files = [(name, number) for name, number in state["files"]]
        self._cuts = dict(state["cuts"])

    def finish(self, without_text: list[int]) -> dict[str, Any]:
        """Writes the sample, and returns the result of the task; `without_text` are the places of
        the spans that have no document."""
        self._sample.save(sample_path(self._stem))
        return {
            # With zeros: a count that is not there is one that an earlier release did not know.
            "counts": {name: self.counts[name] for name in (*COUNTERS, *COVERAGE)},
            "parts": self._files,
            "without_text": without_text,
            "cuts": sorted(self._cuts.items()),
        }

    def remove_state(self) -> None:
        """Removes the state, once the result is written."""
        self._so_far.unlink(missing_ok=True)
