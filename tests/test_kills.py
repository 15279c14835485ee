"""Builds that are killed, interrupted and deprived of their workers at any moment, and then run
again.

What comes out must be what an uninterrupted build gives, byte for byte, and nothing else may be
left in the directory."""

import collections
import contextlib
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import forked
import pytest
from plain_records import content

import tfrecords.build.recipe
import tfrecords.build.tokenizing
from tfrecords import InputError, RecordsConfig, Vocabulary, build_records, load_manifest
from tfrecords.text.spans import span_groups
from tfrecords.vocabulary import SPECIAL_TOKENS

ROOT = pathlib.Path(__file__).parent.parent
NUM_KILLS = 50
WORDS = tuple(f"w{n}" for n in range(97))
CONFIG = RecordsConfig(
    sequence_length=31,
    max_predictions=5,
    duplicates=2,
    validation_fraction=0.2,
    num_shards=3,
    seed=7,
    cased=False,
    pack=3,
)
OPTIONS = (
    *("--sequence-length=31", "--max-predictions=5", "--duplicates=2", "--validation-fraction=0.2"),
    *("--shards=3", "--seed=7", "--uncased", "--pack=3", "--workers=2"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with five text files, a vocabulary and, in `expected`, what a build without a
    break makes of them."""
    place = tmp_path_factory.mktemp("kills")
    draw = random.Random(1)
    (place / "text").mkdir()
    for name in "abcde":
        documents = [
            "".join(
                " ".join(draw.choices(WORDS, k=draw.randint(1, 11))) + "\n"
                for _ in range(draw.randint(1, 7))
            )
            for _ in range(53)
        ]
        (place / "text" / f"{name} ü.txt").write_text("\n".join(documents))
    vocabulary(place).save(place / "vocab.txt")
    build_records([place / "text"], vocabulary(place), place / "expected", CONFIG)
    return place


def vocabulary(place):
    return Vocabulary(SPECIAL_TOKENS + WORDS)


def assert_complete_in_the_end(place, output):
    build_records([place / "text"], vocabulary(place), output, CONFIG)
    assert content(output) == content(place / "expected")


# A process that has imported everything forks for every attempt, so that the kills fall into the
# work.


def small_steps():
    """Makes the build of a small text one of many files: 13 spans or so, in two parts or more
    each."""
    spans_of = tfrecords.build.recipe.spans_of
    tfrecords.build.recipe.spans_of = lambda files, format: spans_of(files, format, 3001)
    tfrecords.build.recipe.span_groups = functools.partial(span_groups, group_bytes=1)
    tfrecords.build.tokenizing.PART_TOKENS = 300
    tfrecords.build.tokenizing._SENTENCES_PER_BATCH = 17


def attempt(place, output, last_step, delay, connection):
    """Builds, and kills itself at the step `last_step`, or tells the parent there, which does it
    after a delay.

    A step is whatever opens, makes, renames or removes a file in the output directory.
    """
    steps = 0

    def count(event, arguments):
        nonlocal steps
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and str(
            arguments[0]
        ).startswith(str(output)):
            steps += 1
            if steps == last_step:
                if not delay:
                    os.kill(os.getpid(), signal.SIGKILL)
                connection.send(steps)

    small_steps()
    sys.addaudithook(count)
    build_records([place / "text"], vocabulary(place), output, CONFIG)
    connection.send(steps)


def run_attempt(place, output, last_step=0, delay=0.0):
    """Runs `attempt` and returns its exit code and the last step that it told of."""
    context = forked.build_context()
    here, there = context.Pipe()
    process = context.Process(target=attempt, args=(place, output, last_step, delay, there))
    process.start()
    there.close()
    step = None
    with contextlib.suppress(EOFError):
        step = here.recv() if here.poll(60) else None
        if step == last_step:
            time.sleep(delay)
            process.kill()
    process.join(60)
    here.close()
    return process.exitcode, step


def phase(output):
    """How far a build got, by the files that are there."""
    names = [path.name for path in output.rglob("*")] if output.exists() else []
    if "manifest.json" in names:
        return "finished"
    if any(name.endswith(".tfrecord") for name in names):
        return "writing"
    if any(name.endswith("-by-bucket") for name in names):
        return "partitioning"
    return "tokenizing" if any(name.startswith("text-") for name in names) else "beginning"


@pytest.mark.long
def test_fifty_kills_at_random_moments(place, tmp_path):
    code, num_steps = run_attempt(place, tmp_path / "whole")
    assert code == 0
    assert content(tmp_path / "whole") == content(place / "expected")
    draw, phases = random.Random(3), collections.Counter()
    while phases.total() < NUM_KILLS:
        output = tmp_path / f"{phases.total()}"
        # Killed again and again, until an attempt gets through.
        while True:
            delay = draw.choice([0.0, draw.uniform(0.0, 0.02)])
            code, _ = run_attempt(place, output, draw.randint(1, num_steps + num_steps // 4), delay)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            phases[phase(output)] += 1
            if (output / "manifest.json").exists():
                assert all(
                    content(output)[name] == there
                    for name, there in content(place / "expected").items()
                )
        assert content(output) == content(place / "expected"), phases
    assert set(phases) >= {"tokenizing", "partitioning", "writing"}, phases


def test_a_kill_in_every_phase(place, tmp_path):
    code, num_steps = run_attempt(place, tmp_path / "whole")
    assert code == 0
    phases = []
    for number, share in enumerate((4, 8, 12, 16, 20, 24, 31)):
        last_step = num_steps * share // 32
        output = tmp_path / str(number)
        assert run_attempt(place, output, last_step)[0] == -signal.SIGKILL
        phases.append(phase(output))
        assert run_attempt(place, output)[0] == 0
        assert content(output) == content(place / "expected")
    assert set(phases) >= {"tokenizing", "partitioning", "writing"}, phases


@pytest.mark.parametrize("leftover", ["config.json.0badcafe.partial", ".lock"])
def test_leftover_of_a_kill_at_the_very_beginning(place, tmp_path, leftover):
    # A moment so short that the fifty kills may miss it.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / leftover).write_text('{"kind": "rec')
    assert_complete_in_the_end(place, tmp_path / "out")


# The command line with its worker processes.


def living(group):
    """The command lines of the processes of a process group that have not ended, by process id."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, process_group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found[int(path.name)] = (path / "cmdline").read_bytes()
    return found


def workers_of(process, output=None):
    return [pid for pid, command in living(process.pid).items() if b"spawn_main" in command]


def texts_of(process, output):
    return list(output.glob("unfinished/text-*.json"))


def shards_of(process, output):
    return list(output.glob("*.tfrecord"))


@contextlib.contextmanager
def command(place, output, *inputs):
    """Runs `kbert records` with two workers in a process group of its own, of which nothing is left
    in the end."""
    files = inputs or sorted((place / "text").iterdir())
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kbert",
            "records",
            *files,
            f"--vocabulary={place}/vocab.txt",
            f"--output={output}",
            *OPTIONS,
        ],
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.002)


needs_proc = pytest.mark.skipif(
    not pathlib.Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)


@needs_proc
@pytest.mark.parametrize(
    "moments",
    [
        pytest.param((texts_of,), marks=pytest.mark.small),
        pytest.param((workers_of, texts_of, shards_of), marks=pytest.mark.long),
    ],
    ids=["one", "all"],
)
def test_kills_of_a_command_with_workers(place, tmp_path, moments):
    output = tmp_path / "out"
    for moment in moments:
        with command(place, output) as process:
            wait_for(lambda: moment(process, output) or process.poll() is not None)  # noqa: B023
            process.kill()
            assert process.wait() == -signal.SIGKILL
            wait_for(lambda: not living(process.pid), seconds=5.0)
        assert not (output / "manifest.json").exists()
    assert_complete_in_the_end(place, output)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_within_a_destructor_is_not_lost(number, code):
    """Python prints an exception that is raised there, and goes on."""
    program = f"""
import os, signal, time
from kbert.cli.commands import main

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        time.sleep(0.01)

@main.command()
def wait():
    Dying()
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
main(["wait"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@needs_proc
@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        pytest.param(signal.SIGINT, 130, workers_of, marks=pytest.mark.long),
        (signal.SIGINT, 130, texts_of),
        (signal.SIGTERM, 143, texts_of),
    ],
    ids=["ctrl-c-at-the-start", "ctrl-c", "sigterm"],
)
def test_signal_ends_the_command_promptly(place, tmp_path, refused, number, code, moment):
    output = tmp_path / "out"
    with command(place, output) as process:
        wait_for(lambda: moment(process, output) or process.poll() is not None)
        begin = time.monotonic()
        os.killpg(process.pid, number)  # to all processes of the group, as a terminal does it
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - begin < 30  # a slow machine still imports TensorFlow
        assert (process.returncode, stdout, stderr) == (code, "", "")
        wait_for(lambda: not living(process.pid), seconds=5.0)
    assert {path.name for path in output.iterdir()} <= {"config.json", "unfinished"}
    with refused(r"Expected manifest\.json in .*so no finished records"):
        load_manifest(output)
    assert_complete_in_the_end(place, output)


@needs_proc
def test_killed_worker_ends_the_command_with_an_error(place, tmp_path):
    output = tmp_path / "out"
    with command(place, output) as process:
        wait_for(lambda: workers_of(process) or process.poll() is not None)
        for pid in workers_of(process):
            os.kill(pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert stderr.startswith("Error: A worker was killed (signal 9) while processing ")
        assert any(
            what in stderr for what in ("ü.txt. ", "unfinished/text-", " shard ", "its start")
        )
        assert stderr.count("\n") == 1
        wait_for(lambda: not living(process.pid), seconds=5.0)
    assert_complete_in_the_end(place, output)


def test_long_input_file_does_not_hold_up_ctrl_c(place, tmp_path):
    # 20 GB would be read for half a minute before anything else is done.
    with open(tmp_path / "long.txt", "wb") as file:
        file.truncate(20 << 30)
    with command(place, tmp_path / "out", "--no-check", tmp_path / "long.txt") as process:
        wait_for((tmp_path / "out" / ".lock").exists)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.communicate(timeout=60) == ("", "")
        assert time.monotonic() - begin < 10
    assert process.returncode == 130
    assert not (tmp_path / "out").exists()


def test_second_command_is_refused_at_once(place, tmp_path):
    # A lock that this process holds is a lock of another process for the command.
    output = tmp_path / "out"
    with tfrecords.build.recipe.locked(output), command(place, output) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, "")
    assert stderr == (
        f"Error: Expected {output} to be free. Received: a directory that another process "
        "works on; wait for it.\n"
    )
    assert not output.exists()
    with (
        tfrecords.build.recipe.locked(output),
        pytest.raises(InputError),
        tfrecords.build.recipe.locked(output),
    ):
        pass
