"""The commands `compare` and `report`, which present results."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from .. import batch, files, reports
from ..batch import Failed
from ..errors import UsageError
from ..imaging import MAX_PIXELS
from ..text import format_bytes, printable
from .console import Console
from .options import Crops, MaxPixels, Quiet, RestoreOptions


def compare(
    console: Console,
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="Image that the others were made from.")
    ],
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
    max_pixels: MaxPixels = MAX_PIXELS,
    quiet: Quiet = False,
) -> None:
    """Compare images side by side, with enlarged parts and their differences.

    Images are scaled to the size of BEFORE, and must have its aspect ratio.

    Examples:
        restormer compare in.jpg out.jpg -o sheet.png                 # a picture
        restormer compare in.jpg a.png b.png -o page.html             # two results
        restormer compare in.jpg out.jpg -o s.png --crop 0,0,200,150  # a part
    """
    crops = [reports.parse_crop(text) for text in crop or ()] or None
    reports.check_comparison(output, [before, *after])
    if crops and output.suffix.lower() not in reports.SHEET_SUFFIXES:
        raise UsageError("--crop needs a picture, and -o names a page", "Leave out one of them.")
    reports.write_comparison(reports.read_panels(before, after, max_pixels), output, crops)
    _say_written(console, output)


def report(
    console: Console,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of restored images.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File of the page. Default: FOLDER-report.html beside the folder.",
        ),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    quiet: Quiet = False,
) -> None:
    """Make a page of the restored images in a folder, before and after, and their settings.

    The page shows the outputs listed in the manifests (.restormer.jsonl) of the folder and its
    subfolders. Inputs are shown if they are still in place and unchanged.

    Examples:
        restormer report photos-restored      # write photos-restored-report.html
        restormer report clean -o clean.html  # write this file
    """
    manifests = batch.Manifests()
    outputs = batch.recorded_outputs(folder, manifests)
    for note in manifests.notes:
        console.warn(note)
    path = output or files.beside(folder, "-report.html")
    defaults = {field.name: field.default for field in fields(RestoreOptions)}
    events = reports.report_folder(folder, outputs, path, max_pixels=max_pixels, defaults=defaults)
    failed = False
    with console.progress(len(outputs)):
        for number, event in enumerate(events, 1):
            if isinstance(event, Failed):
                failed = True
                console.show(event)
            console.advance(number, printable(str(outputs[number - 1].path)))
    _say_written(console, path)
    if failed:
        raise typer.Exit(1)


def _say_written(console: Console, path: Path) -> None:
    console.say(f"{printable(str(path))}: {format_bytes(path.stat().st_size)}")
