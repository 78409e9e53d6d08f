"""Write files completely or not at all, remove temporary files of killed runs, hash files."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..streams import read_chunks
from .paths import UrlPath, stat_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TEMPORARY = ".restormer-tmp"  # suffix of temporary files, whose names start with a dot
STALE = 24 * 60 * 60  # age in seconds at which unlockable files count as leftovers

_TOO_LONG = "Choose a shorter name, for an output with -o."


def write_atomic(
    target: Path, data: bytes, ready: Callable[[os.stat_result], None] | None = None
) -> None:
    """Write a local file or a URL completely or not at all.

    `ready` is called with the new file's size and modification time: for a local file before it
    replaces the target, for a URL after the upload. Errors are those of `open_atomic`.
    """
    if isinstance(target, UrlPath):
        # Only after the upload: if that fails, the manifest must still describe the old file.
        target.put(data, _temporary_name(target))
        if ready is not None:
            ready(stat_result(len(data), None))
        return
    with open_atomic(target, ready) as file:
        file.write(data)


def write_hint(error: BaseException, otherwise: str) -> str:
    """Return the remedy for an error of writing a file or folder.

    Args:
        error: the error.
        otherwise: the remedy if the error does not say which.
    """
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return _TOO_LONG if too_long else otherwise


@contextmanager
def open_atomic(
    target: Path, ready: Callable[[os.stat_result], None] | None = None
) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing that replaces the local file `target` on success.

    The data are flushed to the disk before the replacement. The new file takes over the permissions
    of the old one and, where the system allows, its owner, group, extended attributes and access
    control list. A symbolic link is kept, and the file it points to is replaced. Devices and pipes
    are written to directly. `write_atomic` documents `ready`.

    Raises:
        OSError: the file cannot be written. The target is unchanged, the temporary file removed.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        # By this name: the real one of /dev/stdout may be no path.
        with target.open("wb") as device:
            yield device
        return
    target = Path(os.path.realpath(target))
    temporary, descriptor = _create_temporary(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if target.is_file():
                _copy_attributes(target, temporary)
            if ready is not None:
                ready(os.fstat(file.fileno()))
            if os.name == "nt":  # Windows cannot rename an open file
                file.close()
            temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporary files that killed runs left in `folders`, and return their paths.

    Running processes lock their temporary files. Files that cannot be removed are skipped.
    """
    removed = []
    for path in (path for folder in folders for path in _list_temporaries(folder)):
        with suppress(OSError), path.open("r+b") as file:
            acquired = _lock(file.fileno())
            old = time.time() - os.fstat(file.fileno()).st_mtime > STALE
            if os.name == "nt":  # Windows cannot remove an open file
                file.close()
            if old if acquired is None else acquired:
                path.unlink()
                removed.append(path)
    return removed


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    if isinstance(path, UrlPath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in read_chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def _temporary_name(target: Path) -> str:
    # File names are limited to 255 bytes; the additions take at most 32 of them.
    stem = os.fsdecode(os.fsencode(target.name)[:220].decode(errors="ignore").encode())
    return f".{stem}.{secrets.token_hex(4)}{TEMPORARY}"


def _create_temporary(target: Path) -> tuple[Path, int]:
    """Create a temporary file beside `target`, locked against `remove_leftovers` while open."""
    while True:
        path = target.with_name(_temporary_name(target))
        # Mode 0o666 minus the umask, as for any file; `tempfile` would make it private.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
        # Another process may have locked it to remove it, or have removed it before the lock.
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _copy_attributes(old: Path, new: Path) -> None:
    """Copy owner, group, extended attributes and permissions, as far as the system allows."""
    status = old.stat()
    mode = stat.S_IMODE(status.st_mode)
    if hasattr(os, "chown"):  # not on Windows
        for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
            with suppress(OSError):
                os.chown(new, owner, group)
        created = new.stat()
        # Without its owner or group, a program must not run with the rights of another.
        mode &= ~(stat.S_ISUID if created.st_uid != status.st_uid else 0)
        mode &= ~(stat.S_ISGID if created.st_gid != status.st_gid else 0)
    # Attributes follow the owner, because a change of owner clears capabilities. They include
    # access control lists, whose mask is in the mode.
    if hasattr(os, "setxattr"):  # Linux
        with suppress(OSError):
            wanted = os.listxattr(old)
            for name in set(os.listxattr(new)).difference(wanted):  # from the folder's default
                with suppress(OSError):
                    os.removexattr(new, name)
            for name in wanted:
                with suppress(OSError):
                    os.setxattr(new, name, os.getxattr(old, name))
    with suppress(OSError):
        new.chmod(mode)  # last, because a change of owner clears the bits S_ISUID and S_ISGID


def _list_temporaries(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.name[0] == "." and p.name.endswith(TEMPORARY)]
    except OSError:  # the folder does not exist yet or cannot be read
        return []


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed: False if it is locked, None without file locks."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # some network file systems do not support locks
        return None
    return True
