"""The whole chain repeats itself: the same text gives the same vocabulary, records and weights."""

import hashlib
import os
import subprocess
import sys

import pytest
from model_fixtures import ROOT

from kbert.demo import run_demo

CORPUS = ROOT / "docs"


class ChainIsTrained(Exception):
    """The demo has reached its first command after the training."""


def trained_by_the_demo(directory, hash_seed, workers):
    """Runs the demo up to its training, each command in a process of its own as for a user, in 20
    steps; returns the hashes of what they wrote."""
    directory.mkdir()
    pages = sorted(CORPUS.glob("*.md"))
    (directory / "corpus.txt").write_text("\n\n".join(page.read_text() for page in pages))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)}

    def command(words):
        if words[0] == "evaluate":
            raise ChainIsTrained
        if words[0] in ("vocabulary", "records"):
            words = [*words, "--workers", str(workers)]
        if words[0] == "vocabulary":
            words[words.index("--size") + 1] = "500"
        if words[0] == "records":
            words[words.index("--duplicates") + 1] = "2"
        if words[0] == "pretrain":
            words[words.index("--steps") + 1] = "20"
        subprocess.run(
            [sys.executable, "-m", "kbert", *words], env=environment, check=True, timeout=600
        )

    with pytest.raises(ChainIsTrained):
        run_demo(directory, command)
    made = [
        directory / "vocab.txt",
        *directory.glob("records/*.tfrecord"),
        *directory.glob("run/checkpoints/*/*.safetensors"),
    ]
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in made
    }


@pytest.mark.long
def test_the_demo_repeats_from_text_to_weights(tmp_path):
    one = trained_by_the_demo(tmp_path / "one", hash_seed=1, workers=1)
    other = trained_by_the_demo(tmp_path / "other", hash_seed=2, workers=2)
    assert one == other
    assert {name.partition("/")[0] for name in one} == {"vocab.txt", "records", "run"}
