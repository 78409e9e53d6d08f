"""What a folder's outputs were made of: a line for each, so that a later run can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import __version__
from .files import sha256_of, write_whole
from .urls import Url

if TYPE_CHECKING:
    from .events import Restored
    from .options import Restoring
    from .restorer import Restorer

NAME = ".restormer.jsonl"
"""The record, in the folder of the outputs; hidden, and so no input."""

FOLDER = ".restormer"
"""Where the record is files, one for each output: stores of objects append nothing."""

Line = dict[str, Any]

Recipe = dict[str, Any]
"""What decides on the result beside the input: "task", "weights" (sha256), "options"."""


NEUTRAL = frozenset(
    [
        # What is read and where to, how much of it, and what is said about it.
        *("inputs", "output", "right", "recursive", "files_from", "null", "max_pixels"),
        *("skip_existing", "in_place", "dry_run", "json", "quiet", "verbose"),
        *("preview", "compare", "crop", "report"),
        # What chooses the weights, for which their hash stands, and where they run.
        *("weights", "noise", "sigma", "gray", "device", "ray"),
    ]
)
"""Options by which no result differs; a recipe holds all the others."""


def recipe(restorer: Restorer, options: Restoring) -> Recipe:
    """What decides on the results of a run."""
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in NEUTRAL}
    return {
        "task": restorer.task.name,
        "weights": restorer.weights.sha256,
        "options": {**given, "precision": restorer.precision},
    }


class Fingerprint(NamedTuple):
    """What tells that a file is still the same."""

    size: int
    mtime_ns: int | None  # None: it was no file, but stdin
    sha256: str

    @classmethod
    def of(cls, data: bytes, mtime_ns: int | None) -> Fingerprint:
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
            return sha256_of(path) == self.sha256
        except OSError:
            return False


def line(
    event: Restored,
    recipe: Recipe,
    left: Fingerprint,
    right: Fingerprint | None,
    output: Fingerprint,
) -> Line:
    """What is recorded of an output: the event, with what tells whether all is still the same."""
    return {
        **event.as_dict(),
        "input": {"name": event.input, **left._asdict()},
        "right": right and right._asdict(),
        "output": {"name": Path(event.output).name, **output._asdict()},
        "recipe": recipe,
        "version": __version__,
    }


def write(target: Path, line: Line) -> list[str]:
    """Add a line about `target` to its folder's record; return why that could not be.

    One write at the end of the file, which other processes may be adding to, and onto the disk. A
    line that a killed run left torn is ended first, and so costs no other.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps({**line, "time": now}).encode() + b"\n"
    path = target.parent / NAME
    try:
        if isinstance(target, Url):
            path = target.parent / FOLDER / f"{target.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
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


class Records:
    """The records of several folders, each read when it is first asked about.

    `notes` says which of them are damaged.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Line]]] = {}
        self.notes: list[str] = []

    def about(self, target: Path) -> list[Line]:
        """The lines about this output, the newest first."""
        folder = target.parent
        if folder not in self._folders:
            self._folders[folder] = self._read(folder / NAME)
        return self._folders[folder].get(target.name, [])

    def of(self, folder: Path) -> list[tuple[Path, list[Line]]]:
        """The outputs that a folder's record tells of, each with its lines, the newest first."""
        self.about(folder / NAME)  # which reads it
        return [(folder / name, lines) for name, lines in self._folders[folder].items()]

    def _read(self, path: Path) -> dict[str, list[Line]]:
        lines: dict[str, list[Line]] = defaultdict(list)
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
    if isinstance(path, Url):
        return [each.read_bytes().strip() for each in (path.parent / FOLDER).files(recursive=False)]
    return path.read_bytes().split(b"\n")


def fingerprint(line: Line, of: str) -> Fingerprint:
    """What a line says about its "input" or "output"."""
    return Fingerprint(*(line[of][field] for field in Fingerprint._fields))


def _parsed(piece: bytes) -> Line | None:
    """A line that has all that is asked of it later."""
    try:
        line = json.loads(piece)
        fingerprint(line, "input"), fingerprint(line, "output")
        _ = line["recipe"]["task"], line["right"] and Fingerprint(**line["right"])
        _ = line["output"]["name"] + "is text"
    except (ValueError, KeyError, TypeError):
        return None
    return dict(line)
