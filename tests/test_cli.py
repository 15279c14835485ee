"""The command line: help, the whole chain on a small text, and one line for the commonest mistakes."""

import itertools
import json
import shlex
import shutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from model_fixtures import ROOT, WORDS

import kbert
import kbert.pretraining
import tfrecords
from kbert.cli import main
from kbert.demo import run_demo
from tfrecords import python_docs

pytest_plugins = ["model_fixtures"]


def run(*words, code=0):
    """Runs a command in this process, which must end with the exit code `code`."""
    result = CliRunner().invoke(main, [str(word) for word in words])
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
            assert all(option in text for option in (*parameter.opts, *parameter.secondary_opts)), parameter.name
        else:
            assert parameter.make_metavar(click.Context(command)) in text
    if name is None:
        assert all(f"  {command} " in text for command in main.commands)


def test_commands():
    assert list(main.commands) == [
        "corpus",
        "vocabulary",
        "records",
        "inspect",
        "pretrain",
        "evaluate",
        "export",
        "predict",
        "demo",
    ]


def test_the_whole_chain(tmp_path, monkeypatch):
    corpus, vocabulary, records = tmp_path / "a corpus.txt", tmp_path / "vocab.txt", tmp_path / "récords"
    directory, saved_model = tmp_path / "run", tmp_path / "saved_model"
    documents = python_docs.python_documents
    monkeypatch.setattr(python_docs, "python_documents", lambda packages: itertools.islice(documents(packages), 30))

    assert "30 documents" in run("corpus", corpus).stdout
    result = run("vocabulary", corpus, "--output", vocabulary, "--size", 400)
    assert "400 pieces, uncased" in result.stdout
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

    options = ("--size", "L-2_H-128", "--steps", 3, "--batch-size", 8, "--learning-rate", 1e-3, "--evaluate-steps", 1)
    trained = run("pretrain", records, "--output", directory, *options)
    assert "step 3 of 3: " in trained.stdout
    assert f"{directory}: trained for 3 steps" in trained.stdout
    loaded = kbert.load_run(directory)
    assert (loaded.bert.num_layers, loaded.bert.hidden_size, loaded.bert.dropout) == (2, 128, 0.1)
    assert (loaded.pretraining.steps, loaded.pretraining.learning_rate, loaded.sequence_length) == (3, 1e-3, 31)
    again = run("pretrain", records, "--output", directory, *options).stdout
    assert "step 3 of 3" not in again
    table = kbert.results_table(json.loads((directory / "results.json").read_text())["held_out"])
    assert table in trained.stdout
    assert table in again

    evaluated = run("evaluate", directory, records, "--batch-size", 64).stdout
    assert "validation records of" in evaluated
    assert "masked tokens: perplexity" in evaluated

    exported = run("export", directory, "--output", saved_model, "--top-k", 3).stdout
    assert "MB, signatures serving_default, fill_mask, next_sentence, embed_ids" in exported
    for model, top_k in ((saved_model, 3), (directory, 5)):
        lines = run("predict", model, "Return the [MASK] of [MASK].", "[MASK]").stdout.splitlines()
        assert [lines[0], lines[3]] == ["Return the [MASK] of [MASK].", "[MASK]"]
        answers = [lines[n].removeprefix("  [MASK] ").split() for n in (1, 2, 4)]
        assert [len(answer) for answer in answers] == [2 * top_k] * 3  # words with their probabilities
        assert all(0 < float(probability) < 1 for answer in answers for probability in answer[1::2])
        assert len(lines) == 5
    pair = ("Return the name.", "Return the list.")
    answers = [run("predict", model, "--pair", *pair).stdout for model in (saved_model, directory)]
    assert answers[0] == answers[1]
    assert 0 < float(answers[0].split()[0]) < 1
    assert "probability that B follows A" in answers[0]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")  # the default of fit, for every Dataset
def test_the_python_interface(tiny_records, tiny_vocabulary, tmp_path):
    spec = tfrecords.load_manifest(tiny_records)
    config = kbert.BertConfig.of_size("tiny", vocabulary_size=spec.vocabulary_size, num_layers=1, hidden_size=32, num_heads=2)
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
    assert history["val_mlm_cross_entropy"][1] == pytest.approx(kbert.evaluate(model, tiny_records, batch_size=8)["mlm_loss"])
    kbert.export_saved_model(model, tiny_vocabulary, tmp_path / "bert", sequence_length=spec.sequence_length)
    assert kbert.load_predictor(tmp_path / "bert").fill_mask("ba [MASK]")[0][0].token in WORDS


@pytest.fixture
def mistakes(tmp_path, tiny_corpus, tiny_records, tiny_run, tiny_vocabulary):
    """Paths by name, for the commands below: some good, some not what the command wants."""
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "no_mask.txt").write_text("\n".join(token for token in tiny_vocabulary.tokens if token != "[MASK]") + "\n")
    shutil.copytree(tiny_records, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest | {"vocabulary_sha256": "f" * 64}))
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
        ("corpus {out} --packages no-such-package", "Expected an installed package. Received: 'no-such-package'"),
        ("vocabulary {nowhere} --output {out}", "{nowhere}"),
        ("vocabulary {corpus} --output {vocab}", "Expected a new file. Received: {vocab}, which exists"),
        ("vocabulary {corpus} --output {out} --size 5", "a vocabulary size above the 5 special tokens. Received: 5"),
        ("records {nowhere} --vocabulary {vocab} --output {out}", "{nowhere}"),
        (
            "records {corpus} --vocabulary {nowhere} --output {out}",
            "Expected a vocabulary file at {nowhere}. Received: No such file",
        ),
        ("records {corpus} --vocabulary {no_mask} --output {out}", "Received: a vocabulary without [MASK]"),
        ("records {corpus} --vocabulary {vocab} --output {occupied}", "already holds thesis.tex"),
        ("records {corpus} --vocabulary {vocab} --output {out} --sequence-length 4", "sequence_length from 5"),
        ("records {corpus} --vocabulary {vocab} --output {records}", "Received another: "),
        ("inspect {nowhere}", "Expected a directory of records. Received: {nowhere}"),
        ("inspect {bare}", "Expected manifest.json in {bare}"),
        ("pretrain {nowhere} --output {out}", "Expected a directory of records. Received: {nowhere}"),
        ("pretrain {bare} --output {out}", "Expected manifest.json in {bare}"),
        ("pretrain {records} --output {out} --size huge", "Expected a size among tiny, mini, small, medium, base, large"),
        ("pretrain {records} --output {out} --size tiny --max-positions 19", "at most 19 tokens"),
        ("pretrain {records} --output {out} --size tiny --steps 0", "Expected steps of at least 1. Received: 0"),
        ("pretrain {records} --output {out} --size tiny --dropout 1", "Expected dropout from 0.0 to 0.999. Received: 1.0"),
        ("pretrain {records} --output {out} --size tiny", "Expected at least 256 records in the split 'train'"),
        ("pretrain {records} --output {occupied} --size tiny --batch-size 8", "already holds thesis.tex"),
        (
            "pretrain {records} --output {run} --size tiny --batch-size 8",
            "Received another: bert.hidden_size: 26 before, 128 now",
        ),
        ("evaluate {nowhere} {records}", "Expected the configuration of a run by 'kbert pretrain' at {nowhere}"),
        ("evaluate {records} {records}", "{records}"),
        ("evaluate {run} {bare}", "Expected manifest.json in {bare}"),
        ("evaluate {run} {other}", "Received: {other}, written with ffffffffffff"),
        ("export {nowhere} --output {out}", "Expected the configuration of a run by 'kbert pretrain' at {nowhere}"),
        ("export {run} --output {occupied}", "already holds thesis.tex"),
        ("predict {nowhere} '[MASK]'", "Expected a run by 'kbert pretrain' or a SavedModel at {nowhere}. Received: neither"),
        ("predict {records} '[MASK]'", "Expected a run by 'kbert pretrain' or a SavedModel at {records}. Received: neither"),
        ("predict {run} 'no mask'", "Expected a text with [MASK] in it. Received: 'no mask'"),
        ("demo --output {corpus}", "{corpus}"),
    ],
)
def test_a_mistake_is_one_line(mistakes, command, message):
    held = {path: path.read_bytes() for path in mistakes["occupied"].parent.rglob("*") if path.is_file()}
    words = shlex.split(command.format_map({name: shlex.quote(str(path)) for name, path in mistakes.items()}))
    assert message.format_map(mistakes) in error_line(*words)
    assert {path: path.read_bytes() for path in mistakes["occupied"].parent.rglob("*") if path.is_file()} == held
    assert not mistakes["out"].exists() or not any(mistakes["out"].iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "records"],
        ["pretrain", "records", "--output", "out", "--seize", "tiny"],
        ["pretrain", "records", "--output", "out", "--steps", "many"],
        ["predict", "run"],
        ["predict", "run", "[MASK]", "--pair", "a", "b"],
        ["pre-train"],
    ],
)
def test_a_wrong_call_is_explained(words):
    lines = run(*words, code=2).stderr.splitlines()
    assert lines[0].startswith("Usage: ")
    assert sum(line.startswith("Error: ") for line in lines) == 1


def test_a_loss_that_is_not_a_number_is_one_line(tiny_records, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise kbert.TrainingError("Step 7: expected a finite loss. Received: nan.")

    monkeypatch.setattr("kbert.pretraining.pretrain", fail)
    line = error_line("pretrain", tiny_records, "--output", tmp_path / "run", "--size", "tiny", code=1)
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
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: Expected a directory of records. Received: nowhere, which is no directory.\n"
    assert not list(tmp_path.iterdir())


def test_the_demo_runs_every_command_in_order_and_prints_it(tmp_path, capsys):
    commands = []
    run_demo(tmp_path / "my demo", commands.append)
    names = [words[0] for words in commands]
    assert [name for name, _ in itertools.groupby(names)] == [name for name in main.commands if name != "demo"]
    printed = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ kbert ")]
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
    assert f"$ kbert corpus {tmp_path / 'corpus.txt'}\n{tmp_path / 'corpus.txt'} is there already\n" in out


def test_the_demo_stops_at_the_first_command_that_fails(tmp_path):
    commands = []

    def fail_at_records(words):
        commands.append(words[0])
        if words[0] == "records":
            raise click.ClickException("no")

    with pytest.raises(click.ClickException):
        run_demo(tmp_path, fail_at_records)
    assert commands == ["corpus", "vocabulary", "records"]
