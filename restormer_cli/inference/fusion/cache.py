"""The folder of libraries and verdicts in the user's cache: `restormer/native` in `HF_HOME`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from huggingface_hub import constants

from ...files import write_atomic
from .passes import FusionError


def cache_folder() -> Path:
    """Return the folder of compiled libraries and of verdicts."""
    return Path(constants.HF_HOME) / "restormer" / "native"


def store(path: Path, data: bytes) -> None:
    """Write a file of the cache that only the user can change.

    Raises:
        OSError: it cannot be written.
        FusionError: others can change the folder.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    require_private(path.parent)
    write_atomic(path, data)
    path.chmod(0o600)


def require_private(path: Path) -> None:
    """Check that only the user can change a file or folder: a library is code.

    Raises:
        OSError: it does not exist or cannot be examined.
        FusionError: it belongs to another user, or others can write to it.
    """
    if os.name != "posix":  # other systems have neither owners as numbers nor these permissions
        return
    status = path.lstat() if path.suffix else path.stat()
    if status.st_uid != os.getuid():
        raise FusionError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FusionError(f"{path} can be changed by other users")
