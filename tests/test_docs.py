"""README.md and the other documents are true: commands have the options shown, Python code names
what exists, links lead somewhere, the file map is the tree."""

import ast
import configparser
import importlib
import inspect
import re
import shlex
import textwrap

import click
import pytest
from model_fixtures import ROOT

from kbert.cli import main

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"]
}
README = PAGES["README.md"]
WINGS = ("tfrecords", "kbert", "benchmarks")


def code_lines(page):
    """The lines in a page's code blocks (fenced, or indented by four or more)."""
    fenced = False
    for line in re.sub(r"\\\n\s*", "", PAGES[page]).splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip().removeprefix("$ ")


def shown_commands():
    """Every `kbert` command line in a code block, with its page, once; variables before it are
    left out."""
    lines = (
        (re.sub(r"^(TF_CONFIG='[^']*'|KERAS_BACKEND=\w+) +", "", line), page)
        for page in sorted(PAGES)
        for line in code_lines(page)
    )
    shown = {line: page for line, page in lines if line.startswith("kbert ")}
    return sorted((page, line) for line, page in shown.items())


def python_blocks():
    """The fenced blocks of Python, with their pages."""
    return [
        (page, textwrap.dedent(code))
        for page, text in sorted(PAGES.items())
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def section(page, title):
    return PAGES[page].split(f"\n## {title}\n")[1].split("\n## ")[0]


# The map of the files.


def test_the_file_map_is_the_tree():
    mapped = re.findall(
        rf"^    ((?:{'|'.join(WINGS)})/\S+\.py)\s+\S",
        section("docs/house.md", "File map"),
        re.MULTILINE,
    )
    tree = {
        str(path.relative_to(ROOT))
        for wing in WINGS
        for path in (ROOT / wing).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == tree


def test_the_file_map_has_the_order_of_imports():
    from test_imports import ORDER

    mapped = re.findall(r"^    ((?:tfrecords|kbert)/\S+)\.py", PAGES["docs/house.md"], re.MULTILINE)
    assert [name.replace("/", ".") for name in mapped] == ORDER


def test_readme_names_every_folder():
    rows = re.findall(r"^\| `(\S+)/` \|", section("README.md", "How the code is organized"), re.M)
    folders = {
        str(path.parent.relative_to(ROOT))
        for wing in ("tfrecords", "kbert")
        for path in (ROOT / wing).rglob("*.py")
    }
    assert len(rows) == len(set(rows))
    assert set(rows) == folders


# The pages.


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {anchor_of(heading) for heading in headings}, target


def anchor_of(heading):
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_files_named_in_backticks_exist(page):
    """`tests/test_layers.py`, `kbert/step/` and the like; a changelog also names what is gone."""
    if page == "CHANGELOG.md":
        pytest.skip("names what was removed")
    folders = "kbert|tfrecords|tests|docs|notebooks|benchmarks"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", PAGES[page]):
        assert (ROOT / name).exists(), name


def test_the_glossary_is_sorted_and_says_everything_once():
    terms = re.findall(r"^\*\*(.+?)\.\*\*", PAGES["docs/glossary.md"], re.MULTILINE)
    assert len(terms) >= 20
    assert terms == sorted(set(terms), key=str.lower)
    words = " ".join(terms).lower()
    for term in (
        "validation",
        "micro-batch",
        "gradient checkpointing",
        "mfu",
        "token",
        "span",
        "shard",
        "bucket",
        "static and dynamic masking",
        "nsp",
        "sop",
        "run",
        "checkpoint",
        "warmup",
        "replica",
    ):
        assert term in words


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_use_the_terms_of_the_glossary(page):
    """Prose, not code: validation and not held-out, gradient checkpointing for what --recompute
    does, recompute, token, span."""
    prose = re.sub(r"```.*?```|^    .*$|`[^`]*`", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    other_words = r"held.out|\banew\b|\bpieces?\b|re-?materiali[sz]|worked out"
    assert not re.findall(other_words, prose, re.IGNORECASE)


# Commands.


def test_commands_are_shown():
    assert len(shown_commands()) >= 15
    assert {shlex.split(line)[1] for _, line in shown_commands()} <= set(main.commands)
    assert {page for page, _ in shown_commands()} >= {"README.md", "docs/training.md"}


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_command_has_the_options_that_are_shown(page, line):
    _, name, *words = shlex.split(line, comments=True)
    known = {
        option
        for parameter in main.commands[name].params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("--")} <= known
    main.commands[name].make_context(name, words)  # and it would be taken as it stands


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"CHANGELOG.md", "CONTRIBUTING.md"}))
def test_options_in_the_text_exist(page):
    known = {
        option
        for command in main.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    text = re.sub(r"--beam-options='[^']*'|`--runner=[^`]*`", "", PAGES[page])
    named = set(re.findall(r"(?<!\S)`?(--[a-z][a-z-]*[a-z])", text))
    assert named - {"--xla", "--help", "--local-dir"} <= known  # the last is of hf


@pytest.mark.parametrize("page", sorted(PAGES))
def test_make_has_the_targets_that_are_shown(page):
    shown = set(re.findall(r"`make ([a-z-]+)`", PAGES[page]))
    shown |= {
        line.split()[1] for line in code_lines(page) if re.fullmatch(r"make [a-z-]+( +#.*)?", line)
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert shown <= targets


@pytest.mark.parametrize("page", sorted(PAGES))
def test_extras_that_are_shown_exist(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shown = {
        extra
        for extras in re.findall(r'pip install "?\'?\.\[([\w,-]+)\]', PAGES[page])
        for extra in extras.split(",")
    }
    assert shown <= set(setup["options.extras_require"])


def test_readme_names_every_extra_and_the_distribution():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    install = section("README.md", "Install")
    assert f"`{setup['metadata']['name']}`" in install
    for extra in set(setup["options.extras_require"]) - {"dev"}:
        assert f"`{extra}`" in install or f"[{extra}]" in install


# Python.


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_names_what_exists(page, code):
    """Every `kbert.name` and `tfrecords.name` in a block exists, and what is called takes the
    arguments shown."""
    packages = {name: importlib.import_module(name) for name in ("kbert", "tfrecords")}

    def value_of(node):
        """The public object that an expression such as kbert.BertConfig.of_size names, or None."""
        if isinstance(node, ast.Name):
            return packages.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = value_of(node.value)
            return None if owner is None else getattr(owner, node.attr)
        return None

    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            value_of(node)
        if isinstance(node, ast.Call) and callable(function := value_of(node.func)):
            positional = [None] * len(node.args)
            by_name = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(function).bind(*positional, **by_name)


@pytest.mark.parametrize("package", ["tfrecords", "kbert"])
def test_the_list_of_public_names_is_complete(package):
    (rows,) = re.findall(rf"^## `{package}`: .*?(?=^## |\Z)", PAGES["docs/python.md"], re.M | re.S)
    listed = [
        name
        for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    ]
    module = importlib.import_module(package)
    assert sorted(listed) == sorted(module.__all__)
    for call in re.findall(r"`(\w+\(.*?\))`", rows):
        node = ast.parse(call.replace("...", "None"), mode="eval").body
        function = getattr(module, node.func.id)
        by_name = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(function).bind(*[None] * len(node.args), **by_name)


@pytest.mark.long
def test_the_python_of_readme_runs(tmp_path, monkeypatch, corpus):
    """From a corpus to an answer, as shown, with smaller numbers."""
    code = "\n".join(code for page, code in python_blocks() if page == "README.md")
    for shown, smaller in {
        "size=8000": "size=300",
        "max_predictions=10": "max_predictions=10, validation_fraction=0.3",
        "batch_size=64": "batch_size=8",
        "steps_per_epoch=200": "steps_per_epoch=2",
        "epochs=5": "epochs=1",
        "steps=1000": "steps=2",
    }.items():
        assert shown in code
        code = code.replace(shown, smaller)
    (tmp_path / "corpus.txt").write_text(corpus.read_text())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "saved_model" / "saved_model.pb").is_file()
    (words,) = names["kbert"].load_predictor("saved_model").fill_mask("Paris is [MASK].")
    assert len(words) == 5
