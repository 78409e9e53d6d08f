"""Parse, edit and build EXIF blocks, which are TIFF directories.

Values are interpreted only on request, so that unknown tags are kept. The layout is that of TIFF
6.0, section 2 (EXIF 2.32, section 4.6.2). BigTIFF has the same fields, but wider.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from . import CODEC_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
INTEGERS = {1: "B", SHORT: "H", LONG: "I", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}  # BigTIFF only
# Magic number -> struct formats of a directory's length, an entry and an offset.
_LAYOUTS = {42: ("H", "HHI4s", "I"), 43: ("Q", "HHQ8s", "Q")}
# Tags whose value is another directory: Exif, GPS, Interoperability (EXIF 2.32, 4.6.3).
_DIRECTORIES = frozenset([34665, 34853, 40965])
_TO_INCHES = {2: 1, 3: 2.54}  # ResolutionUnit -> units per inch


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
        (count,) = counter.unpack_from(block, offset)
        start = offset + counter.size
        end = start + count * entry.size
        if end > len(block):
            raise ValueError("a directory runs past the end")
        tags: dict[int, Tag] = {}
        for position in range(start, end, entry.size):
            tag, kind, number, inline = entry.unpack_from(block, position)
            size = number * _SIZES.get(kind, len(block))
            position += entry.size - len(inline)
            if size > len(inline):
                (position,) = link.unpack(inline)
            value = block[position : position + size]
            if len(value) < size:
                continue
            if tag not in _DIRECTORIES:
                tags[tag] = Tag(kind, number, value, position)
            elif depth < 2:  # Interoperability is inside Exif; anything deeper is a loop
                with suppress(*CODEC_ERRORS):
                    (target,) = struct.unpack(order + INTEGERS[kind], value)
                    tags[tag] = Tag(LONG, 1, read(target, depth + 1))
        with suppress(struct.error):
            return Directory(order, tags, link.unpack_from(block, end)[0])
        return Directory(order, tags)

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
    """Return the block without the link to its thumbnail; all offsets stay."""
    _, start, count = _first_directory(block)
    link = start + 2 + 12 * count
    return block[:link] + bytes(4) + block[link + 4 :]


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


def _first_directory(block: bytes) -> tuple[str, int, int]:
    """Return the byte order of a block, the offset of its first directory, and its tag count."""
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    return order, start, count
