"""Query the kind of object at a path or URL: file, folder, device, another program's file.

Local names that no file can have, and folders that cannot be entered, raise no errors here.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..text import reason
from .paths import UrlPath

if TYPE_CHECKING:
    from collections.abc import Callable


def is_folder(path: Path) -> bool:
    """Return True for a folder; False if that cannot be determined."""
    if isinstance(path, UrlPath):
        return path.is_dir()
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises below an unreadable folder


def exists(path: Path) -> bool:
    """Return True if the path exists; False for a broken link."""
    if isinstance(path, UrlPath):
        return path.exists()
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for unreadable or long names


def holds(path: Path, *marks: bytes, within: int = -1) -> bool:
    """Return True if a regular file contains one of the marks that its writer leaves in it.

    Args:
        path: a local path.
        marks: bytes to look for.
        within: number of bytes to read from the start; -1 for all.
    """
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                content = file.read(within)
                return any(mark in content for mark in marks)
    return False


def is_foreign(path: Path, *marks: bytes, within: int = -1) -> bool:
    """Return True if a regular file has content, but none of the marks, as in `holds`."""
    filled = os.path.isfile(path) and os.path.getsize(path) > 0  # noqa: PTH113, PTH202 - no errors
    return filled and not holds(path, *marks, within=within)


def nearest_parent(folder: Path, accepts: Callable[[Path], bool]) -> Path:
    """Return the first accepted path of the folder and the folders above it."""
    return next(path for path in (folder, *folder.absolute().parents) if accepts(path))


def unwritable(folder: Path) -> str | None:
    """Return why no file can be created in a folder, which may be missing; None if one can.

    Only writing shows it for a URL.
    """
    if isinstance(folder, UrlPath):
        return None
    existing = nearest_parent(folder, os.path.lexists)
    if not is_folder(existing):
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is not writable"


def is_special(path: Path) -> bool:
    """Return True for a pipe or a device, where reading may block; False for a broken link."""
    if isinstance(path, UrlPath):
        return False
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # missing, or no possible name
        return False


def resolve_link(path: Path) -> Path:
    """Return the file that is replaced when `path` is written: behind a link, its target.

    A link to a pipe or a device is returned unchanged, and so is a URL.
    """
    # Not `Path.is_symlink`, which raises for a name that no file can have.
    if isinstance(path, UrlPath) or not os.path.islink(path) or is_special(path):  # noqa: PTH114
        return path
    return Path(os.path.realpath(path))


def unreachable(path: Path) -> tuple[str, str] | None:
    """Return why nothing is found at a path, and the remedy; None if a file or folder is there."""
    try:
        found = path.exists() if isinstance(path, UrlPath) else bool(os.stat(path))  # noqa: PTH116
    except (FileNotFoundError, ValueError):  # the second for names that no file can have
        found = False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "links that lead in a circle", "Replace the link by the file."
        return f"cannot be reached ({reason(error)})", "Check the path and its permissions."
    if found:
        return None
    with suppress(OSError, ValueError):
        if not isinstance(path, UrlPath) and os.path.islink(path):  # noqa: PTH114
            return (
                f"a link to {os.path.realpath(path)}, which is missing",
                "Mount or restore what it points to, or remove the link.",
            )
    return "no such file", "Check the path."
