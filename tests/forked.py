"""Runs Python code in a process of its own that has imported TensorFlow and Keras already.

To import them takes a process 4 to 5 CPU seconds. So this file, run as a script, imports them once
for each backend, computes nothing, and forks for every call. What is about the start of a process,
and several that work together, are started as a user starts them."""

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parent.parent


def build_context():
    """A context of multiprocessing whose processes fork from one that has imported what a build
    needs, and has done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tensorflow", "tfrecords.build.recipe"])
    return context


def run(*command, backend="tensorflow", seconds=600, **environment):
    """Runs `command`, the words after `python`, on a backend of Keras, with changes to the
    environment and for so many seconds at most; returns what `subprocess.run` returns with the
    output as text."""
    words = [str(word) for word in command]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment |= {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": path}
    environment = os.environ | environment | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    if sys.platform != "linux":
        words = [sys.executable, *words]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=seconds
        )
    server = _server(backend)
    with tempfile.TemporaryDirectory() as place:
        files = [str(pathlib.Path(place) / name) for name in ("stdout", "stderr")]
        print(json.dumps([seconds, words, environment, *files]), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        assert answer, f"the process that forks has ended with {server.wait()}"
        said = [pathlib.Path(file).read_text() for file in files]
        return subprocess.CompletedProcess(words, int(answer), *said)


@functools.cache
def _server(backend):
    server = subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(server.communicate)  # the end of its input is its end
    return server


def serve():
    import kbert.pretraining  # noqa: F401  (it must not have computed anything before a fork)

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(work(*json.loads(line)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def work(seconds, words, environment, *files):
    """Runs the words as Python would; returns the exit code."""
    signal.alarm(seconds)  # which ends the process
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    code = 0
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
