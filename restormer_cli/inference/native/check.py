"""Compare kernels with PyTorch's functions, in a process of its own: a crash is a result, too.

`python -m restormer_cli.inference.native.check LIBRARY` prints a `Verdict` as JSON.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import restormer_cli

from ...network import Architecture, BlockWeights, Statistics, TransformerBlock, mix, same
from ..blocking import Compute, Region, block_convolution, block_shape_on_cpu
from .compiler import NativeError, run_limited
from .library import TYPES, Library
from .mode import VARIABLE
from .passes import Kernels
from .verdict import Verdict

CHECK_LIMIT = 120.0
"""Seconds after which a check is stopped; on an idle CPU it takes about 5."""

WIDTHS = ((16, 1), (32, 2), (48, 1), (64, 2), (96, 2), (128, 4), (192, 4), (256, 4), (384, 8))
"""Channels and heads whose speed is measured."""

EXACT = 1e-5
"""Largest difference to PyTorch in fp32, relative to the largest value."""

SLACK, SCATTER = 1.1, 4.0
"""Largest error in bf16 or fp16, relative to that of PyTorch, and what is added to it for n values,
in units of 1 / sqrt(n): by about one such unit, the ratio of two rounding errors scatters."""


class Outcome(NamedTuple):
    """Results of the two passes over a block."""

    gram: Tensor
    squares: Tensor
    finished: Tensor


def examine(library: Path, limit: float = CHECK_LIMIT) -> Verdict:
    """Check a library in another process."""
    return run_check([__name__, str(library)], limit, OMP_NUM_THREADS="1")


def run_check(module: list[str], limit: float, **environment: str) -> Verdict:
    """Run a module of this package with arguments in another process, and read its verdict."""
    root = str(Path(restormer_cli.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment |= {"PYTHONPATH": paths, VARIABLE: "off"}
    try:
        output = run_limited([sys.executable, "-m", *module], limit, **environment)
        return Verdict.from_json(output.strip().rpartition("\n")[2])
    except (NativeError, ValueError) as error:
        return Verdict(f"the check failed: {error}")


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


@dataclass
class Case:
    """A block with random weights, and a region of a map of random features."""

    name: str
    weights: BlockWeights  # their device is that of the comparison
    region: Region
    size: tuple[int, int]
    halo: bool = True  # without, the region is the whole map

    def compare(self, kernels: Kernels, dtype: torch.dtype) -> str:
        """Return what is wrong with the results of the kernels, or an empty string."""
        x, matrix = self.inputs(dtype)
        exact = self.eager(x.float(), matrix, torch.float32)
        fused = self.fused(kernels, x, matrix)
        eager = self.eager(x, matrix, dtype)
        for name, true, result, other in zip(Outcome._fields, exact, fused, eager, strict=True):
            scale = true.abs().max()
            if dtype == torch.float32:
                error, allowed = float((result - true).abs().max() / scale), EXACT
            else:
                error, eager_error = (
                    float((part.float() - true).square().mean().sqrt() / scale)
                    for part in (result, other)
                )
                allowed = (SLACK + SCATTER / true.numel() ** 0.5) * eager_error
            if not error <= allowed:  # also if it is NaN
                return f"{name} differs by {error:.1e}, {allowed:.1e} is allowed"
        return ""

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the features of the region with its halo of 2, zero outside, and a matrix."""
        generator = torch.Generator().manual_seed(1)
        channels = self.weights.ffn_out.weight.shape[0]
        height, width = self.size
        whole = torch.zeros(1, height + 4, width + 4, channels)
        inside = torch.randn(1, height, width, channels, generator=generator)
        whole[:, 2:-2, 2:-2] = 2 * inside + 0.3
        top, bottom, left, right = self.region
        x = whole[:, top : bottom + 4, left : right + 4] if self.halo else inside
        matrix = torch.randn(1, channels, channels, generator=generator) / channels**0.5
        device = self.weights.ffn_out.weight.device
        return x.to(device, dtype).contiguous(), matrix.to(device)

    def fused(self, kernels: Kernels, x: Tensor, matrix: Tensor) -> Outcome:
        """Return the results of the kernels."""
        block = kernels.block(self.weights, x.dtype)
        sums = block.sums(self._with_halo_of_1(x), self.region, self.size)
        return Outcome(*sums, block.finish(x, [block.packed(matrix[0])], self.region, self.size))

    def eager(self, x: Tensor, matrix: Tensor, dtype: torch.dtype) -> Outcome:
        """Return PyTorch's results."""
        sums, finish = eager_passes(self.weights, matrix, dtype)
        convolve = block_convolution(self.region, *self.size) if self.halo else same
        gram, squares = sums(self._with_halo_of_1(x), self.region, convolve)
        return Outcome(gram, squares, finish(x, self.region, convolve))

    def speed(
        self, kernels: Kernels, dtype: torch.dtype, clock: Callable[[], float] = time.process_time
    ) -> float:
        """Return how many times as fast as PyTorch the kernels are; by default in CPU time."""
        x, matrix = self.inputs(dtype)
        inner = self._with_halo_of_1(x)
        block = kernels.block(self.weights, dtype)
        packed = [block.packed(matrix[0])]
        sums, finish = eager_passes(self.weights, matrix, dtype)
        convolve = block_convolution(self.region, *self.size) if self.halo else same

        def eager() -> None:
            sums(inner, self.region, convolve)
            finish(x, self.region, convolve)

        def fused() -> None:
            block.sums(inner, self.region, self.size)
            block.finish(x, packed, self.region, self.size)

        return least_seconds(eager, clock) / least_seconds(fused, clock)

    def _with_halo_of_1(self, x: Tensor) -> Tensor:
        return x[:, 1:-1, 1:-1].contiguous() if self.halo else x


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
        yield Case(f"{channels} channels, {name}", weights, region, size)


def random_block(channels: int, heads: int, **architecture: Any) -> BlockWeights:
    """Return the weights of a block in which every parameter is random."""
    generator = torch.Generator().manual_seed(channels)
    block = TransformerBlock(channels, heads, Architecture(**architecture))
    with torch.no_grad():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel()
            parameter.copy_(1 + 0.1 * noise if parameter.ndim != 4 else noise / fan_in**0.5)
        return block.weights()


def eager_passes(
    weights: BlockWeights, matrix: Tensor, dtype: torch.dtype
) -> tuple[Compute[Statistics], Compute[Tensor]]:
    """Return PyTorch's two passes over a block, with a given mixing matrix."""
    from ..strips import finish_pass, pack_block, sums_pass  # which imports this package

    w = pack_block(weights, dtype)
    return sums_pass(w), finish_pass(w, lambda v, _: mix(v, matrix))


def measure(library: Library, channels: int, heads: int, dtype: torch.dtype) -> float:
    """Return how many times as fast as PyTorch the library computes a block."""
    shape = block_shape_on_cpu(1, dtype.itemsize, channels, 1024, 1024)
    rows, columns = shape.rows // 2, shape.columns // 2  # to save time
    region = Region(8, 8 + rows, 8, 8 + columns)
    case = Case("", random_block(channels, heads), region, (rows + 16, columns + 16))
    return case.speed(library, dtype)


def least_seconds(function: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the least time of three calls, after one to warm up."""
    function()
    times = []
    for _ in range(3):
        started = clock()
        function()
        times.append(clock() - started)
    return max(min(times), 1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        sys.stdout.write(check(Library(Path(sys.argv[1]))).to_json() + "\n")
