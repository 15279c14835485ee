"""Two workers on this machine: they train as one process does, only the chief writes, and the death
of one ends the other.

And a run that changes its number of devices on the way.
"""

import dataclasses
import json
import signal
import socket
import time

import numpy as np
import pytest
import safetensors.numpy
from training_processes import Processes

from kbert.formats.load_and_save import load, save
from kbert.run.checkpoints import list_checkpoints
from kbert.run.directory import load_run
from tfrecords import Vocabulary

pytest_plugins = ["model_fixtures"]

SETTINGS = (
    "--batch-size=8",
    "--learning-rate=0.001",
    "--evaluate-every=20",
    "--checkpoint-every=5",
    "--seed=5",
    "--steps=60",
)
ENDS_WITHIN = 90.0
"""Seconds in which a worker ends after the other: a closed connection is noticed at once, a silent
one by its heartbeat."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two that start processes, each one at a time."""
    with (
        Processes(tmp_path_factory.mktemp("chief")) as one,
        Processes(tmp_path_factory.mktemp("other")) as other,
    ):
        yield one, other


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(machines, records, directory, *options):
    """The workers of `kbert pretrain`, one on each machine."""
    addresses = [f"localhost:{port}" for port in free_ports(len(machines))]
    workers = []
    for index, machine in enumerate(machines):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(config)}
        workers.append(
            machine.start(
                *(
                    "pretrain",
                    records,
                    f"--output={directory}",
                    *SETTINGS,
                    "--strategy=multi-worker",
                    *options,
                ),
                environment=environment,
            )
        )
    return workers


def values(directory, step=60):
    (*_, newest) = list_checkpoints(directory / "checkpoints")
    assert newest.name == f"step-{step:09d}"
    return safetensors.numpy.load_file(newest / "weights.safetensors")


@pytest.fixture(scope="module")
def whole(machines, tiny_records, tmp_path_factory):
    """The directory of a run of two workers without a break, and the two processes after their
    end."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    workers = start(machines, tiny_records, directory)
    assert [worker.wait() for worker in workers] == [0, 0], [worker.said() for worker in workers]
    return directory, workers


@pytest.fixture(scope="module")
def alone(machines, tiny_records, tmp_path_factory):
    """The directory of the same run of one process on one device."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    process = machines[0].start(
        "pretrain", tiny_records, f"--output={directory}", *SETTINGS, "--strategy=one"
    )
    assert process.wait() == 0, process.said()
    return directory


def assert_same_run(directory, expected, step=60):
    there, wanted = values(directory, step), values(expected, step)
    assert there.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(there[name], value, atol=1e-5, err_msg=name)
    rows = [load_run(one).history.rows() for one in (directory, expected)]
    for one, other in zip(*rows, strict=True):
        assert one["step"] == other["step"]
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)


def test_two_workers_train_as_one_process(alone, whole):
    assert_same_run(whole[0], alone)


@pytest.mark.long
def test_a_cluster_of_one_worker_trains(machines, alone, tiny_records, tmp_path):
    (worker,) = start(machines[:1], tiny_records, tmp_path / "run")
    assert worker.wait() == 0, worker.said()
    there, expected = values(tmp_path / "run"), values(alone)
    for name, value in expected.items():
        np.testing.assert_array_equal(there[name], value, err_msg=name)


@pytest.mark.long
def test_two_workers_start_from_a_preset(machines, tiny_run, tiny_records, tmp_path):
    # To read it builds a KerasHub model, which must not come before the workers have met. Its
    # vocabulary is another one: each worker adapts the embeddings by itself, and alike.
    model = load(tiny_run.directory)
    others = Vocabulary((*model.vocabulary.tokens[:-2], "qx", "##qy"))
    model = dataclasses.replace(model, vocabulary=others)
    preset = save(model, tmp_path / "preset", "keras-hub")
    options = (f"--init-from={preset}", "--steps=2", "--evaluate-every=2")
    workers = start(machines, tiny_records, tmp_path / "run", *options)
    assert [worker.wait() for worker in workers] == [0, 0], [worker.said() for worker in workers]
    assert load_run(tmp_path / "run").initial_sha256 == load(preset).sha256
    counts = f"{len(others) - 2} tokens copied, "
    assert [worker.said().count(counts) for worker in workers] == [1, 0]
    alone = tmp_path / "alone"
    one = machines[0].start("pretrain", tiny_records, f"--output={alone}", *SETTINGS, *options)
    assert one.wait() == 0, one.said()
    assert_same_run(tmp_path / "run", alone, step=2)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_devices(machines, alone, tiny_records, tmp_path):
    words = ("pretrain", tiny_records, f"--output={tmp_path / 'run'}", *SETTINGS)
    one = machines[0].start(*words)
    assert one.wait_for("step", "12"), one.said()
    assert one.kill() == -signal.SIGKILL
    two = machines[0].start(*words, "--strategy=mirrored", environment={"LOGICAL_DEVICES": "2"})
    assert two.wait_for("step", "43"), two.said()
    assert two.kill() == -signal.SIGKILL
    again = machines[0].start(*words)
    assert again.wait() == 0, again.said()
    done = [
        {int(mark[1]) for mark in process.marks() if mark[0] == "step"}
        for process in (one, two, again)
    ]
    assert all(done)  # each had a part
    assert set.union(*done) == set(range(1, 61))
    assert_same_run(tmp_path / "run", alone)
    assert not [line for line in two.said().splitlines() if line.startswith("warning: ")]


def test_only_the_chief_writes_and_speaks(whole):
    directory, (chief, other) = whole
    assert "step 60 of 60" in chief.said()
    assert "step " not in other.said()
    for word in ("history", "results"):
        assert [word] in [mark[:1] for mark in chief.marks()]
        assert [word] not in [mark[:1] for mark in other.marks()]
    assert other.written() == []
    assert len(chief.written()) > 20
    assert {path.name for path in directory.iterdir()} == {
        *(
            "config.json",
            "vocab.txt",
            "history.csv",
            "curves.png",
            "checkpoints",
            "records.json",
            "results.json",
        )
    }
    assert [path.name for path in list_checkpoints(directory / "checkpoints")] == [
        f"step-{n:09d}" for n in (50, 55, 60)
    ]


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1], ids=["chief", "other"])
def test_the_death_of_a_worker_ends_the_other_and_a_restart_continues(
    machines, whole, tiny_records, tmp_path, killed
):
    workers = start(machines, tiny_records, tmp_path / "run")
    assert workers[killed].wait_for("step", "23"), workers[killed].said()
    assert workers[killed].kill() == -signal.SIGKILL
    begin = time.monotonic()
    left = workers[1 - killed]
    assert left.wait() == 1, left.said()
    assert time.monotonic() - begin < ENDS_WITHIN
    (line,) = [line for line in left.said().splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: Another worker has ended (")
    assert line.endswith("). Start all workers again; the run continues from its last checkpoint.")
    assert "Traceback" not in left.said()
    assert not (tmp_path / "run" / "results.json").exists()
    workers = start(machines, tiny_records, tmp_path / "run")
    assert [worker.wait() for worker in workers] == [0, 0], [worker.said() for worker in workers]
    assert "continuing " in workers[0].said()
    directory, _ = whole
    continued, expected = values(tmp_path / "run"), values(directory)
    for name, value in expected.items():
        np.testing.assert_array_equal(continued[name], value, err_msg=name)
    one, other = (
        [row["val_loss"] for row in load_run(run).history.rows()]
        for run in (tmp_path / "run", directory)
    )
    assert one == other
