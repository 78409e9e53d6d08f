"""Files that appear whole or not at all, and what killed runs have left of them."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .paths import UrlPath, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TEMPORARY = ".restormer-tmp"
"""How the names of files end that are still being written; they begin with a dot."""

STALE = 24 * 60 * 60
"""Seconds after which a temporary is given up for lost where files cannot be locked."""


_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(
    target: Path, data: bytes, ready: Callable[[os.stat_result], None] | None = None
) -> None:
    """Write a file by way of a temporary one beside it, which is on the disk before it is renamed.

    `ready` is called in between, with what will be true of the file: its size and its time.

    Raises:
        OSError: it cannot be written; then the target is as it was, and the temporary gone.
    """
    # A name has at most 255 bytes; 32 are for what is added here.
    stem = os.fsencode(target.name)[:220].decode(errors="ignore")
    if isinstance(target, UrlPath):
        # Were it not written, a record of it would keep the next run from doing so.
        target.put(data, _beside(stem))
        if ready is not None:
            ready(status(len(data), None))
        return
    target = Path(os.path.realpath(target))  # a link stays a link
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(data)  # a device or a pipe is written to, never replaced
        return
    temporary, descriptor = _temporary(target, stem)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if target.is_file():
                shutil.copymode(target, temporary)
            if ready is not None:
                ready(os.fstat(file.fileno()))
            if os.name == "nt":  # which renames no open file
                file.close()
            temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _beside(stem: str) -> str:
    return f".{stem}.{secrets.token_hex(4)}{TEMPORARY}"


def _temporary(target: Path, stem: str) -> tuple[Path, int]:
    """A new file that is locked as long as it is open, so that `sweep` leaves it alone."""
    while True:
        path = target.with_name(_beside(stem))
        # 0o666 less the umask, as for any file; tempfile would make it private.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # else a sweep came between the two
            return path, descriptor
        os.close(descriptor)


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporaries that killed runs have left in these folders; return their names.

    A lock ends with its process, however that ends. What cannot be removed is left alone.
    """
    removed = []
    for path in (path for folder in folders for path in _temporaries(folder)):
        with suppress(OSError), path.open("r+b") as file:
            locked = _lock(file.fileno())
            old = time.time() - os.fstat(file.fileno()).st_mtime > STALE
            if os.name == "nt":  # which removes no open file
                file.close()
            if old if locked is None else locked:
                path.unlink()
                removed.append(path)
    return removed


def _temporaries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.startswith(".") and entry.name.endswith(TEMPORARY)
            ]
    except OSError:  # it is not there yet, or closed
        return []


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed; False: another process has. None: locks are unknown."""
    try:
        import fcntl  # which Windows has not

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # some network file systems lock nothing
        return None
    return True
