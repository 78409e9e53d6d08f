"""EXIF blocks, which are TIFF directories, taken apart and put together.

Nothing is interpreted but what is asked for, so that unknown tags survive. The layout is that of
TIFF 6.0, section 2, which EXIF 2.32, section 4.6.2, adopts; BigTIFF has the same fields, wider.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a block raises that is not what it says.
DAMAGE = (LookupError, OverflowError, TypeError, ValueError, struct.error)

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
INTEGERS = {1: "B", SHORT: "H", LONG: "I", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}  # of BigTIFF
# Magic number -> forms of a directory's length, of an entry and of a link.
_LAYOUTS = {42: ("H", "HHI4s", "I"), 43: ("Q", "HHQ8s", "Q")}
# Tags whose value is another directory: Exif, GPS, Interoperability (EXIF 2.32, 4.6.3).
_DIRECTORIES = frozenset([34665, 34853, 40965])
_PER_INCH = {2: 1, 3: 2.54}  # ResolutionUnit -> what its dots are multiplied with


class Tag(NamedTuple):
    """One entry of a directory, its value not interpreted."""

    kind: int
    number: int  # of values
    value: bytes | Directory  # bytes in the file's order
    at: int = 0  # where the block has its value


class Directory(NamedTuple):
    """The tags of a directory, in the byte order ("<" or ">") of its block."""

    order: str
    tags: dict[int, Tag]
    following: int = 0  # where the next directory is: another page, or a thumbnail

    def integers(self, tag: int, *default: int) -> tuple[int, ...]:
        """The values of an integer tag, or the default."""
        if tag not in self.tags and default:
            return default
        kind, number, value, _ = self.tags[tag]
        if isinstance(value, Directory):
            raise TypeError(f"tag {tag} is a directory")
        return struct.unpack(f"{self.order}{number}{INTEGERS[kind]}", value)

    def integer(self, tag: int, *default: int) -> int:
        """The first value of an integer tag, or the default."""
        return self.integers(tag, *default)[0]

    def raw(self, tag: int) -> bytes | None:
        """The value of a tag as it is, None without it."""
        value = self.tags[tag].value if tag in self.tags else None
        return value if isinstance(value, bytes) else None

    def dpi(self) -> tuple[float, float] | None:
        """Dots per inch across and down, None if they are not known or make no sense."""
        with suppress(*DAMAGE, ZeroDivisionError):
            scale = _PER_INCH[self.integer(RESOLUTION_UNIT, 2)]
            across, down = (
                scale * above / below
                for above, below in (
                    struct.unpack(self.order + "II", self.raw(tag) or b"")
                    for tag in (X_RESOLUTION, Y_RESOLUTION)
                )
            )
            return (across, down) if across and down else None
        return None


def parse(block: bytes, start: int | None = None) -> Directory:
    """A directory of an EXIF block or a TIFF file, less the entries that are damaged.

    It is the one at the offset `start`, or else the first.

    Raises:
        LookupError, TypeError, ValueError, struct.error: it is damaged beyond that.
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
        for at in range(start, end, entry.size):
            tag, kind, number, inline = entry.unpack_from(block, at)
            size = number * _SIZES.get(kind, len(block))
            at += entry.size - len(inline)  # where the value is
            if size > len(inline):
                (at,) = link.unpack(inline)
            value = block[at : at + size]
            if len(value) < size:
                continue
            if tag not in _DIRECTORIES:
                tags[tag] = Tag(kind, number, value, at)
            elif depth < 2:  # Interoperability is in Exif; more is a loop
                with suppress(*DAMAGE):
                    (below,) = struct.unpack(order + INTEGERS[kind], value)
                    tags[tag] = Tag(LONG, 1, read(below, depth + 1))
        with suppress(struct.error):
            return Directory(order, tags, link.unpack_from(block, end)[0])
        return Directory(order, tags)

    if start is None:  # the link to the first one is at 4, or at 8 in a BigTIFF
        (start,) = link.unpack_from(block, link.size)
    return read(start, 0)


def build(order: str, tags: Mapping[int, Tag], body: bytes = b"") -> bytes:
    """An EXIF block, or a TIFF file whose `body` starts at offset 8 and whose directory is last."""
    body += b"\0" * (len(body) % 2)  # directories begin on a word boundary
    at = 8 + len(body)
    return b"".join([header(order, at), body, directory(order, tags, at)])


def header(order: str, at: int) -> bytes:
    """The first 8 bytes of a block or file whose first directory is at the offset `at`."""
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)


def directory(order: str, tags: Mapping[int, Tag], start: int) -> bytes:
    """A directory, to be put at the even offset `start`, followed by all its values."""
    heap = start + 2 + 12 * len(tags) + 4
    entries, values = [struct.pack(order + "H", len(tags))], b""
    for tag, (kind, number, value, _) in sorted(tags.items()):
        at = heap + len(values)
        inline = directory(order, value.tags, at) if isinstance(value, Directory) else value
        if len(inline) > 4:
            values += inline + b"\0" * (len(inline) % 2)
            inline = struct.pack(order + "I", at)
        entries.append(struct.pack(order + "HHI4s", tag, kind, number, inline))
    return b"".join([*entries, bytes(4), values])


def integer_tag(order: str, kind: int, *numbers: int) -> Tag:
    """A tag of integers."""
    form = f"{order}{len(numbers)}{INTEGERS[kind]}"
    return Tag(kind, len(numbers), struct.pack(form, *numbers))


def take_orientation(block: bytes) -> tuple[int, bytes]:
    """The orientation that a block has, 1 to 8, and the block with 1 in its place."""
    directory = parse(block)
    orientation = directory.integer(ORIENTATION, 1)
    if not 2 <= orientation <= 8:
        return 1, block
    # In place, so that nothing moves: maker notes have offsets of their own.
    kind, _, _, at = directory.tags[ORIENTATION]
    one = struct.pack(directory.order + INTEGERS[kind], 1)
    return orientation, block[:at] + one + block[at + len(one) :]


def _first(block: bytes) -> tuple[str, int, int]:
    """The byte order of a block, where its first directory is, and how many tags that has."""
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    return order, start, count


def without_thumbnail(block: bytes) -> bytes:
    """The block in which nothing leads to its thumbnail any more; nothing moves.

    Raises:
        LookupError, struct.error: it is damaged.
    """
    _, start, count = _first(block)
    link = start + 2 + 12 * count
    return block[:link] + bytes(4) + block[link + 4 :]


def without(block: bytes, tag: int) -> bytes:
    """The block without a tag of its first directory; nothing else moves, as maker notes need.

    Raises:
        LookupError, struct.error: it is damaged.
    """
    order, start, count = _first(block)
    end = start + 2 + 12 * count + 4
    for at in range(start + 2, end - 4, 12):
        if struct.unpack_from(order + "H", block, at)[0] == tag:
            fewer = struct.pack(order + "H", count - 1)
            rest = block[start + 2 : at] + block[at + 12 : end]
            return block[:start] + fewer + rest + bytes(12) + block[end:]
    return block
