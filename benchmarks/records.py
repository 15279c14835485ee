"""Speed, memory and size of the data half, next to other tools.

`python -m benchmarks.records` prints tables of medians and ratios.

The parts speed, workers, memory and size measure whole processes; where their start matters, it is
taken out by the difference between two sizes of corpus. Tokenization and reading are measured in
this process. The text is the documentation of this Python and of installed packages. Repetitions
of what is compared take turns, so that whatever else the machine does affects all of them.

The peer is the Model Garden's script, installed as `make test` does it: `pip install --no-deps
tf-models-official==2.20.0`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

PACKAGES = ("tensorflow", "keras", "keras_hub", "torch", "transformers", "numpy", "matplotlib")
PEER = "tf-models-official"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed, memory and size of the data half, next to other tools."
    )
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="What to measure."
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--megabytes",
        type=int,
        default=10,
        help="Size of the smallest corpus; the others have 4 to 16 times that.",
    )
    parser.add_argument(
        "--peer-megabytes",
        type=float,
        default=5,
        help="The same for the slow peer, whose larger corpus has double that.",
    )
    parser.add_argument(
        "--directory", type=pathlib.Path, help="Where to work.  [default: a temporary one]"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="kbert-benchmark-", dir=arguments.directory
    ) as directory:
        bench = Bench(pathlib.Path(directory), arguments)
        print(
            f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {arguments.repetitions} "
            "repetitions",
            flush=True,
        )
        for part in arguments.parts:
            print(f"\n== {part}", flush=True)
            PARTS[part](bench)


class Bench:
    """A directory with a vocabulary and a corpus of every size asked for."""

    def __init__(self, directory: pathlib.Path, arguments: argparse.Namespace) -> None:
        self.directory = directory
        self.repetitions = arguments.repetitions
        self.megabytes = arguments.megabytes
        self.peer_megabytes = arguments.peer_megabytes
        self._text = directory / "text.txt"
        packages = [
            word for name in PACKAGES if is_installed(name) for word in ("--packages", name)
        ]
        run([sys.executable, "-m", "kbert", "corpus", str(self._text), *packages])
        self.vocabulary = directory / "vocab.txt"
        learned = ("--output", str(self.vocabulary), "--size", "16000")
        run([*kbert("vocabulary"), str(self._text), *learned])
        self.records(1)  # numba keeps what it compiles: no measurement pays for it

    def corpus(self, megabytes: float) -> pathlib.Path:
        """A file of about that size with whole documents: the text, repeated as needed."""
        path = self.directory / f"corpus-{megabytes}.txt"
        if not path.exists():
            text, size = self._text.read_bytes(), int(megabytes * 1e6)
            times, rest = divmod(size, len(text))
            with open(path, "wb") as file:
                for _ in range(times):
                    file.write(text)
                file.write(text[: text.find(b"\n\n", rest) + 2] if rest else b"")
        return path

    def records(self, megabytes: float, *options: str, **how: Any) -> tuple[int, int, Usage]:
        """Runs `kbert records`; returns (number of records, bytes of shards, Usage)."""
        output = self.directory / "records"
        shutil.rmtree(output, ignore_errors=True)
        usage = run(
            [
                *kbert("records"),
                str(self.corpus(megabytes)),
                *("--vocabulary", str(self.vocabulary), "--output", str(output)),
                *options,
            ],
            **how,
        )
        import tfrecords

        manifest = tfrecords.load_manifest(output)
        count = sum(shard.records for shard in manifest.shards)
        return count, sum(shard.bytes for shard in manifest.shards), usage

    def peer_records(self, megabytes: float) -> tuple[int, Usage]:
        """Runs the Model Garden's script; returns (number of records, Usage)."""
        from tfrecords.framing import scan_records

        output = self.directory / "peer.tfrecord"
        usage = run(
            [
                *(sys.executable, "-m", "official.nlp.data.create_pretraining_data"),
                f"--input_file={self.corpus(megabytes)}",
                f"--output_file={output}",
                f"--vocab_file={self.vocabulary}",
                *("--do_lower_case", "--max_seq_length=128"),
                *("--max_predictions_per_seq=20", "--dupe_factor=5"),
            ],
            one_processor=True,
            KERAS_BACKEND="tensorflow",
            TF_USE_LEGACY_KERAS="1",
        )
        return scan_records(output)[0], usage


class Usage(NamedTuple):
    """What a process and its children used together."""

    cpu: float
    """Seconds of processors."""
    wall: float
    """Seconds of the clock."""
    memory: int
    """Peak bytes of memory."""


def kbert(command: str) -> list[str]:
    return [sys.executable, "-m", "kbert", command]


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def run(
    command: Sequence[str], watch: bool = False, one_processor: bool = False, **environment: str
) -> Usage:
    """Runs a command to its end and returns its Usage; its memory only with `watch`, which slows
    it down."""
    pinned = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if one_processor else []
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [*pinned, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    peak = [0]
    if watch:
        threading.Thread(target=_watch, args=(process, peak), daemon=True).start()
    _, error = process.communicate()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{error[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Usage(cpu, wall, peak[0])


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    """Keeps the largest sum of the memory of a process and its descendants (proportional set size,
    from /proc)."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_memory, _descendants(process.pid))))
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _descendants(int(child))
    except OSError:
        pass
    return found


def _memory(pid: int) -> int:
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(rows: Sequence[Sequence[object]]) -> None:
    """Prints rows of (name, value, ...) with aligned columns."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            str(row[0]).ljust(widths[0]),
            *(str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells), flush=True)


def speed(bench: Bench) -> None:
    """Records per second of CPU, one worker on one processor, S = 128, P = 20, 5 duplicates,
    without the start."""
    options = ("--workers", "1", "--shards", "4")
    ours, peers = [], []
    for _ in range(bench.repetitions):
        small, _, first = bench.records(bench.megabytes, *options, one_processor=True)
        large, _, second = bench.records(4 * bench.megabytes, *options, one_processor=True)
        ours.append((large - small) / (second.cpu - first.cpu))
        small, first = bench.peer_records(bench.peer_megabytes)
        large, second = bench.peer_records(2 * bench.peer_megabytes)
        peers.append((large - small) / (second.cpu - first.cpu))
    rows = [("records per CPU second", "median", "all", "ratio")]
    for name, values in (("kbert", ours), (PEER, peers)):
        seen = " ".join(f"{value:,.0f}" for value in values)
        rows.append((name, f"{median(values):,.0f}", seen, f"{median(values) / median(peers):.1f}"))
    table(rows)


def workers(bench: Bench) -> None:
    """Seconds of the clock with one worker and with two, without the start."""
    walls = {1: [], 2: []}
    for _ in range(bench.repetitions):
        for count, values in walls.items():
            options = ("--workers", str(count), "--shards", "8")
            _, _, first = bench.records(bench.megabytes, *options)
            _, _, second = bench.records(8 * bench.megabytes, *options)
            values.append(second.wall - first.wall)
    ratios = [one / two for one, two in zip(walls[1], walls[2], strict=True)]
    rows = [(f"seconds for {7 * bench.megabytes} MB more", "median", "ratio", "all ratios")]
    seen = " ".join(f"{ratio:.2f}" for ratio in ratios)
    rows += [("1 worker", f"{median(walls[1]):.2f}", "1.00", "")]
    rows += [("2 workers", f"{median(walls[2]):.2f}", f"{median(ratios):.2f}", seen)]
    table(rows)


def memory(bench: Bench) -> None:
    """Peak memory of all processes together as the corpus grows."""
    rows = [("peak memory, 2 workers", "MB", "to the smallest")]
    peaks = []
    for factor in (1, 4, 16):
        megabytes = factor * bench.megabytes
        seen = [
            bench.records(megabytes, "--workers", "2", watch=True)[2].memory
            for _ in range(bench.repetitions)
        ]
        peaks.append(median(seen))
        growth = f"{peaks[-1] / peaks[0]:.2f}"
        rows.append((f"{megabytes} MB of text", f"{peaks[-1] / 1e6:,.0f}", growth))
    table(rows)


def size(bench: Bench) -> None:
    """Bytes on disk: static with 5 duplicates, plain and compressed, and dynamic."""
    _, static, _ = bench.records(bench.megabytes, "--duplicates", "5")
    _, packed, _ = bench.records(bench.megabytes, "--duplicates", "5", "--compression", "gzip")
    _, dynamic, _ = bench.records(bench.megabytes, "--masking", "dynamic")
    sizes = {"static, 5 duplicates": static, "static, gzip": packed, "dynamic": dynamic}
    rows = [(f"MB of records from {bench.megabytes} MB", "MB", "to static")]
    for name, value in sizes.items():
        rows.append((name, f"{value / 1e6:.1f}", f"{value / static:.2f}"))
    table(rows)


def tokenization(bench: Bench) -> None:
    """MB of text per second of CPU, on the same sentences."""
    import tensorflow as tf
    import tensorflow_text as tf_text
    import tokenizers

    import tfrecords
    from tfrecords.build.tokenizing import CorpusTokenizer

    # The same sentences for all, in batches of a size that suits each of them.
    lines = bench.corpus(bench.megabytes).read_text(encoding="utf-8").split("\n")
    sentences = [line for line in lines if line][:60_000]
    batches = [sentences[start : start + 4096] for start in range(0, len(sentences), 4096)]
    vocabulary = tfrecords.Vocabulary.load(bench.vocabulary)
    ours = CorpusTokenizer(vocabulary, tfrecords.RecordsConfig(cased=False), "sentences", "strict")
    # TensorFlow has two classes of this name, which are the same for all but a type checker.
    int32: Any = tf.int32
    fast = tf_text.FastBertTokenizer(
        list(vocabulary.tokens), lower_case_nfd_strip_accents=True, token_out_type=int32
    )
    plain = tf_text.BertTokenizer(str(bench.vocabulary), lower_case=True, token_out_type=int32)
    rust = tokenizers.BertWordPieceTokenizer(str(bench.vocabulary), lowercase=True)
    signature = [tf.TensorSpec([None], tf.string)]
    fast, plain = (tf.function(one.tokenize, input_signature=signature) for one in (fast, plain))
    candidates = {
        "kbert": lambda batch: ours.tokens(batch),
        "tensorflow_text.FastBertTokenizer": lambda batch: fast(tf.constant(batch)),
        "tensorflow_text.BertTokenizer": lambda batch: plain(tf.constant(batch)),
        "tokenizers.BertWordPieceTokenizer": lambda batch: rust.encode_batch(
            batch, add_special_tokens=False
        ),
    }

    # The first round warms up: caches, compilation, allocations.
    megabytes = sum(len(sentence.encode()) for sentence in sentences) / 1e6
    rates = {name: [] for name in candidates}
    for _ in range(bench.repetitions + 1):
        for name, tokenize in candidates.items():
            start = time.process_time()
            for batch in batches:
                tokenize(batch)
            rates[name].append(megabytes / (time.process_time() - start))
    rows = [("MB per CPU second", "median", "ratio")]
    for name, values in rates.items():
        ratio = median(rates["kbert"][1:]) / median(values[1:])
        rows.append((name, f"{median(values[1:]):.1f}", f"{ratio:.1f}"))
    table(rows)


def reading(bench: Bench) -> None:
    """Records read and batched per second of the clock, and seconds to the first batch from
    anywhere in an epoch."""
    import tfrecords

    first_batch = "seconds to the first batch of step 0, 1/2, last"
    rows = [("reading, S = 128, batches of 256", "records/s", first_batch)]
    dynamic = ("--masking", "dynamic", "--duplicates", "5")
    for name, options in {"static": (), "dynamic": dynamic}.items():
        bench.records(4 * bench.megabytes, *options)
        manifest = tfrecords.load_manifest(bench.directory / "records")
        steps = manifest.num_records("train") // 256
        rates, starts = [], []
        for _ in range(bench.repetitions):
            start = time.perf_counter()
            number = sum(1 for _ in tfrecords.read(manifest, batch_size=256))
            rates.append(number * 256 / (time.perf_counter() - start))
            starts.append([])
            for step in (0, steps // 2, steps - 1):
                start = time.perf_counter()
                next(iter(tfrecords.read(manifest, batch_size=256, start_step=step)))
                starts[-1].append(time.perf_counter() - start)
        times = " ".join(f"{median(values):.2f}" for values in zip(*starts, strict=True))
        rows.append((name, f"{median(rates):,.0f}", times))
    table(rows)


def packing(bench: Bench) -> None:
    """How full the rows of packed records are, on the documentation of this Python alone, and what
    of the time of a build in this process is packing: finding pairs that share a row, and putting
    them there."""
    import tfrecords
    from tfrecords.build import shards

    text = bench.directory / "documentation.txt"
    run([*kbert("corpus"), str(text)])
    vocabulary = tfrecords.Vocabulary.load(bench.vocabulary)
    spent = dict.fromkeys(("shuffled_rows", "packed_features"), 0.0)

    def timed(name, function):
        def call(*arguments):
            start = time.process_time()
            result = function(*arguments)
            spent[name] += time.process_time() - start
            return result

        return call

    for name in spent:
        setattr(shards, name, timed(name, getattr(shards, name)))
    rows: list[tuple[object, ...]] = [
        ("S, 8 pairs in a row", "padding", "packed", "fewer rows", "finding", "putting")
    ]
    for length in (128, 256, 512):
        counts, shares = {}, []
        for pack in [1, *[8] * (bench.repetitions + 1)]:  # the first one warms up
            output = bench.directory / f"packed-{length}-{pack}"
            shutil.rmtree(output, ignore_errors=True)
            slots = 20 * length // 128
            config = tfrecords.RecordsConfig(
                sequence_length=length, max_predictions=slots, pack=pack
            )
            spent |= dict.fromkeys(spent, 0.0)
            start = time.process_time()
            manifest = tfrecords.build_records([text], vocabulary, output, config)
            whole = time.process_time() - start
            shares.append([seconds / whole for seconds in spent.values()])
            counts[pack] = manifest.counts["train"]
        padding = [1 - one["tokens"] / (length * one["records"]) for one in counts.values()]
        rows.append(
            (
                *(length, f"{padding[0]:.1%}", f"{padding[1]:.1%}"),
                f"{counts[1]['records'] / counts[8]['records']:.2f}",
                *(f"{median(values):.2%}" for values in zip(*shares[2:], strict=True)),
            )
        )
    table(rows)


PARTS: dict[str, Callable[[Bench], None]] = {
    "speed": speed,
    "workers": workers,
    "memory": memory,
    "size": size,
    "tokenization": tokenization,
    "reading": reading,
    "packing": packing,
}

if __name__ == "__main__":
    main()
