"""Pictures for a report: of each image a thumbnail and a pair to compare, written as they come."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from PIL import ImageDraw, ImageOps

from . import differences
from .errors import ImageError
from .files import write_whole
from .views import Box, fitted, size, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pixels import Image

SIDE = 1600
"""Pixels a side that a preview has at most; of a larger image there is a detail as well."""

DETAIL = 640
"""Pixels a side of the detail, which is not scaled: it is where the change is largest."""

THUMBNAIL = 360, 270
"""Width and height of a thumbnail; what does not fit in is cut off."""

KINDS = "thumbnail", "before", "after", "detail-before", "detail-after"

_OURS = re.compile(rf"[0-9a-f]{{16}}-(?:{'|'.join(KINDS)})\.jpg")


@dataclass(frozen=True)
class Previews:
    """A folder of them, which whoever has the images in memory adds to, in whatever process."""

    folder: Path

    def write(self, name: str, before: Image | None, after: Image) -> None:
        """Write those of an image, whose `name` tells it from all others of the report.

        Raises:
            ImageError: they cannot be written.
        """
        pictures = dict(_pictures(before, after))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for kind, picture in pictures.items():
                write_whole(self._path(name, kind), _encoded(picture))
        except OSError as error:
            raise ImageError(
                f"{self.folder}: its previews cannot be written ({error.strerror})",
                "Make room, or name another place with --report.",
            ) from error

    def _path(self, name: str, kind: str) -> Path:
        key = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
        return self.folder / f"{key}-{kind}.jpg"

    def of(self, name: str) -> dict[str, Path]:
        """Those that were written of an image, by their kind."""
        paths = {kind: self._path(name, kind) for kind in KINDS}
        return {kind: path for kind, path in paths.items() if path.is_file()}

    def remove(self, but: set[str]) -> None:
        """Remove all others than these files, and the folder if it is empty then."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name not in but and _OURS.fullmatch(path.name):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _pictures(before: Image | None, after: Image) -> Iterator[tuple[str, PIL.Image.Image]]:
    width, height = size(after)
    whole = fitted(width, height, SIDE)
    seen = view(after, *whole)
    yield "after", seen
    if before is None:
        yield "thumbnail", _thumbnail(seen, seen)
        return
    original = view(before, *whole)
    yield "before", original
    yield "thumbnail", _thumbnail(original, seen)
    if whole == (width, height):
        return
    sides = min(DETAIL, width), min(DETAIL, height)
    found = differences.places(before.pixels, after.pixels, *sides, 1)
    middle = Box((width - sides[0]) // 2, (height - sides[1]) // 2, *sides)
    detail = found[0] if found else middle
    yield "detail-before", view(before, *sides, detail)
    yield "detail-after", view(after, *sides, detail)


def _thumbnail(before: PIL.Image.Image, after: PIL.Image.Image) -> PIL.Image.Image:
    """The left half as it was, the right half as it is."""
    how = PIL.Image.Resampling.BOX
    picture, left = (ImageOps.fit(image, THUMBNAIL, how) for image in (after, before))
    middle, high = THUMBNAIL[0] // 2, THUMBNAIL[1]
    picture.paste(left.crop((0, 0, middle, high)), (0, 0))
    if before is not after:
        ImageDraw.Draw(picture).line((middle, 0, middle, high), "#ffffff", 1)
    return picture


def _encoded(picture: PIL.Image.Image) -> bytes:
    # 4:4:4, since half of what noise is removed from is colour.
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=86, subsampling=0)
    return buffer.getvalue()
