"""Convert an image to the input of a network, and its output back to samples.

Networks take colours in 0..1. `prepare` makes them in four steps, and `NetworkView` undoes these
for the samples that the network has changed:

- Camera colours: linear samples are balanced and encoded by sRGB's curve. Pixels that the sensor
  has clipped stay as they are.
- Scale: float samples are scaled to 0..1. Noise beyond is clipped and denoised, but highlights
  stay as they are.
- Alpha: colour is divided by alpha if it is multiplied, and colour that is hidden or nearly so is
  replaced by that of visible neighbours. Hidden samples stay as they are.
- Neutrality: RGB images without colour are restored as grey ones, to stay without colour.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..text import format_number
from .detail import removed_detail
from .image import from_float, opacity, to_float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .image import Array, Image

_OPAQUE = 0.1  # opacity from which a pixel keeps its own colour
_LEAST_OPACITY = 1e-3  # for divisions
_ROUNDING = 1e-6  # difference that tiles, scaling and colour conversions may cause
_ROWS = 256
_DARK = 3 / 255  # brightest samples, below which results are worse than inputs (lite, measured)
_BRIGHTEST = 0.999  # quantile
_MAX_SAMPLES = 100_000  # for it, evenly spread
# Excess over 0..1, of a sample and of the mean around it, below and above which it is noise or a
# highlight. Noise of sigma 50 of 255 rarely reaches the first two.
_SINGLE, _SMOOTHED, _COHERENT = (0.7, 1.0), (0.03, 0.1), (0.0, 0.1)
_WINDOW = (7, 7)


@dataclass(frozen=True)
class NetworkView:
    """The input of a network for an image, and the data to convert the output back."""

    image: Image
    colours: Array  # H W C float32 on the scale 0..1, C 1 if the image is neutral
    network_input: Array  # the same clipped to 0..1, with margins
    right: Array | None  # the right view of a dual-pixel image, like `network_input`
    margin: int  # pixels at each side of `network_input`
    change_weight: Array | None = None  # H W 1 or H W C, 0..1: part of the change to keep; None: 1
    opacity: Array | None = None  # H W 1 for colour that is multiplied by alpha
    linear: Image | None = None  # of camera colours, which `image` shows balanced
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def merge(self, output: Array) -> Array:
        """Return the restored colours, comparable with `colours`, from the network's output.

        The output may be overwritten, to save memory.
        """
        output = remove_margin(output, self.margin)
        if _equal(output, remove_margin(self.network_input, self.margin)):
            return self.colours
        if self.change_weight is None:
            return output
        for rows in _bands(output):
            change = (output[rows] - self.colours[rows]) * self.change_weight[rows]
            np.add(self.colours[rows], change, out=output[rows])
        return output

    def return_detail(self, restored: Array, share: float) -> Array:
        """Return `merge`'s colours with a share, 0..1, of the luminance detail that they lost.

        All channels of a pixel change alike. `restored` may be overwritten.
        """
        if share == 0 or restored is self.colours:
            return restored
        detail = removed_detail(self.colours, restored)
        if self.change_weight is not None:  # hidden pixels and highlights lost no detail
            detail *= self.change_weight.min(axis=2)
        restored += np.float32(share) * detail[..., None]
        return restored

    def blend(self, restored: Array, mask: Array) -> Array:
        """Return `merge`'s colours blended by a mask, H W 0..1, where 1 is restored.

        `restored` may be overwritten.
        """
        if restored is self.colours:
            return restored
        for rows in _bands(restored):
            weight, colours = mask[rows, :, None], self.colours[rows]
            change = weight * (restored[rows] - colours)
            np.copyto(restored[rows], colours + change, where=weight < 1)
        return restored

    def encode(self, restored: Array, strength: float = 1.0, mask: Array | None = None) -> Array:
        """Return H W C pixels of the image's type from `merge`'s colours, blended by `strength`.

        Pixels without any change, and those where the mask is 0, are those of the image, exactly.
        """
        pixels = self.image.pixels
        source = self.image if self.linear is None else self.linear
        if strength == 0 or restored is self.colours:
            return source.pixels
        encoded = np.empty_like(pixels)
        for rows in _bands(pixels):
            encoded[rows] = self._encode_rows(rows, restored[rows], np.float32(strength))
        result = encoded if source.raw is None else source.raw.linear(encoded)
        if mask is not None:
            np.copyto(result, source.pixels, where=mask[..., None] == 0)
        return result

    def _encode_rows(self, rows: slice, restored: Array, strength: np.float32) -> Array:
        pixels, colours, scale = self.image.pixels[rows], self.colours[rows], self.image.scale
        if self.change_weight is None and self.opacity is None:
            if strength < 1:
                restored = colours + strength * (restored - colours)
            return from_float(restored, pixels.dtype, scale)
        change = strength * (restored - colours)
        if self.opacity is not None:
            change *= self.opacity[rows]
        if colours.shape[2] < pixels.shape[2]:  # neutral, but perhaps not where it is hidden
            visible = True if self.change_weight is None else self.change_weight[rows] > 0
            pixels = np.where(visible, pixels[..., 1:2], pixels)
        if pixels.dtype == np.float32:
            changed: Array = pixels + np.float32(scale[1] - scale[0]) * change
            return changed
        return from_float(to_float(pixels) + change, pixels.dtype)


def prepare(image: Image, right: Array | None = None, *, margin: int = 0) -> NetworkView:
    """Return the network's input for an image and the pixels of its right view.

    The image's `scale` is that of both. Margins, reflected, keep the borders of the image away
    from those of the network's zero padding.
    """
    linear, clipped = None, None
    if image.raw is not None:
        linear, clipped = image, image.raw.clipped(image.pixels)
        image = replace(image, pixels=image.display_pixels(), raw=None)
    shown = None if image.alpha is None else opacity(image.alpha, image.scale)[..., None]
    weight = None if shown is None else np.minimum(shown / np.float32(_OPAQUE), 1)
    if weight is not None and weight.min() == 1:
        weight = None
    visible = None if weight is None else weight[..., 0] > 0
    views = [image.pixels] if right is None else [image.pixels, right]
    low, high = image.scale
    rounding = _ROUNDING * (high - low) if image.pixels.dtype == np.float32 else 1
    neutral = all(_is_neutral(view, visible, rounding) for view in views)
    channels = slice(1, 2) if neutral else slice(None)

    colours = image.pixels[..., channels]
    multiplied = shown if image.premultiplied else None
    del shown
    if multiplied is not None:
        colours = to_float(colours) / np.maximum(multiplied, np.float32(_LEAST_OPACITY))
        if image.pixels.dtype != np.float32:
            colours = colours.clip(0, 1)
    colours = to_float(colours, image.scale)
    if weight is not None:
        if np.may_share_memory(colours, image.pixels):
            colours = colours.copy()
        for channel in range(colours.shape[2]):  # one by one, to save memory
            colours[..., channel] = _fill_hidden(colours[..., channel], weight[..., 0])

    unit, kept = colours, 0.0
    if image.pixels.dtype == np.float32 and (colours.min() < 0 or colours.max() > 1):
        unit, applied = colours.clip(0, 1), 1 - _highlights(colours)
        kept = float((applied < 1).mean())
        weight = applied if weight is None else applied * weight
    if clipped is not None and clipped.any():
        weight = np.where(clipped, np.float32(0), 1 if weight is None else weight)
        kept = float((weight < 1).mean())
    if right is not None:
        right = add_margin(to_float(right[..., channels], image.scale), margin)
    with_margin = add_margin(unit, margin)
    if unit is colours:  # keep one copy
        colours = remove_margin(with_margin, margin)
    notes = _scale_notes(image, kept) if linear is None else _highlight_notes(kept)
    return NetworkView(
        image=image,
        colours=colours,
        network_input=with_margin,
        right=right,
        margin=margin,
        change_weight=weight,
        opacity=multiplied,
        linear=linear,
        notes=notes,
        warnings=[*_band_warnings(image), *_darkness_warnings(unit)],
    )


def add_margin(planes: Array, margin: int) -> Array:
    """Return H W C samples with reflected pixels at each side."""
    if not margin:
        return planes
    reflect = cv2.BORDER_REFLECT_101
    padded: Array = cv2.copyMakeBorder(planes, margin, margin, margin, margin, reflect)
    return np.atleast_3d(padded)


def remove_margin(planes: Array, margin: int) -> Array:
    """Return a view of the samples without the pixels of `add_margin`."""
    inside = slice(margin, -margin or None)
    return planes[inside, inside]


def _fill_hidden(plane: Array, weight: Array) -> Array:
    """Blend H W samples with those of neighbours where `weight` (H W, 0..1) is below 1.

    Neighbours are weighted means of growing blocks, each of the weight of its most visible sample
    (pull-push: "The Lumigraph", Gortler et al., SIGGRAPH 1996, section 3.3). If nothing is visible,
    the result is 0.
    """
    height, width = weight.shape
    if height == width == 1 or weight.min() == 1:
        return plane
    total, colour = (_halve(each) for each in (weight, plane * weight))
    means = np.divide(colour, total, out=colour, where=total > 0)
    around = _fill_hidden(means, _halve(weight, np.maximum))
    size = 2 * around.shape[1], 2 * around.shape[0]
    filled: Array = cv2.resize(around, size, interpolation=cv2.INTER_LINEAR)[:height, :width]
    filled += weight * (plane - filled)
    return filled


def _halve(plane: Array, combine: np.ufunc = np.add) -> Array:
    """Combine blocks of 2 x 2 samples of H W; a last row or column counts twice."""
    height, width = plane.shape
    edge = cv2.BORDER_REPLICATE
    even = cv2.copyMakeBorder(plane, 0, height % 2, 0, width % 2, edge)
    rows = combine(even[::2], even[1::2])
    halved: Array = combine(rows[:, ::2], rows[:, 1::2])
    return halved


def _bands(pixels: Array) -> Iterator[slice]:
    """Yield slices of rows, to work on a part at once and save memory."""
    for top in range(0, len(pixels), _ROWS):
        yield slice(top, top + _ROWS)


def _is_neutral(pixels: Array, visible: Array | None, tolerance: float) -> bool:
    """Return True for RGB whose channels are equal, within the tolerance, where it is visible."""
    if pixels.shape[2] != 3:
        return False
    for rows in _bands(pixels):
        differences = pixels[rows].max(axis=2) - pixels[rows].min(axis=2)
        if visible is not None:
            differences = differences * visible[rows]
        if differences.max() > tolerance:
            return False
    return True


def _equal(first: Array, second: Array) -> bool:
    """Return True if samples differ by rounding errors at most."""
    return all(np.abs(first[rows] - second[rows]).max() <= _ROUNDING for rows in _bands(first))


def _highlights(colours: Array) -> Array:
    """Return the weight, 0..1, that samples outside 0..1 are highlights rather than noise.

    Noise goes far outside in single samples only and not in the mean around them.
    """
    means = cv2.blur(colours, _WINDOW).reshape(colours.shape)
    own, around = (np.maximum(planes - 1, -planes) for planes in (colours, means))
    coherent = _ramp(around, _SMOOTHED) * _ramp(own, _COHERENT)
    kept: Array = np.maximum(coherent, _ramp(own, _SINGLE))
    return kept


def _ramp(values: Array, limits: tuple[float, float]) -> Array:
    low, high = limits
    ramp: Array = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return ramp


def _scale_notes(image: Image, kept: float) -> list[str]:
    """Return a note on the scale of float samples beyond 0..1, a part of which is kept."""
    pixels = image.pixels
    if pixels.dtype != np.float32 or (pixels.min() >= 0 and pixels.max() <= 1):
        return []
    low, high = image.scale
    scale = f"restored on the scale {low:g}..{high:g}"
    share = format_number(100 * kept, 2)
    beyond = f"; {share} % of them lie far beyond and stay as they are" if kept else ""
    return [f"samples range from {pixels.min():g} to {pixels.max():g}: {scale}{beyond}"]


def _highlight_notes(kept: float) -> list[str]:
    """Return a note on the part of camera colours that is kept."""
    share = format_number(100 * kept, 2)
    return [f"{share} % of the samples are highlights: they stay as they are"] * (kept > 0)


def _band_warnings(image: Image) -> list[str]:
    if image.bands is None or image.pixels.shape[2] > 1:
        return []
    count = 1 + image.bands.shape[2]
    return [f"only the first of {count} bands is restored: the file does not say what they are"]


def _darkness_warnings(colours: Array) -> list[str]:
    samples = colours.reshape(-1)[:: max(1, colours.size // _MAX_SAMPLES)]
    brightest = float(np.quantile(samples, _BRIGHTEST))
    if not 0 < brightest < _DARK:
        return []
    return [
        f"almost black: the brightest samples are {255 * brightest:.2g} of 255, too dark for the "
        "network; brighten the image first"
    ]
