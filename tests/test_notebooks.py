"""The notebooks run from top to bottom."""

import ast
import importlib
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_a_notebook_imports_of_ours_is_there(path):
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(
        line
        for cell in cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if not line.lstrip().startswith(("!", "%"))
    )
    tree = ast.parse(code)  # and so it is Python
    names = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("kbert", "tfrecords")
    }
    assert names
    for package, name in names:
        assert hasattr(importlib.import_module(package), name), name


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KBERT_NOTEBOOK_STEPS", "20")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    last = notebook.cells[-1]
    assert last.outputs, "the last cell shows an answer"
