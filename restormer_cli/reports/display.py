"""Render any image for a screen: 8-bit sRGB, scaled, alpha over a checkerboard."""

from __future__ import annotations

import io
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from ..imaging import Array, Box, Image, from_float, most_changed, to_float

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SQUARE, _GREYS = 8, (0.80, 0.95)  # the checkerboard: pixels per square, and its two greys


def image_size(image: Image) -> tuple[int, int]:
    """Return width and height."""
    height, width = image.pixels.shape[:2]
    return width, height


def fit_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the size scaled down, if necessary, to fit the maximum; the ratio is kept."""
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(samples: Array, width: int, height: int) -> Array:
    """Return H W or H W C samples of any depth at another size.

    Downscaling averages areas; upscaling interpolates.
    """
    if samples.shape[:2] == (height, width):
        return samples
    smaller = samples.shape[0] > height or samples.shape[1] > width
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    result = cv2.resize(samples, (width, height), interpolation=interpolation)
    return result.reshape(height, width, *samples.shape[2:])


def render(image: Image, width: int, height: int, crop: Box | None = None) -> PIL.Image.Image:
    """Return the image, or a crop of it, in RGB at this size.

    Colours are converted from the ICC profile to sRGB if the profile is usable. Float samples
    outside 0..1 are clipped; 16-bit samples are rounded.
    """
    pixels, alpha = image.pixels, image.alpha
    if crop is not None:
        pixels, alpha = crop.of(pixels), None if alpha is None else crop.of(alpha)
    # Scale first: the following steps copy, which would cost much memory at full size.
    rgb = to_float(resize(pixels, width, height))
    if alpha is not None:
        opacity = to_float(resize(alpha, width, height))[..., None]
        front = rgb if image.premultiplied else rgb * opacity
        rgb = front + (1 - opacity) * _checkerboard(width, height)
    samples = from_float(rgb, np.uint8)
    return _to_srgb(
        PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples), image.icc
    )


def most_changed_crop(before: Image, after: Image, width: int, height: int) -> Box:
    """Return the crop of this size that changed most, or the centre if nothing changed."""
    total_width, total_height = image_size(after)
    centre = Box((total_width - width) // 2, (total_height - height) // 2, width, height)
    return next(iter(most_changed(before.pixels, after.pixels, width, height, 1)), centre)


def _checkerboard(width: int, height: int) -> Array:
    parity = (np.arange(height)[:, None] // _SQUARE + np.arange(width) // _SQUARE) % 2
    board: Array = np.array(_GREYS, np.float32)[parity][..., None]  # H W 1
    return board


def _to_srgb(picture: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    if icc is not None:
        with suppress(ImageCms.PyCMSError, OSError):  # damaged, or for another colour space
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(picture, profile, _SRGB, outputMode="RGB")
            picture = converted or picture  # None: converted in place
    return picture.convert("RGB")
