"""What all fused blocks have in common: two passes over a map, each one call for a region."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from ...network import BlockWeights, Convolve, Statistics, attention, mixing_matrix
from ..blocking import Map, Region, StripRunner

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
        # `attention` and `mixing_matrix` do not use the other weights.
        unused: dict[str, Any] = dict.fromkeys(("qk", "v", "gate", "value", "ffn_out"))
        self._attention = w._replace(**unused)

    def transform(self, run: StripRunner, x: Map) -> None:
        """Apply the block to a map in place; the attention is that of the whole image."""
        total = reduce(Statistics.plus, self.collect(run, x))
        matrices = mixing_matrix(attention(total, self._attention), self._attention)
        self.overwrite(run, x, [self.packed(matrix) for matrix in matrices])

    def collect(self, run: StripRunner, x: Map) -> Iterator[Statistics]:
        """Yield the statistics of regions that cover the map."""
        height, width = x[0].shape[1:3]

        def sums(block: Tensor, region: Region, _: Convolve) -> Statistics:
            return self.sums(block, region, (height, width))

        return (part for _, part in run.collect(x, sums))

    def overwrite(self, run: StripRunner, x: Map, mixes: list[Tensor]) -> None:
        """Replace the map by the block's result, given the packed mixing matrix of each image."""
        height, width = x[0].shape[1:3]

        def finish(block: Tensor, region: Region, _: Convolve) -> Tensor:
            return self.finish(block, mixes, region, (height, width))

        run.replace(x, finish, self.HALO)

    @abstractmethod
    def sums(self, x: Tensor, region: Region, size: tuple[int, int]) -> Statistics:
        """Return the statistics of a region of a map of this height and width.

        `x` is the region with a halo of one pixel, B H W C.
        """

    @abstractmethod
    def packed(self, matrix: Tensor) -> Tensor:
        """Return a mixing matrix, C C, in the form that `finish` takes."""

    @abstractmethod
    def finish(
        self, x: Tensor, mixes: list[Tensor], region: Region, size: tuple[int, int]
    ) -> Tensor:
        """Return the block's result for a region of a map of this height and width.

        `x` is the region with a halo of two pixels, B H W C; `mixes` are the packed mixing matrices
        of its images.
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
