"""How fast the data half is, beside what else there is: `python -m benchmarks.records` prints a
table of medians and ratios.

The parts speed, workers, memory and size measure whole processes, and take out their start by the
difference of two sizes of corpus where it counts; tokenization and reading are measured in this
one. The text is the documentation of this Python and of the packages installed with it. The rows of
one kind take turns, so that what else the machine does falls on all of them.

The peer is the Model Garden's script, installed as `make test` does it: `pip install --no-deps
tf-models-official==2.20.0`."""

import argparse
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

PACKAGES = ("tensorflow", "keras", "keras_hub", "torch", "transformers", "numpy", "matplotlib")
PEER = "tf-models-official"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="What to measure."
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--megabytes",
        type=int,
        default=10,
        help="The smallest corpus; others have 4 to 16 times that.",
    )
    parser.add_argument(
        "--peer-megabytes",
        type=float,
        default=5,
        help="The same for the slow peer, whose larger one is double.",
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
    """A directory with a corpus of every size asked for, a vocabulary, and the arguments."""

    def __init__(self, directory, arguments):
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
        run(
            [
                *kbert("vocabulary"),
                str(self._text),
                "--output",
                str(self.vocabulary),
                "--size",
                "16000",
            ]
        )
        self.records(1)  # what numba compiles is kept from here on

    def corpus(self, megabytes):
        """A file of so many megabytes of whole documents: the text, again and again."""
        path = self.directory / f"corpus-{megabytes}.txt"
        if not path.exists():
            text, size = self._text.read_bytes(), int(megabytes * 1e6)
            times, rest = divmod(size, len(text))
            with open(path, "wb") as file:
                for _ in range(times):
                    file.write(text)
                file.write(text[: text.find(b"\n\n", rest) + 2] if rest else b"")
        return path

    def records(self, megabytes, *options, **how):
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

    def peer_records(self, megabytes):
        """Runs the Model Garden's script; returns (number of records, Usage)."""
        from tfrecords.framing import scan_records

        output = self.directory / "peer.tfrecord"
        usage = run(
            [
                *(sys.executable, "-m", "official.nlp.data.create_pretraining_data"),
                f"--input_file={self.corpus(megabytes)}",
                f"--output_file={output}",
                f"--vocab_file={self.vocabulary}",
                *(
                    "--do_lower_case",
                    "--max_seq_length=128",
                    "--max_predictions_per_seq=20",
                    "--dupe_factor=5",
                ),
            ],
            one_processor=True,
            KERAS_BACKEND="tensorflow",
            TF_USE_LEGACY_KERAS="1",
        )
        return scan_records(output)[0], usage


class Usage:
    """What a process and its children took: seconds of CPU and of the clock, and peak bytes of
    memory together."""

    def __init__(self, cpu, wall, memory):
        self.cpu, self.wall, self.memory = cpu, wall, memory


def kbert(command):
    return [sys.executable, "-m", "kbert", command]


def is_installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def run(command, watch=False, one_processor=False, **environment):
    """Runs a command to its end and returns its Usage; its memory only with `watch`, which slows
    it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [
            *(
                ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
                if one_processor
                else []
            ),
            *command,
        ],
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


def _watch(process, peak):
    """Keeps the largest sum of the memory of a process and its descendants (proportional set size,
    from /proc)."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_memory, _descendants(process.pid))))
        time.sleep(0.05)


def _descendants(pid):
    found = [pid]
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _descendants(int(child))
    except OSError:
        pass
    return found


def _memory(pid):
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def median(values):
    return statistics.median(values)


def table(rows):
    """Prints rows of (name, value, ...), columns aligned."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            str(row[0]).ljust(widths[0]),
            *(str(cell).rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells), flush=True)


def speed(bench):
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


def workers(bench):
    """One worker and two: seconds of the clock, the start taken out by two sizes."""
    walls = {1: [], 2: []}
    for _ in range(bench.repetitions):
        for count, values in walls.items():
            options = ("--workers", str(count), "--shards", "8")
            _, _, first = bench.records(bench.megabytes, *options)
            _, _, second = bench.records(8 * bench.megabytes, *options)
            values.append(second.wall - first.wall)
    ratios = [one / two for one, two in zip(walls[1], walls[2], strict=True)]
    rows = [(f"seconds for {7 * bench.megabytes} MB more", "median", "ratio", "all ratios")]
    rows += [("1 worker", f"{median(walls[1]):.2f}", "1.00", "")]
    rows += [
        (
            "2 workers",
            f"{median(walls[2]):.2f}",
            f"{median(ratios):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
        )
    ]
    table(rows)


def memory(bench):
    """Peak memory of all processes together as the corpus grows, with the size of a bucket as it is
    by default."""
    rows = [("peak memory, 2 workers", "MB", "to the smallest")]
    peaks = []
    for factor in (1, 4, 16):
        peaks.append(
            median(
                [
                    bench.records(factor * bench.megabytes, "--workers", "2", watch=True)[2].memory
                    for _ in range(bench.repetitions)
                ]
            )
        )
        rows.append(
            (
                f"{factor * bench.megabytes} MB of text",
                f"{peaks[-1] / 1e6:,.0f}",
                f"{peaks[-1] / peaks[0]:.2f}",
            )
        )
    table(rows)


def size(bench):
    """Bytes on the disk, static with 5 duplicates and dynamic."""
    _, static, _ = bench.records(bench.megabytes, "--duplicates", "5")
    _, packed, _ = bench.records(bench.megabytes, "--duplicates", "5", "--compression", "gzip")
    _, dynamic, _ = bench.records(bench.megabytes, "--masking", "dynamic")
    rows = [(f"MB of records from {bench.megabytes} MB", "MB", "to static")]
    for name, value in (
        ("static, 5 duplicates", static),
        ("static, gzip", packed),
        ("dynamic", dynamic),
    ):
        rows.append((name, f"{value / 1e6:.1f}", f"{value / static:.2f}"))
    table(rows)


def tokenization(bench):
    """MB of text per second of CPU, on the same sentences."""
    import tensorflow as tf
    import tensorflow_text as tf_text
    import tokenizers

    import tfrecords
    from tfrecords.build.tokenizing import CorpusTokenizer

    sentences = [
        line
        for line in bench.corpus(bench.megabytes).read_text(encoding="utf-8").split("\n")
        if line
    ][:60_000]
    batches = [sentences[start : start + 4096] for start in range(0, len(sentences), 4096)]
    vocabulary = tfrecords.Vocabulary.load(bench.vocabulary)
    ours = CorpusTokenizer(vocabulary, tfrecords.RecordsConfig(cased=False), "sentences", "strict")
    fast = tf_text.FastBertTokenizer(
        list(vocabulary.tokens), lower_case_nfd_strip_accents=True, token_out_type=tf.int32
    )
    plain = tf_text.BertTokenizer(str(bench.vocabulary), lower_case=True, token_out_type=tf.int32)
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
        rows.append(
            (
                name,
                f"{median(values[1:]):.1f}",
                f"{median(rates['kbert'][1:]) / median(values[1:]):.1f}",
            )
        )
    table(rows)


def reading(bench):
    """Records read and batched per second of the clock, and seconds to the first batch from
    anywhere in an epoch."""
    import tfrecords

    rows = [
        (
            "reading, S = 128, batches of 256",
            "records/s",
            "seconds to the first batch of step 0, 1/2, last",
        )
    ]
    for name, options in (
        ("static", ()),
        ("dynamic", ("--masking", "dynamic", "--duplicates", "5")),
    ):
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


PARTS = {
    "speed": speed,
    "workers": workers,
    "memory": memory,
    "size": size,
    "tokenization": tokenization,
    "reading": reading,
}

if __name__ == "__main__":
    main()
