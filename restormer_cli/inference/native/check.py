"""Compare the library with PyTorch's functions, and time both, in a process of its own.

`python -m restormer_cli.inference.native.check LIBRARY` prints a `Verdict` as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch

from ..blocking import Region, block_shape_on_cpu
from ..fusion.check import Case, random_block
from ..fusion.process import run_check
from ..fusion.verdict import Verdict
from .library import TYPES, Library

CHECK_LIMIT = 120.0
"""Seconds after which a check is stopped; on an idle CPU it takes about 5."""

WIDTHS = ((16, 1), (32, 2), (48, 1), (64, 2), (96, 2), (128, 4), (192, 4), (256, 4), (384, 8))
"""Channels and heads whose speed is measured."""


def examine(library: Path, limit: float = CHECK_LIMIT) -> Verdict:
    """Check a library in another process."""
    return run_check([__name__, str(library)], limit, OMP_NUM_THREADS="1")


def check(library: Library) -> Verdict:
    """Compare the results of a library with PyTorch's, and measure its speed."""
    speed: dict[str, dict[int, float]] = {}
    for dtype in filter(library.supports, TYPES):
        for case in cases():
            if cause := case.compare(library, dtype):
                return Verdict(f"{TYPES[dtype]}, {case.name}: {cause}", library.instructions)
        speed[TYPES[dtype]] = {
            channels: measure(library, channels, heads, dtype) for channels, heads in WIDTHS
        }
    return Verdict("", library.instructions, speed)


def cases() -> Iterator[Case]:
    """Yield blocks of several widths at the corners, edges and inside of maps."""
    regions = (
        ("inside", Region(3, 17, 4, 25), (30, 40)),
        ("the whole map", Region(0, 5, 0, 3), (5, 3)),
        ("a pixel", Region(0, 1, 0, 1), (9, 9)),
        ("the lower right corner", Region(8, 30, 5, 36), (30, 36)),
    )
    blocks = ((16, 1, False, "BiasFree"), (48, 1, True, "WithBias"), (64, 4, False, "WithBias"))
    for (channels, heads, bias, norm), (name, region, size) in product(blocks, regions):
        weights = random_block(channels, heads, bias=bias, layer_norm=norm)
        for kind, edges in (("", ([], [])), (", windows", ([4, 9, 10], [2, 8, 24]))):
            yield Case(f"{channels} channels, {name}{kind}", weights, region, size, edges=edges)


def measure(library: Library, channels: int, heads: int, dtype: torch.dtype) -> float:
    """Return how many times as fast as PyTorch the library computes a block."""
    shape = block_shape_on_cpu(1, dtype.itemsize, channels, 1024, 1024)
    rows, columns = shape.rows // 2, shape.columns // 2  # to save time
    region = Region(8, 8 + rows, 8, 8 + columns)
    case = Case("", random_block(channels, heads), region, (rows + 16, columns + 16))
    return case.speed(library, dtype)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        sys.stdout.write(check(Library(Path(sys.argv[1]))).to_json() + "\n")
