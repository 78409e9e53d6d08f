"""Recorded outputs: which to skip, which are no inputs, and what their report shows."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DamagedError, ImageError, UsageError
from ...files import (
    Inputs,
    UrlPath,
    as_path,
    exists,
    is_folder,
    natural_key,
)
from ...imaging import Noise, read_image
from ..events import Restored, Weights
from .entries import NAME, Entry, Manifests
from .fingerprints import FileFingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from ...imaging import Image
    from ..jobs import Job

# Reasons for skipping.
UNCHANGED = "restored before, and nothing has changed"
REPLACED = "restored in place before"
FOREIGN = "its output exists, and no manifest says that it was made from this image"
EDITED = "its output was changed after it was written: remove it to restore the image again"
# Warnings in the report of a folder.
LOST = "its input is missing or has changed: only the result is shown"
CHANGED = "it was changed after it was written"


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
    entries = manifests.entries(target)
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
            noise, scale = values.get("noise"), values.get("scale")
            values["weights"] = Weights(**values["weights"])
            values["noise"] = noise and Noise(**noise)
            values["scale"] = scale and tuple(scale)
            return Restored(**values)
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


def leave_out_outputs(
    inputs: Inputs, manifests: Manifests | None = None, known: set[str] | None = None
) -> Inputs:
    """Leave out the images in folders that were made from others among the inputs.

    The manifests beside them say so. An image that was restored in place is no such output, and
    neither is one that was changed afterwards.

    Args:
        inputs: the inputs.
        manifests: those read so far; None to read all.
        known: absolute paths of further inputs, to which those of `inputs` are added.
    """
    manifests = Manifests() if manifests is None else manifests
    images = set[str]() if known is None else known
    images.update(os.path.abspath(i.path) for i in inputs.found if i.path is not None)  # noqa: PTH100
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
