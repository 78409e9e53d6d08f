"""Limits of what is decoded, which options show without importing the codecs."""

MAX_PIXELS = 300_000_000
"""Default maximum number of pixels of an image: larger ones may be bombs of compression."""
