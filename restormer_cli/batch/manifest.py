"""The manifest beside the outputs, which records how each was made; later runs can skip it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..errors import DamagedError, ImageError, UsageError
from ..files import (
    Inputs,
    UrlPath,
    as_path,
    exists,
    is_folder,
    natural_key,
    sha256_file,
    write_atomic,
)
from ..imaging import read_image
from .events import Restored, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from ..imaging import Image
    from ..inference import Restorer
    from .jobs import BatchConfig, Job

NAME = ".restormer.jsonl"
"""File name of a manifest."""

FOLDER = ".restormer"
"""Folder with a file for each entry of the manifest in an object store, which cannot append."""

# Reasons for skipping.
UNCHANGED = "restored before, and nothing has changed"
REPLACED = "restored in place before"
FOREIGN = "its output exists, and no manifest says that it was made from this image"
EDITED = "its output was changed after it was written: remove it to restore the image again"
# Warnings in the report of a folder.
LOST = "its input is missing or has changed: only the result is shown"
CHANGED = "it was changed after it was written"

SettingsFingerprint = dict[str, Any]
"""The settings that determine an output: "task", "weights" (SHA-256) and "options"."""

Entry = dict[str, Any]
"""The fields of Restored, with the fingerprints of the files in "input", "output", "right" and
"mask", and with "in_place", "recipe" (the settings fingerprint), "version" and "time". Old
manifests lack "mask" and "in_place"."""


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


def has_same_settings(entry: Entry, settings: SettingsFingerprint) -> bool:
    """Return whether an output was made with these settings."""
    return bool(entry["recipe"] == settings)


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
        """Return the fingerprint in an entry's "input", "output" or "right"."""
        size, mtime, digest = (recorded[name] for name in ("size", "mtime_ns", "sha256"))
        return cls(size, mtime, digest, recorded.get("ctime_ns"))

    def fits(self, path: Path) -> bool:
        """Return whether the file is unchanged. Read it only if one of its times differs.

        A copy that preserves the modification time has another change time.
        """
        try:
            stat = path.stat()
            same_times = stat.st_mtime_ns == self.mtime_ns and (
                None in (self.ctime_ns, change_time(stat)) or change_time(stat) == self.ctime_ns
            )
            return stat.st_size == self.size and (same_times or _digest(path, stat) == self.sha256)
        except OSError:
            return False


def change_time(stat: os.stat_result) -> int | None:
    """Return the time of the last change in nanoseconds; None on Windows and for a URL."""
    return None if os.name == "nt" else getattr(stat, "st_ctime_ns", None)


def _digest(path: Path, stat: os.stat_result) -> str:
    if isinstance(path, UrlPath):  # without times, a change may not show
        return sha256_file(path)
    return _digest_at(path, stat.st_size, stat.st_mtime_ns, change_time(stat))


@lru_cache(maxsize=8)  # one mask is compared with the entries of many outputs
def _digest_at(path: Path, *_: int | None) -> str:
    """Return the digest of a file with this size and these times."""
    return sha256_file(path)


def append_entry(
    target: Path,
    event: Restored,
    settings: SettingsFingerprint,
    source: FileFingerprint,
    right: FileFingerprint | None,
    output: FileFingerprint,
    *,
    in_place: bool,
    mask: FileFingerprint | None = None,
) -> list[str]:
    """Add an entry about an output to the manifest beside it; return a note if this fails.

    Other processes may append at the same time, so there is a single write. The entry starts on a
    new line even if a killed run has left an incomplete one.
    """
    entry = {
        **event.as_dict(),
        "input": {"name": event.input, **source._asdict()},
        "right": right and right._asdict(),
        "mask": mask and mask._asdict(),
        "output": {"name": target.name, **output._asdict()},
        "in_place": in_place,
        "recipe": settings,
        "version": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    text = json.dumps(entry).encode() + b"\n"
    path = target.parent / NAME
    try:
        if isinstance(target, UrlPath):
            path = target.parent / FOLDER / f"{target.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
            return []
        with path.open("a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                text = (b"" if file.read(1) == b"\n" else b"\n") + text
            file.write(text)
            os.fsync(file.fileno())
    except OSError as error:
        cause = error.strerror or error
        return [f"{path} cannot be written ({cause}): --skip-existing will not skip this image"]
    return []


class Manifests:
    """Manifests of several folders, each read once. `notes` names those that are damaged."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Entry]]] = {}
        self.notes: list[str] = []

    def outputs(self, folder: Path) -> dict[str, list[Entry]]:
        """Return the entries of each output in a folder, newest first."""
        if folder not in self._folders:
            self._folders[folder] = self._read(folder)
        return self._folders[folder]

    def _read(self, folder: Path) -> dict[str, list[Entry]]:
        path = folder / NAME
        try:
            if isinstance(folder, UrlPath):
                files = (folder / FOLDER).files(recursive=False)
                lines = [file.read_bytes().strip() for file in files]
            else:
                lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.notes.append(f"{path} cannot be read ({error.strerror or error}) and is ignored")
            return {}
        entries: dict[str, list[Entry]] = defaultdict(list)
        damaged = 0
        for line in filter(None, reversed(lines)):
            entry = _parse(line)
            if entry is not None:
                entries[entry["output"]["name"]].append(entry)
            elif line is not lines[-1]:  # a killed run may leave an incomplete last line
                damaged += 1
        if damaged:
            self.notes.append(f"{path} is damaged: {damaged} of its lines are ignored")
        return entries


def _parse(line: bytes) -> Entry | None:
    """Return the entry, or None if it lacks a field that is read later."""
    try:
        entry = json.loads(line)
        others = [file for file in (entry["right"], entry.get("mask")) if file is not None]
        for recorded in (entry["input"], entry["output"], *others):
            FileFingerprint.from_entry(recorded)
        _ = entry["recipe"]["task"], entry["output"]["name"] + ""
    except (ValueError, KeyError, TypeError):
        return None
    return dict(entry)


def skip_reason(job: Job, task: str, manifests: Manifests) -> tuple[str | None, Entry | None]:
    """Decide whether to skip an image, without knowing the weights.

    Outputs that were changed, or that no manifest lists, are never replaced. In place, they are
    inputs and are restored unless this task has already restored them, whole or through the same
    mask.

    Returns:
        The reason for skipping, or an entry to compare with the settings, or neither: then the
        output is missing, damaged, or made from another input.
    """
    if job.target is None or not exists(job.target):
        return None, None
    target = job.target
    entries = manifests.outputs(target.parent).get(target.name, [])
    current = _current(target, entries)
    if job.in_place:
        done = (e for e in _history(current, entries) if e["recipe"]["task"] == task)
        # Through another mask, another part was restored.
        masks = (entry.get("mask") for entry in done)
        restored = any(mask is None or _fits(mask, job.mask) for mask in masks)
        return REPLACED if restored else None, None
    if not entries:
        return FOREIGN, None
    if current is None:
        return (None if _is_damaged(target) else EDITED), None
    files = (("input", job.source), ("right", job.right), ("mask", job.mask))
    same = all(_fits(current.get(role), path) for role, path in files)
    return None, current if same else None


def _fits(recorded: dict[str, Any] | None, path: Path | None) -> bool:
    if recorded is None or path is None:
        return recorded is None and path is None
    return FileFingerprint.from_entry(recorded).fits(path)


def _current(path: Path, entries: list[Entry]) -> Entry | None:
    """Return the newest entry that describes a file as it is now."""
    return next((entry for entry in entries if _fits(entry["output"], path)), None)


def _history(current: Entry | None, entries: list[Entry]) -> Iterator[Entry]:
    """Yield the current entry, and those of the inputs that it replaced in place, newest first."""
    if current is None:
        return
    digest = current["output"]["sha256"]
    for entry in entries:
        if entry["output"]["sha256"] == digest:
            yield entry
            digest = entry["input"]["sha256"]


def _is_damaged(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError as error:  # which may have other reasons
        return isinstance(error, DamagedError)
    return False


@dataclass(frozen=True)
class RecordedOutput:
    """An output and its newest entry."""

    path: Path
    entry: Entry

    def event(self) -> Restored:
        """Return the event of its restoration.

        Raises:
            ImageError: the output is missing, or the entry incomplete.
        """
        if not exists(self.path):
            raise ImageError("the output is missing", "Restore the image again.")
        names = {"input": self.entry["input"]["name"], "output": str(self.path)}
        try:
            known = [f.name for f in fields(Restored) if f.name in self.entry]
            values = {name: self.entry[name] for name in known} | names
            return Restored(**values | {"weights": Weights(**values["weights"])})
        except (KeyError, TypeError) as error:
            raise ImageError("the manifest does not say how it was made") from error

    def input(self) -> Path | None:
        """Return the path of the input, or None if it is missing or has changed.

        The recorded name is relative to the working directory of the run. That is assumed to be
        the current one, or a folder above the output.
        """
        recorded = self.entry["input"]
        return next((path for path in self.possible_inputs() if _fits(recorded, path)), None)

    def possible_inputs(self) -> list[Path]:
        """Return the paths that the recorded name may stand for."""
        name, paths = self.entry["input"]["name"], []
        with suppress(UsageError):  # a URL that cannot be reached from this machine
            paths.append(as_path(name))
        if not isinstance(self.path, UrlPath):
            paths += [folder / name for folder in self.path.absolute().parents]
        return paths

    def is_made_from(self, images: AbstractSet[str]) -> bool:
        """Return whether the output was made from another image, one of these absolute paths."""
        sources = {os.path.abspath(path): path for path in self.possible_inputs()}  # noqa: PTH100
        own = sources.pop(os.path.abspath(self.path), None)  # noqa: PTH100
        others = [path for name, path in sources.items() if name in images]
        if own is None or "in_place" in self.entry:
            return bool(others)
        return any(_fits(self.entry["input"], path) for path in others)  # else made in place

    def read(self, source: Path | None, max_pixels: int) -> tuple[Image | None, Image, list[str]]:
        """Return the input (None if it cannot be shown), the output, and warnings.

        Raises:
            ImageError: the output cannot be read.
        """
        warnings = [] if _fits(self.entry["output"], self.path) else [CHANGED]
        after = read_image(self.path, max_pixels=max_pixels)
        if source is None:
            return None, after.on_unit_scale(), [*warnings, LOST]
        before = read_image(source, max_pixels=max_pixels, allow_damaged=True)
        resized = before.pixels.shape[:2] != after.pixels.shape[:2]  # by another program
        if resized:
            return None, after.on_unit_scale(), warnings
        return before.on_unit_scale(), after.on_unit_scale(before), warnings


def leave_out_outputs(inputs: Inputs) -> Inputs:
    """Leave out the images in folders that were made from others among the inputs.

    The manifests beside them say so. An image that was restored in place is no such output, and
    neither is one that was changed afterwards.
    """
    manifests = Manifests()
    images = {os.path.abspath(i.path) for i in inputs.found if i.path is not None}  # noqa: PTH100
    own = {
        input_.path: None
        for input_ in inputs.found
        if input_.path is not None and input_.folder is not None
        if (origin := _origin(input_.path, manifests)) and origin.is_made_from(images)
    }
    found = [input_ for input_ in inputs.found if input_.path not in own]
    return replace(inputs, found=found, own=[*inputs.own, *own])


def _origin(path: Path, manifests: Manifests) -> RecordedOutput | None:
    """Return the entry that made a file, before any restoration in place; None if unknown."""
    entries = manifests.outputs(path.parent).get(path.name, [])
    history = _history(_current(path, entries), entries)
    return next((RecordedOutput(path, e) for e in history if not e.get("in_place")), None)


def recorded_outputs(folder: Path, manifests: Manifests) -> list[RecordedOutput]:
    """Return the outputs in the manifests of a folder and its subfolders, in natural order.

    Raises:
        UsageError: there is no such folder, or no manifest in it.
    """
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of restored images.")
    outputs = [
        RecordedOutput(Path(parent, name), entries[0])
        for parent, _, files in os.walk(folder)
        if NAME in files
        for name, entries in manifests.outputs(Path(parent)).items()
    ]
    if not outputs:
        raise UsageError(
            f"{folder} has no manifest of restored images ({NAME})",
            "Restoring a folder writes one. For other images, use restormer compare.",
        )
    return sorted(outputs, key=lambda output: [natural_key(part) for part in output.path.parts])
