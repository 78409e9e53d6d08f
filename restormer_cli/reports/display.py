"""Render any image for a screen: 8-bit sRGB, scaled, alpha over a checkerboard."""

from __future__ import annotations

from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from ..imaging import Array, Box, Image, from_float, most_changed, to_float, to_srgb

_SQUARE, _GREYS = 8, (0.80, 0.95)  # of the checkerboard: pixels per square, and the two greys


def image_size(image: Image) -> tuple[int, int]:
    """Return width and height."""
    height, width = image.pixels.shape[:2]
    return width, height


def fit_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the size, scaled down if necessary to fit the maximum, with the same aspect ratio."""
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(samples: Array, width: int, height: int) -> Array:
    """Resize H W or H W C samples of any depth: average areas to shrink, interpolate to enlarge."""
    if samples.shape[:2] == (height, width):
        return samples
    smaller = samples.shape[0] > height or samples.shape[1] > width
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    result = cv2.resize(samples, (width, height), interpolation=interpolation)
    return result.reshape(height, width, *samples.shape[2:])


def render(image: Image, width: int, height: int, crop: Box | None = None) -> PIL.Image.Image:
    """Return the image, or a crop of it, in 8-bit sRGB at this size.

    Float samples outside 0..1 are clipped. An unusable ICC profile is ignored.
    """
    pixels, alpha = image.pixels, image.alpha
    if crop is not None:
        pixels, alpha = crop.of(pixels), None if alpha is None else crop.of(alpha)
    # Scale first: the following steps copy the samples, which takes much memory at full size.
    rgb = to_float(resize(pixels, width, height))
    if alpha is not None:
        opacity = to_float(resize(alpha, width, height))[..., None]
        front = rgb if image.premultiplied else rgb * opacity
        parity = (np.arange(height)[:, None] // _SQUARE + np.arange(width) // _SQUARE) % 2
        rgb = front + (1 - opacity) * np.array(_GREYS, np.float32)[parity][..., None]
    samples = from_float(rgb, np.uint8)
    picture = PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
    if image.icc is not None:
        with suppress(ImageCms.PyCMSError, OSError):  # damaged, or for another colour space
            picture = to_srgb(picture, image.icc)
    return picture.convert("RGB")


def most_changed_crop(before: Image, after: Image, width: int, height: int) -> Box:
    """Return the crop of this size that changed most, or the centre if nothing changed."""
    total_width, total_height = image_size(after)
    centre = Box((total_width - width) // 2, (total_height - height) // 2, width, height)
    return next(iter(most_changed(before.pixels, after.pixels, width, height, 1)), centre)
