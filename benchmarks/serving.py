"""How long it takes to answer one short text, next to `transformers` and PyTorch.

`python -m benchmarks.serving` prints a table.

The same model, with random weights and a vocabulary learned from the documentation of this Python,
fills the mask of one short text again and again: kbert's SavedModel through its string signature,
and the export to Hugging Face's layout through the tokenizer of `transformers` and PyTorch; from
the text to the five likeliest words in both. oneDNN, which TensorFlow uses for matrix products,
takes long to start a small one, so the SavedModel is measured without it too. Each candidate is a
process of its own that stays alive. They take turns, and the figure of a turn is the median over
its calls."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.records import median, table
from benchmarks.training import processor
from kbert.config import SIZES, BertConfig

if TYPE_CHECKING:
    from tfrecords import Vocabulary

TEXT = "Return the [MASK] of the list."
TOP_K = 5

FillMask = Callable[[str], Sequence[object]]
"""Takes a text and returns the TOP_K likeliest words for its mask."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time to answer one short text, next to `transformers` and PyTorch."
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini", "base"], choices=list(SIZES))
    parser.add_argument("--vocabulary-size", type=int, default=8000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200, help="Per repetition.")
    # Of a process that answers: which candidate it is, and where its model lies.
    parser.add_argument("--work", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(CANDIDATES[arguments.work](arguments.model))
    else:
        compare(arguments)


# The process that compares.


def compare(arguments: argparse.Namespace) -> None:
    """Exports a model of every size in both formats, lets the candidates take turns, and prints the
    table."""
    print(
        f"{processor()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {TEXT!r}",
        flush=True,
    )
    rows = [("milliseconds for a text", "median", "to kbert", "all")]
    with tempfile.TemporaryDirectory(prefix="kbert-benchmark-") as place:
        vocabulary = learn_vocabulary(pathlib.Path(place), arguments.vocabulary_size)
        for size in arguments.sizes:
            times = measure(exports(pathlib.Path(place, size), size, vocabulary), arguments)
            ours = times[next(iter(CANDIDATES))]
            for name, values in times.items():
                ratio = median([theirs / one for theirs, one in zip(values, ours, strict=True)])
                seen = " ".join(f"{value:.2f}" for value in values)
                rows.append((f"{size}, {name}", f"{median(values):.2f}", f"{ratio:.2f}", seen))
    table(rows)


def learn_vocabulary(place: pathlib.Path, size: int) -> Vocabulary:
    """A vocabulary learned from the documentation of this Python."""
    import tfrecords

    (place / "corpus.txt").write_text(
        "\n\n".join("\n".join(document) for document in tfrecords.python_documents())
    )
    return tfrecords.learn_vocabulary([place / "corpus.txt"], size=size)


def exports(place: pathlib.Path, size: str, vocabulary: Vocabulary) -> dict[str, pathlib.Path]:
    """Exports the same model in the formats of the candidates; their directories by format."""
    import kbert

    model = kbert.pretraining_model(BertConfig.of_size(size, vocabulary_size=len(vocabulary)))
    pretrained = kbert.Pretrained.of_model(model, vocabulary, sequence_length=128, cased=False)
    return {
        format: kbert.save(pretrained, place / format, format)
        for format in ("saved-model", "huggingface")
    }


def measure(
    models: dict[str, pathlib.Path], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """The milliseconds of a call, for every candidate and repetition."""
    processes = {}
    for name in CANDIDATES:
        model = models["huggingface" if "PyTorch" in name else "saved-model"]
        words = ("--work", name, "--model", str(model))
        settings = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if "without" in name:
            settings["TF_ENABLE_ONEDNN_OPTS"] = "0"
        processes[name] = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | settings,
        )
    times = {name: [] for name in CANDIDATES}
    try:
        for name in CANDIDATES:
            ask(processes[name], name, 20)  # the first calls trace and allocate
        for _ in range(arguments.repetitions):
            for name, process in processes.items():
                times[name].append(1000 * ask(process, name, arguments.calls))
    finally:
        for process in processes.values():
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
    return times


def ask(process: subprocess.Popen[str], name: str, calls: int) -> float:
    """The median seconds of a number of calls by a candidate's process."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{calls}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{name} ended with {process.wait()}.")
    return json.loads(answer)


# The processes that answer.


def work(fill_mask: FillMask) -> None:
    """Answers every line, a number of calls, with the median seconds of one."""
    # Whatever libraries print must not end up among the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            words = fill_mask(TEXT)
            times.append(time.perf_counter() - start)
        assert len(words) == TOP_K, words
        print(json.dumps(median(times)), file=answers, flush=True)


def saved_model(path: pathlib.Path) -> FillMask:
    """kbert's SavedModel."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["fill_mask"]

    def fill_mask(text: str) -> Sequence[object]:
        assert loaded is not None  # kept alive: signatures hold its variables by weak references
        return signature(texts=tf.constant([text]))["tokens"][0, 0].numpy()

    return fill_mask


def transformers(path: pathlib.Path) -> FillMask:
    """The tokenizer of `transformers` and PyTorch."""
    import torch
    from transformers import AutoTokenizer, BertForPreTraining

    tokenizer = AutoTokenizer.from_pretrained(str(path))
    model = BertForPreTraining.from_pretrained(str(path)).eval()

    def fill_mask(text: str) -> Sequence[object]:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).prediction_logits[0]
        masks = inputs["input_ids"][0] == tokenizer.mask_token_id
        _, ids = torch.softmax(logits[masks], -1).topk(TOP_K)
        return tokenizer.convert_ids_to_tokens(ids[0])

    return fill_mask


CANDIDATES: dict[str, Callable[[pathlib.Path], FillMask]] = {
    "kbert's SavedModel": saved_model,
    "the same without oneDNN": saved_model,
    "transformers and PyTorch": transformers,
}

if __name__ == "__main__":
    main()
