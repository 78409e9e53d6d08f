"""Results of the stages: the images that are written, and the events of those that failed."""

from __future__ import annotations

import errno
import sys
import traceback
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..errors import ImageError, RestormerError
from ..imaging import write_encoded
from ..text import first_line, printable
from .events import Failed, Restored, Skipped

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .jobs import Job

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Cancelled(Exception):  # noqa: N818 - not an error
    """The run was interrupted before the image was written."""


class NotNeeded(ImageError):  # noqa: N818 - not an error
    """The image is not restored; the message is the reason for skipping it."""


class WrittenImage(NamedTuple):
    """A finished image."""

    event: Restored
    data: bytes | None  # the file's content if it goes to stdout
    failure: Failed | None = None  # of the observer


def send_to_stdout(written: WrittenImage, stdout: BinaryIO) -> Restored | Failed:
    """Write the image to stdout if it has no file, and return its event."""
    event = written.event
    try:
        if written.data is not None:
            write_encoded(written.data, stdout)
    except ImageError as error:
        return failed(event.input, event.output, event.task, error)
    return event if written.failure is None else written.failure


def result_event(
    job: Job, task: str, future: Future[WrittenImage], stdout: BinaryIO
) -> Restored | Failed | Skipped:
    """Wait for an image, and return its event; raise an error that ends the run."""
    try:
        written = future.result()
    except Exception as error:  # noqa: BLE001 - a defect is shown, and costs one image
        return failure_event(job, task, error)
    return send_to_stdout(written, stdout)


def failure_event(job: Job, task: str, error: Exception) -> Failed | Skipped:
    """Return the event for an error of one image; raise an error that ends the run.

    NotNeeded gives Skipped, all others Failed. An unexpected error is a defect of the program,
    which may show with this image only. Its traceback is printed, and the run continues.
    """
    if isinstance(error, NotNeeded):
        return Skipped(*job.names, task, error.message)
    if not isinstance(error, ImageError):
        if isinstance(error, (RestormerError, Cancelled, CancelledError)):
            raise error
        lines = traceback.format_exception(error)
        sys.stderr.write(printable("".join(lines), lines=True))  # at once: threads write, too
        cause = f"this is a defect of restormer ({type(error).__name__}: {first_line(error)})"
        error = ImageError(cause, "Please report it with the traceback.")
    return failed(*job.names, task, error)


def failed(name: str, output: str, task: str, error: ImageError) -> Failed:
    """Return the event for an error, without repeating the image's name in it."""
    cause = error.message.removeprefix(f"{name}: ")
    return Failed(name, output, task, cause, error.hint, disk_full=_is_disk_full(error))


def _is_disk_full(error: BaseException) -> bool:
    """Return True if an error, or one that it was raised from, is that of a full disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            return True
        cause = cause.__cause__
    return False
