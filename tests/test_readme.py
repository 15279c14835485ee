"""README.md is true: its file map is the tree, and its commands have the options that it shows."""

import re
import shlex

import click
import pytest
from model_fixtures import ROOT

from kbert.cli import main

README = (ROOT / "README.md").read_text()


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def shown_commands():
    """The `kbert` command lines in the code blocks (fenced or indented by four or more) of
    README.md."""
    fenced = False
    for line in re.sub(r"\\\n\s*", "", README).splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code = line.strip().removeprefix("$ ")
            if code.startswith("kbert "):
                yield code


def test_the_file_map_is_the_tree():
    mapped = re.findall(
        r"^\s+((?:tfrecords|kbert|benchmarks)/\S+\.py)\s+\S", section("File map"), re.MULTILINE
    )
    tree = {
        str(path.relative_to(ROOT))
        for package in ("tfrecords", "kbert", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == tree


def test_commands_are_shown():
    assert len(set(shown_commands())) >= 5
    assert {shlex.split(line)[1] for line in shown_commands()} <= set(main.commands)


@pytest.mark.parametrize("line", sorted(set(shown_commands())))
def test_a_command_has_the_options_that_are_shown(line):
    _, name, *words = shlex.split(line, comments=True)
    known = {
        option
        for parameter in main.commands[name].params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("--")} <= known
    main.commands[name].make_context(name, words)  # and it would be taken as it stands
