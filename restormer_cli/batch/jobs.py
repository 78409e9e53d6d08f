"""Where results go: an output named for every input, and what would go wrong seen beforehand."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import FOLDER_MARK, RESTORED_MARK, Input, UrlPath, as_path, exists, is_folder
from ..imaging import FORMATS, readable_suffixes

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUT_FORMATS = {"png": "png", "jpg": "jpeg", "webp": "webp", "tiff": "tiff"}
"""What `--format` says, and what `images` calls it."""

LEAST = 0.1
"""The part of its input's size that an output of the same format takes at least."""

_SHOWN = 20
"""How many problems are spelled out before the rest is only counted."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What applies to every image of a run beside the restorer.

    Attributes:
        format: of the outputs, as `--format` says; "keep" keeps the input's.
        quality: of lossy formats, 1..100.
        max_pixels: larger images fail.
        strength: part of the change that is applied, 0..1.
        record: enter outputs in the manifests of their folders.
    """

    format: str = "keep"
    quality: int = 95
    max_pixels: int = 300_000_000
    strength: float = 1.0
    record: bool = False


@dataclass(frozen=True)
class Job:
    """One image and where it goes; None is stdin, or stdout."""

    source: Path | None
    target: Path | None
    right: Path | None = None
    format: str | None = None  # a key of images.FORMATS; None: as the target's suffix says

    @property
    def names(self) -> tuple[str, str]:
        """Input and output as users know them."""
        return str(self.source or "-"), str(self.target or "-")

    @property
    def in_place(self) -> bool:
        """Whether the output replaces its input."""
        if self.source is None or self.target is None:
            return False
        return _real(self.source) == _real(self.target)


def plan_jobs(
    inputs: list[Input],
    *,
    output: str | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    in_place: bool = False,
    right: str | None = None,
) -> list[Job]:
    """Name an output for every input.

    Beside a named file goes `<stem>.restored.<suffix>`, beside a named folder `<folder>-restored`
    with its tree mirrored; `output` names a file, a folder or "-" instead, and `in_place` without
    `output` the input itself. A suffix stays as it is if its format can be written and `format`
    (a key of OUTPUT_FORMATS) asks for no other; what cannot be written becomes PNG.

    Raises:
        UsageError: all that would go wrong: outputs that are one file, would replace an input, or
            cannot be written. Nothing has been touched.
    """
    kind = OUTPUT_FORMATS[format] if format else None
    targets = _targets(inputs, output, kind, in_place)
    rights = _rights(inputs, right)
    jobs = [
        Job(one.path, target, view, kind)
        for one, target, view in zip(inputs, targets, rights, strict=True)
    ]
    if problems := [*_collisions(jobs), *_replacements(jobs, in_place), *_unwritable(jobs)]:
        raise UsageError(*_told(problems))
    return jobs


def _targets(
    inputs: list[Input], output: str | None, kind: str | None, in_place: bool
) -> list[Path | None]:
    if output == "-" or (output is None and any(one.path is None for one in inputs)):
        if len(inputs) > 1 or any(one.folder for one in inputs):
            raise UsageError("stdout takes one image, and there are several", "Name a folder: -o.")
        return [None] * len(inputs)
    if output is None:
        return [_beside(one, kind, in_place) for one in inputs]

    folder = as_path(output)
    several = len(inputs) > 1 or any(one.folder for one in inputs)
    if output.endswith(("/", os.sep)) or is_folder(folder):
        several = True
    elif several and folder.suffix.lower() in readable_suffixes():
        raise UsageError(
            f"{output} names one file, and there are several inputs",
            "Name a folder; with a / at its end if it is to be called so.",
        )
    if not several:
        return [_file(output, kind)] * len(inputs)
    if any(one.path is None for one in inputs):
        raise UsageError(
            f"{output} is a folder, and the image on stdin has no name",
            "Name the file: -o FILE, or -o - for stdout.",
        )
    return [folder / with_format(one.relative, kind) for one in inputs]


def _beside(one: Input, kind: str | None, in_place: bool) -> Path:
    assert one.path is not None  # noqa: S101 - stdin goes to stdout
    path = with_format(one.path, kind)
    if in_place:
        if path != one.path:
            raise UsageError(
                f"{one.path} cannot be replaced by its output, which is {path.name}",
                "--in-place keeps the format: leave out --format, or name a folder with -o.",
            )
        return path
    if one.folder is None:
        return path.with_name(f"{path.stem}{RESTORED_MARK}{path.suffix}")
    if isinstance(one.folder, UrlPath):
        if one.folder.is_root:
            raise UsageError(f"{one.folder} has no folder beside it", "Name a folder with -o.")
        beside: Path = one.folder.with_name(f"{one.folder.name}{FOLDER_MARK}")
        return beside / with_format(one.relative, kind)
    folder = Path(os.path.abspath(one.folder))  # noqa: PTH100 - a linked folder keeps its name
    if not folder.name:
        raise UsageError(f"{folder} has no folder beside it", "Name a folder with -o.")
    # As it was typed, where that has a name: `photos`, but not `.` or `..`.
    typed = one.folder if one.folder.name not in ("", "..") else folder
    return typed.with_name(f"{folder.name}{FOLDER_MARK}") / with_format(one.relative, kind)


def _file(output: str, kind: str | None) -> Path:
    path = as_path(output)
    suffix = path.suffix.lower()
    writable = {s: name for name, held in FORMATS.items() for s in held.suffixes}
    if suffix and suffix not in writable and not exists(path):
        raise UsageError(
            f"{output}: restormer does not write {suffix} files",
            f"It writes {', '.join(writable)}; a / at the end makes it a folder.",
        )
    if kind and suffix in writable and writable[suffix] != kind:
        raise UsageError(
            f"{output} and --format say two different formats", "Leave out one of them."
        )
    return path


def with_format(path: Path, kind: str | None) -> Path:
    """`path` with its output's suffix; `kind` is a key of images.FORMATS, None to keep it."""
    suffix = path.suffix.lower()
    if kind is None:
        if any(suffix in held.suffixes for held in FORMATS.values()):
            return path
        kind = "png"
    if suffix in FORMATS[kind].suffixes:
        return path
    new = FORMATS[kind].suffixes[0]
    # A suffix that means no picture (`scan.2024`) is a part of the name.
    if suffix in readable_suffixes():
        return path.with_suffix(new)
    return path.with_name(f"{path.name}{new}")


def _rights(inputs: list[Input], right: str | None) -> list[Path | None]:
    if right is None:
        return [None] * len(inputs)
    path = as_path(right)
    if is_folder(path):
        return [path / one.relative for one in inputs]
    if len(inputs) > 1 or any(one.folder for one in inputs):
        raise UsageError(
            f"there are several left views, and {right} is not a folder",
            "Give --right the folder that holds the right views under the same names.",
        )
    return [path] * len(inputs)


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def _collisions(jobs: list[Job]) -> Iterator[str]:
    sources = defaultdict(list)
    for job in jobs:
        if job.target is not None:
            sources[_real(job.target)].append(job)
    for sharing in sources.values():
        if len(sharing) > 1:
            names = " and ".join(job.names[0] for job in sharing)
            yield f"{names} would both become {sharing[0].target}"


def _replacements(jobs: list[Job], in_place: bool) -> Iterator[str]:
    inputs = {_real(job.source): job.source for job in jobs if job.source is not None}
    for job in jobs:
        replaced = None if job.target is None else inputs.get(_real(job.target))
        if replaced is None:
            continue
        if replaced != job.source:
            yield f"{replaced} is an input, too, and the output of {job.names[0]} would replace it"
        elif not in_place:
            yield f"{replaced} would be replaced by its own output (--in-place allows it)"


def _unwritable(jobs: list[Job]) -> Iterator[str]:
    targets = [job.target for job in jobs if job.target is not None]
    yield from (f"{target} is a folder" for target in targets if is_folder(target))
    for folder in dict.fromkeys(target.parent for target in targets):
        if isinstance(folder, UrlPath):  # writing will tell
            continue
        there = next(f for f in (folder, *folder.absolute().parents) if os.path.lexists(f))
        if not is_folder(there):
            yield f"{folder} cannot be made: {there} is not a folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            yield f"{there} is not writable"


def check_disk_space(jobs: list[Job]) -> tuple[list[str], list[str]]:
    """The file systems that surely have no room for the outputs, and those that perhaps have none.

    An output of the same format takes about as much as its input; less than a tenth of it would
    be strange, at any quality. Of other formats nothing is assumed.
    """
    wanted: dict[int, int] = defaultdict(int)
    free: dict[int, tuple[int, Path]] = {}
    for folder, sharing in _by_folder(jobs).items():
        if isinstance(folder, UrlPath):
            continue
        there = next(f for f in (folder, *folder.absolute().parents) if is_folder(f))
        device = there.stat().st_dev
        free.setdefault(device, (shutil.disk_usage(there).free, folder))
        wanted[device] += sum(map(_expected, sharing))
    said = {
        device: f"{folder}: {free_bytes / 1e6:,.1f} MB are free, and about "
        f"{wanted[device] / 1e6:,.1f} MB will be written"
        for device, (free_bytes, folder) in free.items()
    }
    short = [device for device, (free_bytes, _) in free.items() if wanted[device] > free_bytes]
    surely = [device for device in short if LEAST * wanted[device] > free[device][0]]
    return [said[d] for d in surely], [said[d] for d in short if d not in surely]


def _by_folder(jobs: list[Job]) -> dict[Path, list[Job]]:
    folders = defaultdict(list)
    for job in jobs:
        if job.target is not None:
            folders[job.target.parent].append(job)
    return folders


def _expected(job: Job) -> int:
    if job.source is None or job.target is None:
        return 0
    if job.source.suffix.lower() != job.target.suffix.lower():
        return 0
    try:
        return job.source.stat().st_size
    except OSError:  # its turn will tell
        return 0


def _told(problems: list[str]) -> tuple[str, str]:
    hint = "Nothing was touched. -o FOLDER or --format gives other names; so do separate runs."
    if len(problems) == 1:
        return problems[0], hint
    shown = problems[:_SHOWN]
    if more := len(problems) - len(shown):
        shown.append(f"and {more} more")
    return "\n  ".join([f"{len(problems)} things would go wrong:", *shown]), hint
