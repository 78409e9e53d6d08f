"""Feature maps in memory, and rectangles of them.

A map is B H W C: pixels are one after another, and the channels of a pixel are neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """Rectangle of pixels: rows top..bottom and columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def scaled(self, scale: float) -> Region:
        """Return the rectangle in the coordinates of another level."""
        return Region(*(int(edge * scale) for edge in self))

    def crop(self, x: Tensor) -> Tensor:
        """Return a view of the rectangle in B H W C."""
        return x[:, self.top : self.bottom, self.left : self.right]

    def expanded(self, halo: int) -> Region:
        """Return the rectangle with a halo on every side."""
        top, bottom, left, right = self
        return Region(top - halo, bottom + halo, left - halo, right + halo)

    def within(self, other: Region) -> Region:
        """Return the intersection with another rectangle."""
        top, bottom, left, right = other
        rows = max(self.top, top), min(self.bottom, bottom)
        return Region(*rows, max(self.left, left), min(self.right, right))

    def relative_to(self, top: int, left: int) -> Region:
        """Return the rectangle in the coordinates of a part that begins at this row and column."""
        rows = self.top - top, self.bottom - top
        return Region(*rows, self.left - left, self.right - left)


Map = list[Tensor]
"""Feature map as groups of channels, each B H W C in its own memory, with or without free rows."""


class Part(NamedTuple):
    """Rectangle of a feature map, which begins at a row and a column of the map."""

    groups: Map
    top: int = 0
    left: int = 0

    @property
    def region(self) -> Region:
        """Rows and columns of the map."""
        height, width = self.groups[0].shape[1:3]
        return Region(self.top, self.top + height, self.left, self.left + width)

    def crop(self, region: Region) -> Map:
        """Return views of rows and columns of the map that lie in the part."""
        return [region.relative_to(self.top, self.left).crop(group) for group in self.groups]

    def block(self, region: Region) -> Tensor:
        """Return a region of the map, contiguous B H W C, zero where it is not in the part."""
        inside = region.within(self.region)
        if inside == region:
            return joined(self.crop(region), -1).contiguous()
        first, channels = self.groups[0], [group.shape[-1] for group in self.groups]
        height, width = region.bottom - region.top, region.right - region.left
        block = first.new_empty(len(first), height, width, sum(channels))
        target = inside.relative_to(region.top, region.left)
        for piece, group in zip(
            target.crop(block).split(channels, -1), self.crop(inside), strict=True
        ):
            piece.copy_(group)
        clear_outside(block, target)
        return block


def empty_group(
    shape: tuple[int, int, int, int], room: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return memory for a group of channels, B H W C, with `room` free rows behind it."""
    b, height, width, channels = shape
    return torch.empty(b, height + room, width, channels, dtype=dtype, device=device)[:, :height]


def empty_beside(x: Tensor) -> Tensor:
    """Return an empty group with as many free rows as `x`, at the same side."""
    memory = x.new_empty(x.untyped_storage().nbytes() // x.itemsize)
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())


def free_rows(x: Tensor) -> int:
    """Return the number of free rows behind a group in its memory; negative if they precede it."""
    rows = x.stride(0) // x.stride(1) - x.shape[1]
    return rows if x.storage_offset() == 0 else -rows


def moved(x: Tensor, rows: int) -> Tensor:
    """Return a group that begins some rows later in the memory of `x`, or earlier."""
    return x.as_strided(x.shape, x.stride(), x.storage_offset() + rows * x.stride(1))


def joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors; a single one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), axis)


def clear_outside(x: Tensor, inside: Region) -> None:
    """Set B H W C to zero outside a rectangle."""
    for part in (
        x[:, : inside.top],
        x[:, inside.bottom :],
        x[:, :, : inside.left],
        x[:, :, inside.right :],
    ):
        if part.numel():
            part.zero_()
