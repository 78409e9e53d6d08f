"""The restoring commands. Read `commands` first; `session` is one run of any of them."""

from .commands import deblur, defocus, denoise, derain

__all__ = ["deblur", "defocus", "denoise", "derain"]
