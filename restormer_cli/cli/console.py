"""Messages and progress on stderr, results and JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from ..batch import Event, Failed, ImageProgress, Planned, Restored, Skipped, Started, Summary
from ..checkpoints import weights_label
from ..errors import DiskFullError, RestormerError, UsageError
from ..text import format_bytes, format_duration, format_megapixels, format_number, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import Progress

PROGRESS_INTERVAL = 30.0
"""Seconds between progress lines when stderr is not a terminal."""


@dataclass
class Console:
    """Writer of everything on stdout and stderr except image bytes.

    Attributes:
        json: write events and results to stdout as JSON, one object per line.
        quiet: show only warnings and errors.
        verbose: show details.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    _warned: set[str] = field(default_factory=set)  # of the whole run
    _bar: Progress | None = None
    _pace: Pace | None = None

    def configure(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        """Apply --json, --quiet and --verbose.

        Raises:
            UsageError: both `quiet` and `verbose` are set.
        """
        self.json, self.quiet, self.verbose = json, quiet, verbose
        if quiet and verbose:
            raise UsageError("--quiet and --verbose do not go together", "Leave out one of them.")

    def result(self, text: str | bytes) -> None:
        """Print a result to stdout: text for people, or bytes for other programs, unchanged."""
        typer.echo(text if isinstance(text, bytes) else printable(text, lines=True))

    def render(self, renderable: RenderableType) -> None:
        """Print a rich renderable to stdout."""
        from rich.console import Console as Terminal

        Terminal().print(renderable)

    def object(self, value: dict[str, Any] | list[Any]) -> None:
        """Print a value to stdout as one line of JSON."""
        typer.echo(json.dumps(value, default=str))  # paths are written as text

    def say(self, text: str) -> None:
        """Show a message unless --quiet is set."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """Show a message if --verbose is set."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """Show a warning; it is not repeated for every image that has it, too."""
        self._warned.add(text)
        self._line(f"warning: {text}")

    def error(self, error: RestormerError) -> None:
        """Show the error that ended a command, also as an event if --json is set."""
        full = isinstance(error, DiskFullError)
        self.show(Failed(None, None, None, error.message, error.hint, disk_full=full))

    def draw(self, picture: RenderableType, caption: str) -> None:
        """Show a picture on stderr, pausing the progress bar."""
        from rich.console import Console as Terminal

        if self._bar is not None:
            self._bar.stop()
        terminal = Terminal(stderr=True)
        terminal.print(caption, style="dim", markup=False, highlight=False, emoji=False)
        terminal.print(picture)
        if self._bar is not None:
            self._bar.start()

    def show(self, event: Event) -> None:
        """Show an event as text, and also as JSON if --json is set."""
        if self.json:
            self.object(event.as_dict())
        match event:
            case Planned(width=int()):  # only a dry run knows the size
                self.say(_planned(event))
            case Started():
                self.detail(f"{printable(event.input)}: started")
            case Restored():
                self.say(_restored(event))
                if event.noise is not None:
                    self.detail(f"{printable(event.input)}: {event.noise.words}")
                for note in event.notes:
                    self.say(f"note: {printable(event.input)}: {printable(note)}")
                for warning in event.warnings:
                    if warning not in self._warned:
                        self._line(f"warning: {printable(event.input)}: {printable(warning)}")
            case Skipped():
                self.say(f"{printable(event.input)}: skipped, {event.reason}")
            case Failed():
                name = "" if event.input is None else f"{printable(event.input)}: "
                self._line(f"error: {name}{printable(event.error, lines=event.input is None)}")
                if event.hint:
                    self._line(f"hint: {printable(event.hint)}")
            case Summary():
                if event.restored + event.skipped + event.failed > 1:
                    self.say(_summary(event))
        if self._pace is not None and isinstance(event, (Restored, Failed, Skipped)):
            self._pace.add(event.pixels if isinstance(event, Restored) else 0)
            self._move(speed=self._pace.speed)
            if 0 < self._pace.finished < self._pace.images:
                self._log(self._pace.line())

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show progress within the context: a bar on a terminal, lines elsewhere."""
        self._pace = Pace(total)
        has_bar = not self.quiet and sys.stderr.isatty()
        try:
            with _progress_bar() if has_bar else nullcontext() as self._bar:
                if self._bar is not None:
                    self._bar.add_task("", total=total, steps="", speed="")
                yield
        finally:
            self._bar = self._pace = None

    def show_progress(self, progress: ImageProgress) -> None:
        """Move the bar to a fraction of an image."""
        self._move(
            completed=progress.number + progress.share,
            description=printable(progress.name),
            steps=str(progress),
        )

    def advance(self, done: float, text: str = "", line: str = "") -> None:
        """Move the bar to `done` units; without a bar, show `line` every 30 seconds.

        `text` replaces the label of the bar.
        """
        self._move(completed=done, **({"description": text} if text else {}))
        if line:
            self._log(line)

    def _line(self, text: str) -> None:
        text = printable(text, lines=True)
        if self._bar is None:
            typer.echo(text, err=True)
        else:  # rich prints it above the bar
            terminal = self._bar.console
            terminal.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _log(self, line: str) -> None:
        """Show a line of progress if there is no bar and the last one is long ago."""
        if self._bar is None and self._pace is not None and self._pace.due():
            self.say(line)

    def _move(self, **columns: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **columns)


@dataclass
class Pace:
    """Progress and speed of a batch."""

    images: int
    finished: int = 0
    pixels: int = 0
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)

    def add(self, pixels: int) -> None:
        """Count a finished image. A failed one has 0 pixels."""
        self.finished += 1
        self.pixels += pixels

    @property
    def speed(self) -> str:
        """Megapixels restored, and megapixels per second."""
        elapsed = time.monotonic() - self.started
        per_second = self.pixels / 1e6 / max(elapsed, 1e-3)
        return f"{format_megapixels(self.pixels)}, {format_number(per_second, 2)} MP/s"

    def line(self) -> str:
        """Return progress, speed and remaining time as text."""
        per_image = (time.monotonic() - self.started) / max(self.finished, 1)
        remaining = format_duration(per_image * (self.images - self.finished))
        return f"{self.finished} of {self.images} images, {self.speed}, {remaining} left"

    def due(self) -> bool:
        """Return True if another progress line is due, and then restart the interval."""
        now = time.monotonic()
        if now - self.logged < PROGRESS_INTERVAL:
            return False
        self.logged = now
        return True


def _progress_bar() -> Progress:
    """Return a bar on stderr whose tasks have the fields `steps` and `speed`.

    A narrow terminal shows the bar, the number of images and the remaining time.
    """
    from rich import progress
    from rich.console import Console as Terminal
    from rich.table import Column

    terminal = Terminal(stderr=True)
    width = terminal.width
    name_column = Column(max_width=min(30, width // 5), no_wrap=True, overflow="ellipsis")
    columns: dict[progress.ProgressColumn, int] = {  # and the widths of terminals that have them
        progress.TextColumn("{task.description}", markup=False, table_column=name_column): 0,
        progress.BarColumn(min(40, max(8, width // 8))): 0,
        progress.MofNCompleteColumn(): 0,
        progress.TextColumn("{task.fields[steps]}", markup=False): 100,
        progress.TextColumn("{task.fields[speed]}", markup=False): 80,
        progress.TimeElapsedColumn(): 60,
        progress.TimeRemainingColumn(): 0,
    }
    return progress.Progress(
        *(column for column, least in columns.items() if width >= least),
        console=terminal,
        transient=True,
        redirect_stdout=False,  # `_line` prints above the bar, and decoding replaces stderr, too
        redirect_stderr=False,
    )


def _planned(event: Planned) -> str:
    parts = [f"{event.width} x {event.height}", *_pages(event)]
    if event.strategy is not None:
        parts.append(event.strategy)
    if event.peak_bytes is not None:
        parts.append(f"{format_bytes(event.peak_bytes)} of memory")
    if event.seconds is not None:
        parts.append(f"about {format_duration(event.seconds)}")
    if event.noise is not None:
        parts.append(event.noise.words)
    return f"{printable(event.input)} -> {printable(event.output)}  {', '.join(parts)}"


def _restored(event: Restored) -> str:
    megapixels = event.pixels / 1e6
    size = f"{megapixels:.1f} MP" if megapixels >= 0.1 else f"{event.width} x {event.height}"
    size = ", ".join([*_pages(event), size])
    return (
        f"{printable(event.input)} -> {printable(event.output)}  {size} in {event.seconds:.1f} s, "
        f"{printable(weights_label(event.weights.name, event.weights.source))}, {event.strategy}, "
        f"{event.precision} on {event.device}"
    )


def _pages(event: Planned | Restored) -> list[str]:
    return [f"{event.pages} pages"] if (event.pages or 1) > 1 else []


def _summary(event: Summary) -> str:
    counts = {"restored": event.restored, "skipped": event.skipped, "failed": event.failed}
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{parts}; {format_megapixels(1e6 * event.megapixels)} in {event.seconds:.1f} s"
