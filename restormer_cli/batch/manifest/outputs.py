"""Recorded outputs: which to skip, which are no inputs, and what their report shows."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ...errors import DamagedError, ImageError, UsageError
from ...files import (
    Inputs,
    UrlPath,
    as_path,
    exists,
    is_folder,
    natural_key,
    resolve_link,
)
from ...imaging import Noise, read_image
from ..events import Restored, Weights
from ..jobs import collision, real_name
from .entries import NAME, UNRECORDED, Entry, Manifest, Manifests, group_by, has_same_settings
from .fingerprints import FileFingerprint, file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from ...imaging import Image
    from ..jobs import Job
    from .fingerprints import SettingsFingerprint

# Reasons for skipping.
UNCHANGED = "restored before, and nothing has changed"
REPLACED = "restored in place before"
FOREIGN = "its output exists, and no manifest says that it was made from this image"
EDITED = "its output was changed after it was written: remove it to restore the image again"
CHANGED_IN_PLACE = (
    "restored in place before, and changed since: leave out --skip-existing to restore it again"
)
# Warnings in the report of a folder.
LOST = "its input is missing or has changed: only the result is shown"
CHANGED = "it was changed after it was written"


def skip_reason(job: Job, task: str, manifests: Manifests) -> tuple[str | None, Entry | None]:
    """Decide whether to skip an image, without knowing the weights.

    Outputs that were changed, or that no manifest lists, are never replaced. In place, they are
    inputs; see `_reason_in_place`.

    Returns:
        The reason for skipping, or an entry to compare with the settings, or neither: then the
        output is missing, damaged, or made from an input that has changed or is gone.

    Raises:
        ImageError: the output was made from another input, which still exists. Or, in place, the
            manifest cannot be read.
    """
    if job.target is None or not exists(job.target):
        return None, None
    target = resolve_link(job.target)
    manifest = manifests.beside(target)
    if job.in_place:
        return _reason_in_place(job, target, task, manifest), None
    entries = manifest.outputs.get(target.name, [])
    current = _current(target, entries)
    if not entries:
        return FOREIGN, None
    if current is None:
        return (None if _is_damaged(target) else EDITED), None
    files = (("input", job.source), ("right", job.right), ("mask", job.mask))
    same = [_fits(current.get(role), path) for role, path in files]
    if not same[0] and (origin := _origin(target, entries)):
        _refuse_replacing(origin, job)
    return None, current if all(same) else None


def _refuse_replacing(output: RecordedOutput, job: Job) -> None:
    """Raise ImageError if another input than that of the job made the output, and still exists.

    An input to which this run gives another output may lose this one.
    """
    path = next(filter(exists, output.possible_inputs()), None)
    own = {real_name(path) for path in (job.source, job.target) if path is not None} | job.renamed
    if path is not None and real_name(path) not in own and _fits(output.entry["input"], path):
        names = str(path), job.names[0]
        alike = len({Path(name).suffix.lower() for name in names}) == 1
        whole = "" if alike else " Or restore both in one run, which gives them different names."
        problem = collision(names, job.names[1])
        raise ImageError(problem, f"Name another output with -o.{whole}")


def _reason_in_place(job: Job, target: Path, task: str, manifest: Manifest) -> str | None:
    """Return why an image in place is skipped: this task has restored it, or the file of its name.

    A restoration through another mask does not count, because it restored another part. The file
    is recognized by its content under any name in its folder. A file of another content under the
    name of a restored one may be the restored image with other metadata, so it is skipped, too. It
    is restored if it is the recorded input: then that was put back, or a killed run has added the
    entry and not replaced the file.

    Raises:
        ImageError: the manifest cannot be read.
    """
    if manifest.problem:
        raise ImageError(manifest.problem, UNRECORDED)
    entries = manifest.outputs.get(target.name, [])
    current = _current(target, entries)
    # A file of another size than all recorded ones is not read.
    digest = current["output"]["sha256"] if current else file_digest(target, manifest.sizes)

    def is_done(entry: Entry) -> bool:
        mask = entry.get("mask")
        return entry["recipe"]["task"] == task and (mask is None or _fits(mask, job.mask))

    history = [] if digest is None else list(_history(digest, manifest.contents))
    if any(map(is_done, history)):
        return REPLACED
    known = {digest, *(entry["input"]["sha256"] for entry in history)}
    done = [entry for entry in entries if is_done(entry)]
    undone = any(entry["input"]["sha256"] in known for entry in done)
    return CHANGED_IN_PLACE if done and not undone else None


@dataclass
class SkipCheck:
    """Decides again, during a run, whether to skip an image; for several threads.

    Hours after the first decision, another run may have restored the image, or a person may have
    written or edited its output.
    """

    manifests: Manifests = field(default_factory=Manifests)
    lock: Lock = field(default_factory=Lock)

    def reason(self, job: Job, settings: SettingsFingerprint) -> str | None:
        """Return the reason for skipping an image; None to restore it.

        Raises:
            ImageError: see `skip_reason`.
        """
        if isinstance(job.target, UrlPath) and not job.in_place:
            return None  # without requests for each image
        with self.lock:
            self.manifests.refresh()
            self.manifests.notes.clear()  # the first decision reports them
            reason, entry = skip_reason(job, settings["task"], self.manifests)
        return UNCHANGED if entry and has_same_settings(entry, settings) else reason


def _fits(recorded: dict[str, Any] | None, path: Path | None) -> bool:
    if recorded is None or path is None:
        return recorded is None and path is None
    return FileFingerprint.from_entry(recorded).fits(path)


def _current(path: Path, entries: list[Entry]) -> Entry | None:
    """Return the newest entry that describes a file as it is now."""
    return next((entry for entry in entries if _fits(entry["output"], path)), None)


def _history(digest: str, contents: Mapping[str, list[Entry]]) -> Iterator[Entry]:
    """Yield the entries that made a content, those that made their inputs, and so on.

    Args:
        digest: of the content.
        contents: entries by the digest of the output, newest first.
    """
    seen, pending = {digest}, [digest]
    while pending:
        for entry in contents.get(pending.pop(), []):
            yield entry
            origin = entry["input"]["sha256"]
            if origin not in seen:
                seen.add(origin)
                pending.append(origin)


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

        Old manifests only have the name, which is relative to the working directory of the run.
        That is assumed to be the current one, or a folder above the output.
        """
        recorded = self.entry["input"]
        return next((path for path in self.possible_inputs() if _fits(recorded, path)), None)

    def possible_inputs(self) -> list[Path]:
        """Return the recorded path, and those that the recorded name may stand for."""
        name, paths = self.entry["input"]["name"], list[Path]()
        if recorded := self.entry["input"].get("path"):
            folder = Path(os.path.realpath(self.path)).parent
            paths.append(Path(os.path.normpath(folder / recorded)))
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
        path: None
        for input_ in inputs.found
        if (path := input_.path) is not None and input_.folder is not None
        if (origin := _origin(path, manifests.outputs(path.parent).get(path.name, [])))
        and origin.is_made_from(images)
    }
    found = [input_ for input_ in inputs.found if input_.path not in own]
    return replace(inputs, found=found, own=[*inputs.own, *own])


def _origin(path: Path, entries: list[Entry]) -> RecordedOutput | None:
    """Return the one of its entries that made a file, before any restoration in place, if any."""
    if (current := _current(path, entries)) is None:
        return None
    history = _history(current["output"]["sha256"], group_by(entries, "sha256"))
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
