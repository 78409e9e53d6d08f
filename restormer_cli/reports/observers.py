"""What a run shows of its results, beside writing them: comparison sheets, and a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..callbacks import Notify
from ..checkpoints import weights_label
from ..errors import UsageError
from ..files import PAGE_SUFFIXES, UrlPath, as_path, is_folder
from ..imaging import Box, Image
from ..text import format_bytes, printable
from . import comparison
from .comparison import SHEET_SUFFIXES, check_parts, describe_image, parse_crop, write_sheet
from .page import TASK_TITLES, Report, Terms, check_page, summary_figures

if TYPE_CHECKING:
    from ..batch import Event, Job, Restored, Summary
    from .page import Previews


@dataclass(frozen=True)
class ImageObserver:
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
                comparison.Panel(before, "Before", event.input, describe_image(before)),
                comparison.Panel(after, "After", event.output, describe_image(after)),
            )
            check_parts(self.parts, before, event.input)
            sheet = comparison.draw_sheet(panels[0], panels[1:], self.parts, _how(event))
            write_sheet(sheet, self.sheets[event.input])
        if self.previews is not None:
            self.previews.write(event.output, before, after)


def _how(event: Restored) -> str:
    weights = weights_label(event.weights.name, event.weights.source)
    return (
        f"restormer {event.task}, {weights}, {event.strategy}, {event.precision} on {event.device}, "
        f"{event.seconds:.1f} s"
    )


@dataclass(frozen=True)
class RunObservers:
    """What a run has been asked to show."""

    watch: ImageObserver | None
    report: Report | None

    def add(self, event: Event) -> None:
        """Take in what happened."""
        if self.report is not None:
            self.report.add(event)

    def finish(self, summary: Summary, say: Notify) -> None:
        """Write the report.

        Raises:
            ImageError: it cannot be written.
        """
        if self.report is None:
            return
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        ended = "interrupted " if summary.interrupted else ""
        about = f"{ended}{when}, restormer {__version__}"
        count = self.report.write(about, summary_figures(summary))
        say(f"report: {printable(str(self.report.path))}, {format_bytes(count)}")


def plan_observers(
    task: str,
    jobs: list[Job],
    *,
    report: str | None = None,
    compare: str | None = None,
    crops: Iterable[str] = (),
    settings: Terms | None = None,
) -> RunObservers:
    """Check beforehand that the report and the comparisons can be written.

    Args:
        task: names the report.
        jobs: the images of the run.
        report: path of the page; None: no report.
        compare: path of the comparison sheet, or the folder for several; None: none.
        crops: parts to enlarge in the comparisons, as `parse_crop` takes them.
        settings: options to repeat in the report.

    Raises:
        UsageError: the report or the comparisons cannot be where they are asked for.
    """
    parts = tuple(map(parse_crop, crops)) or None
    if parts and compare is None:
        raise UsageError("--crop is for a comparison, and there is none", "Add --compare PATH.")
    for where in (report, compare):
        if where is not None and isinstance(as_path(where), UrlPath):
            raise UsageError(f"{where}: reports and comparisons are local files", "Name one.")
    compared = {} if compare is None else _sheets(compare, jobs)
    shown = None
    if report is not None:
        path = Path(report)
        check_page(path)
        shown = Report(path, TASK_TITLES[task], settings or [])
    if not (compared or shown):
        return RunObservers(None, None)
    return RunObservers(ImageObserver(compared, parts, shown.previews if shown else None), shown)


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
