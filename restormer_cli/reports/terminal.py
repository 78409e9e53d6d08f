"""Preview results in the terminal on stderr, before and after side by side (`--preview`)."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image

from ..batch import Restored
from ..extras import require_installed
from ..imaging import Box, Image, write_image
from .display import image_size, most_changed_crop, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from ..batch import Event

GAP = 0.02  # between before and after, as a fraction of the picture's width
HALF_BLOCK = "\u2580"  # the block character that draws two pixels
BLOCK_SCALE = 2  # image pixels per pixel drawn by block characters, in each direction


class Screen(Protocol):
    """The console that shows previews and notes."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def draw(self, picture: RenderableType, caption: str) -> None:
        """Show a picture below its caption."""


@dataclass(frozen=True)
class PreviewWriter:
    """Observer that writes before and after as one picture; any thread or process may call it."""

    folder: Path
    width: int  # maximum, in pixels of the picture
    height: int
    scale: int = 1  # image pixels per pixel of the picture, in each direction

    @property
    def gap(self) -> int:
        """Pixels between before and after."""
        return round(self.width * GAP)

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        """Draw the whole image if it fits, otherwise the region around the most changed square.

        Raises:
            ImageError: the picture cannot be written.
        """
        total_width, total_height = image_size(after)
        width = min((self.width - self.gap) // 2 * self.scale, total_width)
        height = min(self.height * self.scale, total_height)
        side = min(width, height)
        square = most_changed_crop(before, after, side, side)
        x = min(max(0, square.x - (width - side) // 2), total_width - width)
        y = min(max(0, square.y - (height - side) // 2), total_height - height)
        size = -(-width // self.scale), -(-height // self.scale)
        picture = PIL.Image.new("RGB", (2 * size[0] + self.gap, size[1]))
        for left, image in ((0, before), (size[0] + self.gap, after)):
            picture.paste(render(image, *size, Box(x, y, width, height)), (left, 0))
        write_image(Image(np.asarray(picture)), self.path(event), quality=100)

    def path(self, event: Restored) -> Path:
        """Return the file of the picture for this output."""
        return self.folder / f"{hashlib.sha256(os.fsencode(event.output)).hexdigest()}.png"


@dataclass(frozen=True)
class Preview:
    """Shows previews on a screen as images are restored."""

    console: Screen
    watch: PreviewWriter | None = None  # None: show nothing
    renderable: Any = None  # class of textual-image that draws a picture
    graphics: bool = False  # whether it draws pixels rather than block characters

    def add(self, event: Event) -> None:
        """Show the picture of a restored image; ignore other events."""
        if self.watch is None or not isinstance(event, Restored):
            return
        path = self.watch.path(event)
        with PIL.Image.open(path) as picture:
            width, height = picture.size
        crop = (width - self.watch.gap) // 2 * self.watch.scale, height * self.watch.scale
        caption = "before | after"
        if crop[0] < event.width or crop[1] < event.height:
            caption += f": most changed region, {crop[0]} x {crop[1]} pixels"
        # A block character shows two pixels, one above the other.
        cells = (None, None) if self.graphics else (width, -(-height // 2))
        with _streams_on_terminal():
            self.console.draw(self.renderable(path, *cells), caption)
        path.unlink()


def stderr_is_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr.isatty()


def _obstacle() -> str | None:
    """Return why pictures cannot be shown on stderr, or None."""
    if not stderr_is_terminal():
        return "stderr is not a terminal"
    try:
        HALF_BLOCK.encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        return f"{sys.stderr.encoding} has no block characters"
    with _streams_on_terminal():
        if sys.__stdin__ is None or not sys.__stdin__.isatty():
            return "there is no terminal to query"
        if 0 in os.get_terminal_size(sys.stderr.fileno()):
            return "the size of the terminal is unknown"
        with suppress(OSError):  # without a controlling terminal there is no background
            if sys.platform != "win32" and os.tcgetpgrp(sys.__stdin__.fileno()) != os.getpgrp():
                return "the program runs in the background"  # a query would stop it
    return None


@contextmanager
def open_preview(console: Screen, wanted: bool) -> Iterator[Preview]:
    """Yield a preview, which is empty unless it is `wanted` and the terminal can show pictures.

    Raises:
        UsageError: textual-image is not installed.
    """
    if wanted and stderr_is_terminal():
        require_installed("textual_image", "preview", "--preview")
    obstacle = _obstacle() if wanted else None
    if obstacle is not None:
        console.say(f"note: --preview has no effect: {obstacle}")
    if not wanted or obstacle is not None:
        yield Preview(console)
        return
    # The library logs unanswered queries with tracebacks, and then assumes the usual size.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    with _streams_on_terminal():
        from textual_image import renderable  # the import queries the terminal

        graphics = renderable.Image in (renderable.SixelImage, renderable.TGPImage)
        kind: Any = renderable.Image if graphics else renderable.HalfcellImage
        column = _column_width(kind) if graphics else 1
        columns, lines = shutil.get_terminal_size()
    # At most half of the lines; a line is twice as high as a column is wide.
    width, height = (columns - 1) * column, max(1, lines // 2) * 2 * column
    with TemporaryDirectory(prefix="restormer-preview-") as folder:
        scale = 1 if graphics else BLOCK_SCALE
        yield Preview(console, PreviewWriter(Path(folder), width, height, scale), kind, graphics)


def _column_width(kind: Any) -> int:
    """Return the width of a terminal column in pixels of a picture."""
    from rich.console import Console as Terminal

    picture = PIL.Image.new("RGB", (1000, 1))
    terminal = Terminal(stderr=True)
    columns: int = kind(picture).__rich_measure__(terminal, terminal.options).maximum
    return max(1, picture.width // columns)


@contextmanager
def _streams_on_terminal() -> Iterator[None]:
    """Redirect the standard streams to the terminal on stderr.

    textual-image uses `sys.__stdin__` and `sys.__stdout__`, which may be pipes with images.
    """
    with ExitStack() as stack:
        streams = {"__stdout__": sys.stderr, "__stdin__": sys.__stdin__}
        with suppress(OSError):  # there is no controlling terminal
            streams["__stdin__"] = stack.enter_context(Path("/dev/tty").open())
        for name, stream in streams.items():
            stack.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, stream)
        yield
