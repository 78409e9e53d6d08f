"""Before and after, side by side, in the terminal that stderr is: `--preview`."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from ..batch import Restored
from ..errors import UsageError
from ..imaging import Array, Image, from_float, read_image, to_float, write_image

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..batch import Event

GAP = 0.02
"""Of the width: between the two."""

BLOCKS = 2
"""Where pixels are blocks of characters, they are few: each is the mean of four of the image's."""

CELL = 8
"""Places at which a part is looked for are so many pixels apart."""


class Screen(Protocol):
    """Where pictures and notes are shown."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def draw(self, picture: RenderableType, caption: str) -> None:
        """Show a picture."""


@dataclass(frozen=True)
class Watch:
    """Puts before and after into one picture in a folder; any thread or process may call it.

    Attributes:
        folder: where the pictures go.
        width: of a picture, at most, in its pixels.
        height: likewise.
        scale: how many pixels of an image, across and down, become one of a picture.
    """

    folder: Path
    width: int
    height: int
    scale: int = 1

    @property
    def gap(self) -> int:
        """How far before and after are apart."""
        return round(self.width * GAP)

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        """Draw what `event` tells of: where most has changed, or all of an image that has room."""
        a, b = (to_float(one.pixels) for one in (before, after))
        height, width = (n * self.scale for n in (self.height, (self.width - self.gap) // 2))
        top, left = busiest(a, b, width, height)
        part = np.s_[top : top + height, left : left + width]
        a, b = (_shrunk(one[part], self.scale) for one in (a, b))
        gap = np.zeros((a.shape[0], self.gap, 3), np.float32)
        a, b = (np.broadcast_to(one, (*one.shape[:2], 3)) for one in (a, b))
        picture = from_float(np.hstack([a, gap, b]), np.uint8)
        write_image(Image(picture), self.path(event), quality=100)

    def path(self, event: Restored) -> Path:
        """The picture of an output."""
        return self.folder / f"{hashlib.sha256(os.fsencode(event.output)).hexdigest()}.png"


def _shrunk(image: Array, scale: int) -> Array:
    """H W C with `scale` pixels, each way, for each that is left: their mean."""
    height, width, channels = image.shape
    size = (-(-width // scale), -(-height // scale))
    small: Array = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small.reshape(size[1], size[0], channels)


def busiest(before: Array, after: Array, width: int, height: int) -> tuple[int, int]:
    """Top and left of the part of this size in which most has changed, to within a cell."""
    total_height, total_width = before.shape[:2]
    lefts, rows = np.arange(0, total_width, CELL), []
    for top in range(0, total_height, CELL):  # of two large images there is to be no third
        change = np.abs(after[top : top + CELL] - before[top : top + CELL]).sum((0, 2))
        rows.append(np.add.reduceat(change, lefts))
    sums = np.pad(np.cumsum(np.cumsum(rows, 0, np.float64), 1), ((1, 0), (1, 0)))
    tall, wide = (
        max(1, min(side // CELL, cells))
        for side, cells in ((height, len(rows)), (width, len(lefts)))
    )
    parts = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    row, column = (int(index) for index in np.unravel_index(parts.argmax(), parts.shape))
    return (
        max(0, min(row * CELL, total_height - height)),
        max(0, min(column * CELL, total_width - width)),
    )


class Preview:
    """What `--preview` does: `watch` makes pictures of images, `add` shows them as events come.

    Args:
        console: draws them.
        kind: the library's way of drawing one.
        graphics: whether it draws pixels, and not blocks of characters.
        watch: makes them; None: there is nothing to draw on.
    """

    def __init__(
        self,
        console: Screen,
        kind: Any = None,
        graphics: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.console, self.kind, self.graphics, self.watch = console, kind, graphics, watch

    def add(self, event: Event) -> None:
        """Show the picture of an image that is restored."""
        if self.watch is None or not isinstance(event, Restored):
            return
        path = self.watch.path(event)
        height, width = read_image(path).pixels.shape[:2]
        part = [(width - self.watch.gap) // 2 * self.watch.scale, height * self.watch.scale]
        caption = "before | after"
        if part[0] < event.width or part[1] < event.height:
            caption += f": where most changed, {part[0]} x {part[1]} pixels"
        # A block shows two pixels, one above the other.
        cells = (None, None) if self.graphics else (width, -(-height // 2))
        with on_terminal():
            self.console.draw(self.kind(path, *cells), caption)
        path.unlink()


def on_a_terminal() -> bool:
    """Whether stderr is one."""
    return sys.stderr.isatty()


@contextmanager
def open_preview(console: Screen, wanted: bool) -> Iterator[Preview]:
    """What shows before and after, if it is `wanted` and stderr is a terminal.

    Raises:
        UsageError: the library for it is not installed.
    """
    if wanted and not on_a_terminal():
        console.say("note: --preview shows nothing: stderr is no terminal")
    if not wanted or not on_a_terminal():
        yield Preview(console)
        return
    with on_terminal():
        try:
            from textual_image import renderable  # which asks the terminal what it can do
        except ImportError as error:
            raise UsageError(
                "--preview needs the package textual-image",
                "Install it: pip install 'restormer-cli[preview]'",
            ) from error
        graphics = renderable.Image in (renderable.SixelImage, renderable.TGPImage)
        kind: Any = renderable.Image if graphics else renderable.HalfcellImage
        column = _column(kind) if graphics else 1
        columns, lines = shutil.get_terminal_size()
    # At most half of the lines, which are twice as high as a column is wide.
    width, height = (columns - 1) * column, max(1, lines // 2) * 2 * column
    with TemporaryDirectory(prefix="restormer-preview-") as folder:
        watch = Watch(Path(folder), width, height, scale=1 if graphics else BLOCKS)
        yield Preview(console, kind, graphics, watch)


def _column(kind: Any) -> int:
    """How many pixels of a picture are as wide as a column of the terminal."""
    from rich.console import Console as Terminal

    picture, width = io.BytesIO(), 1000
    write_image(Image(np.zeros((1, width, 3), np.uint8)), picture, format="png")
    picture.seek(0)
    terminal = Terminal(stderr=True)
    columns: int = kind(picture).__rich_measure__(terminal, terminal.options).maximum
    return max(1, width // columns)


@contextmanager
def on_terminal() -> Iterator[None]:
    """Let the library speak to the terminal: stdout and stdin may be pipes that carry images.

    It asks and draws by way of the process's own streams. In this context they are the terminal
    that stderr is, so that nothing of it can reach stdout.
    """
    with ExitStack() as stack:
        streams = {"__stdout__": sys.stderr, "__stdin__": sys.__stdin__}
        with suppress(OSError):  # there is no such thing, or it controls no session
            streams["__stdin__"] = stack.enter_context(Path("/dev/tty").open())
        before = {name: getattr(sys, name) for name in streams}
        try:
            for name, stream in streams.items():
                setattr(sys, name, stream)
            yield
        finally:
            for name, stream in before.items():
                setattr(sys, name, stream)
