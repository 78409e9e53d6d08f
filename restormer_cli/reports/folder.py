"""Write the report page of a finished folder from the manifests in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..batch import Failed, Restored, Tally
from ..errors import ImageError
from .page import TASK_TITLES, Report, check_page, summary_figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..batch import RecordedOutput


def report_folder(
    folder: Path,
    outputs: Sequence[RecordedOutput],
    path: Path,
    *,
    max_pixels: int,
    defaults: Mapping[str, object],
) -> Iterator[Restored | Failed]:
    """Write a page about the outputs of a folder, and yield an event for each of them.

    The page is complete once the iterator is exhausted.

    Args:
        folder: named on the page.
        outputs: at least one, as `recorded_outputs` returns them.
        path: file of the page.
        max_pixels: largest image to read.
        defaults: values by option; the page lists only options with other values.

    Raises:
        UsageError: nothing can be written at `path`, or another file is there.
        ImageError: the page cannot be written.
    """
    check_page(path)
    report = Report(path, _title(outputs), [])
    tally, seconds = Tally(""), 0.0
    for output in outputs:
        event = _add_output(report, output, max_pixels, defaults)
        tally.add(event)
        seconds += event.seconds if isinstance(event, Restored) else 0
        yield event
    summary = replace(tally.summary(interrupted=False), seconds=seconds)
    report.write(f"{folder}, restored {_period(outputs)} UTC", summary_figures(summary))


def _add_output(
    report: Report, output: RecordedOutput, max_pixels: int, defaults: Mapping[str, object]
) -> Restored | Failed:
    """Add an output to the report; return the event of its run, or the failure to show it."""
    try:
        event = output.event()
        source = output.input()
        before, after, warnings = output.read(source, max_pixels)
        event.warnings.extend(warnings)
        report.previews.write(event.output, before, after)
    except ImageError as error:
        name = str(output.path)
        failed = Failed(name, name, None, error.message.removeprefix(f"{name}: "), error.hint)
        report.add(failed)
        return failed
    links = {"before": str(source)} if source else {}
    report.add(event, {**links, "after": event.output})
    for name, value in output.entry["recipe"].get("options", {}).items():
        if value != defaults.get(name):
            report.uses("--" + name.replace("_", "-"), str(value))
    return event


def _title(outputs: Sequence[RecordedOutput]) -> str:
    tasks = {output.entry["recipe"].get("task") for output in outputs}
    return TASK_TITLES.get(tasks.pop(), "Restored") if len(tasks) == 1 else "Restored"


def _period(outputs: Sequence[RecordedOutput]) -> str:
    times = sorted(str(output.entry.get("time", ""))[:16].replace("T", " ") for output in outputs)
    return times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
