"""The commands for a browser: `compare` and `report` present results, `serve` a whole page."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import batch, files, reports, server
from ..batch import Failed
from ..errors import UsageError
from ..imaging import MAX_PIXELS
from ..text import format_bytes, printable
from .console import Console
from .options import SERVER, Crops, MaxPixels, NetworkOptions, Option, Quiet, RestoreOptions


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


@dataclass(frozen=True, kw_only=True)
class ServeOptions(NetworkOptions):
    """Options of `serve`."""

    host: Annotated[
        str,
        Option(
            SERVER,
            "Address to listen on. Other machines can reach all but the default, and need --token.",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Option(SERVER, "Port to listen on. 0: any free one.", min=0, max=65535, metavar="N"),
    ] = 8000
    allow_host: Annotated[
        list[str] | None,
        Option(
            SERVER,
            "Further name of the server, such as that of a proxy with TLS; repeatable. Needs "
            "--token. Default: none.",
            metavar="NAME[:PORT]",
        ),
    ] = None
    token: Annotated[
        str | None,
        Option(
            SERVER,
            "Secret that requests must send (Authorization: Bearer SECRET). Default: none.",
            metavar="SECRET",
        ),
    ] = None
    max_pixels: MaxPixels = 100_000_000
    max_body: Annotated[
        int,
        Option(SERVER, "Reject files of more than N megabytes.", min=1, metavar="N"),
    ] = 256
    queue: Annotated[
        int,
        Option(
            SERVER,
            "Number of images that may wait; more get the status 429.",
            min=0,
            max=1000,
            metavar="N",
        ),
    ] = 8
    timeout: Annotated[
        float,
        Option(
            SERVER,
            "Seconds after which clients that neither send nor take data are dropped.",
            min=0.1,
            metavar="SECONDS",
        ),
    ] = 30.0
    keep: Annotated[
        Path | None,
        Option(SERVER, "Also write every result to this folder. Default: none.", metavar="FOLDER"),
    ] = None
    no_browser: Annotated[bool, Option(SERVER, "Do not open the page in a browser.")] = False


def serve(console: Console, options: ServeOptions) -> None:
    """Serve a page that restores photos dropped on it, and the same as an HTTP API.

    Photos stay on this machine, and nothing is kept unless --keep is given. Ctrl-C finishes the
    image that is being restored, and ends the server.

    Examples:
        restormer serve                       # open the page in a browser
        restormer serve --keep restored/      # also write all results to a folder
        restormer serve --port 0 --no-browser # an HTTP API on any free port
    """
    config = server.ServerConfig(
        restorer=options.restorer_config("denoise"),
        host=options.host,
        port=options.port,
        allow_hosts=tuple(options.allow_host or ()),
        token=options.token,
        max_pixels=options.max_pixels,
        max_bytes=options.max_body * 1_000_000,
        queue=options.queue,
        timeout=options.timeout,
        keep=options.keep,
    )
    server.serve(config, console, partial(_announce_page, console, options))


def _announce_page(console: Console, options: ServeOptions, address: str) -> None:
    """Show the address of the page, and open it if there are a person and a graphical browser."""
    console.say(f"Serving on {address} until Ctrl-C")
    has_screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ
    has_screen = has_screen or "WAYLAND_DISPLAY" in os.environ
    if not options.no_browser and has_screen and sys.stderr.isatty():
        webbrowser.open(address)  # without the token: others see the arguments of the browser


def _say_written(console: Console, path: Path) -> None:
    console.say(f"{printable(str(path))}: {format_bytes(path.stat().st_size)}")
