import contextlib
import dataclasses
import fnmatch
import hashlib
import itertools
import multiprocessing
import os
import re
import time

import pytest

from tfrecords import InputError
from tfrecords.files import (
    atomic_path,
    claim_directory,
    difference,
    locked,
    new_directory,
    new_file,
    partial_pattern,
    read_json,
    sha256,
    with_defaults,
    write_json,
    write_text,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a b é.txt"
    with atomic_path(path) as partial:
        partial.write_text("new")
        (name,) = names(tmp_path)
        assert fnmatch.fnmatchcase(name, partial_pattern("a b é.txt"))
    assert names(tmp_path) == ["a b é.txt"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_leftover_of_a_killed_process_is_replaced(tmp_path):
    (tmp_path / "a.txt.0badcafe.partial").write_text("a much longer leftover")
    (tmp_path / "a.txt.draft").write_text("mine")
    write_text(tmp_path / "a.txt", "new\n")
    assert names(tmp_path) == ["a.txt", "a.txt.draft"]
    assert (tmp_path / "a.txt").read_bytes() == b"new\n"


def test_of_two_attempts_at_once_none_is_half(tmp_path):
    # The first ends while the second writes: what takes the name is whole.
    first = atomic_path(tmp_path / "a.txt")
    partial = first.__enter__()
    partial.write_text("of the first")
    with pytest.raises(FileNotFoundError), contextlib.ExitStack() as stack:
        stack.push(first)
        with atomic_path(tmp_path / "a.txt") as other:
            other.write_text("of the second")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "of the second"


def test_directory_takes_its_name_when_it_is_whole(tmp_path):
    with atomic_path(tmp_path / "model") as partial:
        (partial / "sub").mkdir(parents=True)
        (partial / "sub" / "weights").write_text("1")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "sub" / "weights").read_text() == "1"


def test_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    # What a power cut leaves behind depends on the order: first the content, then its name, then
    # the directory of that.
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (steps.append(os.fstat(file).st_ino), fsync(file))
    )
    monkeypatch.setattr(
        os, "replace", lambda old, new: (steps.append("renamed"), replace(old, new))
    )

    def order():
        return [step for n, step in enumerate(steps) if step not in steps[:n]]

    write_text(tmp_path / "a.txt", "new")
    assert order() == [(tmp_path / "a.txt").stat().st_ino, "renamed", tmp_path.stat().st_ino]
    steps.clear()
    with atomic_path(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").write_text("1")
    model = tmp_path / "model"
    assert order() == [
        (model / "weights").stat().st_ino,
        model.stat().st_ino,
        "renamed",
        tmp_path.stat().st_ino,
    ]


def test_text_and_json_come_back(tmp_path):
    value = {"name": "Łódź 中", "list": [1, 2.5, None, True], "inner": {"a\n": "b"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "it") == value
    assert "Łódź 中" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_text(tmp_path / "a.txt", "a\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"a\r\nb\n"


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (None, r"Expected the thing at .*a\.json\. Received: no such file"),
        (b"", r"Expected the thing at .*a\.json\. Received: a file that cannot be read as JSON"),
        (b'{"a":\n\n 1', r"cannot be read as JSON \(.*line 3"),
        (b'{"a": "\xff"}', r"cannot be read as JSON"),
        (b"[1, 2]", r"Expected the thing at .*a\.json, a JSON object\. Received: a list"),
    ],
)
def test_file_that_is_no_json_object_is_refused(tmp_path, refused, content, pattern):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with refused(pattern):
        read_json(tmp_path / "a.json", "the thing")


def test_new_file_is_not_there_yet(tmp_path, refused):
    assert new_file(tmp_path / "sub" / "a.txt") == tmp_path / "sub" / "a.txt"
    assert names(tmp_path / "sub") == []
    (tmp_path / "a.txt").write_text("old")
    with refused(
        rf"Expected a new file\. Received: {re.escape(str(tmp_path / 'a.txt'))}, which exists"
    ):
        new_file(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    with refused(
        r"Expected the name of a file to write\. Received: the directory "
        rf"{re.escape(str(tmp_path / 'sub'))};"
    ):
        new_file(tmp_path / "sub")
    with refused(r"Expected a directory that can be made at .*a\.txt\. Received: File exists"):
        new_file(tmp_path / "a.txt" / "b.txt")


def test_new_directory_is_empty(tmp_path, refused):
    inner = tmp_path / "sub" / "inner"
    assert new_directory(inner) == inner
    assert not inner.exists()
    inner.mkdir(parents=True)
    assert new_directory(str(inner)) == inner
    with refused(
        r"Expected an empty or new directory\. Received: .*sub, which already holds inner;"
    ):
        new_directory(tmp_path / "sub")
    for name in "cba":
        (tmp_path / name).touch()
    with refused(r"which already holds a and 3 more; name another or empty it"):
        new_directory(tmp_path)
    with refused(r"Expected the name of a directory to make\. Received: .*a, which is a file"):
        new_directory(tmp_path / "a")


def test_directory_is_claimed_once_and_recognised(tmp_path, refused):
    identity = {"kind": "a job", "seed": 7, "inputs": ("a", "b"), "rate": 0.15}
    assert claim_directory(tmp_path / "out", identity, "job.json") == tmp_path / "out"
    assert claim_directory(str(tmp_path / "out"), identity, "job.json") == tmp_path / "out"
    with refused(
        r"Expected the configuration that .*out was made with\. Received another: size: None "
        r"before, 3 now;"
    ):
        claim_directory(tmp_path / "out", identity | {"size": 3}, "job.json")
    with refused(
        r"Received another: inputs: \['a', 'b'\] before, \['a'\] now; seed: 7 before, 8 now; use "
        r"the same"
    ):
        claim_directory(tmp_path / "out", identity | {"seed": 8, "inputs": ["a"]}, "job.json")
    with refused(
        r"Expected a directory for another job\. Received: .*out, which holds a job; name another"
    ):
        claim_directory(tmp_path / "out", {"kind": "another job"}, "job.json")
    assert names(tmp_path / "out") == ["job.json"]


@dataclasses.dataclass(frozen=True)
class Newer:
    """A job's configuration, of a release that has added `rounds`, `shape` and `passes`."""

    seed: int
    rate: float = 0.5
    rounds: int = 1
    shape: tuple[int, ...] = (2, 3)
    passes: int | None = None

    def __post_init__(self):
        if self.passes is None:
            object.__setattr__(self, "passes", 5)
        if self.rate > 1:
            raise InputError("Expected rate of at most 1. Received: more.")


def claim_newer(directory, **fields):
    identity = {"kind": "a job"} | {
        f"job.{key}": value for key, value in dataclasses.asdict(Newer(**fields)).items()
    }
    return claim_directory(
        directory, identity, "job.json", lambda there: with_defaults(there, Newer, "job.")
    )


def test_work_of_an_earlier_release_is_continued(tmp_path, refused):
    write_json(tmp_path / "job.json", {"kind": "a job", "job.seed": 7, "job.rate": 0.25})
    before = (tmp_path / "job.json").read_bytes()
    assert claim_newer(tmp_path, seed=7, rate=0.25) == tmp_path
    for change, pattern in [
        ({"seed": 8}, r"Received another: job\.seed: 7 before, 8 now; use the same"),
        ({"rounds": 2}, r"Received another: job\.rounds: 1 before, 2 now; use the same"),
        ({"shape": (2, 5)}, r"another: job\.shape: \[2, 3\] before, \[2, 5\] now; use"),
        ({"passes": 2, "rate": 0.75}, r"passes: 5 before, 2 now; job\.rate: 0\.25 before"),
    ]:
        with refused(pattern):
            claim_newer(tmp_path, **({"seed": 7, "rate": 0.25} | change))
    assert (tmp_path / "job.json").read_bytes() == before


@pytest.mark.parametrize("rate", [7, "much", None, []])
def test_values_that_the_configuration_refuses_are_differences(tmp_path, refused, rate):
    write_json(tmp_path / "job.json", {"kind": "a job", "job.seed": 7, "job.rate": rate})
    with refused(r"Expected the configuration that .* was made with\. Received another: .*rate: "):
        claim_newer(tmp_path, seed=7)


def test_fields_of_a_newer_release_are_named(tmp_path, refused):
    claim_newer(tmp_path, seed=7)
    with refused(
        r"Expected a configuration that this release knows in .*job\.json\. Received: the fields "
        r"job\.passes, job\.rounds, job\.shape, which a newer release wrote; upgrade or name "
        r"another"
    ):
        claim_directory(tmp_path, {"kind": "a job", "job.seed": 7, "job.rate": 0.5}, "job.json")


def test_foreign_directory_is_not_claimed(tmp_path, refused):
    (tmp_path / "thesis.tex").write_text("dear")
    with refused(
        r"Expected an empty or new directory\. Received: .*, which already holds thesis\.tex;"
    ):
        claim_directory(tmp_path, {"seed": 7}, "job.json")
    assert names(tmp_path) == ["thesis.tex"]


def test_difference_is_one_line():
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == ""
    assert (
        difference({"b": 2, "a": "x"}, {"c": None, "a": "y\n"})
        == r"a: 'x' before, 'y\n' now; b: 2 before, None now"
    )


def test_claim_that_was_killed_is_claimed_again(tmp_path):
    (tmp_path / "job.json.0badcafe.partial").write_text('{"see')
    (tmp_path / ".lock").touch()
    claim_directory(tmp_path, {"seed": 7}, "job.json")
    assert read_json(tmp_path / "job.json", "it") == {"seed": 7}
    assert names(tmp_path) == [".lock", "job.json"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 2500000])
def test_hash_of_a_file(tmp_path, size):
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    reports = []
    assert (
        sha256(tmp_path / "a", lambda block: reports.append(len(block)))
        == hashlib.sha256(content[:size]).hexdigest()
        == sha256(tmp_path / "a")
    )
    assert sum(reports) == size


def test_lock_makes_the_directory_and_leaves_nothing(tmp_path):
    with locked(str(tmp_path / "sub" / "out")) as directory:
        assert directory == tmp_path / "sub" / "out"
        assert names(directory) == [".lock"]
    assert names(tmp_path / "sub") == []
    with locked(tmp_path / "out"):
        (tmp_path / "out" / "mine").touch()
    assert names(tmp_path / "out") == ["mine"]
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "out"):
        raise KeyboardInterrupt
    assert names(tmp_path / "out") == ["mine"]


def test_directory_is_locked_once(tmp_path, refused):
    with locked(tmp_path / "out"):
        pattern = (
            r"Expected .*out to be free\. Received: a directory that another process works on; "
            r"wait for it"
        )
        with refused(pattern), locked(tmp_path / "out"):
            pass
        assert names(tmp_path / "out") == [".lock"]
    with locked(tmp_path / "out"):
        pass


def test_lock_of_a_process_that_was_killed_is_free(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    with locked(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_what_cannot_be_locked(tmp_path, refused):
    (tmp_path / "file").touch()
    with (
        refused(
            r"Expected the name of a directory\. Received: .*file, which is a file; name another"
        ),
        locked(tmp_path / "file"),
    ):
        pass
    with (
        refused(r"Expected a directory that can be made at .*file/out\. Received: "),
        locked(tmp_path / "file" / "out"),
    ):
        pass


@pytest.mark.parametrize("gone", ["directory", "lock"])
def test_lock_that_another_process_removes_meanwhile(tmp_path, monkeypatch, gone):
    # The other one has just ended: between our making the directory and our opening the file, or
    # before we lock it.
    output, opened = tmp_path / "out", type(tmp_path).open

    def open_late(path, *arguments):
        monkeypatch.undo()
        if gone == "directory":
            output.rmdir()
            return opened(path, *arguments)
        file = opened(path, *arguments)
        path.unlink()
        return file

    monkeypatch.setattr(type(tmp_path), "open", open_late)
    with locked(output), pytest.raises(InputError), locked(output):
        pass
    assert not output.exists()


def hold(output, barrier, queue):
    """Locks the same fresh directories as the other processes at the same time, and says whether
    that went well."""
    for number in range(20):
        barrier.wait(60)
        try:
            with locked(output / f"{number}"):
                begin = time.monotonic()
                time.sleep(0.02 if number % 2 else 0.0)
                queue.put((number, begin, time.monotonic()))
        except InputError:
            queue.put((number, None, None))
        except BaseException as error:
            queue.put((number, repr(error), None))


def test_processes_that_lock_at_the_same_instant(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=hold, args=(tmp_path, barrier, queue), daemon=True) for _ in range(4)
    ]
    for process in processes:
        process.start()
    held = {}
    for number, begin, end in (queue.get(timeout=60) for _ in range(80)):
        assert not isinstance(begin, str), begin
        if begin is not None:
            held.setdefault(number, []).append((begin, end))
    for process in processes:
        process.join(60)
    assert sorted(held) == list(range(20))
    for spans in held.values():  # one after the other, if more than one
        spans.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert names(tmp_path) == []
