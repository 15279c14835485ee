"""Speed and memory of the training step, next to other tools.

`python -m benchmarks.training` prints a table.

Every candidate trains the same model on the same batch of random tokens, again and again, in a
process of its own that stays alive. In every repetition each takes its turn, so that whatever else
the machine does affects all of them. The rate of plain matrix products is measured in between. All
have dropout 0.1, AdamW, and gradients clipped to a norm of 1, and compute in float32 or, with
float32 weights, in bfloat16 (mixed_bfloat16 in Keras, autocast in PyTorch).

- kbert: `fit` of `kbert.pretraining_model`, as `kbert pretrain` does; also on JAX.
- keras_hub: `fit` of its BertBackbone and MaskedLMHead, with a dense layer on the pooled output for
  next sentence prediction; with XLA (jit_compile=True) and without.
- transformers: BertForPreTraining in PyTorch, which multiplies all positions with the vocabulary;
  plain and with torch.compile.

The share of the matrix product rate counts the same useful operations for all: those whose results
are read. In the last block and in the heads these are the operations for P masked positions and
[CLS]; only kbert computes no others.

With `--records DIR [DIR ...]` it is real records, and the rate is that of real tokens: padding does
not count. Several directories are for one corpus, made packed (`kbert records --pack`) and not, of
the same vocabulary: kbert trains on each, the others, which cannot do without the padding, on those
that are not packed. The first batches of the training split are read before and trained on in turn:
the reading is not measured. A batch has `--batch-size` rows, packed or not; with `--equal-tokens`
packed ones have as many fewer as hold the same real tokens.

On a GPU: `--candidates "kbert on JAX" transformers "transformers, compiled"`, with
KERAS_BACKEND=jax where TensorFlow has no GPU. The peaks are then of the GPU's memory, without what
the frameworks reserve in advance."""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.batches import (
    Source,
    read_batches,
    real_tokens,
    sources_of,
    take_shapes_of_records,
    write_batches,
)
from benchmarks.candidates import CANDIDATES, OURS, bert_of
from benchmarks.records import median, table
from kbert.config import PRECISIONS, SIZES

PRODUCTS = "matrix products"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed and memory of the training step, next to other tools."
    )
    parser.add_argument("--size", default="mini", choices=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--max-predictions", type=int, default=20)
    parser.add_argument("--vocabulary-size", type=int, default=30522)
    parser.add_argument(
        "--attention-dropout", type=float, default=0.1, help="0 lets all use fused attention"
    )
    parser.add_argument("--precision", default="float32", choices=list(PRECISIONS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, help="Steps of a repetition.  [default: about 10 seconds of them]"
    )
    parser.add_argument(
        "--candidates", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES)
    )
    parser.add_argument(
        "--records", nargs="+", type=pathlib.Path, help="Directories of records of one vocabulary"
    )
    parser.add_argument(
        "--equal-tokens",
        action="store_true",
        help="Fewer packed rows in a batch, with as many real tokens",
    )
    # Of a process that trains: which candidate it is, where its batches lie, and the most pairs in
    # their rows.
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--batches", nargs="+", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.records:
        take_shapes_of_records(arguments)
    if arguments.work:
        work(arguments)
    else:
        compare(arguments)


# The process that compares.


def compare(arguments: argparse.Namespace) -> None:
    """Starts a process for every candidate, lets them take turns, and prints the table."""
    print(f"{processor()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    print(
        f"{arguments.size}, batches of {arguments.batch_size}, S = {arguments.sequence_length}, "
        f"P = {arguments.max_predictions}, V = {arguments.vocabulary_size:,}, "
        f"{arguments.precision}, "
        f"attention dropout {arguments.attention_dropout:g}; {arguments.repetitions} repetitions",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="kbert-benchmark-") as directory:
        sources = sources_of(arguments, pathlib.Path(directory))
        products = Worker(PRODUCTS, sources, arguments)
        workers = []
        try:
            products.measure_rate()  # this also writes the batches
            for name in arguments.candidates:
                for number, source in enumerate(sources):
                    if source.pack == 1 or name.startswith(OURS):
                        workers.append(Worker(name, [source], arguments))
                        workers[-1].flops = products.flops_of_rows[number]
                        workers[-1].make_ready(arguments.steps)
            for number in range(arguments.repetitions):
                print(f"repetition {number + 1}", flush=True)
                for worker in workers:
                    products.measure_rate()
                    worker.measure()
            for worker in workers:
                worker.check_that_it_learned()
        finally:
            for worker in (products, *workers):
                worker.end()
    print(
        f"\nload {os.getloadavg()[0]:.1f}; matrix products: {median(products.rates) / 1e9:,.0f} "
        "GFLOP/s, all:",
        end="",
    )
    print("".join(f" {rate / 1e9:,.0f}" for rate in products.rates))
    unit = "real tokens" if arguments.records else "sequences"
    print_table(workers, unit, median(products.rates))


def print_table(workers: Sequence[Worker], unit: str, products: float) -> None:
    """Prints a row for every worker; `products` is the rate of matrix products alone."""
    ours = next((worker for worker in workers if worker.candidate == OURS), workers[0])
    titles = ("median", f"{ours.name} to it", "of matrix products", "processors", "peak MB", "all")
    rows: list[tuple[str, ...]] = [(f"{unit} per second", *titles)]
    for worker in workers:
        ratio = median([one / other for one, other in zip(ours.rates, worker.rates, strict=True)])
        rate = median(worker.rates)
        seen = " ".join(f"{value:.4g}" for value in worker.rates)
        share = f"{median(worker.rows) * worker.flops / products:.0%}"
        busy = f"{median(worker.processors):.2f}"
        peak = f"{worker.peak / 1e6:,.0f}"
        rows.append((worker.name, f"{rate:.4g}", f"{ratio:.2f}", share, busy, peak, seen))
    table(rows)


class Worker:
    """A process that trains on request."""

    def __init__(self, name: str, sources: Sequence[Source], arguments: argparse.Namespace) -> None:
        self.candidate = name
        self.name = name + (sources[0].name if name != PRODUCTS else "")
        self.rates: list[float] = []  # in real tokens or sequences, or products
        self.rows: list[float] = []
        self.processors: list[float] = []
        self.peak = self.flops = 0
        self.flops_of_rows: list[int] = []
        self._unit = "real tokens" if arguments.records else "sequences"
        self._losses: list[float] = []
        # Its standard error, shown if it fails; open for as long as the process lives.
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        backend = "jax" if "JAX" in name else "tensorflow"
        if name == PRODUCTS:
            backend = os.environ.get("KERAS_BACKEND", backend)
        # By default JAX reserves three quarters of a GPU's memory at once.
        environment = {
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        paths = [str(source.path) for source in sources]
        words = [*sys.argv[1:], "--work", name, "--pack", str(sources[0].pack), "--batches", *paths]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | environment,
        )

    def make_ready(self, steps: int | None) -> None:
        """Lets it build and compile its model, and determines the steps of a repetition."""
        start = time.perf_counter()
        self._train(1)
        self._train(1)
        ready = time.perf_counter() - start
        self._steps = steps or max(1, round(10 / (self._train(2)["seconds"] / 2)))
        print(
            f"{self.name}: ready in {ready:.0f} s, {self._steps} steps in a repetition", flush=True
        )

    def measure(self) -> None:
        """One repetition, printed at once in case this is interrupted."""
        answer = self._train(self._steps)
        self.rows.append(answer["rows"] / answer["seconds"])
        done = answer["tokens"] if self._unit == "real tokens" else answer["rows"]
        self.rates.append(done / answer["seconds"])
        self.processors.append(answer["processor_seconds"] / answer["seconds"])
        print(f"  {self.name}: {self.rates[-1]:.4g} {self._unit}/s", flush=True)

    def measure_rate(self) -> None:
        """One measurement of the matrix product rate, by the worker for it."""
        answer = self._ask(1)
        self.rates.append(answer["rate"])
        self.flops_of_rows = answer["flops"]

    def check_that_it_learned(self) -> None:
        """Exits if this did not train: after all steps, the loss of the first batch must be less
        than it was at first."""
        self._train(1)
        if not all(map(math.isfinite, self._losses)) or self._losses[-1] >= self._losses[0]:
            sys.exit(f"{self.name}: expected a falling loss. Received: {self._losses}.")

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.close()

    def _train(self, steps: int) -> dict[str, Any]:
        """Trains for a number of steps and returns the answer."""
        answer = self._ask(steps)
        self._losses.append(answer["loss"])
        self.peak = answer["peak"]
        return answer

    def _ask(self, steps: int) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._said.seek(0)
            sys.exit(
                f"{self.name} ended with {self._process.returncode}:\n{self._said.read()[-3000:]}"
            )
        return json.loads(answer)


def processor() -> str:
    """The name of the processor."""
    information = pathlib.Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


# The processes that train.


def work(arguments: argparse.Namespace) -> None:
    """Answers every line, a number of steps, with a line of JSON."""
    # Whatever libraries print must not end up among the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    answer = measure_products(arguments) if arguments.work == PRODUCTS else train_as_told(arguments)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), file=answers, flush=True)


def measure_products(arguments: argparse.Namespace) -> Callable[[int], dict[str, Any]]:
    """Writes the batches that all train on, and returns a function that measures the matrix product
    rate and tells the operations of a row of each source."""
    from kbert.speed.machine import matrix_product_rate, training_flops

    flops = []
    for spec in write_batches(arguments):
        assert spec.sequence_length is not None and spec.max_predictions is not None
        shape = (spec.sequence_length, spec.max_predictions, spec.pairs, spec.pack)
        flops.append(training_flops(bert_of(arguments), *shape))
    return lambda _: {"rate": matrix_product_rate(arguments.precision), "flops": flops}


def train_as_told(arguments: argparse.Namespace) -> Callable[[int], dict[str, Any]]:
    """A function that trains a candidate for a number of steps and returns what was measured."""
    (path,) = arguments.batches
    batches = read_batches(path)
    train, peak_memory = CANDIDATES[arguments.work](arguments, batches)
    tokens = [int(real_tokens(batch).sum()) for batch in batches]

    def answer(steps: int) -> dict[str, Any]:
        start, processor_start = time.perf_counter(), time.process_time()
        loss = train(steps)
        seconds = time.perf_counter() - start
        processor_seconds = time.process_time() - processor_start
        return {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            # All begin with the first batch each time.
            "rows": steps * len(batches[0]["token_ids"]),
            "tokens": sum(tokens[step % len(tokens)] for step in range(steps)),
            "loss": loss,
            "peak": peak_memory(),
        }

    return answer


if __name__ == "__main__":
    main()
