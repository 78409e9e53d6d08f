"""A worker, which loads the network and restores images until it is stopped, and its messages.

The pool sends QueuedImage, and None to stop. The worker first sends Ready, or the RestormerError
that prevents it, and then any other messages. The last message is WorkerExited.
"""

from __future__ import annotations

import traceback
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..batch import (
    Cancelled,
    Failed,
    ImageProgress,
    ImageStages,
    Skipped,
    WrittenImage,
    failure_event,
    settings_fingerprint,
    stage_executor,
)
from ..errors import ImageError, RestormerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..batch import BatchConfig, Job, Observer, QueuedImage, SettingsFingerprint
    from ..inference import Restorer, RestorerConfig

    Send: TypeAlias = Callable[["Message"], None]


class Ready(NamedTuple):
    """The network is loaded."""

    settings: SettingsFingerprint
    description: str  # of weights, device and precision


class Note(NamedTuple):
    """A sentence for the user."""

    text: str


class WorkerExited(NamedTuple):
    """The worker has ended."""

    cause: str


Message: TypeAlias = (
    Ready | Note | ImageProgress | WrittenImage | Failed | Skipped | WorkerExited | RestormerError
)


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker, sent to its process."""

    restorer: RestorerConfig
    batch: BatchConfig
    observer: Observer | None

    def for_device(self, device: str, sharing: int) -> WorkerConfig:
        """Return the configuration for a device that `sharing` workers share."""
        return replace(self, restorer=replace(self.restorer, device=device, sharing=sharing))


def run_worker(requests: Iterable[QueuedImage], config: WorkerConfig, send: Send) -> None:
    """Load the network, send Ready, and `serve`; or send the RestormerError that prevents it."""
    from ..inference import Restorer

    try:
        restorer = Restorer(config.restorer, notify=lambda text: send(Note(text)))
    except RestormerError as error:
        send(error)
        return
    send(Ready(settings_fingerprint(restorer, config.batch), describe(restorer)))
    serve(requests, restorer, config, send)


def describe(restorer: Restorer) -> str:
    """Return the weights, device, precision and, where there can be one, the fused block."""
    from ..inference import PRECISIONS, fusion_status

    text = f"{restorer.weights.path} on {restorer.device}, {restorer.precision}"
    if restorer.device.type == "mps":
        return text
    request = restorer.architecture, PRECISIONS[restorer.precision], restorer.device
    return f"{text}, fused block: {fusion_status(*request)}"


def serve(
    requests: Iterable[QueuedImage], restorer: Restorer, config: WorkerConfig, send: Send
) -> None:
    """Restore and write images in overlapping stages, as `run_batch` does.

    Args:
        requests: the images. At their end, only images that are being written are finished.
        restorer: the network to run.
        config: how to read, blend, write and observe.
        send: called from several threads with the progress of the current image, and with
            WrittenImage, Failed or Skipped for each image in order.
    """
    from ..inference import inherit_threads

    work = ImageStages(restorer, config.batch, send, config.observer, Flag())

    def finish(job: Job, future: Future[WrittenImage]) -> None:
        match CancelledError() if future.cancelled() else future.exception():
            case None:
                send(future.result())
            case ImageError() as error:
                send(failure_event(job, restorer.task.name, error))
            case Cancelled() | CancelledError():
                pass
            case RestormerError() as error:  # of the device: another worker tries again
                send(WorkerExited(error.message))
            case error:  # a bug: the executor would hide it, and the pool would wait forever
                traceback.print_exception(error)
                send(WorkerExited(f"{type(error).__name__}: {error}"))

    unsent: deque[tuple[Job, Future[WrittenImage]]] = deque()
    lock = Lock()

    def send_finished(_: Future[WrittenImage]) -> None:
        with lock:
            while unsent and unsent[0][1].done():
                finish(*unsent.popleft())

    with stage_executor(*work.stages, initializer=inherit_threads()) as submit:
        try:
            for image in requests:
                future = submit(image)
                with lock:
                    unsent.append((image.job, future))
                future.add_done_callback(send_finished)
        finally:
            work.stop.set()
