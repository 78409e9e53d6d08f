"""How far a run is, and how fast: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0
"""Seconds between the lines that stand for the bar where there is no terminal."""


class Part(NamedTuple):
    """How many strips or tiles of a page are done, and how many images were done before it."""

    number: float
    name: str
    done: int
    total: int
    page: int = 1
    pages: int = 1

    @property
    def share(self) -> float:
        """What is done of the image, all pages taken together."""
        return (self.page - 1 + self.done / max(self.total, 1)) / self.pages

    def __str__(self) -> str:
        pages = f"page {self.page}/{self.pages}, " if self.pages > 1 else ""
        return f"{pages}{self.done}/{self.total}"


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
        return f"{self.finished} of {self.images} images, {self.speed}, {duration(left)} left"

    def due(self) -> bool:
        """Whether it is time for another line."""
        now = time.monotonic()
        if now - self.said < EVERY or self.finished in (0, self.images):
            return False
        self.said = now
        return True


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
