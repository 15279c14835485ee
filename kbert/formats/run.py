"""A run as a pretrained model: its newest weights, or with patience its best, and in words how it
was trained."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import warnings
from typing import Any

from kbert.config import SIZES, BertConfig, PretrainingConfig
from kbert.formats.pretrained import Pretrained, weight_shapes
from kbert.formats.protocol import configuration_at
from kbert.run.directory import KIND, Run, load_run
from kbert.run.evaluation import results_rows
from tfrecords import InputError

NAME = "run"


def recognises(path: pathlib.Path) -> bool:
    """Tells whether a directory is that of a run by `kbert pretrain`."""
    return configuration_at(path).get("kind") == KIND


def read(path: pathlib.Path) -> Pretrained:
    """Reads the weights of a run, see `Run.best_step`.

    Raises:
        InputError: It is no run, or has no checkpoint.
    """
    run = load_run(path)
    _, step, values = run.read_weights()
    names = {path: f"model/{path}" for path in weight_shapes(run.bert, run.pairs, run.optional)}
    return Pretrained(
        bert=run.bert,
        weights={path: values[name] for path, name in names.items() if name in values},
        vocabulary=run.vocabulary,
        normalization=run.normalization,
        sequence_length=run.sequence_length,
        pairs=run.pairs,
        training=_training(run, step),
        source=str(path),
    )


def _training(run: Run, step: int) -> str:
    """How a run was trained until a step, in Markdown. Damaged files that only describe the
    training cost no more than this text."""
    try:
        return _in_words(run, step)
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        warnings.warn(
            f"The model card will not say how {run.directory} was trained: {error!r}.", stacklevel=2
        )
        return ""


def _in_words(run: Run, step: int) -> str:
    records = run.read_records()
    rows, pack = f"{run.pretraining.batch_size:,}", records.get("config", {}).get("pack", 1)
    what = (
        f"{rows} rows of {run.sequence_length} tokens, with up to {pack} sequences each"
        if pack > 1
        else f"{rows} sequences of up to {run.sequence_length} tokens each"
    )
    parts = [f"{step:,} updates of {what}.\n"]
    corpus = records.get("counts", {}).get("corpus")
    if corpus:
        parts.append(
            f"The text: {corpus['documents']:,} documents, {corpus['sentences']:,} sentences, "
            f"{corpus['tokens']:,} tokens. Of the documents, "
            f"{100 * records['config']['validation_fraction']:.3g} % were held out for "
            "validation.\n"
        )
    parts.append(f"{_command(run)}\n")
    # Results are of the weights of one step; a run that is still going has other weights by now.
    if results := run.results_of(step):
        parts.append(f"Validation results:\n\n{_table(results)}")
    return "\n".join(parts)


def _command(run: Run) -> str:
    """The command of a run, with all options that are not at their defaults; if no size has its
    shape, the options alone.

    RECORDS, RUN and PATH stand for the directories of its records, of itself and of the model that
    it started from."""
    # Options in the order of `kbert pretrain --help`: the shape's, then the training's.
    bert = run.bert
    default = PretrainingConfig(steps=run.pretraining.steps)
    usual = {
        "dropout": BertConfig.dropout,
        "attention_dropout": bert.dropout,
        "max_positions": BertConfig.max_positions,
    }
    options = {
        name: getattr(bert, name) for name, value in usual.items() if getattr(bert, name) != value
    }
    options |= {"steps": run.pretraining.steps}
    options |= {
        name: value
        for name, value in dataclasses.asdict(run.pretraining).items()
        if value != getattr(default, name)
    }
    words = [word for name, value in options.items() for word in _words(name, value)]

    # What the model started from.
    sizes = [
        size
        for size in SIZES
        if _shape(BertConfig.of_size(size, vocabulary_size=bert.vocabulary_size)) == _shape(bert)
    ]
    if run.initial_sha256 is not None:
        start = ["kbert", "pretrain", "RECORDS", "--output", "RUN", "--init-from", "PATH"]
    elif sizes:
        start = ["kbert", "pretrain", "RECORDS", "--output", "RUN", "--size", sizes[0]]
    else:
        start = []
    return f"{'The command' if start else 'The settings'}:\n\n    {shlex.join(start + words)}"


def _words(name: str, value: Any) -> list[str]:
    """An option as it is typed; a flag has no value.

    >>> _words("decay_power", 0.5), _words("gated", True), _words("gated", False)
    (['--decay-power', '0.5'], ['--gated'], ['--no-gated'])
    """
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]


def _shape(bert: BertConfig) -> tuple[int, ...]:
    return (bert.num_layers, bert.hidden_size, bert.num_heads, bert.intermediate_size)


def _table(results: dict[str, Any]) -> str:
    """The results of `evaluate` beside the baselines, as a table in Markdown."""
    lines = ["| | model | without a model |", "|---|---|---|"]
    lines += [
        f"| {what} | {model} | {baseline}, {name} |"
        for what, model, baseline, name in results_rows(results)
    ]
    return "\n".join(lines) + "\n"
