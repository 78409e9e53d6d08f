"""Compare a library with PyTorch's functions, in a process of its own: a crash is a result, too.

`python -m restormer_cli.inference.native.check LIBRARY` prints a `Verdict` as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import restormer_cli

from ...network import Architecture, BlockWeights, Statistics, TransformerBlock, mix
from ..blocking import Compute, Region, block_convolution, block_shape_on_cpu
from .compiler import NativeError, run_limited
from .library import TYPES, FusedBlock, Library
from .mode import VARIABLE

CHECK_LIMIT = 120.0
"""Seconds after which a check is stopped; on an idle CPU it takes about 5."""

WIDTHS = ((16, 1), (32, 2), (48, 1), (64, 2), (96, 2), (128, 4), (192, 4), (256, 4), (384, 8))
"""Channels and heads whose speed is measured."""

EXACT = 1e-5
"""Largest difference to PyTorch in fp32, relative to the largest value."""

SLACK = 1.1
"""Largest error in bf16, relative to that of PyTorch in bf16."""


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        cause: why the library cannot be used; empty if it can.
        instructions: instruction sets that it uses.
        speed: for each type of features and number of channels, how many times as fast as PyTorch.
    """

    cause: str
    instructions: str = ""
    speed: dict[str, dict[int, float]] | None = None

    def to_json(self) -> str:
        """Return the verdict as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read a verdict.

        Raises:
            ValueError: the text is not a verdict.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            speed = {
                kind: {int(channels): float(ratio) for channels, ratio in of_kind.items()}
                for kind, of_kind in (fields["speed"] or {}).items()
            }
            return cls(str(fields["cause"]), str(fields["instructions"]), speed)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a verdict: {text[:80]!r}") from error


class Outcome(NamedTuple):
    """Results of the two passes over a block."""

    gram: Tensor
    squares: Tensor
    finished: Tensor


def examine(library: Path, limit: float = CHECK_LIMIT) -> Verdict:
    """Check a library in another process."""
    root = str(Path(restormer_cli.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, str(library)]
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", VARIABLE: "off"}
    try:
        output = run_limited(command, limit, **environment)
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
    weights: BlockWeights
    region: Region
    size: tuple[int, int]

    def compare(self, library: Library, dtype: torch.dtype) -> str:
        """Return what is wrong with the library's results, or an empty string."""
        x, matrix = self.inputs(dtype)
        exact = self.eager(x.float(), matrix, torch.float32)
        native = self.native(library, x, matrix)
        eager = self.eager(x, matrix, dtype)
        for name, true, result, other in zip(Outcome._fields, exact, native, eager, strict=True):
            scale = true.abs().max()
            if dtype == torch.float32:
                error, allowed = float((result - true).abs().max() / scale), EXACT
            else:
                error, eager_error = (
                    float((part.float() - true).square().mean().sqrt() / scale)
                    for part in (result, other)
                )
                allowed = SLACK * eager_error
            if not error <= allowed:  # also if it is NaN
                return f"{name} differs by {error:.1e}, {allowed:.1e} is allowed"
        return ""

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the features of the region with a halo of 2, zero outside, and a matrix."""
        generator = torch.Generator().manual_seed(1)
        channels = self.weights.ffn_out.weight.shape[0]
        height, width = self.size
        whole = torch.zeros(1, height + 4, width + 4, channels)
        inside = torch.randn(1, height, width, channels, generator=generator)
        whole[:, 2:-2, 2:-2] = 2 * inside + 0.3
        top, bottom, left, right = self.region
        x = whole[:, top : bottom + 4, left : right + 4].to(dtype).contiguous()
        return x, torch.randn(1, channels, channels, generator=generator) / channels**0.5

    def native(self, library: Library, x: Tensor, matrix: Tensor) -> Outcome:
        """Return the library's results."""
        block = FusedBlock(library, self.weights, x.dtype)
        sums = block.sums(x[:, 1:-1, 1:-1].contiguous(), self.region, self.size)
        return Outcome(*sums, block.finish(x, [block.packed(matrix[0])], self.region, self.size))

    def eager(self, x: Tensor, matrix: Tensor, dtype: torch.dtype) -> Outcome:
        """Return PyTorch's results."""
        sums, finish = eager_passes(self.weights, matrix, dtype)
        convolve = block_convolution(self.region, *self.size)
        gram, squares = sums(x[:, 1:-1, 1:-1].contiguous(), self.region, convolve)
        return Outcome(gram, squares, finish(x, self.region, convolve))


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
    from ..strips import pack_block, passes_for  # which imports this package

    w = pack_block(weights, dtype)
    passes = passes_for(w)
    return passes.sums(w), passes.finish(w, lambda v, _: mix(v, matrix))


def measure(library: Library, channels: int, heads: int, dtype: torch.dtype) -> float:
    """Return how many times as fast as PyTorch the library computes a block."""
    shape = block_shape_on_cpu(1, dtype.itemsize, channels, 1024, 1024)
    rows, columns = shape.rows // 2, shape.columns // 2  # to save time
    region, size = Region(8, 8 + rows, 8, 8 + columns), (1024, 1024)
    weights = random_block(channels, heads)
    convolve = block_convolution(region, *size)
    block = FusedBlock(library, weights, dtype)
    x = torch.randn(1, rows + 4, columns + 4, channels).to(dtype)
    inner, matrix = x[:, 1:-1, 1:-1].contiguous(), torch.randn(1, channels, channels)
    packed = [block.packed(matrix[0])]
    sums, finish = eager_passes(weights, matrix, dtype)

    def eager() -> None:
        sums(inner, region, convolve)
        finish(x, region, convolve)

    def native() -> None:
        block.sums(inner, region, size)
        block.finish(x, packed, region, size)

    return _seconds(eager) / _seconds(native)


def _seconds(function: Callable[[], None]) -> float:
    """Return the least CPU time of three calls, after one to warm up."""
    function()
    times = []
    for _ in range(3):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return max(min(times), 1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        sys.stdout.write(check(Library(Path(sys.argv[1]))).to_json() + "\n")
