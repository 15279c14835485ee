"""kbert benchmark: the rows of its table, where it stops, what it refuses; and that both backends
do the work."""

import json
import math
import pathlib
import re

import forked
import pytest
import tensorflow as tf
from click.testing import CliRunner
from model_fixtures import tiny_config

import kbert.speed.benchmark
import kbert.speed.machine
from kbert.cli import main
from kbert.speed.benchmark import Measurement, benchmark
from kbert.speed.machine import available_memory, peak_memory, training_flops

SHAPES = {"sequence_length": 17, "max_predictions": 3}
NUMBER = r"[\d,.]+(?:e\+\d+)?"
SPEED = rf"{NUMBER} s +({NUMBER}) +({NUMBER}) +\d+% of {NUMBER} GFLOP/s"
ROW = re.compile(rf" *([\d,]+) +{SPEED} +{NUMBER} MB +{NUMBER} (?:seconds|minutes|hours|days)")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Repetitions of a step or two, and a short look at matrix products."""
    monkeypatch.setattr(kbert.speed.benchmark, "_REPETITION_SECONDS", 0.0)
    monkeypatch.setattr(kbert.speed.benchmark, "matrix_product_rate", lambda precision: 1e9)


def test_the_table_has_a_row_for_every_batch_size(capsys):
    measured = benchmark(tiny_config(), batch_sizes=[4, 2, 4], steps=1000, accumulate=2, **SHAPES)
    assert [one.batch_size for one in measured] == [2, 4]
    for one in measured:
        assert math.isfinite(one.step_seconds) and one.step_seconds > 0
        assert math.isfinite(one.compile_seconds) and one.compile_seconds > 0
        assert one.sequences_per_second == one.batch_size / one.step_seconds
        assert one.matrix_product_rate == 1e9
        flops = training_flops(tiny_config(), **SHAPES)
        assert one.matrix_product_share == pytest.approx(one.sequences_per_second * flops / 1e9)
    assert 0 < measured[0].peak_memory <= measured[1].peak_memory <= peak_memory()
    what, where, header, *rows, last = capsys.readouterr().out.splitlines()
    assert what.startswith(
        "2 layers of 26, 0.0 million weights; S = 17, P = 3, V = 53; float32; 2 micro-batches"
    )
    assert where.startswith("tensorflow on 1 ")
    assert header.split("  ")[-1].strip() == "1,000 updates"
    found = [ROW.fullmatch(row).groups() for row in rows]
    assert [(int(size), float(rate.replace(",", ""))) for size, rate, _ in found] == [
        (one.batch_size, float(f"{one.sequences_per_second:.4g}")) for one in measured
    ]
    best = max(measured, key=lambda one: one.sequences_per_second)
    assert (
        last
        == f"fastest: batches of {best.batch_size}, {best.sequences_per_second:,.4g} sequences/s"
    )


@pytest.mark.long
def test_the_rows_of_a_packed_batch_are_told_as_rows(capsys):
    # Slots are those of a full row, and not of a sequence.
    (one,) = benchmark(
        tiny_config(), batch_sizes=[2], pack=3, sequence_length=17, max_predictions=1
    )
    flops = training_flops(tiny_config(), **SHAPES, pack=3)
    assert one.matrix_product_share == pytest.approx(one.sequences_per_second * flops / 1e9)
    what, _, header, _, last = capsys.readouterr().out.splitlines()
    assert "P = 3, V = 53, up to 3 pairs in a row; float32" in what
    assert "  rows/s" in header
    assert last.endswith(" rows/s")


@pytest.fixture
def measure(monkeypatch):
    """Takes the place of real steps: `measure.error` is raised from batches of `measure.from_`
    on."""

    class Measure:
        error, from_ = None, math.inf

        def __call__(self, model, batch, *_):
            batch_size = len(batch[1]["nsp"])
            if batch_size >= self.from_:
                raise self.error
            return Measurement(
                batch_size=batch_size,
                compile_seconds=1.0,
                step_seconds=1.0 + batch_size,
                matrix_product_rate=1e9,
                matrix_product_share=0.5,
                peak_memory=batch_size * 1_000_000_000,
            )

    fake = Measure()
    monkeypatch.setattr(kbert.speed.benchmark, "_measure", fake)
    return fake


def sizes(**options):
    return [one.batch_size for one in benchmark(tiny_config(), **SHAPES, **options)]


def test_the_fastest_is_named_and_silence_is_kept(measure, capsys):
    assert sizes(batch_sizes=[2, 3]) == [2, 3]
    assert capsys.readouterr().out.splitlines()[-1] == "fastest: batches of 3, 0.75 sequences/s"
    assert sizes(batch_sizes=[2, 3], verbose=0) == [2, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "no"),
        RuntimeError("RESOURCE_EXHAUSTED: no"),
        MemoryError(),
    ],
)
def test_out_of_memory_ends_the_table(measure, capsys, refused, error):
    measure.error, measure.from_ = error, 3
    assert sizes(batch_sizes=[2, 3, 4]) == [2]
    assert re.fullmatch(r" *3 +out of memory", capsys.readouterr().out.splitlines()[-2])
    with refused("memory for a batch. Received: too little for one of 3; take a smaller one"):
        sizes(batch_sizes=[3])


def test_another_error_is_not_hidden(measure):
    measure.error, measure.from_ = RuntimeError("broken"), 2
    with pytest.raises(RuntimeError, match="broken"):
        sizes(batch_sizes=[2])


def test_a_batch_that_would_not_fit_is_not_begun(measure, monkeypatch, capsys):
    monkeypatch.setattr(kbert.speed.benchmark, "available_memory", lambda: 2.5e9)
    assert sizes(batch_sizes=[2, 3, 6, 7]) == [2, 3]
    line = capsys.readouterr().out.splitlines()[-2]
    assert line == "6, 7: left out, since it would take 3.0 GB more memory, where 2.5 GB are left."


def test_the_default_sizes_end_after_a_minute(measure, monkeypatch, capsys):
    monkeypatch.setattr(kbert.speed.benchmark, "available_memory", lambda: math.inf)
    assert sizes() == [8]  # the next would take 1 + 5 * 36 seconds
    assert (
        "32, 128: left out, since it would take more than a minute; name the sizes"
        in capsys.readouterr().out
    )
    assert sizes(batch_sizes=[8, 32, 128]) == [8, 32, 128]
    monkeypatch.setattr(kbert.speed.benchmark, "_SECONDS", math.inf)
    assert sizes() == [8, 32, 128]
    assert sizes(accumulate=3) == [6, 30, 126]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": [2, 0]}, "batch_size of at least 1. Received: 0"),
        ({"batch_sizes": [2, 5], "accumulate": 2}, "share evenly. Received: 5; take 4."),
        ({"accumulate": 0}, "at least 1 micro-batch. Received: accumulate=0"),
        ({"sequence_length": 30}, "at most 29, the positions of the model. Received: 30"),
        ({"sequence_length": 4}, "sequence_length from 5 to 65536. Received: 4"),
        ({"pack": 65}, "pack from 1 to 64. Received: 65"),
        ({"max_predictions": 18}, "max_predictions from 1 to 17. Received: 18"),
        ({"steps": 0}, "steps of at least 1. Received: 0"),
        (
            {"precision": "float64"},
            "precision among float32, bfloat16, float16. Received: 'float64'",
        ),
        ({"strategy": "parameter-server"}, "take multi-worker"),
    ],
)
def test_bad_values_are_refused(refused, options, message):
    with refused(message):
        benchmark(tiny_config(), **(SHAPES | {"verbose": 0} | options))


def test_memory_is_told_in_bytes():
    assert 1e8 < peak_memory() < 1e12
    assert available_memory() > 1e6


def test_a_peak_does_not_fall(monkeypatch):
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("the kernel of Linux tells of it")
    told = iter([3_000_000, 2_900_000, 3_100_000])
    monkeypatch.setattr(kbert.speed.machine, "_highest", 0)
    monkeypatch.setattr(kbert.speed.machine, "_kilobytes", lambda *_: next(told))
    assert [peak_memory() for _ in range(3)] == [3_000_000, 3_000_000, 3_100_000]


def test_the_command(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kbert.benchmark", lambda bert, **options: asked.append((bert, options)), raising=False
    )
    words = (
        "benchmark --size tiny --batch-size 2 --batch-size 3 --vocabulary-size 53 --dropout 0 "
        "--sequence-length 17"
    )
    words += (
        " --max-predictions 3 --precision bfloat16 --accumulate 1 --steps 7 --strategy one --pack 4"
    )
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    assert CliRunner().invoke(main, ["benchmark"]).exit_code == 0
    (bert, options), (usual, defaults) = asked
    assert (bert.num_layers, bert.vocabulary_size, bert.dropout) == (2, 53, 0.0)
    assert options == {
        "batch_sizes": (2, 3),
        "pack": 4,
        "precision": "bfloat16",
        "accumulate": 1,
        "steps": 7,
        "strategy": "one",
        **SHAPES,
    }
    assert (usual.num_layers, usual.vocabulary_size) == (12, 30522)
    assert defaults["batch_sizes"] is None


def test_jax():
    code = """
import json, keras
import kbert.speed.benchmark
from kbert import BertConfig, benchmark
kbert.speed.benchmark._REPETITION_SECONDS = 0.0
kbert.speed.benchmark.matrix_product_rate = lambda precision: 1e9
shape = {"num_layers": 1, "hidden_size": 26, "num_heads": 2, "intermediate_size": 37}
bert = BertConfig(vocabulary_size=53, max_positions=29, **shape)
sizes = {"batch_sizes": [2], "sequence_length": 17, "max_predictions": 3}
(one,) = benchmark(bert, precision="bfloat16", **sizes)
measured = [one.batch_size, one.sequences_per_second, one.peak_memory]
print(json.dumps([keras.backend.backend(), *measured]))
"""
    done = forked.run("-c", code, backend="jax")
    assert done.returncode == 0, done.stderr[-2000:]
    _, where, _, row, _, figures = done.stdout.splitlines()
    backend, batch_size, rate, memory = json.loads(figures)
    assert where.startswith("jax on 1 ")
    assert ROW.fullmatch(row)
    assert (backend, batch_size) == ("jax", 2)
    assert rate > 0
    assert memory > 1e8
