"""TPU chips: what Google publishes about them, and how layouts of chips are named."""

from __future__ import annotations

import dataclasses
import math
import re

from tfrecords import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A TPU chip's published rates."""

    name: str
    """As it stands in the names of topologies."""
    flops: float
    """Peak floating point operations per second in bfloat16. Matrix products of float32 values run
    at it too: by default a TPU rounds their inputs to bfloat16."""
    memory_bytes: float
    """High bandwidth memory, HBM."""
    bandwidth: float
    """Bytes per second between that memory and the chip."""
    dimensions: int
    """Of a layout of chips: v4 and v5p are wired as a torus of 3 dimensions, the others of 2."""
    most: int
    """Chips in a pod, the largest number that is connected directly."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            flops=275e12,
            memory_bytes=32 * 2**30,
            bandwidth=1200e9,
            dimensions=3,
            most=4096,
        ),
        Chip(
            name="v5e",
            flops=197e12,
            memory_bytes=16 * 2**30,
            bandwidth=819e9,
            dimensions=2,
            most=256,
        ),
        Chip(
            name="v5p",
            flops=459e12,
            memory_bytes=95 * 2**30,
            bandwidth=2765e9,
            dimensions=3,
            most=8960,
        ),
        Chip(
            name="v6e",
            flops=918e12,
            memory_bytes=32 * 2**30,
            bandwidth=1638e9,
            dimensions=2,
            most=256,
        ),
    )
}
"""From Google Cloud's documentation, https://cloud.google.com/tpu/docs/v4 and likewise v5e, v5p and
v6e: "peak compute per chip (bf16)", "HBM capacity" (its GB taken as GiB, as v4's page says), "HBM
bandwidth" and "TPU Pod size"."""


def chip_of(topology: str) -> Chip:
    """The Chip of a topology's name.

    >>> chip_of("v5e:4x4").memory_bytes / 2**30
    16.0

    Raises:
        InputError: There is no such chip, or it comes in no such layout.
    """
    name, _, layout = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", layout):
        raise InputError(
            f"Expected a topology of chips {', '.join(CHIPS)}, such as {examples('v5e')} or "
            f"{examples('v5p')}. Received: {topology!r}."
        )
    chip, sizes = CHIPS[name], [int(size) for size in layout.split("x")]
    if len(sizes) != chip.dimensions or not 1 <= math.prod(sizes) <= chip.most:
        raise InputError(
            f"Expected a layout of {chip.dimensions} dimensions and at most {chip.most:,} chips "
            f"for {name}, such as {examples(name)}. Received: {topology!r}."
        )
    return chip


def examples(name: str) -> str:
    """Two topologies of a chip, for messages."""
    return (
        f"{name}:2x2, {name}:4x4" if CHIPS[name].dimensions == 2 else f"{name}:2x2x1, {name}:4x4x4"
    )
