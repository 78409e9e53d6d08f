"""Black and white of float samples, whose type does not say it.

Files have 0..1, but also the values of 8 to 16 bits, radiance with highlights far above 1, and
values with an offset such as those of computed tomography. A wrong choice gives a picture that is
nearly black or white to the network. `find_scale` documents the choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .image import UNIT

if TYPE_CHECKING:
    from .image import Array, Scale

_FULL = tuple(float(2**bits - 1) for bits in (8, 10, 12, 14, 16, 32))
_BLOCK = 8  # side of the blocks whose means, nearly without noise, decide
_SLACK = 0.1  # part of a scale by which means may lie outside of it
_MOST_COUNTS = 2**16 - 1  # full scale up to which counts may be dark
_DARKEST_WHITE = 0.2  # of a full scale, below which an image is not taken to be on that scale
_LEAST_CONTRAST = 0.1  # of a full scale over 255, below which values are quantities with an offset
_FEW, _MOSTLY = 0.1, 0.5  # parts of the means
_RADIANCE = 4.0  # brightest mean of images that are not radiance with highlights
_TAIL = 0.001  # part of the samples that may lie outside of a range
_MAX_SAMPLES = 1_000_000  # for quantiles, evenly spread


def find_scale(pixels: Array, alpha: Array | None = None) -> Scale:
    """Choose black and white of H W C float32 samples, finite, from those that alpha shows.

    Decided by the means of blocks, and in this order:

    1. All samples lie in 0..1: this scale, also for dark images.
    2. At most half of the means that are not 0 are above 1: 0..1. Samples beyond are noise or
       highlights. If these are many, but below 4, all are restored, as in 5.
    3. More are above 1: the smallest of 0..255, 1023, 4095, 16383, 65535 and 2^32 - 1 that holds
       the means and is at most five times the brightest, and if over 255, at most ten times their
       range: temperatures in kelvin are no levels. Numbers without fractions are counts: they are
       on the smallest scale up to 0..65535 that holds them, however dark.
    4. Some means are below 0, and all are in -1..1: this scale.
    5. All others: the range of all but 0.1 % of the samples at each end, extended to two digits. It
       begins at 0 unless half of it would be empty.
    """
    least, most = float(pixels.min()), float(pixels.max())
    if least >= 0 and most <= 1:
        return UNIT
    if alpha is not None and not alpha.all() and alpha.any():
        pixels = np.where(alpha[..., None] > 0, pixels, pixels[alpha > 0][:1])
        least, most = float(pixels.min()), float(pixels.max())
    means = _block_means(pixels)
    dark, bright = (float(v) for v in np.quantile(means, (_TAIL, 1 - _TAIL)))
    lit = means[means != 0]
    bright_share = float((lit > 1 + _SLACK).mean()) if lit.size else 0.0
    step = max(1, pixels.size // _MAX_SAMPLES)
    values = pixels.reshape(-1)[::step]
    counts = most > 1 and bool((values == np.rint(values)).all())
    if counts or bright_share > _MOSTLY:
        full = next((f for f in _FULL if bright <= (1 + _SLACK) * f), 0.0)
        if bright < _DARKEST_WHITE * full and not (counts and full <= _MOST_COUNTS):
            full = 0.0
        if not counts and 0 < bright - dark < _LEAST_CONTRAST * full and full > _FULL[0]:
            full = 0.0
    else:
        full = 1.0 if bright_share <= _FEW or bright > _RADIANCE else 0.0
    below = float(np.maximum(-values, 0).mean())  # noise around black is below 0, but not far
    if full and max(-dark, below) <= _SLACK * full:
        return 0.0, full
    if dark >= -1 - _SLACK and bright <= 1 + _SLACK:
        return -1.0, 1.0
    return _robust_range(values)


def _block_means(pixels: Array) -> Array:
    height, width = pixels.shape[:2]
    size = -(-width // _BLOCK), -(-height // _BLOCK)
    planes = (np.ascontiguousarray(pixels[..., channel]) for channel in range(pixels.shape[2]))
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in planes])


def _robust_range(values: Array) -> Scale:
    low, high = (float(v) for v in np.quantile(values.astype(np.float64), (_TAIL, 1 - _TAIL)))
    if 0 <= low < high / 2 or low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    step = 10.0 ** (np.floor(np.log10(max(high - low, 1e-30))) - 1)
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step) + 0.0  # no -0
