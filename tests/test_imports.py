"""Imports go one way: every file imports only files above it, and nothing large is loaded before it
is needed."""

import ast
import os
import subprocess
import sys

import pytest
from model_fixtures import ROOT

ORDER = [
    "tfrecords.errors",
    "tfrecords.quiet",
    "tfrecords.files",
    "tfrecords.damage",
    "tfrecords.compilation",
    "tfrecords.normalization",
    "tfrecords.vocabulary",
    "tfrecords.schema",
    "tfrecords.batch",
    "tfrecords.tokenizer",
    "tfrecords.characters",
    "tfrecords.decompression",
    "tfrecords.inputs",
    "tfrecords.sentences",
    "tfrecords.text.archives",
    "tfrecords.text.spans",
    "tfrecords.text.decoding",
    "tfrecords.text.running_text",
    "tfrecords.text.lines",
    "tfrecords.text.rows",
    "tfrecords.text.parquet",
    "tfrecords.text.members",
    "tfrecords.text.formats",
    "tfrecords.text.binary_looks",
    "tfrecords.text.data_looks",
    "tfrecords.text.looks",
    "tfrecords.text.check",
    "tfrecords.documents",
    "tfrecords.python_docs",
    "tfrecords.workers",
    "tfrecords.progress",
    "tfrecords.word_counts",
    "tfrecords.word_counting",
    "tfrecords.vocabulary_extension",
    "tfrecords.vocabulary_learning",
    "tfrecords.hashing",
    "tfrecords.pair_loops",
    "tfrecords.pairs",
    "tfrecords.masking",
    "tfrecords.packing",
    "tfrecords.writer",
    "tfrecords.framing",
    "tfrecords.foreign",
    "tfrecords.parsing",
    "tfrecords.reader",
    "tfrecords.build.splitting",
    "tfrecords.build.coverage",
    "tfrecords.build.tokenizing",
    "tfrecords.build.buckets",
    "tfrecords.build.duplicates",
    "tfrecords.build.copies",
    "tfrecords.build.shards",
    "tfrecords.build.beam",
    "tfrecords.build.tokenized",
    "tfrecords.build.tasks",
    "tfrecords.build.steps",
    "tfrecords.build.corpus",
    "tfrecords.build.unfinished",
    "tfrecords.build.recipe",
    "tfrecords.build.unpacked",
    "tfrecords.build.packed",
    "tfrecords.diagnosis",
    "tfrecords.inspection",
    "kbert.config",
    "kbert.objectives",
    "kbert.step.dropout",
    "kbert.step.optimizers",
    "kbert.step.objective",
    "kbert.step.micro_batches",
    "kbert.step.loss_scale",
    "kbert.step.tensorflow_step",
    "kbert.step.jax_step",
    "kbert.step.pretrainer",
    "kbert.model.initializers",
    "kbert.model.embeddings",
    "kbert.model.layers",
    "kbert.model.heads",
    "kbert.model.bert",
    "kbert.run.errors",
    "kbert.run.distribution",
    "kbert.run.tensors",
    "kbert.run.checkpoints",
    "kbert.run.baseline",
    "kbert.run.pace",
    "kbert.run.curves",
    "kbert.run.history",
    "kbert.run.stops",
    "kbert.run.hub",
    "kbert.run.directory",
    "kbert.run.evaluation",
    "kbert.run.saving",
    "kbert.run.progress",
    "kbert.run.tensorboard",
    "kbert.formats.pretrained",
    "kbert.formats.protocol",
    "kbert.formats.notes",
    "kbert.formats.card",
    "kbert.formats.names",
    "kbert.formats.text_model",
    "kbert.formats.saved_model",
    "kbert.formats.huggingface_tokenizer",
    "kbert.formats.huggingface",
    "kbert.formats.google",
    "kbert.formats.keras_hub",
    "kbert.formats.run",
    "kbert.formats.load_and_save",
    "kbert.formats.adapted",
    "kbert.formats.initial",
    "kbert.speed.machine",
    "kbert.speed.benchmark",
    "kbert.speed.chips",
    "kbert.speed.tpu_compiler",
    "kbert.speed.plan",
    "kbert.pretraining",
    "kbert.prediction",
    "kbert.demo",
    "kbert.cli.start",
    "kbert.cli.options",
    "kbert.cli.data",
    "kbert.cli.records",
    "kbert.cli.training",
    "kbert.cli.speed",
    "kbert.cli.models",
    "kbert.cli.commands",
    "kbert.__main__",
]


MOST_ROOMS = 15
"""That whoever follows `pretrain` to the end has to know. A wing counts once: it is left without
having read all of it."""

DOORS = ("tfrecords.", "kbert.formats.load_and_save")


def source(module):
    return ROOT / (module.replace(".", "/") + ".py")


def is_module(name):
    return source(name).is_file() or (ROOT / name.replace(".", "/") / "__init__.py").is_file()


def homes(package):
    """Where the names that a package offers live, by name."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "_HOMES"
    )
    return ast.literal_eval(value)


def imports(module):
    """Every module that the file imports, at the top or inside a function; names of a package stand
    for their homes."""
    found = set()
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: expected absolute imports"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if node.module in ("tfrecords", "kbert") and not is_module(name):
                    found.add(homes(node.module)[alias.name])
                else:
                    found.add(name if is_module(name) else node.module)
        elif isinstance(node, ast.Attribute):
            # `import tfrecords`, then `tfrecords.read`
            package = getattr(node.value, "id", None)
            if package in found & {"tfrecords", "kbert"}:
                found.add(homes(package).get(node.attr, package))
    return found


def test_the_list_has_every_file_once():
    files = [path for package in ("tfrecords", "kbert") for path in (ROOT / package).rglob("*.py")]
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if path.name != "__init__.py"
    }
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == there


@pytest.mark.parametrize("module", ORDER)
def test_a_file_imports_only_files_above_it(module):
    above = set(ORDER[: ORDER.index(module)])
    own = {name for name in imports(module) if name.split(".")[0] in ("tfrecords", "kbert")}
    if module.startswith("kbert"):
        own.discard("tfrecords")  # `import tfrecords`: all of it is above
    assert own <= above


def room_of(module):
    """A wing, which is a folder below a package, or the file itself where it is in the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else module


def reached(module):
    """The files that a file of the model half imports, directly or through others, and itself.

    What is behind DOORS stays there: the data half, entered by the files that are named on this
    side, and the loading of another model."""
    found, waiting = set(), [module]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            if not module.startswith(DOORS):
                waiting += [name for name in imports(module) if name in ORDER]
    return found


def test_wings_import_one_way_too():
    # The files of a wing stand together in the list: no other room is above one and below another.
    rooms = [room_of(module) for module in ORDER]
    changes = [room for room, before in zip(rooms, ["", *rooms], strict=False) if room != before]
    assert len(changes) == len(set(changes))


def test_the_main_job_is_read_in_few_rooms():
    rooms = {room_of(module) for module in reached("kbert.pretraining")}
    assert {"kbert.step", "kbert.model", "kbert.run", "kbert.formats", "tfrecords.reader"} <= rooms
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)


@pytest.mark.parametrize("module", [module for module in ORDER if module.startswith("tfrecords")])
def test_the_data_half_knows_neither_keras_nor_the_model_half(module):
    assert not {name.split(".")[0] for name in imports(module)} & {"keras", "keras_hub", "kbert"}


@pytest.mark.parametrize("package", ["tfrecords", "kbert"])
def test_every_name_of_a_package_has_its_home(package):
    names = homes(package)
    assert set(names.values()) <= set(ORDER)
    module = __import__(package)
    assert sorted(names) == module.__all__ == dir(module)
    for name, home in names.items():
        assert getattr(module, name).__module__ == home
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("package", ["tfrecords", "kbert"])
def test_editors_see_every_name_of_a_package(package):
    """The stub beside the package's __init__.py says the same as its table of homes."""
    stub = ROOT / package / "__init__.pyi"
    seen = {
        alias.asname: (node.module, alias.name)
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: (home, name) for name, home in homes(package).items()}
    assert (ROOT / package / "py.typed").exists()


def loaded(*arguments):
    """The modules that a new Python loads with these arguments."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        line.split("|")[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import kbert, tfrecords"],
        ["-m", "kbert", "--help"],
        ["-m", "kbert", "pretrain", "--help"],
        ["-m", "kbert", "plan", "--help"],
    ],
    ids=" ".join,
)
def test_a_start_without_work_loads_nothing_large(arguments):
    modules = loaded(*arguments)
    assert "tfrecords" in modules or "kbert" in modules
    assert not modules & {
        "tensorflow",
        "keras",
        "tensorflow_text",
        "numpy",
        "numba",
        "tokenizers",
        "matplotlib",
        "jax",
        "libtpu",
    }


def test_reading_compiles_nothing_unless_it_draws_masks(records):
    # numba takes half a second to import, and records with masks are read by TensorFlow alone.
    read = f"import tfrecords; next(iter(tfrecords.read({str(records)!r}, batch_size=3)))"
    modules = loaded("-c", read)
    assert "tensorflow" in modules
    assert not modules & {"numba", "tfrecords.masking"}


def test_training_does_without_the_tokenizer():
    modules = loaded("-c", "import kbert.pretraining")
    assert "tensorflow" in modules
    assert not modules & {
        "tensorflow_text",
        "tokenizers",
        "keras_hub",
        "tfrecords.tokenizer",
        "tfrecords.build.recipe",
    }
