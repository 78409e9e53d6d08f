"""An image of any kind as a screen shows it: 8-bit sRGB, scaled down, alpha over a chequerboard."""

from __future__ import annotations

import io
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from ..imaging import Array, Box, Image, from_float, to_float

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_CHEQUER = 8, (0.80, 0.95)  # side of a square in pixels, and the two greys


def image_size(image: Image) -> tuple[int, int]:
    """Width and height."""
    height, width = image.pixels.shape[:2]
    return width, height


def fit_size(width: int, height: int, most: int, most_high: int | None = None) -> tuple[int, int]:
    """The size of a picture scaled down, if need be, to `most` wide and `most_high` high."""
    scale = min(1.0, most / width, (most_high or most) / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(samples: Array, width: int, height: int) -> Array:
    """H W or H W C of any depth, averaged down to (or interpolated up to) another size."""
    if samples.shape[:2] == (height, width):
        return samples
    smaller = samples.shape[0] > height or samples.shape[1] > width
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    result = cv2.resize(samples, (width, height), interpolation=how)
    return result.reshape(height, width, *samples.shape[2:])


def render(image: Image, width: int, height: int, part: Box | None = None) -> PIL.Image.Image:
    """The image, or a part of it, in RGB at this size.

    Colours go through the ICC profile to sRGB, if it can be used. Float samples outside 0..1 are
    clipped; those of 16 bits are rounded.
    """
    pixels, alpha = image.pixels, image.alpha
    if part is not None:
        pixels, alpha = part.of(pixels), None if alpha is None else part.of(alpha)
    # Scaled first: what follows makes copies, which of a large image would be large.
    rgb = to_float(resize(pixels, width, height))
    if alpha is not None:
        opacity = to_float(resize(alpha, width, height))[..., None]
        front = rgb if image.premultiplied else rgb * opacity
        rgb = front + (1 - opacity) * _chequerboard(width, height)
    samples = from_float(rgb, np.dtype(np.uint8))
    if samples.shape[2] == 1:
        return _in_srgb(PIL.Image.fromarray(samples[..., 0]), image.icc)
    return _in_srgb(PIL.Image.fromarray(samples), image.icc)


def _chequerboard(width: int, height: int) -> Array:
    side, greys = _CHEQUER
    odd = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    board: Array = np.array(greys, np.float32)[odd][..., None]  # H W 1
    return board


def _in_srgb(picture: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc is not None:
        with suppress(ImageCms.PyCMSError, OSError):  # it is damaged, or for other colours
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(picture, profile, _SRGB, outputMode="RGB")
            picture = converted or picture  # None is for conversion in place
    return picture.convert("RGB")
