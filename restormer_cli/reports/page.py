"""Write a report as an HTML page with figures, failures and all images before and after."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import PIL.Image
from PIL import ImageDraw, ImageOps

from .._version import __version__
from ..batch import Event, Failed, Restored, Skipped, Summary
from ..errors import ImageError, UsageError
from ..files import (
    PAGE_FOLDER_MARK,
    PAGE_SUFFIXES,
    UrlPath,
    as_path,
    exists,
    holds,
    unwritable,
    write_atomic,
    write_hint,
)
from ..text import format_duration, format_number, reason
from .display import fit_size, image_size, most_changed_crop, render
from .template import ASSETS, fill_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..imaging import Image

EMBEDDED = 20_000_000  # maximum bytes of previews in a page; more are in a folder beside it
SIDE = 1600  # longest side of a preview in pixels; larger images also have a detail
DETAIL = 640  # longest side of a detail, the unscaled crop that changed most
THUMBNAIL = 360, 270  # width and height
KINDS = "thumbnail", "before", "after", "detail-before", "detail-after"

TASK_TITLES = {
    "denoise": "Noise removed",
    "derain": "Rain removed",
    "deblur": "Motion blur removed",
    "defocus": "Defocus blur removed",
}

Terms = list[tuple[str, str]]  # names and values
Figure = tuple[str, str] | tuple[str, str, str]  # label, number and, optionally, a CSS class

_GENERATOR = b'<meta name="generator" content="restormer '
_PREVIEW_NAME = re.compile(rf"([0-9a-f]{{16}})-(?:{'|'.join(KINDS)})\.jpg")


def check_page(path: Path) -> None:
    """Check that a report can be written to `path`.

    Raises:
        UsageError: the name is not that of a page, the folder is not writable, or the file exists
            and is not a report.
    """
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise UsageError(f"{path}: not the name of a page", "Choose a name that ends in .html.")
    check_folder(path)
    if exists(path) and not holds(path, _GENERATOR, within=2000):
        raise UsageError(f"{path}: exists and is not a restormer report", "Choose another path.")


def check_folder(path: Path) -> None:
    """Raise UsageError if the folder of a file is neither writable nor can be created."""
    if cause := unwritable(path.parent):
        raise UsageError(f"{path}: {cause}", "Choose another path.")


def timestamp() -> str:
    """Return the local time and the version of this program."""
    return f"{datetime.now().astimezone():%Y-%m-%d %H:%M}, restormer {__version__}"


class Report:
    """Collects the content of a report page and writes the page.

    Attributes:
        path: file of the page.
        previews: writes the previews of each image.
    """

    def __init__(self, path: Path, title: str, settings: Terms) -> None:
        self.path = path
        self.previews = Previews(path.with_name(path.stem + PAGE_FOLDER_MARK))
        self._title = title
        self._settings = settings
        self._images: list[tuple[str, dict[str, Any]]] = []  # key of the previews, other data
        self._failed: list[tuple[str, str, str]] = []
        self._skipped: list[tuple[str, str]] = []
        self._used: dict[str, dict[str, None]] = {}  # ordered sets of values by name

    def add(self, event: Event, links: Mapping[str, str] | None = None) -> None:
        """Add an event. `links` overrides the targets of its links "before" and "after"."""
        match event:
            case Restored():
                weights = event.weights
                self.uses("Weights", f"{weights.name} ({weights.source}), SHA-256 {weights.sha256}")
                self.uses("Device", event.device)
                self.uses("Precision", event.precision)
                self.uses("Strategy", event.strategy)
                self.image(
                    event.output,
                    name=event.input,
                    facts=[
                        f"{event.width} x {event.height}, {event.seconds:.1f} s",
                        f"mean change {255 * event.mean_absolute_change:.1f} of 255",
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

    def uses(self, name: str, value: str) -> None:
        """Add a value of a setting with which images were restored, unless it is listed."""
        self._used.setdefault(name, {})[value] = None

    def image(
        self,
        key: str,
        *,
        name: str,
        facts: Sequence[str],
        change: float | None = None,
        warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Add an image; `key` is that of its previews."""
        row = {
            "name": name,
            "facts": facts,
            "change": change,
            "warnings": list(warnings),
            "notes": list(notes),
            "links": {side: self._href(p) for side, p in (links or {}).items() if p != "-"},
        }
        self._images.append((key, row))

    def write(self, about: str, figures: Sequence[Figure]) -> int:
        """Write the page and return its size in bytes.

        The page embeds the previews unless all of them exceed EMBEDDED.

        Raises:
            ImageError: the page cannot be written.
        """
        keys = [key for key, _ in self._images]
        used = [(name, ", ".join(values)) for name, values in self._used.items()]
        try:
            previews = [self.previews.find(key) for key in keys]
            sizes = (path.stat().st_size for paths in previews for path in paths.values())
            embedded = sum(sizes) <= EMBEDDED
            link = _data_url if embedded else self._href
            data = {
                "title": self._title,
                "about": about,
                "figures": figures,
                "settings": [*used, *self._settings],
                "failed": self._failed,
                "skipped": self._skipped,
                "images": [
                    row | {kind: link(path) for kind, path in paths.items()}
                    for (_, row), paths in zip(self._images, previews, strict=True)
                ],
            }
            images = "data:" if embedded else "'self' file:"
            content = fill_page(ASSETS / "report", data, img_src=images).html.encode()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, content)
            self.previews.remove(keep=() if embedded else keys)
        except OSError as error:
            raise ImageError(
                f"{self.path}: cannot write the report ({reason(error)})",
                write_hint(
                    error, "The images are written. Use restormer report FOLDER to report on them."
                ),
            ) from error
        return len(content)

    def _href(self, path: str | Path) -> str:
        """Return a link to a file: relative, so that both can be moved, and never a script URL."""
        try:
            relative = os.path.relpath(path, self.path.parent)
        except ValueError:  # on another drive
            return Path(path).absolute().as_uri()
        return "./" + quote(os.fsencode(relative.replace(os.sep, "/")), safe="/")


@dataclass(frozen=True)
class Previews:
    """Folder with the JPEG previews of a report. Any process may write to it."""

    folder: Path

    def write(self, key: str, before: Image | None, after: Image) -> None:
        """Write the previews of an image under a `key` that is unique in the report.

        Raises:
            ImageError: they cannot be written.
        """
        pictures = _draw_previews(before, after)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for kind, picture in pictures.items():
                write_atomic(self._path(key, kind), encode_preview(picture))
        except OSError as error:
            raise ImageError(
                f"{self.folder}: cannot write previews ({reason(error)})",
                write_hint(error, "Free some space, or choose another path with --report."),
            ) from error

    def find(self, key: str) -> dict[str, Path]:
        """Return the existing previews of an image by kind."""
        return {kind: path for kind in KINDS if (path := self._path(key, kind)).is_file()}

    def remove(self, keep: Iterable[str]) -> None:
        """Remove the previews of all images except these, and the folder if it is then empty."""
        if not self.folder.is_dir():
            return
        kept = {_digest(key) for key in keep}
        for path in self.folder.iterdir():
            match = _PREVIEW_NAME.fullmatch(path.name)
            if match and match[1] not in kept:
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / f"{_digest(key)}-{kind}.jpg"


def summary_figures(summary: Summary) -> list[Figure]:
    """Return the figures at the top of a run's report."""
    figures: list[Figure] = [("restored", f"{summary.restored:,}")]
    if summary.failed:
        figures.append(("failed", f"{summary.failed:,}", "bad"))
    if summary.skipped:
        figures.append(("skipped", f"{summary.skipped:,}"))
    seconds = summary.seconds
    return [
        *figures,
        ("megapixels", format_number(summary.megapixels)),
        ("time", format_duration(seconds) if seconds > 90 else f"{seconds:.0f} s"),
        ("megapixels per second", format_number(summary.megapixels / max(seconds, 1e-3), 2)),
    ]


def draw_preview(image: Image) -> bytes:
    """Return an image as a JPEG for a screen, with sides of at most SIDE pixels."""
    return encode_preview(render(image, *fit_size(*image_size(image), SIDE, SIDE)))


def encode_preview(picture: PIL.Image.Image) -> bytes:
    """Return a picture as a JPEG."""
    buffer = io.BytesIO()
    # Full chroma resolution (4:4:4), because much of the removed noise is colour noise.
    picture.save(buffer, "JPEG", quality=86, subsampling=0)
    return buffer.getvalue()


def _links(event: Restored) -> dict[str, str]:
    """Return the local files to link to: the input, unless it was replaced, and the output."""
    files = {"before": event.input, "after": event.output}
    if event.input == event.output:
        del files["before"]
    return {side: name for side, name in files.items() if not isinstance(as_path(name), UrlPath)}


def _draw_previews(before: Image | None, after: Image) -> dict[str, PIL.Image.Image]:
    width, height = image_size(after)
    size = fit_size(width, height, SIDE, SIDE)
    result = render(after, *size)
    if before is None:
        return {"after": result, "thumbnail": _thumbnail(result, result)}
    original = render(before, *size)
    pictures = {"after": result, "before": original, "thumbnail": _thumbnail(original, result)}
    if size != (width, height):
        sides = min(DETAIL, width), min(DETAIL, height)
        crop = most_changed_crop(before, after, *sides)
        pictures["detail-before"] = render(before, *sides, crop)
        pictures["detail-after"] = render(after, *sides, crop)
    return pictures


def _thumbnail(before: PIL.Image.Image, after: PIL.Image.Image) -> PIL.Image.Image:
    """Return the left half of `before` and the right half of `after` as one picture."""
    resampling = PIL.Image.Resampling.BOX
    picture, left = (ImageOps.fit(image, THUMBNAIL, resampling) for image in (after, before))
    middle, height = THUMBNAIL[0] // 2, THUMBNAIL[1]
    picture.paste(left.crop((0, 0, middle, height)), (0, 0))
    if before is not after:
        ImageDraw.Draw(picture).line((middle, 0, middle, height), "#ffffff", 1)
    return picture


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]


def _data_url(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
