"""A pool of worker processes for a list of tasks. They end with their parent, and when one dies,
the error names its task.

Not `concurrent.futures.ProcessPoolExecutor`: when a process of that pool dies, every pending task
fails alike with BrokenProcessPool, which names none of them; a task that has begun cannot be
stopped; and it does nothing about signals that arrive while a process starts.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any, Protocol

from tfrecords.errors import InputError, WorkerError
from tfrecords.quiet import silenced_stderr


def automatic_workers(seconds: float) -> int:
    """The number of workers for work that takes one of them `seconds`: one for every ten, since a
    worker takes a few seconds to start, and at most as many as there are processors."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(processors, 1 + int(seconds / 10))


class Pool(Protocol):
    """What does the tasks of a job: `Workers` on this machine, or `build.beam.BeamWorkers`."""

    def __enter__(self) -> Pool: ...

    def __exit__(self, *_: object) -> None: ...

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Any],
        progress: Callable[..., object] = ...,
    ) -> Iterator[tuple[Any, Any]]:
        """Calls `function(worker, task, report)` with every task; yields (task, result)."""
        ...


class Workers:
    """`count` workers, each of which owns the object that `make(*arguments)` returns.

    With one worker everything happens in this process. With more, each is a new Python process
    (spawned, since TensorFlow does not survive a fork), so a script that uses them needs
    `if __name__ == "__main__":` around its work. Use it as a context manager: at the end of the
    block the processes are killed, whatever they are doing.

    Args:
        count: The number of workers.
        make: A class, or a function that can be pickled.
        arguments: Its arguments.
    """

    def __init__(self, count: int, make: Callable[..., Any], *arguments: Any):
        self._count = count
        self._make = make
        self._arguments = arguments
        self._own: Any = None
        self._processes: list[tuple[Any, multiprocessing.connection.Connection]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._processes:
            process.kill()
            connection.close()
        for process, _connection in self._processes:
            process.join()

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Any],
        progress: Callable[..., object] = lambda *_: None,
    ) -> Iterator[tuple[Any, Any]]:
        """Calls a function with every task, and yields (task, result) in the order in which the
        results arrive.

        Args:
            function: Called as `function(worker, task, report)` with the worker's own object: as a
                rule a method of its class, `Job.work`. It travels by its name, as pickle does it.
            tasks: The tasks.
            progress: Called in this process as `progress(task, *values)` whenever a worker calls
                `report(*values)`.

        Raises:
            WorkerError: A worker died; the message names its task.
            Exception: Whatever the function raised in a worker.
        """
        tasks = list(tasks)
        # One task, or one worker: another process would cost its start and gain nothing.
        if self._count == 1 or (len(tasks) == 1 and not self._processes):
            self._own = self._own or self._make(*self._arguments)
            for task in tasks:
                yield task, function(self._own, task, functools.partial(progress, task))
            return

        waiting, busy = list(reversed(tasks)), {}

        def give_task(process, connection):
            task = waiting.pop()
            busy[connection] = process, task
            _send(connection, (function, task), process, task)

        # Processes stay for the next call; no more are started than there are tasks.
        for number in range(min(self._count, len(tasks))):
            if number == len(self._processes):
                self._processes.append(self._start())
            give_task(*self._processes[number])

        # Whoever has finished gets the next task at once, before its result is used.
        while busy:
            for connection in multiprocessing.connection.wait(busy):
                process, task = busy[connection]
                kind, *values = _receive(connection, process, task)
                if kind == "progress":
                    progress(task, *values)
                    continue
                if kind == "error":
                    raise values[0]
                del busy[connection]
                if waiting:
                    give_task(process, connection)
                yield task, values[0]

    def _start(self) -> tuple[Any, Any]:  # a process and a connection of this platform
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        with _signals_held_back():
            process.start()
        there.close()
        _send(here, (self._make, self._arguments), process, "its start")
        return process, here


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Postpones the signals that would end this process to the end of the block, in which it starts
    another process.

    A start that is cut short leaves a process behind that prints an error. Ctrl-C reaches the whole
    process group, and it is for the parent to decide what to do: the new process inherits the
    signal mask and so never sees it. The mask covers one thread only, but Python runs signal
    handlers in the main thread whichever thread the kernel picks, so the handlers wait too.
    """
    # The tracker starts a process of its own with another mask, and would undo ours.
    resource_tracker.ensure_running()
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


def _death(process, task) -> WorkerError:
    process.join(10)  # the connection may close a moment before the process has ended
    code = process.exitcode
    if code is not None and code < 0:
        what = f"A worker was killed (signal {-code})"
    else:
        what = f"A worker ended (exit code {code})"
    return WorkerError(
        f"{what} while processing {task}. If memory is short, lower --workers. Run the same "
        "command again to continue."
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
            make, arguments = connection.recv()  # unpickling imports their modules
            worker = make(*arguments)
        while True:
            function, task = connection.recv()
            result = function(worker, task, lambda *values: connection.send(("progress", *values)))
            connection.send(("done", result))
    except EOFError:
        return
    except InputError as error:
        connection.send(("error", error))
    except Exception as error:
        error.add_note(traceback.format_exc())  # which a pickle does not keep
        connection.send(("error", error))


def _end_with_parent():
    """Ends this process when its parent has ended, also by SIGKILL, which runs no clean-up."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
