"""Two thousand steps: what a process holds, memory and open files, stays as it is."""

import dataclasses
import os
import pathlib

import pytest
from model_fixtures import run_config

import kbert.callbacks
from kbert.config import PretrainingConfig
from kbert.pretraining import pretrain

pytest_plugins = ["model_fixtures"]

MEGABYTE = 1 << 20
SLACK = 12 * MEGABYTE
"""What the resident memory may grow from step 200 to step 2,000: 7 kB a step, 70 kB a checkpoint, 670 kB an evaluation. A
checkpoint takes 113 kB, the picture of an evaluation 6 MB, so that neither could be kept unnoticed."""


@dataclasses.dataclass(frozen=True)
class Held:
    step: int
    memory: int
    files: int


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_and_open_files_stay_flat(tiny_records, tmp_path, monkeypatch):
    held = []
    save = kbert.callbacks.save_checkpoint

    def save_and_look(directory, model, step, **options):
        save(directory, model, step, **options)
        memory = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        held.append(Held(step, memory, len(list(pathlib.Path("/proc/self/fd").iterdir()))))

    monkeypatch.setattr("kbert.callbacks.save_checkpoint", save_and_look)
    settings = PretrainingConfig(steps=2000, batch_size=8, evaluate_every=100, checkpoint_every=10, seed=5)
    pretrain(tiny_records, tmp_path / "run", bert=run_config(), pretraining=settings, verbose=0)
    settled = [one for one in held if one.step >= 200]
    assert len(settled) > 170
    assert max(one.files for one in settled) <= settled[0].files + 3, settled
    assert max(one.memory for one in settled) <= settled[0].memory + SLACK, [one.memory // MEGABYTE for one in held]
