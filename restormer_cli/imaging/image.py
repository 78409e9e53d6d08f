"""Images in memory: samples, and the metadata of their file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction

    from .integrity.fault import Damage
    from .linear import RawDescription

Array: TypeAlias = npt.NDArray[Any]
Scale: TypeAlias = tuple[float, float]
UNIT: Scale = (0.0, 1.0)
SAMPLE_TYPES = ("uint8", "uint16", "float32")
UNDECODED: Array = np.empty(0)
"""Value of `Image.pixels` before they are decoded and after they are released."""


@dataclass
class Image:
    """An image and the metadata of its file.

    A frame of an animation is the whole composed picture. Its duration is in seconds.
    """

    pixels: Array  # H W C, upright; C: 1 (grey) or 3 (RGB); uint8, uint16 or float32
    alpha: Array | None = None  # H W of the same type
    format: str = "png"  # of the source, which need not be writable
    icc: bytes | None = None  # ICC profile
    exif: bytes | None = None  # TIFF block, without the `Exif` marker; its orientation is 1
    xmp: bytes | None = None  # XMP packet
    dpi: tuple[float, float] | None = None  # horizontal and vertical resolution
    lossless: bool = False  # for a losslessly coded WebP
    premultiplied: bool = False  # colour is multiplied by alpha (TIFF "associated" alpha)
    cicp: tuple[int, int, int, int] | None = None  # primaries, transfer, matrix, full-range flag
    extras: tuple[tuple[bytes, bytes], ...] = ()  # PNG chunks or JPEG segments
    bands: Array | None = None  # H W K of the same type, of unknown meaning: carried unchanged
    iptc: bytes | None = None  # IPTC-IIM records
    texts: tuple[tuple[str, str], ...] = ()  # keywords of PNG (third edition, 11.3.3.2) and texts
    raw: RawDescription | None = None  # of linear camera colours, which only a DNG holds
    duration: Fraction | None = None  # of a frame of an animation
    plays: int = 0  # of the whole animation, given by its first frame; 0: for ever
    damage: Damage | None = None  # if only a part could be decoded
    bits: int | None = None  # of a sample in the file, if its type has more
    scale: Scale = UNIT  # black and white of float samples; integers use their whole range
    extra_samples: tuple[int, ...] = ()  # meaning and order of alpha and bands, codes of a TIFF
    losses: list[str] = field(default_factory=list)  # parts of the input that the output lacks
    notes: list[str] = field(default_factory=list)  # other remarks for the user

    def set_samples(
        self, samples: Array, colours: int, extra_samples: Sequence[int] | None = None
    ) -> None:
        """Set pixels, alpha and bands from H W S samples, where the first `colours` are colour.

        Types other than SAMPLE_TYPES become float32 of the same values, but alpha of integers
        becomes 0..1.

        Args:
            samples: of any numeric type.
            colours: 1 or 3.
            extra_samples: meaning of the others (TIFF 6.0, section 18): 1 for alpha with which
                colour is multiplied, 2 for other alpha, else unspecified, as are those without a
                code. None: the first is alpha.
        """
        dtype, count = samples.dtype, samples.shape[2] - colours
        if dtype.name not in SAMPLE_TYPES:
            samples, exact = _to_float32(samples)
            remarks, verb = (self.notes, "read as") if exact else (self.losses, "rounded to")
            remarks.append(f"{dtype.name} samples are {verb} float32")
        codes = [2] if extra_samples is None else [*extra_samples]
        self.extra_samples = tuple([*codes, *[0] * count][:count])
        place = alpha_place(self.extra_samples)
        bands = [colours + n for n in range(count) if n != place]
        self.pixels = samples[..., :colours]
        self.alpha = None if place is None else samples[..., colours + place]
        self.bands = samples[..., bands] if bands else None
        self.premultiplied = place is not None and self.extra_samples[place] == 1
        if self.alpha is not None and self.alpha.dtype != dtype and dtype.kind in "iu":
            self.alpha = self.alpha / np.float32(np.iinfo(dtype).max)

    def on_unit_scale(self, like: Image | None = None) -> Image:
        """Return the image with float samples scaled to 0..1, like those of `like` if float.

        Linear camera colours are developed.
        """
        if self.raw is not None:
            return replace(self, pixels=self.raw.developed(self.pixels), raw=None)
        scale = self.scale
        if like is not None and like.pixels.dtype == np.float32:
            scale = like.scale
        if self.pixels.dtype != np.float32 or scale == UNIT:
            return self
        alpha = None if self.alpha is None else opacity(self.alpha, scale)
        return replace(self, pixels=to_float(self.pixels, scale), alpha=alpha, scale=UNIT)

    def display_pixels(self) -> Array:
        """Return the pixels, linear camera colours balanced and encoded for display."""
        return self.pixels if self.raw is None else self.raw.balanced(self.pixels)

    def visible_pixels(self) -> Array:
        """Return the pixels, floats on the scale 0..1, and black where alpha hides them."""
        pixels = self.on_unit_scale().pixels
        if self.alpha is None or self.alpha.all():
            return pixels
        return np.where(self.alpha[..., None] > 0, pixels, pixels.dtype.type(0))

    def widen_grey(self, reason: str) -> None:
        """Repeat grey samples as RGB, without a profile of grey, and note the reason."""
        self.pixels = np.repeat(self.pixels, 3, axis=2)
        self.notes.append(f"{reason}: written as RGB")
        if self.icc is not None and self.icc[16:20] == b"GRAY":  # ICC.1:2022, 7.2.8
            self.icc = None
            self.losses.append("a grey ICC profile does not fit RGB: it is left out")

    def samples(self) -> Array:
        """Return pixels and alpha as one contiguous array, H W S."""
        planes = self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
        return np.ascontiguousarray(planes)


@dataclass
class ImageSequence:
    """All images of a file, in order, each decoded on demand; sizes are already checked."""

    images: Iterator[Image]
    format: str  # of the file
    count: int = 1  # number of images
    unit: str = "page"  # "page" if size and type may differ, "frame" for an animation
    omitted: tuple[str, ...] = ()  # descriptions of contents that are not decoded, such as layers

    @classmethod
    def single(cls, image: Image, *omitted: str) -> ImageSequence:
        """Return a sequence of one image."""
        return cls(iter([image]), image.format, omitted=omitted)


class Box(NamedTuple):
    """A rectangle in an image, in pixels from the upper left corner of the image."""

    x: int
    y: int
    width: int
    height: int

    def of(self, pixels: Array) -> Array:
        """Return a view of this part of H W ... pixels."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]

    def inside(self, width: int, height: int) -> bool:
        """Return True if the box is not empty and lies within an image of this size."""
        horizontally = 0 <= self.x < self.x + self.width <= width
        return horizontally and 0 <= self.y < self.y + self.height <= height


def to_float(pixels: Array, scale: Scale = UNIT) -> npt.NDArray[np.float32]:
    """Return samples as float32: integers scaled to 0..1, float32 from `scale` to 0..1."""
    low, high = scale
    if pixels.dtype == np.float32:
        if scale == UNIT:
            return pixels
        scaled: npt.NDArray[np.float32] = pixels - np.float32(low)
        scaled /= np.float32(high - low)
        return scaled
    scaled = pixels.astype(np.float32)
    scaled /= np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def from_float(array: Array, dtype: npt.DTypeLike, scale: Scale = UNIT) -> Array:
    """Invert `to_float`: clamp finite samples to 0..1 and round half to even, unless to float32."""
    low, high = scale
    if np.dtype(dtype) == np.float32:
        if scale != UNIT:
            array = array * np.float32(high - low) + np.float32(low)
        return array.astype(np.float32, copy=False)
    scaled: Array = np.clip(array, 0, 1) * np.float32(np.iinfo(np.dtype(dtype)).max)
    return np.rint(scaled, out=scaled).astype(dtype, copy=False)


def on_common_scale(images: Sequence[Image]) -> list[Image]:
    """Return images of one scene, of which the floats are scaled to 0..1 like the first of them."""
    like = next((image for image in images if image.pixels.dtype == np.float32), None)
    return [image.on_unit_scale(like) for image in images]


def opacity(alpha: Array, scale: Scale = UNIT) -> Array:
    """Return alpha as float32 in 0..1; float alpha above 1 is on the scale of the colour."""
    alpha = to_float(alpha)
    top = float(alpha.max())
    return alpha / np.float32(max(top, scale[1])) if top > 1 else alpha


def alpha_place(extra_samples: Sequence[int]) -> int | None:
    """Return the place of the first alpha among the extra samples of a TIFF."""
    return next((n for n, code in enumerate(extra_samples) if code in (1, 2)), None)


def _to_float32(samples: Array) -> tuple[npt.NDArray[np.float32], bool]:
    """Return the same values as float32, and False if some are rounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = samples.astype(np.float32)
        return converted, np.array_equal(converted.astype(samples.dtype), samples)


def rescale(samples: Array, old: int, new: int) -> Array:
    """Rescale integers from the range 0..`old` to 0..`new`, rounded."""
    return np.rint(samples * (new / old)).astype(np.uint16)


def swap_red_blue(samples: Array) -> Array:
    """Convert H W S between RGB and OpenCV's BGR; alpha stays last, grey is unchanged."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(samples.shape[2])
    return np.ascontiguousarray(samples if order is None else samples[..., order])


def check_size(width: int, height: int, max_pixels: int, prefix: str = "") -> None:
    """Raise ImageError if the size in a header is empty or exceeds `max_pixels`."""
    size = f"{prefix}{width} x {height} pixels"
    if width < 1 or height < 1:
        raise ImageError(f"{size}: nothing to restore", "Get a complete copy of the file.")
    if width * height > max_pixels:
        raise ImageError(
            f"{size}, over the limit of {max_pixels}", "Raise --max-pixels if you trust the file."
        )
