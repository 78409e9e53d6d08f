"""Photoshop's image resources, which JPEG, TIFF and PNG hold (Adobe Photoshop File Formats, 2019).

They contain IPTC and, among many settings, thumbnails of the picture.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

SEGMENT = b"Photoshop 3.0\0"  # start of a JPEG's APP13
IPTC = 0x0404
_THUMBNAILS = frozenset([1033, 1036])
_RESOLUTION = 1005  # two axes of 8 bytes each
_DERIVED = frozenset([IPTC, 1061, _RESOLUTION, *_THUMBNAILS])  # 1061: digest of the IPTC


class Resource(NamedTuple):
    """An image resource."""

    number: int
    head: bytes  # signature, number and name
    body: bytes


def parse(data: bytes) -> list[Resource]:
    """Parse resources up to the first damaged one."""
    resources: list[Resource] = []
    position = 0
    while (name := position + 6) < len(data) and data[position : position + 4].isalnum():
        size = name + 1 + data[name]
        size += (size - name) % 2
        if size + 4 > len(data):
            break
        (number,) = struct.unpack_from(">H", data, position + 4)
        (length,) = struct.unpack_from(">I", data, size)
        body = data[size + 4 : size + 4 + length]
        resources.append(Resource(number, data[position:size], body))
        position = size + 4 + length + length % 2
    return resources


def build(resources: Iterable[Resource]) -> bytes:
    """Invert `parse`."""
    return b"".join(
        head + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)
        for _, head, body in resources
    )


def iptc(data: bytes) -> bytes | None:
    """Return the IPTC records of resources or, if `data` are IPTC records, these."""
    if data[:1] == b"\x1c":  # the tag marker of every record (IPTC-IIM 4.2, 1.5)
        return data
    # Equal copies are one.
    return b"".join(dict.fromkeys(r.body for r in parse(data) if r.number == IPTC)) or None


def of_iptc(records: bytes) -> bytes:
    """Return the resource of IPTC records."""
    return build([Resource(IPTC, b"8BIM" + struct.pack(">HH", IPTC, 0), records)])


def without_thumbnails(data: bytes) -> bytes:
    """Return resources without pictures; `data` itself if there are none."""
    return _without(data, _THUMBNAILS)


def settings(data: bytes) -> bytes:
    """Return resources without pictures and IPTC."""
    return _without(data, _THUMBNAILS | {IPTC})


def with_axes_exchanged(data: bytes) -> bytes:
    """Return the resources of a picture turned by 90 degrees: its resolutions change places."""
    for number, head, body in parse(data):
        if number == _RESOLUTION:
            start = head + struct.pack(">I", len(body))
            data = data.replace(start + body, start + body[8:16] + body[:8] + body[16:])
    return data


def has_settings(data: bytes) -> bool:
    """Return True if there is more than IPTC, thumbnails and the resolution."""
    return any(resource.number not in _DERIVED for resource in parse(data))


def _without(data: bytes, numbers: AbstractSet[int]) -> bytes:
    resources = parse(data)
    kept = [resource for resource in resources if resource.number not in numbers]
    return data if len(kept) == len(resources) else build(kept)
