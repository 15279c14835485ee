import os
import re

import pytest

from tfrecords.files import atomic_path, claim_directory, difference, new_directory, new_file, read_json, write_json, write_text


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a b é.txt"
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert names(tmp_path) == ["a b é.txt.partial"]
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
    (tmp_path / "a.txt.partial").write_text("a much longer leftover")
    write_text(tmp_path / "a.txt", "new\n")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"new\n"


def test_directory_takes_its_name_when_it_is_whole(tmp_path):
    with atomic_path(tmp_path / "model") as partial:
        (partial / "sub").mkdir(parents=True)
        (partial / "sub" / "weights").write_text("1")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "sub" / "weights").read_text() == "1"


def test_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    # What a power cut leaves behind depends on the order: first the content, then its name, then the directory of that.
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append(os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (steps.append("renamed"), replace(old, new)))

    def order():
        return [step for n, step in enumerate(steps) if step not in steps[:n]]

    write_text(tmp_path / "a.txt", "new")
    assert order() == [(tmp_path / "a.txt").stat().st_ino, "renamed", tmp_path.stat().st_ino]
    steps.clear()
    with atomic_path(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").write_text("1")
    model = tmp_path / "model"
    assert order() == [(model / "weights").stat().st_ino, model.stat().st_ino, "renamed", tmp_path.stat().st_ino]


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
    with refused(rf"Expected a new file\. Received: {re.escape(str(tmp_path / 'a.txt'))}, which exists"):
        new_file(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    with refused(rf"Expected the name of a file to write\. Received: the directory {re.escape(str(tmp_path / 'sub'))};"):
        new_file(tmp_path / "sub")
    with refused(r"Expected a directory that can be made at .*a\.txt\. Received: File exists"):
        new_file(tmp_path / "a.txt" / "b.txt")


def test_new_directory_is_empty(tmp_path, refused):
    inner = tmp_path / "sub" / "inner"
    assert new_directory(inner) == inner
    assert not inner.exists()
    inner.mkdir(parents=True)
    assert new_directory(str(inner)) == inner
    with refused(r"Expected an empty or new directory\. Received: .*sub, which already holds inner;"):
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
    with refused(r"Expected the configuration that .*out was made with\. Received another: size: None before, 3 now;"):
        claim_directory(tmp_path / "out", identity | {"size": 3}, "job.json")
    with refused(r"Received another: inputs: \['a', 'b'\] before, \['a'\] now; seed: 7 before, 8 now; use the same"):
        claim_directory(tmp_path / "out", identity | {"seed": 8, "inputs": ["a"]}, "job.json")
    with refused(r"Expected a directory for another job\. Received: .*out, which holds a job; name another"):
        claim_directory(tmp_path / "out", {"kind": "another job"}, "job.json")
    assert names(tmp_path / "out") == ["job.json"]


def test_foreign_directory_is_not_claimed(tmp_path, refused):
    (tmp_path / "thesis.tex").write_text("dear")
    with refused(r"Expected an empty or new directory\. Received: .*, which already holds thesis\.tex;"):
        claim_directory(tmp_path, {"seed": 7}, "job.json")
    assert names(tmp_path) == ["thesis.tex"]


def test_difference_is_one_line():
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == ""
    assert difference({"b": 2, "a": "x"}, {"c": None, "a": "y\n"}) == r"a: 'x' before, 'y\n' now; b: 2 before, None now"
