"""What a folder's outputs were made of: a line for each, so that a later run can go on."""

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
    from collections.abc import Iterator
    from pathlib import Path

    from ..imaging import Image
    from ..inference import Restorer
    from .events import Restored
    from .jobs import BatchConfig, Job


# --- records -------------------------------------------------------------------------------------

NAME = ".restormer.jsonl"
"""The record, in the folder of the outputs; hidden, and so no input."""

FOLDER = ".restormer"
"""Where the record is files, one for each output: stores of objects append nothing."""

Entry = dict[str, Any]

SettingsFingerprint = dict[str, Any]
"""What decides on the result beside the input: "task", "weights" (sha256), "options"."""


def settings_fingerprint(restorer: Restorer, batch: BatchConfig) -> SettingsFingerprint:
    """Return what decides on the results of a run beside its inputs."""
    config = restorer.config
    return {
        "task": config.task,
        "weights": restorer.weights.sha256,
        "options": {
            "format": batch.format,
            "quality": batch.quality,
            "tile": str(config.tile),
            "overlap": config.overlap,
            "window": config.window,
            "ensemble": config.ensemble,
            "strength": batch.strength,
            "precision": restorer.precision,
        },
    }


class FileFingerprint(NamedTuple):
    """What tells that a file is still the same."""

    size: int
    mtime_ns: int | None  # None: it was no file, but stdin
    sha256: str

    @classmethod
    def of(cls, data: bytes, mtime_ns: int | None) -> FileFingerprint:
        """Of a file with these bytes."""
        return cls(len(data), mtime_ns, hashlib.sha256(data).hexdigest())

    def fits(self, path: Path) -> bool:
        """Whether the file is as it was; it is read only if its time says that it might not be."""
        try:
            stat = path.stat()
            if stat.st_size != self.size:
                return False
            if self.mtime_ns is not None and stat.st_mtime_ns == self.mtime_ns:
                return True
            return sha256_file(path) == self.sha256
        except OSError:
            return False


def line(
    event: Restored,
    recipe: SettingsFingerprint,
    left: FileFingerprint,
    right: FileFingerprint | None,
    output: FileFingerprint,
) -> Entry:
    """What is recorded of an output: the event, with what tells whether all is still the same."""
    return {
        **event.as_dict(),
        "input": {"name": event.input, **left._asdict()},
        "right": right and right._asdict(),
        "output": {"name": Path(event.output).name, **output._asdict()},
        "recipe": recipe,
        "version": __version__,
    }


def write(target: Path, line: Entry) -> list[str]:
    """Add a line about `target` to its folder's record; return why that could not be.

    One write at the end of the file, which other processes may be adding to, and onto the disk. A
    line that a killed run left torn is ended first, and so costs no other.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps({**line, "time": now}).encode() + b"\n"
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
        return [f"{path} cannot be written ({cause}): --skip-existing will not know it"]
    return []


class Manifests:
    """The records of several folders, each read when it is first asked about.

    `notes` says which of them are damaged.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Entry]]] = {}
        self.notes: list[str] = []

    def about(self, target: Path) -> list[Entry]:
        """The lines about this output, the newest first."""
        folder = target.parent
        if folder not in self._folders:
            self._folders[folder] = self._read(folder / NAME)
        return self._folders[folder].get(target.name, [])

    def of(self, folder: Path) -> list[tuple[Path, list[Entry]]]:
        """The outputs that a folder's record tells of, each with its lines, the newest first."""
        self.about(folder / NAME)  # which reads it
        return [(folder / name, lines) for name, lines in self._folders[folder].items()]

    def _read(self, path: Path) -> dict[str, list[Entry]]:
        lines: dict[str, list[Entry]] = defaultdict(list)
        damaged = 0
        try:
            pieces = _pieces(path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.notes.append(f"{path} cannot be read ({error.strerror or error}) and is ignored")
            return {}
        for piece in filter(None, reversed(pieces)):
            line = _parsed(piece)
            if line is not None:
                lines[line["output"]["name"]].append(line)
            elif piece is not pieces[-1]:  # the last is what a killed run was writing
                damaged += 1
        if damaged:
            self.notes.append(f"{path} is damaged: {damaged} of its lines are ignored")
        return lines


def _pieces(path: Path) -> list[bytes]:
    """What ought to be lines of a record."""
    if isinstance(path, UrlPath):
        return [each.read_bytes().strip() for each in (path.parent / FOLDER).files(recursive=False)]
    return path.read_bytes().split(b"\n")


def fingerprint(line: Entry, of: str) -> FileFingerprint:
    """What a line says about its "input" or "output"."""
    return FileFingerprint(*(line[of][field] for field in FileFingerprint._fields))


def _parsed(piece: bytes) -> Entry | None:
    """A line that has all that is asked of it later."""
    try:
        line = json.loads(piece)
        fingerprint(line, "input"), fingerprint(line, "output")
        _ = line["recipe"]["task"], line["right"] and FileFingerprint(**line["right"])
        _ = line["output"]["name"] + "is text"
    except (ValueError, KeyError, TypeError):
        return None
    return dict(line)


# --- skipping ------------------------------------------------------------------------------------


UNCHANGED = "restored before, and nothing has changed"
REPLACED = "restored in place before"
FOREIGN = "its output exists, and no record says that it was made from this image"
EDITED = "its output was changed after it was written: remove it to have it made again"


def skip_reason(job: Job, task: str, records: Manifests) -> tuple[str | None, Entry | None]:
    """Why this image is skipped whatever the weights, or else the line that they are to be held to.

    Both are None if it is to be restored: there is no output, it is damaged, or it was made from
    another input. What somebody else wrote, or changed, is never written over; but in place it is
    an input, unless it is what this task has made of one.
    """
    if job.target is None or not exists(job.target):
        return None, None
    target, lines = job.target, records.about(job.target)
    written = (line for line in lines if fingerprint(line, "output").fits(target))
    line = next(written, None)
    if job.in_place:
        return REPLACED if line and task in _tasks(line, lines) else None, None
    if not lines:
        return FOREIGN, None
    if line is None:
        return (None if _damaged(target) else EDITED), None
    same = job.source is not None and fingerprint(line, "input").fits(job.source)
    return None, line if same and _same_right(line, job.right) else None


def _tasks(last: Entry, lines: list[Entry]) -> set[str]:
    """The tasks that one after the other made, in its place, the file that `last` tells of."""
    tasks, at = set(), fingerprint(last, "output").sha256
    for line in lines:  # the newest first
        if fingerprint(line, "output").sha256 == at:
            tasks.add(line["recipe"]["task"])
            at = fingerprint(line, "input").sha256
    return tasks


def has_same_settings(line: Entry, recipe: SettingsFingerprint) -> bool:
    """Whether an output was made as one would be now."""
    return bool(line["recipe"] == recipe)


def _same_right(line: Entry, right: Path | None) -> bool:
    recorded = line["right"]
    if right is None or recorded is None:
        return right is recorded
    return FileFingerprint(**recorded).fits(right)


def _damaged(path: Path) -> bool:
    """Whether a file is so: what cannot be read for other reasons may be somebody's work."""
    try:
        read_image(path)
    except ImageError as error:
        return isinstance(error, DamagedError)
    return False


# --- finished ------------------------------------------------------------------------------------


LOST = "its input is no longer there, or no longer what it was: only the result is shown"
CHANGED = "it was changed after it was written"


@dataclass(frozen=True)
class RecordedOutput:
    """An output, and the newest line about it."""

    path: Path
    line: Entry

    def event(self) -> Restored:
        """What was told when it was restored, with the notes of today.

        Raises:
            ImageError: it is gone, or its record has not all of that.
        """
        if not exists(self.path):
            raise ImageError("the output is no longer there", "Restore the image again.")
        names = {"input": self.line["input"]["name"], "output": str(self.path)}
        try:
            told = {f.name: self.line[f.name] for f in fields(Restored)} | names
            return Restored(**told | {"weights": Weights(**told["weights"])})
        except (KeyError, TypeError) as error:
            raise ImageError("the record does not tell how it was made") from error

    def input(self) -> Path | None:
        """The file that it was made of, if it is there and has not changed.

        Its name is relative to where the run was started: that is here, or above the output.
        """
        name, made_of = self.line["input"]["name"], fingerprint(self.line, "input")
        above = (folder / name for folder in self.path.absolute().parents)
        named = []
        with suppress(UsageError):  # a URL, of a kind that cannot be reached from here
            named.append(as_path(name))
        return next((path for path in (*named, *above) if _is(made_of, path)), None)

    def read(self, source: Path | None, max_pixels: int) -> tuple[Image | None, Image, list[str]]:
        """Its input, if that can be shown beside it, and itself, with what is odd about them.

        Raises:
            ImageError: the output cannot be read.
        """
        odd = [] if _is(fingerprint(self.line, "output"), self.path) else [CHANGED]
        after = read_image(self.path, max_pixels=max_pixels)
        if source is None:
            return None, after, [*odd, LOST]
        before = read_image(source, max_pixels=max_pixels)
        alike = before.pixels.shape[:2] == after.pixels.shape[:2]  # else it was edited
        return before if alike else None, after, odd


def _is(made_of: FileFingerprint, path: Path) -> bool:
    return exists(path) and path.is_file() and made_of.fits(path)


def recorded_outputs(folder: Path, past: Manifests) -> list[RecordedOutput]:
    """All outputs that the records in a folder, and below it, tell of, in natural order.

    Raises:
        UsageError: it is no folder, or there is no record.
    """
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of restored images.")
    found = [
        RecordedOutput(path, lines[0])
        for below in _recorded(folder)
        for path, lines in past.of(below)
    ]
    if not found:
        raise UsageError(
            f"{folder} has no record ({NAME}) of what was restored",
            "A run over a folder leaves one; of other images, restormer compare makes a page.",
        )
    return sorted(found, key=lambda output: [natural_key(part) for part in output.path.parts])


def _recorded(folder: Path) -> Iterator[Path]:
    for name, _, files in os.walk(folder):
        if NAME in files:
            yield Path(name)
