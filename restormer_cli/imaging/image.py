"""An image in memory: its samples, and what its file says about them."""

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
UNDECODED: Array = np.empty(0)  # for `pixels` until `Image.put` brings them


@dataclass
class Image:
    """A picture and all that its file says about it.

    `pixels` is H W C, C 1 (grey) or 3 (RGB), uint8, uint16 or float32, upright: orientation is
    applied. `alpha` is H W of the same type, or None. `exif` is a TIFF block without the `Exif`
    marker. `cicp` is a colour space as four numbers (ISO/IEC 23091-2): primaries, transfer, matrix
    and whether the range is full. `extras` are pieces (PNG chunks, JPEG segments) that only the
    same format can hold. A frame of an animation is the whole picture as it is shown, composed.
    """

    pixels: Array
    alpha: Array | None = None
    format: str = "png"
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossless: bool = False  # a WebP that was coded without loss, to be written so again
    premultiplied: bool = False  # colour is multiplied by alpha (TIFF "associated" alpha)
    cicp: tuple[int, int, int, int] | None = None
    extras: tuple[tuple[bytes, bytes], ...] = ()
    duration: Fraction | None = None  # seconds that a frame of an animation is shown
    plays: int = 0  # how often the animation runs, which its first frame says; 0: for ever
    notes: list[str] = field(default_factory=list)

    def put(self, samples: Array, colours: int) -> None:
        """Take pixels and alpha from `samples`, H W S, of which the first `colours` are colour."""
        count = samples.shape[2]
        self.pixels = samples[..., :colours]
        self.alpha = samples[..., colours] if count > colours else None
        if count > colours + 1:
            self.notes.append(f"{count - colours - 1} extra channels are left out")

    def samples(self) -> Array:
        """Pixels and alpha as one contiguous array, H W S."""
        planes = self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])
        return np.ascontiguousarray(planes)


@dataclass
class ImageSequence:
    """All pictures of a file, in their order; each is decoded when it is asked for, not before.

    What their headers say is checked already. `unit` is what they are to each other: pages, which
    may differ in size and type, or frames of an animation, which do not. `format` is the file's.
    `besides` names what else it holds and no output will.
    """

    images: Iterator[Image]
    format: str
    count: int = 1
    unit: str = "page"
    besides: tuple[str, ...] = ()

    @classmethod
    def one(cls, image: Image, *besides: str) -> ImageSequence:
        """A file of one picture, with what it holds besides."""
        return cls(iter([image]), image.format, besides=besides)


def to_float(pixels: Array) -> npt.NDArray[np.float32]:
    """Samples of any depth as float32: integers scaled to 0..1, float32 as it is."""
    if pixels.dtype == np.float32:
        return pixels
    scaled: npt.NDArray[np.float32] = pixels.astype(np.float32)
    scaled /= np.float32(np.iinfo(pixels.dtype).max)
    return scaled


def from_float(array: Array, dtype: npt.DTypeLike) -> Array:
    """The inverse of `to_float`: clamped to 0..1 and rounded half to even for integer types.

    float32 keeps values outside 0..1. `array` must be finite.
    """
    if np.dtype(dtype) == np.float32:
        return array.astype(np.float32, copy=False)
    scaled: Array = np.clip(array, 0, 1) * np.float32(np.iinfo(np.dtype(dtype)).max)
    return np.rint(scaled, out=scaled).astype(dtype, copy=False)


def rescaled(samples: Array, top: int, new: int) -> Array:
    """Integers of 0 to `top` as those of 0 to `new` that are the same parts of it, rounded."""
    return np.rint(samples * (new / top)).astype(np.uint16)


def swapped(samples: Array) -> Array:
    """RGB as OpenCV's BGR, or the other way round; alpha stays last, and grey as it is."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(samples.shape[2])
    return np.ascontiguousarray(samples if order is None else samples[..., order])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse, from what a header says, a picture of no pixels or of more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} pixels: nothing to restore")
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels, over the limit of {max_pixels}",
            "Raise --max-pixels if you trust the file.",
        )


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def of(self, pixels: Array) -> Array:
        """That part of H W ..., without a copy."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]

    def inside(self, width: int, height: int) -> bool:
        """Whether an image of this size has all of it."""
        return (
            min(self.x, self.y) >= 0
            and min(self.width, self.height) >= 1
            and self.x + self.width <= width
            and self.y + self.height <= height
        )
