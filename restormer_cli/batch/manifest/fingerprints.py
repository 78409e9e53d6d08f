"""Fingerprints of files and settings, by which later runs recognize unchanged outputs."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ...files import UrlPath, sha256_file

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from ...inference import Restorer
    from ..jobs import BatchConfig

SettingsFingerprint = dict[str, Any]
"""The settings that determine an output: "task", "weights" (SHA-256) and "options"."""


def settings_fingerprint(restorer: Restorer, batch: BatchConfig) -> SettingsFingerprint:
    """Return the fingerprint of a run's settings."""
    config = restorer.config
    options = {
        "format": batch.format,
        "quality": batch.quality,
        "tile": str(config.tile),
        "overlap": config.overlap,
        "window": config.window,
        "ensemble": config.ensemble,
        "strength": batch.strength,
        "precision": restorer.precision,
    }
    if batch.allow_damaged:  # older entries lack it
        options["allow_damaged"] = True
    if batch.keep_detail:
        options["keep_detail"] = batch.keep_detail
    return {"task": config.task, "weights": restorer.weights.sha256, "options": options}


class FileFingerprint(NamedTuple):
    """Size, modification time (None for stdin), digest and change time of a file.

    The change time is that of the last change of content or attributes; it is None for outputs,
    whose renaming changes it, on Windows, and in manifests of older versions.
    """

    size: int
    mtime_ns: int | None
    sha256: str
    ctime_ns: int | None = None

    @classmethod
    def of(cls, data: bytes, mtime_ns: int | None, ctime_ns: int | None = None) -> FileFingerprint:
        """Return the fingerprint of a file with these bytes."""
        return cls(len(data), mtime_ns, hashlib.sha256(data).hexdigest(), ctime_ns)

    @classmethod
    def from_entry(cls, recorded: dict[str, Any]) -> FileFingerprint:
        """Return the fingerprint in an entry's "input", "output", "right" or "mask"."""
        size, mtime, digest = (recorded[name] for name in ("size", "mtime_ns", "sha256"))
        return cls(size, mtime, digest, recorded.get("ctime_ns"))

    def fits(self, path: Path) -> bool:
        """Return whether the file is unchanged. Read it only if one of its times differs.

        A copy that preserves the modification time has another change time. Without a modification
        time, as in some remote file systems, only the content decides.
        """
        try:
            stat = path.stat()
            same_times = None is not stat.st_mtime_ns == self.mtime_ns and (
                None in (self.ctime_ns, change_time(stat)) or change_time(stat) == self.ctime_ns
            )
            return stat.st_size == self.size and (same_times or _digest(path, stat) == self.sha256)
        except OSError:
            return False


def change_time(stat: os.stat_result) -> int | None:
    """Return the time of the last change in nanoseconds; None on Windows and for a URL."""
    return None if os.name == "nt" else getattr(stat, "st_ctime_ns", None)


def file_digest(path: Path, sizes: AbstractSet[int]) -> str | None:
    """Return the digest of a file; None if it has none of these sizes, or cannot be read."""
    try:
        stat = path.stat()
        return _digest(path, stat) if stat.st_size in sizes else None
    except OSError:
        return None


def _digest(path: Path, stat: os.stat_result) -> str:
    if isinstance(path, UrlPath):  # without times, a change may not show
        return sha256_file(path)
    return _digest_at(path, stat.st_size, stat.st_mtime_ns, change_time(stat))


@lru_cache(maxsize=8)  # one mask is compared with the entries of many outputs
def _digest_at(path: Path, *_: int | None) -> str:
    """Return the digest of a file with this size and these times."""
    return sha256_file(path)
