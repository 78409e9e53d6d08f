"""A bounded queue of images in front of one network, which one thread uses."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from .. import reports
from ..batch import (
    Cancelled,
    ImageStages,
    Job,
    QueuedImage,
    failure_event,
    first_noise,
    restored_name,
)
from ..checkpoints import AUTO_SIGMA, BY_QUERY, TASKS, TRAINED_SIGMAS, resolve_checkpoint
from ..errors import ImageError, UsageError
from ..files import exists
from ..imaging import decode, sigma_for, write_encoded
from ..memory import MemoryGuard, release
from .parameters import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..batch import BatchConfig, Event, ImageProgress, Restored
    from ..imaging import Noise
    from ..inference import Restorer, RestorerConfig
    from .body import File
    from .config import ServerConfig

Result = TypeVar("Result")

MAX_WAIT = 600
"""Greatest number of seconds after which a client is asked to try again."""


class Reporter(Protocol):
    """Receives what the server does."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def say(self, text: str) -> None:
        """Show a message."""

    def warn(self, text: str) -> None:
        """Show a warning."""


class BusyError(Exception):
    """All places are taken; one is expected to be free after some seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ClosingError(Exception):
    """The server is ending."""


class Order(NamedTuple):
    """An image to restore."""

    name: str  # for messages, and for the format of camera raw files
    files: Mapping[str, File]  # "image" and perhaps "mask" and "right"
    format: str | None  # a key of FORMATS; None for that of the input
    restorer: RestorerConfig
    batch: BatchConfig
    noise: Noise | None = None  # if it was estimated

    @property
    def job(self) -> Job:
        """The job of the image, whose result goes to no file."""
        return Job(
            Path(self.name),
            None,
            right=self._path("right"),
            format=self.format,
            noise=self.noise,
            mask=self._path("mask"),
        )

    @property
    def queued(self) -> QueuedImage:
        """The job and its files."""
        data = {name: file.data for name, file in self.files.items()}
        return QueuedImage(0, self.job, data["image"], data.get("right"), data.get("mask"))

    def with_own_sigma(self) -> Order:
        """Return the order with the weights that `sigma=auto` chooses, as the command does."""
        restorer, noise = self.restorer, None
        if restorer.sigma != AUTO_SIGMA:
            return self
        if restorer.weights in BY_QUERY:
            with suppress(ImageError):  # reported when the image is restored
                noise = first_noise(self.files["image"].data, self.batch, self.name)
        sigma = sigma_for(noise, TRAINED_SIGMAS)
        return self._replace(restorer=replace(restorer, sigma=sigma), noise=noise)

    def _path(self, part: str) -> Path | None:
        """Return the name of a file, for messages."""
        file = self.files.get(part)
        return None if file is None else Path(file_name(file.name, part))


class RestoredFile(NamedTuple):
    """An encoded result."""

    name: str
    format: str  # a key of FORMATS
    data: bytes
    event: Restored


@dataclass(eq=False)
class Place:
    """A place in the queue, from the start of a request until its answer is sent.

    Attributes:
        identifier: chosen by the client, to ask for the progress.
        state: "receiving", "waiting" or "restoring"; "absent" if there is no such place.
        share: restored fraction of the image, 0..1.
        stop: set to end the computation at its next step.
    """

    identifier: str | None
    state: str = "receiving"
    share: float = 0.0
    stop: Flag = field(default_factory=Flag)
    work: Future[object] | None = None

    def show_progress(self, progress: ImageProgress) -> None:
        """Record the progress of the image."""
        self.share = progress.share


class RestoringQueue:
    """Restore images one after the other, with at most one network in memory.

    Bodies of requests are read into a place, so that the number of places limits the memory. Its
    methods are called in the thread of the event loop, those with an underscore in the worker's.
    """

    def __init__(self, config: ServerConfig, reporter: Reporter) -> None:
        from ..inference import inherit_threads

        self._config, self._reporter = config, reporter
        self._places: dict[Place, None] = {}
        self._thread = ThreadPoolExecutor(1, "restorer", initializer=inherit_threads())
        self._loaded: Restorer | None = None
        self._seconds = 1.0  # mean time of an image
        self.is_closing = False

    def load(self) -> None:
        """Load the network of the weights' own task, to report its problems at the start.

        Raises:
            RestormerError: the weights or the device are unavailable.
        """
        self._thread.submit(self._load_first).result()

    @contextmanager
    def place(self, identifier: str | None = None) -> Iterator[Place]:
        """Take a place, and free it on leaving the context and the end of its computation.

        Raises:
            BusyError: all places are taken.
            ClosingError: the server is ending.
        """
        if self.is_closing:
            raise ClosingError
        if len(self._places) > self._config.queue:
            seconds = math.ceil(self._seconds * len(self._places))
            raise BusyError(max(1, min(seconds, MAX_WAIT)))
        place = Place(identifier)
        self._places[place] = None
        try:
            yield place
        finally:
            place.stop.set()
            if place.work is None or place.work.done() or place.work.cancel():
                del self._places[place]
            else:  # the memory of the image is in use until the next step
                free, loop = self._places.pop, asyncio.get_running_loop()
                place.work.add_done_callback(lambda _: loop.call_soon_threadsafe(free, place))

    async def run(self, place: Place, work: Callable[[Place], Result]) -> Result:
        """Wait for the worker, and return what `work` returns there.

        Raises:
            ClosingError: the server is ending, and the work had not started.
            RestormerError: the work failed.
        """
        if self.is_closing:
            raise ClosingError
        place.state = "waiting"
        future = self._thread.submit(work, place)
        place.work = future  # type: ignore[assignment] # of any result
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self.is_closing:
                raise ClosingError from None
            raise
        except Cancelled:
            raise ClosingError from None

    def find(self, identifier: str) -> tuple[Place, int] | None:
        """Return the place with this identifier, and the number of places ahead of it."""
        for number, place in enumerate(self._places):
            if place.identifier == identifier:
                return place, number
        return None

    @property
    def taken(self) -> int:
        """Number of places that are taken."""
        return len(self._places)

    def drain(self) -> None:
        """Refuse new images and those that wait; the current one is finished."""
        self.is_closing = True
        for place in self._places:
            if place.work is not None:
                place.work.cancel()

    def stop(self) -> None:
        """End the current computation at its next step, too."""
        self.drain()
        for place in self._places:
            place.stop.set()

    def close(self) -> None:
        """End the worker after its current image."""
        self._thread.shutdown(cancel_futures=True)

    def restore(self, order: Order) -> Callable[[Place], RestoredFile]:
        """Return the work that restores an image."""

        def work(place: Place) -> RestoredFile:
            if place.stop.is_set():
                raise Cancelled
            place.state = "restoring"
            started = time.monotonic()
            try:
                result = self._restore(order, place)
            except ImageError as error:
                self._reporter.show(failure_event(order.job, order.restorer.task, error))
                release(error)  # the future keeps it
                raise
            self._reporter.show(result.event)
            self._seconds += 0.3 * (time.monotonic() - started - self._seconds)
            return result

        return work

    def _load_first(self) -> None:
        config = self._config.restorer
        weights = config.weights
        if isinstance(weights, str) and weights not in (*BY_QUERY, "lite"):
            default, warn = TASKS[config.task], self._reporter.warn
            found = resolve_checkpoint(weights, config.checkpoint, default, notify=warn)
            config = replace(config, task=found.task or config.task)
        try:
            self._restorer(config)
        except UsageError:
            # The network may take two views.
            self._restorer(replace(config, task="defocus", dual_pixel=True))

    def _restore(self, order: Order, place: Place) -> RestoredFile:
        order = order.with_own_sigma()
        restorer = self._restorer(order.restorer)
        stages = ImageStages(restorer, order.batch, place.show_progress, None, place.stop)
        current = stages.read(order.queued)
        event, data, _ = stages.write(stages.compute(current))
        assert data is not None  # noqa: S101 - the job has no target
        name = restored_name(Path(order.name), current.input.kind).name
        if self._config.keep is not None:
            try:
                _keep(self._config.keep, name, data)
            except ImageError as error:  # no fault of the client, who has the result
                cause = f"{error.message}. The result was sent, but is not kept"
                self._reporter.warn(f"{cause}. {error.hint}")
        return RestoredFile(name, current.input.kind, data, event)

    def _restorer(self, config: RestorerConfig) -> Restorer:
        """Return the restorer for a configuration; the previous one is freed first."""
        from ..inference import Restorer

        if self._loaded is None or self._loaded.config != config:
            self._loaded = None
            gc.collect()
            self._loaded = Restorer(config, notify=self._reporter.warn)
        return self._loaded


def preview(name: str, data: bytes, max_pixels: int) -> Callable[[Place], bytes]:
    """Return the work that draws the first page of an image as a JPEG for a screen."""

    def work(_: Place) -> bytes:
        with MemoryGuard("to draw it"):
            images = decode(data, max_pixels=max_pixels, name=name, allow_damaged=True).images
            return reports.draw_preview(next(images).on_unit_scale())

    return work


def _keep(folder: Path, name: str, data: bytes) -> None:
    """Write a result under a name that is free."""
    path, number = folder / name, 1
    while exists(path):
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    write_encoded(data, path)
