"""The whole chain on real text, small enough for a coffee break on a laptop."""

import pathlib
import shlex

from tfrecords.files import make_directory

SENTENCES = (
    "Return the [MASK] of the list.",
    "Raises a [MASK] if the file does not exist.",
    "If the [MASK] is omitted or None, the default is used.",
    "This method should be overridden by a [MASK].",
    "The name of the file to be [MASK] for reading.",
)
PAIR = ("Return True if the string is empty.", "Otherwise, return False.")


def run_demo(output, command):
    """Runs every step of kbert, each announced with the command that repeats it alone; what is
    there already is kept.

    Args:
        output: The directory of the demo.
        command: A function of the words of a `kbert` command, which runs it.
    """
    output = make_directory(pathlib.Path(output))
    corpus, vocabulary, records = output / "corpus.txt", output / "vocab.txt", output / "records"
    run, saved_model = output / "run", output / "saved_model"

    def step(title, *words, made=None):
        words = [str(word) for word in words]
        print(f"\n== {title}\n$ kbert {shlex.join(words)}", flush=True)
        if made is not None and made.exists():
            print(f"{made} is there already", flush=True)
        else:
            command(words)

    step(
        "1. a corpus: the documentation of this Python installation", "corpus", corpus, made=corpus
    )
    step(
        "2. a WordPiece vocabulary",
        "vocabulary",
        corpus,
        "--output",
        vocabulary,
        "--size",
        5000,
        made=vocabulary,
    )
    step(
        "3. records of masked sentence pairs, one document in ten held out",
        *(
            "records",
            corpus,
            "--vocabulary",
            vocabulary,
            "--output",
            records,
            "--sequence-length",
            64,
            "--max-predictions",
            10,
        ),
        *("--duplicates", 20, "--validation-fraction", 0.1),
    )
    step("4. a look into them", "inspect", records, "--examples", 2)
    step(
        "5. pretraining",
        *(
            "pretrain",
            records,
            "--output",
            run,
            "--size",
            "tiny",
            "--dropout",
            0,
            "--steps",
            5000,
            "--batch-size",
            32,
        ),
        *("--learning-rate", 0.001, "--evaluate-every", 500, "--evaluate-steps", 40),
    )
    step("6. the held-out results", "evaluate", run, records)
    step(
        "7. a SavedModel with the tokenizer in it",
        "export",
        run,
        "--output",
        saved_model,
        made=saved_model / "saved_model.pb",
    )
    step("8. masked words", "predict", saved_model, *SENTENCES)
    step("9. a sentence pair", "predict", saved_model, "--pair", *PAIR)
    print(f"\nThe curves of the training are in {run / 'curves.png'}.", flush=True)
