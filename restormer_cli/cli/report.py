"""The commands that show results: `restormer compare` and `restormer report`."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..batch import Event, Failed, Restored, Summary
from ..errors import ImageError, UsageError
from ..text import format_bytes, printable
from .console import Console
from .options import Crops, MaxPixels, Quiet, Restoring

if TYPE_CHECKING:
    from ..batch import RecordedOutput
    from ..reports import Report


def compare(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="What the others came of.")],
    after: Annotated[list[Path], typer.Argument(metavar="AFTER", help="Images of the same scene.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A picture (.png, .jpg, .webp), or a page with a slider (.html).",
        ),
    ],
    crop: Crops = None,
    max_pixels: MaxPixels = 300_000_000,
    quiet: Quiet = False,
) -> None:
    """Show images side by side, parts of them enlarged, and where they differ.

    An image of another size is scaled to that of BEFORE; one of another shape is refused.
    """
    console: Console = context.obj
    console.configure(quiet=quiet)
    from ..reports import (
        SHEET_SUFFIXES,
        check_comparison,
        parse_crop,
        read_panels,
        write_comparison,
    )

    parts = [parse_crop(text) for text in crop or ()] or None
    check_comparison(output, [before, *after])
    if parts and output.suffix.lower() not in SHEET_SUFFIXES:
        raise UsageError("--crop is for a picture, and -o names a page", "Leave out one of them.")
    write_comparison(read_panels(before, after, max_pixels), output, parts)
    console.say(f"{printable(str(output))}: {format_bytes(output.stat().st_size)}")


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of restored images.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The page. Left out: FOLDER-report.html beside."
        ),
    ] = None,
    max_pixels: MaxPixels = 300_000_000,
    quiet: Quiet = False,
) -> None:
    """Make a page of what was restored into a folder: before and after, and how it was done.

    What the folder's record (.restormer.jsonl) tells is shown, also of the folders below. An input
    is shown beside its output if it is still where it was, and as it was.
    """
    console: Console = context.obj
    console.configure(quiet=quiet)
    from ..batch import Manifests, recorded_outputs
    from ..reports import Report, check_page

    past = Manifests()
    outputs = recorded_outputs(folder, past)
    for note in past.notes:
        console.warn(note)
    path = output or Path(f"{folder.absolute()}-report.html")
    check_page(path)
    page = Report(path, _title(outputs), [])
    events = []
    with console.progress(len(outputs)):
        for number, one in enumerate(outputs):
            event = _shown(one, page, max_pixels)
            if isinstance(event, Failed):
                console.show(event)
            events.append(event)
            console.advance(number + 1, printable(str(one.path)))
    count = page.write(_about(folder, outputs), _figures(events))
    console.say(f"{printable(str(path))}: {format_bytes(count)}")
    if any(isinstance(event, Failed) for event in events):
        raise typer.Exit(1)


def _shown(output: "RecordedOutput", page: "Report", max_pixels: int) -> Event:
    """Take an output into the page; return what it is told as."""
    try:
        event = output.event()
        source = output.input()
        before, after, odd = output.read(source, max_pixels)
        event.warnings.extend(odd)
        page.previews.write(event.output, before, after)
    except ImageError as error:
        name = str(output.path)
        failed = Failed(name, name, None, error.message.removeprefix(f"{name}: "), error.hint)
        page.add(failed)
        return failed
    links = {"before": str(source)} if source else {}
    page.add(event, {**links, "after": event.output})
    for name, value in output.line["recipe"].get("options", {}).items():
        if value != _DEFAULTS.get(name):
            page.uses("--" + name.replace("_", "-"), str(value))
    return event


_DEFAULTS = {field.name: field.default for field in fields(Restoring)}


def _title(outputs: list["RecordedOutput"]) -> str:
    from ..reports import TASK_TITLES

    tasks = {output.line["recipe"].get("task") for output in outputs}
    return TASK_TITLES.get(tasks.pop(), "Restored") if len(tasks) == 1 else "Restored"


def _about(folder: Path, outputs: list["RecordedOutput"]) -> str:
    times = sorted(str(output.line.get("time", ""))[:16].replace("T", " ") for output in outputs)
    period = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    return f"{folder}, restored {period} UTC"


def _figures(events: list[Event]) -> list[tuple[str, str] | tuple[str, str, str]]:
    from ..reports import summary_figures

    restored = [event for event in events if isinstance(event, Restored)]
    return summary_figures(
        Summary(
            task="",
            restored=len(restored),
            skipped=0,
            failed=len(events) - len(restored),
            megapixels=round(sum(event.pixels for event in restored) / 1e6, 3),
            seconds=sum(event.seconds for event in restored),
            interrupted=False,
        )
    )
