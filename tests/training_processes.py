"""Runs `kbert pretrain`, and the writing of checkpoints, in processes that the tests kill.

A process that starts Python and imports TensorFlow takes seconds. So this file, run as a script,
imports it once, does nothing with it, and forks for every job, a line of JSON on standard input.
What a process is doing it tells by marks, lines of a file, so that the tests can wait for a moment
and see afterwards how far it got."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent


class Process:
    """A job in a process of its own.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, server, marks, output):
        self._server = server
        self.pid = self._answer("pid")
        self._marks = marks
        self._read = []
        self._unread_from = 0
        self._output = output
        self._code = None

    def _answer(self, name):
        line = self._server.stdout.readline()
        assert line, f"the process that forks has ended with {self._server.wait()}"
        return json.loads(line)[name]

    def marks(self):
        """The marks so far, as lists of words."""
        # Only those that are new: who waits asks a thousand times a second.
        with contextlib.suppress(FileNotFoundError), open(self._marks, "rb") as file:
            file.seek(self._unread_from)
            new = file.read().rpartition(b"\n")[0]
            if new:
                self._unread_from += len(new) + 1
                self._read += [line.split() for line in new.decode().split("\n")]
        return self._read

    def wait_for(self, *words, count=1, seconds=300.0):
        """Waits until there are `count` marks that begin with these words, or the process has
        ended; tells which."""
        end = time.monotonic() + seconds
        looked_at = found = 0
        while True:
            living = self._code is None and not self._is_zombie()
            marks = self.marks()
            found += sum(mark[: len(words)] == list(words) for mark in marks[looked_at:])
            looked_at = len(marks)
            if found >= count:
                return True
            if not living:
                return False
            assert time.monotonic() < end, (
                f"no {words} in {self.marks()[-3:]}; {self.said()[-2000:]}"
            )
            time.sleep(0.001)

    def _is_zombie(self):
        with contextlib.suppress(OSError):
            return (
                pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
                == "Z"
            )
        return True

    def send(self, number):
        if self._code is None:
            os.kill(self.pid, number)

    def wait(self):
        """Waits for the end and returns the exit code, negative for a signal."""
        if self._code is None:
            self._code = self._answer("code")
        return self._code

    def kill(self):
        """Kills it and returns the exit code, which is another than -9 if it had ended."""
        self.send(signal.SIGKILL)
        return self.wait()

    def written(self):
        """The files that it opened for writing, renamed or removed below the directory of
        --output."""
        return [words for name, *words in self.marks() if name == "file"]

    def said(self):
        """What it wrote to standard output and standard error."""
        return self._output.read_text()


class Processes:
    """Starts jobs, one at a time; a context manager."""

    def __init__(self, directory):
        self._directory = directory
        self._jobs = 0
        self._last = None

    def __enter__(self):
        environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=environment
            | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(self, *_):
        if self._last is not None:
            self._last.kill()
        self._server.communicate()  # the end of its input is its end

    def start(self, job, *arguments, environment=None):
        """Starts a job, one of the functions below, and returns its Process."""
        if self._last is not None:
            self._last.wait()
        marks, output = (self._directory / f"{self._jobs}.{what}" for what in ("marks", "output"))
        self._jobs += 1
        line = {
            "job": job,
            "arguments": [str(one) for one in arguments],
            "marks": str(marks),
            "output": str(output),
            "environment": environment or {},
        }
        self._server.stdin.write(json.dumps(line) + "\n")
        self._server.stdin.flush()
        self._last = Process(self._server, marks, output)
        return self._last


def blank_picture(rows, pairs, baselines, path):
    """In place of `draw_curves`, which takes half a second at every evaluation."""
    path.write_bytes(b"\x89PNG")


# What runs in the processes.


def serve():
    import kbert.pretraining  # noqa: F401  (and TensorFlow; it must not have computed anything before a fork)

    pid = None
    for line in sys.stdin:
        if pid is not None:
            os.waitpid(pid, 0)
        pid = os.fork()
        if pid == 0:
            work(json.loads(line))
        print(json.dumps({"pid": pid}), flush=True)
        # Until the next job the number stays that of the process which ended: a late signal cannot
        # meet another one.
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(
            json.dumps({"code": end.si_status if end.si_code == os.CLD_EXITED else -end.si_status}),
            flush=True,
        )


def work(line):
    """Does a job and ends as a Python process ends."""
    output = os.open(line["output"], os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    marks = os.open(line["marks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.environ |= line["environment"]
    JOBS[line["job"]](
        lambda *words: os.write(marks, (" ".join(map(str, words)) + "\n").encode()),
        *line["arguments"],
    )


def pretrain(mark, *arguments):
    """`kbert pretrain` with the model of `run_config` for every size; marks its steps, evaluations
    and what it writes."""
    from model_fixtures import run_config

    import kbert
    import kbert.cli
    import kbert.run.history
    from kbert.run.directory import Run
    from kbert.run.history import HistoryFile
    from kbert.run.pace import Pace
    from kbert.run.saving import Checkpoints

    if devices := int(os.environ.get("LOGICAL_DEVICES", "0")):
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )

    def marked(home, name, *words, after=()):
        function = getattr(home, name)

        def and_mark(*arguments, **options):
            pace = getattr(arguments[0], "_pace", arguments[0])
            if words:
                mark(*words, getattr(pace, "step", ""))
            result = function(*arguments, **options)
            if after:
                mark(*after, getattr(pace, "step", ""))
            return result

        setattr(home, name, and_mark)

    directory = next(one for one in arguments if one.startswith("--output=")).removeprefix(
        "--output="
    )

    def note(event, arguments):
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        writes |= (
            event == "open"
            and len(arguments) > 2
            and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if writes and str(arguments[0]).startswith(directory):
            mark("file", event, str(arguments[0]).removeprefix(directory))

    sys.addaudithook(note)
    kbert.pretraining.resolve_bert = lambda *_, **__: run_config()
    # Each of these would take half a second: a measurement, and a picture at every evaluation.
    kbert.pretraining.matrix_product_rate = lambda *_: 1e12
    kbert.run.history.draw_curves = blank_picture
    marked(kbert.pretraining, "restore_checkpoint", "resuming")
    marked(Pace, "on_epoch_begin", "training")
    marked(Checkpoints, "on_train_batch_end", after=("step",))
    marked(Checkpoints, "save", "saving", after=("saved",))
    marked(Pace, "on_test_begin", "evaluating")
    marked(HistoryFile, "append", "history")
    marked(Run, "save_results", "results")
    kbert.cli.main(["pretrain", *arguments])


class Number:
    """A stand-in for a variable, of a megabyte."""

    path = "number"
    shape = (1 << 18,)

    def __init__(self):
        self.assign(np.zeros(self.shape, np.float32))

    def assign(self, value):
        self.value = value

    def numpy(self):
        return self.value


class Model:
    """A stand-in for a model, whose one variable says at which step it is."""

    def __init__(self):
        self.variables = [Number()]

    def train_until(self, step):
        self.variables[0].assign(np.full(Number.shape, step, np.float32))


def write_checkpoints(mark, directory):
    """Restores the newest checkpoint and writes one after the other from there on, without end."""
    from kbert.run.checkpoints import restore_checkpoint, save_checkpoint

    model = Model()
    step = restore_checkpoint(directory, model) or 0
    while True:
        step += 1
        model.train_until(step)
        mark("saving", step)
        save_checkpoint(directory, model, step)
        mark("saved", step)


JOBS = {"pretrain": pretrain, "write_checkpoints": write_checkpoints}

if __name__ == "__main__":
    serve()
