"""What all fused blocks have in common: two passes over a map, each one call for a region."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ...network import BlockWeights, Convolve, Statistics
from ..blocking import Edges, Map, Region, StripRunner
from ..tlc import Mixing, Windows

KINDS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "half"}
"""Types of features, and their names in verdicts."""


class FusionError(Exception):
    """Kernels cannot be used; the message is the cause."""


class FusedPasses(ABC):
    """A transformer block whose two passes over a map are functions of our own.

    Args:
        w: weights of the block, in fp32.
    """

    HALO = 2
    """Pixels around a region that `finish` needs."""

    def __init__(self, w: BlockWeights) -> None:
        # `Windows.mixing` does not use the other weights.
        unused: dict[str, Any] = dict.fromkeys(("qk", "v", "gate", "value", "ffn_out"))
        self._attention = w._replace(**unused)

    def transform(self, run: StripRunner, x: Map, windows: Windows) -> None:
        """Apply the block to a map in place."""
        sums = self.collect(run, x, windows.edges)
        self.overwrite(run, x, windows.mixing(sums, self._attention, self.packed))

    def collect(
        self, run: StripRunner, x: Map, edges: Edges
    ) -> Iterator[tuple[Region, Statistics]]:
        """Yield regions that cover the map and do not cross the edges, and their statistics."""
        height, width = x[0].shape[1:3]

        def sums(block: Tensor, region: Region, _: Convolve) -> Statistics:
            return self.sums(block, region, (height, width))

        return run.collect(x, sums, edges=edges)

    def overwrite(self, run: StripRunner, x: Map, mixing: Mixing[Tensor]) -> None:
        """Replace the map by the block's result, given the packed mixing matrices."""
        height, width = x[0].shape[1:3]

        def finish(block: Tensor, region: Region, _: Convolve) -> Tensor:
            return self.finish(block, mixing, region, (height, width))

        run.replace(x, finish, self.HALO)

    @abstractmethod
    def sums(self, x: Tensor, region: Region, size: tuple[int, int]) -> Statistics:
        """Return the statistics of a region of a map of this height and width.

        `x` is the region with a halo of one pixel, B H W C.
        """

    @abstractmethod
    def packed(self, matrices: Tensor) -> Tensor:
        """Return the mixing matrices of images, B C C, in the form that `finish` takes."""

    @abstractmethod
    def finish(
        self, x: Tensor, mixing: Mixing[Tensor], region: Region, size: tuple[int, int]
    ) -> Tensor:
        """Return the block's result for a region of a map of this height and width.

        `x` is the region with a halo of two pixels, B H W C; `mixing` has packed matrices.
        """


class Kernels(Protocol):
    """An implementation of the passes."""

    @property
    def instructions(self) -> str:
        """What it runs on, in words."""

    def supports(self, dtype: torch.dtype) -> bool:
        """Return True if it has functions for features of this type."""

    def fits(self, channels: int, heads: int) -> bool:
        """Return True if it supports a block with these channels and heads."""

    def block(self, w: BlockWeights, dtype: torch.dtype) -> FusedPasses:
        """Return a block with these weights in fp32 for features of a type."""
