"""Events of a run, each a line of `--json`. `event_schema` makes their JSON Schema."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from ..imaging import Noise
    from .schema import (
        Count,
        Fraction,
        NonNegative,
        Orientations,
        Positive,
        Precision,
        Scale,
        Sha256,
        Source,
        Task,
    )


@dataclass(frozen=True)
class Event:
    """Base of all events; fields that are unknown or do not apply are null."""

    name: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the event as plain values for JSON."""
        return {"event": self.name, **asdict(self)}


@dataclass(frozen=True)
class Weights:
    """Weights that restored an image.

    Attributes:
        name: name of the checkpoint.
        source: origin of the checkpoint.
        sha256: digest of the checkpoint's file.
    """

    name: str
    source: Source
    sha256: Sha256


@dataclass(frozen=True)
class ImageEvent(Event):
    """Base of the events about an image with a known output.

    Attributes:
        input: path as given or found; - is stdin.
        output: path; - is stdout.
        task: the restoration.
    """

    input: str
    output: str
    task: Task


@dataclass(frozen=True)
class Planned(ImageEvent):
    """An image will be restored.

    A dry run decodes the image and reports its size and number of pages. It also reports strategy,
    memory and time if the weights are on this machine.

    Attributes:
        width: pixels of the first page, upright.
        height: pixels of the first page, upright.
        pages: number of pages or frames to restore.
        strategy: whole, or the tiles to use.
        peak_bytes: estimated peak memory in bytes, of this program's tensors on a GPU, otherwise
            of the process.
        seconds: estimated time, from a measurement of one second on this device.
        noise: estimated noise of the input; denoise only.
        scale: values of black and white in the first page; null for integer samples.
    """

    name = "planned"
    width: Positive | None = None
    height: Positive | None = None
    pages: Positive | None = None
    strategy: str | None = None
    peak_bytes: Count | None = None
    seconds: NonNegative | None = None
    noise: Noise | None = None
    scale: Scale | None = None


@dataclass(frozen=True)
class Started(ImageEvent):
    """Work on an image has started.

    In a single process, restored or failed follows for the same image before the next is started.
    """

    name = "started"


@dataclass(frozen=True)
class Restored(ImageEvent):
    """An image is restored and completely written.

    Attributes:
        weights: the weights used.
        device: cpu, cuda:0, ...
        precision: precision of the computation.
        strategy: whole, or the tiles used.
        orientations: number of flips and rotations averaged; 1 without --ensemble.
        width: pixels of the first page, upright.
        height: pixels of the first page, upright.
        pages: number of pages or frames restored.
        pixels: pixels of all pages.
        seconds: computing time, without reading and writing.
        noise: estimated noise of the input; denoise only.
        mean_absolute_change: mean over all samples as a fraction of their range, after --strength
            and before rounding.
        colour_drift: root mean square change of the mean colours of large blocks, as a fraction of
            the range, after --strength and before rounding.
        peak_memory: peak memory so far in bytes, of this program's tensors on CUDA, otherwise of
            the process.
        notes: requests that could not be met and data that could not be kept.
        warnings: reasons to check this result.
        scale: values of black and white in the first page; null for integer samples.
    """

    name = "restored"
    weights: Weights
    device: str
    precision: Precision
    strategy: str
    orientations: Orientations
    width: Positive
    height: Positive
    pages: Positive
    pixels: Positive
    seconds: NonNegative
    noise: Noise | None
    mean_absolute_change: Fraction
    colour_drift: Fraction
    peak_memory: Count
    notes: list[str]
    warnings: list[str]
    scale: Scale | None = None


@dataclass(frozen=True)
class Skipped(Event):
    """An image was skipped on purpose.

    Attributes:
        input: path as given or found.
        output: path; null if none was planned.
        task: the restoration.
        reason: reason for skipping.
    """

    name = "skipped"
    input: str
    output: str | None
    task: Task
    reason: str


@dataclass(frozen=True)
class Failed(Event):
    """An image could not be restored, or the whole run could not start (null input).

    Attributes:
        input: path as given or found; - is stdin.
        output: path; - is stdout; null if none was planned.
        task: the restoration; null if the run could not start.
        error: the cause.
        hint: the remedy; may be empty.
        disk_full: true if there is no space for the output, its sheet or its previews; this ends
            the run.
    """

    name = "failed"
    input: str | None
    output: str | None
    task: Task | None
    error: str
    hint: str
    disk_full: bool = False


@dataclass(frozen=True)
class Summary(Event):
    """The end of a run.

    Attributes:
        task: the restoration.
        restored: number of images.
        skipped: number of images.
        failed: number of images.
        megapixels: restored pixels in millions.
        seconds: time from the start of the command to its end.
        interrupted: whether SIGINT, SIGTERM or an error ended the run early.
    """

    name = "summary"
    task: Task
    restored: Count
    skipped: Count
    failed: Count
    megapixels: NonNegative
    seconds: NonNegative
    interrupted: bool


@dataclass
class Tally:
    """Counts of a run's events, for its summary."""

    task: str
    restored: int = 0
    skipped: int = 0
    failed: int = 0
    pixels: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Restored():
                self.restored += 1
                self.pixels += event.pixels
            case Skipped():
                self.skipped += 1
            case Failed():
                self.failed += 1

    def summary(self, *, interrupted: bool) -> Summary:
        """Return the summary of the events counted so far."""
        seconds = round(time.perf_counter() - self.started, 3)
        counts = self.restored, self.skipped, self.failed
        return Summary(self.task, *counts, round(self.pixels / 1e6, 3), seconds, interrupted)


class ImageProgress(NamedTuple):
    """Progress of an image: finished strips or tiles of a page."""

    number: float  # of finished images, including fractions if there are several workers
    name: str
    done: int
    total: int
    page: int = 1  # from 1
    pages: int = 1

    @property
    def share(self) -> float:
        """Finished fraction of the image, 0..1."""
        return (self.page - 1 + self.done / max(self.total, 1)) / self.pages

    def __str__(self) -> str:
        pages = f"page {self.page}/{self.pages}, " if self.pages > 1 else ""
        return f"{pages}{self.done}/{self.total}"
