"""JPEG: Pillow codes the pixels; the segments are ours, so that all of them survive."""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress

import PIL.Image

from ..image import UNDECODED, Image, ImageSequence, check_size
from . import exif, pillow

SIGNATURE = b"\xff\xd8\xff"
_APP0, _APP1, _APP2, _APP13, _COM = b"\xff\xe0", b"\xff\xe1", b"\xff\xe2", b"\xff\xed", b"\xff\xfe"
# A marker may have fill bytes before it; 0xFF00 is none (ITU-T T.81, B.1.1.2).
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_START_OF_SCAN = b"\xff\xda"
_BARE = frozenset(b"\xff" + bytes([code]) for code in (1, *range(0xD0, 0xDA)))  # without a length
_LONGEST = 65533  # bytes that a segment holds
_EXIF = b"Exif\0\0"  # EXIF 2.32, 4.7.2
_ICC = b"ICC_PROFILE\0"  # ICC.1:2022, B.4: a number and the count of the pieces follow
_XMP, _XMP_MORE = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PICTURES, _PICTURE_ENTRIES, _SMALL_COPY = b"MPF\0", 45058, 1  # CIPA DC-007, 5.2
# What Google's and Samsung's cameras say of a film that follows the picture.
_FILM = re.compile(rb"(?:MotionPhoto|MicroVideo)(?:=[\"']|>)1")
_FILM_AT_THE_END = b"MotionPhoto_Data"
_KEPT = {_APP0: b"JFIF\0", _APP1: _XMP_MORE, _APP13: b"", _COM: b""}


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode grey or RGB; CMYK becomes RGB."""
    segments, scan = _segments(data)

    def bodies(marker: bytes, start: bytes) -> list[bytes]:
        return [
            body.removeprefix(start)
            for kind, body in segments
            if kind == marker and body.startswith(start)
        ]

    image = Image(
        UNDECODED,
        format="jpeg",
        exif=b"".join(bodies(_APP1, _EXIF)) or None,
        xmp=b"".join(bodies(_APP1, _XMP)[-1:]) or None,
        extras=tuple(
            (kind, body)
            for kind, body in segments
            if kind in _KEPT and body.startswith(_KEPT[kind])
        ),
    )
    profile = sorted(bodies(_APP2, _ICC))
    if profile and profile[0][1] == len(profile):
        image.icc = b"".join(piece[2:] for piece in profile)
    elif profile:
        image.notes.append("the ICC profile is damaged: it is left out")
    besides = []
    for index in bodies(_APP2, _PICTURES):
        with suppress(*exif.DAMAGE):
            if (others := _others(exif.parse(index))) > 0:
                besides.append(f"{others} more pictures, or maps of it")
    if _FILM.search(image.xmp or b"") or _FILM_AT_THE_END in data:
        besides.append("a film, as of a motion photo")
    # Pillow would look into APP1 and APP2, and warn of what it finds there.
    coding = [pair for pair in segments if pair[0] not in (_APP1, _APP2)]
    plain = SIGNATURE[:2] + _join(coding) + data[scan:]
    with PIL.Image.open(io.BytesIO(plain), formats=("JPEG",)) as picture:
        check_size(picture.width, picture.height, max_pixels)
        image.dpi = pillow.dpi(picture)
        pillow.fill(image, picture)
    if image.dpi is None and image.exif is not None:
        with suppress(*exif.DAMAGE):
            image.dpi = exif.parse(image.exif).dpi()
    return ImageSequence.one(image, *besides)


def _others(index: exif.Directory) -> int:
    """How many pictures an index tells of, less the first and all that are small copies of it."""
    entries = index.raw(_PICTURE_ENTRIES) or b""
    # Of 16 bytes each, which begin with flags and the type; class 1 of types is copies (5.2.3.3).
    kinds: tuple[int, ...] = struct.unpack(f"{index.order}{'I12x' * (len(entries) // 16)}", entries)
    return sum((kind >> 16) & 0xFF != _SMALL_COPY for kind in kinds) - 1


def encode(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode grey or RGB, with its colour at full resolution."""
    buffer = io.BytesIO()
    pixels = image.pixels
    dots = tuple(round(each) for each in image.dpi or (0, 0))
    PIL.Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        buffer, "JPEG", quality=quality, subsampling=0, dpi=dots
    )
    encoded = buffer.getvalue()
    start = 4 + struct.unpack_from(">H", encoded, 4)[0]  # after Pillow's own JFIF segment
    own = [pair for pair in image.extras if pair[0] == _APP0][:1] or [(_APP0, encoded[6:start])]
    if image.exif is not None:
        own += [(_APP1, _EXIF + piece) for piece in _pieces(image.exif, len(_EXIF))]
    if image.xmp is not None:
        if len(_XMP + image.xmp) <= _LONGEST:
            own.append((_APP1, _XMP + image.xmp))
        else:
            notes.append("XMP over 64 kB does not fit a JPEG: it is left out")
    if image.icc is not None:
        pieces = _pieces(image.icc, len(_ICC) + 2)
        own += [
            (_APP2, _ICC + bytes([number, len(pieces)]) + piece)
            for number, piece in enumerate(pieces, 1)
        ]
    own += [pair for pair in image.extras if pair[0] != _APP0]
    return encoded[:2] + _join(own) + encoded[start:]


def _segments(data: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Markers and bodies of the segments before the first scan, and where that begins."""
    segments: list[tuple[bytes, bytes]] = []
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[0], found.end()
        if marker == _START_OF_SCAN:
            return segments, found.start()
        if marker not in _BARE:
            (length,) = struct.unpack_from(">H", data, at)
            segments.append((marker, data[at + 2 : at + length]))
            at += length
    raise ValueError("it has no picture")


def _join(segments: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(marker + struct.pack(">H", len(body) + 2) + body for marker, body in segments)


def _pieces(block: bytes, overhead: int) -> list[bytes]:
    step = _LONGEST - overhead
    return [block[at : at + step] for at in range(0, len(block), step)]
