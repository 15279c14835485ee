"""A run as a pretrained model: its newest weights, and in words how it was trained."""

import dataclasses
import shlex

from kbert.checkpoints import newest_checkpoint
from kbert.config import PAIR_TASKS, SIZES, BertConfig, PretrainingConfig
from kbert.pretrained import Pretrained, weight_shapes
from kbert.runs import is_finished, load_run, read_records, read_results
from tfrecords import InputError


def read(path):
    """Reads the newest checkpoint of a run as a Pretrained.

    Raises:
        InputError: It is no run, or has no checkpoint.
    """
    run = load_run(path)
    newest = newest_checkpoint(run.checkpoints)
    if newest is None:
        raise InputError(f"Expected a checkpoint in {run.checkpoints}. Received: none yet; train with 'kbert pretrain'.")
    _, step, values = newest
    names = {path: f"model/{path}" for path in weight_shapes(run.bert, run.pairs != "none")}
    return Pretrained(
        bert=run.bert,
        weights={path: values[name] for path, name in names.items() if name in values},
        vocabulary=run.vocabulary,
        cased=run.cased,
        sequence_length=run.sequence_length,
        pairs=run.pairs,
        training=_in_words(run, step),
        source=str(path),
    )


def _in_words(run, step):
    """How a run was trained until a step, in Markdown."""
    parts = [f"{step:,} updates of {run.pretraining.batch_size:,} sequences of up to {run.sequence_length} tokens each.\n"]
    records = read_records(run)
    corpus = records.get("counts", {}).get("corpus")
    if corpus:
        parts.append(
            f"The text: {corpus['documents']:,} documents, {corpus['sentences']:,} sentences, {corpus['tokens']:,} tokens, of "
            f"which {records['config']['validation_fraction']:.0%} of the documents were held out.\n"
        )
    parts.append(f"The command:\n\n    {_command(run)}\n")
    if is_finished(run, step) and (results := read_results(run)):
        parts.append(f"On the held-out documents:\n\n{_table(results)}")
    return "\n".join(parts)


def _command(run):
    """The command of a run, with all options that are not the default ones; RECORDS and RUN stand for its directories."""
    words = ["kbert", "pretrain", "RECORDS", "--output", "RUN"]
    named = [
        size for size in SIZES if _shape(BertConfig.of_size(size, vocabulary_size=run.bert.vocabulary_size)) == _shape(run.bert)
    ]
    options = {"size": named[0]} if named else {}
    options |= {name: getattr(run.bert, name) for name in ("dropout", "max_positions")}
    default = PretrainingConfig(steps=run.pretraining.steps)
    values = dataclasses.asdict(run.pretraining)
    options |= {"steps": values.pop("steps")} | {
        name: value for name, value in values.items() if value != getattr(default, name)
    }
    for name in ("dropout", "max_positions"):
        if options[name] == getattr(BertConfig, name):
            del options[name]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    if run.initial_sha256 is not None:
        words += ["--init-from", "PATH"]
    return shlex.join(words)


def _shape(bert):
    return (bert.num_layers, bert.hidden_size, bert.num_heads, bert.intermediate_size)


def _table(results):
    """The results of `evaluate` beside what is reached without a model, as a table in Markdown."""
    rows = [
        ("masked tokens: loss (nats)", f"{results['mlm_loss']:.3f}", f"{results['unigram_loss']:.3f}, unigram"),
        (
            "masked tokens: accuracy",
            f"{results['mlm_accuracy']:.1%}",
            f"{results['unigram_accuracy']:.1%}, most frequent token",
        ),
    ]
    if task := PAIR_TASKS.get(results["pairs"]):
        rows += [
            (f"{task}: loss (nats)", f"{results['nsp_loss']:.3f}", f"{results['majority_loss']:.3f}, label frequencies"),
            (f"{task}: accuracy", f"{results['nsp_accuracy']:.1%}", f"{results['majority_accuracy']:.1%}, majority label"),
        ]
    lines = ["| | model | without a model |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
