"""Jobs: the output of every input, and the problems that are found before the run."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..errors import UsageError
from ..files import (
    FOLDER_MARK,
    RESTORED_MARK,
    Input,
    as_path,
    beside,
    exists,
    is_folder,
    resolve_link,
    unwritable,
)
from ..imaging import (
    FORMATS,
    LINEAR_ONLY,
    MAX_PIXELS,
    excludes_linear,
    readable_suffixes,
    replacement,
    requested_format,
)
from .manifest import UNRECORDED, unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..imaging import Noise

OUTPUT_FORMATS = {"png": "png", "jpg": "jpeg", "webp": "webp", "tiff": "tiff", "dng": "dng"}
"""Values of `--format`, and the keys of FORMATS that they stand for."""

_MAX_NAMES = 5  # of inputs with one output, listed in an error
_MAX_PROBLEMS = 20  # listed in an error; the others are only counted
_DEVICE_FOLDERS = ("/dev", "/dev/fd")
_WRITABLE = {suffix: kind for kind, spec in FORMATS.items() for suffix in spec.suffixes}


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Settings of a run, in addition to those of the restorer.

    Attributes:
        format: format of the outputs, as in `--format`; "keep" for that of the input.
        quality: quality of lossy formats, 1..100.
        max_pixels: maximum number of pixels of an image; larger images fail.
        strength: fraction of the change that is applied, 0..1.
        keep_detail: fraction of the removed luminance detail that is given back, 0..1.
        allow_damaged: restore what can be decoded of a damaged image, with a warning.
        record: add outputs to the manifests of their folders.
        skip_existing: look again for an output when an image is read and written, and skip it.
    """

    format: str = "keep"
    quality: int = 95
    max_pixels: int = MAX_PIXELS
    strength: float = 1.0
    keep_detail: float = 0.0
    allow_damaged: bool = False
    record: bool = False
    skip_existing: bool = False


@dataclass(frozen=True)
class Job:
    """An image to restore."""

    source: Path | None  # None: stdin
    target: Path | None  # None: stdout
    right: Path | None = None  # the right view
    format: str | None = None  # a key of FORMATS; None: by the target's suffix
    noise: Noise | None = None  # of the first page, if it was estimated before the run
    problem: str | None = None  # reason why the image cannot be restored in this run
    hint: str = "Restore it in a run of its own, with -o."  # remedy of the problem
    mask: Path | None = None  # white where the image is restored
    renamed: frozenset[str] = frozenset()  # inputs of the run that left the name of this output

    @property
    def names(self) -> tuple[str, str]:
        """Names of input and output for messages."""
        return str(self.source or "-"), str(self.target or "-")

    @property
    def in_place(self) -> bool:
        """True if the output replaces its input."""
        return bool(
            self.source and self.target and real_name(self.source) == real_name(self.target)
        )

    @property
    def folder(self) -> Path | None:
        """Folder of the file that is written, which a link may have elsewhere; None for stdout."""
        return None if self.target is None else resolve_link(self.target).parent


def plan_jobs(
    inputs: list[Input],
    *,
    output: str | None = None,
    format: str | None = None,  # noqa: A002 - the option's name
    in_place: bool = False,
    right: str | None = None,
) -> list[Job]:
    """Return a job for every input.

    By default, the output of a file is `<stem>.restored.<suffix>` beside it, and the outputs of a
    folder go to `<folder>-restored` beside it, with the same tree. If outputs in another format
    would take a name that is taken, they keep the whole name of their input: `x.gif.png`. Jobs that
    share an output all the same have a `problem`, and so have inputs that cannot be replaced in
    place in their own format, and those for a DNG that are no camera raw files.

    Args:
        inputs: the inputs.
        output: a file, a folder, or "-" for stdout.
        format: format of the outputs, a key of OUTPUT_FORMATS; None to keep a format that can be
            written, and use PNG instead of others.
        in_place: outputs may replace their own inputs, and do so without `output`.
        right: right view, or folder of right views.

    Raises:
        UsageError: outputs would replace inputs or cannot be written, or all jobs have a problem.
            The error lists all problems. Or none would replace its input, although `in_place` asks
            for it.
    """
    jobs, problems = plan_group(inputs, output, format, in_place=in_place, right=right)
    if in_place and jobs and not any(job.in_place for job in jobs):
        cause = f"-o {output}" if output else "an image on stdin"
        raise UsageError(
            f"--in-place and {cause} do not go together: no output would replace its input",
            "Leave out one of them.",
        )
    if problems or (jobs and all(job.problem for job in jobs)):
        refuse_problems(jobs, problems)
    return jobs


def plan_group(
    inputs: list[Input],
    output: str | None,
    format: str | None,  # noqa: A002 - the option's name
    *,
    in_place: bool = False,
    right: str | None = None,
) -> tuple[list[Job], dict[str, str]]:
    """Return the jobs of `plan_jobs`, and why it would refuse them: problems with their hints."""
    kind = OUTPUT_FORMATS[format] if format else None
    targets = _targets(inputs, output, kind, in_place)
    views = zip(inputs, targets, _rights(inputs, right), strict=True)
    jobs = [Job(input_.path, target, view, kind) for input_, target, view in views]
    if in_place and output is None:
        jobs = [_with_own_format(job) for job in jobs]
    jobs = _resolve_collisions([_with_linear_input(job) for job in jobs])
    problems = dict([*_replacements(jobs, in_place), *_unwritable(jobs)])
    return jobs, problems | (_unrecordable(jobs) if in_place else {})


def refuse_problems(jobs: Iterable[Job], problems: dict[str, str]) -> NoReturn:
    """Raise UsageError with the problems, those of the jobs, and the hints for them."""
    of_jobs = defaultdict(list)
    for job in jobs:
        if job.problem:
            of_jobs[job.problem].append(job)
    problems = {
        f"{group[0].names[0]}: {problem}" if len(group) == 1 else problem: group[0].hint
        for problem, group in of_jobs.items()
    } | problems
    listed = [*problems][:_MAX_PROBLEMS]
    if more := len(problems) - len(listed):
        listed.append(f"and {more} more")
    if len(problems) > 1:
        listed.insert(0, f"{len(problems)} problems:")
    hints = dict.fromkeys(["Nothing was changed.", *problems.values()])
    raise UsageError("\n  ".join(listed), " ".join(hints))


def job_names(
    input_: Input,
    output: str | None,
    format: str | None,  # noqa: A002 - the option's name
) -> set[str]:
    """Return the real paths of an input in a folder and of its possible outputs.

    Inputs without a common path do not affect each other's jobs.
    """
    kind = OUTPUT_FORMATS[format] if format else None
    (target,) = _targets([input_], output, kind, in_place=False)
    paths = input_.path, target, _with_whole_name(Job(input_.path, target)).target
    return {real_name(path) for path in paths if path is not None}


def with_format(path: Path, kind: str | None) -> Path:
    """Return `path` with a suffix of `kind`, a key of FORMATS; None: its own or its replacement.

    The replacement of a DNG is that of all camera raw files.
    """
    suffix = path.suffix.lower()
    old = _WRITABLE.get(suffix)
    own = None if old is None or FORMATS[old].linear else old
    kind = kind or own or replacement(suffix[1:])
    if old == kind:
        return path
    # A suffix that is not an image's (`scan.2024`) is part of the name.
    stem = path.stem if suffix in readable_suffixes() else path.name
    return path.with_name(f"{stem}{FORMATS[kind].suffixes[0]}")


def restored_name(path: Path, kind: str | None) -> Path:
    """Return the output beside an input: `<stem>.restored.<suffix>`, with the suffix of `kind`.

    Args:
        path: the input.
        kind: format of the output, a key of FORMATS; None for that of the input or its replacement.
    """
    path = with_format(path, kind)
    return path.with_name(f"{path.stem}{RESTORED_MARK}{path.suffix}")


def _targets(
    inputs: list[Input], output: str | None, kind: str | None, in_place: bool
) -> list[Path | None]:
    several = len(inputs) > 1 or any(input_.folder for input_ in inputs)
    stdin = any(input_.path is None for input_ in inputs)
    if output == "-" or (output is None and stdin):
        if several:
            raise UsageError(
                "stdout takes one image, but there are several", "Name a folder with -o."
            )
        return [None] * len(inputs)
    if output is None:
        return [_beside(input_, kind, in_place) for input_ in inputs]

    path = as_path(output)
    if not (output.endswith(("/", os.sep)) or is_folder(path)):
        if not several:
            return [_file(output, kind)] * len(inputs)
        if path.suffix.lower() in readable_suffixes():
            raise UsageError(
                f"{output}: one file, but there are several inputs",
                "Name a folder with -o. End its name with / if it looks like a file.",
            )
    if stdin:
        raise UsageError(
            f"{output} is a folder, but the image on stdin has no name",
            "Name the file: -o FILE, or -o - for stdout.",
        )
    return [path / with_format(input_.relative, kind) for input_ in inputs]


def _beside(input_: Input, kind: str | None, in_place: bool) -> Path:
    assert input_.path is not None  # noqa: S101 - stdin goes to stdout
    folder = os.path.realpath(input_.path.parent)
    if folder in _DEVICE_FOLDERS or folder.startswith("/proc/"):  # as of <(command) of a shell
        raise UsageError(
            f"{input_.path} is a pipe or device, beside which no file can be written",
            "Name the output with -o.",
        )
    path = with_format(input_.path, kind)
    if in_place:
        if kind and path != input_.path:
            raise UsageError(
                f"{input_.path} cannot be replaced: its output is named {path.name}",
                "--in-place keeps the format: leave out --format, or name a folder with -o.",
            )
        return input_.path
    if input_.folder is None:
        return restored_name(input_.path, kind)
    return beside(input_.folder, FOLDER_MARK) / with_format(input_.relative, kind)


def _file(output: str, kind: str | None) -> Path:
    path = as_path(output)
    suffix = path.suffix.lower()
    if suffix and suffix not in _WRITABLE and not exists(path):
        raise UsageError(
            f"{output}: restormer does not write {suffix} files",
            f"Choose one of {', '.join(_WRITABLE)}, or end the name with / for a folder.",
        )
    if kind and _WRITABLE.get(suffix, kind) != kind:
        raise UsageError(f"{output} and --format name different formats", "Leave out one of them.")
    return path


def _rights(inputs: list[Input], right: str | None) -> list[Path | None]:
    if right is None:
        return [None] * len(inputs)
    path = as_path(right)
    if is_folder(path):
        return [path / input_.relative for input_ in inputs]
    if len(inputs) > 1 or any(input_.folder for input_ in inputs):
        raise UsageError(
            f"there are several left views, but {right} is not a folder",
            "Name a folder with --right. The right views in it have the names of the left views.",
        )
    return [path] * len(inputs)


def _with_own_format(job: Job) -> Job:
    """Return a job in place, with a problem if its format can only be read."""
    path = job.source
    if path is None or (output := with_format(path, None)) == path:
        return job
    return replace(job, problem=f"it cannot be replaced: its output would be named {output.name}")


def _with_linear_input(job: Job) -> Job:
    """Return the job, with a problem if a file that is certainly no raw file is to become a DNG."""
    kind = FORMATS.get(requested_format(job.target, job.format) or "")
    if kind is None or not kind.linear or job.problem or job.source is None:
        return job
    excluded = excludes_linear(job.source.suffix.lower())
    return replace(job, problem=LINEAR_ONLY, hint="Write TIFF or PNG.") if excluded else job


def _resolve_collisions(jobs: list[Job]) -> list[Job]:
    """Give outputs in another format a name of their own, and the others a problem."""
    if not (shared := _collisions(jobs)):
        return jobs
    whole = {job: _with_whole_name(job) for job in shared}
    renamed: dict[Path | None, set[str]] = defaultdict(set)
    for job, other in whole.items():
        if job.source is not None and other.target != job.target:
            renamed[job.target].add(real_name(job.source))
    jobs = [
        replace(whole[job], renamed=frozenset(renamed[job.target])) if job in whole else job
        for job in jobs
    ]
    shared = _collisions(jobs)
    return [replace(job, problem=job.problem or shared.get(job)) for job in jobs]


def _collisions(jobs: list[Job]) -> dict[Job, str]:
    """Return the jobs that share an output, with a message."""
    by_target = defaultdict(list)
    for job in jobs:
        if job.target is not None and job.problem is None:
            by_target[real_name(job.target)].append(job)
    groups = [group for group in by_target.values() if len(group) > 1]
    return {
        job: collision([each.names[0] for each in group], group[0].names[1])
        for group in groups
        for job in group
    }


def collision(inputs: Sequence[str], output: str) -> str:
    """Return the message on several inputs that would take the name of one output."""
    first, *others, last = inputs[:_MAX_NAMES]
    if len(inputs) > _MAX_NAMES:
        others, last = [*others, last], f"{len(inputs) - _MAX_NAMES} more"
    quantity = "both" if len(inputs) == 2 else "all"
    return f"{', '.join([first, *others])} and {last} would {quantity} become {output}"


def _with_whole_name(job: Job) -> Job:
    source, target = job.source, job.target
    if source is None or target is None or source.suffix.lower() == target.suffix.lower():
        return job
    if not target.name.startswith(source.stem) or target.name.startswith(source.name):
        return job
    name = source.name + target.name.removeprefix(source.stem)
    return replace(job, target=target.with_name(name))


def _replacements(jobs: list[Job], in_place: bool) -> Iterator[tuple[str, str]]:
    inputs = {real_name(job.source): job.source for job in jobs if job.source is not None}
    for job in jobs:
        target = None if job.problem == LINEAR_ONLY else job.target
        replaced = None if target is None else inputs.get(real_name(target))
        if replaced is None:
            continue
        if replaced != job.source:
            problem = f"the output of {job.names[0]} would replace the input {replaced}"
            yield problem, "Name another file or folder with -o."
        elif not in_place:
            problem = f"{replaced} would be replaced by its own output (--in-place allows it)"
            yield problem, "Name another file or folder with -o."


def _unwritable(jobs: list[Job]) -> Iterator[tuple[str, str]]:
    for job in jobs:
        if job.target is not None and is_folder(job.target):
            hint = "Rename that folder, or name another output with -o."
            yield f"{job.target} is a folder", hint
    for folder in dict.fromkeys(job.folder for job in jobs):
        if folder is not None and (problem := unwritable(folder)):
            yield problem, "Name a folder with -o in which files can be created."


def _unrecordable(jobs: list[Job]) -> dict[str, str]:
    folders = dict.fromkeys(job.folder for job in jobs if job.in_place)
    problems = (unusable(folder) for folder in folders if folder is not None)
    return {problem: UNRECORDED for problem in problems if problem}


def real_name(path: Path) -> str:
    """Return the name of a file that is the same for all paths and links to it."""
    return os.path.normcase(os.path.realpath(path))
