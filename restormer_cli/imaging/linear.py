"""Linear camera colours of raw files, and how they look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .image import Array

WHITE = 65535  # the largest sample that the sensor can give
_CLIPPED = 0.99 * WHITE  # sensors saturate slightly below the white of their description
# Linear sRGB to XYZ of D65 (IEC 61966-2-1).
SRGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)


@dataclass(frozen=True)
class RawDescription:
    """Meaning of linear camera samples, H W 3 uint16 from 0 (black) to WHITE, not balanced.

    The matrix is that of DNG 1.4, chapter 6: from XYZ to the camera's colours under D65.
    """

    balance: tuple[float, float, float]  # the camera's white balance: factors, the smallest is 1
    from_xyz: tuple[tuple[float, float, float], ...]

    def balanced(self, pixels: Array) -> npt.NDArray[np.float32]:
        """Return samples balanced and encoded by sRGB's curve: 0..1, and more in highlights."""
        levels = np.arange(WHITE + 1) / WHITE
        colours = np.empty(pixels.shape, np.float32)
        for channel, factor in enumerate(self.balance):
            table = _encode_gamma(levels * factor).astype(np.float32)
            colours[..., channel] = table[pixels[..., channel]]
        return colours

    def linear(self, colours: Array) -> npt.NDArray[np.uint16]:
        """Invert `balanced`, exactly for what it returned; other colours are clipped, rounded."""
        pixels = np.empty(colours.shape, np.uint16)
        for row, out in zip(colours, pixels, strict=True):
            light = _decode_gamma(row) * (WHITE / np.array(self.balance, np.float32))
            out[...] = np.rint(light).clip(0, WHITE)
        return pixels

    def clipped(self, pixels: Array) -> npt.NDArray[np.bool_]:
        """Return H W 1: True for pixels with a sample that the sensor has clipped."""
        clipped: npt.NDArray[np.bool_] = pixels.max(axis=2, keepdims=True) >= _CLIPPED
        return clipped

    def developed(self, pixels: Array) -> npt.NDArray[np.float32]:
        """Return samples in sRGB, 0..1, like those of a raw file that is developed."""
        to_srgb = np.linalg.inv(_per_white(np.array(self.from_xyz) @ SRGB_TO_XYZ))
        table = _encode_gamma(np.arange(WHITE + 1) / WHITE).astype(np.float32)
        colours = np.empty(pixels.shape, np.float32)
        for row, out in zip(pixels, colours, strict=True):
            light = np.minimum(row * np.array(self.balance), WHITE) @ to_srgb.T
            out[...] = table[np.rint(light).clip(0, WHITE).astype(np.uint16)]
        return colours


def from_srgb_matrix(to_srgb: Array, balance: Array) -> Array:
    """Return the matrix from XYZ that belongs to one from balanced camera colours to sRGB.

    Args:
        to_srgb: 3 x 3.
        balance: factors under D65.
    """
    matrix: Array = np.linalg.inv(to_srgb) / balance[:, None] @ np.linalg.inv(SRGB_TO_XYZ)
    return matrix


def _per_white(matrix: Array) -> Array:
    """Scale the rows of a matrix from RGB so that white has equal colours."""
    scaled: Array = matrix / matrix.sum(axis=1, keepdims=True)
    return scaled


def _encode_gamma(light: Array) -> Array:
    """Convert linear light, 0 and more, to sRGB (IEC 61966-2-1)."""
    encoded: Array = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return encoded


def _decode_gamma(encoded: Array) -> Array:
    """Invert `_encode_gamma`; negative values stay negative."""
    bright = ((np.maximum(encoded, 0) + 0.055) / 1.055) ** 2.4
    light: Array = np.where(encoded <= 12.92 * 0.0031308, encoded / 12.92, bright)
    return light
