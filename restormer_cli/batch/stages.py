"""Restore many images: while one is computed, the next is read and the previous one written."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import ImageError, RestormerError
from ..files import UrlPath, resolve_link
from ..imaging import (
    UNDECODED,
    Image,
    change_warnings,
    encode,
    make_folder,
    measure_change,
    prepare,
    write_encoded,
)
from ..memory import MemoryGuard
from .events import Event, Failed, ImageProgress, Restored, Started, Weights
from .jobs import BatchConfig, Job
from .manifest import (
    FileFingerprint,
    SkipCheck,
    append_entry,
    settings_fingerprint,
)
from .masks import MaskReader, mask_remarks
from .pages import (
    ComputedPage,
    DecodedPage,
    OpenedImage,
    Page,
    PreparedPage,
    merge_texts,
    named_page,
    open_image,
    refuse_losses,
    total_change,
)
from .pipeline import Stage, run_overlapped
from .reading import QueuedImage, load_file, queue_images
from .results import Cancelled, NotNeeded, WrittenImage, failed, result_event

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

    from ..imaging import Remarks
    from ..inference import Restorer

    Observer = Callable[[Restored, Image, Image], None]
    """Called with the event of an image, its input and its output."""


WRITERS = 2
"""Images written at a time with a GPU, which computes them faster than one core compresses PNG."""


@dataclass(frozen=True)
class StandardStreams:
    """The streams for images without a path."""

    stdin: BinaryIO
    stdout: BinaryIO


def run_batch(
    jobs: Iterable[Job],
    restorer: Restorer,
    streams: StandardStreams,
    config: BatchConfig | None = None,
    *,
    progress: Callable[[ImageProgress], None] | None = None,
    observer: Observer | None = None,
) -> Generator[Event, None, None]:
    """Restore and write images in order; report one that fails, and continue with the next.

    Yields Started, then Restored, Failed or Skipped for each image. At most one image is read, one
    computed and one written at a time; with a GPU, `WRITERS` are written. Outputs are written
    completely or not at all: if the generator is closed or interrupted, it finishes the images that
    are being written and drops the others.

    Args:
        jobs: inputs and outputs.
        restorer: the network to run.
        streams: streams for jobs without a path.
        config: how to read, blend and write.
        progress: called with the progress of the current image, from another thread.
        observer: called from another thread with each written image (its first page) before and
            after; its ImageError is reported.
    """
    from ..inference import inherit_threads

    work = ImageStages(restorer, config or BatchConfig(), progress, observer, Flag())
    images = queue_images(jobs, streams.stdin, work.config.max_pixels)
    results = run_overlapped(
        images, *work.stages, initializer=inherit_threads(), stopped=work.stop.is_set
    )
    task = restorer.task.name
    started: Future[WrittenImage] | None = None  # of the image that is not reported yet
    try:
        for (_, job, *_), future in results:
            started = future
            yield Started(*job.names, task)
            event = result_event(job, task, future, streams.stdout)
            started = None
            yield event
    except KeyboardInterrupt:
        work.stop.set()
        if started is not None:
            with suppress(Cancelled, CancelledError, RestormerError):
                yield result_event(job, task, started, streams.stdout)
        for (_, job, *_), future in results:  # others that are being written
            with suppress(Cancelled, CancelledError, RestormerError):
                event = result_event(job, task, future, streams.stdout)
                yield Started(*job.names, task)
                yield event
        raise
    finally:
        work.stop.set()
        results.close()


@dataclass
class _CurrentImage:
    """State of an image between the stages."""

    number: int
    job: Job
    input: OpenedImage
    source_file: FileFingerprint
    right_file: FileFingerprint | None
    mask_file: FileFingerprint | None
    prepared: PreparedPage | None = None  # a single page
    computed: ComputedPage | None = None  # a single page
    pages: list[Page] = field(default_factory=list)  # restored; several are without pixels
    data: bytes | None = None  # the output if it has several pages

    def add_remarks(self, remarks: list[Remarks]) -> None:
        """Add the encoder's remarks to the pages; raise ImageError for a loss in place."""
        for number, (page, (losses, notes)) in enumerate(
            zip(self.pages, remarks, strict=True), start=1
        ):
            page.losses.extend(losses)
            page.notes.extend(notes)
            if self.input.in_place:
                with named_page(number, self.input.total):
                    refuse_losses(page.losses)


@dataclass(frozen=True)
class ImageStages:
    """The stages of an image, which `stages` divides among threads.

    A single page passes `read`, `prepare`, `infer`, `finish` and `write`. Several pages are
    prepared, restored and encoded one by one in `infer`. All stages raise Cancelled after `stop`.
    """

    restorer: Restorer
    config: BatchConfig
    progress: Callable[[ImageProgress], None] | None
    observer: Observer | None
    stop: Flag
    masks: MaskReader = field(default_factory=MaskReader)
    observer_lock: Lock = field(default_factory=Lock)
    skip_check: SkipCheck = field(default_factory=SkipCheck)

    @property
    def stages(self) -> tuple[Stage, Stage, Stage]:
        """Functions from a QueuedImage to a WrittenImage, each with threads of its own.

        With a GPU, a thread runs the network while others prepare and convert single pages. On a
        CPU, all cores compute anyway, and doing these in one thread keeps fewer images in memory.
        """
        if self._on_cpu:
            return Stage(self.read), Stage(self.compute), Stage(self.write)
        return (
            Stage(lambda queued: self.prepare(self.read(queued))),
            Stage(self.infer),
            Stage(lambda current: self.write(self.finish(current)), WRITERS),
        )

    @property
    def _on_cpu(self) -> bool:
        return self.restorer.device.type == "cpu"

    @MemoryGuard("to read it")
    def read(self, queued: QueuedImage) -> _CurrentImage:
        """Decode the first page, and its right view if there is one."""
        self._check_stop()
        job = queued.job
        max_pixels = self.config.max_pixels
        data, source_file = load_file(job.source, queued.data, max_pixels)
        # After reading: what another run replaces has its entry by then.
        self._check_skip(job)
        right = right_file = mask = mask_file = None
        if job.right is not None:
            right, right_file = load_file(job.right, queued.right, max_pixels)
        if job.mask is not None:
            load = partial(load_file, job.mask, queued.mask, max_pixels)
            mask, mask_file = self.masks.read(job.mask, load, max_pixels)
        opened = open_image(job, self.restorer.task.name, self.config, data, right, mask)
        opened.pages = chain([next(opened.pages)], opened.pages)
        return _CurrentImage(queued.number, job, opened, source_file, right_file, mask_file)

    def compute(self, current: _CurrentImage) -> _CurrentImage:
        """Restore all pages."""
        return self.finish(self.infer(self.prepare(current)))

    def prepare(self, current: _CurrentImage) -> _CurrentImage:
        """Prepare a single page for the network."""
        if current.input.total == 1:
            current.prepared = self._prepare_page(current, self._next_page(current, 1))
            current.input.pages = iter(())  # frees the memory of the input
        return current

    @MemoryGuard("to restore it")
    def infer(self, current: _CurrentImage) -> _CurrentImage:
        """Run the network on a single page. Restore several ones and encode them one by one."""
        if current.prepared is not None:
            current.computed = self._infer_page(current, current.prepared)
            current.prepared = None
        else:
            with closing(self._restored_pages(current)) as images:
                current.data, remarks = encode(
                    images,
                    current.input.kind,
                    count=current.input.total,
                    quality=self.config.quality,
                )
            current.add_remarks(remarks)
            current.input.pages = iter(())  # frees the memory of the input
        return current

    @MemoryGuard("to restore it")
    def finish(self, current: _CurrentImage) -> _CurrentImage:
        """Convert the network's result for a single page back to samples."""
        if current.computed is not None:
            current.pages.append(self._finish_page(current, current.computed))
            current.computed = None
        return current

    def _restored_pages(self, current: _CurrentImage) -> Generator[Image, None, None]:
        """Yield the restored pages and add them to `current`, preparing the next meanwhile."""
        from ..inference import inherit_threads

        decode: Callable[[int], Any] = partial(self._next_page, current)
        to_view: Callable[[Any], Any] = partial(self._prepare_page, current)
        restore: Callable[[Any], Any] = partial(self._infer_page, current)
        to_page: Callable[[Any], Any] = partial(self._finish_page, current)
        if self._on_cpu:
            stages = [Stage(decode), Stage(lambda page: to_page(restore(to_view(page))))]
        else:
            stages = [Stage(lambda n: to_view(decode(n))), Stage(restore), Stage(to_page)]
        numbers = range(1, current.input.total + 1)
        with closing(run_overlapped(numbers, *stages, initializer=inherit_threads())) as results:
            for number, future in results:
                page = future.result()
                observed = self.observer is not None and number == 1
                current.pages.append(page if observed else page.without_pixels())
                yield page.image

    def _next_page(self, current: _CurrentImage, number: int) -> tuple[int, DecodedPage]:
        self._check_stop()
        return number, next(current.input.pages)

    def _prepare_page(
        self, current: _CurrentImage, numbered: tuple[int, DecodedPage]
    ) -> PreparedPage:
        self._check_stop()
        number, page = numbered
        with _page_guard(current, number, page.image):
            view = prepare(page.image, page.right, margin=self.restorer.margin)
            return PreparedPage(number, page, view)

    def _infer_page(self, current: _CurrentImage, page: PreparedPage) -> ComputedPage:
        self._check_stop()
        report = partial(self._report_progress, current, page.number)
        with _page_guard(current, page.number, page.decoded.image):
            result = self.restorer.forward(
                page.view.network_input, page.view.right, progress=report
            )
        return ComputedPage(page, result)

    def _finish_page(self, current: _CurrentImage, computed: ComputedPage) -> Page:
        self._check_stop()
        (number, decoded, view), result = computed
        image, _, mask, noise = decoded
        height, width = image.pixels.shape[:2]
        strength = self.config.strength
        with _page_guard(current, number, image):
            restored = view.return_detail(view.merge(result.pixels), self.config.keep_detail)
            change = applied = measure_change(view.colours, restored)
            if mask is not None:
                restored = view.blend(restored, mask)
                applied = measure_change(view.colours, restored)
            pixels = view.encode(restored, strength, mask)
        mask_notes, mask_warnings = mask_remarks(mask)
        return Page(
            image=replace(image, pixels=pixels),
            original=image.pixels if self.observer is not None and number == 1 else UNDECODED,
            height=height,
            width=width,
            restoration=replace(result, pixels=UNDECODED),
            noise=noise,
            change=applied.scaled(strength),
            losses=[*image.losses],
            notes=[*image.notes, *view.notes, *mask_notes, *result.notes],
            warnings=[
                *_damage(image),
                *view.warnings,
                *mask_warnings,
                *change_warnings(change, strength, noise),
            ],
            scale=decoded.scale,
        )

    def _report_progress(self, current: _CurrentImage, page: int, done: int, total: int) -> None:
        self._check_stop()
        if self.progress is not None:
            name, pages = current.job.names[0], current.input.total
            self.progress(ImageProgress(current.number, name, done, total, page, pages))

    def _check_skip(self, job: Job) -> None:
        """Raise NotNeeded if another run, or a person, has made the output since the start."""
        if self.config.skip_existing:
            settings = settings_fingerprint(self.restorer, self.config)
            if reason := self.skip_check.reason(job, settings):
                raise NotNeeded(reason)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Cancelled

    @MemoryGuard("to write it")
    def write(self, current: _CurrentImage) -> WrittenImage:
        """Encode the image unless `infer` has done so, and write it unless it goes to stdout."""
        self._check_stop()
        first, data, target = current.pages[0], current.data, current.job.target
        if data is None:
            data, remarks = encode([first.image], current.input.kind, quality=self.config.quality)
            current.add_remarks(remarks)
        event = self._restored_event(current)
        if target is not None:
            self._write_file(target, data, current, event)
        failure = self._observe(event, first)
        return WrittenImage(event, data if target is None else None, failure)

    def _observe(self, event: Restored, page: Page) -> Failed | None:
        """Call the observer with the first page, and return the event of its error."""
        if self.observer is not None:
            try:
                with MemoryGuard("for its report"), self.observer_lock:
                    before = replace(page.image, pixels=page.original).on_unit_scale()
                    self.observer(event, before, page.image.on_unit_scale())
            except ImageError as error:
                # An event, because an error loses its cause on its way from another process.
                failure = failed(event.input, event.output, event.task, error)
                return replace(failure, error=f"restored, but {failure.error}")
        return None

    def _restored_event(self, current: _CurrentImage) -> Restored:
        from ..inference import peak_memory

        pages = current.pages
        first, change = pages[0], total_change(pages)
        weights = self.restorer.weights
        return Restored(
            *current.job.names,
            task=self.restorer.task.name,
            weights=Weights(weights.name, weights.source, weights.sha256),
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
            mean_absolute_change=round(change.mean_absolute, 7),
            colour_drift=round(change.drift, 7),
            peak_memory=peak_memory(self.restorer.device),
            notes=[*current.input.notes, *merge_texts([*p.losses, *p.notes] for p in pages)],
            warnings=[
                *self.restorer.warnings,
                *current.input.warnings,
                *merge_texts(page.warnings for page in pages),
            ],
            scale=first.scale,
        )

    def _write_file(
        self, target: Path, data: bytes, current: _CurrentImage, event: Restored
    ) -> None:
        def check() -> None:
            self._check_skip(current.job)
            if current.input.in_place and not current.source_file.fits(target):
                raise ImageError("it was changed during its restoration", "Restore it again.")

        def record(data: bytes, stat: os.stat_result) -> None:
            if not isinstance(target, UrlPath):
                check()  # right before the replacement
            if not self.config.record:
                return
            settings = settings_fingerprint(self.restorer, self.config)
            output = FileFingerprint.of(data, stat.st_mtime_ns)
            files = current.source_file, current.right_file, output
            in_place, mask = current.input.in_place, current.mask_file
            event.notes.extend(
                append_entry(target, event, settings, *files, in_place=in_place, mask=mask)
            )

        if isinstance(target, UrlPath):
            check()  # here, because `ready` is called after the upload
        make_folder(resolve_link(target).parent)
        write_encoded(data, target, ready=record)


@contextmanager
def _page_guard(current: _CurrentImage, number: int, image: Image) -> Iterator[None]:
    """Let errors name the page, and its size if memory runs out."""
    height, width = image.pixels.shape[:2]
    with named_page(number, current.input.total), MemoryGuard(f"for {width} x {height} pixels"):
        yield


def _damage(image: Image) -> list[str]:
    """Return a warning if only a part of the image could be decoded."""
    return [] if image.damage is None else [f"damaged: {image.damage}"]
