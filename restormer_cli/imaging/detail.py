"""Luminance detail that a denoiser removed together with the noise.

The removed luminance is divided into bands of growing scale by the undecimated "a trous" transform
(Starck and Murtagh, "Image restoration with noise suppression using the wavelet transform", 1994).
In each band, the noise is the energy of the quietest blocks of each brightness, since sensors have
more noise in bright parts. What exceeds it is detail (Mihcak et al., "Low-complexity image
denoising based on statistical modeling of wavelet coefficients", 1999).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .image import Array

_BANDS = 4  # details of 1 to about 16 pixels; larger ones are tones
_SPLINE = np.array([1, 4, 6, 4, 1], np.float32) / 16
_WINDOW = 5  # side of the windows for local energy, in pixels of the first band
_BLOCK = 16  # side of the blocks among which the quiet ones are chosen, in pixels of the first band
_QUIET = 0.25  # part of the blocks of one brightness that certainly has noise only
_MIN_GROUP, _MAX_GROUPS = 32, 8  # blocks of similar brightness
_EXCESS = 2.0  # local energy relative to that of the noise, which noise alone hardly exceeds
_RED, _BLUE = 0.2126, 0.0722  # parts of luminance (ITU-R BT.709)


def luminance(colours: Array) -> Array:
    """Return H W of H W C float32 colours; exactly the samples if these are equal."""
    if colours.shape[2] == 1:
        plane: Array = colours[..., 0]
        return plane
    red, green, blue = (colours[..., channel] for channel in range(3))
    mixed: Array = green + np.float32(_RED) * (red - green) + np.float32(_BLUE) * (blue - green)
    return mixed


def removed_detail(before: Array, after: Array) -> Array:
    """Return H W, the removed luminance that exceeds noise, of H W C colours in 0..1."""
    brightness = luminance(after)
    smooth = luminance(before) - brightness
    detail = np.zeros_like(smooth)
    for number in range(_BANDS):
        smoother = _smoothed(smooth, 1 << number)
        band = smooth - smoother
        smooth = smoother
        squares = np.square(band)
        noise = _noise_energy(squares, brightness, _BLOCK << number)
        energy = cv2.blur(squares, (_WINDOW << number | 1,) * 2)
        excess = (energy - np.float32(_EXCESS) * noise).clip(0)
        detail += band * np.divide(excess, energy, out=excess, where=energy > 0)
    return detail


def _smoothed(plane: Array, step: int) -> Array:
    kernel = np.zeros(4 * step + 1, np.float32)
    kernel[::step] = _SPLINE
    smoothed: Array = cv2.sepFilter2D(
        plane, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101
    )
    return smoothed


def _noise_energy(squares: Array, brightness: Array, side: int) -> Array:
    """Return the expected energy H W of noise, by brightness."""
    height, width = (max(1, length // side) for length in squares.shape)
    energies, levels = (
        cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA).ravel()
        for plane in (squares, brightness)
    )
    order = np.argsort(levels)
    groups = np.array_split(order, min(_MAX_GROUPS, max(1, len(order) // _MIN_GROUP)))
    centres = [levels[group].mean() for group in groups]
    quiet = [np.quantile(energies[group], _QUIET) for group in groups]
    expected: Array = np.interp(brightness, centres, quiet).astype(np.float32)
    return expected
