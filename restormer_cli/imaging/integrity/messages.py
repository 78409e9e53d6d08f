"""Messages that C libraries write to the standard error stream, such as libjpeg's and libtiff's."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STDERR = 2
_lock = threading.Lock()


@contextmanager
def library_messages() -> Iterator[Callable[[], list[str]]]:
    """Collect the lines that C libraries write to stderr in this block, instead of showing them.

    Yields a function that returns the lines since its last call; it stays valid after the block.
    The descriptor belongs to the whole process, so blocks of other threads wait; what Python code
    writes to `sys.stderr` meanwhile is not collected. Blocks must not be nested. At most 64 kB are
    kept between two calls: the rest is dropped.
    """
    last: list[str] = []
    with _lock:
        reader, writer = os.pipe()
        # A library must not wait for space in the pipe, which is read only later.
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        pipe = open(reader, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed below

        def lines() -> list[str]:
            read = b"" if pipe.closed else pipe.readall() or b""
            found = [*last, *read.decode(errors="replace").splitlines()]
            last.clear()
            return found

        saved = None
        with suppress(OSError):  # the program was started with a closed stderr
            saved = os.dup(_STDERR)
        try:
            with _python_stderr_on(saved):
                os.dup2(writer, _STDERR)
                try:
                    yield lines
                finally:
                    if saved is None:
                        os.close(_STDERR)
                    else:
                        os.dup2(saved, _STDERR)
        finally:
            if saved is not None:
                os.close(saved)
            os.close(writer)
            last += lines()
            pipe.close()


@contextmanager
def _python_stderr_on(descriptor: int | None) -> Iterator[None]:
    """Redirect `sys.stderr` to a copy of stderr, if it writes to the descriptor of stderr."""
    original = sys.stderr
    try:
        direct = descriptor is not None and original.fileno() == _STDERR
    except (AttributeError, OSError, ValueError):  # None, replaced by another object, or closed
        direct = False
    if not direct:
        yield
        return
    assert descriptor is not None  # noqa: S101 - implied by `direct`
    with suppress(OSError, ValueError):
        original.flush()
    substitute = io.TextIOWrapper(
        io.FileIO(descriptor, "w", closefd=False),
        encoding=original.encoding,
        errors=original.errors,
        write_through=True,
    )
    sys.stderr = substitute
    try:
        yield
    finally:
        if sys.stderr is substitute:
            sys.stderr = original
