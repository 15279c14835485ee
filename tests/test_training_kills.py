"""Runs that are killed, interrupted and stopped at any moment, and then continued: they end as if
nothing had been.

The records are shuffled and there is dropout, so that a state which a checkpoint lacks would show.
Packed ones are trained on in float16, whose scale of the loss is a state too.
"""

import collections
import dataclasses
import json
import pathlib
import random
import signal
import time
import warnings

import pytest
from training_processes import Model, Processes

from kbert.run.checkpoints import list_checkpoints, restore_checkpoint, save_checkpoint
from kbert.run.directory import load_run

pytest_plugins = ["model_fixtures"]

NUM_KILLS = [pytest.param(2, marks=pytest.mark.small), pytest.param(30, marks=pytest.mark.long)]
NUM_CHECKPOINT_KILLS = [
    pytest.param(7, marks=pytest.mark.small),
    pytest.param(50, marks=pytest.mark.long),
]
OPTIONS = (
    *(
        "--steps=107",
        "--batch-size=8",
        "--learning-rate=0.01",
        "--evaluate-every=20",
        "--checkpoint-every=3",
    ),
    *("--keep-checkpoints=2", "--seed=5"),
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with Processes(tmp_path_factory.mktemp("processes")) as processes:
        yield processes


@dataclasses.dataclass(frozen=True)
class Job:
    """A training that is killed, and a directory in which it ran without a break."""

    processes: Processes
    arguments: tuple
    whole: pathlib.Path

    def start(self, directory):
        return self.processes.start("pretrain", *self.arguments, f"--output={directory}")

    def finish(self, directory):
        process = self.start(directory)
        assert process.wait() == 0, process.said()
        return process


def job_of(processes, directory, *arguments):
    job = Job(processes, (*arguments, *OPTIONS), directory)
    job.finish(directory)
    return job


@pytest.fixture(scope="module")
def plain_job(processes, tiny_records, tmp_path_factory):
    return job_of(processes, tmp_path_factory.mktemp("whole") / "run", tiny_records)


@pytest.fixture(scope="module")
def packed_job(processes, records_by_pack, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole-packed") / "run"
    return job_of(processes, directory, records_by_pack[3], "--precision=float16")


def outcome(directory):
    """What must not depend on stops: the bytes of the last checkpoint, the results, the held-out
    part of the history."""
    rows = load_run(directory).history.rows()
    return {
        "weights": (
            list_checkpoints(directory / "checkpoints")[-1] / "weights.safetensors"
        ).read_bytes(),
        "names": sorted(path.name for path in directory.rglob("*")),
        "results": json.loads((directory / "results.json").read_text()),
        "held-out": [
            {name: row[name] for name in row if name == "step" or name.startswith("val_")}
            for row in rows
        ],
    }


def newest_step(directory):
    checkpoints = list_checkpoints(directory / "checkpoints")
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0


def steps(process, word):
    return [
        int(step) for name, step, *_ in ([*mark, ""] for mark in process.marks()) if name == word
    ]


@pytest.mark.parametrize("num_kills", NUM_KILLS)
@pytest.mark.parametrize("kind", ["plain_job", pytest.param("packed_job", marks=pytest.mark.long)])
def test_kills_at_random_moments(request, kind, tmp_path, num_kills):
    job = request.getfixturevalue(kind)
    draw, seen = random.Random(3), collections.Counter()
    # A mark, how many of them may pass, and how long after it the kill comes: the compilation takes
    # seconds.
    moments = [
        ("resuming", 1, 1.0),
        ("training", 1, 2.0),
        ("step", 9, 0.01),
        ("saving", 5, 0.02),
        ("evaluating", 1, 0.2),
    ]
    moments = moments * (num_kills // len(moments)) or moments[-num_kills:]
    draw.shuffle(moments)
    directory, kills = tmp_path / "0", 0
    while moments:
        word, count, delay = moments[-1]
        process = job.start(directory)
        process.wait_for(word, count=draw.randint(1, count))
        time.sleep(draw.uniform(0.0, delay))
        if process.kill() == -signal.SIGKILL:
            moments.pop()
            kills += 1
            seen[[mark for mark in process.marks() if mark[0] != "file"][-1][0]] += 1
            assert newest_step(directory) >= max(steps(process, "saved"), default=0)
        else:  # it was through before
            assert process.wait() == 0, process.said()
            assert outcome(directory) == outcome(job.whole)
            directory = tmp_path / f"{kills}"
    job.finish(directory)
    assert outcome(directory) == outcome(job.whole)
    assert kills == num_kills
    if num_kills >= 30:  # of a few, one may come a little later than it was meant to
        assert set(seen) >= {"resuming", "training", "step", "saving", "evaluating"}, seen


@pytest.mark.parametrize("num_kills", NUM_CHECKPOINT_KILLS)
def test_kills_while_checkpoints_are_written(processes, tmp_path, num_kills):
    draw, torn = random.Random(5), 0
    directory = tmp_path / "checkpoints"
    for _ in range(num_kills):
        process = processes.start("write_checkpoints", directory)
        process.wait_for("saving", count=draw.randint(2, 4))
        time.sleep(draw.uniform(0.0, 0.01))
        assert process.kill() == -signal.SIGKILL, process.said()
        torn += any(directory.glob("*.partial"))
        last = max(steps(process, "saved"))
        # The newest is whole, and none is lost that was reported as written.
        model = Model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step = restore_checkpoint(directory, model)
        assert step in (last, last + 1)
        assert (model.variables[0].numpy() == step).all()
        # The next write leaves the three newest and nothing else.
        model.train_until(step + 1)
        save_checkpoint(directory, model, step + 1)
        kept = range(max(1, step - 1), step + 2)
        assert sorted(path.name for path in directory.iterdir()) == [
            f"step-{one:09d}" for one in kept
        ]
    assert torn >= num_kills // 5


@pytest.mark.long
def test_a_signal_saves_a_checkpoint_of_the_very_step(plain_job, tmp_path):
    directory, last = tmp_path / "run", 0
    for number, code, mark in (
        (signal.SIGTERM, 143, ("training",)),  # while the step is being compiled
        (signal.SIGINT, 130, ("step", "14")),
        (signal.SIGTERM, 143, ("evaluating", "20")),
        (signal.SIGTERM, 143, ("step", "35")),
    ):
        process = plain_job.start(directory)
        assert process.wait_for(*mark), process.said()
        process.send(number)
        begun, begin = max(steps(process, "step"), default=last), time.monotonic()
        assert process.wait() == code, process.said()
        assert time.monotonic() - begin < (60 if mark == ("training",) else 15)
        assert "Traceback" not in process.said()
        done = steps(process, "step")
        assert min(done) == last + 1
        last = max(done)
        # Steps take milliseconds: a few may pass until the signal is there.
        assert newest_step(directory) == last <= begun + 5
        saved = list_checkpoints(directory / "checkpoints")[-1]
        assert f"{signal.Signals(number).name}: saved {saved}; the same" in process.said()
        assert not (directory / "results.json").exists()
    plain_job.finish(directory)
    assert outcome(directory) == outcome(plain_job.whole)
    assert {row["step"] for row in load_run(directory).history.rows()} == {
        20,
        40,
        60,
        80,
        100,
        107,
    }
