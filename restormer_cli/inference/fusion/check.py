"""Compare kernels with PyTorch's functions on a random block, and time both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...network import Architecture, BlockWeights, Statistics, TransformerBlock, same
from ..blocking import Compute, Edges, Region, block_convolution
from ..tlc import Mixing
from .passes import Kernels

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


@dataclass
class Case:
    """A block with random weights, and a region of a map of random features."""

    name: str
    weights: BlockWeights  # their device is that of the comparison
    region: Region
    size: tuple[int, int]
    halo: bool = True  # without, the region is the whole map
    edges: Edges = ([], [])  # of segments with mixing matrices of their own

    def compare(self, kernels: Kernels, dtype: torch.dtype) -> str:
        """Return what is wrong with the results of the kernels, or an empty string."""
        x, matrices = self.inputs(dtype)
        exact = self.eager(x.float(), matrices, torch.float32)
        fused = self.fused(kernels, x, matrices)
        eager = self.eager(x, matrices, dtype)
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
        """Return the features of the region with its halo of 2, zero outside, and matrices.

        The mixing matrices, C C, are in rows and columns of segments.
        """
        generator = torch.Generator().manual_seed(1)
        channels = self.weights.ffn_out.weight.shape[0]
        height, width = self.size
        whole = torch.zeros(1, height + 4, width + 4, channels)
        inside = torch.randn(1, height, width, channels, generator=generator)
        whole[:, 2:-2, 2:-2] = 2 * inside + 0.3
        top, bottom, left, right = self.region
        x = whole[:, top : bottom + 4, left : right + 4] if self.halo else inside
        segments = (len(along) + 1 for along in self.edges)
        matrices = torch.randn(*segments, channels, channels, generator=generator) / channels**0.5
        device = self.weights.ffn_out.weight.device
        return x.to(device, dtype).contiguous(), matrices.to(device)

    def fused(self, kernels: Kernels, x: Tensor, matrices: Tensor) -> Outcome:
        """Return the results of the kernels."""
        block = kernels.block(self.weights, x.dtype)
        sums = block.sums(self._with_halo_of_1(x), self.region, self.size)
        mixing = self.mixing(matrices, block.packed)
        return Outcome(*sums, block.finish(x, mixing, self.region, self.size))

    def mixing(self, matrices: Tensor, packed: Callable[[Tensor], Tensor]) -> Mixing[Tensor]:
        """Return the matrices of the segments, in the form that a second pass takes."""
        return Mixing(self.edges, cache(lambda down, across: packed(matrices[down, across, None])))

    def eager(self, x: Tensor, matrices: Tensor, dtype: torch.dtype) -> Outcome:
        """Return PyTorch's results."""
        mixing = self.mixing(matrices, lambda matrix: matrix.to(dtype))
        sums, finish = eager_passes(self.weights, mixing, dtype)
        convolve = block_convolution(self.region, *self.size) if self.halo else same
        gram, squares = sums(self._with_halo_of_1(x), self.region, convolve)
        return Outcome(gram, squares, finish(x, self.region, convolve))

    def speed(
        self, kernels: Kernels, dtype: torch.dtype, clock: Callable[[], float] = time.process_time
    ) -> float:
        """Return how many times as fast as PyTorch the kernels are; by default in CPU time."""
        x, matrices = self.inputs(dtype)
        inner = self._with_halo_of_1(x)
        block = kernels.block(self.weights, dtype)
        mixing = self.mixing(matrices, block.packed)
        cast = self.mixing(matrices, lambda matrix: matrix.to(dtype))
        sums, finish = eager_passes(self.weights, cast, dtype)
        convolve = block_convolution(self.region, *self.size) if self.halo else same

        def eager() -> None:
            sums(inner, self.region, convolve)
            finish(x, self.region, convolve)

        def fused() -> None:
            block.sums(inner, self.region, self.size)
            block.finish(x, mixing, self.region, self.size)

        return least_seconds(eager, clock) / least_seconds(fused, clock)

    def _with_halo_of_1(self, x: Tensor) -> Tensor:
        return x[:, 1:-1, 1:-1].contiguous() if self.halo else x


def block_widths(a: Architecture) -> Iterator[tuple[int, int]]:
    """Yield the channels and heads of a network's blocks."""
    yield from ((a.dim << level, heads) for level, heads in enumerate(a.heads))
    yield 2 * a.dim, a.heads[0]  # decoder and refinement at level 1


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
    weights: BlockWeights, mixing: Mixing[Tensor], dtype: torch.dtype
) -> tuple[Compute[Statistics], Compute[Tensor]]:
    """Return PyTorch's two passes over a block, with given mixing matrices."""
    from ..strips import finish_pass, pack_block, sums_pass  # which imports this package

    w = pack_block(weights, dtype)
    return sums_pass(w), finish_pass(w, mixing)


def least_seconds(function: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the least time of three calls, after one to warm up."""
    function()
    times = []
    for _ in range(3):
        started = clock()
        function()
        times.append(clock() - started)
    return max(min(times), 1e-9)
