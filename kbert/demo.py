"""All commands on real text, small enough for a coffee break on a laptop."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Callable

from tfrecords.files import make_directory

SENTENCES = (
    "Return the [MASK] of the list.",
    "Raises a [MASK] if the file does not exist.",
    "If the [MASK] is omitted or None, the default is used.",
    "This method should be overridden by a [MASK].",
    "The name of the file to be [MASK] for reading.",
)
PAIR = ("Return True if the string is empty.", "Otherwise, return False.")

# What the demo asks for beside the defaults; a model of this size trains in minutes on a laptop.
_VOCABULARY = "--size 5000"
_RECORDS = "--sequence-length 64 --max-predictions 10 --duplicates 20 --validation-fraction 0.1"
_PRETRAIN = (
    "--size tiny --dropout 0 --steps 5000 --batch-size 32 --learning-rate 0.001 "
    "--evaluate-every 500 --evaluate-steps 40"
)


def run_demo(output: pathlib.Path | str, command: Callable[[list[str]], object]) -> None:
    """Runs every command of kbert, and prints each before it runs; what an earlier demo has
    finished is kept.

    Args:
        output: The directory of the demo.
        command: A function that runs a command of `kbert`, given as a list of words.
    """
    output = make_directory(pathlib.Path(output))
    corpus, vocabulary, records = output / "corpus.txt", output / "vocab.txt", output / "records"
    run, saved_model = output / "run", output / "saved_model"

    def step(
        title: str, *words: pathlib.Path | str, options: str = "", made: pathlib.Path | None = None
    ) -> None:
        # Records and runs are no such case: their commands continue or end at once themselves.
        line = [*map(str, words), *options.split()]
        print(f"\n== {title}\n$ kbert {shlex.join(line)}", flush=True)
        if made is not None and made.exists():
            print(f"{made} already exists", flush=True)
        else:
            command(line)

    # From text to records.
    title = "1. a corpus: the documentation of this Python installation"
    step(title, "corpus", corpus, made=corpus)
    title = "2. a WordPiece vocabulary"
    learn = ("vocabulary", corpus, "--output", vocabulary)
    step(title, *learn, options=_VOCABULARY, made=vocabulary)
    title = "3. records of masked sentence pairs, one document in ten for validation"
    build = ("records", corpus, "--vocabulary", vocabulary, "--output", records)
    step(title, *build, options=_RECORDS)
    step("4. a look into them", "inspect", records, options="--examples 2")

    # From records to a trained model.
    step("5. pretraining", "pretrain", records, "--output", run, options=_PRETRAIN)
    step("6. the results on the validation split", "evaluate", run, records)

    # The model in use.
    title = "7. a SavedModel with the tokenizer in it"
    export = ("export", run, "--output", saved_model)
    step(title, *export, made=saved_model / "saved_model.pb")
    step("8. masked words", "predict", saved_model, *SENTENCES)
    step("9. a sentence pair", "predict", saved_model, "--pair", *PAIR)
    print(f"\nThe curves of the training are in {run / 'curves.png'}.", flush=True)
