"""TIFFs with one directory for a stack of slices, which follow each other without compression.

ImageJ writes them for large stacks, tifffile with `truncate`, and MetaMorph always. Their
description or a private tag has the number of slices.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import CODEC_ERRORS
from ..blocks.exif import LONG, Directory, Tag, integer_tag
from ..blocks.tags import (
    COMPRESSION,
    DESCRIPTION,
    HEIGHT,
    SAMPLES,
    STRIP_OFFSETS,
    STRIP_SIZES,
    WIDTH,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_METAMORPH = 33629  # tag of a stack
_IMAGEJ_COUNT = re.compile(rb"\AImageJ=[\s\S]*?^images=(\d+)", re.MULTILINE)
# Lines about the number and the order of slices.
_IMAGEJ_AXES = re.compile(rb"^(?:images|channels|slices|frames|hyperstack)=.*\n?", re.MULTILINE)
ORDER = "an order of its slices in channels, depth and time"
"""Description of what the pages of an output lack."""


def count_slices(page: Directory) -> int:
    """Return the number of slices that a directory declares, 1 if it declares none."""
    description = page.raw(DESCRIPTION) or b""
    with suppress(*CODEC_ERRORS):
        if match := _IMAGEJ_COUNT.match(description):
            return max(1, int(match[1]))
        if _METAMORPH in page.tags:
            return max(1, page.tags[_METAMORPH].number)
        shaped = _parse_shape(description)
        plane = page.integer(WIDTH) * page.integer(HEIGHT) * page.integer(SAMPLES, 1)
        if shaped.get("truncated"):
            return max(1, math.prod(map(int, shaped["shape"])) // plane)
    return 1


def split(data: bytes, page: Directory) -> list[Directory]:
    """Return a directory for each slice, or only `page` if its slices are not in the file."""
    with suppress(*CODEC_ERRORS):
        offsets, sizes = page.integers(STRIP_OFFSETS), page.integers(STRIP_SIZES)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        step = ends[-1] - offsets[0]
        contiguous = page.integer(COMPRESSION, 1) == 1 and ends[:-1] == list(offsets[1:])
        count = min(count_slices(page), (len(data) - offsets[0]) // step) if contiguous else 1
        moved = [[offset + number * step for offset in offsets] for number in range(max(1, count))]
        return [
            page._replace(tags={**page.tags, STRIP_OFFSETS: integer_tag(page.order, kind, *places)})
            for places in moved
            for kind in (LONG if places[-1] < 2**32 else 16,)
        ]
    return [page]


def as_pages(tags: Mapping[int, Tag]) -> dict[int, Tag]:
    """Return tags without the number of slices, since readers would expect them in this page."""
    kept = {tag: value for tag, value in tags.items() if tag != _METAMORPH}
    text = kept[DESCRIPTION].value if DESCRIPTION in kept else b""
    if not isinstance(text, bytes):
        return kept
    if _IMAGEJ_COUNT.match(text):
        text = _IMAGEJ_AXES.sub(b"", text)
        kept[DESCRIPTION] = Tag(2, len(text), text)
    elif _parse_shape(text).get("truncated"):
        del kept[DESCRIPTION]
    return kept


def _parse_shape(description: bytes) -> dict[str, Any]:
    """Return the JSON that tifffile writes as description, or nothing."""
    if description.startswith(b'{"shape":'):
        with suppress(ValueError, RecursionError):  # the second for thousands of brackets
            return dict(json.loads(description.rstrip(b"\0")))
    return {}
