"""JPEG: Pillow codes the pixels, and all segments are copied."""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import PIL.Image

from ..image import UNDECODED, Array, Image, ImageSequence, check_size
from ..integrity import jpeg as integrity
from ..integrity.fault import Fault, describe, fill_up
from ..unsupported import check_jpeg
from . import CODEC_ERRORS, exif, pillow

if TYPE_CHECKING:
    from collections.abc import Iterable

SIGNATURE = b"\xff\xd8\xff"
_APP0, _APP1, _APP2, _APP13, _COM = b"\xff\xe0", b"\xff\xe1", b"\xff\xe2", b"\xff\xed", b"\xff\xfe"
# A marker may follow fill bytes; 0xFF00 is not a marker (ITU-T T.81, B.1.1.2).
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_WITHOUT_LENGTH = frozenset(b"\xff" + bytes([code]) for code in (1, *range(0xD0, 0xDA)))
_MAX_BODY = 65533  # bytes in a segment
_EXIF = b"Exif\0\0"  # EXIF 2.32, 4.7.2
_ICC = b"ICC_PROFILE\0"  # ICC.1:2022, B.4: a number and the count of the pieces follow
_XMP, _EXTENDED_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_MPF, _MP_ENTRIES, _THUMBNAIL_CLASS = b"MPF\0", 45058, 1  # CIPA DC-007, 5.2
# Marks of a video after the picture, by cameras of Google and Samsung.
_MOTION_PHOTO = re.compile(rb"(?:MotionPhoto|MicroVideo)(?:=[\"']|>)1")
_SAMSUNG_MOTION_PHOTO = b"MotionPhoto_Data"
_KEPT = {_APP0: b"JFIF\0", _APP1: _EXTENDED_XMP, _APP13: b"", _COM: b""}


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode grey or RGB; CMYK is converted to RGB."""
    segments, scan = _segments(data)
    check_jpeg(segments)

    def bodies(marker: bytes, prefix: bytes) -> list[bytes]:
        return [
            body.removeprefix(prefix)
            for kind, body in segments
            if kind == marker and body.startswith(prefix)
        ]

    image = Image(
        UNDECODED,
        format="jpeg",
        exif=b"".join(bodies(_APP1, _EXIF)) or None,
        xmp=b"".join(bodies(_APP1, _XMP)[-1:]) or None,
        extras=tuple(s for s in segments if s[0] in _KEPT and s[1].startswith(_KEPT[s[0]])),
    )
    profile = sorted(bodies(_APP2, _ICC))
    if profile and profile[0][1] == len(profile):
        image.icc = b"".join(piece[2:] for piece in profile)
    elif profile:
        image.notes.append("the ICC profile is damaged: it is left out")
    omitted = []
    for index in bodies(_APP2, _MPF):
        with suppress(*CODEC_ERRORS):
            if (others := _count_other_pictures(exif.parse(index))) > 0:
                omitted.append(f"{others} more pictures or maps")
    if _MOTION_PHOTO.search(image.xmp or b"") or _SAMSUNG_MOTION_PHOTO in data:
        omitted.append("a video (motion photo)")
    # Without APP1 and APP2: Pillow would parse them and warn about damage.
    coding = [segment for segment in segments if segment[0] not in (_APP1, _APP2)]
    plain = SIGNATURE[:2] + _join(coding) + data[scan:]
    with PIL.Image.open(io.BytesIO(plain), formats=("JPEG",)) as picture:
        check_size(picture.width, picture.height, max_pixels)
        image.dpi = pillow.dpi(picture)
        fault = integrity.find_fault(plain)
        if fault is None:
            pillow.read_samples(image, picture)
        else:
            _read_damaged(image, plain, fault)
    return ImageSequence.single(image, *omitted)


def _read_damaged(image: Image, data: bytes, fault: Fault) -> None:
    """Decode what there is, up to the fault if its place is known."""

    def decode_end(data: bytes) -> Array:
        with PIL.Image.open(io.BytesIO(data + _END_OF_IMAGE), formats=("JPEG",)) as picture:
            pillow.read_samples(image, picture)
        return image.pixels

    part = None
    if fault.end is not None:
        notes = list(image.notes)
        filled = fill_up(data[: fault.end], decode_end)
        image.notes = notes
        part = filled.part if filled else None
        data = data[: fault.end]
    decode_end(data)
    image.damage = describe(fault.cause, part)


def encode(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode one image, grey or RGB, in 4:4:4."""
    (image,) = images
    buffer = io.BytesIO()
    dots = tuple(round(each) for each in image.dpi or (0, 0))
    pillow.from_samples(image.pixels).save(buffer, "JPEG", quality=quality, subsampling=0, dpi=dots)
    encoded = buffer.getvalue()
    start = 4 + struct.unpack_from(">H", encoded, 4)[0]  # after Pillow's own JFIF segment
    segments = [s for s in image.extras if s[0] == _APP0][:1] or [(_APP0, encoded[6:start])]
    if image.exif is not None:
        segments += [(_APP1, _EXIF + piece) for piece in _pieces(image.exif, len(_EXIF))]
    if image.xmp is not None:
        if len(_XMP + image.xmp) <= _MAX_BODY:
            segments.append((_APP1, _XMP + image.xmp))
        else:
            image.notes.append("XMP over 64 kB does not fit a JPEG: it is left out")
    if image.icc is not None:
        pieces = _pieces(image.icc, len(_ICC) + 2)
        segments += [
            (_APP2, _ICC + bytes([number, len(pieces)]) + piece)
            for number, piece in enumerate(pieces, 1)
        ]
    segments += [segment for segment in image.extras if segment[0] != _APP0]
    return encoded[:2] + _join(segments) + encoded[start:]


def _segments(data: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return markers and bodies of the segments before the first scan, and the scan's offset."""
    segments: list[tuple[bytes, bytes]] = []
    position = 2
    while match := _MARKER.search(data, position):
        marker, position = match[0], match.end()
        if marker == _START_OF_SCAN:
            return segments, match.start()
        if marker not in _WITHOUT_LENGTH:
            (length,) = struct.unpack_from(">H", data, position)
            segments.append((marker, data[position + 2 : position + length]))
            position += length
    raise ValueError("no pixels")


def _join(segments: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(marker + struct.pack(">H", len(body) + 2) + body for marker, body in segments)


def _pieces(block: bytes, overhead: int) -> list[bytes]:
    step = _MAX_BODY - overhead
    return [block[start : start + step] for start in range(0, len(block), step)]


def _count_other_pictures(index: exif.Directory) -> int:
    """Count the pictures in a multi-picture index, except the first one and thumbnails."""
    entries = index.raw(_MP_ENTRIES) or b""
    # Bits 16 to 23 of each entry, which has 16 bytes, are the picture's class (5.2.3.3).
    kinds: tuple[int, ...] = struct.unpack(f"{index.order}{'I12x' * (len(entries) // 16)}", entries)
    return sum((kind >> 16) & 0xFF != _THUMBNAIL_CLASS for kind in kinds) - 1
