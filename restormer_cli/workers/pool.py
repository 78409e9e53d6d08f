"""Several workers on one run: who restores which image, and what becomes of a dead one's."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..batch import (
    Cancelled,
    Event,
    Failed,
    ImageProgress,
    ImageStages,
    QueuedImage,
    StandardStreams,
    Started,
    WrittenImage,
    failure_event,
    queue_images,
    send_to_stdout,
    settings_fingerprint,
    stage_executor,
)
from ..callbacks import Notify
from ..errors import DeviceError, ImageError, RestormerError
from ..files import remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from queue import SimpleQueue

    from ..batch import BatchConfig, Failed, Job, Observer, SettingsFingerprint
    from ..inference import Restorer, RestorerConfig


# --- worker --------------------------------------------------------------------------------------


class Ready(NamedTuple):
    """The network is loaded: what it makes outputs with, and what it runs on, in words."""

    recipe: SettingsFingerprint
    about: str


class Note(NamedTuple):
    """What a user should know."""

    text: str


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker runs; it is sent to the worker's process."""

    restorer: RestorerConfig
    batch: BatchConfig
    observer: Observer | None


def work(inbox: SimpleQueue[Any], config: WorkerConfig) -> Generator[Any, None, None]:
    """Load the network, then serve: yields Ready first, or the error for which it cannot."""
    from ..inference import Restorer

    try:
        restorer = Restorer(config.restorer, notify=lambda text: inbox.put(Note(text)))
    except RestormerError as error:
        yield error
        return
    yield Ready(settings_fingerprint(restorer, config.batch), about(restorer))
    yield from serve(inbox, restorer, config)


def about(restorer: Restorer) -> str:
    """What it runs with, and where."""
    return f"{restorer.weights.path} on {restorer.device}, {restorer.precision}"


def serve(
    inbox: SimpleQueue[Any], restorer: Restorer, config: WorkerConfig
) -> Generator[Any, None, None]:
    """Restore and write images as they come, in the stages of `batch.run`.

    Yields, in the order of the images, what each ends in: Written, or Failed; and all else that
    comes into the inbox, which is the way out for other threads: Parts of the image at work.

    Args:
        inbox: images to come (Given). With None the service ends: what is being written is
            finished and told, the rest dropped.
        restorer: does it.
        config: how to read, blend, write and observe.
    """
    from ..inference import (
        inherit_threads,  # torch takes seconds to import; who has a restorer has it
    )

    work = ImageStages(restorer, config.batch, inbox.put, config.observer, Flag())
    under_way: dict[Future[WrittenImage], Job] = {}

    def end(future: Future[WrittenImage]) -> Iterator[WrittenImage | Failed]:
        job = under_way.pop(future)
        try:
            yield future.result()
        except ImageError as error:
            yield failure_event(job, restorer.task.name, error)
        except (Cancelled, CancelledError):
            pass

    try:
        with stage_executor(
            work.read, work.compute, work.write, initializer=inherit_threads()
        ) as submit:
            for item in iter(inbox.get, None):
                if isinstance(item, QueuedImage):
                    future = submit(item)
                    under_way[future] = item.job
                    future.add_done_callback(inbox.put)
                elif isinstance(item, Future):
                    yield from end(item)
                else:
                    yield item
            work.stop.set()
        for future in list(under_way):
            yield from end(future)
    finally:
        work.stop.set()


# --- fleet ---------------------------------------------------------------------------------------


AHEAD = 3
"""How many images a worker holds in a long run: one is read, one computed, one written."""

PATIENCE = 30.0
"""Seconds that workers have, when the run is stopped, to finish what they are writing."""


class WorkerExited(NamedTuple):
    """A worker has ended, and how."""

    cause: str


class Worker(Protocol):
    """One that runs `worker.work`, wherever that is."""

    def give(self, item: QueuedImage | None) -> None:
        """Put it into the inbox. That the worker has ended is no error: it will be heard."""

    def kill(self) -> None:
        """End it at once, whatever it does."""


class Host(Protocol):
    """Where workers run."""

    @property
    def places(self) -> Sequence[str]:
        """What each of them runs on."""

    def hire(self, place: int, tell: Callable[[object], None]) -> Worker:
        """Start a worker; `tell` is to be called with what `work` yields and, at last, Gone."""

    def close(self) -> None:
        """Leave it. All workers have been killed."""


@dataclass(eq=False)
class _Member:
    """A worker and the images it holds, the first of which is its next to end."""

    place: int
    worker: Worker | None = None
    ready: Ready | None = None
    held: deque[QueuedImage] = field(default_factory=deque)
    on_trial: bool = False  # the image it holds is one that a worker has died with
    part: float = 0.0  # of the image it computes, how much is done


@dataclass
class WorkerPool:
    """Shares a run's images among workers: whoever is free takes the next.

    When a worker dies, another takes its place. Each image that it held is tried once more, by a
    worker that holds no other: should that one die, too, it is known with which.

    Args:
        host: where the workers run.
        task: what they do.
        notify: told in a sentence what did not go as asked.
        detail: told of every worker that is ready.
        progress: told of the images that are computed.
    """

    host: Host
    task: str
    notify: Notify
    detail: Notify
    progress: Callable[[ImageProgress], None]
    _members: list[_Member] = field(default_factory=list)
    _heard: SimpleQueue[tuple[_Member, object]] = field(default_factory=SimpleQueue)
    _noted: set[str] = field(default_factory=set)
    _trials: deque[QueuedImage] = field(default_factory=deque)
    _weights: object = None  # that all of them restore with
    _left: int = 0  # images that nobody has been given
    _ended: int = 0

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Start as many workers as so many images are worth; what each of them restores with.

        Raises:
            RestormerError: one of them cannot start.
        """
        for place in range(len(self._members), min(images, len(self.host.places))):
            self._hire(place)
        while not all(member.ready for member in self._members):
            for member, message in self._hear():
                if isinstance(message, RestormerError):
                    raise message
                if isinstance(message, WorkerExited):
                    raise DeviceError(
                        f"the worker on {self.host.places[member.place]} ended before it was ready "
                        f"({message.cause})",
                        "Memory may be too little for so many: name fewer devices.",
                    )
        return [member.ready.recipe for member in self._members if member.ready]

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore and write images: as `batch.run`, but told in the order in which they end.

        Raises:
            RestormerError: a worker cannot start.
        """
        self.prepare(len(jobs))
        line, self._left = queue_images(jobs, streams.stdin), len(jobs)
        try:
            while self._left or self._trials or any(member.held for member in self._members):
                if not self._members:
                    yield from self._abandoned([*self._trials, *line])
                    return
                yield from self._hand_out(line)
                for member, message in self._hear():
                    yield from self._act_on(member, message, streams)
        except KeyboardInterrupt:
            for written in self._wind_up():
                yield send_to_stdout(written, streams.stdout)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """End all workers; what they are writing is finished, and what they compute is dropped."""
        try:
            if any(member.held for member in self._members):
                deque(self._wind_up(), maxlen=0)
        finally:
            for member in self._members:
                if member.worker is not None:
                    member.worker.kill()
            self._members.clear()
            self.host.close()

    def _hire(self, place: int) -> None:
        member = _Member(place)
        self._members.append(member)  # before it starts: an interruption must find it
        member.worker = self.host.hire(place, lambda message: self._heard.put((member, message)))

    # --- giving ---

    def _hand_out(self, line: Iterator[QueuedImage]) -> Iterator[Event]:
        """Give everybody what is theirs now, one image each in turn."""
        giving = True
        while giving:
            giving = False
            for member in self._members:
                item = self._next(member, line)
                if item is not None and member.worker is not None:
                    giving = True
                    member.held.append(item)
                    member.worker.give(item)
                    if len(member.held) == 1:
                        yield Started(*item.job.names, self.task)

    def _next(self, member: _Member, line: Iterator[QueuedImage]) -> QueuedImage | None:
        if member.ready is None or member.on_trial or (self._trials and member.held):
            return None
        if self._trials:
            member.on_trial = True
            return self._trials.popleft()
        # Near its end nothing is given ahead: all shall end at about the same time.
        most = AHEAD if self._left > AHEAD * len(self._members) else 1
        if not self._left or len(member.held) >= most:
            return None
        self._left -= 1
        return next(line)

    # --- hearing ---

    def _hear(self, timeout: float | None = None) -> Iterator[tuple[_Member, object]]:
        """Wait for what a worker has to tell; what is not about an image is done with here."""
        try:
            member, message = self._heard.get(timeout=timeout)
        except Empty:
            return
        if member not in self._members:  # the last words of a dead one
            return
        match message:
            case Ready(recipe, about):
                if self._weights not in (None, recipe["weights"]):
                    yield (
                        member,
                        DeviceError(
                            "the workers have found different weights",
                            "Name some that all of them have: --weights lite, or a file.",
                        ),
                    )
                    return
                self._weights = recipe["weights"]
                member.ready = message
                self.detail(about)
            case Note(text):
                if text not in self._noted:  # all of them would say it
                    self._noted.add(text)
                    self.notify(text)
            case _:
                yield member, message

    def _act_on(
        self, member: _Member, message: object, streams: StandardStreams
    ) -> Iterator[Event]:
        match message:
            case ImageProgress():
                member.part = message.share
                others = sum(each.part for each in self._members if each is not member)
                self.progress(message._replace(number=self._ended + others))
            case WrittenImage() | Failed():
                member.held.popleft()
                member.on_trial, member.part = False, 0.0
                self._ended += 1
                yield (
                    send_to_stdout(message, streams.stdout)
                    if isinstance(message, WrittenImage)
                    else message
                )
                if member.held:
                    yield Started(*member.held[0].job.names, self.task)
            case WorkerExited(cause):
                yield from self._replace(member, cause)
            case RestormerError():  # of one that was to take a dead one's place
                yield from self._replace(member, message.message)

    def _replace(self, member: _Member, cause: str) -> Iterator[Event]:
        """Go on without a worker: take another for one that has died, none if it did not start."""
        self._members.remove(member)
        targets = [item.job.target for item in member.held]
        remove_leftovers({target.parent for target in targets if target is not None})
        name = self.host.places[member.place]
        if member.ready is None:
            self.notify(f"no worker can be started on {name} again ({cause})")
            return
        if member.on_trial:
            self._ended += 1
            yield self._dead(member.held.popleft(), f"a second worker died with it ({cause})")
        elif member.held:
            again = [item for item in member.held if not item.job.in_place]
            for item in member.held:
                if item.job.in_place:  # perhaps it is done, and must not be done twice
                    self._ended += 1
                    yield failure_event(item.job, self.task, _unknown(cause))
            names = ", ".join(str(item.job.names[0]) for item in again) or "nothing"
            self.notify(f"the worker on {name} died ({cause}); to be tried again: {names}")
            self._trials += again
        if self._left or self._trials:
            self._hire(member.place)

    def _dead(self, item: QueuedImage, cause: str) -> Failed:
        error = ImageError(cause, "It may want more memory than there is: try --tile 512.")
        return failure_event(item.job, self.task, error)

    def _abandoned(self, items: Iterable[QueuedImage]) -> Iterator[Event]:
        """The end of a run that has no workers any more."""
        for item in items:
            yield self._dead(item, "no worker is left to restore it")

    def _wind_up(self) -> Iterator[WrittenImage]:
        """Tell all workers to end, and wait for what they are writing."""
        for member in self._members:
            if member.worker is not None:
                member.worker.give(None)
        end = time.monotonic() + PATIENCE
        while self._members and (patience := end - time.monotonic()) > 0:
            for member, message in self._hear(patience):
                if isinstance(message, WrittenImage):
                    yield message
                elif isinstance(message, (WorkerExited, RestormerError)):
                    if member.worker is not None:
                        member.worker.kill()
                    self._members.remove(member)


def _unknown(cause: str) -> ImageError:
    return ImageError(
        f"a worker died with it ({cause}), and in place it may be restored already",
        "The same command with --skip-existing knows, and restores it if it is not.",
    )
