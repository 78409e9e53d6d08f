"""A worker pool, which distributes the images of a run and replaces workers that die."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

from ..batch import (
    Event,
    Failed,
    ImageProgress,
    QueuedImage,
    Skipped,
    StandardStreams,
    Started,
    WrittenImage,
    describe_run,
    failure_event,
    queue_images,
    send_to_stdout,
)
from ..errors import DeviceError, ImageError, RestormerError
from ..files import remove_leftovers
from ..imaging import MAX_PIXELS
from .worker import Message, Note, Ready, WorkerExited

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ..batch import Job, SettingsFingerprint
    from .worker import Send

PREFETCH = 4  # maximum number of images per worker: one is read, one computed, two are written
STOP_TIMEOUT = 30.0  # seconds in which workers can finish writing when the run is stopped


class Reporter(Protocol):
    """Receives reports of a run."""

    def say(self, text: str) -> None:
        """Report a line that may be suppressed."""

    def detail(self, text: str) -> None:
        """Report a line of detail."""

    def warn(self, text: str) -> None:
        """Report a warning."""

    def show_progress(self, progress: ImageProgress) -> None:
        """Report the progress of the current image."""


class Worker(Protocol):
    """A running worker, as the pool sees it."""

    def give(self, image: QueuedImage | None) -> None:
        """Send an image, or None to stop. Do nothing if the worker has ended."""

    def kill(self) -> None:
        """End the worker immediately."""


class Launcher(Protocol):
    """Starts workers."""

    @property
    def devices(self) -> Sequence[str]:
        """Device of each worker."""

    def start_worker(self, index: int, send: Send) -> Worker:
        """Start a worker on `devices[index]`; it calls `send` from another thread."""

    def check_unused(self, devices: Sequence[str]) -> None:
        """Raise DeviceError if a device is unavailable. Workers check those on which they start."""

    def close(self) -> None:
        """Release resources, once all workers are killed."""


@dataclass(eq=False)
class _Member:
    """A worker of the pool and its state."""

    index: int
    worker: Worker = field(init=False)
    ready: Ready | None = None
    images: deque[QueuedImage] = field(default_factory=deque)  # sent and not finished, in order
    retrying: bool = False  # its only image is one with which another worker died
    share: float = 0.0  # finished fraction of its current image


@dataclass
class WorkerPool:
    """Distributes a run's images among workers. The next image goes to a free worker.

    A worker that dies is replaced. Another worker retries each of its images, one at a time. If
    that worker dies, too, the image is considered the cause and fails.

    Args:
        launcher: starts the workers.
        task: name of the task.
        reporter: receives warnings, descriptions of the workers, and progress.
        max_pixels: maximum number of pixels of an image.
    """

    launcher: Launcher
    task: str
    reporter: Reporter
    max_pixels: int = MAX_PIXELS
    _members: list[_Member] = field(default_factory=list)
    _inbox: SimpleQueue[tuple[_Member, Message]] = field(default_factory=SimpleQueue)
    _notes: set[str] = field(default_factory=set)
    _retries: deque[QueuedImage] = field(default_factory=deque)
    _weights: str | None = None  # digest, the same for all workers
    _unassigned: int = 0
    _finished: int = 0
    _running: bool = False
    _stopping: bool = False

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Start the workers that this number of images needs, and return their settings.

        Raises:
            RestormerError: a worker cannot start, or a device without a worker is unavailable.
        """
        devices = self.launcher.devices
        self.launcher.check_unused(devices[images:])
        for index in range(len(self._members), min(images, len(devices))):
            self._start_worker(index)
        while not all(member.ready for member in self._members):
            deque(self._receive(), maxlen=0)
        return [member.ready.settings for member in self._members if member.ready]

    def forecast(self, jobs: Sequence[Job]) -> str:
        """Return one sentence on the work of the run; the speed of all workers is unknown."""
        return describe_run(jobs, None)

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore and write images as `run_batch` does; yield events in the order of completion.

        Raises:
            RestormerError: a worker cannot start.
        """
        self.prepare(len(jobs))
        self._running = True
        images = queue_images(jobs, streams.stdin, self.max_pixels)
        self._unassigned = len(jobs)
        try:
            while self._unassigned or self._retries or any(m.images for m in self._members):
                if not self._members:
                    for image in (*self._retries, *images):
                        yield self._fail(image, "no worker is left to restore it")
                    return
                yield from self._assign(images)
                for result in self._receive():
                    if isinstance(result, WrittenImage):
                        result = send_to_stdout(result, streams.stdout)
                    yield result
        except KeyboardInterrupt:
            for result in self._stop():
                if isinstance(result, WrittenImage):
                    yield send_to_stdout(result, streams.stdout)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Stop all workers, which finish writing and drop other images, and then kill them."""
        try:
            if not self._stopping and any(member.images for member in self._members):
                deque(self._stop(), maxlen=0)
        finally:
            for member in self._members:
                member.worker.kill()
            self._members.clear()
            self.launcher.close()

    def _start_worker(self, index: int) -> None:
        def send(message: Message) -> None:
            self._inbox.put((member, message))

        member = _Member(index)
        member.worker = self.launcher.start_worker(index, send)
        self._members.append(member)

    def _stop(self) -> Iterator[Event | WrittenImage]:
        """Ask all workers to stop, and yield the images that they finish within the timeout."""
        self._stopping = True
        for member in self._members:
            member.worker.give(None)
        end = time.monotonic() + STOP_TIMEOUT
        while self._members and (timeout := end - time.monotonic()) > 0:
            yield from self._receive(timeout)

    def _assign(self, images: Iterator[QueuedImage]) -> Iterator[Started]:
        """Send images to the workers in turn, until none can take another."""
        assigned = True
        while assigned:
            assigned = False
            for member in self._members:
                if (image := self._next_image(member, images)) is not None:
                    assigned = True
                    member.images.append(image)
                    member.worker.give(image)
                    if len(member.images) == 1:
                        yield Started(*image.job.names, self.task)

    def _next_image(self, member: _Member, images: Iterator[QueuedImage]) -> QueuedImage | None:
        if member.ready is None or member.retrying or (self._retries and member.images):
            return None
        if self._retries:
            member.retrying = True
            return self._retries.popleft()
        # No prefetch near the end of the run, so that all workers end at about the same time.
        limit = PREFETCH if self._unassigned > PREFETCH * len(self._members) else 1
        if not self._unassigned or len(member.images) >= limit:
            return None
        self._unassigned -= 1
        return next(images)

    def _receive(self, timeout: float | None = None) -> Iterator[Event | WrittenImage]:
        """Wait for a message and act on it. Yield finished images and images that start."""
        try:
            member, message = self._inbox.get(timeout=timeout)
        except Empty:
            return
        if member not in self._members:  # it was replaced
            return
        match message:
            case Ready(settings, description):
                if self._weights not in (None, settings["weights"]):
                    error = DeviceError(
                        "the workers have different weights",
                        "Choose weights that all of them have: --weights lite, or a file.",
                    )
                    yield from self._replace(member, error)
                    return
                self._weights = settings["weights"]
                member.ready = message
                self.reporter.detail(description)
            case Note(text):
                if text not in self._notes:  # other workers may have sent it
                    self._notes.add(text)
                    self.reporter.warn(text)
            case ImageProgress():
                if not self._stopping:
                    member.share = message.share
                    others = sum(other.share for other in self._members if other is not member)
                    self.reporter.show_progress(message._replace(number=self._finished + others))
            case WrittenImage() | Failed() | Skipped():
                member.images.popleft()
                member.retrying, member.share = False, 0.0
                self._finished += 1
                yield message
                if member.images:
                    yield Started(*member.images[0].job.names, self.task)
            case WorkerExited() | RestormerError():
                yield from self._replace(member, message)

    def _replace(self, member: _Member, reason: WorkerExited | RestormerError) -> Iterator[Event]:
        """Replace a worker that died, unless it never was ready; yield the images that fail."""
        self._members.remove(member)
        member.worker.kill()
        if self._stopping:
            return
        device = self.launcher.devices[member.index]
        cause = reason.cause if isinstance(reason, WorkerExited) else reason.message
        if not self._running:
            if isinstance(reason, RestormerError):
                raise reason
            raise DeviceError(
                f"the worker on {device} ended before it was ready ({cause})",
                "Memory may be too small for all of them: name fewer devices.",
            )
        folders = (image.job.folder for image in member.images)
        remove_leftovers({folder for folder in folders if folder is not None})
        if member.ready is None:
            self.reporter.warn(f"no worker can be started on {device} again ({cause})")
            return
        if member.retrying:
            yield self._fail(member.images.popleft(), f"a second worker died with it ({cause})")
        elif member.images:
            # The output may have replaced the input already, which must not be restored twice.
            for image in (image for image in member.images if image.job.in_place):
                yield self._fail(
                    image,
                    f"a worker died with it ({cause}), and in place it may be restored already",
                    "Repeat the command with --skip-existing: it restores the image if needed.",
                )
            retries = [image for image in member.images if not image.job.in_place]
            names = ", ".join(image.job.names[0] for image in retries) or "nothing"
            self.reporter.warn(f"the worker on {device} died ({cause}); to be tried again: {names}")
            self._retries += retries
        if self._unassigned or self._retries:
            self._start_worker(member.index)

    def _fail(
        self, image: QueuedImage, cause: str, hint: str = "If memory is too small, try --tile 512."
    ) -> Event:
        self._finished += 1
        return failure_event(image.job, self.task, ImageError(cause, hint))
