"""Speed and memory of the training step, next to other tools.

`python -m benchmarks.training` prints a table.

Every candidate trains the same model on the same batch, again and again, in a process of its own
that stays alive. In every repetition each takes its turn, so that whatever else the machine does
affects all of them. The rate of plain matrix products is measured in between. All have dropout 0.1,
AdamW, and gradients clipped to a norm of 1, and compute in float32 or, with float32 weights, in
bfloat16 (mixed_bfloat16 in Keras, autocast in PyTorch).

- kbert: `fit` of `kbert.pretraining_model`, as `kbert pretrain` does; also on JAX.
- keras_hub: `fit` of its BertBackbone and MaskedLMHead, with a dense layer on the pooled output for
  next sentence prediction; with XLA (jit_compile=True) and without.
- transformers: BertForPreTraining in PyTorch, which multiplies all positions with the vocabulary;
  plain and with torch.compile.

The share of the matrix product rate counts the same useful operations for all: those whose results
are read. In the last block and in the heads these are the operations for P masked positions and
[CLS]; only kbert computes no others.

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
    # Of a process that trains: which candidate it is, and where its batch lies.
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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
        batch = pathlib.Path(directory, "batch.npz")
        products = Worker(PRODUCTS, batch, arguments)
        workers = []
        try:
            products.measure_rate()  # this also writes the batch
            for name in arguments.candidates:
                workers.append(Worker(name, batch, arguments))
                workers[-1].make_ready(arguments.steps)
            for number in range(arguments.repetitions):
                print(f"repetition {number + 1}", flush=True)
                for worker in workers:
                    products.measure_rate()
                    worker.measure()
        finally:
            for worker in (products, *workers):
                worker.end()
    for worker in workers:
        worker.check_that_it_learned()
    print(
        f"\nload {os.getloadavg()[0]:.1f}; matrix products: {median(products.rates) / 1e9:,.0f} "
        "GFLOP/s, all:",
        end="",
    )
    print("".join(f" {rate / 1e9:,.0f}" for rate in products.rates))
    print_table(workers, median(products.rates) / products.flops)


def print_table(workers: Sequence[Worker], fastest: float) -> None:
    """Prints a row for every worker; `fastest` is the number of sequences per second that matrix
    products alone would allow."""
    ours = next((worker for worker in workers if worker.name == OURS), workers[0])
    titles = ("median", f"{ours.name} to it", "of matrix products", "processors", "peak MB", "all")
    rows: list[tuple[str, ...]] = [("sequences per second", *titles)]
    for worker in workers:
        ratio = median([one / other for one, other in zip(ours.rates, worker.rates, strict=True)])
        rate = median(worker.rates)
        seen = " ".join(f"{value:.4g}" for value in worker.rates)
        share, busy = f"{rate / fastest:.0%}", f"{median(worker.processors):.2f}"
        peak = f"{worker.peak / 1e6:,.0f}"
        rows.append((worker.name, f"{rate:.4g}", f"{ratio:.2f}", share, busy, peak, seen))
    table(rows)


class Worker:
    """A process that trains on request."""

    def __init__(self, name: str, batch: pathlib.Path, arguments: argparse.Namespace) -> None:
        self.name = name
        self.rates: list[float] = []
        self.processors: list[float] = []
        self.peak = self.flops = 0
        self._batch_size = arguments.batch_size
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
        words = (*sys.argv[1:], "--work", name, "--batch", str(batch))
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
        self.rates.append(self._steps * self._batch_size / answer["seconds"])
        self.processors.append(answer["processor_seconds"] / answer["seconds"])
        print(f"  {self.name}: {self.rates[-1]:.4g} sequences/s", flush=True)

    def measure_rate(self) -> None:
        """One measurement of the matrix product rate, by the worker for it."""
        answer = self._ask(1)
        self.rates.append(answer["rate"])
        self.flops = answer["flops"]

    def check_that_it_learned(self) -> None:
        """Exits if this did not train: the batch is always the same, so its loss must fall."""
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
    """Writes the batch that all train on, and returns a function that measures the matrix product
    rate."""
    import numpy as np

    from kbert.speed.machine import matrix_product_rate, training_flops
    from tfrecords.batch import BatchSpec, random_batch

    shapes = {
        "sequence_length": arguments.sequence_length,
        "max_predictions": arguments.max_predictions,
    }
    x, y, sample_weight = random_batch(
        BatchSpec(**shapes), arguments.batch_size, arguments.vocabulary_size
    )
    weights = {f"{name}_weight": values for name, values in sample_weight.items()}
    arrays: dict[str, Any] = {**x, **y, **weights}
    np.savez(arguments.batch, **arrays)
    flops = training_flops(bert_of(arguments), **shapes)
    return lambda _: {"rate": matrix_product_rate(arguments.precision), "flops": flops}


def train_as_told(arguments: argparse.Namespace) -> Callable[[int], dict[str, Any]]:
    """A function that trains a candidate for a number of steps and returns what was measured."""
    import numpy as np

    train, peak_memory = CANDIDATES[arguments.work](arguments, dict(np.load(arguments.batch)))

    def answer(steps: int) -> dict[str, Any]:
        start, processor_start = time.perf_counter(), time.process_time()
        loss = train(steps)
        seconds = time.perf_counter() - start
        processor_seconds = time.process_time() - processor_start
        return {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "loss": loss,
            "peak": peak_memory(),
        }

    return answer


if __name__ == "__main__":
    main()
