"""The file of a manifest: add an entry, and read the entries."""

from __future__ import annotations

import errno
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...errors import ImageError
from ...files import UrlPath, resolve_link, write_atomic
from ...text import reason
from .fingerprints import FileFingerprint, SettingsFingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ..events import Restored

NAME = ".restormer.jsonl"
"""File name of a manifest."""

FOLDER = ".restormer"
"""Folder with a file for each entry of the manifest in an object store, which cannot append."""

UNRECORDED = (
    "Repair or remove that manifest. In place, only its entries keep a later run from restoring "
    "an image twice."
)
"""Remedy if a manifest that restorations in place need cannot be used."""

Entry = dict[str, Any]
"""The fields of Restored, with the fingerprints of the files in "input", "output", "right" and
"mask", and with "in_place", "recipe" (the settings fingerprint), "version" and "time". "input" and
"output" also have a "name"; "input" has the "path" from the folder of the manifest, or None. Old
manifests lack "mask", "in_place" and "path"."""


def has_same_settings(entry: Entry, settings: SettingsFingerprint) -> bool:
    """Return whether an output was made with these settings."""
    return bool(entry["recipe"] == settings)


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
    """Add an entry about an output to the manifest beside its file; return a note if this fails.

    Raises:
        ImageError: it fails in place, where a later run would restore the image a second time.
    """
    target = resolve_link(target)
    entry = {
        **event.as_dict(),
        "input": {
            "name": event.input,
            "path": _relative_path(event.input, target.parent),
            **source._asdict(),
        },
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
            path = _url_entry(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
            return []
        _append(path, text)
    except OSError as error:
        cause = f"{path} cannot be written ({reason(error)})"
        if in_place and not isinstance(target, UrlPath):
            raise ImageError(f"not replaced, because {cause}", UNRECORDED) from error
        return [f"{cause}: --skip-existing will not skip this image"]
    return []


def _relative_path(name: str, folder: Path) -> str | None:
    """Return the path of an input from the folder of a manifest, so that both may be moved.

    None if one of them is a URL, or they are on different drives.
    """
    if "://" in name or isinstance(folder, UrlPath):
        return None
    try:
        return os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
    except (OSError, ValueError):  # the first without a working folder
        return None


def unusable(folder: Path) -> str | None:
    """Return why the manifest of a folder cannot be read or written; None if it can.

    A missing one can. Only writing shows it for a URL.
    """
    path = folder / NAME
    if isinstance(folder, UrlPath) or not os.path.lexists(path):
        return None
    if not path.is_file():
        return f"{path} is not a file"
    usable = os.access(path, os.R_OK | os.W_OK)
    return None if usable else f"{path} cannot be read or written (permission denied)"


def _append(path: Path, text: bytes) -> None:
    """Append a line to a file.

    Other processes may append at the same time, so there is a single write. The line is a new one
    even if a killed run has left an incomplete one.

    Raises:
        OSError: the line cannot be written, or only in part.
    """
    with path.open("a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            text = (b"" if file.read(1) == b"\n" else b"\n") + text
        if file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())


@dataclass
class Manifest:
    """What was read of a manifest; lists of entries are newest first.

    Attributes:
        outputs: the entries by the name of the output.
        contents: the entries by the digest of the output.
        sizes: the sizes of all inputs and outputs in bytes.
        problem: why the file cannot be read, if it exists.
    """

    outputs: dict[str, list[Entry]] = field(default_factory=dict)
    contents: dict[str, list[Entry]] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    problem: str | None = None
    file: tuple[int, int] = (0, 0)  # device and number
    end: int = 0  # offset up to which it was read

    def added_lines(self, path: Path) -> list[bytes]:
        """Read the lines that were added to a local file; all lines if the file is another one.

        Raises:
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self.file or status.st_size < self.end:
                self.clear()
                self.end = 0
            self.file = status.st_dev, status.st_ino
            file.seek(self.end)
            data = file.read()
        lines = data.split(b"\n")
        # A run that was killed, or that is writing, leaves an incomplete last line.
        last = b"" if _parse(lines[-1]) else lines.pop()
        self.end += len(data) - len(last)
        return lines

    def clear(self) -> None:
        """Remove all entries."""
        self.outputs, self.contents, self.sizes = {}, {}, set()

    def add(self, lines: list[bytes]) -> int:
        """Add entries, oldest first, and return the number of damaged ones."""
        parsed = [_parse(line) for line in filter(None, map(bytes.strip, reversed(lines)))]
        entries = [entry for entry in parsed if entry is not None]
        for known, key in ((self.outputs, "name"), (self.contents, "sha256")):
            for value, found in group_by(entries, key).items():
                known[value] = found + known.get(value, [])
        self.sizes.update(e[role]["size"] for e in entries for role in ("input", "output"))
        return len(parsed) - len(entries)


def group_by(entries: Iterable[Entry], key: str) -> dict[str, list[Entry]]:
    """Return entries by a field of their outputs, in the same order."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry["output"][key]].append(entry)
    return groups


class Manifests:
    """Manifests of several folders, each read once; after `refresh`, what was added to them.

    Attributes:
        notes: sentences on manifests that are damaged or cannot be read.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, Manifest] = {}
        self._current: set[Path] = set()
        self.notes: list[str] = []

    def refresh(self) -> None:
        """Look for added entries when a folder is used next."""
        self._current.clear()

    def outputs(self, folder: Path) -> dict[str, list[Entry]]:
        """Return the entries of each output in a folder, newest first."""
        return self._read(folder).outputs

    def beside(self, target: Path) -> Manifest:
        """Return the manifest beside an output. For a URL, it has the entries of this name only."""
        if not isinstance(target, UrlPath):
            return self._read(target.parent)
        # One request, however many outputs the folder has.
        read = partial(_read_all, [_url_entry(target)])
        return self._update(target.parent, Manifest(), read)

    def _read(self, folder: Path) -> Manifest:
        if folder not in self._current:
            known = self._folders.get(folder, Manifest())
            self._folders[folder] = self._update(folder, known, self._list(folder, known))
            self._current.add(folder)
        return self._folders[folder]

    @staticmethod
    def _list(folder: Path, known: Manifest) -> Callable[[], list[bytes]]:
        """Return the function that reads what `known` lacks."""
        if isinstance(folder, UrlPath):
            known.clear()
            return lambda: _read_all((folder / FOLDER).files(recursive=False))
        return partial(known.added_lines, folder / NAME)

    def _update(
        self, folder: Path, manifest: Manifest, read: Callable[[], list[bytes]]
    ) -> Manifest:
        """Return the manifest with what `read` returns, or an empty one, and note problems."""
        path = folder / NAME
        try:
            damaged = manifest.add(read())
        except FileNotFoundError:
            return Manifest()
        except OSError as error:
            problem = f"{path} cannot be read ({reason(error)})"
            self.notes.append(f"{problem} and is ignored")
            return Manifest(problem=problem)
        if damaged:
            self.notes.append(f"{path} is damaged: {damaged} of its lines are ignored")
        return manifest


def _read_all(files: Iterable[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def _url_entry(target: UrlPath) -> Path:
    """Return the file with the entry of an output in an object store."""
    path: Path = target.parent / FOLDER / f"{target.name}.json"
    return path


def _parse(line: bytes) -> Entry | None:
    """Return the entry, or None if it lacks a field that is read later."""
    try:
        entry = json.loads(line)
        others = [file for file in (entry["right"], entry.get("mask")) if file is not None]
        for recorded in (entry["input"], entry["output"], *others):
            FileFingerprint.from_entry(recorded)
        _ = entry["recipe"]["task"], entry["output"]["name"] + ""
    except (ValueError, KeyError, TypeError, RecursionError):  # the last for thousands of brackets
        return None
    return dict(entry)
