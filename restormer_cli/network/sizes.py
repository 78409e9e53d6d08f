"""Sizes of images that the network takes. Does not import PyTorch."""

from __future__ import annotations

MULTIPLE = 8
"""Height and width must be multiples of this, because they are halved three times."""


def round_up(side: int) -> int:
    """Return the least multiple of `MULTIPLE` that is not below a side of an image in pixels."""
    return -(-side // MULTIPLE) * MULTIPLE
