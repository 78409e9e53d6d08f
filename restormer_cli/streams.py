"""Standard streams that may be closed, full, endless, or of an encoding that lacks characters."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = "<stdout>"
"""File name in the OSError of a write to stdout."""

CHUNK = 2**20
"""Number of bytes that `read_chunks` reads at a time."""


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the content of a file or stream in chunks of CHUNK bytes, the last one shorter."""
    while (chunk := stream.read(CHUNK)) != b"":
        if chunk is None:  # no data yet, from a pipe that does not block
            select.select((stream,), (), ())
        else:
            yield chunk


@contextmanager
def safe_streams() -> Iterator[None]:
    """Replace the standard streams while the program runs.

    What stderr cannot take is dropped, since messages are less important than images. The first
    write that fails on stdout raises an OSError whose `filename` is STDOUT; later ones are dropped.
    Characters that an encoding lacks are escaped. A closed stream is neither readable nor writable,
    and its descriptor is in use, so that no other file gets it and receives a library's messages.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    for descriptor, stream in enumerate(before):
        if stream is None:
            _occupy(descriptor)
    sys.stdin = before[0] or _Closed()
    sys.stdout = _safe(before[1], STDOUT) or _Closed()
    sys.stderr = _safe(before[2], "<stderr>") or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _occupy(descriptor: int) -> None:
    """Open the null device as this descriptor if it is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)  # worker processes would have it closed


def _safe(stream: Any, name: str) -> Any:
    """Return a safe replacement of an output stream; None for a closed one."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.RawIOBase):  # replaced by the caller of `main`
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw, name)),
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Closed(io.TextIOBase):
    """A stream that was closed when the program started."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed", STDOUT)


class _Output(io.RawIOBase):
    """A standard stream that drops everything after a write that failed.

    Args:
        raw: the stream.
        name: STDOUT to raise the error of the write that failed, any other to drop it.
    """

    def __init__(self, raw: io.RawIOBase, name: str) -> None:
        self._raw, self.name, self._failed = raw, name, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        while not self._failed:
            try:
                count = self._raw.write(data)
            except OSError as error:
                self._failed = True
                if self.name == STDOUT:
                    error.filename = STDOUT
                    raise
            else:
                if count is not None:
                    return count
                select.select((), (self._raw,), ())  # a pipe that does not block is full
        return len(data)
