"""The command line: every command reads its options, builds a configuration and calls one
function."""

import dataclasses
import importlib
import importlib.util
import os
import pathlib
import shlex
import signal
import sys
import warnings

import click

SIZES_HELP = "tiny, mini, small, medium, base, large, or one of the 24 miniatures as L-4_H-256."
_PATH = click.Path(path_type=pathlib.Path)
_INPUTS = click.argument("inputs", nargs=-1, required=True, type=_PATH)
_FORMAT = click.option(
    "--format",
    type=click.Choice(["sentences", "text", "jsonl", "parquet"]),
    default="sentences",
    show_default=True,
    help="sentences: one per line, an empty line between documents. text: paragraphs, two empty "
    "lines between documents. "
    "jsonl: a JSON object per line and document, with a field 'text'. parquet: a column 'text'. "
    "The others may be compressed.",
)
_WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes, of about 500 MB each.  [default: as many as processors, where it is worth it]",
)
_ERRORS = click.option(
    "--errors",
    type=click.Choice(["strict", "replace"]),
    default="strict",
    show_default=True,
    help="What invalid UTF-8 does: stop with its place, or be passed over.",
)
_CASED = click.option(
    "--cased/--uncased",
    default=None,
    help="Keep case and accents.  [default: as the vocabulary; uncased for a new one]",
)


class _Commands(click.Group):
    """Lists the commands in the order of the chain; an error that is the user's to mend is one line
    and exit code 2."""

    def list_commands(self, context):
        return list(self.commands)

    def invoke(self, context):
        from tfrecords.errors import InputError, WorkerError

        signal.signal(signal.SIGTERM, _exit_on_sigterm)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(context)
        except InputError as error:
            failure = click.ClickException(str(error))
            failure.exit_code = 2
            raise failure from None
        except WorkerError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(
                f"{error.filename or 'A file'}: {error.strerror or error}."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def _show_warning(message, category, filename, lineno, file=None, line=None):
    click.echo(f"warning: {message}", err=True)


def _exit_on_sigterm(number, frame):
    """Ends as Python ends, so that what is half done is cleared away."""
    raise SystemExit(128 + number)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="kbert-pretraining")
def main():
    """Pretrains BERT on your own text, one command after the other.

    'kbert demo' runs the whole chain on real text.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@main.command(short_help="Write Python's documentation as a corpus.")
@click.argument("output", type=_PATH)
@click.option(
    "--packages",
    multiple=True,
    metavar="NAME",
    help="An installed package to add; may be given several times.",
)
def corpus(output, packages):
    """Write the documentation of this Python installation to the file OUTPUT: real English, nothing
    downloaded.

    One sentence per line, one document per module, an empty line between documents; only prose,
    every paragraph once."""
    from tfrecords import python_docs
    from tfrecords.files import new_file, write_text

    new_file(output)
    documents = list(python_docs.python_documents(packages))
    write_text(output, "\n".join("\n".join(document) + "\n" for document in documents))
    sentences = sum(map(len, documents))
    click.echo(
        f"{output}: {len(documents):,} documents, {sentences:,} sentences, "
        f"{output.stat().st_size / 1e6:.1f} MB"
    )


@main.command(short_help="Learn a WordPiece vocabulary.")
@_INPUTS
@click.option("--output", required=True, type=_PATH, help="The vocabulary file to write.")
@click.option("--size", default=30522, show_default=True, help="Pieces, special tokens included.")
@click.option(
    "--min-frequency",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="How often a pair must occur to become a piece.",
)
@click.option("--cased/--uncased", default=False, show_default=True, help="Keep case and accents.")
@_FORMAT
@_ERRORS
@_WORKERS
def vocabulary(inputs, output, size, min_frequency, cased, format, errors, workers):
    """Learn a WordPiece vocabulary from INPUTS: text files, directories or patterns of them, or -
    for standard input."""
    tfrecords = _import("tfrecords")
    from tfrecords.files import new_file

    new_file(output)
    learned = tfrecords.learn_vocabulary(
        inputs,
        size,
        cased=cased,
        min_frequency=min_frequency,
        format=format,
        errors=errors,
        workers=workers,
        progress=sys.stderr.isatty(),
    )
    learned.save(output)
    click.echo(
        f"{output}: {len(learned):,} pieces, {'cased' if cased else 'uncased'}, sha256 "
        f"{learned.sha256[:12]}"
    )
    if len(learned) < size:
        click.echo(
            f"warning: the text gives only {len(learned):,} pieces, not {size:,}; use more text or "
            f"--size {len(learned)}.",
            err=True,
        )


@main.command(short_help="Make records of masked sentence pairs.")
@_INPUTS
@click.option(
    "--vocabulary",
    "vocabulary_path",
    required=True,
    type=_PATH,
    help="A vocabulary file, one piece per line.",
)
@click.option(
    "--output",
    required=True,
    type=_PATH,
    help="The directory to make; given again, the work goes on.",
)
@click.option(
    "--sequence-length",
    default=128,
    show_default=True,
    help="Tokens of the longest sequence, special ones included.",
)
@click.option(
    "--max-predictions", default=20, show_default=True, help="Masked tokens of a sequence, at most."
)
@click.option(
    "--pairs",
    type=click.Choice(["nsp", "sop", "none"]),
    default="nsp",
    show_default=True,
    help="nsp: the second part follows or is random. sop: both in order or swapped. none: full "
    "sentences, no second part.",
)
@click.option(
    "--duplicates", type=int, help="Passes over the text.  [default: 5, or 1 with dynamic masking]"
)
@click.option(
    "--short-sequence-probability", default=0.1, show_default=True, help="Share of shorter targets."
)
@click.option(
    "--masking",
    type=click.Choice(["static", "dynamic"]),
    default="static",
    show_default=True,
    help="static: masks are written. dynamic: they are drawn in training, other ones in every "
    "epoch.",
)
@click.option(
    "--mask-unit",
    type=click.Choice(["token", "word", "ngram"]),
    default="token",
    show_default=True,
    help="What is masked as one: pieces, whole words, or up to three words.",
)
@click.option(
    "--mask-rate", default=0.15, show_default=True, help="Share of the tokens that is predicted."
)
@click.option(
    "--mask-share", default=0.8, show_default=True, help="Share of those that becomes [MASK]."
)
@click.option(
    "--random-share",
    default=0.1,
    show_default=True,
    help="Share of those that becomes a random token.",
)
@click.option(
    "--validation-fraction",
    default=0.05,
    show_default=True,
    help="Share of the documents that is held out.",
)
@click.option(
    "--shards",
    type=int,
    help="Files of the training split.  [default: one for every 4 million tokens]",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip"]),
    default="none",
    show_default=True,
    help="Of the files.",
)
@click.option("--seed", default=12345, show_default=True, help="Every draw follows from it.")
@_CASED
@_FORMAT
@_ERRORS
@_WORKERS
@click.option(
    "--engine",
    type=click.Choice(["local", "beam"]),
    default="local",
    show_default=True,
    help="Who does the work.",
)
@click.option(
    "--beam-options",
    metavar="TEXT",
    help="Options of Apache Beam, as '--runner=FlinkRunner --flink_master=...'.",
)
def records(
    inputs,
    vocabulary_path,
    output,
    shards,
    cased,
    format,
    errors,
    workers,
    engine,
    beam_options,
    **options,
):
    """Make records of masked sentence pairs from INPUTS: text files, directories or patterns of
    them, or - for standard input.

    The bytes depend on the text, the vocabulary and the options alone, never on the number of
    workers. Killed and called again, the command goes on."""
    if beam_options and engine != "beam":
        raise click.UsageError("Expected --engine beam with --beam-options.")
    if workers and engine == "beam":
        raise click.UsageError(
            "Expected Beam's own option for the number of workers, in --beam-options, not "
            "--workers."
        )
    tfrecords = _import("tfrecords")
    vocabulary = tfrecords.Vocabulary.load(vocabulary_path)
    cased = vocabulary.cased if cased is None else cased
    config = tfrecords.RecordsConfig(num_shards=shards, cased=cased, **options)
    tfrecords.build_records(
        inputs,
        vocabulary,
        output,
        config,
        format=format,
        errors=errors,
        workers=workers,
        beam_options=shlex.split(beam_options or "") if engine == "beam" else None,
        progress=sys.stderr.isatty(),
    )
    click.echo(tfrecords.inspect(output, num_examples=0))


@main.command(short_help="Tell what is in records.")
@click.argument("directory", type=_PATH)
@click.option(
    "--examples", type=click.IntRange(0), default=3, show_default=True, help="Records to decode."
)
@click.option("--verify", is_flag=True, help="Read every record and check it.")
def inspect(directory, examples, verify):
    """Tell what is in the records in DIRECTORY: counts, warnings and decoded examples."""
    click.echo(_import("tfrecords").inspect(directory, num_examples=examples, verify=verify))


@main.command(short_help="Pretrain BERT on records.")
@click.argument("records", type=_PATH)
@click.option(
    "--output",
    required=True,
    type=_PATH,
    help="The directory of the run; given again, the run continues.",
)
@click.option("--size", help=f"{SIZES_HELP}  [default: base, or that of --init-from]")
@click.option(
    "--dropout",
    type=float,
    help="Share of values dropped in training.  [default: 0.1, or that of --init-from]",
)
@click.option(
    "--attention-dropout",
    type=float,
    help="The same of attention; 0 lets JAX use fused attention.  [default: as --dropout]",
)
@click.option(
    "--max-positions",
    type=int,
    help="Longest sequence that the model could ever take.  [default: 512, or as --init-from]",
)
@click.option("--steps", default=100_000, show_default=True, help="Updates of the weights.")
@click.option("--batch-size", default=256, show_default=True, help="Sequences in an update.")
@click.option("--learning-rate", default=1e-4, show_default=True, help="At its peak.")
@click.option(
    "--warmup-steps",
    type=int,
    help="Updates in which it rises.  [default: 10000, at most a tenth of the steps]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "lamb"]),
    default="adamw",
    show_default=True,
    help="lamb: for huge batches.",
)
@click.option(
    "--weight-decay",
    default=0.01,
    show_default=True,
    help="Share of a weight that an update takes away.",
)
@click.option(
    "--decay-power",
    default=1.0,
    show_default=True,
    help="Of the curve on which the learning rate falls.",
)
@click.option(
    "--mlm-weight",
    default=1.0,
    show_default=True,
    help="Weight of the masked language modelling loss.",
)
@click.option(
    "--nsp-weight",
    default=1.0,
    show_default=True,
    help="Weight of the next sentence prediction loss.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of computations.",
)
@click.option(
    "--evaluate-every",
    type=int,
    help="Updates between held-out evaluations.  [default: a twentieth of the steps]",
)
@click.option(
    "--evaluate-steps", type=int, help="Batches of an evaluation during training.  [default: all]"
)
@click.option(
    "--patience",
    type=int,
    help="Evaluations without a better loss after which to stop.  [default: never]",
)
@click.option(
    "--checkpoint-every", default=1000, show_default=True, help="Updates between checkpoints."
)
@click.option(
    "--keep-checkpoints", default=3, show_default=True, help="Newest checkpoints to keep."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Initial weights, dropout and order follow from it.",
)
@click.option(
    "--init-from",
    type=_PATH,
    help="A run, or a model in any format of 'kbert export', to start from.",
)
@click.option(
    "--strategy",
    metavar="[auto|one|mirrored|multi-worker|tpu]",
    default="auto",
    show_default=True,
    help="Devices: one, all GPUs (mirrored), the processes of TF_CONFIG, or a TPU. The batch is "
    "that of all together.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Micro-batches of an update.",
)
@click.option(
    "--recompute", is_flag=True, help="Keep fewer activations: less memory, a third more time."
)
@click.option(
    "--tensorboard", is_flag=True, help="Write figures for TensorBoard to RUN/tensorboard."
)
def pretrain(
    records, output, size, init_from, strategy, accumulate, recompute, tensorboard, **options
):
    """Pretrain BERT on the RECORDS in a directory; the same command again continues where it
    stopped."""
    tfrecords, kbert = _import("tfrecords"), _import("kbert")
    manifest = tfrecords.load_manifest(records)
    initial = None if init_from is None else kbert.load(init_from)
    changes = {
        name: options.pop(name) for name in ("dropout", "attention_dropout", "max_positions")
    }
    if changes["attention_dropout"] is None:
        changes["attention_dropout"] = changes["dropout"]
    changes = {name: value for name, value in changes.items() if value is not None}
    if initial is not None:
        bert = dataclasses.replace(initial.bert, **changes)
    if size is not None or initial is None:
        of_size = kbert.BertConfig.of_size(
            size or "base", vocabulary_size=manifest.vocabulary_size, **changes
        )
        shape = ("vocabulary_size", "num_layers", "hidden_size", "num_heads", "intermediate_size")
        bert = (
            of_size
            if initial is None
            else dataclasses.replace(bert, **{name: getattr(of_size, name) for name in shape})
        )
    try:
        model, results = kbert.pretrain(
            records,
            output,
            bert=bert,
            pretraining=kbert.PretrainingConfig(**options),
            init_from=initial,
            strategy=strategy,
            accumulate=accumulate,
            recompute=recompute,
            tensorboard=tensorboard,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except kbert.TrainingError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{output}: trained for {int(model.optimizer.iterations.numpy()):,} steps")
    if results:
        click.echo(f"held-out, all {manifest.num_records('validation'):,} records:")
        click.echo(kbert.results_table(results))


@main.command(short_help="Measure a run on held-out records.")
@click.argument("run", type=_PATH)
@click.argument("records", type=_PATH)
@click.option(
    "--split", type=click.Choice(["validation", "train"]), default="validation", show_default=True
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Sequences at once.",
)
def evaluate(run, records, split, batch_size):
    """Measure the RUN's newest checkpoint on a split of RECORDS, beside what is reached without a
    model."""
    tfrecords, kbert = _import("tfrecords"), _import("kbert")
    loaded = kbert.load_run(run)
    manifest = tfrecords.load_manifest(records)
    if manifest.vocabulary_sha256 != loaded.vocabulary.sha256:
        raise tfrecords.InputError(
            f"Expected records with the vocabulary of the run, {loaded.vocabulary.sha256[:12]}. "
            f"Received: {records}, written with {manifest.vocabulary_sha256[:12]}."
        )
    if manifest.pairs != loaded.pairs:
        raise tfrecords.InputError(
            f"Expected records with the pairs of the run, {loaded.pairs!r}. Received: {records}, "
            f"made with {manifest.pairs!r}."
        )
    manifest.verify()
    results = kbert.evaluate(loaded.load_model(), manifest, split=split, batch_size=batch_size)
    click.echo(f"{run} on the {manifest.num_records(split):,} {split} records of {records}")
    click.echo(kbert.results_table(results))


@main.command(short_help="Tell how fast this machine trains.")
@click.option("--size", default="base", show_default=True, help=SIZES_HELP)
@click.option(
    "--batch-size",
    type=int,
    multiple=True,
    help="Sequences in an update; may be given several times.  [default: 8, 32, 128]",
)
@click.option("--sequence-length", default=128, show_default=True, help="Tokens of a sequence.")
@click.option(
    "--max-predictions", default=20, show_default=True, help="Masked tokens of a sequence, at most."
)
@click.option(
    "--vocabulary-size", default=30522, show_default=True, help="Pieces, special tokens included."
)
@click.option(
    "--dropout", default=0.1, show_default=True, help="Share of values dropped in training."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of computations.",
)
@click.option("--accumulate", default=1, show_default=True, help="Micro-batches of an update.")
@click.option(
    "--steps", default=100_000, show_default=True, help="Updates of the run whose time is told."
)
@click.option(
    "--strategy",
    type=click.Choice(["auto", "one", "mirrored", "tpu"]),
    default="auto",
    show_default=True,
    help="Devices, as for pretrain. The batch is that of all together.",
)
def benchmark(size, batch_size, vocabulary_size, dropout, **options):
    """Tell how fast this machine pretrains a model, and how long a run would take, from some steps
    on random tokens.

    It takes about a minute. Held-out evaluations and checkpoints come on top of what it tells.
    """
    kbert = _import("kbert")
    bert = kbert.BertConfig.of_size(size, vocabulary_size=vocabulary_size, dropout=dropout)
    kbert.benchmark(bert, batch_sizes=batch_size or None, **options)


@main.command(short_help="Compile a run's step for a TPU that is not there.")
@click.option("--size", default="base", show_default=True, help=SIZES_HELP)
@click.option(
    "--batch-size",
    default=256,
    show_default=True,
    help="Sequences in an update, on all chips together.",
)
@click.option(
    "--topology",
    default="v5e:2x2",
    show_default=True,
    help="Chips v4, v5e, v5p or v6e and how they are laid out.",
)
@click.option("--sequence-length", default=128, show_default=True, help="Tokens of a sequence.")
@click.option(
    "--max-predictions",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Masked tokens of a sequence.",
)
@click.option("--vocabulary-size", default=30522, show_default=True, help="Pieces.")
@click.option(
    "--dropout", default=0.1, show_default=True, help="Share of values dropped in training."
)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "lamb"]), default="adamw", show_default=True
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Of computations.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Micro-batches of an update.",
)
@click.option("--recompute", is_flag=True, help="Keep fewer activations.")
@click.option("--steps", type=int, help="Also say how long so many updates take.")
def plan(
    size, batch_size, topology, vocabulary_size, dropout, optimizer, precision, steps, **options
):
    """Tell what a training step would take on a TPU: memory of a chip, operations, and the time
    that it needs at least.

    The step is compiled by the TPU's own compiler, on this machine, for chips that need not be
    there; nothing is run. It takes minutes for large sizes. Needs Linux and pip install
    '.[tpu-plan]' in the clone."""
    from tfrecords.errors import InputError

    if importlib.util.find_spec("jax") is None:
        raise InputError(
            "Expected JAX. Received: none; pip install '.[tpu-plan]' in the clone, on Linux."
        )
    os.environ |= {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
    }  # a TPU or GPU that is there is left alone
    kbert = _import("kbert")
    from kbert.speed.plan import plan_table, training_plan

    bert = kbert.BertConfig.of_size(size, vocabulary_size=vocabulary_size, dropout=dropout)
    settings = {"batch_size": batch_size, "optimizer": optimizer, "precision": precision}
    pretraining = kbert.PretrainingConfig(**settings, **({} if steps is None else {"steps": steps}))
    click.echo(plan_table(training_plan(bert, pretraining, topology, **options), steps))


@main.command(short_help="Export a model to another format.")
@click.argument("model", type=_PATH)
@click.option("--output", required=True, type=_PATH, help="The directory to make.")
@click.option(
    "--format",
    type=click.Choice(["saved-model", "keras-hub", "huggingface", "google"]),
    default="saved-model",
    show_default=True,
    help="saved-model: takes plain texts, in TensorFlow alone. keras-hub: a preset. huggingface: "
    "for transformers. "
    "google: a checkpoint of google-research/bert.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    help="Words that a SavedModel gives for each [MASK].  [default: 5]",
)
def export(model, output, format, top_k):
    """Export a MODEL, a run's newest checkpoint or a model in any of the formats, to a format."""
    if top_k and format != "saved-model":
        raise click.UsageError("Expected --top-k with --format saved-model alone.")
    kbert = _import("kbert")
    pretrained = kbert.load(model)
    kbert.save(pretrained, output, format, **({"top_k": top_k} if top_k else {}))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(
        f"{output}: {format}, {size / 1e6:.1f} MB; {output / 'README.md'} says how to use it"
    )


@main.command(short_help="Fill masks, judge sentence pairs, embed texts.")
@click.argument("model", type=_PATH)
@click.argument("text", nargs=-1)
@click.option("--pair", nargs=2, type=str, metavar="A B", help="Two texts: does B follow A?")
@click.option("--top-k", type=click.IntRange(1), help="Words for each [MASK].  [default: 5]")
@click.option(
    "--embed",
    type=_PATH,
    metavar="FILE.npy",
    help="Write an array of the texts' vectors, a row each.",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls", "pooler"]),
    default="mean",
    show_default=True,
    help="A text's vector: the mean of its tokens, that of [CLS], or that through the pooler.",
)
def predict(model, text, pair, top_k, embed, pooling):
    """Fill every [MASK] in TEXT with a MODEL, tell whether one text follows another, or write the
    texts' vectors.

    MODEL is a run or a model in any of the formats of 'kbert export'; TEXT may be -, which reads a
    text from every line of standard input."""
    if bool(text) == bool(pair):
        raise click.UsageError("Expected either texts or --pair A B.")
    if pair and embed:
        raise click.UsageError("Expected texts with --embed, not --pair.")
    texts = _lines(sys.stdin.buffer.read()) if text == ("-",) else list(text)
    if embed:
        from tfrecords.files import new_file

        new_file(embed)
    predictor = _import("kbert").load_predictor(model, top_k)
    if pair:
        click.echo(f"{predictor.next_sentence(*pair):.3f}  probability that B follows A")
    elif embed:
        _save_vectors(predictor.embed(texts, pooling), embed)
    else:
        for one, answers in [(one, predictor.fill_mask(one)) for one in texts]:
            click.echo(one)
            for words in answers:
                click.echo(
                    "  [MASK] "
                    + "  ".join(f"{word.token} {word.probability:.3f}" for word in words)
                )


def _lines(data):
    """The lines of bytes as texts: a line ends with a line feed alone, or with a carriage return
    before it."""
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n") if data else []
    return [line.removesuffix("\r") for line in lines]


def _save_vectors(vectors, path):
    import numpy as np

    from tfrecords.files import atomic_path

    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.save(file, vectors)
    click.echo(
        f"{path}: {vectors.shape[0]:,} vectors of {vectors.shape[1]:,} numbers, {vectors.dtype}"
    )


@main.command(short_help="Run the whole chain on real text.")
@click.option(
    "--output", default="demo", show_default=True, type=_PATH, help="The directory of the demo."
)
def demo(output):
    """Run the whole chain on the documentation of this Python, with the command for every step."""
    from kbert.demo import run_demo

    run_demo(output, lambda words: main.main(words, prog_name="kbert", standalone_mode=False))


def _import(name):
    """Imports a package that brings TensorFlow, without the lines that its C++ code prints before
    any setting counts."""
    from tfrecords.errors import InputError
    from tfrecords.workers import silenced_stderr

    if os.environ.get("KERAS_BACKEND") == "jax" and importlib.util.find_spec("jax") is None:
        raise InputError(
            "Expected JAX, which KERAS_BACKEND=jax asks for. Received: none; pip install '.[jax]' "
            "in the clone."
        )
    with silenced_stderr():
        importlib.import_module("tensorflow").config.list_physical_devices()
    return importlib.import_module(name)
