"""Many images restored, each read, computed and written while its neighbours are; whole or not."""

from __future__ import annotations

import io
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Event as Flag
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from . import change, images, noise_level, records
from .errors import ImageError
from .events import Event, Failed, Noise, Planned, Restored, Started, Weights
from .inputs import is_special
from .pipeline import overlapped
from .pixels import UNDECODED, Array, from_float, to_float
from .progress import Part
from .records import Fingerprint

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from .change import Change
    from .outputs import Job
    from .restorer import Restoration, Restorer


@dataclass(frozen=True)
class Streams:
    """Where an image comes from, or goes to, that has no path."""

    stdin: BinaryIO
    stdout: BinaryIO


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was interrupted, and this image dropped."""


class _Given(NamedTuple):
    """An image before it is read; `data` are its bytes if they come in a stream."""

    number: int
    job: Job
    data: bytes | None


class _Read(NamedTuple):
    number: int
    job: Job
    image: images.Image
    right: Array | None
    left_file: Fingerprint
    right_file: Fingerprint | None
    noise: Noise | None


class _Computed(NamedTuple):
    read: _Read  # with the restored image
    original: Array  # its pixels as they were read, if they are looked at
    restoration: Restoration  # without its pixels
    change: Change
    odd: list[str]


def run(
    jobs: Iterable[Job],
    restorer: Restorer,
    streams: Streams,
    *,
    quality: int = 95,
    max_pixels: int = 300_000_000,
    strength: float = 1.0,
    recipe: records.Recipe | None = None,
    progress: Callable[[Part], None] | None = None,
    watch: Callable[[Restored, images.Image, images.Image], None] | None = None,
) -> Generator[Event, None, None]:
    """Restore and write images in their order; one that fails is reported, and the next begun.

    Yields Started, then Restored or Failed for each. While one is computed, the next is read and
    the last one written: of each of these there is one at most. Outputs appear whole or not at
    all, even if the generator is closed or interrupted in the middle; what is being written then
    is finished.

    Args:
        jobs: what to restore, and where to.
        restorer: does it.
        streams: for jobs without a path.
        quality: of JPEG and WebP.
        max_pixels: larger images fail.
        strength: how much of the change is applied, 0..1.
        recipe: what the outputs' folders shall record that they were made by; None: no record.
        progress: told of the image that is computed, in a thread of its own.
        watch: shown each image that is written, as it was and as it is, in a thread of its own;
            what ImageError it raises is reported.
    """
    from . import devices  # torch takes seconds to import; who has a restorer has it

    work = _Work(restorer, quality, max_pixels, strength, recipe, progress, watch, Flag())
    stages = work.read, work.compute, work.write
    line = overlapped(_given(jobs, streams.stdin), *stages, initializer=devices.same_threads())
    task = restorer.task.name
    try:
        for (_, job, _), future in line:
            yield Started(*job.names, task)
            try:
                yield _sent(future.result(), streams.stdout)
            except ImageError as error:
                yield _failed(job, task, error)
            except KeyboardInterrupt:
                work.stop.set()
                with suppress(Stopped, CancelledError, ImageError):
                    yield _sent(future.result(), streams.stdout)
                raise
    finally:
        work.stop.set()
        line.close()


def _given(jobs: Iterable[Job], stdin: BinaryIO) -> Iterator[_Given]:
    """The jobs with what comes in a stream: read here, where an interruption ends the waiting."""
    for number, job in enumerate(jobs):
        data = None
        if job.source is None:
            data = stdin.read()
        elif is_special(job.source):
            with suppress(OSError):  # the one who reads it will say so
                data = job.source.read_bytes()
        yield _Given(number, job, data)


def _sent(written: tuple[Restored, bytes | None], stdout: BinaryIO) -> Restored:
    """The event, after the image that has no file has gone to stdout: here, for the same reason."""
    event, data = written
    if data is not None:
        stdout.write(data)
        stdout.flush()
    return event


@dataclass(frozen=True)
class _Work:
    """What is done to an image, in three stages, each in a thread of its own."""

    restorer: Restorer
    quality: int
    max_pixels: int
    strength: float
    recipe: records.Recipe | None
    progress: Callable[[Part], None] | None
    watch: Callable[[Restored, images.Image, images.Image], None] | None
    stop: Flag

    def read(self, given: _Given) -> _Read:
        """Decode the image, and the right view if there is one."""
        self._go_on()
        job = given.job
        image, left_file = self._decoded(job.source, given.data)
        if image.more and job.in_place:
            raise ImageError(image.more, "In place the rest would be lost: write elsewhere.")
        noise = _noise(self.restorer.task.name, image)
        if job.right is None:
            return _Read(given.number, job, image, None, left_file, None, noise)
        right, right_file = self._decoded(job.right, None)
        return _Read(given.number, job, image, right.pixels, left_file, right_file, noise)

    def _decoded(self, path: Path | None, data: bytes | None) -> tuple[images.Image, Fingerprint]:
        mtime = None
        if path is not None and data is None:
            with suppress(OSError):  # then `load` says it
                mtime = path.stat().st_mtime_ns  # before it is read, lest a change goes unnoticed
            _, data = images.load(path)
        assert data is not None  # noqa: S101 - stdin has been read
        image = images.read(data, max_pixels=self.max_pixels, name=str(path or "-"))
        return image, Fingerprint.of(data, mtime)

    def compute(self, read: _Read) -> _Computed:
        """Restore it. Blending is in float: rounded is once, at the end."""
        self._go_on()
        image = read.image
        before = to_float(image.pixels)
        right = None if read.right is None else to_float(read.right)
        done = self.restorer.restore(before, right, progress=partial(self._progress, read))
        moved = change.measure(before, done.pixels)
        original = pixels = image.pixels
        if self.strength:  # at 0 it is the very input
            after = done.pixels
            if self.strength < 1:
                after = before + np.float32(self.strength) * (after - before)
            pixels = from_float(after, pixels.dtype)
        read = read._replace(image=replace(image, pixels=pixels), right=None)
        odd = change.warnings(moved, self.strength, read.noise)
        if self.watch is None:
            original = UNDECODED
        done = replace(done, pixels=UNDECODED)
        return _Computed(read, original, done, moved.times(self.strength), odd)

    def _progress(self, read: _Read, done: int, total: int) -> None:
        self._go_on()
        if self.progress is not None:
            self.progress(Part(read.number, read.job.names[0], done, total))

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def write(self, computed: _Computed) -> tuple[Restored, bytes | None]:
        """Encode it; into its file, or else to be sent."""
        from . import devices

        self._go_on()
        read, original, done, moved, odd = computed
        image = read.image
        height, width = image.pixels.shape[:2]
        notes = [*image.notes, *done.notes]
        restored = Restored(
            *read.job.names,
            task=self.restorer.task.name,
            weights=Weights.of(self.restorer.weights),
            device=str(self.restorer.device),
            precision=done.precision,
            strategy=done.strategy,
            orientations=self.restorer.orientations,
            width=width,
            height=height,
            seconds=round(done.seconds, 3),
            noise=read.noise,
            mean_absolute_change=round(moved.mean_absolute, 7),
            colour_drift=round(moved.drift, 7),
            peak_memory=devices.peak_memory(self.restorer.device),
            notes=notes,
            warnings=[*filter(None, [image.more]), *odd],
        )
        target = read.job.target
        if target is None:
            # Encoded first: an image that cannot be leaves stdout empty.
            buffer = io.BytesIO()
            notes += images.write(image, buffer, format=read.job.format, quality=self.quality)
            self._show(restored, original, image)
            return restored, buffer.getvalue()

        def ready(data: bytes, stat: os.stat_result) -> None:
            if self.recipe is not None:
                written = Fingerprint.of(data, stat.st_mtime_ns)
                line = records.line(restored, self.recipe, read.left_file, read.right_file, written)
                notes.extend(records.write(target, line))

        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(
                f"{target.parent}: cannot be made ({error.strerror})", "Name another folder."
            ) from error
        notes += images.write(
            image, target, format=read.job.format, quality=self.quality, ready=ready
        )
        self._show(restored, original, image)
        return restored, None

    def _show(self, restored: Restored, original: Array, image: images.Image) -> None:
        if self.watch is not None:
            self.watch(restored, replace(image, pixels=original), image)


def _noise(task: str, image: images.Image) -> Noise | None:
    """What is to be known of an image's noise: of use where noise is what is removed."""
    return noise_level.estimate(image.pixels) if task == "denoise" else None


def _failed(job: Job, task: str, error: ImageError) -> Failed:
    """The event for what went wrong with one image, whose name is not said twice."""
    return Failed(*job.names, task, error.message.removeprefix(f"{job.names[0]}: "), error.hint)


def look(
    jobs: Iterable[Job], task: str, restorer: Restorer | None, streams: Streams, max_pixels: int
) -> Iterator[Event]:
    """What `run` would do, without doing it: Planned with size, strategy and cost, or Failed.

    Every image is decoded, so that a damaged one is known beforehand. Without a `restorer` (its
    weights are not on this machine) the strategy stays unknown.
    """
    for job in jobs:
        try:
            data = streams.stdin.read() if job.source is None else images.load(job.source)[1]
            image = images.read(data, max_pixels=max_pixels, name=job.names[0])
            height, width = image.pixels.shape[:2]
        except ImageError as error:
            yield _failed(job, task, error)
            continue
        how = restorer.forecast(image.pixels) if restorer else None
        yield Planned(
            *job.names,
            task,
            width=width,
            height=height,
            strategy=how.strategy if how else None,
            peak_bytes=how.peak_bytes if how else None,
            seconds=round(how.seconds, 3) if how else None,
            noise=_noise(task, image),
        )
