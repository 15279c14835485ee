"""The same build on Apache Beam: in this process, in several, and when something is wrong."""

import builtins
import dataclasses
import importlib
import json
import logging
import os
import subprocess
import sys

import pytest

from tfrecords import InputError, WorkerError, build_records

pytest.importorskip("apache_beam")
from tfrecords.build.beam import BeamWorkers

SEVERAL_PROCESSES = [
    "--runner=FnApiRunner",
    "--direct_running_mode=multi_processing",
    "--direct_num_workers=2",
]


@pytest.fixture(autouse=True)
def without_news_of_beam(caplog):
    caplog.set_level(logging.ERROR)


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


class Worker:
    """What a runner's process makes and calls."""

    def __init__(self, directory):
        self.directory = directory

    def double(self, task, report):
        report(task)
        return {"twice": 2 * task, "process": os.getpid()}

    def refuse(self, task, report):
        raise InputError(f"Expected another task. Received: {task}.")

    def fail(self, task, report):
        raise RuntimeError(f"no luck with {task}")


@pytest.mark.filterwarnings("default")
def test_results_come_with_their_tasks(tmp_path):
    with BeamWorkers(["--runner=FnApiRunner"], tmp_path, Worker, tmp_path) as pool:
        found = dict(pool.map(Worker.double, [3, 5, 7]))
        assert list(pool.map(Worker.double, [])) == []
    assert {task: result["twice"] for task, result in found.items()} == {3: 6, 5: 10, 7: 14}
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("default")
def test_refusals_and_failures_of_workers_are_one_line(tmp_path, refused):
    pool = BeamWorkers(["--runner=FnApiRunner"], tmp_path, Worker, tmp_path)
    with refused("Expected another task. Received: 3."):
        list(pool.map(Worker.refuse, [3]))
    with pytest.raises(
        WorkerError, match=r"^The step 'fail' failed on Apache Beam: .*no luck with 3"
    ) as caught:
        list(pool.map(Worker.fail, [3]))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("options", "pack"),
    [(["--runner=FnApiRunner"], 3), pytest.param(SEVERAL_PROCESSES, 1, marks=pytest.mark.long)],
    ids=["one process", "two processes"],
)
def test_beam_writes_the_bytes_of_the_local_build(
    tmp_path, corpus, vocabulary, config, records, packed_records, options, pack
):
    config = dataclasses.replace(config, pack=pack)
    build_records([corpus], vocabulary, tmp_path / "records", config, beam_options=options)
    assert contents(tmp_path / "records") == contents(packed_records if pack > 1 else records)


@pytest.mark.filterwarnings("default")
def test_paths_that_are_relative(tmp_path, corpus, vocabulary, config, records, monkeypatch):
    (tmp_path / "text").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    original = BeamWorkers._run

    def run_elsewhere(*arguments):
        monkeypatch.chdir("/")
        original(*arguments)
        monkeypatch.chdir(tmp_path)

    monkeypatch.setattr(BeamWorkers, "_run", run_elsewhere)
    build_records(["text"], vocabulary, "records", config, beam_options=["--runner=FnApiRunner"])
    assert contents(tmp_path / "records").keys() == contents(records).keys()


def test_options_that_beam_does_not_know(tmp_path, corpus, vocabulary, config, refused):
    with refused(r"Expected options of Apache Beam\. Received: runer, which it does not know\."):
        build_records(
            [corpus], vocabulary, tmp_path / "records", config, beam_options=["--runer=FlinkRunner"]
        )
    assert not (tmp_path / "records").exists()


@pytest.mark.long
def test_command_line(tmp_path, corpus, vocabulary, records):
    vocabulary.save(tmp_path / "vocab.txt")
    command = [
        sys.executable,
        "-m",
        "kbert",
        "records",
        str(corpus),
        "--vocabulary",
        str(tmp_path / "vocab.txt"),
    ]
    command += [
        "--output",
        str(tmp_path / "records"),
        "--sequence-length",
        "29",
        "--max-predictions",
        "5",
        "--duplicates",
        "3",
    ]
    command += ["--validation-fraction", "0.17", "--shards", "3", "--seed", "7", "--uncased"]
    beam = ["--engine", "beam", "--beam-options", "--runner=FnApiRunner"]
    done = subprocess.run([*command, *beam], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "records") == contents(records)
    assert json.loads((tmp_path / "records" / "manifest.json").read_text())["config"]["seed"] == 7
    for wrong in (["--beam-options", "--runner=FnApiRunner"], [*beam, "--workers", "2"]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert "Error: Expected " in done.stderr


def test_without_the_package(tmp_path, corpus, vocabulary, config, refused, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("apache_beam"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tfrecords.build.beam")
    with refused(
        r"Expected the package apache-beam\. Received: none; pip install '.\[beam\]' in the clone\."
    ):
        build_records([corpus], vocabulary, tmp_path / "records", config, beam_options=[])
    monkeypatch.undo()
    importlib.import_module("tfrecords.build.beam")
