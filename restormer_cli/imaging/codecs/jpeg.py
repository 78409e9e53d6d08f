"""JPEG: Pillow and OpenCV code the pixels, and all segments are copied."""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import PIL.Image

from ...text import counted
from ..image import UNDECODED, Array, Image, ImageSequence, check_size
from ..integrity import jpeg as integrity
from ..integrity.fault import Damage, Fault, describe_rest, fill_up
from . import CODEC_ERRORS, STALE_CREDENTIALS, decode_text, pillow
from .blocks import exif, photoshop, xmp
from .unsupported import check_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable

_Segments: TypeAlias = list[tuple[bytes, bytes]]  # markers and bodies

SIGNATURE = b"\xff\xd8\xff"
_APP0, _APP1, _APP2, _APP11, _APP13, _COM = (
    b"\xff" + bytes([code]) for code in (0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xFE)
)
_QUALITY = b"Ducky"  # Photoshop's, of its own coding
_JFIF, _JFIF_SIZE = b"JFIF\0", 14  # without a thumbnail (JFIF 1.02)
# A marker may follow fill bytes; 0xFF00 is not a marker (ITU-T T.81, B.1.1.2).
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_WITHOUT_LENGTH = frozenset(b"\xff" + bytes([code]) for code in (1, *range(0xD0, 0xDA)))
_MAX_BODY, _MAX_PIECES = 65533, 255  # bytes in a segment, and segments of an ICC profile
_BLOCK_STARTS = (b"II*\0", b"MM\0*")
_ICC = b"ICC_PROFILE\0"  # ICC.1:2022, B.4: a number and the count of the pieces follow
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_CREDENTIALS = b"c2pa"
_MPF, _MP_ENTRIES, _THUMBNAIL_CLASS = b"MPF\0", 45058, 1  # CIPA DC-007, 5.2
# Marks of a video after the picture, by cameras of Google and Samsung.
_MOTION_PHOTO = re.compile(rb"((?:MotionPhoto|MicroVideo)(?:=[\"']|>))1")
_SAMSUNG_MOTION_PHOTO = b"MotionPhoto_Data"
# Segments that are neither decoded nor kept because they belong to the old pixels or show them:
# other JFIF and APP2 segments, previews (APP4, APP8), JPEG XT and C2PA (APP11), colours (APP14).
_STALE = frozenset(b"\xff" + bytes([code]) for code in (0xE0, 0xE2, 0xE4, 0xE8, 0xEB, 0xEE))
_APPLICATION = frozenset(b"\xff" + bytes([code]) for code in range(0xE0, 0xF0))


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
        exif=_first_block(bodies(_APP1, exif.SEGMENT)) or None,
        xmp=b"".join(bodies(_APP1, xmp.SEGMENT)[-1:]) or None,
        iptc=photoshop.iptc(resources(segments)),
        texts=tuple(("Comment", decode_text(body)) for body in bodies(_COM, b"")),
    )
    if {packet for packet in bodies(_APP1, xmp.SEGMENT) if packet} - {image.xmp}:
        image.losses.append("more XMP packets are left out: the last one counts")
    if image.exif is not None and not b"".join(bodies(_APP1, exif.SEGMENT)).endswith(image.exif):
        image.losses.append("more EXIF blocks are left out: the first one counts")
    _keep(image, segments)
    if any(_CREDENTIALS in body for body in bodies(_APP11, b"JP")):
        image.notes.append(STALE_CREDENTIALS)
    if pieces := bodies(_APP2, _ICC):
        image.icc = _join_profile(pieces)
        if image.icc is None:
            image.losses.append("the ICC profile is damaged: it is left out")
    omitted = []
    for index in bodies(_APP2, _MPF):
        with suppress(*CODEC_ERRORS):
            if (others := _count_other_pictures(exif.parse(index))) > 0:
                omitted.append(counted(others, "more picture or map", "more pictures or maps"))
    if _MOTION_PHOTO.search(image.xmp or b"") or _SAMSUNG_MOTION_PHOTO in data:
        omitted.append("a video (motion photo)")
        image.xmp = image.xmp and _MOTION_PHOTO.sub(rb"\g<1>0", image.xmp)
    # Without APP1 and APP2: Pillow would parse them and warn about damage.
    coding = [segment for segment in segments if segment[0] not in (_APP1, _APP2)]
    plain = SIGNATURE[:2] + _join(coding) + data[scan:]
    with PIL.Image.open(io.BytesIO(plain), formats=("JPEG",)) as picture:
        check_size(picture.width, picture.height, max_pixels)
        image.dpi = pillow.dpi(picture)
        pixels, fault, end = integrity.load(plain, picture.mode)
        if fault is not None:
            _read_damaged(image, plain, fault)
        elif pixels is not None and pixels.shape[:2] == (picture.height, picture.width):
            image.set_samples(np.atleast_3d(pixels), 1 if picture.mode == "L" else 3)
        else:
            pillow.read_samples(image, picture)
    if not omitted and fault is None:
        image.losses += describe_rest(plain, end)
    return ImageSequence.single(image, *omitted)


def _read_damaged(image: Image, data: bytes, fault: Fault) -> None:
    """Decode the intact part: up to the fault if its offset is known."""

    def decode_end(data: bytes) -> Array:
        with PIL.Image.open(io.BytesIO(data + _END_OF_IMAGE), formats=("JPEG",)) as picture:
            pillow.read_samples(image, picture)
        return image.pixels

    part = None
    if fault.end is not None:
        losses, notes = list(image.losses), list(image.notes)
        filled = fill_up(data[: fault.end], decode_end)
        image.losses, image.notes = losses, notes  # without those of repeated decoding
        part = filled.part if filled else None
        data = data[: fault.end]
    decode_end(data)
    image.damage = Damage(fault.cause, part)


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
        segments += [
            (_APP1, exif.SEGMENT + piece) for piece in _pieces(image.exif, len(exif.SEGMENT))
        ]
    if image.xmp is not None:
        segments += _xmp_segments(image.xmp)
    if image.icc is not None:
        pieces = _pieces(image.icc, len(_ICC) + 2)
        if len(pieces) > _MAX_PIECES:
            image.losses.append("jpeg holds no ICC profile over 16 MB: it is left out")
            pieces = []
        segments += [
            (_APP2, _ICC + bytes([number, len(pieces)]) + piece)
            for number, piece in enumerate(pieces, 1)
        ]
    others = [segment for segment in image.extras if segment[0] != _APP0]
    if image.iptc is not None and not any(marker == _APP13 for marker, _ in others):
        others += of_resources(photoshop.of_iptc(image.iptc))
    said = [decode_text(body) for marker, body in others if marker == _COM]
    for text in (text for _, text in image.texts if text not in said):
        others += [(_COM, piece) for piece in _text_pieces(text)]
    segments += others
    return encoded[:2] + _join(segments) + encoded[start:]


def extended_xmp(extras: Iterable[tuple[bytes, bytes]], packet: bytes) -> bytes | None:
    """Return the extended XMP that belongs to a packet, or None if it is missing or damaged."""
    digest = xmp.extension_digest(packet)
    start = _EXTENDED_XMP + (digest or b"")
    pieces = {
        body[len(start) : len(start) + 8]: body[len(start) + 8 :]  # total size and offset
        for marker, body in extras
        if digest and marker == _APP1 and body.startswith(start)
    }
    extension = b"".join(piece for _, piece in sorted(pieces.items()))
    return extension if digest and xmp.digest(extension) == digest.upper() else None


def with_axes_exchanged(extras: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the kept segments of a picture turned by 90 degrees: resolutions change places."""
    turned = []
    for marker, body in extras:
        if marker == _APP0:
            turned.append((marker, body[:8] + body[10:12] + body[8:10] + body[12:]))
        elif marker == _APP13 and body.startswith(photoshop.SEGMENT):
            data = photoshop.with_axes_exchanged(body.removeprefix(photoshop.SEGMENT))
            turned.append((marker, photoshop.SEGMENT + data))
        else:
            turned.append((marker, body))
    return tuple(turned)


def resources(segments: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the resources of Photoshop's, which may be longer than a segment."""
    start = photoshop.SEGMENT
    bodies = (body for marker, body in segments if marker == _APP13 and body.startswith(start))
    return b"".join(body.removeprefix(start) for body in bodies)


def of_resources(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the segments of Photoshop's resources."""
    start = photoshop.SEGMENT
    return tuple((_APP13, start + piece) for piece in _pieces(data, len(start)))


def unknown(extras: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Return the names of kept segments that are in no field of an image."""
    known = (_EXTENDED_XMP, photoshop.SEGMENT, _QUALITY)
    others = {
        m[1] - 0xE0 for m, body in extras if m not in (_APP0, _COM) and not body.startswith(known)
    }
    return [f"APP{number}" for number in sorted(others)]


def _keep(image: Image, segments: _Segments) -> None:
    """Keep segments for the output byte for byte, without pictures."""
    kept: _Segments = []
    old = resources(segments)
    bare = photoshop.without_thumbnails(old)
    rebuilt = list(of_resources(bare)) if bare != old else None
    pictures = set()
    for marker, body in segments:
        if marker == _APP0 and body.startswith(_JFIF):
            short = len(body) <= _JFIF_SIZE
            kept.append((marker, body if short else body[: _JFIF_SIZE - 2] + b"\0\0"))
        elif rebuilt is not None and marker == _APP13 and body.startswith(photoshop.SEGMENT):
            kept += rebuilt
            rebuilt = []
        elif marker == _COM:
            kept.append((marker, body))
        elif marker in _APPLICATION - _STALE and not body.startswith((exif.SEGMENT, xmp.SEGMENT)):
            if SIGNATURE in body and not body.startswith(_EXTENDED_XMP):
                pictures.add(f"APP{marker[1] - 0xE0}")
            else:
                kept.append((marker, body))
    if pictures:
        image.losses.append(f"segments with pictures ({', '.join(sorted(pictures))}): left out")
    extension = extended_xmp(kept, image.xmp or b"")
    if image.xmp is not None and extension is not None:
        shorter = xmp.without_thumbnails(extension)
        if shorter != extension:
            old, new = xmp.digest(extension), xmp.digest(shorter)
            image.xmp = image.xmp.replace(old, new).replace(old.lower(), new)
            kept = [s for s in kept if not s[1].startswith(_EXTENDED_XMP)]
            kept += _extension_segments(shorter)
    image.extras = tuple(kept)


def _first_block(pieces: list[bytes]) -> bytes:
    """Join the pieces of the first EXIF block of several."""
    starts = [at for at, piece in enumerate(pieces) if piece.startswith(_BLOCK_STARTS)]
    return b"".join(pieces[: starts[1] if len(starts) > 1 else None])


def _join_profile(pieces: list[bytes]) -> bytes | None:
    """Join the pieces of an ICC profile, or return None if it is not clear how.

    Pieces may stand in any order or several times. Their numbers may be wrong if the profile has
    the length that its header states.
    """
    distinct = sorted(set(pieces))
    profile = b"".join(piece[2:] for piece in distinct)
    complete = [(piece[0], piece[1]) for piece in distinct] == [
        (number, len(distinct)) for number in range(1, len(distinct) + 1)
    ]
    whole = int.from_bytes(profile[:4], "big") == len(profile)  # ICC.1:2022, 7.2.2
    return profile if complete or whole else None


def _xmp_segments(packet: bytes) -> _Segments:
    """Return the segments of a packet: a long one is the extension of an empty one."""
    if len(xmp.SEGMENT + packet) <= _MAX_BODY:
        return [(_APP1, xmp.SEGMENT + packet)]
    return [(_APP1, xmp.SEGMENT + xmp.extended(packet)), *_extension_segments(packet)]


def _extension_segments(extension: bytes) -> _Segments:
    start = _EXTENDED_XMP + xmp.digest(extension)
    step = _MAX_BODY - len(start) - 8
    return [
        (_APP1, start + struct.pack(">II", len(extension), at) + extension[at : at + step])
        for at in range(0, len(extension), step)
    ]


def _text_pieces(text: str) -> list[bytes]:
    """Encode a text in pieces of whole characters that fit into comments."""
    step = _MAX_BODY // 4  # bytes in a character of UTF-8, at most
    return [text[start : start + step].encode() for start in range(0, len(text), step)]


def _segments(data: bytes) -> tuple[_Segments, int]:
    """Return markers and bodies of the segments before the first scan, and the scan's offset."""
    segments: _Segments = []
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


def _join(segments: _Segments) -> bytes:
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
