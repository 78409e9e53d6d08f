"""Many images restored, each read, computed and written while its neighbours are; whole or not."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice, repeat
from threading import Event as Flag
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from ..errors import ImageError
from ..files import is_special
from ..imaging import (
    FORMATS,
    UNDECODED,
    Array,
    Change,
    Image,
    Noise,
    change_warnings,
    decode,
    encode,
    estimate_noise,
    from_float,
    make_folder,
    measure_change,
    output_format,
    read_bytes,
    to_float,
    write_encoded,
)
from . import manifest
from .events import Event, Failed, ImageProgress, Planned, Restored, Started, Weights
from .jobs import BatchConfig, Job
from .manifest import FileFingerprint
from .pipeline import run_overlapped

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from ..imaging import ImageSequence, Noise
    from ..inference import Restoration, Restorer

    Observer = Callable[[Restored, Image, Image], None]
    """Shown an image: what came of it, as it was, and as it is."""


# --- paging --------------------------------------------------------------------------------------

_WRITE_ELSEWHERE = "In place they would be lost: write elsewhere."


class Page(NamedTuple):
    """A restored page, and what there is to say of it."""

    image: Image
    height: int
    width: int
    restoration: Restoration  # without its pixels
    noise: Noise | None
    change: Change
    notes: list[str]
    warnings: list[str]
    original: Array  # its pixels as they were read, if it is looked at

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.height * self.width

    def without_pixels(self) -> Page:
        """What there is to say of it, alone."""
        image = replace(self.image, pixels=UNDECODED)
        return self._replace(image=image, original=UNDECODED)


def held(found: ImageSequence, kind: str, *, in_place: bool = False) -> tuple[int, list[str]]:
    """How many of a file's pages an output of this format holds, and what to say of the others.

    Raises:
        ImageError: with `in_place` the others, or what the file holds besides, would be lost.
    """
    if in_place and found.besides:
        raise ImageError(f"it holds {', and '.join(found.besides)}", _WRITE_ELSEWHERE)
    if found.count == 1 or FORMATS[kind].several == found.unit:
        return found.count, []
    text = f"{found.count} {found.unit}s, and {kind} holds one: {found.count - 1} are left out"
    if in_place:
        raise ImageError(text, _WRITE_ELSEWHERE)
    return 1, [text]


def together(pages: list[Page]) -> Change:
    """The mean change of all, and the drift of the page that drifts most."""
    pixels = sum(page.pixels for page in pages)
    mean = sum(page.change.mean_absolute * page.pixels for page in pages) / pixels
    return Change(mean, max(page.change.drift for page in pages))


def said(of_each: Iterable[list[str]]) -> list[str]:
    """What is said of each page, once: with the pages, if it is not true of all of them."""
    pages: dict[str, list[int]] = defaultdict(list)
    count = 0
    for count, texts in enumerate(of_each, 1):
        for text in dict.fromkeys(texts):
            pages[text].append(count)
    return [text if len(of) == count else f"{_named(of)}: {text}" for text, of in pages.items()]


def _named(numbers: list[int]) -> str:
    """`page 3` or `pages 1-4, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    listed = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
    return f"page{'s' if len(numbers) > 1 else ''} {listed}"


# --- batch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandardStreams:
    """Where an image comes from, or goes to, that has no path."""

    stdin: BinaryIO
    stdout: BinaryIO


class Cancelled(Exception):  # noqa: N818 - nothing went wrong
    """The run was interrupted, and this image dropped."""


class QueuedImage(NamedTuple):
    """An image before it is read; `data` are its bytes if they come in a stream."""

    number: int
    job: Job
    data: bytes | None


class _Decoded(NamedTuple):
    image: Image
    right: Array | None  # the right view, if there is one
    noise: Noise | None


class _Read(NamedTuple):
    number: int
    job: Job
    kind: str  # the output's format
    pages: Iterator[_Decoded]  # one by one
    total: int
    notes: list[str]
    warnings: list[str]
    left_file: FileFingerprint
    right_file: FileFingerprint | None


class _Computed(NamedTuple):
    read: _Read
    pages: list[Page]  # if it is one, with its pixels; if there are several,
    data: bytes | None  # all are in this file


class WrittenImage(NamedTuple):
    """The end of an image; `data` are the bytes of one that has no file, and is to be sent."""

    event: Restored
    data: bytes | None


def run_batch(
    jobs: Iterable[Job],
    restorer: Restorer,
    streams: StandardStreams,
    config: BatchConfig | None = None,
    *,
    progress: Callable[[ImageProgress], None] | None = None,
    observer: Observer | None = None,
) -> Generator[Event, None, None]:
    """Restore and write images in their order; one that fails is reported, and the next begun.

    Yields Started, then Restored or Failed for each. While one is computed, the next is read and
    the last one written: of each of these there is one at most. Outputs appear whole or not at
    all, even if the generator is closed or interrupted in the middle; what is being written then
    is finished.

    Args:
        jobs: what to restore, and where to.
        restorer: the network to run.
        streams: for jobs without a path.
        config: how to read, blend and write.
        progress: called with the progress of the image at work, from another thread.
        observer: called with each image that is written, or its first page, before and after, from
            another thread; an ImageError it raises is reported.
    """
    from ..inference import (  # torch takes seconds to import; who has a restorer has it
        inherit_threads,
    )

    work = ImageStages(restorer, config or BatchConfig(), progress, observer, Flag())
    stages = work.read, work.compute, work.write
    line = run_overlapped(queue_images(jobs, streams.stdin), *stages, initializer=inherit_threads())
    task = restorer.task.name
    try:
        for (_, job, _), future in line:
            told: Event
            try:
                yield Started(*job.names, task)
                told = send_to_stdout(future.result(), streams.stdout)
            except ImageError as error:
                told = failure_event(job, task, error)
            except KeyboardInterrupt:
                work.stop.set()
                with suppress(Cancelled, CancelledError, ImageError):
                    yield send_to_stdout(future.result(), streams.stdout)
                raise
            yield told  # here, where an interruption of whoever listens is not one of the writing
    finally:
        work.stop.set()
        line.close()


def queue_images(jobs: Iterable[Job], stdin: BinaryIO) -> Iterator[QueuedImage]:
    """The jobs with what comes in a stream: read here, where an interruption ends the waiting."""
    for number, job in enumerate(jobs):
        data = None
        if job.source is None:
            data = stdin.read()
        elif is_special(job.source):
            with suppress(OSError):  # the one who reads it will say so
                data = job.source.read_bytes()
        yield QueuedImage(number, job, data)


def send_to_stdout(written: WrittenImage, stdout: BinaryIO) -> Restored:
    """The event, after the image that has no file has gone to stdout: here, for the same reason."""
    event, data = written
    if data is not None:
        write_encoded(data, stdout)
    return event


@dataclass(frozen=True)
class ImageStages:
    """What is done to an image, in three stages, each in a thread of its own."""

    restorer: Restorer
    config: BatchConfig
    progress: Callable[[ImageProgress], None] | None
    observer: Observer | None
    stop: Flag

    @cached_property
    def fingerprint(self) -> manifest.SettingsFingerprint | None:
        """What outputs are recorded with; None if they are not."""
        return (
            manifest.settings_fingerprint(self.restorer, self.config)
            if self.config.record
            else None
        )

    def read(self, given: QueuedImage) -> _Read:
        """Decode the image, or the first of its pages, and the right view if there is one."""
        self._go_on()
        job = given.job
        left, left_file = self._opened(job.source, given.data)
        kind, notes = output_format(job.target, job.format, left.format)
        count, warnings = held(left, kind, in_place=job.in_place)
        rights: Iterator[Array | None] = repeat(None)
        right_file = None
        if job.right is not None:
            right, right_file = self._opened(job.right, None)
            if right.count != left.count:
                raise ImageError(f"it has {left.count} {left.unit}s, its right view {right.count}")
            rights = (image.pixels for image in right.images)
        both = zip(islice(left.images, count), rights, strict=False)
        decoded = (
            _Decoded(image, view, _noise(self.restorer.task.name, image)) for image, view in both
        )
        pages = chain([next(decoded)], decoded)
        return _Read(given.number, job, kind, pages, count, notes, warnings, left_file, right_file)

    def _opened(
        self, path: Path | None, data: bytes | None
    ) -> tuple[ImageSequence, FileFingerprint]:
        mtime = None
        if path is not None and data is None:
            with suppress(OSError):  # then `load` says it
                mtime = path.stat().st_mtime_ns  # before it is read, lest a change goes unnoticed
            _, data = read_bytes(path)
        assert data is not None  # noqa: S101 - stdin has been read
        found = decode(data, max_pixels=self.config.max_pixels, name=str(path or "-"))
        return found, FileFingerprint.of(data, mtime)

    def compute(self, read: _Read) -> _Computed:
        """Restore it. Several pages are encoded as well: never are all of them in memory."""
        done = read._replace(pages=iter(()))  # which would keep what was read
        if read.total == 1:
            return _Computed(done, [self._restored(read, self._next(read, 1))], None)
        pages: list[Page] = []
        with closing(self._pages(read, pages)) as restored:
            data, told = encode(restored, read.kind, count=read.total, quality=self.config.quality)
        for page, notes in zip(pages, told, strict=True):
            page.notes.extend(notes)
        return _Computed(done, pages, data)

    def _pages(self, read: _Read, done: list[Page]) -> Generator[Image, None, None]:
        """The pages, each restored while the next is decoded; `done` gets what is said of them."""
        from ..inference import inherit_threads

        stages = partial(self._next, read), partial(self._restored, read)
        numbers = range(1, read.total + 1)
        with closing(run_overlapped(numbers, *stages, initializer=inherit_threads())) as line:
            for _, future in line:
                page = future.result()
                shown = self.observer is not None and not done  # the first one alone
                done.append(page if shown else page.without_pixels())
                yield page.image

    def _next(self, read: _Read, number: int) -> tuple[int, _Decoded]:
        self._go_on()
        return number, next(read.pages)

    def _restored(self, read: _Read, following: tuple[int, _Decoded]) -> Page:
        """A page restored. Blending is in float: rounded is once, at the end."""
        self._go_on()
        number, decoded = following
        try:
            return self._page(read, number, *decoded)
        except MemoryError as error:  # beside the network, which makes do with less if it can
            height, width = decoded.image.pixels.shape[:2]
            raise ImageError(
                f"memory does not suffice for {width} x {height} pixels", "Free some of it."
            ) from error

    def _page(
        self,
        read: _Read,
        number: int,
        image: Image,
        right: Array | None,
        noise: Noise | None,
    ) -> Page:
        before = to_float(image.pixels)
        progress = partial(self._progress, read, number)
        view = None if right is None else to_float(right)
        try:
            done = self.restorer.restore(before, view, progress=progress)
        except ImageError as error:
            if read.total == 1:
                raise
            raise ImageError(f"page {number}: {error.message}", error.hint) from error
        moved = measure_change(before, done.pixels)
        original = pixels = image.pixels
        if self.config.strength:  # at 0 it is the very input
            after = done.pixels
            if self.config.strength < 1:
                after = before + np.float32(self.config.strength) * (after - before)
            pixels = from_float(after, pixels.dtype)
        return Page(
            replace(image, pixels=pixels),
            pixels.shape[0],
            pixels.shape[1],
            replace(done, pixels=UNDECODED),
            noise,
            moved.times(self.config.strength),
            [*image.notes, *done.notes],
            change_warnings(moved, self.config.strength, noise),
            original if self.observer is not None and number == 1 else UNDECODED,
        )

    def _progress(self, read: _Read, page: int, done: int, total: int) -> None:
        self._go_on()
        if self.progress is not None:
            name = read.job.names[0]
            self.progress(ImageProgress(read.number, name, done, total, page, read.total))

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Cancelled

    def write(self, computed: _Computed) -> WrittenImage:
        """Encode it, if that is not done; into its file, or else to be sent."""
        from ..inference import peak_memory

        self._go_on()
        read, pages, data = computed
        if data is None:
            data, told = encode([pages[0].image], read.kind, quality=self.config.quality)
            pages[0].notes.extend(told[0])
        first, moved = pages[0], together(pages)
        notes = [*read.notes, *said(page.notes for page in pages)]
        restored = Restored(
            *read.job.names,
            task=self.restorer.task.name,
            weights=Weights.of(self.restorer.weights),
            device=str(self.restorer.device),
            precision=pages[-1].restoration.precision,
            strategy=", ".join(dict.fromkeys(page.restoration.strategy for page in pages)),
            orientations=self.restorer.orientations,
            width=first.width,
            height=first.height,
            pages=len(pages),
            pixels=sum(page.pixels for page in pages),
            seconds=round(sum(page.restoration.seconds for page in pages), 3),
            noise=first.noise,
            mean_absolute_change=round(moved.mean_absolute, 7),
            colour_drift=round(moved.drift, 7),
            peak_memory=peak_memory(self.restorer.device),
            notes=notes,
            warnings=[*read.warnings, *said(page.warnings for page in pages)],
        )
        target = read.job.target
        if target is None:
            # Encoded first: an image that cannot be leaves stdout empty.
            self._show(restored, first)
            return WrittenImage(restored, data)

        def ready(data: bytes, stat: os.stat_result) -> None:
            if self.fingerprint is not None:
                written = FileFingerprint.of(data, stat.st_mtime_ns)
                line = manifest.line(
                    restored, self.fingerprint, read.left_file, read.right_file, written
                )
                notes.extend(manifest.write(target, line))

        make_folder(target.parent)
        write_encoded(data, target, ready=ready)
        self._show(restored, first)
        return WrittenImage(restored, None)

    def _show(self, restored: Restored, page: Page) -> None:
        if self.observer is None:
            return
        try:
            self.observer(restored, replace(page.image, pixels=page.original), page.image)
        except ImageError as error:  # whoever repeats it should know
            raise ImageError(f"restored, but {error}", error.hint) from error


def _noise(task: str, image: Image) -> Noise | None:
    """What is to be known of an image's noise: of use where noise is what is removed."""
    return estimate_noise(image.pixels) if task == "denoise" else None


def failure_event(job: Job, task: str, error: ImageError) -> Failed:
    """The event for what went wrong with one image, whose name is not said twice."""
    return Failed(*job.names, task, error.message.removeprefix(f"{job.names[0]}: "), error.hint)


def preview_batch(
    jobs: Iterable[Job],
    task: str,
    restorer: Restorer | None,
    streams: StandardStreams,
    max_pixels: int,
) -> Iterator[Event]:
    """What `run` would do, without doing it: Planned with size, strategy and cost, or Failed.

    Every image is decoded, so that a damaged one is known beforehand. Without a `restorer` (its
    weights are not on this machine) the strategy stays unknown.
    """
    for job in jobs:
        try:
            data = streams.stdin.read() if job.source is None else read_bytes(job.source)[1]
            found = decode(data, max_pixels=max_pixels, name=job.names[0])
            kind, _ = output_format(job.target, job.format, found.format)
            count, _ = held(found, kind, in_place=job.in_place)
            sizes, plans, noises = [], [], []
            for image in islice(found.images, count):
                sizes.append(image.pixels.shape[:2])
                noises += [_noise(task, image)]
                plans += [restorer.forecast(image.pixels)] if restorer else []
        except ImageError as error:
            yield failure_event(job, task, error)
            continue
        yield Planned(
            *job.names,
            task,
            width=sizes[0][1],
            height=sizes[0][0],
            pages=count,
            strategy=", ".join(dict.fromkeys(plan.strategy for plan in plans)) or None,
            peak_bytes=max((plan.peak_bytes for plan in plans), default=None),
            seconds=round(sum(plan.seconds for plan in plans), 3) if plans else None,
            noise=noises[0],
        )
