"""Write the report page of a restored folder from its manifests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..batch import Failed, Restored, Tally
from ..errors import ImageError
from .page import TASK_TITLES, Report, check_page, summary_figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..batch import Observer, RecordedOutput


def report_folder(
    folder: Path,
    outputs: Sequence[RecordedOutput],
    path: Path,
    *,
    max_pixels: int,
    defaults: Mapping[str, object],
) -> Iterator[Restored | Failed]:
    """Write a page about the outputs of a folder, and yield an event for each output.

    The page is complete once the iterator is exhausted.

    Args:
        folder: name of the folder on the page.
        outputs: at least one, as `recorded_outputs` returns them.
        path: file of the page.
        max_pixels: maximum number of pixels of an image.
        defaults: default values by option; the page lists only options with other values.

    Raises:
        UsageError: a page cannot be written to `path`, or another file exists there.
        ImageError: the page cannot be written.
    """
    check_page(path)
    tasks = {output.entry["recipe"].get("task") for output in outputs}
    title = TASK_TITLES.get(tasks.pop(), "Restored") if len(tasks) == 1 else "Restored"
    report = Report(path, title, [])
    tally, seconds = Tally(""), 0.0
    for output in outputs:
        event = add_output(report, output, output.input(), max_pixels)
        tally.add(event)
        if isinstance(event, Restored):
            seconds += event.seconds
            for name, value in output.entry["recipe"].get("options", {}).items():
                if value != defaults.get(name):
                    report.uses("--" + name.replace("_", "-"), str(value))
        else:
            report.add(event)
        yield event
    summary = replace(tally.summary(interrupted=False), seconds=seconds)
    times = sorted(str(output.entry.get("time", ""))[:16].replace("T", " ") for output in outputs)
    period = " to ".join(dict.fromkeys((times[0], times[-1])))
    report.write(f"{folder}, restored {period} UTC", summary_figures(summary))


def add_output(
    report: Report | None,
    output: RecordedOutput,
    source: Path | None,
    max_pixels: int,
    observer: Observer | None = None,
) -> Restored | Failed:
    """Add an output to the report, and return the event of its restoration.

    Return Failed, which is not added, for an output that cannot be shown, or if the observer fails.

    Args:
        report: the report, if there is one.
        output: the output.
        source: its input; None if that is missing or has changed.
        max_pixels: maximum number of pixels of an image.
        observer: called with the event and both images, if the input can be shown.
    """
    try:
        event = output.event()
        before, after, warnings = output.read(source, max_pixels)
        event.warnings.extend(warnings)
        if report is not None:
            links = {"before": str(source)} if source else {}
            report.previews.write(event.output, before, after)
            report.add(event, {**links, "after": event.output})
        if observer is not None and before is not None:
            observer(event, before, after)
    except ImageError as error:
        name = str(output.path)
        return Failed(name, name, None, error.message.removeprefix(f"{name}: "), error.hint)
    return event
