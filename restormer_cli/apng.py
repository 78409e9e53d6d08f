"""Animated PNG: frames at any depth, each composed with what it is drawn onto.

Sections are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import png
from .pixels import UNDECODED, Array, Image, Pictures, check_size, from_float, to_float

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ACTL, _FCTL, _FDAT = b"acTL", b"fcTL", b"fdAT"
_ACTL_FORM, _FCTL_FORM = ">II", ">IIIIIHHBB"  # 11.3.6.1, 11.3.6.2
_BACKGROUND, _PREVIOUS = 1, 2  # how the canvas is left for the next frame; 0: as it is
_OVER = 1  # how a frame is put onto it; 0: instead of what is there
_LONGEST = 65535  # numerator and denominator of a duration


class _Control(NamedTuple):
    """What fcTL says of a frame."""

    number: int
    width: int
    height: int
    left: int
    top: int
    delay: int
    per: int  # parts of a second that the delay counts, 0 for hundredths
    dispose: int
    blend: int


class _Frame(NamedTuple):
    control: _Control
    pixels: list[tuple[bytes, bytes]]  # its IDAT chunks


def decode(data: bytes, max_pixels: int) -> Pictures:
    """Decode a PNG: one picture, or the frames of an animation as they are shown.

    A picture for viewers without animation that is not a part of it is left out.
    """
    notes: list[str] = []
    chunks = png.split(data, notes) if _ACTL in data else []
    frames, still = _frames(chunks)
    if not frames:
        return Pictures.one(png.decode(data, max_pixels))
    width, height = struct.unpack_from(">II", data, 16)
    check_size(width, height, max_pixels)
    for control, _ in frames:
        if control.left + control.width > width or control.top + control.height > height:
            raise ValueError("a frame lies outside the picture")
    if still:
        notes.append("the still picture for viewers without animation is left out")
    return Pictures(_composed(chunks, frames, notes, max_pixels), "png", len(frames), "frame")


def _frames(chunks: list[tuple[bytes, bytes]]) -> tuple[list[_Frame], bool]:
    """The frames of an animation, if it is one, and whether there is a picture beside them."""
    frames: list[_Frame] = []
    animated = still = False
    numbers = count()
    for kind, body in chunks:
        if kind in (_FCTL, _FDAT) and struct.unpack_from(">I", body)[0] != next(numbers):
            raise ValueError("a part of a frame is missing")
        if kind == _ACTL:
            animated = True
        elif kind == _FCTL:
            frames.append(_Frame(_Control(*struct.unpack(_FCTL_FORM, body)), []))
        elif kind == b"IDAT" and not frames:
            still = True
        elif kind in (b"IDAT", _FDAT):
            frames[-1].pixels.append((b"IDAT", body if kind == b"IDAT" else body[4:]))
    return (frames, still) if animated else ([], still)


def _composed(
    chunks: list[tuple[bytes, bytes]], frames: list[_Frame], notes: list[str], max_pixels: int
) -> Iterator[Image]:
    header = dict(chunks)[b"IHDR"]
    (plays,) = struct.unpack_from(">4xI", dict(chunks)[_ACTL])
    # What is said before the first frame's pixels, and may be said of them all.
    common = [chunk for chunk in chunks if chunk[0] not in (b"IHDR", b"IDAT", b"IEND", _ACTL)]
    common = [chunk for chunk in common if chunk[0] not in (_FCTL, _FDAT)]
    canvas: Array = UNDECODED
    for control, pixels in frames:
        own = struct.pack(">II", control.width, control.height) + header[8:]
        alone = [(b"IHDR", own), *common, *pixels, (b"IEND", b"")]
        image = png.decode(png.join(alone), max_pixels)
        samples = image.samples()
        if canvas is UNDECODED:
            width, height = struct.unpack_from(">II", header)
            canvas = np.zeros((height, width, samples.shape[2]), samples.dtype)
        rows = slice(control.top, control.top + control.height)
        columns = slice(control.left, control.left + control.width)
        before = canvas[rows, columns].copy()
        over = control.blend == _OVER and image.alpha is not None
        canvas[rows, columns] = _over(before, samples) if over else samples
        shown = replace(image, plays=plays, notes=[*notes, *image.notes])
        shown.put(canvas.copy(), image.pixels.shape[2])
        shown.duration = Fraction(control.delay, control.per or 100)
        yield shown
        notes = []
        if control.dispose == _BACKGROUND or (control.dispose == _PREVIOUS and not control.number):
            canvas[rows, columns] = 0
        elif control.dispose == _PREVIOUS:
            canvas[rows, columns] = before


def _over(below: Array, above: Array) -> Array:
    """Samples with alpha, H W S, upon others (Porter and Duff's "over")."""
    under, upper = to_float(below), to_float(above)
    opacity = upper[..., -1:]
    rest = under[..., -1:] * (1 - opacity)
    alpha = opacity + rest
    colour = upper[..., :-1] * opacity + under[..., :-1] * rest
    colour /= np.maximum(alpha, np.float32(1e-6))
    return from_float(np.concatenate([colour, alpha], axis=2), above.dtype)


def encode_all(images: Iterable[Image], total: int, quality: int) -> bytes:
    """Encode frames of one size and type, each whole, before the next is asked for."""
    parts: list[tuple[bytes, bytes]] = []
    number = 0  # of fcTL and fdAT together
    for image in images:
        height, width = image.pixels.shape[:2]
        coded = png.split(png.encode(image, quality, image.notes), image.notes)
        delay, per = _duration(image.duration or Fraction(0))
        control = struct.pack(_FCTL_FORM, number, width, height, 0, 0, delay, per, 0, 0)
        first = not parts
        number += 1
        if first:
            actl = (_ACTL, struct.pack(_ACTL_FORM, total, image.plays))
            parts += [coded[0], actl, *(c for c in coded[1:] if c[0] not in (b"IDAT", b"IEND"))]
        parts.append((_FCTL, control))
        for kind, body in coded:
            if kind == b"IDAT" and first:
                parts.append((kind, body))
            elif kind == b"IDAT":
                parts.append((_FDAT, struct.pack(">I", number) + body))
                number += 1
    return png.join([*parts, (b"IEND", b"")])


def _duration(seconds: Fraction) -> tuple[int, int]:
    """As the nearest fraction whose two numbers fit."""
    short = seconds.limit_denominator(max(1, int(_LONGEST / max(seconds, Fraction(1)))))
    return min(short.numerator, _LONGEST), short.denominator
