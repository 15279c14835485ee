"""What a process holds, memory and open files, stays as it is for two thousand steps."""

import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys

import pytest
from model_fixtures import ROOT, run_config

import kbert.run.saving
from kbert.config import PretrainingConfig
from kbert.pretraining import pretrain

pytest_plugins = ["model_fixtures"]

MEGABYTE = 1 << 20
SLACK = 16 * MEGABYTE
"""What the resident memory may grow from step 200 to step 2,000: 9 kB a step, 93 kB a checkpoint,
930 kB an evaluation. A checkpoint takes 113 kB, the picture of an evaluation 6 MB, so that neither
could be kept unnoticed."""


def train(records, output, steps):
    """Trains, and prints as JSON what the process holds at every checkpoint: step, bytes of memory,
    open files.

    The C library's allocator gives back what is free before each look: by itself it keeps up to 50
    MB, more or less from one step to the next."""
    held = []
    give_back = ctypes.CDLL(None).malloc_trim
    save = kbert.run.saving.save_checkpoint

    def save_and_look(directory, model, step, **options):
        save(directory, model, step, **options)
        gc.collect()
        give_back(0)
        memory = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
        held.append((step, memory, len(list(pathlib.Path("/proc/self/fd").iterdir()))))

    kbert.run.saving.save_checkpoint = save_and_look
    settings = PretrainingConfig(
        steps=steps, batch_size=8, evaluate_every=100, checkpoint_every=10, seed=5
    )
    pretrain(records, output, bert=run_config(), pretraining=settings, verbose=0)
    print(json.dumps(held))


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/statm").exists(), reason="reads /proc and calls glibc"
)
@pytest.mark.long
@pytest.mark.parametrize("steps", [500, 2000])
def test_memory_and_open_files_stay_flat(tiny_records, tmp_path, steps):
    # In a process of its own: what other tests have left in this one moves its memory.
    done = subprocess.run(
        [sys.executable, __file__, str(tiny_records), str(tmp_path / "run"), str(steps)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    held = json.loads(done.stdout.splitlines()[-1])
    settled = [one for one in held if one[0] >= 200]
    assert len(settled) > (steps - 200) // 10 - 10
    assert max(files for _, _, files in settled) <= settled[0][2] + 3, settled
    assert max(memory for _, memory, _ in settled) <= settled[0][1] + SLACK, [
        memory // MEGABYTE for _, memory, _ in held
    ]


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]))
