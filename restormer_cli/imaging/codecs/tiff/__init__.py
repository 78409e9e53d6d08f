"""TIFF: pages with all their tags, stacks of slices, subsampled YCbCr. Start with `pages.py`."""

from .pages import SIGNATURES, decode
from .writer import encode

__all__ = ["SIGNATURES", "decode", "encode"]
