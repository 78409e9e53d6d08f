"""What a run reports: an event for each thing that happens, which is a line of `--json`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from ..checkpoints import ResolvedCheckpoint
    from ..imaging import Noise


@dataclass(frozen=True)
class Event:
    """One line of `--json`: its name, then its fields; what is not known or not so is null."""

    name: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """The event as plain values, fit for JSON."""
        return {"event": self.name, **asdict(self)}


@dataclass(frozen=True)
class Weights:
    """Which weights ran: `source` is "official", "lite", "hub" or "file"."""

    name: str
    source: str
    sha256: str

    @classmethod
    def of(cls, found: ResolvedCheckpoint) -> Weights:
        """The part of a found checkpoint that is worth reporting."""
        return cls(found.name, found.source, found.sha256)


@dataclass(frozen=True)
class Planned(Event):
    """An image is to be restored; with `--dry-run` it has been looked at, and will not be."""

    name = "planned"
    input: str  # a path, "-" for stdin
    output: str  # a path, "-" for stdout
    task: str
    width: int | None = None
    height: int | None = None
    pages: int | None = None
    strategy: str | None = None
    peak_bytes: int | None = None  # as `peak_memory` of Restored
    seconds: float | None = None
    noise: Noise | None = None  # of denoise, once the image has been looked at


@dataclass(frozen=True)
class Started(Event):
    """An image is being worked on."""

    name = "started"
    input: str
    output: str
    task: str


@dataclass(frozen=True)
class Restored(Event):
    """An image is restored and written, whole."""

    name = "restored"
    input: str
    output: str
    task: str
    weights: Weights
    device: str
    precision: str
    strategy: str
    orientations: int  # flips and rotations averaged over: see `ensemble`
    width: int  # of the first page
    height: int
    pages: int  # or frames, that were restored
    pixels: int  # of all of them
    seconds: float
    noise: Noise | None  # of the input, for denoise
    mean_absolute_change: float  # of all samples, as a part of their range
    colour_drift: float  # likewise; see change.Change
    peak_memory: int  # bytes, the most so far: of the GPU by our tensors, or of the process
    notes: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Skipped(Event):
    """An image was left alone on purpose."""

    name = "skipped"
    input: str
    output: str | None
    task: str
    reason: str


@dataclass(frozen=True)
class Failed(Event):
    """An image could not be restored; with `input` null, the whole run could not start."""

    name = "failed"
    input: str | None
    output: str | None
    task: str | None
    error: str
    hint: str


@dataclass(frozen=True)
class Summary(Event):
    """The end of a run."""

    name = "summary"
    task: str
    restored: int
    skipped: int
    failed: int
    megapixels: float
    seconds: float
    interrupted: bool


@dataclass
class Tally:
    """Counts events as they come, for the summary."""

    task: str
    restored: int = 0
    skipped: int = 0
    failed: int = 0
    pixels: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, event: Event) -> None:
        """Count this event."""
        match event:
            case Restored():
                self.restored += 1
                self.pixels += event.pixels
            case Skipped():
                self.skipped += 1
            case Failed():
                self.failed += 1

    def summary(self, *, interrupted: bool) -> Summary:
        """What was counted."""
        return Summary(
            task=self.task,
            restored=self.restored,
            skipped=self.skipped,
            failed=self.failed,
            megapixels=round(self.pixels / 1e6, 3),
            seconds=round(time.perf_counter() - self.started, 3),
            interrupted=interrupted,
        )


class ImageProgress(NamedTuple):
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
