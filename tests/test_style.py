"""The measures of the code: short files and functions, annotations, comments that say why."""

import ast
import functools
import io
import tokenize

import pytest
from model_fixtures import ROOT

LONGEST_FILE = 400
LONG_FUNCTION = 20
"""Lines of a body from which on it says by comments what its parts are for."""
BODY_OF_19_IN_20 = 30
COMMENTS_PER_100_LINES = 4
FILES = sorted(
    path for package in ("tfrecords", "kbert") for path in (ROOT / package).rglob("*.py")
)
WINGS = sorted({path.parent for path in FILES})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path):
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


@functools.cache
def comments_of(path):
    """The numbers of the lines with a comment; settings of the linter are none."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# fmt"))
    }


def docstring_lines(node):
    """The numbers of the lines of a docstring of a module, a class or a function."""
    first = node.body[0] if node.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return set()
    return set(range(first.lineno, first.end_lineno + 1))


def code_lines(path):
    """How many lines hold code: neither empty nor part of a docstring nor a comment alone. Options
    of the command line are decorators, and say by their help what they are for."""
    lines = path.read_text().splitlines()
    numbers = {
        number
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, Function)):
            numbers -= docstring_lines(node)
            # The strings below fields and constants are docstrings too.
            for one in node.body:
                if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                    numbers -= set(range(one.lineno, one.end_lineno + 1))
        for one in getattr(node, "decorator_list", []):
            numbers -= set(range(one.lineno, one.end_lineno + 1))
    return len(numbers)


def functions(path):
    """Every function of a file, methods and inner ones too."""
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, Function)]


def body_lines(function):
    """The numbers of the lines of a function's body, without its docstring."""
    return set(range(function.body[0].lineno, function.end_lineno + 1)) - docstring_lines(function)


def public_functions(path):
    """Functions of the top and methods of its classes, by name, those with an underscore aside."""
    for node in tree_of(path).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and (
                    not method.name.startswith("_") or method.name in ("__init__", "__call__")
                ):
                    yield f"{node.name}.{method.name}", method


def lacks_annotations(name, function):
    """What of a function has no annotation, as a list of names."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one]
    if "." in name and not any(
        isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list
    ):
        every = every[1:]  # self, cls
    lacking = [one.arg for one in every if one.annotation is None]
    if function.returns is None and function.name != "__init__":
        lacking.append("return")
    return lacking


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_functions_are_short():
    lengths = sorted(len(body_lines(one)) for path in FILES for one in functions(path))
    assert lengths[int(0.95 * len(lengths))] <= BODY_OF_19_IN_20


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_comments_say_why(wing):
    files = [path for path in FILES if path.parent == wing]
    comments = sum(len(comments_of(path)) for path in files)
    assert 100 * comments >= COMMENTS_PER_100_LINES * sum(code_lines(path) for path in files)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_long_function_says_what_its_parts_are_for(path):
    silent = {
        f"{name_of(path)}:{function.lineno} {function.name}"
        for function in functions(path)
        if len(body_lines(function)) >= LONG_FUNCTION
        and not comments_of(path) & set(range(function.lineno, function.end_lineno))
    }
    assert not silent


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_functions_are_annotated(path):
    lacking = {
        f"{name_of(path)}:{function.lineno} {name}": found
        for name, function in public_functions(path)
        if (found := lacks_annotations(name, function))
    }
    assert not lacking
