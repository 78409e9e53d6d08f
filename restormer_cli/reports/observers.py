"""What a run shows of its results, beside writing them: comparison sheets, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._version import __version__
from ..cli.console import SOURCES, format_bytes, printable
from ..errors import ImageError, UsageError
from ..files import paths
from ..files.discovery import PAGE_SUFFIXES, is_folder
from ..imaging import io as image_io
from ..imaging.image import Image
from . import comparison
from .display import Box
from .display import image_size as size_of
from .page import TITLES, Report, Terms, check_page, figures

if TYPE_CHECKING:
    from ..batch.events import Event, Restored, Summary
    from ..batch.jobs import Job
    from ..cli.options import Restoring
    from .page import Previews

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DEPTHS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}
_UNSAID = frozenset(["inputs", "json", "quiet", "verbose", "report"])
"""Options that a report does not repeat: they change neither results nor their place."""


@dataclass(frozen=True)
class Watch:
    """What is made of an image while it is in memory, as it was and as it is, once it is written.

    It holds nothing but paths, so that any thread or process may call it.
    """

    sheets: Mapping[str, Path]  # of each input
    parts: tuple[Box, ...] | None
    previews: Previews | None

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        """Write the sheet and the previews.

        Raises:
            ImageError: they cannot be written, or a part lies outside the image.
        """
        if event.input in self.sheets:
            panels = (
                comparison.Panel(before, "Before", event.input, about(before)),
                comparison.Panel(after, "After", event.output, about(after)),
            )
            check_parts(self.parts, before, event.input)
            sheet = comparison.draw_sheet(panels[0], panels[1:], self.parts, _how(event))
            write_sheet(sheet, self.sheets[event.input])
        if self.previews is not None:
            self.previews.write(event.output, before, after)


def about(image: Image) -> str:
    """Its size and its samples."""
    width, height = size_of(image)
    return f"{width} x {height}, {_DEPTHS[image.pixels.dtype.name]}"


def _how(event: Restored) -> str:
    source = SOURCES.get(event.weights.source, event.weights.source)
    return (
        f"restormer {event.task}, {event.weights.name} ({source}), {event.strategy}, "
        f"{event.precision} on {event.device}, {event.seconds:.1f} s"
    )


def check_parts(parts: Iterable[Box] | None, image: Image, name: str) -> None:
    """See that an image has all the parts that are asked for.

    Raises:
        ImageError: one lies outside.
    """
    width, height = size_of(image)
    for part in parts or ():
        if not part.inside(width, height):
            raise ImageError(
                f"{name}: {width} x {height} pixels have no part {','.join(map(str, part))}",
                "--crop takes x,y,width,height in pixels from the upper left corner.",
            )


def write_sheet(sheet: object, path: Path) -> None:
    """Write a sheet, whole, in the format that its name says.

    Raises:
        ImageError: it cannot be written.
    """
    image_io.make_folder(path.parent)
    image_io.write_image(Image(np.asarray(sheet)), path, quality=92)


def parse_crop(text: str) -> Box:
    """A part of an image as `--crop` takes it: x,y,width,height.

    Raises:
        UsageError: it is none.
    """
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(
            f"--crop is {text!r}", "It takes x,y,width,height in pixels, such as 100,80,200,150."
        )
    return Box(*map(int, numbers))


@dataclass(frozen=True)
class Looks:
    """What a run has been asked to show."""

    watch: Watch | None
    report: Report | None

    def add(self, event: Event) -> None:
        """Take in what happened."""
        if self.report is not None:
            self.report.add(event)

    def finish(self, summary: Summary, say: Callable[[str], None]) -> None:
        """Write the report.

        Raises:
            ImageError: it cannot be written.
        """
        if self.report is None:
            return
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        ended = "interrupted " if summary.interrupted else ""
        about = f"{ended}{when}, restormer {__version__}"
        count = self.report.write(about, figures(summary))
        say(f"report: {printable(str(self.report.path))}, {format_bytes(count)}")


def output_paths(options: Restoring) -> list[Path]:
    """The folders, or files, that a run writes to, and so takes no inputs from."""
    return [
        paths.as_path(path) for path in (options.output, options.compare) if path not in (None, "-")
    ]


def plan_observers(task: str, options: Restoring, jobs: list[Job]) -> Looks:
    """What the options ask for, with what would go wrong seen beforehand.

    Raises:
        UsageError: the report or the comparisons cannot be where they are asked for.
    """
    parts = tuple(map(parse_crop, options.crop or ())) or None
    if parts and options.compare is None:
        raise UsageError("--crop is for a comparison, and there is none", "Add --compare PATH.")
    for where in (options.report, options.compare):
        if where is not None and isinstance(paths.as_path(where), paths.UrlPath):
            raise UsageError(f"{where}: reports and comparisons are local files", "Name one.")
    compared = {} if options.compare is None else _sheets(options.compare, jobs)
    page = None
    if options.report is not None:
        path = Path(options.report)
        check_page(path)
        page = Report(path, TITLES[task], _settings(options))
    if options.dry_run or not (compared or page):
        return Looks(None, None)
    return Looks(Watch(compared, parts, page.previews if page else None), page)


def _sheets(where: str, jobs: list[Job]) -> dict[str, Path]:
    """The sheet of every job: the file that is named or, of several, one for each in a folder.

    There they lie as the outputs do in theirs, each called like its output with .png added: what
    a.jpg and a.png become stay two.
    """
    path = Path(where)
    if path.suffix.lower() in PAGE_SUFFIXES:
        raise UsageError(f"{where}: --compare makes pictures", "--report makes a page.")
    if path.suffix.lower() in SHEET_SUFFIXES and not is_folder(path):
        if len(jobs) > 1:
            raise UsageError(
                f"{where} is one file, and there are several images",
                "--compare takes a folder then; with a / at its end if it is to be called so.",
            )
        sheets = [path] * len(jobs)
    else:
        if path.resolve() in {job.source.parent.resolve() for job in jobs if job.source}:
            raise UsageError(f"{where} has the inputs in it", "Name a folder for the sheets.")
        sheets = [path / f"{place}.png" for place in _places(jobs)]
    taken = {path.resolve() for job in jobs for path in (job.source, job.target) if path}
    for sheet in sheets:
        if sheet.resolve() in taken:
            raise UsageError(f"{sheet} is an input or output, too", "Name another place.")
    return {job.names[0]: sheet for job, sheet in zip(jobs, sheets, strict=True)}


def _places(jobs: list[Job]) -> list[str]:
    """Where the outputs lie below the folder that they have in common."""
    paths = [job.target or job.source or Path("stdin") for job in jobs]
    real = [path.parent.resolve() / path.name for path in paths]
    try:
        common = os.path.commonpath([path.parent for path in real]) if real else ""
    except ValueError as error:  # on Windows
        raise UsageError(
            "the outputs lie on several drives", "Restore those of each drive by themselves."
        ) from error
    return [str(path.relative_to(common)) for path in real]


def _settings(options: Restoring) -> Terms:
    """The options that were not left as they are."""
    said = []
    for field in fields(options):
        value = getattr(options, field.name)
        default = None if field.default is MISSING else field.default
        if value != default and field.name not in _UNSAID:
            name = "--" + field.name.replace("_", "-")
            said.append((name, "on" if value is True else str(value)))
    return said
