"""What users see: messages and progress on stderr, results and JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from ..batch import Event, Failed, ImageProgress, Planned, Restored, Skipped, Started, Summary
from ..checkpoints import weights_label
from ..errors import RestormerError, UsageError
from ..text import format_bytes, format_duration, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import Progress, TaskID


# --- progress ------------------------------------------------------------------------------------

EVERY = 30.0
"""Seconds between the lines that stand for the bar where there is no terminal."""


@dataclass
class Pace:
    """What a run has done of so many images, since it started."""

    images: int
    finished: int = 0
    pixels: int = 0
    started: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def add(self, pixels: int) -> None:
        """One image more is finished; one that failed has no pixels."""
        self.finished += 1
        self.pixels += pixels

    @property
    def speed(self) -> str:
        """Megapixels, and megapixels a second."""
        elapsed = time.monotonic() - self.started
        megapixels = self.pixels / 1e6
        return f"{megapixels:.3g} MP, {megapixels / max(elapsed, 1e-3):.2g} MP/s"

    def line(self) -> str:
        """All of it, in words, with the time that is left if the rest is like what is done."""
        left = (time.monotonic() - self.started) / max(self.finished, 1)
        left *= self.images - self.finished
        return (
            f"{self.finished} of {self.images} images, {self.speed}, {format_duration(left)} left"
        )

    def due(self) -> bool:
        """Whether it is time for another line."""
        now = time.monotonic()
        if now - self.said < EVERY or self.finished in (0, self.images):
            return False
        self.said = now
        return True


def bar() -> Progress:
    """A bar on stderr, whose tasks have the fields `part` and `speed`."""
    from rich.console import Console as Terminal
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    narrow = Column(max_width=30, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=narrow),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[part]}", markup=False),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
    )


# --- console -------------------------------------------------------------------------------------


@dataclass
class Console:
    """The one place that output goes through.

    Attributes:
        json: events and reports go to stdout as JSON, one a line.
        quiet: only warnings and errors are said.
        verbose: more is said.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    _bar: Progress | None = None
    _task: TaskID | None = None
    _pace: Pace | None = None

    def configure(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        """Take over what the command line says about messages.

        Raises:
            UsageError: it says two things at once.
        """
        self.json, self.quiet, self.verbose = json, quiet, verbose
        if quiet and verbose:
            raise UsageError("--quiet and --verbose do not go together", "Leave out one of them.")

    # --- words ---

    def result(self, text: str) -> None:
        """What a command was asked for, on stdout."""
        typer.echo(text)

    def render(self, renderable: RenderableType) -> None:
        """What a command was asked for, drawn by rich on stdout."""
        from rich.console import Console as Terminal

        Terminal().print(renderable)

    def object(self, value: dict[str, Any] | list[Any]) -> None:
        """One line of JSON on stdout."""
        typer.echo(json.dumps(value))
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line that --quiet suppresses."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """A line that --verbose asks for."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """A line that is always said."""
        self._line(f"warning: {text}")

    def error(self, error: RestormerError) -> None:
        """Why nothing was done: in words and, where JSON was asked for, as an event."""
        self.show(Failed(None, None, None, error.message, error.hint))

    def _line(self, text: str) -> None:
        if self._bar is None:
            typer.echo(text, err=True)
        else:  # above the bar, not through it
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def draw(self, picture: RenderableType, caption: str) -> None:
        """A picture for the terminal that stderr is, where the bar makes room for it."""
        from rich.console import Console as Terminal

        if self._bar is not None:
            self._bar.stop()
        terminal = Terminal(stderr=True)
        terminal.print(caption, style="dim", markup=False, highlight=False)
        terminal.print(picture)
        if self._bar is not None:
            self._bar.start()

    # --- events ---

    def show(self, event: Event) -> None:
        """Report what happened, as a line and, where asked for, as JSON."""
        if self.json:
            self.object(event.as_dict())
        match event:
            case Planned(width=int()):  # of a dry run: without a size it is only announced
                self.say(_planned(event))
            case Started():
                self.detail(f"{printable(event.input)}: started")
            case Restored():
                self._finish(event.pixels)
                self.say(_restored(event))
                if event.noise is not None:
                    self.detail(f"{printable(event.input)}: {event.noise.words}")
                for note in event.notes:
                    self.say(f"note: {printable(event.input)}: {printable(note)}")
                for warning in event.warnings:
                    self.warn(f"{printable(event.input)}: {printable(warning)}")
                self._log()
            case Skipped():
                self.say(f"{printable(event.input)}: skipped, {event.reason}")
            case Failed():
                self._finish()
                name = "" if event.input is None else f"{printable(event.input)}: "
                self._line(f"error: {name}{printable(event.error, lines=event.input is None)}")
                if event.hint:
                    self._line(f"hint: {printable(event.hint)}")
                self._log()
            case Summary():
                if event.restored + event.skipped + event.failed > 1:
                    self.say(_summary(event))

    # --- progress ---

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Tell in this context how much of so many is done: by a bar, if stderr is a terminal."""
        self._pace = Pace(total)
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        self._bar = bar()
        with self._bar:
            self._task = self._bar.add_task("", total=total, part="", speed="")
            try:
                yield
            finally:
                self._bar = self._task = None

    def part(self, part: ImageProgress) -> None:
        """So many of a page's strips or tiles are done."""
        self._move(part.number + part.share, printable(part.name), str(part))

    def advance(self, done: float, text: str) -> None:
        """Move the bar of something that is no batch of images."""
        self._move(done, text, "")

    def _move(self, done: float, description: str, part: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=description, part=part)

    def _finish(self, pixels: int = 0) -> None:
        if self._pace is None:
            return
        self._pace.add(pixels)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, speed=self._pace.speed)

    def _log(self) -> None:
        if self._bar is None and self._pace is not None and self._pace.due():
            self.say(self._pace.line())


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
    area = f"{megapixels:.1f} MP" if megapixels >= 0.1 else f"{event.width} x {event.height}"
    area = ", ".join([*_pages(event), area])
    return (
        f"{printable(event.input)} -> {printable(event.output)}  {area} in {event.seconds:.1f} s, "
        f"{printable(weights_label(event.weights.name, event.weights.source))}, {event.strategy}, "
        f"{event.precision} on {event.device}"
    )


def _pages(event: Planned | Restored) -> list[str]:
    return [f"{event.pages} pages"] if (event.pages or 1) > 1 else []


def _summary(event: Summary) -> str:
    counts = {"restored": event.restored, "skipped": event.skipped, "failed": event.failed}
    said = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{said}; {event.megapixels:.3g} MP in {event.seconds:.1f} s"
