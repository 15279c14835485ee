import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest

from tfrecords import InputError, WorkerError, workers
from tfrecords.workers import Workers, automatic_workers


class Job:
    """What the workers of these tests do."""

    def __init__(self, start=0):
        self._calls = start

    def square(self, task, report):
        return task * task

    def calls(self, task, report):
        self._calls += 1
        return os.getpid(), self._calls

    def wait(self, task, report):
        """Reports twice, and waits so many seconds."""
        report("begun", task)
        time.sleep(task)
        report("waited", task)

    def fail(self, task, report):
        if task == "input":
            raise InputError("Expected b. Received: a.")
        if task == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "a file")
        raise ValueError(task)

    def die(self, task, report):
        if task == "a.txt from 7 to 9":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "exit":
            os._exit(3)
        time.sleep(0.01)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def pool():
    with Workers(2, Job, 5) as own:
        yield own


@pytest.mark.parametrize("count", [0, 1, 2, 23])
def test_every_task_is_done_once(pool, count):
    assert sorted(pool.map(Job.square, list(range(count)))) == [(n, n * n) for n in range(count)]


def test_one_worker_is_this_process():
    with Workers(1, Job, 5) as own:
        assert list(own.map(Job.square, [3, 2, 5])) == [(3, 9), (2, 4), (5, 25)]
        # The object is made once.
        assert [result for _, result in own.map(Job.calls, "ab")] == [
            (os.getpid(), 6),
            (os.getpid(), 7),
        ]
        assert [result for _, result in own.map(Job.calls, "c")] == [(os.getpid(), 8)]
        assert not multiprocessing.active_children()


def test_a_single_task_starts_no_processes():
    with Workers(5, Job) as own:
        assert list(own.map(Job.calls, ["a"])) == [("a", (os.getpid(), 1))]
        assert not multiprocessing.active_children()


def test_more_workers_are_other_processes(pool):
    found = {}
    for _ in range(20):
        for _, (pid, calls) in pool.map(Job.calls, list(range(7))):
            assert calls > found.get(pid, 5)  # one object each, which stays
            found[pid] = calls
    assert os.getpid() not in found
    assert set(found) <= {process.pid for process in multiprocessing.active_children()}
    assert len(found) == 2


def test_results_come_as_they_are_done(pool):
    list(pool.map(Job.square, [1, 2]))  # the processes have started
    assert [task for task, _ in pool.map(Job.wait, [0.6, 0.01, 0.02])] == [0.01, 0.02, 0.6]


@pytest.mark.parametrize("count", [1, 2])
def test_progress_is_reported_with_its_task(count):
    reports = []
    with Workers(count, Job) as own:
        list(own.map(Job.wait, [0.01, 0.03], lambda *what: reports.append(what)))
    assert sorted(reports) == sorted(
        (task, what, task) for task in (0.01, 0.03) for what in ("begun", "waited")
    )


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_worker_raises_is_raised(count):
    with (
        Workers(count, Job) as own,
        pytest.raises(InputError, match=r"^Expected b\. Received: a\.$"),
    ):
        list(own.map(Job.fail, ["input", "input"]))
    with Workers(count, Job) as own:
        with pytest.raises(OSError, match="No space left on device") as caught:
            list(own.map(Job.fail, ["disk", "disk"]))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a file")
        pids = [process.pid for process in multiprocessing.active_children()]
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize(
    ("task", "how"),
    [
        ("a.txt from 7 to 9", r"was killed \(signal 9\)"),
        ("exit", r"ended \(exit code 3\)"),
    ],
    ids=["killed", "exit"],
)
def test_death_of_a_worker_is_an_error_that_names_its_task(task, how):
    begin = time.monotonic()
    with Workers(2, Job) as own:
        with pytest.raises(
            WorkerError,
            match=rf"^A worker {how} while processing {task}\. If memory is short, lower "
            r"--workers\. Run the same command again to continue\.$",
        ) as caught:
            list(own.map(Job.die, ["other", "another", task, *["more"] * 7]))
        assert "\n" not in str(caught.value)
        survivors = [process.pid for process in multiprocessing.active_children()]
    assert time.monotonic() - begin < 20
    assert not any(map(is_alive, survivors))


def test_a_worker_that_was_killed_while_it_had_nothing_to_do():
    with Workers(2, Job) as own:
        list(own.map(Job.square, [1, 2]))
        process = multiprocessing.active_children()[0]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(WorkerError, match=r"was killed \(signal 9\) while processing [34]\."):
            list(own.map(Job.square, [3, 4]))


def test_a_worker_that_cannot_be_made():
    with Workers(2, Job, "too", "many") as own, pytest.raises(TypeError, match="arguments"):
        list(own.map(Job.square, [1, 2]))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_processes_are_gone_after_the_block(error):
    pids = []

    def work():
        with Workers(2, Job) as own:
            for _ in own.map(Job.wait, [0.01, 60]):  # one of them is still at work
                pids.extend(process.pid for process in multiprocessing.active_children())
                if error:
                    raise error
                break

    begin = time.monotonic()
    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert len(pids) == 2
    assert not any(map(is_alive, pids))
    assert time.monotonic() - begin < 20


def test_ctrl_c_is_left_to_the_parent(pool, monkeypatch):
    # It reaches every process of the group, in whatever moment: here from the first one on.
    send = workers._send

    def press_and_send(connection, message, process, task):
        for _ in range(60):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.005)
        send(connection, message, process, task)

    monkeypatch.setattr(workers, "_send", press_and_send)
    assert sorted(pool.map(Job.square, [3, 4])) == [(3, 9), (4, 16)]


def test_the_parent_still_hears_ctrl_c(pool):
    list(pool.map(Job.square, [1, 2]))
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_no_more_workers_than_are_worth_their_start(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    assert [automatic_workers(seconds) for seconds in (0.0, 9.9, 10.1, 35.0, 1e6)] == [
        1,
        1,
        2,
        4,
        7,
    ]


@pytest.mark.parametrize("thread", ["main", "other"])
def test_ctrl_c_waits_for_the_start_of_a_process(thread):
    # The kernel gives a signal to any thread that does not block it, and Python raises in the main
    # thread all the same.
    begun, ended = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (begun.set(), ended.wait()))
    if thread == "other":
        other.start()
        begun.wait()
    started = False
    try:
        with pytest.raises(KeyboardInterrupt), workers._signals_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            started = True
        assert started
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        ended.set()
