"""Which outputs `--skip-existing` leaves alone, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import images
from .errors import DamagedError, ImageError
from .inputs import is_there
from .records import Fingerprint, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from .outputs import Job
    from .records import Line, Recipe, Records

DONE = "restored before, and nothing has changed"
REPLACED = "restored in place before"
FOREIGN = "its output exists, and no record says that it was made from this image"
EDITED = "its output was changed after it was written: remove it to have it made again"


def judged(job: Job, task: str, records: Records) -> tuple[str | None, Line | None]:
    """Why this image is skipped whatever the weights, or else the line that they are to be held to.

    Both are None if it is to be restored: there is no output, it is damaged, or it was made from
    another input. What somebody else wrote, or changed, is never written over; but in place it is
    an input, unless it is what this task has made of one.
    """
    if job.target is None or not is_there(job.target):
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


def _tasks(last: Line, lines: list[Line]) -> set[str]:
    """The tasks that one after the other made, in its place, the file that `last` tells of."""
    tasks, at = set(), fingerprint(last, "output").sha256
    for line in lines:  # the newest first
        if fingerprint(line, "output").sha256 == at:
            tasks.add(line["recipe"]["task"])
            at = fingerprint(line, "input").sha256
    return tasks


def made_by(line: Line, recipe: Recipe) -> bool:
    """Whether an output was made as one would be now."""
    return bool(line["recipe"] == recipe)


def _same_right(line: Line, right: Path | None) -> bool:
    recorded = line["right"]
    if right is None or recorded is None:
        return right is recorded
    return Fingerprint(**recorded).fits(right)


def _damaged(path: Path) -> bool:
    """Whether a file is so: what cannot be read for other reasons may be somebody's work."""
    try:
        images.read(path)
    except ImageError as error:
        return isinstance(error, DamagedError)
    return False
