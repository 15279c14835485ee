"""Processes that share out tasks, end with their parent, and are named by their task when one of
them dies."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
from multiprocessing import resource_tracker

from tfrecords.errors import InputError, WorkerError


def automatic_workers(seconds):
    """How many workers are worth their start, a few seconds each, for work that takes so many: at
    most the processors."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(processors, 1 + int(seconds / 10))


class Workers:
    """`count` workers, each with an object of its own that `make(*arguments)` returns.

    With one worker everything happens in this process. With more, each is a new Python process
    (spawned, since TensorFlow does not survive a fork), so a script that uses them needs `if
    __name__ == "__main__":` around its work. Use as a context manager: at the end of the block the
    processes are killed, whatever they are doing.

    Args:
        count: The number of workers.
        make: A function that can be pickled.
        arguments: Its arguments.
    """

    def __init__(self, count, make, *arguments):
        self._count = count
        self._make = make
        self._arguments = arguments
        self._own = None
        self._processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, connection in self._processes:
            process.kill()
            connection.close()
        for process, _connection in self._processes:
            process.join()

    def map(self, method, tasks, progress=lambda *_: None):
        """Calls the method with every task and yields (task, result) in the order in which they are
        done.

        Args:
            method: The name of a method of the workers' objects, called as `method(task, report)`.
            tasks: A list.
            progress: Called with (task, *what `report` was called with) when a worker reports how
                far it is.

        Raises:
            WorkerError: A worker died; it names the task.
            Exception: What a worker raised.
        """
        if self._count == 1 or (len(tasks) == 1 and not self._processes):
            self._own = self._own or self._make(*self._arguments)
            for task in tasks:
                yield (
                    task,
                    getattr(self._own, method)(
                        task, lambda *what, task=task: progress(task, *what)
                    ),
                )
            return
        waiting, busy = list(reversed(tasks)), {}

        def give_task(process, connection):
            task = waiting.pop()
            busy[connection] = process, task
            _send(connection, (method, task), process, task)

        for number in range(min(self._count, len(tasks))):
            if number == len(self._processes):
                self._processes.append(self._start())
            give_task(*self._processes[number])
        while busy:
            for connection in multiprocessing.connection.wait(busy):
                process, task = busy[connection]
                kind, *what = _receive(connection, process, task)
                if kind == "progress":
                    progress(task, *what)
                    continue
                if kind == "error":
                    raise what[0]
                del busy[connection]
                if waiting:
                    give_task(process, connection)
                yield task, what[0]

    def _start(self):
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        with _signals_held_back():
            process.start()
        there.close()
        _send(here, (self._make, self._arguments), process, "its start")
        return process, here


@contextlib.contextmanager
def _signals_held_back():
    """Holds signals that would end this process back to the end of the block, in which it starts
    another.

    A start that is cut short leaves a process behind that complains of it. Ctrl-C reaches the whole
    group, and the parent
    decides: the new process inherits the mask, and so never sees it. The mask is that of one
        thread, where Python calls the
    handlers in the main thread whichever takes the signal, so they wait too.
    """
    resource_tracker.ensure_running()  # or its start would undo the mask
    waiting, handlers = [], {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, _: waiting.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)


def _send(connection, message, process, task):
    try:
        connection.send(message)
    except OSError:
        raise _death(process, task) from None


def _receive(connection, process, task):
    try:
        return connection.recv()
    except (EOFError, OSError):
        raise _death(process, task) from None


def _death(process, task):
    process.join(10)
    code = process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return WorkerError(
        f"Expected every worker to live. Received: the end ({how}) of the one that was on {task}; "
        "when memory is short, "
        "take fewer workers; run the same command again, it continues."
    )


def _serve(connection):
    """The life of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As a rule there are as many workers as processors, and none needs a GPU, of which the first
    # would take all memory.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        with silenced_stderr():
            make, arguments = connection.recv()  # imports the modules that these are of
            worker = make(*arguments)
        while True:
            method, task = connection.recv()
            connection.send(
                (
                    "done",
                    getattr(worker, method)(
                        task, lambda *what: connection.send(("progress", *what))
                    ),
                )
            )
    except EOFError:
        return
    except InputError as error:
        connection.send(("error", error))
    except Exception as error:
        error.add_note(traceback.format_exc())  # which a pickle does not keep
        connection.send(("error", error))


@contextlib.contextmanager
def silenced_stderr():
    """Drops what is written to the standard error meanwhile: TensorFlow's C++ code writes there
    before any setting counts."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _end_with_parent():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
