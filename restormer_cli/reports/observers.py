"""The report and the comparison sheets of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints import weights_label
from ..errors import UsageError
from ..files import PAGE_SUFFIXES, exists, is_folder
from ..text import format_bytes, printable
from .comparison import SHEET_SUFFIXES, Panel, check_sheet, parse_crop, write_sheet
from .folder import add_output
from .page import TASK_TITLES, Report, check_folder, check_page, summary_figures, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..batch import Event, Failed, Job, RecordedOutput, Restored, Summary
    from ..callbacks import Notify
    from ..imaging import Box, Image
    from .page import Previews, Terms


@dataclass(frozen=True)
class RunObservers:
    """The optional report of a run, and the observer that writes previews and sheets."""

    watch: ImageObserver | None
    report: Report | None

    def add(self, event: Event) -> None:
        """Add an event to the report."""
        if self.report is not None:
            self.report.add(event)

    def add_output(
        self, output: RecordedOutput, source: Path | None, max_pixels: int
    ) -> Restored | Failed | None:
        """Add an image that is skipped to the report, and make its sheet if there is none.

        See `add_output`. Return None if neither was to be done.
        """
        sheet = self.watch and self.watch.sheets.get(str(source))
        missing = sheet if sheet and not exists(sheet) else None
        if self.report is None and missing is None:
            return None
        draw = partial(self.watch.write_sheet, missing) if self.watch and missing else None
        return add_output(self.report, output, source, max_pixels, draw)

    def finish(self, summary: Summary, notify: Notify) -> None:
        """Write the report.

        Raises:
            ImageError: the report cannot be written.
        """
        if self.report is not None:
            about = f"interrupted {timestamp()}" if summary.interrupted else timestamp()
            size = self.report.write(about, summary_figures(summary))
            notify(f"report: {printable(str(self.report.path))}, {format_bytes(size)}")


@dataclass(frozen=True)
class ImageObserver:
    """Observer that writes sheets and previews; any thread or process may call it."""

    sheets: Mapping[str, Path]  # by name of the input
    crops: tuple[Box, ...] | None  # None: where the image changed most
    previews: Previews | None

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        """Write the sheet and the previews.

        Raises:
            ImageError: they cannot be written, or a crop lies outside the image.
        """
        if event.input in self.sheets:
            self.write_sheet(self.sheets[event.input], event, before, after)
        if self.previews is not None:
            self.previews.write(event.output, before, after)

    def write_sheet(self, path: Path, event: Restored, before: Image, after: Image) -> None:
        """Write the sheet of an image.

        Raises:
            ImageError: it cannot be written, or a crop lies outside the image.
        """
        weights = weights_label(event.weights.name, event.weights.source)
        footer = (
            f"restormer {event.task}, {weights}, {event.strategy}, "
            f"{event.precision} on {event.device}, {event.seconds:.1f} s"
        )
        panels = Panel(before, event.input), Panel(after, event.output)
        write_sheet(path, panels, self.crops, footer)


def plan_observers(
    task: str,
    jobs: list[Job],
    *,
    report: Path | None = None,
    compare: Path | None = None,
    crops: Iterable[str] = (),
    settings: Terms | None = None,
) -> RunObservers:
    """Return the observers of a run, after checking that their files can be written.

    Args:
        task: determines the report's title.
        jobs: the images of the run.
        report: local path of the report.
        compare: local path of the sheet, or a folder for the sheets of several images.
        crops: regions to enlarge on the sheets; see `parse_crop`.
        settings: options to list in the report.

    Raises:
        UsageError: a crop is invalid, or the report or the sheets cannot be written.
    """
    boxes = tuple(map(parse_crop, crops)) or None
    if boxes and compare is None:
        raise UsageError("--crop: has no effect without --compare", "Add --compare PATH.")
    sheets = {} if compare is None else _plan_sheets(compare, jobs)
    page = None
    if report is not None:
        check_page(report)
        page = Report(report, TASK_TITLES[task], settings or [])
    watch = ImageObserver(sheets, boxes, page.previews if page else None)
    return RunObservers(watch if sheets or page else None, page)


def _plan_sheets(path: Path, jobs: list[Job]) -> dict[str, Path]:
    """Return the file of each job's sheet by the name of its input.

    `path` is the file or, for several jobs, a folder with the tree of the outputs. In the folder
    .png is appended to the name of the output, so that the sheets of a.jpg and a.png differ.
    """
    suffix = path.suffix.lower()
    if suffix in PAGE_SUFFIXES:
        raise UsageError(f"{path}: --compare writes pictures", "Use --report for a page.")
    if suffix in SHEET_SUFFIXES and not is_folder(path):
        if len(jobs) > 1:
            raise UsageError(
                f"{path}: one file, but there are several images",
                "Name a folder with --compare.",
            )
        sheets = [path] * len(jobs)
    else:
        if path.resolve() in {job.source.parent.resolve() for job in jobs if job.source}:
            raise UsageError(f"{path}: contains inputs", "Choose another folder for the sheets.")
        sheets = [path / f"{relative}.png" for relative in _relative_outputs(jobs)]
    files = {path for job in jobs for path in (job.source, job.right, job.mask, job.target) if path}
    taken = {path.resolve() for path in files}
    for sheet in sheets:
        if sheet.resolve() in taken:
            raise UsageError(f"{sheet}: also an input, a mask or an output", "Choose another path.")
        check_sheet(sheet)
    for sheet in {sheet.parent: sheet for sheet in sheets}.values():
        check_folder(sheet)
    return {job.names[0]: sheet for job, sheet in zip(jobs, sheets, strict=True)}


def _relative_outputs(jobs: list[Job]) -> list[str]:
    """Return the outputs' paths relative to the deepest folder that contains them all."""
    paths = [job.target or job.source or Path("stdin") for job in jobs]
    resolved = [path.parent.resolve() / path.name for path in paths]
    try:
        common = os.path.commonpath([path.parent for path in resolved]) if resolved else ""
    except ValueError as error:  # on Windows
        raise UsageError(
            "the outputs are on several drives", "Restore the images of each drive separately."
        ) from error
    return [str(path.relative_to(common)) for path in resolved]
