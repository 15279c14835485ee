"""What a training step of a model needs on a TPU: compiled by the TPU's own compiler, without a
TPU, and never run."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from kbert.config import BertConfig, PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.run.distribution import check_shares
from kbert.speed.chips import Chip, chip_of
from kbert.speed.machine import training_flops
from kbert.speed.tpu_compiler import (
    batch_shapes,
    compiled_step,
    compiled_update,
    topology_devices,
    without_values,
)
from kbert.step.objective import compile_model
from kbert.step.pretrainer import Pretrainer
from tfrecords import InputError, RecordsConfig
from tfrecords.batch import BatchSpec
from tfrecords.errors import one_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training step needs on each chip, and what follows from the chip's published rates.

    The time is that of a roofline model (Williams et al. 2009): the chip computes at its peak rate
    while its memory moves bytes at its peak rate, and the slower of the two counts. It is an
    estimate: no chip computes faster, but some of the bytes never leave the chip, and the exchange
    of gradients between chips and the reading of records are not included."""

    topology: str
    """The name of chip and layout, as "v5e:4x4"."""
    chips: int
    """The number of chips."""
    batch_size: int
    """Rows in a step, on all chips together: sequences, unless they are packed."""
    sequence_length: int
    """Tokens in a row."""
    model_flops: float
    """Of the matrix products for a row: `machine.training_flops`."""
    argument_bytes: int
    """On each chip: weights, the state of optimizer and metrics, and its share of the batch."""
    output_bytes: int
    """On each chip: results that do not reuse the memory of arguments."""
    temporary_bytes: int
    """On each chip: activations, gradients and all else that exists only within a step."""
    program_bytes: int
    """On each chip: the program."""
    flops: float
    """Operations of a step on each chip, as the compiler counts them."""
    bytes_accessed: float
    """Bytes that the operations of a step read and write on each chip, as the compiler counts them:
    too many, since bytes that stay in the chip's small on-chip memory are counted too."""
    pack: int = 1
    """K, the most pairs in a row."""

    @property
    def chip(self) -> Chip:
        """The Chip."""
        return chip_of(self.topology)

    @property
    def memory_bytes(self) -> int:
        """All that a step needs in the memory of each chip."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.program_bytes

    @property
    def computing_seconds(self) -> float:
        """The seconds for the operations of a step at the peak rate: no step takes less."""
        return self.flops / self.chip.flops

    @property
    def moving_seconds(self) -> float:
        """The seconds for the bytes of a step at the peak rate."""
        return self.bytes_accessed / self.chip.bandwidth

    @property
    def bound(self) -> str:
        """What limits the step: "computation" or "memory"."""
        return "computation" if self.computing_seconds >= self.moving_seconds else "memory"

    @property
    def seconds(self) -> float:
        """Of a step: the longer of the two."""
        return max(self.computing_seconds, self.moving_seconds)

    @property
    def sequences_per_second(self) -> float:
        """Of all chips together; with packed rows, rows."""
        return self.batch_size / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all chips together."""
        return self.sequences_per_second * self.sequence_length

    @property
    def utilization(self) -> float:
        """Model FLOP utilization (MFU), the share of the chips' peak rate that goes into
        the model's matrix products (Chowdhery et al. 2022, appendix B)."""
        return self.sequences_per_second * self.model_flops / (self.chips * self.chip.flops)


def training_plan(
    bert: BertConfig,
    pretraining: PretrainingConfig,
    topology: str,
    *,
    sequence_length: int = RecordsConfig.sequence_length,
    max_predictions: int = RecordsConfig.max_predictions,
    accumulate: int = 1,
    recompute: bool = False,
    pairs: str = RecordsConfig.pairs,
    pack: int = RecordsConfig.pack,
) -> Plan:
    """Compiles the step that `pretrain` would run on JAX for a TPU whose chips share each batch.

    It takes minutes for the larger sizes. No weights are made: only shapes are compiled.

    Args:
        bert: A BertConfig.
        pretraining: A PretrainingConfig.
        topology: The chip and its layout as JAX spells them: "v5e:2x2", "v5e:16x16", "v6e:2x2",
            "v5p:2x2x1", "v4:2x2x1".
        sequence_length: S.
        max_predictions: The most tokens to predict in a sequence. P is that of records made with
            it, `RecordsConfig.row_predictions`.
        accumulate: The number of micro-batches.
        recompute: As for `pretrain`.
        pairs: As for `pretraining_model`.
        pack: As for `pretraining_model`.

    Returns:
        A Plan.

    Raises:
        InputError: There is no such topology, its chips cannot share the batch evenly, the step
            does not fit their memory, the precision is none of TPUs, or JAX or libtpu is missing.
    """
    # Refuse what cannot be compiled, before minutes are spent on it.
    if sequence_length > bert.max_positions:
        raise InputError(
            f"Expected sequences of at most {bert.max_positions} tokens, the positions of the "
            f"model. Received: sequence_length={sequence_length}; take shorter ones."
        )
    if max_predictions > sequence_length:
        raise InputError(
            f"Expected at most {sequence_length} masked tokens. Received: "
            f"max_predictions={max_predictions}."
        )
    if pretraining.precision == "float16":
        raise InputError(
            "Expected a precision that TPUs compute in. Received: float16; take bfloat16."
        )
    max_predictions = RecordsConfig(
        sequence_length=sequence_length, max_predictions=max_predictions, pack=pack
    ).row_predictions
    chips = topology_devices(topology)
    check_shares(pretraining.batch_size, len(chips), accumulate)
    spec = BatchSpec(
        sequence_length=sequence_length, max_predictions=max_predictions, pairs=pairs, pack=pack
    )
    shapes = batch_shapes(spec, pretraining.batch_size)

    def new_model() -> Pretrainer:
        model = pretraining_model(
            bert,
            seed=pretraining.seed,
            dtype=pretraining.dtype_policy,
            pairs=pairs,
            recompute=recompute,
            pack=pack,
        )
        compile_model(model, pretraining, accumulate)
        return model

    # The compiler tells what the step needs, or how much memory is lacking.
    model = without_values(new_model, shapes)
    try:
        step = compiled_step(model, shapes, chips)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(
            error, topology, pretraining.batch_size // len(chips), accumulate, recompute
        ) from None
    memory, costs = step.memory_analysis(), _costs(step)
    if accumulate > 1:
        # The compiler counts the body of the loop over micro-batches once. All but the update is in
        # that body.
        update = _costs(compiled_update(model, chips))
        costs = {name: update[name] + accumulate * (costs[name] - update[name]) for name in costs}
    return Plan(
        topology=topology,
        chips=len(chips),
        batch_size=pretraining.batch_size,
        sequence_length=sequence_length,
        pack=pack,
        model_flops=training_flops(bert, sequence_length, max_predictions, pairs, pack),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        flops=costs["flops"],
        bytes_accessed=costs["bytes accessed"],
    )


def _costs(compiled: Any) -> dict[str, float]:
    costs = compiled.cost_analysis()
    return {name: costs[name] for name in ("flops", "bytes accessed")}


def _too_large(
    error: RuntimeError, topology: str, rows: int, accumulate: int, recompute: bool
) -> InputError:
    """The error for a step that does not fit the memory of a chip with `rows` rows of the batch."""
    # "... temporaries (90.45G) exceeds available HBM (15.75G)"; without such figures the need is
    # assumed to be double.
    sizes = [
        float(size) * _UNITS[unit]
        for size, unit in re.findall(r"\b(\d+(?:\.\d+)?)([KMGT])\b", str(error))
    ]
    need, has = sizes[:2] if len(sizes) > 1 else (2.0, 1.0)
    said = re.search(r"(?<=RESOURCE_EXHAUSTED: ).*?(?=\. HLO module|$)", str(error), re.DOTALL)
    # Cheapest first: micro-batches cost no operations, gradient checkpointing a third more.
    advice = [f"{'more' if rows > 1 else 'larger'} chips"]
    if not recompute:
        advice.insert(0, "--recompute")
    if parts := [parts for parts in range(accumulate + 1, rows + 1) if rows % parts == 0]:
        advice.insert(
            0,
            "--accumulate "
            f"{next((one for one in parts if one >= accumulate * need / has), parts[-1])}",
        )
    return InputError(
        f"Expected a step that fits the memory of a {chip_of(topology).name} chip. Received: "
        f"{rows:,} sequences on each in {accumulate} micro-batch{'es' * (accumulate > 1)}, for "
        f"which the compiler says: {one_line(said.group() if said else error, 200)}; take "
        f"{' or '.join(advice)}."
    )


_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def plan_table(plan: Plan, steps: int | None = None) -> str:
    """A plan in lines of text; with `steps` also how long a run of so many updates would take."""
    # Memory first: of a step that does not fit, the other figures say nothing.
    gib, chip = 2**30, plan.chip
    unit = "sequences" if plan.pack == 1 else "rows"
    packed = f", rows of up to {plan.pack} pairs" if plan.pack > 1 else ""
    rows = [
        (
            f"{unit} in a step",
            f"{plan.batch_size:,}, {plan.batch_size // plan.chips:,} on each chip",
        ),
        ("memory of a chip", f"{plan.memory_bytes / gib:.2f} of {chip.memory_bytes / gib:.0f} GiB"),
        ("  weights, optimizer, batch", f"{plan.argument_bytes / gib:.2f} GiB"),
        ("  activations, gradients", f"{plan.temporary_bytes / gib:.2f} GiB"),
        ("  results and program", f"{(plan.output_bytes + plan.program_bytes) / gib:.2f} GiB"),
        (
            "computation",
            f"{plan.flops / 1e12:,.3g} TFLOP on each chip, {plan.computing_seconds * 1e3:,.3g} ms "
            "at its peak rate",
        ),
        (
            "bytes moved",
            f"{plan.bytes_accessed / 1e9:,.3g} GB on each chip, {plan.moving_seconds * 1e3:,.3g} "
            "ms at its peak rate",
        ),
        ("a step", f"{plan.seconds * 1e3:,.3g} ms, bound by {plan.bound}"),
        (
            "speed",
            f"{plan.sequences_per_second:,.0f} {unit}/s, {plan.tokens_per_second:,.0f} tokens/s",
        ),
        ("model FLOP utilization", f"{plan.utilization:.0%} of {chip.flops / 1e12:.0f} TFLOP/s"),
    ]
    # The length of a run, and whose word all of this is.
    if steps is not None:
        rows.append((f"{steps:,} steps", f"{plan.seconds * steps / 3600:,.3g} hours"))
    count = f"{plan.chips} chip{'s' * (plan.chips > 1)}"
    lines = [f"{plan.topology}, {count}{packed}: compiled by the TPU's compiler, not run"]
    lines += [f"  {name:<27}  {value}" for name, value in rows]
    lines.append(
        "Estimates from published peak rates, without the exchange between chips and the reading "
        "of records."
    )
    return "\n".join(lines)
