"""How fast and how large the training step is, beside what else there is: `python -m
benchmarks.training` prints a table.

Every candidate trains the same model on the same batch, again and again, in a process of its own
that stays alive; in every round each takes its turn, so that what else the machine does falls on
all of them. The rate of plain matrix products is measured between them. All have dropout 0.1,
AdamW, and gradients clipped to a norm of 1, and compute in float32 or, the weights being float32,
in bfloat16 (mixed_bfloat16 of Keras, autocast of PyTorch).

- kbert: `fit` of `kbert.pretraining_model`, as `kbert pretrain` does; also on JAX.
- keras_hub: `fit` of its BertBackbone and MaskedLMHead, with a dense layer on the pooled output for
  next sentences; with XLA (jit_compile=True) and without.
- transformers: BertForPreTraining in PyTorch, which takes all positions through the product with
  the vocabulary, plain and by torch.compile.

The share of the matrix products' rate counts the same useful operations for all: those whose
results are read. In the last block and in the heads these are the ones of P masked positions and
[CLS]; only kbert does no others.

On a GPU: `--candidates "kbert on JAX" transformers "transformers, compiled"`, with
KERAS_BACKEND=jax where there is no TensorFlow; the peaks are then of the GPU's memory, without what
the frameworks keep in reserve."""

import argparse
import itertools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from benchmarks.records import median, table
from kbert.config import PRECISIONS, SIZES, BertConfig, PretrainingConfig

OURS = "kbert"
PRODUCTS = "matrix products"
LEARNING_RATE = 1e-4
NOT_MASKED = -100
"""The label that `transformers` leaves out of its loss."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        "--steps", type=int, help="Of each repetition.  [default: what takes about 10 seconds]"
    )
    parser.add_argument(
        "--candidates", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES)
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)  # the candidate that this process is
    parser.add_argument(
        "--batch", type=pathlib.Path, help=argparse.SUPPRESS
    )  # where its batch lies
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
    else:
        compare(arguments)


# The process that compares.


def compare(arguments):
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
            products.measure_rate()  # and the batch is there
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


def print_table(workers, fastest):
    """Prints a row for every worker; `fastest` is the sequences per second that matrix products
    alone would allow."""
    ours = next((worker for worker in workers if worker.name == OURS), workers[0])
    rows = [
        (
            "sequences per second",
            "median",
            f"{ours.name} to it",
            "of matrix products",
            "processors",
            "peak MB",
            "all",
        )
    ]
    for worker in workers:
        ratio = median([one / other for one, other in zip(ours.rates, worker.rates, strict=True)])
        rate = median(worker.rates)
        seen = " ".join(f"{value:.4g}" for value in worker.rates)
        share, busy, peak = (
            f"{rate / fastest:.0%}",
            f"{median(worker.processors):.2f}",
            f"{worker.peak / 1e6:,.0f}",
        )
        rows.append((worker.name, f"{rate:.4g}", f"{ratio:.2f}", share, busy, peak, seen))
    table(rows)


class Worker:
    """A process that trains when it is told to."""

    def __init__(self, name, batch, arguments):
        self.name = name
        self.rates = []
        self.processors = []
        self.peak = self.flops = 0
        self._batch_size = arguments.batch_size
        self._losses = []
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (what it says on standard error, for as long as it lives)
        backend = "jax" if "JAX" in name else "tensorflow"
        if name == PRODUCTS:
            backend = os.environ.get("KERAS_BACKEND", backend)
        # On a GPU, JAX would take three quarters of the memory at once.
        environment = {
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.training",
                *sys.argv[1:],
                "--work",
                name,
                "--batch",
                str(batch),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | environment,
        )

    def make_ready(self, steps):
        """Lets it build and compile its model, and finds out how many steps a repetition has."""
        start = time.perf_counter()
        self._train(1)
        self._train(1)
        ready = time.perf_counter() - start
        self._steps = steps or max(1, round(10 / (self._train(2)["seconds"] / 2)))
        print(
            f"{self.name}: ready in {ready:.0f} s, {self._steps} steps in a repetition", flush=True
        )

    def measure(self):
        """One repetition."""
        answer = self._train(self._steps)
        self.rates.append(self._steps * self._batch_size / answer["seconds"])
        self.processors.append(answer["processor_seconds"] / answer["seconds"])
        print(
            f"  {self.name}: {self.rates[-1]:.4g} sequences/s", flush=True
        )  # what is known, should this be cut short

    def measure_rate(self):
        """One measurement of the rate of matrix products, by the worker for them."""
        answer = self._ask(1)
        self.rates.append(answer["rate"])
        self.flops = answer["flops"]

    def check_that_it_learned(self):
        """Ends everything if this did not train: the batch is always the same, and its loss has to
        fall."""
        if not all(map(math.isfinite, self._losses)) or self._losses[-1] >= self._losses[0]:
            sys.exit(f"{self.name}: expected a loss that falls. Received: {self._losses}.")

    def end(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._said.close()

    def _train(self, steps):
        """Trains for so many steps and returns the answer."""
        answer = self._ask(steps)
        self._losses.append(answer["loss"])
        self.peak = answer["peak"]
        return answer

    def _ask(self, steps):
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


def processor():
    """The name of the processor."""
    information = pathlib.Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


# The processes that train. None imports more than its candidate needs, since its memory counts.


def work(arguments):
    """Answers every line, a number of steps, with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr
    answer = measure_products(arguments) if arguments.work == PRODUCTS else train_as_told(arguments)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), file=answers, flush=True)


def measure_products(arguments):
    """Writes the batch that all train on, and returns a function that measures the rate of matrix
    products."""
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
    np.savez(
        arguments.batch,
        **x,
        **y,
        **{f"{name}_weight": values for name, values in sample_weight.items()},
    )
    flops = training_flops(bert_of(arguments), **shapes)
    return lambda _: {"rate": matrix_product_rate(arguments.precision), "flops": flops}


def train_as_told(arguments):
    """A function that trains a candidate for some steps and answers with what was measured."""
    import numpy as np

    train, peak_memory = CANDIDATES[arguments.work](arguments, dict(np.load(arguments.batch)))

    def answer(steps):
        start, processor_start = time.perf_counter(), time.process_time()
        loss = train(steps)
        seconds, processor_seconds = (
            time.perf_counter() - start,
            time.process_time() - processor_start,
        )
        return {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "loss": loss,
            "peak": peak_memory(),
        }

    return answer


def bert_of(arguments):
    return BertConfig.of_size(
        arguments.size,
        vocabulary_size=arguments.vocabulary_size,
        attention_dropout=arguments.attention_dropout,
    )


def policy_of(arguments):
    """The dtype policy of Keras."""
    return PretrainingConfig(precision=arguments.precision).dtype_policy


def process_peak():
    """The most bytes that this process has had in memory."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


# Every candidate is a function of the arguments and the batch that returns two: one trains for some
# steps and returns the mean loss, the other tells the most bytes of memory so far.


def kbert(arguments, batch):
    """The model and the step of `kbert pretrain`."""
    import kbert

    model = kbert.pretraining_model(bert_of(arguments), dtype=policy_of(arguments))
    model.compile(
        **kbert.pretraining_objective(learning_rate=LEARNING_RATE, steps=100_000, warmup_steps=0)
    )
    return keras_training(model, batch)


def keras_hub(arguments, batch, jit_compile):
    """KerasHub's encoder and head of masked words, with the losses and metrics of kbert."""
    import keras
    import keras_hub

    import kbert

    if arguments.attention_dropout != 0.1:
        sys.exit(
            "keras_hub has no dropout of its own for attention: leave it out of --candidates, or "
            "--attention-dropout."
        )
    bert = bert_of(arguments)
    keras.config.set_dtype_policy(policy_of(arguments))
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=bert.vocabulary_size,
        num_layers=bert.num_layers,
        num_heads=bert.num_heads,
        hidden_dim=bert.hidden_size,
        intermediate_dim=bert.intermediate_size,
        dropout=bert.dropout,
        max_sequence_length=bert.max_positions,
    )
    mask_positions = keras.Input((None,), dtype="int32", name="mask_positions")
    mlm = keras_hub.layers.MaskedLMHead(
        token_embedding=backbone.token_embedding,
        intermediate_activation=lambda x: keras.activations.gelu(x, approximate=True),
        layer_norm_epsilon=bert.layer_norm_epsilon,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=bert.initializer_range),
        name="mlm",
    )(backbone.output["sequence_output"], mask_positions)
    nsp = keras.layers.Dense(2, name="nsp")(backbone.output["pooled_output"])
    model = keras.Model(
        backbone.input | {"mask_positions": mask_positions}, {"mlm": mlm, "nsp": nsp}
    )
    objective = kbert.pretraining_objective(learning_rate=LEARNING_RATE, steps=100_000)
    optimizer = keras.optimizers.AdamW(
        LEARNING_RATE, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(**(objective | {"optimizer": optimizer}), jit_compile=jit_compile)
    return keras_training(model, batch)


def keras_training(model, batch):
    """A function that trains for some steps with `fit`, and the one that tells the peak of
    memory."""
    import keras

    from kbert.speed.machine import peak_memory
    from tfrecords.batch import BatchSpec

    spec = BatchSpec()
    x = {name: batch[name] for name in spec.x}
    y = {name: batch[name] for name in spec.y}
    sample_weight = {name: batch[f"{name}_weight"] for name in spec.sample_weight}
    batches = ((x, y, sample_weight) for _ in itertools.count())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        options.autotune.enabled = False  # its thread holds up the end of `fit`, by up to as long as it took (TensorFlow 2.21)
        batches = tf.data.Dataset.from_tensors(next(batches)).repeat().with_options(options)

    def train(steps):
        return model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0).history["loss"][
            0
        ]

    return train, peak_memory


def transformers(arguments, batch, compiled):
    """The model of `transformers` as it comes, in a plain loop of PyTorch."""
    import torch
    from transformers import BertConfig as PeerConfig
    from transformers import BertForPreTraining

    bert = bert_of(arguments)
    peer = BertForPreTraining(
        PeerConfig(
            vocab_size=bert.vocabulary_size,
            num_hidden_layers=bert.num_layers,
            hidden_size=bert.hidden_size,
            num_attention_heads=bert.num_heads,
            intermediate_size=bert.intermediate_size,
            hidden_dropout_prob=bert.dropout,
            attention_probs_dropout_prob=bert.attention_dropout,
        )
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = peer.to(device).train()
    decayed = [weight for weight in peer.parameters() if weight.ndim > 1]
    others = [weight for weight in peer.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        eps=1e-6,
        fused=True,
    )
    inputs = {
        "input_ids": batch["token_ids"],
        "token_type_ids": batch["segment_ids"],
        "attention_mask": batch["padding_mask"],
        "labels": labels_at_all_positions(batch),
        "next_sentence_label": batch["nsp"],
    }
    inputs = {
        name: torch.tensor(values, dtype=torch.int64, device=device)
        for name, values in inputs.items()
    }
    model = torch.compile(peer) if compiled else peer
    precision = torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bfloat16")

    def train(steps):
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            with precision:
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()  # which waits for all of them

    return train, torch.cuda.max_memory_allocated if device == "cuda" else process_peak


def labels_at_all_positions(batch):
    """The masked words where they stand in their sequences, int32 [B, S], and elsewhere what the
    loss leaves out."""
    import numpy as np

    labels = np.full_like(batch["token_ids"], NOT_MASKED)
    rows, slots = np.nonzero(batch["mlm_weight"])
    labels[rows, batch["mask_positions"][rows, slots]] = batch["mlm"][rows, slots]
    return labels


CANDIDATES = {
    OURS: kbert,
    "kbert on JAX": kbert,
    "keras_hub, XLA": lambda arguments, batch: keras_hub(arguments, batch, jit_compile=True),
    "keras_hub, no XLA": lambda arguments, batch: keras_hub(arguments, batch, jit_compile=False),
    "transformers": lambda arguments, batch: transformers(arguments, batch, compiled=False),
    "transformers, compiled": lambda arguments, batch: transformers(
        arguments, batch, compiled=True
    ),
}

if __name__ == "__main__":
    main()
