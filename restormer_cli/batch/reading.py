"""Read the files of jobs: streams in the main thread, all others where the images are read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..errors import ImageError
from ..files import is_special
from ..imaging import MAX_PIXELS, read_bytes
from .manifest import FileFingerprint, change_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .jobs import Job


class QueuedImage(NamedTuple):
    """An image to read."""

    number: int
    job: Job
    data: bytes | ImageError | None  # the file's content, if it comes from a stream
    right: bytes | ImageError | None = None  # that of the right view
    mask: bytes | ImageError | None = None  # that of the mask


def queue_images(
    jobs: Iterable[Job], stdin: BinaryIO, max_pixels: int = MAX_PIXELS
) -> Iterator[QueuedImage]:
    """Yield the jobs; read streams here, in the main thread, where Ctrl-C can interrupt it."""

    def read(source: Path | BinaryIO, name: str) -> bytes | ImageError | None:
        if isinstance(source, Path) and not is_special(source):
            return None
        try:
            return read_bytes(source, max_pixels=max_pixels, name=name)[1]
        except ImageError as error:  # the read stage reports it
            return error

    masks: dict[Path, bytes | ImageError | None] = {}  # one pipe may be for several images
    for number, job in enumerate(jobs):
        data = read(stdin if job.source is None else job.source, job.names[0])
        right = None if job.right is None else read(job.right, str(job.right))
        mask = None
        if job.mask is not None and (mask := masks.get(job.mask)) is None:
            mask = read(job.mask, str(job.mask))
            if mask is not None:
                masks[job.mask] = mask
        yield QueuedImage(number, job, data, right, mask)


def load_file(
    path: Path | None, data: bytes | ImageError | None, max_pixels: int
) -> tuple[bytes, FileFingerprint]:
    """Return the content and the fingerprint of a file.

    Args:
        path: of the file.
        data: its content, or the error of reading it, if `queue_images` has read it.
        max_pixels: limit of each image; see `imaging.read_bytes`.

    Raises:
        ImageError: the file cannot be read.
    """
    mtime = ctime = None
    if isinstance(data, ImageError):
        raise data
    if path is not None and data is None:
        with suppress(OSError):  # `read_bytes` reports it
            stat = path.stat()  # before reading, to detect changes after it
            mtime, ctime = stat.st_mtime_ns, change_time(stat)
        _, data = read_bytes(path, max_pixels=max_pixels)
    assert data is not None  # noqa: S101 - `queue_images` reads stdin
    return data, FileFingerprint.of(data, mtime, ctime)
