"""Parse, edit and build EXIF blocks, which are TIFF directories.

Values are interpreted only on request, so that unknown tags are kept. The layout is that of TIFF
6.0, section 2 (EXIF 2.32, section 4.6.2). BigTIFF has the same fields, but wider.
"""

from __future__ import annotations

import math
import re
import struct
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import CODEC_ERRORS
from .tags import (
    EXIF_IFD,
    GPS_IFD,
    HEIGHT,
    INTEROPERABILITY_IFD,
    ORIENTATION,
    RESOLUTION_UNIT,
    STRIP_OFFSETS,
    STRIP_SIZES,
    WIDTH,
    X_RESOLUTION,
    Y_RESOLUTION,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SEGMENT = b"Exif\0\0"  # start of a JPEG's APP1 (EXIF 2.32, 4.7.2)
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
INTEGERS = {BYTE: "B", SHORT: "H", LONG: "I", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}  # BigTIFF only
# Magic number -> struct formats of a directory's length, an entry and an offset.
_LAYOUTS = {42: ("H", "HHI4s", "I"), 43: ("Q", "HHQ8s", "Q")}
# Tags whose value is another directory: Exif, GPS, Interoperability (EXIF 2.32, 4.6.3).
_DIRECTORIES = frozenset([EXIF_IFD, GPS_IFD, INTEROPERABILITY_IFD])
_TO_INCHES = {2: 1, 3: 2.54}  # ResolutionUnit -> units per inch
# ImageWidth and PixelXDimension, and the same for height.
_WIDTHS, _HEIGHTS = (WIDTH, 40962), (HEIGHT, 40963)
# Horizontal and vertical values: resolution, and resolution in the focal plane.
_AXES = ((X_RESOLUTION, Y_RESOLUTION), (41486, 41487))
_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # type -> bytes to swap
# Offset and size of a thumbnail, uncompressed or JPEG.
_STRIPS = ((STRIP_OFFSETS, STRIP_SIZES), (513, 514))
_JPEG = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")  # the start of a picture
_MAX_PICTURES = 16  # in a block, to bound the search in hostile ones
_SCAN, _END = 0xDA, b"\xff\xd9"  # JPEG markers (ITU-T T.81, table B.1)
_ROUNDING = 1e-3  # of resolutions, relative
_MAX_DENOMINATOR = 1000  # of resolutions, unless they are whole numbers


class Tag(NamedTuple):
    """One entry of a directory, with an uninterpreted value."""

    kind: int
    number: int  # of values
    value: bytes | Directory  # bytes in the block's byte order
    offset: int = 0  # of the value in the block


class Directory(NamedTuple):
    """The tags of a directory, in the byte order ("<" or ">") of its block."""

    order: str
    tags: dict[int, Tag]
    following: int = 0  # offset of the next directory: another page, or a thumbnail
    damaged: frozenset[int] = frozenset()  # tags without a value, which are not in `tags`

    def integers(self, tag: int, *default: int) -> tuple[int, ...]:
        """Return the values of an integer tag, or the default."""
        if tag not in self.tags and default:
            return default
        kind, number, value, _ = self.tags[tag]
        if isinstance(value, Directory):
            raise TypeError(f"tag {tag} is a directory")
        return struct.unpack(f"{self.order}{number}{INTEGERS[kind]}", value)

    def integer(self, tag: int, *default: int) -> int:
        """Return the first value of an integer tag, or the default."""
        return self.integers(tag, *default)[0]

    def raw(self, tag: int) -> bytes | None:
        """Return the uninterpreted value of a tag, or None."""
        value = self.tags[tag].value if tag in self.tags else None
        return value if isinstance(value, bytes) else None

    def dpi(self) -> tuple[float, float] | None:
        """Return the horizontal and vertical dots per inch, or None if missing or invalid."""
        with suppress(*CODEC_ERRORS):
            scale = _TO_INCHES[self.integer(RESOLUTION_UNIT, 2)]
            values = (self.raw(tag) or b"" for tag in (X_RESOLUTION, Y_RESOLUTION))
            ratios = (struct.unpack(self.order + "II", value) for value in values)
            x, y = (scale * numerator / denominator for numerator, denominator in ratios)
            return (x, y) if x and y else None
        return None


def parse(block: bytes, start: int | None = None) -> Directory:
    """Parse the directory at `start`, or the first one, without damaged entries.

    Raises:
        LookupError, TypeError, ValueError, struct.error: the directory itself is damaged.
    """
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (magic,) = struct.unpack_from(order + "H", block, 2)
    counter, entry, link = (struct.Struct(order + form) for form in _LAYOUTS[magic])

    def read(offset: int, depth: int) -> Directory:
        if offset + counter.size > len(block):
            raise ValueError("a directory lies beyond the end")
        (count,) = counter.unpack_from(block, offset)
        start = offset + counter.size
        end = start + count * entry.size
        if end > len(block):
            raise ValueError("a directory runs past the end")
        tags: dict[int, Tag] = {}
        damaged = set()
        for position in range(start, end, entry.size):
            tag, kind, number, inline = entry.unpack_from(block, position)
            size = number * _SIZES.get(kind, len(block))
            position += entry.size - len(inline)
            if size > len(inline):
                (position,) = link.unpack(inline)
            value = block[position : position + size]
            if len(value) < size:
                damaged.add(tag)
            elif tag not in _DIRECTORIES:
                tags[tag] = Tag(kind, number, value, position)
            elif depth < 2:  # Interoperability is inside Exif; anything deeper is a loop
                with suppress(*CODEC_ERRORS):
                    (target,) = struct.unpack(order + INTEGERS[kind], value)
                    tags[tag] = Tag(LONG, 1, read(target, depth + 1))
        following = 0
        with suppress(struct.error):
            (following,) = link.unpack_from(block, end)
        return Directory(order, tags, following, frozenset(damaged))

    if start is None:  # its offset is at 4, or at 8 in a BigTIFF
        (start,) = link.unpack_from(block, link.size)
    return read(start, 0)


def build(order: str, tags: Mapping[int, Tag], body: bytes = b"") -> bytes:
    """Build an EXIF block, or a TIFF file with `body` at offset 8 before its directory."""
    body += b"\0" * (len(body) % 2)  # directories begin on a word boundary
    start = 8 + len(body)
    return b"".join([header(order, start), body, directory(order, tags, start)])


def header(order: str, start: int) -> bytes:
    """Return the first 8 bytes of a block whose first directory is at the offset `start`."""
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)


def directory(order: str, tags: Mapping[int, Tag], start: int) -> bytes:
    """Encode a directory for the even offset `start`, followed by all its values."""
    heap = start + 2 + 12 * len(tags) + 4
    entries, values = [struct.pack(order + "H", len(tags))], b""
    for tag, (kind, number, value, _) in sorted(tags.items()):
        offset = heap + len(values)
        inline = directory(order, value.tags, offset) if isinstance(value, Directory) else value
        if len(inline) > 4:
            values += inline + b"\0" * (len(inline) % 2)
            inline = struct.pack(order + "I", offset)
        entries.append(struct.pack(order + "HHI4s", tag, kind, number, inline))
    return b"".join([*entries, bytes(4), values])


def integer_tag(order: str, kind: int, *numbers: int) -> Tag:
    """Return a tag of integers."""
    form = f"{order}{len(numbers)}{INTEGERS[kind]}"
    return Tag(kind, len(numbers), struct.pack(form, *numbers))


def reset_orientation(block: bytes) -> tuple[int, bytes]:
    """Return the orientation of a block, 1 to 8, and the block with an orientation of 1."""
    first = parse(block)
    orientation = first.integer(ORIENTATION, 1)
    if not 2 <= orientation <= 8:
        return 1, block
    # In place, because maker notes contain offsets.
    kind, _, _, offset = first.tags[ORIENTATION]
    value = struct.pack(first.order + INTEGERS[kind], 1)
    return orientation, block[:offset] + value + block[offset + len(value) :]


def without_thumbnail(block: bytes) -> bytes:
    """Return the block without its thumbnail and the previews of its maker note; offsets stay."""
    order, start, count = _first_directory(block)
    link = start + 2 + 12 * count
    blank = bytearray(block)
    thumbnail = _thumbnail(block, order, link)
    for begin, end in [*thumbnail, *_embedded_jpegs(block)]:
        blank[begin:end] = bytes(end - begin)
    del blank[min((begin for begin, end in thumbnail if end == len(block)), default=len(block)) :]
    if any(block[link : link + 4]):
        blank[link : link + 4] = bytes(4)
    return bytes(blank)


def _thumbnail(block: bytes, order: str, link: int) -> list[tuple[int, int]]:
    """Return the ranges of the pixels of the second directory, behind all directories."""
    with suppress(*CODEC_ERRORS):
        (start,) = struct.unpack_from(order + "I", block, link)
        directory = parse(block, start)
        pairs = [pair for pair in _STRIPS if set(pair) <= directory.tags.keys()]
        located = [
            (offset, offset + size)
            for offsets, sizes in pairs
            for offset, size in zip(
                directory.integers(offsets), directory.integers(sizes), strict=True
            )
        ]
        if start and all(link + 4 <= begin <= end <= len(block) for begin, end in located):
            return located
    return []


def _embedded_jpegs(block: bytes) -> list[tuple[int, int]]:
    """Return the ranges of whole JPEG files in a block."""
    found: list[tuple[int, int]] = []
    for match in islice(_JPEG.finditer(block), _MAX_PICTURES):
        start, position = match.start(), match.start() + 2
        if found and start < found[-1][1]:
            continue
        while block[position : position + 1] == b"\xff" and len(block) >= position + 4:
            code = block[position + 1]
            position += 2 + int.from_bytes(block[position + 2 : position + 4], "big")
            if code == _SCAN and (end := block.find(_END, position)) > 0:
                found.append((start, end + 2))
                break
    return found


def with_size(block: bytes, width: int, height: int) -> bytes:
    """Return the block with the size of the picture, where it has one; all offsets stay."""
    edited = bytearray(block)
    for directory in _directories(block):
        for tags, size in ((_WIDTHS, width), (_HEIGHTS, height)):
            for tag in tags & directory.tags.keys():
                kind, number, _, offset = directory.tags[tag]
                if number == 1 and kind in (SHORT, LONG) and size >> (8 * _SIZES[kind]) == 0:
                    struct.pack_into(directory.order + INTEGERS[kind], edited, offset, size)
    return bytes(edited)


def with_axes_exchanged(block: bytes) -> bytes:
    """Return the block of a picture turned by 90 degrees: resolutions change places."""
    edited = bytearray(block)
    for directory in _directories(block):
        for pair in _AXES:
            if all(directory.raw(tag) is not None for tag in pair):
                first, second = (directory.tags[tag] for tag in pair)
                if first.kind == second.kind == RATIONAL and first.number == second.number == 1:
                    edited[first.offset : first.offset + 8] = directory.raw(pair[1]) or b""
                    edited[second.offset : second.offset + 8] = directory.raw(pair[0]) or b""
    return bytes(edited)


def with_tags(block: bytes, tags: Mapping[int, Tag]) -> bytes:
    """Return the block with more tags in its first directory, or other values of these tags.

    A tag that is a directory is merged with the old one. All offsets stay, because maker notes
    contain offsets: changed directories are written behind the rest.
    """
    order, start, _ = _first_directory(block)
    body = bytearray(block + b"\0" * (len(block) % 2))

    def merge(start: int, tags: Mapping[int, Tag]) -> int:
        """Append a directory to `body`, and return its offset."""
        (count,) = struct.unpack_from(order + "H", body, start) if start else (0,)
        end = start + 2 + 12 * count
        old = [bytes(body[at : at + 12]) for at in range(start + 2, end, 12)] if start else []
        following = body[end : end + 4].ljust(4, b"\0") if start else bytes(4)
        entries = {struct.unpack_from(order + "H", entry)[0]: entry for entry in old}
        for tag, (kind, number, value, _) in tags.items():
            if isinstance(value, Directory):
                held = struct.unpack_from(order + "8xI", entries[tag])[0] if tag in entries else 0
                inline = struct.pack(order + "I", merge(held, value.tags))
            elif len(value) > 4:
                inline = struct.pack(order + "I", len(body))
                body.extend(value + b"\0" * (len(value) % 2))
            else:
                inline = value
            entries[tag] = struct.pack(order + "HHI4s", tag, kind, number, inline)
        position = len(body)
        body.extend(struct.pack(order + "H", len(entries)))
        body.extend(b"".join(entries[tag] for tag in sorted(entries)) + following)
        return position

    struct.pack_into(order + "I", body, 4, merge(start, tags))
    return bytes(body)


def resolution_tags(order: str, dpi: tuple[float, float]) -> dict[int, Tag]:
    """Return the tags of a resolution, whose values must lie within 0.001 and 2^32 - 1."""
    tags = {RESOLUTION_UNIT: integer_tag(order, SHORT, 2)}
    for tag, dots in zip((X_RESOLUTION, Y_RESOLUTION), dpi, strict=True):
        largest = max(1, min(_MAX_DENOMINATOR, (2**32 - 1) // (int(dots) + 1)))
        ratio = Fraction(dots).limit_denominator(largest)
        tags[tag] = Tag(RATIONAL, 1, struct.pack(order + "II", *ratio.as_integer_ratio()))
    return tags


def agrees(directory: Directory, dpi: tuple[float, float]) -> bool:
    """Return True if a directory has this resolution, apart from rounding."""
    said = directory.dpi()
    return said is not None and all(
        math.isclose(*pair, rel_tol=_ROUNDING) for pair in zip(said, dpi, strict=True)
    )


def in_order(directory: Directory, order: str) -> Directory:
    """Convert the values of a directory to another byte order; undefined ones stay."""
    if directory.order == order:
        return directory

    def convert(tag: Tag) -> Tag:
        if isinstance(tag.value, Directory):
            return tag._replace(value=in_order(tag.value, order))
        words = np.frombuffer(tag.value, f"u{_WORDS.get(tag.kind, 1)}")
        return tag._replace(value=words.byteswap().tobytes())

    return Directory(order, {tag: convert(value) for tag, value in directory.tags.items()})


def without_tag(block: bytes, tag: int) -> bytes:
    """Return the block without a tag of its first directory; all offsets stay."""
    order, start, count = _first_directory(block)
    end = start + 2 + 12 * count + 4
    for position in range(start + 2, end - 4, 12):
        if struct.unpack_from(order + "H", block, position)[0] == tag:
            fewer = struct.pack(order + "H", count - 1)
            entries = block[start + 2 : position] + block[position + 12 : end]
            return block[:start] + fewer + entries + bytes(12) + block[end:]
    return block


def _directories(block: bytes) -> list[Directory]:
    """Return the first directory and the one with the photograph's data."""
    first = parse(block)
    nested = first.tags.get(EXIF_IFD)
    return [first, *([nested.value] if nested and isinstance(nested.value, Directory) else [])]


def _first_directory(block: bytes) -> tuple[str, int, int]:
    """Return the byte order of a block, the offset of its first directory, and its tag count."""
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    return order, start, count
