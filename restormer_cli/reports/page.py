"""A page that shows what was restored: figures, failures, a gallery, before and after."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import PIL.Image
from PIL import ImageDraw, ImageOps

from .._version import __version__
from ..batch import Event, Failed, Restored, Skipped, Summary
from ..errors import ImageError, UsageError
from ..files import PAGE_FOLDER_MARK, PAGE_SUFFIXES, UrlPath, as_path, exists, write_atomic
from ..imaging import Box, most_changed
from ..text import format_duration
from .display import fit_size, image_size, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..imaging import Image


# --- previews ------------------------------------------------------------------------------------

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
                write_atomic(self._path(name, kind), _encoded(picture))
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
    width, height = image_size(after)
    whole = fit_size(width, height, SIDE)
    seen = render(after, *whole)
    yield "after", seen
    if before is None:
        yield "thumbnail", _thumbnail(seen, seen)
        return
    original = render(before, *whole)
    yield "before", original
    yield "thumbnail", _thumbnail(original, seen)
    if whole == (width, height):
        return
    sides = min(DETAIL, width), min(DETAIL, height)
    found = most_changed(before.pixels, after.pixels, *sides, 1)
    middle = Box((width - sides[0]) // 2, (height - sides[1]) // 2, *sides)
    detail = found[0] if found else middle
    yield "detail-before", render(before, *sides, detail)
    yield "detail-after", render(after, *sides, detail)


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


# --- report --------------------------------------------------------------------------------------


EMBEDDED = 20_000_000
"""Bytes of pictures that a page holds itself; where there are more, all are in a folder beside it.

An image takes about a quarter of a kilobyte besides: a page of 50,000 has 12 megabytes.
"""

TASK_TITLES = {
    "denoise": "Noise removed",
    "derain": "Rain removed",
    "deblur": "Motion blur removed",
    "defocus": "Defocus blur removed",
}
_MARK = b'<meta name="generator" content="restormer '
_HEAD = 2000  # bytes in which the mark is

Terms = list[tuple[str, str]]


def check_page(path: Path) -> None:
    """See beforehand that a report can be written there.

    Raises:
        UsageError: it is no page's name, its folder is closed, or another's file is there.
    """
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise UsageError(f"{path}: a report is a page", "Name a file that ends in .html.")
    there = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: {there} is no folder to write to", "Name another place.")
    if exists(path):
        if not path.is_file():
            raise UsageError(f"{path}: a folder, or no file at all", "Name another file.")
        try:
            with path.open("rb") as file:
                ours = _MARK in file.read(_HEAD)
        except OSError:
            ours = False
        if not ours:
            raise UsageError(f"{path} is there, and no report of restormer's", "Name another file.")


class Report:
    """A page that is being collected; of each image it keeps a line of text in memory.

    Its pictures are written by `previews`, as soon as an image is there.
    """

    def __init__(self, path: Path, title: str, settings: Terms) -> None:
        self.path = path
        self.previews = Previews(path.with_name(path.stem + PAGE_FOLDER_MARK))
        self._title = title
        self._settings = settings
        self._images: list[tuple[str, str]] = []  # whose previews, and the rest as JSON
        self._failed: list[tuple[str, str, str]] = []
        self._skipped: list[tuple[str, str]] = []
        self._used: dict[str, dict[str, None]] = {}  # what ran, each once, in its order

    def add(self, event: Event, links: dict[str, str] | None = None) -> None:
        """Take in what happened to an image; `links` are files that are not where it says."""
        match event:
            case Restored():
                ran = event.weights
                self.uses("Weights", f"{ran.name} ({ran.source}), SHA-256 {ran.sha256}")
                self.uses("Device", event.device)
                self.uses("Precision", event.precision)
                self.uses("Strategy", event.strategy)
                self.image(
                    event.output,
                    name=event.input,
                    facts=[
                        f"{event.width} x {event.height}, {event.seconds:.1f} s",
                        f"{255 * event.mean_absolute_change:.1f} of 255 changed on average",
                    ],
                    change=event.mean_absolute_change,
                    warnings=event.warnings,
                    notes=event.notes,
                    links=links or _links(event),
                )
            case Failed():
                self._failed.append((event.input or "", event.error, event.hint))
            case Skipped():
                self._skipped.append((event.input, event.reason))

    def uses(self, what: str, value: str) -> None:
        """Take in a setting that some image was made with."""
        self._used.setdefault(what, {})[value] = None

    def image(
        self,
        key: str,
        *,
        name: str,
        facts: Sequence[str],
        change: float | None = None,
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
        links: dict[str, str] | None = None,
    ) -> None:
        """Take in an image whose previews were written by the name `key`."""
        hrefs = {side: self._href(path) for side, path in (links or {}).items() if path != "-"}
        row = {
            "name": name,
            "facts": facts,
            "change": change,
            "warnings": list(warnings),
            "notes": list(notes),
            "links": hrefs,
        }
        self._images.append((key, json.dumps(row)))

    def _href(self, path: str) -> str:
        """A link to a file from the page: relative, so that both can move, and never a script."""
        try:
            relative = os.path.relpath(path, self.path.parent)
        except ValueError:  # on another drive
            return Path(path).absolute().as_uri()
        return "./" + quote(os.fsencode(relative.replace(os.sep, "/")), safe="/")

    def write(self, about: str, figures: Sequence[tuple[str, str] | tuple[str, str, str]]) -> int:
        """Write the page, whole, and put its pictures into it if they are few; its size in bytes.

        Raises:
            ImageError: it cannot be written.
        """
        try:
            return self._write(about, figures)
        except OSError as error:
            raise ImageError(
                f"{self.path}: the report cannot be written ({error.strerror})",
                "The images are there: restormer report FOLDER makes one of a folder's record.",
            ) from error

    def _write(self, about: str, figures: Sequence[tuple[str, ...]]) -> int:
        pictures = {key: self.previews.of(key) for key, _ in self._images}
        total = sum(path.stat().st_size for of in pictures.values() for path in of.values())
        embedded = total <= EMBEDDED
        refer = _data if embedded else self._beside
        used = [(what, ", ".join(values)) for what, values in self._used.items()]
        data = {
            "title": self._title,
            "about": about,
            "figures": figures,
            "settings": [*used, *self._settings],
            "failed": self._failed,
            "skipped": self._skipped,
            "images": [
                {**json.loads(row), **{kind: refer(path) for kind, path in pictures[key].items()}}
                for key, row in self._images
            ],
        }
        page = _page(self._title, data, "data:" if embedded else "'self' file:").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, page)
        kept = [] if embedded else [path for of in pictures.values() for path in of.values()]
        self.previews.remove(but={path.name for path in kept})
        return len(page)

    def _beside(self, path: Path) -> str:
        return f"./{quote(self.previews.folder.name)}/{path.name}"


def _data(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _page(title: str, data: dict[str, Any], pictures: str) -> str:
    """The page; what it may load is its own style and script, by their hashes, and its pictures."""
    template, style, script = (
        (Path(__file__).parent / "assets" / f"report.{kind}").read_text("utf-8")
        for kind in ("html", "css", "js")
    )
    policy = (
        f"default-src 'none'; img-src {pictures}; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    # Neither a tag nor a comment can end the block that holds the data.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template(template).substitute(
        version=__version__, policy=policy, title=title, style=style, script=script, data=text
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def summary_figures(summary: Summary) -> list[tuple[str, str] | tuple[str, str, str]]:
    """What a run comes to: a number and what it counts; what is bad is marked as such."""
    counted: list[tuple[str, str] | tuple[str, str, str]] = [("restored", f"{summary.restored:,}")]
    if summary.failed:
        counted.append(("failed", f"{summary.failed:,}", "bad"))
    if summary.skipped:
        counted.append(("skipped", f"{summary.skipped:,}"))
    speed = summary.megapixels / max(summary.seconds, 1e-3)
    return [
        *counted,
        ("megapixels", f"{summary.megapixels:,.3g}"),
        (
            "time",
            format_duration(summary.seconds)
            if summary.seconds > 90
            else f"{summary.seconds:.0f} s",
        ),
        ("megapixels a second", f"{speed:.2g}"),
    ]


def _links(event: Restored) -> dict[str, str]:
    """The files to open beside an image's previews: of URLs none, nor what was before in place."""
    files = {"before": event.input, "after": event.output}
    if event.input == event.output:
        del files["before"]
    return {side: name for side, name in files.items() if not isinstance(as_path(name), UrlPath)}
