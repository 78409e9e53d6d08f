"""TIFF: pages with all their tags, stacks of slices, subsampled YCbCr. Start with `pages.py`."""

from .pages import IPTC, PHOTOSHOP, SIGNATURES, decode, encode

__all__ = ["IPTC", "PHOTOSHOP", "SIGNATURES", "decode", "encode"]
