"""The command line: help, the whole chain on a small text, and one line for the commonest
mistakes."""

import dataclasses
import errno
import importlib.util
import itertools
import json
import shlex
import shutil
import subprocess
import sys
import types

import click
import numpy as np
import pytest
from click.testing import CliRunner
from model_fixtures import ROOT, WORDS, random_model

import kbert
import kbert.config
import kbert.pretraining
import tfrecords
from kbert.cli import main
from kbert.cli.start import keras_backend
from kbert.demo import run_demo
from tfrecords import python_docs

pytest_plugins = ["model_fixtures"]


def run(*words, code=0, input=None):
    """Runs a command in this process, which must end with the exit code `code`."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=input)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def error_line(*words, code=2):
    """The one line that a command which cannot work leaves on standard error."""
    result = run(*words, code=code)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    return lines[0]


@pytest.mark.parametrize("name", [None, *main.commands])
def test_help_names_every_option(name):
    command = main.commands[name] if name else main
    text = run(*([name] if name else []), "--help").output
    assert text.startswith("Usage: ")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(option in text for option in (*parameter.opts, *parameter.secondary_opts)), (
                parameter.name
            )
        else:
            assert parameter.make_metavar(click.Context(command)) in text
    if name is None:
        assert all(f"  {command} " in text for command in main.commands)


LETTERS = "abdeinor"


def pretrain_options():
    return [
        parameter
        for parameter in main.commands["pretrain"].params
        if isinstance(parameter, click.Option)
    ]


def test_pretrain_has_no_more_options_than_one_can_read():
    # Six headings and 30 options are two screens of --help.
    assert len(pretrain_options()) <= 30


def test_every_option_of_pretrain_reaches_the_library(tiny_records, tmp_path, monkeypatch):
    calls = []

    def pretrain(records, output, **options):
        calls.append((records, output, options))
        stopped_early = types.SimpleNamespace(numpy=lambda: np.int64(69))
        return types.SimpleNamespace(
            optimizer=types.SimpleNamespace(iterations=stopped_early)
        ), None

    monkeypatch.setattr("kbert.pretraining.pretrain", pretrain)
    bert = {"--size": "mini", "--dropout": 0.2, "--attention-dropout": 0.15, "--max-positions": 64}
    how = {"--strategy": "mirrored", "--accumulate": 4}
    config = {
        "--steps": 70,
        "--batch-size": 24,
        "--learning-rate": 0.002,
        "--warmup-steps": 7,
        "--optimizer": "lamb",
        "--weight-decay": 0.05,
        "--decay-power": 0.5,
        "--mlm-weight": 0.75,
        "--nsp-weight": 0.25,
        "--precision": "bfloat16",
        "--seed": 11,
        "--evaluate-every": 35,
        "--evaluate-steps": 3,
        "--patience": 5,
        "--checkpoint-every": 17,
        "--keep-checkpoints": 2,
    }
    words = [word for option in (bert | config | how).items() for word in option]
    asked = run(
        "pretrain",
        tiny_records,
        "--output",
        tmp_path / "run",
        *words,
        "--tensorboard",
        "--recompute",
    )
    assert asked.stdout == f"{tmp_path / 'run'}: the weights of step 69\n"
    flags = {"--recompute", "--tensorboard"}
    assert {name for one in pretrain_options() for name in one.opts} == {
        *bert,
        *config,
        *how,
        *flags,
        "--output",
        "--init-from",
    }

    def fields(options):
        return {
            option.removeprefix("--").replace("-", "_"): value for option, value in options.items()
        }

    changes = fields(bert)
    assert calls.pop() == (
        tiny_records,
        tmp_path / "run",
        {
            "bert": changes.pop("size"),
            "changes": changes,
            "pretraining": kbert.PretrainingConfig(**fields(config)),
            **fields(how),
            "init_from": None,
            "recompute": True,
            "tensorboard": True,
            "verbose": 2,
        },
    )

    run("pretrain", tiny_records, "--output", tmp_path / "run")
    (_, _, options) = calls.pop()
    assert options == {
        "bert": "base",
        "changes": {},
        "pretraining": kbert.PretrainingConfig(),
        "init_from": None,
        "strategy": "auto",
        "accumulate": 1,
        "recompute": False,
        "tensorboard": False,
        "verbose": 2,
    }


@pytest.fixture(scope="module")
def saved_bert(tiny_vocabulary, tmp_path_factory):
    """A model of a shape of its own, saved."""
    model = random_model(exact_gelu=True, attention_dropout=0.2, num_segments=3)
    place = tmp_path_factory.mktemp("saved") / "bert"
    kbert.save(kbert.Pretrained.of_model(model, tiny_vocabulary), place)
    return place


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--dropout", 0.3), {"dropout": 0.3, "attention_dropout": 0.3}),
        (("--attention-dropout", 0), {"attention_dropout": 0.0}),
        (
            ("--dropout", 0.3, "--attention-dropout", 0.2),
            {"dropout": 0.3, "attention_dropout": 0.2},
        ),
        (("--max-positions", 31), {"max_positions": 31}),
        (
            ("--size", "tiny"),
            {"num_layers": 2, "hidden_size": 128, "num_heads": 2, "intermediate_size": 512},
        ),
    ],
    ids=str,
)
def test_the_initial_model_says_its_shape(
    tiny_records, saved_bert, tmp_path, monkeypatch, options, changes
):
    calls = []

    def pretrain(records, output, **options):
        calls.append(options)
        return types.SimpleNamespace(
            optimizer=types.SimpleNamespace(iterations=types.SimpleNamespace(numpy=lambda: 1))
        ), None

    monkeypatch.setattr("kbert.pretraining.pretrain", pretrain)
    run(
        "pretrain",
        tiny_records,
        "--output",
        tmp_path / "run",
        "--init-from",
        saved_bert,
        *options,
    )
    (options,) = calls
    # The devices come before the model, so `pretrain` is what loads it.
    assert options["init_from"] == saved_bert
    initial = kbert.load(saved_bert).bert
    bert = kbert.config.resolve_bert(
        options["bert"],
        options["changes"],
        vocabulary_size=initial.vocabulary_size,
        initial=initial,
    )
    # Whether they fit is for `pretrain` to say.
    assert bert == dataclasses.replace(initial, **changes)


@pytest.mark.parametrize(
    "option", [("--optimizer", "adam"), ("--accumulate", 0), ("--patience", "a")]
)
def test_a_wrong_choice_of_pretrain_is_explained(option):
    assert (
        f"Invalid value for '{option[0]}'"
        in run("pretrain", "records", "--output", "out", *option, code=2).stderr
    )


def sections(command):
    """The options of a command's help by their heading."""
    found, heading = {}, None
    for line in run(command, "--help").output.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            heading = found.setdefault(line.removesuffix(":"), [])
        elif line.startswith("  -") and heading is not None:
            heading.append(line.split()[0].removesuffix(","))
    return found


def test_options_stand_under_headings():
    assert sections("pretrain") == {
        "Run": ["--output", "--seed"],
        "Model": [
            "--init-from",
            "--size",
            "--dropout",
            "--attention-dropout",
            "--max-positions",
        ],
        "Data": ["--batch-size"],
        "Optimisation": [
            "--steps",
            "--optimizer",
            "--learning-rate",
            "--warmup-steps",
            "--decay-power",
            "--weight-decay",
            "--mlm-weight",
            "--nsp-weight",
        ],
        "Evaluation and checkpoints": [
            "--evaluate-every",
            "--evaluate-steps",
            "--patience",
            "--checkpoint-every",
            "--keep-checkpoints",
            "--tensorboard",
        ],
        "Devices, memory and speed": ["--strategy", "--precision", "--accumulate", "--recompute"],
        "Other": ["-h"],
    }
    assert list(sections("records")) == [
        "Splits and files",
        "Sequences",
        "Masked tokens",
        "Text",
        "Processes",
        "Other",
    ]
    assert list(sections("inspect")) == ["Options"]


@pytest.mark.parametrize(
    ("command", "configuration", "others"),
    [
        ("pretrain", kbert.PretrainingConfig, {}),
        ("records", tfrecords.RecordsConfig, {"num_shards": "shards"}),
    ],
)
def test_every_field_of_a_configuration_is_an_option(command, configuration, others):
    options = {one.name: one for one in main.commands[command].params}
    for field in dataclasses.fields(configuration):
        option = options[field.name]
        assert option.default == field.default, field.name
        assert f"--{others.get(field.name, field.name).replace('_', '-')}" in option.opts


def test_commands():
    assert list(main.commands) == [
        "corpus",
        "vocabulary",
        "records",
        "pack",
        "inspect",
        "pretrain",
        "evaluate",
        "benchmark",
        "plan",
        "export",
        "predict",
        "demo",
    ]


@pytest.mark.parametrize("backend", ["torch", "no-such-backend"])
@pytest.mark.parametrize("command", list(main.commands))
def test_another_backend_is_one_line(backend, command, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    required = [
        word
        for one in main.commands[command].params
        if one.required
        for word in ([one.opts[0], "x"] if isinstance(one, click.Option) else [tmp_path / "x"])
    ]
    assert error_line(command, *required) == (
        "Error: Expected KERAS_BACKEND to name a backend of Keras among tensorflow, jax. "
        f"Received: '{backend}'; set KERAS_BACKEND to one of them."
    )
    assert not list(tmp_path.iterdir())
    assert run(command, "--help").output.startswith("Usage: ")


def test_a_backend_in_the_configuration_of_keras_counts_too(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    assert keras_backend() == "jax"
    (tmp_path / "keras.json").write_text("{damaged")
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert f"Expected {tmp_path / 'keras.json'} to name a backend of Keras" in error_line(
        "inspect", "records"
    )


def test_a_reader_that_has_gone_is_no_error_of_a_file(tiny_records, monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("tfrecords.inspect", fail, raising=False)
    result = run("inspect", tiny_records, code=1)
    assert result.output == ""


def test_texts_of_standard_input_are_answered_at_once(tiny_run, monkeypatch):
    """The next line is only read when the line before it is answered."""
    asked, printed = [], []

    class Predictor(kbert.Predictor):
        def fill_mask(self, text):
            asked.append(text)
            return [[types.SimpleNamespace(token=text[:2], probability=0.5)]]

    def lines():
        for number, line in enumerate([b"ba [MASK]\r\n", b"\n", b"be\x0c [MASK]\n", b"no"]):
            assert len(printed) == [0, 2, 3, 5][number]
            yield line

    monkeypatch.setattr("kbert.prediction.load_predictor", lambda *_: Predictor({}, None))
    monkeypatch.setattr("kbert.cli.models._standard_input", lines)
    monkeypatch.setattr(click, "echo", lambda text, **_: printed.append(text))
    main.commands["predict"].main([str(tiny_run.directory), "-"], standalone_mode=False)
    # A text without a mask, as an empty line is one, has no answer.
    assert printed == [
        *("ba [MASK]", "  [MASK] ba 0.500"),
        "",
        *("be\x0c [MASK]", "  [MASK] be 0.500"),
        "no",
    ]
    assert asked == ["ba [MASK]", "be\x0c [MASK]"]


def test_the_whole_chain(tmp_path, monkeypatch):
    corpus, vocabulary, records = (
        tmp_path / "a corpus.txt",
        tmp_path / "vocab.txt",
        tmp_path / "récords",
    )
    directory, saved_model = tmp_path / "run", tmp_path / "saved_model"
    documents = python_docs.python_documents
    monkeypatch.setattr(
        python_docs, "python_documents", lambda packages: itertools.islice(documents(packages), 30)
    )

    assert "30 documents" in run("corpus", corpus).stdout
    result = run("vocabulary", corpus, "--output", vocabulary, "--size", 400)
    assert "400 tokens, uncased" in result.stdout
    built = run(
        "records",
        corpus,
        "--vocabulary",
        vocabulary,
        "--output",
        records,
        "--sequence-length",
        31,
        "--validation-fraction",
        0.2,
    )
    assert "S = 31 tokens with P = 20 slots" in built.stdout
    inspected = run("inspect", records, "--examples", 2).stdout
    assert inspected.startswith(built.stdout.strip())
    assert inspected.count("train record ") == 2

    options = (
        "--size",
        "L-2_H-128",
        "--steps",
        3,
        "--batch-size",
        8,
        "--learning-rate",
        1e-3,
        "--evaluate-steps",
        1,
    )
    trained = run("pretrain", records, "--output", directory, *options)
    assert "step 3 of 3: " in trained.stdout
    assert f"{directory}: trained for 3 steps" in trained.stdout
    loaded = kbert.load_run(directory)
    assert (loaded.bert.num_layers, loaded.bert.hidden_size, loaded.bert.dropout) == (2, 128, 0.1)
    assert (loaded.pretraining.steps, loaded.pretraining.learning_rate, loaded.sequence_length) == (
        3,
        1e-3,
        31,
    )
    again = run("pretrain", records, "--output", directory, *options).stdout
    assert "step 3 of 3" not in again
    table = kbert.results_table(json.loads((directory / "results.json").read_text())["held_out"])
    assert table in trained.stdout
    assert table in again

    evaluated = run("evaluate", directory, records, "--batch-size", 64).stdout
    assert "validation records of" in evaluated
    assert "masked tokens: perplexity" in evaluated

    exported = run("export", directory, "--output", saved_model, "--top-k", 3).stdout
    assert exported.startswith(f"{saved_model}: saved-model, ")
    assert f"MB; {saved_model / 'README.md'} says how to use it" in exported
    texts = ("Return the [MASK] of [MASK].", "[MASK]")
    filled = [run("predict", model, *texts).stdout for model in (saved_model, directory)]
    for lines, top_k in zip(map(str.splitlines, filled), (3, 5), strict=True):
        assert (lines[0], lines[3]) == texts
        answers = [lines[n].removeprefix("  [MASK] ").split() for n in (1, 2, 4)]
        assert [len(answer) for answer in answers] == [
            2 * top_k
        ] * 3  # words with their probabilities
        assert all(0 < float(probability) < 1 for answer in answers for probability in answer[1::2])
        assert len(lines) == 5
    pair = ("Return the name.", "Return the list.")
    answers = [run("predict", model, "--pair", *pair).stdout for model in (saved_model, directory)]
    assert answers[0] == answers[1]
    assert 0 < float(answers[0].split()[0]) < 1
    assert "probability that B follows A" in answers[0]

    for format in ("keras-hub", "huggingface", "google"):
        run("export", saved_model, "--output", tmp_path / format, "--format", format)
        assert run("predict", tmp_path / format, "--top-k", 3, *texts).stdout == filled[0]
        assert run("predict", tmp_path / format, "--pair", *pair).stdout == answers[0]


def test_vectors_of_texts(tiny_run, tmp_path):
    texts = ["ba be", "", "du fa " * 100, "é"] * 10
    said = run("predict", tiny_run.directory, *texts, "--embed", tmp_path / "vectors.npy").stdout
    assert said == f"{tmp_path / 'vectors.npy'}: 40 vectors of 26 numbers, float32\n"
    vectors = np.load(tmp_path / "vectors.npy")
    predictor = kbert.load_predictor(tiny_run.directory)
    np.testing.assert_allclose(vectors, predictor.embed(texts), atol=1e-6)
    for number, text in enumerate(texts[:4]):  # alone, or among longer ones
        np.testing.assert_allclose(vectors[number], predictor.embed([text])[0], atol=1e-5)
    told = run(
        "predict",
        tiny_run.directory,
        "-",
        "--embed",
        tmp_path / "lines.npy",
        "--pooling",
        "cls",
        input="ba be\n\né\n",
    )
    assert told.stdout.endswith("3 vectors of 26 numbers, float32\n")
    np.testing.assert_allclose(
        np.load(tmp_path / "lines.npy"), predictor.embed(["ba be", "", "é"], "cls"), atol=1e-6
    )
    # A line ends with a line feed, and with nothing else that Python takes for an end.
    lines = "ba\x0cbe\u2028du\r\nbe\n".encode() + b"\xff\n"
    run("predict", tiny_run.directory, "-", "--embed", tmp_path / "odd.npy", input=lines)
    np.testing.assert_allclose(
        np.load(tmp_path / "odd.npy"),
        predictor.embed(["ba\x0cbe\u2028du", "be", "\ufffd"]),
        atol=1e-6,
    )
    run("predict", tiny_run.directory, "-", "--embed", tmp_path / "none.npy", input="")
    assert np.load(tmp_path / "none.npy").shape == (0, 26)
    refused = run(
        "predict", tiny_run.directory, "ba", "--embed", tmp_path / "lines.npy", code=2
    ).stderr
    assert "Expected a new file" in refused


@pytest.mark.filterwarnings(
    "ignore:`shuffle=True` was passed:UserWarning"
)  # the default of fit, for every Dataset
def test_the_python_interface(tiny_records, tiny_vocabulary, tmp_path):
    spec = tfrecords.load_manifest(tiny_records)
    config = kbert.BertConfig.of_size(
        "tiny", vocabulary_size=spec.vocabulary_size, num_layers=1, hidden_size=32, num_heads=2
    )
    model = kbert.pretraining_model(config)
    model.compile(**kbert.pretraining_objective(learning_rate=1e-2, steps=30))
    history = model.fit(
        tfrecords.read(tiny_records, "train", batch_size=8, epochs=None),
        steps_per_epoch=15,
        epochs=2,
        validation_data=tfrecords.read(tiny_records, "validation", batch_size=8),
        verbose=0,
    ).history
    assert history["mlm_cross_entropy"][1] < history["mlm_cross_entropy"][0]
    assert history["val_mlm_cross_entropy"][1] == pytest.approx(
        kbert.evaluate(model, tiny_records, batch_size=8)["mlm_loss"]
    )
    pretrained = kbert.Pretrained.of_model(
        model, tiny_vocabulary, sequence_length=spec.sequence_length
    )
    kbert.save(pretrained, tmp_path / "bert")
    assert kbert.load_predictor(tmp_path / "bert").fill_mask("ba [MASK]")[0][0].token in WORDS


@pytest.fixture
def mistakes(tmp_path, tiny_corpus, tiny_records, tiny_run, tiny_vocabulary):
    """Paths by name, for the commands below: some good, some not what the command wants."""
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "no_mask.txt").write_text(
        "\n".join(token for token in tiny_vocabulary.tokens if token != "[MASK]") + "\n"
    )
    shutil.copytree(tiny_records, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    (tmp_path / "other" / "manifest.json").write_text(
        json.dumps(manifest | {"vocabulary_sha256": "f" * 64})
    )
    return {
        "bare": tmp_path / "bare",
        "corpus": tiny_corpus,
        "no_mask": tmp_path / "no_mask.txt",
        "nowhere": tmp_path / "nowhere",
        "occupied": occupied,
        "other": tmp_path / "other",
        "out": tmp_path / "out",
        "records": tiny_records,
        "run": tiny_run.directory,
        "vocab": tiny_records / "vocab.txt",
    }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("corpus {corpus}", "Expected a new file. Received: {corpus}, which exists"),
        ("corpus {bare}", "Received: the directory {bare}"),
        (
            "corpus {out} --packages no-such-package",
            "Expected an installed package. Received: 'no-such-package'",
        ),
        ("vocabulary {nowhere} --output {out}", "{nowhere}"),
        (
            "vocabulary {corpus} --output {vocab}",
            "Expected a new file. Received: {vocab}, which exists",
        ),
        (
            "vocabulary {corpus} --output {out} --size 5",
            "a vocabulary size above the 5 special tokens. Received: 5",
        ),
        ("records {nowhere} --vocabulary {vocab} --output {out}", "{nowhere}"),
        (
            "records {corpus} --vocabulary {nowhere} --output {out}",
            "Expected a vocabulary file at {nowhere}. Received: No such file",
        ),
        (
            "records {corpus} --vocabulary {no_mask} --output {out}",
            "Received: a vocabulary without [MASK]",
        ),
        ("records {corpus} --vocabulary {vocab} --output {occupied}", "already holds thesis.tex"),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --sequence-length 4",
            "sequence_length from 5",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --pairs sop --mask-rate 1.5",
            "Expected mask_rate from 0.0 to 1.0",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --shards 0",
            "Expected num_shards from 1 to 65536. Received: 0",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --shards 999 --workers 1",
            "fewer --shards",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --duplicates 0",
            "Expected duplicates from 1 to 65536",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {corpus}",
            "Received: {corpus}, which is a file",
        ),
        (
            "records {bare} --vocabulary {vocab} --output {out}",
            "Received: {bare}, a directory without files",
        ),
        (
            "records '{bare}/*.txt' --vocabulary {vocab} --output {out}",
            "{bare}/*.txt, a pattern that matches nothing",
        ),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --format jsonl --workers 1",
            "expected a line with a JSON object",
        ),
        ("records {corpus} --vocabulary {vocab} --output {records}", "Received another: "),
        ("inspect {nowhere}", "Expected a directory of records. Received: {nowhere}"),
        ("inspect {bare}", "Expected manifest.json in {bare}"),
        (
            "pretrain {nowhere} --output {out}",
            "Expected a directory of records. Received: {nowhere}",
        ),
        ("pretrain {bare} --output {out}", "Expected manifest.json in {bare}"),
        (
            "pretrain {records} --output {out} --size huge",
            "Expected a size among tiny, mini, small, medium, base, large",
        ),
        ("pretrain {records} --output {out} --init-from {nowhere}", "{nowhere}"),
        ("pretrain {records} --output {out} --size tiny --max-positions 19", "at most 19 tokens"),
        (
            "pretrain {records} --output {out} --size tiny --steps 0",
            "Expected steps of at least 1. Received: 0",
        ),
        (
            "pretrain {records} --output {out} --size tiny --dropout 1",
            "Expected dropout from 0.0 to 0.999. Received: 1.0",
        ),
        (
            "pretrain {records} --output {out} --size tiny",
            "Expected at least 256 records in the split 'train'",
        ),
        (
            "pretrain {records} --output {occupied} --size tiny --batch-size 8",
            "already holds thesis.tex",
        ),
        (
            "pretrain {records} --output {run} --size tiny --batch-size 8",
            "Received another: bert.hidden_size: 26 before, 128 now",
        ),
        (
            "evaluate {nowhere} {records}",
            "Expected a run by 'kbert pretrain' at {nowhere}. Received: no such directory",
        ),
        ("evaluate {records} {records}", "{records}"),
        ("evaluate {run} {bare}", "Expected manifest.json in {bare}"),
        ("evaluate {run} {other}", "Received: {other}, written with ffffffffffff"),
        ("benchmark --size huge", "Expected a size among tiny, mini, small, medium, base, large"),
        ("benchmark --size tiny --batch-size 0", "Expected batch_size of at least 1. Received: 0"),
        (
            "benchmark --size tiny --batch-size 9 --accumulate 2",
            "share evenly. Received: 9; take 8.",
        ),
        (
            "benchmark --size tiny --sequence-length 513",
            "at most 512, the positions of the model. Received: 513",
        ),
        ("benchmark --size tiny --steps 0", "Expected steps of at least 1. Received: 0"),
        (
            "export {nowhere} --output {out}",
            "Expected a run by 'kbert pretrain' or a BERT in one of the formats",
        ),
        ("export {run} --output {occupied}", "already holds thesis.tex"),
        (
            "predict {nowhere} '[MASK]'",
            "saved-model, keras-hub, huggingface, google at {nowhere}. Received: no such directory",
        ),
        (
            "predict {records} '[MASK]'",
            "saved-model, keras-hub, huggingface, google at {records}. Received: neither",
        ),
        ("predict {run} 'no mask'", "Expected a text with [MASK] in it. Received: 'no mask'"),
        ("demo --output {corpus}", "{corpus}"),
    ],
)
def test_a_mistake_is_one_line(mistakes, command, message):
    held = {
        path: path.read_bytes() for path in mistakes["occupied"].parent.rglob("*") if path.is_file()
    }
    words = shlex.split(
        command.format_map({name: shlex.quote(str(path)) for name, path in mistakes.items()})
    )
    assert message.format_map(mistakes) in error_line(*words)
    assert {
        path: path.read_bytes() for path in mistakes["occupied"].parent.rglob("*") if path.is_file()
    } == held
    assert not mistakes["out"].exists() or not any(mistakes["out"].iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("corpus {corpus}", "Expected a new file"),
        ("vocabulary {nowhere} --output {out}", "Received: no such file"),
        ("vocabulary {corpus} '{bare}/*.txt' --output {out}", "a pattern that matches nothing"),
        ("vocabulary {corpus} --output {vocab}", "Expected a new file"),
        ("records {corpus} --vocabulary {nowhere} --output {out}", "Expected a vocabulary file"),
        ("records {nowhere} --vocabulary {vocab} --output {out}", "Received: no such file"),
        (
            "records {corpus} --vocabulary {vocab} --output {out} --mask-rate 2",
            "Expected mask_rate from 0.0 to 1.0",
        ),
        ("inspect {nowhere}", "Expected a directory of records"),
        ("pretrain {nowhere} --output {out}", "Expected a directory of records"),
        ("pretrain {records} --output {out} --size gross", "Expected a size among tiny"),
        ("pretrain {records} --output {out} --dropout 2", "Expected dropout from"),
        ("pretrain {records} --output {out} --optimizer lamp", "'lamp' is not one of"),
        ("pretrain {records} --output {out} --steps 0", "Expected steps of at least 1"),
        ("pretrain {records} --output {out} --init-from {nowhere}", "Expected a run by"),
        ("evaluate {nowhere} {records}", "Expected a run by"),
        ("evaluate {run} {bare}", "Expected manifest.json"),
        ("benchmark --size gross", "Expected a size among tiny"),
        ("export {nowhere} --output {out}", "Expected a run by"),
        ("export {run} --output {occupied}", "already holds thesis.tex"),
        ("predict {nowhere} '[MASK]'", "Expected a run by"),
        ("predict {run} ba --embed {vocab}", "Expected a new file"),
    ],
)
def test_a_trivial_mistake_is_told_before_tensorflow_is_loaded(
    mistakes, monkeypatch, command, message
):
    def load_package(name):
        raise AssertionError("loaded")

    for module in ("data", "models", "speed", "training"):
        monkeypatch.setattr(f"kbert.cli.{module}.load_package", load_package)
    words = shlex.split(
        command.format_map({name: shlex.quote(str(path)) for name, path in mistakes.items()})
    )
    assert message in run(*words, code=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "records"],
        ["pretrain", "records", "--output", "out", "--seize", "tiny"],
        ["pretrain", "records", "--output", "out", "--steps", "many"],
        ["predict", "run"],
        ["predict", "run", "[MASK]", "--pair", "a", "b"],
        ["records", "corpus.txt", "--vocabulary", "vocab.txt"],
        ["records", "--vocabulary", "vocab.txt", "--output", "out"],
        [
            "records",
            "corpus.txt",
            "--vocabulary",
            "vocab.txt",
            "--output",
            "out",
            "--pairs",
            "some",
        ],
        [
            "records",
            "corpus.txt",
            "--vocabulary",
            "vocab.txt",
            "--output",
            "out",
            "--masking",
            "later",
        ],
        [
            "records",
            "corpus.txt",
            "--vocabulary",
            "vocab.txt",
            "--output",
            "out",
            "--mask-unit",
            "letter",
        ],
        [
            "records",
            "corpus.txt",
            "--vocabulary",
            "vocab.txt",
            "--output",
            "out",
            "--compression",
            "zip",
        ],
        ["records", "corpus.txt", "--vocabulary", "vocab.txt", "--output", "out", "--workers", "0"],
        ["vocabulary", "corpus.txt", "--output", "out", "--min-frequency", "0"],
        ["inspect", "records", "--examples", "-1"],
        ["pre-train"],
    ],
)
def test_a_wrong_call_is_explained(words):
    lines = run(*words, code=2).stderr.splitlines()
    assert lines[0].startswith("Usage: ")
    assert sum(line.startswith("Error: ") for line in lines) == 1


def test_a_vocabulary_is_extended_in_a_file_or_of_a_model(tmp_path, tiny_vocabulary):
    (tmp_path / "text.txt").write_text("bade bade Nairobi Nairobi\n")
    spelled = tfrecords.Vocabulary(
        (*tiny_vocabulary.tokens, *"nairob", *map("##{}".format, LETTERS))
    )
    spelled.save(tmp_path / "their.txt")
    model = kbert.Pretrained.of_model(
        random_model(vocabulary_size=len(spelled)), spelled, cased=True, sequence_length=23
    )
    kbert.save(model, tmp_path / "their", "google")
    for name, new in (("their.txt", "nairobi"), ("their", "Nairobi")):
        options = ("--extend", tmp_path / name, "--size", 99, "--output", tmp_path / f"{name}.out")
        result = run("vocabulary", tmp_path / "text.txt", *options)
        learned = tfrecords.Vocabulary.load(tmp_path / f"{name}.out").tokens
        kept = len(spelled)
        assert learned[:kept] == spelled.tokens
        assert "bade" in learned[kept:] and new in learned[kept:]
        said = f"{kept} tokens of {tmp_path / name}, {len(learned) - kept} new: {learned[kept]}"
        assert said in result.stdout
        assert f"warning: the text yields only {len(learned)} tokens, not 99" in result.stderr


def test_records_with_every_option(tmp_path, tiny_corpus, tiny_vocabulary):
    (tmp_path / "some text").mkdir()
    text = tiny_corpus.read_text().replace("\n\n", "\n\n\n")
    (tmp_path / "some text" / "ä.txt").write_bytes(text.encode() + b"ba\xff be\n")
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    result = run(
        *(
            "records",
            tmp_path / "*text",
            "--vocabulary",
            tmp_path / "vocab.txt",
            "--output",
            tmp_path / "out",
        ),
        *("--sequence-length", 23, "--max-predictions", 3, "--pairs", "sop", "--duplicates", 2),
        *(
            "--short-sequence-probability",
            0.25,
            "--masking",
            "dynamic",
            "--mask-unit",
            "word",
            "--mask-rate",
            0.2,
        ),
        *(
            "--mask-share",
            0.7,
            "--random-share",
            0.2,
            "--validation-fraction",
            0.2,
            "--shards",
            2,
            "--compression",
            "gzip",
        ),
        *("--seed", 3, "--cased", "--format", "text", "--errors", "replace", "--workers", 1),
        *("--pack", 3),
    )
    manifest = tfrecords.load_manifest(tmp_path / "out")
    assert manifest.config == tfrecords.RecordsConfig(
        sequence_length=23,
        max_predictions=3,
        pairs="sop",
        duplicates=2,
        short_sequence_probability=0.25,
        long_sentences="split",
        masking="dynamic",
        mask_unit="word",
        mask_rate=0.2,
        mask_share=0.7,
        random_share=0.2,
        validation_fraction=0.2,
        num_shards=2,
        compression="gzip",
        seed=3,
        cased=True,
        accents="keep",
        pack=3,
    )
    assert len(manifest.files("train")) == 2
    first, corpus, coverage, long, *rest = result.stdout.splitlines()
    assert coverage.startswith("coverage: 100% of the characters are in tokens; ")
    replaced, train, validation, *_ = rest
    assert long == "  29 sentences longer than a sequence were split"
    assert replaced == "  1 character stands for invalid UTF-8, which tokenization drops"
    assert first.startswith(
        f"{tmp_path / 'out'}: records of S = 23 tokens with P = 5 slots for masked tokens (words, "
        "masked on "
    )
    assert "pairs: sop" in first
    assert corpus.startswith(f"corpus: {manifest.counts['corpus']['documents']} documents, ")
    pairs = manifest.counts["train"]["pairs"]
    assert train.startswith(
        f"train: {manifest.num_records('train')} records of {pairs} pairs in 2 files ("
    )
    assert "% swapped" in train
    assert validation.startswith("validation: ")
    assert "train record" not in result.stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["format"] == "text"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["errors"] == "replace"


def test_records_are_packed(tmp_path, tiny_records):
    result = run("pack", tiny_records, "--output", tmp_path / "out", "--pack", 3)
    manifest = tfrecords.load_manifest(tmp_path / "out")
    assert manifest.pack == 3
    assert f"\ntrain: {manifest.num_records('train')} records of " in result.stdout
    assert "advice" not in result.stdout
    files = tiny_records / "*.tfrecord"
    result = run("pack", files, "--output", tmp_path / "foreign")
    (line,) = result.stdout.splitlines()
    manifest = tfrecords.manifest_of(tmp_path / "foreign")
    assert line.startswith(f"{tmp_path / 'foreign'}: {manifest.num_records('train'):,} records of ")
    assert ", S = 23, P = 4, " in line
    assert line.endswith("% padding; read them with tfrecords.read")
    again = error_line("pack", tmp_path / "out", "--output", tmp_path / "again")
    assert "Expected records that are not packed. Received: " in again
    again = error_line("pack", tmp_path / "none", "--output", tmp_path / "again")
    assert again.endswith("none, which is no directory.")
    several = run("pack", *tiny_records.glob("*.tfrecord"), "--output", tmp_path / "several").stdout
    assert several.replace("several", "foreign") == result.stdout


def test_records_of_standard_input(tmp_path, tiny_corpus, tiny_vocabulary):
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    options = (
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--sequence-length",
        23,
        "--validation-fraction",
        0,
        "--workers",
        1,
    )
    run("records", tiny_corpus, *options, "--output", tmp_path / "file")
    words = [str(word) for word in ("records", "-", *options, "--output", tmp_path / "piped")]
    result = CliRunner().invoke(main, words, input=tiny_corpus.read_bytes())
    assert result.exit_code == 0, result.output
    for name in ("manifest.json", "train-00000-of-00001.tfrecord"):
        assert (tmp_path / "piped" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "piped", "vocab.txt"]


@pytest.mark.filterwarnings("default")
def test_records_warn_in_one_line(tmp_path, tiny_corpus, tiny_vocabulary):
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    (tmp_path / "empty.txt").touch()
    options = (
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--output",
        tmp_path / "out",
        "--sequence-length",
        23,
        "--workers",
        1,
    )
    result = run(
        "records", tiny_corpus, tmp_path / "empty.txt", *options, "--validation-fraction", 0.2
    )
    assert result.stderr == f"warning: {tmp_path / 'empty.txt'}: no text in there\n"


def test_records_of_a_single_document(tmp_path, tiny_vocabulary):
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    (tmp_path / "a.txt").write_text("ba be bi\nbu da de\n" * 7)
    options = (
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--output",
        tmp_path / "out",
        "--sequence-length",
        23,
        "--workers",
        1,
    )
    line = error_line("records", tmp_path / "a.txt", *options)
    assert line.endswith(
        "choose --pairs sop or --pairs none, for which one is enough with --validation-fraction 0."
    )
    assert not (tmp_path / "out").exists()
    assert (
        "pairs: none"
        in run(
            "records", tmp_path / "a.txt", *options, "--pairs", "none", "--validation-fraction", 0
        ).stdout
    )


@pytest.mark.parametrize("workers", [None, 3])
def test_records_by_many_workers(tmp_path, tiny_corpus, tiny_vocabulary, monkeypatch, workers):
    asked = []
    monkeypatch.setattr(
        "tfrecords.build_records",
        lambda *_, **options: asked.append(options["workers"]),
        raising=False,
    )
    monkeypatch.setattr("tfrecords.inspect", lambda *_, **__: "", raising=False)
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    options = () if workers is None else ("--workers", workers)
    run(
        "records",
        tiny_corpus,
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--output",
        tmp_path / "out",
        *options,
    )
    assert asked == [workers]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "no space left: about 7 MB more are needed", "/a b/out"),
            "/a b/out: no space left: about 7 MB more",
        ),
        (OSError(5, "Input/output error"), "A file: Input/output error."),
        (
            tfrecords.WorkerError("Expected every worker to live. Received: x."),
            "Expected every worker to live. Received: x.",
        ),
    ],
)
def test_what_is_not_the_users_fault_is_one_line_too(
    tmp_path, tiny_corpus, tiny_vocabulary, monkeypatch, error, line
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tfrecords.build_records", fail, raising=False)
    tiny_vocabulary.save(tmp_path / "vocab.txt")
    words = (
        "records",
        tiny_corpus,
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--output",
        tmp_path / "out",
    )
    assert error_line(*words, code=1).startswith(f"Error: {line}")


def test_inspect_verifies(tmp_path, tiny_records):
    records = tmp_path / "records"
    shutil.copytree(tiny_records, records)
    manifest = tfrecords.load_manifest(records)
    count = sum(shard.records for shard in manifest.shards)
    assert f"\nall {count} records are sound\n" in run("inspect", records, "--verify").stdout
    assert "are sound" not in run("inspect", records, "--examples", 0).stdout
    shard = records / manifest.shards[0].name
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert run("inspect", records, "--examples", 0).exit_code == 0
    line = error_line("inspect", records, "--verify")
    assert str(shard) in line
    assert "Received: " in line


def test_records_go_on_after_ctrl_c(tmp_path, tiny_corpus, tiny_vocabulary, monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    tiny_vocabulary.save(tmp_path / "vocab.txt")
    words = (
        "records",
        tiny_corpus,
        "--vocabulary",
        tmp_path / "vocab.txt",
        "--sequence-length",
        23,
        "--workers",
        1,
    )
    run(*words, "--output", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("tfrecords.build.tasks.partition", press)
        result = run(*words, "--output", tmp_path / "out", code=130)
        assert "Traceback" not in result.output
    assert error_line("inspect", tmp_path / "out").startswith("Error: Expected manifest.json in ")
    run(*words, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (
        tmp_path / "whole" / "manifest.json"
    ).read_bytes()


def test_a_loss_that_is_not_a_number_is_one_line(tiny_records, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise kbert.TrainingError("Step 7: expected a finite loss. Received: nan.")

    monkeypatch.setattr("kbert.pretraining.pretrain", fail)
    line = error_line(
        "pretrain", tiny_records, "--output", tmp_path / "run", "--size", "tiny", code=1
    )
    assert line == "Error: Step 7: expected a finite loss. Received: nan."


def test_ctrl_c_ends_with_its_exit_code(tiny_records, tmp_path, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kbert.pretraining.pretrain", press)
    result = run("pretrain", tiny_records, "--output", tmp_path / "run", "--size", "tiny", code=130)
    assert "Traceback" not in result.output


def test_a_real_process_prints_one_line_and_nothing_of_tensorflow(tmp_path):
    command = [sys.executable, "-m", "kbert", "pretrain", "nowhere", "--output", "run"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "Error: Expected a directory of records. Received: nowhere, which is no directory.\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_demo_runs_every_command_in_order_and_prints_it(tmp_path, capsys):
    commands = []
    run_demo(tmp_path / "my demo", commands.append)
    names = [words[0] for words in commands]
    assert [name for name, _ in itertools.groupby(names)] == [
        name for name in main.commands if name not in ("pack", "benchmark", "plan", "demo")
    ]
    printed = [
        shlex.split(line)[2:]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("$ kbert ")
    ]
    assert printed == commands
    for words in commands:
        assert all(isinstance(word, str) for word in words)
        # Every word is an option or an argument that the command knows.
        main.commands[words[0]].make_context(words[0], list(words[1:]))


def test_the_demo_keeps_what_is_there(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("x")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").touch()
    commands = []
    run_demo(tmp_path, commands.append)
    names = [words[0] for words in commands]
    assert "corpus" not in names
    assert "export" not in names
    assert [name for name, _ in itertools.groupby(names)] == [
        "vocabulary",
        "records",
        "inspect",
        "pretrain",
        "evaluate",
        "predict",
    ]
    out = capsys.readouterr().out
    assert (
        f"$ kbert corpus {tmp_path / 'corpus.txt'}\n{tmp_path / 'corpus.txt'} already exists\n"
        in out
    )


def test_the_demo_stops_at_the_first_command_that_fails(tmp_path):
    commands = []

    def fail_at_records(words):
        commands.append(words[0])
        if words[0] == "records":
            raise click.ClickException("no")

    with pytest.raises(click.ClickException):
        run_demo(tmp_path, fail_at_records)
    assert commands == ["corpus", "vocabulary", "records"]


def test_jax_that_is_not_there_is_one_line(tiny_records, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "jax" else find(name, *rest),
    )
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert error_line("pretrain", tiny_records, "--output", tmp_path / "run") == (
        "Error: Expected JAX, which KERAS_BACKEND=jax asks for. Received: none; pip install "
        "'.[jax]' in the clone."
    )
