"""The documentation of the installed Python as a corpus: real English prose on every machine,
without a download."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from tfrecords.errors import InputError
from tfrecords.sentences import break_sentences

# Tests, vendored wheels, and modules that do something when imported.
_SKIPPED = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "_pytest",
    "idle_test",
    "turtledemo",
    "_bundled",
    "pydoc_data",
}
_BULLET = re.compile(r"^(\s*)([*-]|\d+[.)])\s+")
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")
_MARKUP = re.compile(r"``|`|\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)")


def python_documents(packages: Iterable[str] = ()) -> Iterator[list[str]]:
    """Yields the documentation of this Python as documents (lists of sentences): one per module,
    then one per topic of the language reference.

    The docstrings of modules, classes and functions are read from the sources without importing
    them, those of compiled modules of the standard library from the modules themselves;
    `pydoc_data.topics` adds the language reference. Only prose is kept, each paragraph once. The
    same installation gives the same documents.

    Args:
        packages: Names of installed packages whose documentation is added.

    Raises:
        InputError: A package is not installed.
    """
    seen = set()  # a subclass repeats the docstrings that it inherits
    for docstrings in _docstrings_by_module(packages):
        sentences = []
        for docstring in docstrings:
            for paragraph in prose(docstring):
                if paragraph not in seen:
                    seen.add(paragraph)
                    sentences += break_sentences(paragraph)
        if len(sentences) > 1:
            yield sentences


def _docstrings_by_module(packages: Iterable[str]) -> Iterator[list[str]]:
    standard_library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    roots = [standard_library, *map(_package_root, packages)]
    for root in roots:
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if not _SKIPPED.intersection(path.relative_to(root.parent).parts[1:]):
                yield _source_docstrings(path)
        if root is standard_library:
            yield from map(_compiled_docstrings, _compiled_modules(root))
            topics = importlib.import_module("pydoc_data.topics").topics
            yield from ([topics[name]] for name in sorted(topics))


def _package_root(name: str) -> pathlib.Path:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InputError(
            f"Expected an installed package. Received: {name!r}, which this Python cannot find; "
            "install it."
        )
    root = next(iter(spec.submodule_search_locations or [spec.origin or ""]))
    if not spec.submodule_search_locations and not root.endswith(".py"):
        raise InputError(
            f"Expected a package with Python sources. Received: {name!r}, which has none."
        )
    return pathlib.Path(root)


def _source_docstrings(path: pathlib.Path) -> list[str]:
    """The docstrings of a source file, in their order there."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a template, or for another version of Python
        return []
    nodes = sorted(
        (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ),
        key=lambda n: getattr(n, "lineno", 0),
    )
    return [docstring for node in nodes if (docstring := ast.get_docstring(node))]


def _compiled_modules(standard_library: pathlib.Path) -> list[str]:
    extensions = {
        module.name for module in pkgutil.iter_modules([str(standard_library / "lib-dynload")])
    }
    return sorted(name for name in extensions | set(sys.builtin_module_names) if "test" not in name)


def _compiled_docstrings(name: str) -> list[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # some are deprecated
            module = importlib.import_module(name)
    except ImportError:  # built without a library that this machine lacks
        return []
    # Breadth first: the module, then its classes. A class may refer to itself.
    docstrings, seen = [], set()
    waiting: list[Any] = [module]
    while waiting:
        owner = waiting.pop(0)
        docstrings.append(inspect.getdoc(owner))
        for _key, value in sorted(vars(owner).items()):
            if isinstance(value, type):
                if value not in seen and value.__module__ in (name, "builtins"):
                    seen.add(value)
                    waiting.append(value)
            elif callable(value) or inspect.isdatadescriptor(value):
                docstrings.append(getattr(value, "__doc__", None))
    return [inspect.cleandoc(docstring) for docstring in docstrings if isinstance(docstring, str)]


def prose(docstring: str) -> list[str]:
    """Returns the paragraphs of running English in a docstring, each on one line: no code, tables,
    signatures or headings.

    >>> prose('''Return the sum.
    ...
    ...     >>> sum([1, 2])
    ...     3
    ...
    ... * When the iterable is empty, return the *start* value
    ...   that was given to ``sum``.
    ... ''')
    ['When the iterable is empty, return the start value that was given to sum.']
    """
    # A block ends at an empty line, at a bullet and where the indentation changes.
    blocks, indent = [[]], None
    for line in docstring.expandtabs().splitlines():
        bullet = _BULLET.match(line)
        line = " " * bullet.end() + line[bullet.end() :] if bullet else line
        text = line.strip()
        if bullet or not text or len(line) - len(line.lstrip()) != indent:
            blocks.append([])
        indent = len(line) - len(line.lstrip())
        if text:
            blocks[-1].append(text)
    paragraphs = (_MARKUP.sub("", _ROLE.sub(r"\1", " ".join(block))) for block in blocks)
    return [paragraph for paragraph in paragraphs if _is_prose(paragraph)]


def _is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads like English: it is long enough, begins and ends like a sentence,
    has no mark of code or tables, and three words out of four are plain words."""
    words = paragraph.split()
    plain = sum(
        word.strip(".,;:!?()\"'").replace("-", "").replace("'", "").isalpha() for word in words
    )
    return (
        len(words) >= 5
        and paragraph[0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ\"'("
        and paragraph[-1] in ".!?:)"
        and not any(mark in paragraph for mark in (">>>", "->", " = ", "==", "---", "::=", "|"))
        and plain >= 0.75 * len(words)
    )
