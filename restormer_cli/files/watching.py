"""Notice the files that arrive in folders, and wait until they are complete."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import UsageError
from .discovery import is_folder
from .paths import UrlPath, as_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Stamp = tuple[int, int, int]  # size in bytes, modification time in ns, and number of the file

SETTLING = 1.0
"""Seconds for which size and modification time of a complete file do not change."""

LOOK_INTERVAL = 0.25
"""Seconds between looks at files that are not complete."""

RESCAN_INTERVAL = 60.0
"""Seconds between looks without a notice: network drives do not tell of others' changes."""

Item = TypeVar("Item")


class Arrivals(Generic[Item]):
    """Tells complete files from those that are still being written, and new ones from known ones.

    Attributes:
        waiting: whether files were incomplete at the last look.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._looks: dict[Item, tuple[Stamp, float]] = {}  # and the time since when it is the same
        self._known: dict[Item, Stamp] = {}

    def complete(self, items: Mapping[Item, Path]) -> list[Item]:
        """Return the items whose files are complete, and new or changed since they were returned.

        An empty file is never complete: many programs create a file first and fill it later.
        """
        now = time.monotonic()
        looks: dict[Item, tuple[Stamp, float]] = {}
        known: dict[Item, Stamp] = {}
        ready = []
        for item, path in items.items():
            stamp = _stamp(path)
            if stamp is None:
                continue
            if self._known.get(item) == stamp:
                known[item] = stamp
                continue
            before, since = self._looks.get(item, (stamp, now))
            looks[item] = stamp, since if before == stamp else now
            if now - looks[item][1] >= SETTLING:
                del looks[item]
                known[item] = stamp
                ready.append(item)
        self._looks, self._known, self.waiting = looks, known, bool(looks)
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
) -> Iterator[None]:
    """Yield whenever it is time to look at the folders, and once at the start.

    That is after a change, while `arrivals` wait for files, and at times without either.

    Raises:
        UsageError: watchfiles is not installed, or the folders cannot be watched.
    """
    try:
        import watchfiles
    except ImportError as error:
        raise UsageError(
            f"--watch needs watchfiles ({error})",
            "Install it: pip install 'restormer-cli[watch]'",
        ) from error
    notices = watchfiles.watch(
        *folders,
        watch_filter=None,
        rust_timeout=round(1000 * LOOK_INTERVAL),
        yield_on_timeout=True,
        recursive=recursive,
    )
    last = float("-inf")  # the first look follows the first notice: none is missed in between
    try:
        for changes in notices:
            if gone := [folder for folder in folders if not is_folder(folder)]:
                raise UsageError(f"{gone[0]}: the watched folder is gone", "Create it again.")
            if changes or arrivals.waiting or time.monotonic() - last >= RESCAN_INTERVAL:
                yield
                last = time.monotonic()
    except OSError as error:
        raise UsageError(
            f"the folders cannot be watched ({error.strerror or error})",
            "Check their permissions and the system's limit of watches, or set "
            "WATCHFILES_FORCE_POLLING=1.",
        ) from error


def _stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is written; None if it is gone or empty."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat.st_size else None
