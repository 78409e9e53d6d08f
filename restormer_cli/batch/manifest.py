"""The manifest beside the outputs, which records how each was made; later runs can skip it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..errors import DamagedError, ImageError, UsageError
from ..files import UrlPath, as_path, exists, is_folder, natural_key, sha256_file, write_atomic
from ..imaging import read_image
from .events import Restored, Weights

if TYPE_CHECKING:
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
"""The fields of Restored, with the fingerprints of the files in "input", "output" and "right", and
with "recipe" (the settings fingerprint), "version" and "time"."""


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
    return {"task": config.task, "weights": restorer.weights.sha256, "options": options}


def has_same_settings(entry: Entry, settings: SettingsFingerprint) -> bool:
    """Return whether an output was made with these settings."""
    return bool(entry["recipe"] == settings)


class FileFingerprint(NamedTuple):
    """Size, modification time (None for stdin) and digest of a file."""

    size: int
    mtime_ns: int | None
    sha256: str

    @classmethod
    def of(cls, data: bytes, mtime_ns: int | None) -> FileFingerprint:
        """Return the fingerprint of a file with these bytes."""
        return cls(len(data), mtime_ns, hashlib.sha256(data).hexdigest())

    @classmethod
    def from_entry(cls, recorded: dict[str, Any]) -> FileFingerprint:
        """Return the fingerprint in an entry's "input", "output" or "right"."""
        return cls(*(recorded[name] for name in cls._fields))

    def fits(self, path: Path) -> bool:
        """Return whether the file is unchanged. Read it only if its modification time differs."""
        try:
            stat = path.stat()
            return stat.st_size == self.size and (
                stat.st_mtime_ns == self.mtime_ns or sha256_file(path) == self.sha256
            )
        except OSError:
            return False


def append_entry(
    target: Path,
    event: Restored,
    settings: SettingsFingerprint,
    source: FileFingerprint,
    right: FileFingerprint | None,
    output: FileFingerprint,
) -> list[str]:
    """Add an entry about an output to the manifest beside it; return a note if this fails.

    Other processes may append at the same time, so there is a single write. The entry starts on a
    new line even if a killed run has left an incomplete one.
    """
    entry = {
        **event.as_dict(),
        "input": {"name": event.input, **source._asdict()},
        "right": right and right._asdict(),
        "output": {"name": target.name, **output._asdict()},
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
        for recorded in (entry["input"], entry["output"], entry["right"] or entry["input"]):
            FileFingerprint.from_entry(recorded)
        _ = entry["recipe"]["task"], entry["output"]["name"] + ""
    except (ValueError, KeyError, TypeError):
        return None
    return dict(entry)


def skip_reason(job: Job, task: str, manifests: Manifests) -> tuple[str | None, Entry | None]:
    """Decide whether to skip an image, without knowing the weights.

    Outputs that were changed, or that no manifest lists, are never replaced. In place, they are
    inputs and are restored unless this task has already restored them.

    Returns:
        The reason for skipping, or an entry to compare with the settings, or neither: then the
        output is missing, damaged, or made from another input.
    """
    if job.target is None or not exists(job.target):
        return None, None
    target = job.target
    entries = manifests.outputs(target.parent).get(target.name, [])
    current = next((entry for entry in entries if _fits(entry["output"], target)), None)
    if job.in_place:
        return REPLACED if current and task in _tasks(current, entries) else None, None
    if not entries:
        return FOREIGN, None
    if current is None:
        return (None if _is_damaged(target) else EDITED), None
    same = _fits(current["input"], job.source) and _fits(current["right"], job.right)
    return None, current if same else None


def _fits(recorded: dict[str, Any] | None, path: Path | None) -> bool:
    if recorded is None or path is None:
        return recorded is None and path is None
    return FileFingerprint.from_entry(recorded).fits(path)


def _tasks(current: Entry, entries: list[Entry]) -> set[str]:
    """Return the tasks that have restored a file in place, one after the other."""
    tasks, digest = set(), current["output"]["sha256"]
    for entry in entries:  # newest first
        if entry["output"]["sha256"] == digest:
            tasks.add(entry["recipe"]["task"])
            digest = entry["input"]["sha256"]
    return tasks


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
            values = {f.name: self.entry[f.name] for f in fields(Restored)} | names
            return Restored(**values | {"weights": Weights(**values["weights"])})
        except (KeyError, TypeError) as error:
            raise ImageError("the manifest does not say how it was made") from error

    def input(self) -> Path | None:
        """Return the path of the input, or None if it is missing or has changed.

        The recorded name is relative to the working directory of the run. That is assumed to be
        the current one, or a folder above the output.
        """
        recorded = self.entry["input"]
        name, paths = recorded["name"], []
        with suppress(UsageError):  # a URL that cannot be reached from this machine
            paths.append(as_path(name))
        paths += [folder / name for folder in self.path.absolute().parents]
        return next((path for path in paths if _fits(recorded, path)), None)

    def read(self, source: Path | None, max_pixels: int) -> tuple[Image | None, Image, list[str]]:
        """Return the input (None if it cannot be shown), the output, and warnings.

        Raises:
            ImageError: the output cannot be read.
        """
        warnings = [] if _fits(self.entry["output"], self.path) else [CHANGED]
        after = read_image(self.path, max_pixels=max_pixels)
        if source is None:
            return None, after, [*warnings, LOST]
        before = read_image(source, max_pixels=max_pixels, allow_damaged=True)
        resized = before.pixels.shape[:2] != after.pixels.shape[:2]  # by another program
        return None if resized else before, after, warnings


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
