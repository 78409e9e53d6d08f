"""Images in memory: samples, and the metadata of their file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

Array: TypeAlias = npt.NDArray[Any]
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
    duration: Fraction | None = None  # of a frame of an animation
    plays: int = 0  # of the whole animation, given by its first frame; 0: for ever
    damage: str | None = None  # cause and extent, if only a part could be decoded
    bits: int | None = None  # of a sample in the file, if its type has more
    losses: list[str] = field(default_factory=list)  # parts of the input that the output lacks
    notes: list[str] = field(default_factory=list)  # other remarks for the user

    def set_samples(self, samples: Array, colours: int) -> None:
        """Set pixels and alpha from H W S samples, where the first `colours` of S are colour."""
        count = samples.shape[2]
        self.pixels = samples[..., :colours]
        self.alpha = samples[..., colours] if count > colours else None
        if count > colours + 1:
            self.losses.append(f"{count - colours - 1} extra channels are left out")

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


def to_float(pixels: Array) -> npt.NDArray[np.float32]:
    """Return samples as float32: integers scaled to 0..1, float32 unchanged."""
    if pixels.dtype == np.float32:
        return pixels
    scaled: npt.NDArray[np.float32] = pixels.astype(np.float32)
    scaled /= np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def from_float(array: Array, dtype: npt.DTypeLike) -> Array:
    """Invert `to_float`: clamp finite samples to 0..1 and round half to even, unless to float32."""
    if np.dtype(dtype) == np.float32:
        return array.astype(np.float32, copy=False)
    scaled: Array = np.clip(array, 0, 1) * np.float32(np.iinfo(np.dtype(dtype)).max)
    return np.rint(scaled, out=scaled).astype(dtype, copy=False)


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
