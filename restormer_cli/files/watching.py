"""Notice the files that arrive in folders, and wait until they are complete."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import UsageError
from ..extras import require
from ..text import reason
from .checks import is_folder
from .paths import UrlPath, as_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Stamp = tuple[int, int, int]  # size in bytes, modification time in ns, and number of the file

SETTLING = 1.0
"""Seconds for which size and modification time of a complete file do not change."""

LOOK_INTERVAL = 0.25
"""Seconds between checks of files that are not complete."""

RESCAN_INTERVAL = 60.0
"""Seconds between searches of whole folders: network drives do not notify of others' changes."""

Item = TypeVar("Item")


class Arrivals(Generic[Item]):
    """Distinguish complete files from those being written, and new ones from known ones."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Item, Stamp]] = {}
        # Incomplete files, and the time since when their stamp is the same.
        self._looks: dict[Path, tuple[Item, Stamp, float]] = {}

    @property
    def waiting(self) -> bool:
        """True if files were incomplete at the last look."""
        return bool(self._looks)

    def complete(self, items: Mapping[Path, Item], *, whole: bool = True) -> list[Item]:
        """Return the items whose files are complete, and new or changed since they were returned.

        An empty file is never complete: many programs create a file first and fill it later.

        Args:
            items: the items of files. An item that is not that of the last look is new.
            whole: True if these are all files, so that others are forgotten. If not, only these
                files and the incomplete ones are looked at.
        """
        now = time.monotonic()
        if whole:
            self._known = {path: self._known[path] for path in items if path in self._known}
            self._looks = {path: self._looks[path] for path in items if path in self._looks}
        waiting = {path: item for path, (item, *_) in self._looks.items()}
        ready = []
        for path, item in (waiting | dict(items)).items():
            stamp = _stamp(path)
            _, before, since = self._looks.pop(path, (item, stamp, now))
            if stamp is None:
                self._known.pop(path, None)
            elif self._known.get(path) != (item, stamp):
                since = since if before == stamp else now
                if now - since >= SETTLING:
                    self._known[path] = item, stamp
                    ready.append(item)
                else:
                    self._looks[path] = item, stamp, since
        return ready


def check_watch(names: Sequence[str], output: str | None) -> None:
    """Raise UsageError unless all names are folders of this machine, and the output is none."""
    folders = [as_path(name) for name in names]
    for folder in folders:
        if isinstance(folder, UrlPath) or not is_folder(folder):
            raise UsageError(
                f"{folder}: not a folder of this machine, which --watch needs",
                "Create the folder, or name another.",
            )
    if output is not None and as_path(output).resolve() in [f.resolve() for f in folders]:
        raise UsageError(
            f"{output}: the outputs would arrive in the watched folder", "Name another with -o."
        )


def watch_folders(
    folders: Sequence[Path], arrivals: Arrivals[Item], *, recursive: bool = False
) -> Iterator[list[Path] | None]:
    """Yield the absolute paths that changed, also an empty list while `arrivals` wait for files.

    None stands for everything in the folders: at the start, and every `RESCAN_INTERVAL`, since some
    changes are not noticed.

    Raises:
        UsageError: watchfiles is not installed, or the folders cannot be watched.
    """
    watchfiles = require("watchfiles", "watch", "--watch")
    notices = watchfiles.watch(
        *folders,
        watch_filter=None,
        rust_timeout=round(1000 * LOOK_INTERVAL),
        yield_on_timeout=True,
        recursive=recursive,
    )
    last = float("-inf")  # the first search follows the first notice: none is missed in between
    try:
        for changes in notices:
            if gone := [folder for folder in folders if not is_folder(folder)]:
                raise UsageError(f"{gone[0]}: the watched folder is gone", "Create it again.")
            if time.monotonic() - last >= RESCAN_INTERVAL:
                yield None
                last = time.monotonic()
            elif changes or arrivals.waiting:
                yield [Path(os.path.abspath(name)) for _, name in changes]  # noqa: PTH100 - keeps links
    except OSError as error:
        raise UsageError(
            f"the folders cannot be watched ({reason(error)})",
            "Check their permissions and the system's limit of watches, or set "
            "WATCHFILES_FORCE_POLLING=1.",
        ) from error


def _stamp(path: Path) -> Stamp | None:
    """Return a value that changes when a file is written; None if it is gone or empty."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat.st_size else None
