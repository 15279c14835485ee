import textwrap
import warnings

import pytest

from tfrecords import python_documents
from tfrecords.python_docs import prose

PACKAGE = {
    "__init__.py": '"""The package has one line of prose."""\nraise RuntimeError("imported")\n',
    "first.py": '''
        """This module is the first of the package. It has two sentences of prose.

        >>> first(2)
        4
        """

        PATTERN = "\\d"  # an escape sequence that Python warns of

        class First:
            """A class that stands before the function below it."""

            async def method(self):
                """Return whatever the class has been given before."""

        def first(n):
            """Return the double of the given number, as ever."""
    ''',
    "second.py": '''
        """The second module repeats itself and then the first. It has two sentences of prose."""

        def second():
            """Return the double of the given number, as ever."""

        def third():
            """Say something that no other docstring has said."""
    ''',
    "broken.py": '"""This module of prose cannot be parsed at all."""\ndef (:\n',
    "tests/test_first.py": '"""Tests are no prose. They are left out of it always."""\n',
    "vendored/inner.py": (
        '"""Packages inside of the package are read as well. They have prose of their own."""\n'
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site") / "made_for_the_test"
    for name, source in PACKAGE.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(textwrap.dedent(source))
    return directory


@pytest.fixture(scope="module")
def docs(package):
    """The documents of this Python and of the package, and the warnings on the way."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.syspath_prepend(package.parent)
        return list(python_documents(["made_for_the_test"])), [
            str(warning.message) for warning in caught
        ]


def test_package_comes_last_and_is_not_imported(docs):
    # One document for each module with more than one new sentence, the modules in the order of
    # their paths.
    assert docs[0][-3:] == [
        [
            "This module is the first of the package.",
            "It has two sentences of prose.",
            "A class that stands before the function below it.",
            "Return whatever the class has been given before.",
            "Return the double of the given number, as ever.",
        ],
        [
            "The second module repeats itself and then the first.",
            "It has two sentences of prose.",
            "Say something that no other docstring has said.",
        ],
        ["Packages inside of the package are read as well.", "They have prose of their own."],
    ]


def test_installation_gives_a_corpus(docs):
    documents = docs[0][:-3]
    sentences = [sentence for document in documents for sentence in document]
    # The standard library of Python 3.11 gives 569 documents of 19,329 sentences.
    assert len(documents) > 300
    assert len(sentences) > 10_000
    assert min(map(len, documents)) > 1
    assert all(sentence == sentence.strip() and "\n" not in sentence for sentence in sentences)
    assert not any(mark in sentence for sentence in sentences for mark in (">>>", "::=", "``"))
    # Each paragraph is there once; sentences of unlike paragraphs may be alike.
    assert len(set(sentences)) > 0.9 * len(sentences)


def test_reading_the_documentation_warns_of_nothing(docs):
    # Some modules of the standard library warn when they are imported. That is not the user's
    # affair, and where warnings are errors the corpus must be the same.
    assert docs[1] == []


def test_same_installation_gives_the_same_documents(package, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(package)})
    monkeypatch.setattr("sys.builtin_module_names", ("itertools", "math"))
    documents = list(python_documents())
    assert documents == list(python_documents())
    assert documents[0][0] == "This module is the first of the package."
    assert any("iterable" in sentence for document in documents for sentence in document)


@pytest.mark.parametrize("name", ["no_such_package", "no.such.package", ""])
def test_package_that_is_not_installed_is_refused(name, refused, monkeypatch, package):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(package)})
    with refused(rf"Expected an installed package\. Received: '{name}', which .*; install it"):
        list(python_documents([name]))


@pytest.mark.parametrize("name", ["sys", "_socket"])
def test_package_without_sources_is_refused(name, refused, monkeypatch, package):
    # These are installed, but there is nothing of them to read.
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(package)})
    with refused(rf"xpected .*package.* Received: '{name}'"):
        list(python_documents([name]))


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            """Open the file and return a stream.  Raise OSError upon failure.

            The *mode* is an optional string that
            specifies how the file is opened; see :func:`io.open` and :class:`~io.TextIOWrapper`.

              - A list item is a paragraph of its own, on
                more than one line.
              1. Numbered items are like that, too.

            Usage:
                stream = open(path)
                print(stream.read())

            >>> open(path)
            <stream>

            ========= ==========
            Character Meaning of the character in use
            ========= ==========
            'r'       open for reading (default)
            """,
            [
                "Open the file and return a stream.  Raise OSError upon failure.",
                "The mode is an optional string that specifies how the file is opened; see io.open "
                "and io.TextIOWrapper.",
                "A list item is a paragraph of its own, on more than one line.",
                "Numbered items are like that, too.",
            ],
        ),
        ("Heading of this section here\n----", []),
        ("f(a, b) -> the sum of both arguments.", []),
        ("Too short here.", []),
        ("lower case at the beginning is no sentence.", []),
        ("Ends without any mark that would end it", []),
        ("Mostly 12 34 56 78 90 no words.", []),
        ("", []),
    ],
)
def test_prose(docstring, expected):
    assert prose(textwrap.dedent(docstring)) == expected
