"""Training steps compiled for TPUs by the TPU's own compiler. Nothing here runs on one."""

import json
import os
import subprocess
import sys

import forked
import pytest
from model_fixtures import ROOT

import kbert
from kbert.speed.chips import CHIPS, chip_of
from kbert.speed.plan import Plan, _too_large, plan_table, training_plan
from kbert.speed.tpu_compiler import check_needs_no_host

VOCABULARY_SIZE = 1009
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def compiled(what, *jobs):
    """What tests/compile_for_tpu.py prints for each job."""
    script, backend = ROOT / "tests" / "compile_for_tpu.py", "jax"
    if what == "tensorflow":
        backend = what
    done = forked.run(script, what, json.dumps(jobs), backend=backend, seconds=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def trained_bytes(size="tiny", vocabulary_size=VOCABULARY_SIZE, **changes):
    """Of the weights and the optimizer's two values for each, in float32."""
    model = kbert.pretraining_model(
        kbert.BertConfig.of_size(size, vocabulary_size=vocabulary_size, **changes)
    )
    return 12 * sum(
        variable.shape.num_elements()
        for variable in (one.value for one in model.trainable_variables)
    )


FOUR_CHIPS = {"topology": "v5e:2x2", "batch_size": 64, "precision": "bfloat16"}


def assert_sensible(plan, rows):
    assert plan["chips"] == 4
    assert trained_bytes() < plan["argument_bytes"] < 1.1 * trained_bytes()
    assert plan["memory_bytes"] > plan["argument_bytes"] + plan["temporary_bytes"]
    # The compiler counts the matrix products, and what is done to each value between them.
    assert 0.95 < plan["flops"] / (rows * plan["model_flops"]) < 2


def assert_is_shown(plan):
    assert "sequences in a step          64, 16 on each chip" in plan["table"]
    assert "1,000 steps" in plan["table"]


@pytest.mark.small
def test_a_step_compiles_for_four_chips():
    (plan,) = compiled("plan", FOUR_CHIPS)
    assert_sensible(plan, rows=16)
    assert_is_shown(plan)


@pytest.mark.long
def test_the_options_of_training_compile_for_four_chips():
    shared = FOUR_CHIPS
    plain, parts, recomputed, long, packed = compiled(
        "plan",
        shared,
        shared | {"accumulate": 2},
        shared | {"recompute": True, "precision": "float32"},
        shared
        | {"optimizer": "lamb", "sequence_length": 512, "max_predictions": 76, "batch_size": 8},
        shared | {"pack": 8},
    )
    for plan, rows in ((plain, 16), (parts, 16), (recomputed, 16), (long, 2), (packed, 16)):
        assert_sensible(plan, rows)
    assert_is_shown(plain)
    # Micro-batches are the same work, with less at a time; recomputation is more of it.
    assert parts["flops"] == pytest.approx(plain["flops"], rel=0.1)
    assert recomputed["flops"] > 1.15 * plain["flops"]
    assert "rows in a step               64, 16 on each chip" in packed["table"]
    assert "v5e:2x2, 4 chips, rows of up to 8 pairs: compiled" in packed["table"]


@pytest.mark.long
def test_a_step_compiles_for_a_whole_pod():
    (plan,) = compiled(
        "plan",
        {"topology": "v5e:16x16", "batch_size": 512, "precision": "bfloat16", "accumulate": 2},
    )
    assert plan["chips"] == 256
    assert trained_bytes() < plan["argument_bytes"] < 1.1 * trained_bytes()  # whole on every chip
    assert 0.95 < plan["flops"] / (2 * plan["model_flops"]) < 3


@pytest.mark.long
def test_base_compiles_for_four_chips():
    job = {
        "size": "base",
        "vocabulary_size": 30522,
        "topology": "v5e:2x2",
        "batch_size": 256,
        "precision": "bfloat16",
    }
    (plan,) = compiled("plan", job)
    assert plan["argument_bytes"] == pytest.approx(trained_bytes("base", 30522), rel=0.01)
    assert plan["flops"] == pytest.approx(64 * plan["model_flops"], rel=0.05)
    assert plan["memory_bytes"] < 0.5 * CHIPS["v5e"].memory_bytes


def test_a_step_that_needs_the_host_is_found():
    ways = ("debug.print", "pure_callback", "io_callback")
    for said in compiled("host", *ways):
        assert said.startswith("Expected a step that needs no host. Received one with: ")


@pytest.mark.parametrize(
    "line",
    [
        "%sent.1 = (f32[], u32[], token[]) send(%x, %y), channel_id=1, is_host_transfer=true, "
        "sharding={maximal device=0}",
        '%1 = "stablehlo.send"(%0) <{channel_handle = #stablehlo.channel_handle<handle = 2>, '
        "is_host_transfer = true}>",
        "%fed = ((f32[8]), token[]) infeed(%token)",
        '%said = f32[] custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback"',
        '%moved = f32[8] custom-call(%x), custom_call_target="MoveToHost"',
    ],
)
def test_what_goes_to_the_host_is_found_in_a_program(line, refused):
    check_needs_no_host(
        '%gathered = f32[8] custom-call(%x), custom_call_target="AllocateBuffer"\n%y = f32[8] '
        "add(%x, %x)"
    )
    with refused("needs no host"):
        check_needs_no_host(f"%y = f32[8] add(%x, %x)\n{line}")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"precision": "bfloat16", "accumulate": 2}, marks=pytest.mark.long),
        pytest.param(
            {"optimizer": "lamb", "parts": ["gradients", "update"]}, marks=pytest.mark.long
        ),
        pytest.param({"pack": 8}, marks=pytest.mark.long),
    ],
    ids=["accumulation", "lamb", "packed"],
)
def test_the_step_on_tensorflow_compiles_for_a_chip(options):
    (parts,) = compiled("tensorflow", options)
    assert list(parts) == options.get("parts", ["gradients", "update", "measure", "train_step"])
    weights = trained_bytes() / 3
    assert all(size > weights for size in parts.values())
    assert parts["update"] > 3.9 * weights  # with the gradients


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:2x2", r"Expected a topology of chips v4, v5e, v5p, v6e, .* Received: 'v9:2x2'\."),
        ("v5e", r"Expected a topology of chips"),
        ("v5e:2x", r"Expected a topology of chips"),
        (
            "v5e:2x2x2",
            r"Expected a layout of 2 dimensions and at most 256 chips for v5e, such as v5e:2x2, "
            r"v5e:4x4\.",
        ),
        ("v5p:2x2", r"Expected a layout of 3 dimensions"),
        ("v6e:32x32", r"at most 256 chips"),
    ],
)
def test_a_topology_that_is_none_is_refused(topology, message, refused):
    with refused(message):
        chip_of(topology)


def test_a_plan_without_jax_is_refused(refused):
    bert, pretraining = (
        kbert.BertConfig.of_size("tiny", vocabulary_size=53),
        kbert.PretrainingConfig(),
    )
    with refused("Expected Keras on JAX. Received: tensorflow; set KERAS_BACKEND=jax"):
        training_plan(bert, pretraining, "v5e:2x2")
    with refused("at most 512 tokens"):
        training_plan(bert, pretraining, "v5e:2x2", sequence_length=513)
    with refused("at most 7 masked tokens"):
        training_plan(bert, pretraining, "v5e:2x2", sequence_length=7, max_predictions=8)


PLANS = """
import json, sys
from click.testing import CliRunner
from kbert.cli import main

for missing, *words in json.loads(sys.argv[1]):
    if missing:
        sys.modules[missing] = None
    result = CliRunner().invoke(main, ["plan", "--size", "tiny", *words])
    print(json.dumps([result.exit_code, result.output]))
    sys.modules.pop(missing, None)
"""


def test_what_cannot_be_planned_is_one_line():
    """Without JAX comes first: it is looked for before anything of it is imported."""
    cases = (
        ("jax", "Expected JAX. Received: none; pip install '.[tpu-plan]' in the clone"),
        (
            "libtpu",
            "Expected libtpu, the TPU's compiler. Received: none; pip install '.[tpu-plan]' in the "
            "clone",
        ),
        (
            *("", "--batch-size", "62"),
            "4 devices with 1 micro-batch each share evenly. Received: 62; take 64.",
        ),
        (*("", "--topology", "v5e:3x5"), "Expected a topology that a TPU of chips v5e has"),
    )
    words = [sys.executable, "-c", PLANS, json.dumps([words for *words, _ in cases])]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    for line, (*_, message) in zip(done.stdout.splitlines(), cases, strict=True):
        code, output = json.loads(line)
        assert code == 2
        (line,) = output.splitlines()
        assert line.startswith("Error: ")
        assert message in line


def test_a_step_too_large_is_one_line_with_what_to_do():
    # As libtpu 0.0.52 says it.
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries "
        "(90.45G) exceeds available HBM (15.75G). HLO module: jit_train_step.\nSee "
        "https://openxla.org/xla/errors for more."
    )
    said = str(_too_large(error, "v5e:2x2", 64, 2, recompute=False))
    assert "\n" not in said
    assert said.endswith(
        "(90.45G) exceeds available HBM (15.75G); take --accumulate 16 or --recompute or more "
        "chips."
    )
    assert str(_too_large(error, "v5e:2x2", 1, 1, recompute=True)).endswith("; take larger chips.")


def test_the_slower_of_computing_and_moving_counts():
    sizes = {
        "argument_bytes": 2**30,
        "output_bytes": 0,
        "temporary_bytes": 2**31,
        "program_bytes": 2**30,
    }
    shape = {
        "topology": "v5e:2x2",
        "chips": 4,
        "batch_size": 8,
        "sequence_length": 16,
        "model_flops": 197e12 / 10,
    }
    computing = Plan(**shape, **sizes, flops=197e12 / 2, bytes_accessed=819e9 / 4)
    assert (computing.bound, computing.seconds, computing.memory_bytes) == (
        "computation",
        0.5,
        2**32,
    )
    assert (computing.sequences_per_second, computing.tokens_per_second) == (16, 256)
    assert computing.utilization == pytest.approx(16 / 10 / 4)
    moving = Plan(**shape, **sizes, flops=197e12 / 2, bytes_accessed=819e9)
    assert (moving.bound, moving.seconds) == ("memory", 1)
    table = plan_table(moving, steps=7200)
    assert table.splitlines()[0] == "v5e:2x2, 4 chips: compiled by the TPU's compiler, not run"
    assert "  memory of a chip             4.00 of 16 GiB\n" in table
    assert "  7,200 steps                  2 hours\n" in table
