"""An installed kbert is complete, and no folder of the same name in the current directory hides it.

Installed is a copy of the sources, in an environment of its own that sees the packages of this one:
nothing is downloaded, and this environment stays as it is."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
from model_fixtures import ROOT

PACKAGES = ("kbert", "tfrecords")
METADATA = configparser.ConfigParser()
METADATA.read(ROOT / "setup.cfg")
SCRIPT = """
import kbert, tfrecords
print(kbert.__file__)
print(tfrecords.__file__)
print(kbert.PretrainingConfig.__module__, tfrecords.RecordsConfig.__module__)
"""


def run(*command, directory):
    """What a command prints that runs in a directory, without the paths of this process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def sources(place):
    """The files of both packages below a directory, compiled ones aside."""
    return {
        str(path.relative_to(place))
        for package in PACKAGES
        for path in (place / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what an installation needs; setuptools writes beside the sources."""
    clone = tmp_path_factory.mktemp("clone")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    (clone / "tests").mkdir()  # no part of an installation
    (clone / "tests" / "__init__.py").touch()
    return clone


@pytest.fixture(scope="module", params=["editable", "regular"])
def installed(request, tmp_path_factory, clone):
    """How kbert is installed, the directory with the programs of that environment, and the one
    that both packages are to come from."""
    environment = tmp_path_factory.mktemp(request.param) / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), directory=ROOT)
    programs = environment / "bin"
    (there,) = environment.glob("lib/python*/site-packages")
    (there / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed", "--no-index", "--quiet")
    how = ("--editable",) if request.param == "editable" else ()
    # pip under the other interpreter: it is among the packages that are seen from there.
    run(
        *(str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install"),
        *(*options, *how, str(clone)),
        directory=clone,
    )
    return request.param, programs, clone if request.param == "editable" else there


@pytest.fixture
def hiding_place(tmp_path):
    """A directory with a clone called kbert and data in a folder called tfrecords beside a
    script."""
    (tmp_path / "kbert" / "kbert").mkdir(parents=True)
    (tmp_path / "kbert" / "kbert" / "__init__.py").touch()
    (tmp_path / "tfrecords").mkdir()
    (tmp_path / "tfrecords" / "train.tfrecord").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


@pytest.mark.parametrize("arguments", [["script.py"], ["-c", SCRIPT]], ids=["script", "session"])
def test_a_folder_of_the_same_name_hides_no_package(installed, hiding_place, arguments):
    _, programs, home = installed
    said = run(str(programs / "python"), *arguments, directory=hiding_place).splitlines()
    assert [pathlib.Path(line) for line in said[:2]] == [
        home / package / "__init__.py" for package in PACKAGES
    ]
    assert said[2] == "kbert.config tfrecords.schema"


def test_the_command_runs_beside_such_folders(installed, hiding_place):
    _, programs, _ = installed
    for command in ([programs / "kbert"], [programs / "python", "-m", "kbert"]):
        said = run(*map(str, command), "--version", directory=hiding_place)
        assert METADATA["metadata"]["version"] in said


def test_everything_is_installed_and_nothing_else(installed, clone):
    _, programs, home = installed
    assert sources(home) == sources(clone)
    assert {f"{package}/py.typed" for package in PACKAGES} <= sources(home)
    top = f"import importlib.metadata as m; print(m.files({METADATA['metadata']['name']!r}))"
    assert "tests/" not in run(str(programs / "python"), "-c", top, directory=clone)


def test_extras_name_the_distribution_itself():
    # "kbert" alone is somebody else's distribution.
    own = METADATA["metadata"]["name"]
    extras = METADATA["options.extras_require"]
    assert own == "kbert-pretraining"
    for requirements in extras.values():
        for line in requirements.split():
            assert not line.startswith(("kbert", "tfrecords")) or line.startswith(f"{own}[")
