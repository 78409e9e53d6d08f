"""Results of the stages: the images that are written, and the events of those that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..errors import ImageError
from ..imaging import write_encoded
from .events import Failed, Restored

if TYPE_CHECKING:
    from .jobs import Job


class WrittenImage(NamedTuple):
    """A finished image."""

    event: Restored
    data: bytes | None  # the file's content if it goes to stdout
    error: ImageError | None = None  # of the observer


def send_to_stdout(written: WrittenImage, stdout: BinaryIO) -> Restored | Failed:
    """Write the image to stdout if it has no file, and return its event."""
    event = written.event
    try:
        if written.data is not None:
            write_encoded(written.data, stdout)
    except ImageError as error:
        return _failed(event.input, event.output, event.task, error)
    if written.error is not None:  # the image is written all the same
        return _failed(event.input, event.output, event.task, written.error)
    return event


def failure_event(job: Job, task: str, error: ImageError) -> Failed:
    """Return the event for an error of one image."""
    return _failed(*job.names, task, error)


def _failed(name: str, output: str, task: str, error: ImageError) -> Failed:
    """Return the event without repeating the image's name in the error."""
    return Failed(name, output, task, error.message.removeprefix(f"{name}: "), error.hint)
