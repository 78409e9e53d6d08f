"""PNG: OpenCV codes the pixels, 16 bits included; the chunks are ours, so that all of them survive.

Sections are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ..image import (
    UNDECODED,
    Array,
    Image,
    ImageSequence,
    check_size,
    from_float,
    swapped,
    to_float,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# --- png -----------------------------------------------------------------------------------------

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # 5.2


class _Layout(NamedTuple):
    """What a colour type stands for."""

    colours: int
    alpha: bool
    depths: tuple[int, ...]


# Colour type -> layout (11.2, IHDR).
_LAYOUTS = {
    0: _Layout(1, False, (1, 2, 4, 8, 16)),
    2: _Layout(3, False, (8, 16)),
    3: _Layout(3, False, (1, 2, 4, 8)),
    4: _Layout(1, True, (8, 16)),
    6: _Layout(3, True, (8, 16)),
}
_PALETTE = 3
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of samples, grey or RGB, with or without alpha
_IHDR = ">IIBBBBB"
# Chunks that a lower-case last letter does not mark as safe to copy (5.4), and yet are.
_KEPT = frozenset([b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"sPLT", b"tIME"])
_PER_LAYOUT = frozenset([b"bKGD", b"sBIT"])  # their form depends on depth and colour type
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_INCH = 0.0254  # in metres, which pHYs counts in
# A PNG's compressed data know bytes per pixel only, not which samples they make up (9.2). So each
# layout can be coded as another of the same width, which OpenCV does know.
_STAND_IN = {1: ("u1", 1), 2: (">u2", 1), 3: ("u1", 3), 4: ("u1", 4), 6: (">u2", 3), 8: (">u2", 4)}


def decode(data: bytes, max_pixels: int) -> Image:
    """Decode to 8 or 16 bits, whichever it has; a palette becomes RGB."""
    width, height, depth, colour_type, *methods = struct.unpack_from(_IHDR, data, 16)
    check_size(width, height, max_pixels)
    layout = _LAYOUTS[colour_type]
    image = Image(UNDECODED, format="png")
    chunks = split(data, image.notes)
    single = dict(chunks)
    needed = {b"IHDR", b"IDAT"} | ({b"PLTE"} if colour_type == _PALETTE else set())
    # libpng would find this out, too, and say so on stderr.
    if (
        chunks[0][0] != b"IHDR"
        or not needed <= single.keys()
        or depth not in layout.depths
        or methods not in ([0, 0, 0], [0, 0, 1])  # compression, filter, interlace
    ):
        raise ValueError("its header makes no sense, or chunks are missing")
    key = single.get(b"tRNS")
    coding = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    if colour_type == _PALETTE:
        coding.add(b"tRNS")
    bare = join([chunk for chunk in chunks if chunk[0] in coding])
    decoded = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("the pixels cannot be decoded")
    samples = swapped(decoded.reshape(height, width, -1))
    if layout.alpha and layout.colours == 1:
        samples = samples[..., 2:]  # grey comes as RGB and alpha
    if key is not None and colour_type != _PALETTE:
        # One colour is transparent (11.3.1). OpenCV leaves this out for grey.
        scale = 1 if depth == 16 else 255 // (2**depth - 1)
        transparent = np.array(struct.unpack(f">{layout.colours}H", key)) * scale
        opaque = (samples != transparent).any(axis=2) * np.iinfo(samples.dtype).max
        samples = np.dstack([samples, opaque.astype(samples.dtype)])
    image.put(samples, layout.colours)
    _read_metadata(image, chunks, colour_type != _PALETTE and depth >= 8 and key is None)
    return image


def _read_metadata(image: Image, chunks: list[tuple[bytes, bytes]], same_layout: bool) -> None:
    extras = []
    for kind, body in chunks:
        if kind == b"eXIf":
            image.exif = body
        elif kind == b"iCCP":  # name, NUL, method, profile (11.3.2)
            try:
                # 64 MiB is far beyond any profile, and bounds what a hostile one can unfold to.
                packed = body[body.index(b"\0") + 2 :]
                image.icc = zlib.decompressobj().decompress(packed, 2**26)
            except (ValueError, zlib.error):
                image.notes.append("the ICC profile is damaged: it is left out")
        elif kind == b"cICP" and len(body) == 4:  # 11.3.2.6
            primaries, transfer, matrix, full = body
            image.cicp = (primaries, transfer, matrix, full)
        elif kind == b"iTXt" and body.startswith(_XMP_KEYWORD):
            # Keyword, whether compressed, method, language, translated keyword, text (11.3.3).
            head, text = body[len(_XMP_KEYWORD) :][:2], body[len(_XMP_KEYWORD) + 2 :]
            text = text.split(b"\0", 2)[2]
            image.xmp = zlib.decompressobj().decompress(text, 2**28) if head[0] else text
        elif (
            (kind[3:].islower() and kind != b"IDAT")
            or kind in _KEPT
            or (kind in _PER_LAYOUT and same_layout)
        ):
            extras.append((kind, body))
            if kind == b"pHYs" and body[8:] == b"\1":
                x, y = struct.unpack_from(">II", body)
                image.dpi = (x * _INCH, y * _INCH)
    image.extras = tuple(extras)


def encode(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode 8 or 16 bits, with alpha or without."""
    samples = image.samples()
    height, width, count = samples.shape
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    dtype, planes = _STAND_IN[count * samples.itemsize]
    stand_in = raw.view(dtype).reshape(height, width, planes)
    # Naming a compression level would lose OpenCV's run-length strategy, which is both faster and
    # smaller on photographs once every filter is tried.
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    native = swapped(stand_in.astype(stand_in.dtype.newbyteorder("=")))
    coded = split(cv2.imencode(".png", native, options)[1].tobytes(), notes)
    header = (width, height, samples.itemsize * 8, _COLOUR_TYPES[count], 0, 0, 0)
    chunks = [(b"IHDR", struct.pack(_IHDR, *header))]
    if image.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc)))
    if image.cicp is not None:
        # Of another format, matrix and range are those of its coding; what is decoded is full RGB.
        how = image.cicp[2:] if image.format == "png" else (0, 1)
        chunks.append((b"cICP", bytes((*image.cicp[:2], *how))))
    chunks += image.extras
    if image.dpi is not None and b"pHYs" not in dict(image.extras):
        x, y = (round(dots / _INCH) for dots in image.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if image.exif is not None:
        chunks.append((b"eXIf", image.exif))
    if image.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0" + image.xmp))
    chunks += [chunk for chunk in coded if chunk[0] in (b"IDAT", b"IEND")]
    return join(chunks)


def split(data: bytes, notes: list[str]) -> list[tuple[bytes, bytes]]:
    """Kinds and bodies of the chunks (5.3), checked before a decoder sees them."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        at += 12 + length
        if zlib.crc32(body, zlib.crc32(kind)) == checksum:
            chunks.append((kind, body))
        elif kind[:1].isupper():  # critical (5.4)
            raise ValueError(f"wrong checksum of {kind!r}")
        else:
            notes.append(f"a damaged chunk, {kind!r}, is left out")
    return chunks


def join(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The inverse of `split`."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += [struct.pack(">I4s", len(body), kind), body, struct.pack(">I", checksum)]
    return b"".join(parts)


# --- apng ----------------------------------------------------------------------------------------


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


def decode_animation(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode a PNG: one picture, or the frames of an animation as they are shown.

    A picture for viewers without animation that is not a part of it is left out.
    """
    notes: list[str] = []
    chunks = split(data, notes) if _ACTL in data else []
    frames, still = _frames(chunks)
    if not frames:
        return ImageSequence.one(decode(data, max_pixels))
    width, height = struct.unpack_from(">II", data, 16)
    check_size(width, height, max_pixels)
    for control, _ in frames:
        if control.left + control.width > width or control.top + control.height > height:
            raise ValueError("a frame lies outside the picture")
    if still:
        notes.append("the still picture for viewers without animation is left out")
    return ImageSequence(_composed(chunks, frames, notes, max_pixels), "png", len(frames), "frame")


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
        image = decode(join(alone), max_pixels)
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
        coded = split(encode(image, quality, image.notes), image.notes)
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
    return join([*parts, (b"IEND", b"")])


def _duration(seconds: Fraction) -> tuple[int, int]:
    """As the nearest fraction whose two numbers fit."""
    short = seconds.limit_denominator(max(1, int(_LONGEST / max(seconds, Fraction(1)))))
    return min(short.numerator, _LONGEST), short.denominator
