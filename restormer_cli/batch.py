"""Many images restored one after the other, each read, restored and written whole or not at all."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from . import images
from .errors import ImageError
from .events import Event, Failed, Planned, Restored, Started, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .outputs import Job
    from .restorer import Restorer


@dataclass(frozen=True)
class Streams:
    """Where an image comes from, or goes to, that has no path."""

    stdin: BinaryIO
    stdout: BinaryIO


def run(
    jobs: Iterable[Job],
    restorer: Restorer,
    streams: Streams,
    *,
    quality: int = 95,
    max_pixels: int = 300_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Event]:
    """Restore and write one image after the other; one that fails is reported, and the next begun.

    Yields Started, then Restored or Failed for each. Outputs appear whole or not at all, even if
    the generator is closed or interrupted in the middle.
    """
    for job in jobs:
        yield Started(*job.names, restorer.task.name)
        try:
            yield _restore(job, restorer, streams, quality, max_pixels, progress)
        except ImageError as error:
            yield _failed(job, restorer.task.name, error)


def _restore(
    job: Job,
    restorer: Restorer,
    streams: Streams,
    quality: int,
    max_pixels: int,
    progress: Callable[[int, int], None] | None,
) -> Restored:
    image = _read(job, streams.stdin, max_pixels)
    right = None if job.right is None else images.read(job.right, max_pixels=max_pixels).pixels
    restoration = restorer.restore(image.pixels, right, progress=progress)
    result = replace(image, pixels=restoration.pixels)
    notes = [*image.notes, *restoration.notes, *_write(result, job, streams.stdout, quality)]
    height, width = image.pixels.shape[:2]
    return Restored(
        *job.names,
        task=restorer.task.name,
        weights=Weights.of(restorer.weights),
        device=str(restorer.device),
        precision=restoration.precision,
        strategy=restoration.strategy,
        width=width,
        height=height,
        seconds=round(restoration.seconds, 3),
        notes=notes,
    )


def _read(job: Job, stdin: BinaryIO, max_pixels: int) -> images.Image:
    return images.read(job.source or stdin.read(), max_pixels=max_pixels)


def _write(image: images.Image, job: Job, stdout: BinaryIO, quality: int) -> list[str]:
    if job.target is None:
        # Encoded first: an image that cannot be leaves stdout empty, and a reader that went away
        # is no fault of the image's.
        buffer = io.BytesIO()
        notes = images.write(image, buffer, format=job.format, quality=quality)
        stdout.write(buffer.getbuffer())
        stdout.flush()
        return notes
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"{job.target.parent}: cannot be made ({error.strerror})", "Name another folder."
        ) from error
    return images.write(image, job.target, format=job.format, quality=quality)


def _failed(job: Job, task: str, error: ImageError) -> Failed:
    """The event for what went wrong with one image, whose name is not said twice."""
    named = "<bytes>" if job.source is None else str(job.source)
    return Failed(*job.names, task, error.message.removeprefix(f"{named}: "), error.hint)


def look(
    jobs: Iterable[Job], task: str, restorer: Restorer | None, streams: Streams, max_pixels: int
) -> Iterator[Event]:
    """What `run` would do, without doing it: Planned with the size and strategy, or Failed.

    Every image is decoded, so that a damaged one is known beforehand. Without a `restorer` (its
    weights are not on this machine) the strategy stays unknown.
    """
    for job in jobs:
        try:
            height, width = _read(job, streams.stdin, max_pixels).pixels.shape[:2]
        except ImageError as error:
            yield _failed(job, task, error)
            continue
        how = restorer.plan(height, width) if restorer else None
        yield Planned(
            *job.names,
            task,
            width=width,
            height=height,
            strategy=how.strategy if how else None,
            peak_bytes=how.peak_bytes if how else None,
        )
