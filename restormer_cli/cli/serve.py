"""The command `serve`."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from .. import server
from ..server import ServerConfig
from .console import Console
from .options import SERVER, MaxPixels, NetworkOptions, Option


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
    ] = ServerConfig.host
    port: Annotated[
        int,
        Option(SERVER, "Port to listen on. 0: any free one.", min=0, max=65535, metavar="N"),
    ] = ServerConfig.port
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
    max_pixels: MaxPixels = ServerConfig.max_pixels
    max_body: Annotated[
        int,
        Option(SERVER, "Reject files of more than N megabytes.", min=1, metavar="N"),
    ] = ServerConfig.max_bytes // 1_000_000
    queue: Annotated[
        int,
        Option(
            SERVER,
            "Number of images that may wait; more get the status 429.",
            min=0,
            max=1000,
            metavar="N",
        ),
    ] = ServerConfig.queue
    timeout: Annotated[
        float,
        Option(
            SERVER,
            "Seconds after which clients that neither send nor take data are dropped.",
            min=0.1,
            metavar="SECONDS",
        ),
    ] = ServerConfig.timeout
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
    config = ServerConfig(
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
