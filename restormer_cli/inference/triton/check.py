"""Compare the Triton kernels with PyTorch's functions and time them, in a process of its own.

A fault on a GPU ends all work of its process, so the process of the run is not the one to try.
`python -m restormer_cli.inference.triton.check DEVICE PRECISION ARCHITECTURE` prints a `Verdict` as
JSON; the architecture is JSON, too.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...network import Architecture, BlockWeights
from ..blocking import Region
from ..devices import PRECISIONS, full_precision, synchronize
from ..fusion.check import Case, block_widths, random_block
from ..fusion.passes import KINDS, FusionError, Kernels
from ..fusion.process import run_check
from ..fusion.verdict import Verdict

CHECK_LIMIT = 600.0
"""Seconds after which a check is stopped; compiling some twenty kernels may take half a minute."""

TIMED_VALUES = 1 << 24
"""Values of the map on which a block is timed: enough to fill a GPU, in 0.5 GiB of memory."""

REGIONS = (
    (Region(3, 20, 4, 25), (30, 40), True),
    (Region(0, 1, 0, 1), (9, 9), True),
    (Region(8, 30, 5, 36), (30, 36), True),
    (Region(0, 21, 0, 13), (21, 13), False),
)
"""Regions, sizes of their maps, and whether they have a halo: inside, a pixel, a corner, all."""


def examine(
    a: Architecture, dtype: torch.dtype, device: torch.device, limit: float = CHECK_LIMIT
) -> Verdict:
    """Check the kernels for the blocks of a network in another process."""
    precision = next(name for name, of in PRECISIONS.items() if of == dtype)
    return run_check([__name__, str(device), precision, json.dumps(a.as_dict())], limit)


def check(
    kernels: Kernels,
    a: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    values: int = TIMED_VALUES,
) -> Verdict:
    """Compare blocks of each width of a network with PyTorch's functions, and time them.

    A width for which the GPU is too small has the speed 0. `values` is the size of the map on which
    blocks are timed.
    """
    speed: dict[int, float] = {}
    failures = []
    for channels, weights in random_blocks(a, device):
        side = math.isqrt(values // channels)
        whole = Case("", weights, Region(0, side, 0, side), (side, side), halo=False)
        try:
            for region, size, halo in REGIONS:
                if cause := Case("", weights, region, size, halo).compare(kernels, dtype):
                    name = f"{channels} channels, {size[0]} x {size[1]}"
                    return Verdict(f"{name}: {cause}", kernels.instructions)
            ratio = whole.speed(kernels, dtype, partial(_clock, device))
        except FusionError as error:
            failures.append(f"{channels} channels: {error}")
            ratio = 0.0
        speed[channels] = min(ratio, speed.get(channels, ratio))
    cause = "" if any(speed.values()) else failures[0]
    return Verdict(cause, kernels.instructions, {KINDS[dtype]: speed})


def random_blocks(a: Architecture, device: torch.device) -> Iterator[tuple[int, BlockWeights]]:
    """Yield the channels of each width of a network, and a block of that width on the device."""
    kind = {"bias": a.bias, "layer_norm": a.layer_norm, "expansion": a.expansion}
    for channels, heads in sorted(set(block_widths(a))):
        yield channels, moved(random_block(channels, heads, **kind), device)


def moved(w: BlockWeights, device: torch.device) -> BlockWeights:
    """Return the weights on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*map(move, value))  # a NamedTuple
        return value.to(device) if isinstance(value, Tensor) else value

    result: BlockWeights = move(w)
    return result


def _clock(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def main(device: str, precision: str, architecture: str) -> Verdict:
    """Check the kernels as the command line says."""
    from .blocks import TritonKernels  # imports Triton
    from .launch import compile_together

    a, on = Architecture.from_dict(json.loads(architecture)), torch.device(device)
    if on.index is not None:
        torch.cuda.set_device(on)
    kernels, dtype = TritonKernels(), PRECISIONS[precision]

    def run_once(weights: BlockWeights) -> None:
        region, size, _ = REGIONS[0]
        case = Case("", weights, region, size)
        case.fused(kernels, *case.inputs(dtype))

    with torch.inference_mode(), full_precision():
        compile_together(partial(run_once, weights) for _, weights in random_blocks(a, on))
        return check(kernels, a, dtype, on)


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]).to_json() + "\n")
