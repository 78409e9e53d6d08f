"""The pairs of images a network learns from: what it is given, and what it should make of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Generator, Tensor

from .degradations import Degradation

__all__ = ["Lesson", "Pair", "Pairing", "degrading", "photographed"]

Pair = tuple[Tensor, Tensor]
"""Degraded and clean images, B C H W each; two views of a scene lie one after the other in C."""

Pairing = Callable[[Tensor, Generator], Pair]
"""Makes pairs of what photos hold (see `Photo`), cut to B C H W."""


class Lesson(NamedTuple):
    """How pairs are made, of patches that are `reach` pixels larger on every side than these.

    A patch is the sharpest of `among` places.
    """

    pairing: Pairing
    reach: int = 0
    among: int = 1


def degrading(degrade: Degradation, reach: int = 0) -> Pairing:
    """Pairs of clean images and these degraded, cut by how far that looks beyond a border.

    Grey images are degraded as three equal channels, each with noise of its own; one is kept.
    """

    def pair(clean: Tensor, generator: Generator) -> Pair:
        inside = (..., slice(reach, clean.shape[2] - reach), slice(reach, clean.shape[3] - reach))
        degraded = degrade(clean.expand(-1, 3, -1, -1), generator)[:, : clean.shape[1]]
        return degraded[inside], clean[inside]

    return pair


def photographed(views: int = 1) -> Pairing:
    """Pairs as they were photographed: the clean image, then so many degraded views of it."""

    def pair(together: Tensor, _: Generator) -> Pair:
        channels = together.shape[1] // (1 + views)
        return together[:, channels:], together[:, :channels]

    return pair
