"""Which file the weights come from: what `--weights` says, made a verified file; no torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..callbacks import Notify
from ..errors import CheckpointError
from ..files import sha256_file
from . import download
from .catalog import CHECKPOINTS, LICENCE, TASKS, Checkpoint, CheckpointQuery, Task
from .download import UnavailableError, expected_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = Path(__file__).parents[1]
LITE_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Inside the package in an installation from a wheel, beside it in a checkout."""


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint file that is on this machine and is what it should be.

    Attributes:
        name: the official checkpoint's, else the file's.
        source: "official", "lite", "hub" or "file".
        path: where it lies.
        sha256: of its content, computed just now.
        licence: of the weights, where known.
    """

    name: str
    source: str
    path: Path
    sha256: str
    licence: str | None = None


def warn_in_python(message: str) -> None:
    """What `resolve` tells a Python program, which has no console of ours."""
    warnings.warn(message, stacklevel=2)


def resolve_checkpoint(
    weights: str,
    checkpoint: Checkpoint,
    task: Task,
    *,
    notify: Notify = warn_in_python,
    progress: bool = True,
) -> ResolvedCheckpoint:
    """Find the file that `weights` means, downloading it if need be.

    Args:
        weights: "auto": the official checkpoint, else the lite weights and a word why;
            "official"; "lite", which asks no network; a name that `listing` shows;
            "hf:ORG/REPO/FILE[@REV]", a file of any Hub repository; else a path.
        checkpoint: the official checkpoint for what is to be done (see `tasks.official`).
        task: what is to be done; its lite weights may stand in.
        notify: told, in a sentence, when something other than the first choice is used.
        progress: draw a bar while downloading, if stderr is a terminal.

    Raises:
        CheckpointError: there is no such file, it cannot be had, or it is not what it should be.
    """
    if weights == "auto":
        return _auto(checkpoint, task, notify, progress)
    bundled = {Path(task.lite).stem: task for task in TASKS.values()}
    if weights in ("lite", *bundled):
        return _lite(checkpoint, bundled.get(weights, task))
    if weights in ("official", *CHECKPOINTS):
        return pull_checkpoint(
            CHECKPOINTS.get(weights, checkpoint), notify=notify, progress=progress
        )
    if weights.startswith("hf:"):
        return _from_hub(weights, progress)
    path = Path(weights).expanduser()
    try:
        return ResolvedCheckpoint(path.name, "file", path, sha256_file(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: there is no such file",
            "--weights takes auto, official, lite, a path, hf:ORG/REPO/FILE, or one of the names "
            "that `restormer weights list` shows.",
        ) from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder", "Name the checkpoint file in it.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", "See that it can be read.") from error


def pull_checkpoint(
    checkpoint: Checkpoint, *, notify: Notify = warn_in_python, progress: bool = True
) -> ResolvedCheckpoint:
    """An official checkpoint, verified, and in the cache from now on.

    Raises:
        CheckpointError: it cannot be had or has the wrong content.
    """
    path = download.fetch(checkpoint, notify=notify, progress=progress)
    digest = download.verify(path, expected_sha256(path, checkpoint))
    return ResolvedCheckpoint(checkpoint.name, "official", path, digest, LICENCE)


def _auto(checkpoint: Checkpoint, task: Task, notify: Notify, progress: bool) -> ResolvedCheckpoint:
    try:
        return pull_checkpoint(checkpoint, notify=notify, progress=progress)
    except UnavailableError as error:
        try:
            found = _lite(checkpoint, task)
        except CheckpointError:
            raise CheckpointError(
                f"{error.message}; and no lite weights are bundled for this",
                f"Run `restormer weights pull {checkpoint.name}` while online, or name a file "
                "with --weights PATH.",
            ) from error
        notify(
            f"{error.message}; using the bundled lite weights, which are smaller and restore less"
        )
        return found


def _lite(checkpoint: Checkpoint, task: Task) -> ResolvedCheckpoint:
    path = lite_path(task)
    if path is None or checkpoint.channels == 6:
        what = "two views" if checkpoint.channels == 6 else task.name
        raise CheckpointError(
            f"no lite weights are bundled for {what}",
            f"Use --weights official; {_bundled_tasks()}.",
        )
    return ResolvedCheckpoint(path.stem, "lite", path, download.verify(path, None), LICENCE)


def _bundled_tasks() -> str:
    names = [task.name for task in TASKS.values() if lite_path(task)]
    return f"lite weights are here for {', '.join(names)}" if names else "none are installed"


def lite_path(task: Task) -> Path | None:
    """Where a task's bundled weights lie, or None."""
    return next((f / task.lite for f in LITE_FOLDERS if (f / task.lite).is_file()), None)


def _from_hub(weights: str, progress: bool) -> ResolvedCheckpoint:
    name, _, revision = weights.removeprefix("hf:").partition("@")
    organisation, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (organisation and repository and file):
        raise CheckpointError(f"{weights} names no file of the Hub", "Say hf:ORG/REPO/FILE[@REV].")
    path = download.from_hub(
        f"{organisation}/{repository}", file, revision or "main", progress=progress
    )
    return ResolvedCheckpoint(name, "hub", path, download.verify(path, expected_sha256(path)))


def find(path_or_name: str | Path, *, notify: Notify = warn_in_python) -> ResolvedCheckpoint:
    """Like `resolve`, for the Python API: a task's name means "auto" for that task.

    Raises:
        CheckpointError: as for `resolve`.
    """
    name = str(path_or_name)
    if name in TASKS:
        return resolve_checkpoint(
            "auto", CheckpointQuery(name).checkpoint, TASKS[name], notify=notify
        )
    if name in ("auto", "official", "lite"):
        raise CheckpointError(f"{name!r} does not say for which task", f"Say {', '.join(TASKS)}.")
    # No task is at hand, and these kinds of names ask for none.
    return resolve_checkpoint(
        name, CheckpointQuery("denoise").checkpoint, TASKS["denoise"], notify=notify
    )


# --- behind `restormer weights` -----------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointStatus:
    """One line of `restormer weights list`.

    Attributes:
        name: what to call it.
        task: what it serves.
        purpose: what it is for, in a few words.
        state: "bundled", "cached" or "downloadable"; "absent" for lite weights that are not here.
        bytes: its size, where known.
        licence: of the weights.
        sha256: what it should hash to, where known.
        path: where it lies, if it does.
    """

    name: str
    task: str
    purpose: str
    state: str
    bytes: int | None
    licence: str
    sha256: str | None
    path: Path | None


def list_checkpoints() -> list[CheckpointStatus]:
    """Every official checkpoint and every task's lite weights; asks no network, hashes nothing."""
    return [*_official_rows(), *_lite_rows()]


def _official_rows() -> Iterator[CheckpointStatus]:
    for checkpoint in CHECKPOINTS.values():
        path = download.cached_file(checkpoint)
        yield CheckpointStatus(
            name=checkpoint.name,
            task=checkpoint.task,
            purpose=checkpoint.purpose,
            state="cached" if path else "downloadable",
            bytes=path.stat().st_size if path else checkpoint.bytes,
            licence=LICENCE,
            sha256=expected_sha256(path, checkpoint) if path else checkpoint.sha256,
            path=path,
        )


def _lite_rows() -> Iterator[CheckpointStatus]:
    for task in TASKS.values():
        path = lite_path(task)
        yield CheckpointStatus(
            name=Path(task.lite).stem,
            task=task.name,
            purpose="small, for trying out and for machines without a network",
            state="bundled" if path else "absent",
            bytes=path.stat().st_size if path else None,
            licence=LICENCE,
            sha256=None,
            path=path,
        )


@dataclass(frozen=True)
class Verdict:
    """What `restormer weights verify` found of one file.

    Attributes:
        name: what the file is called.
        path: where it lies.
        sha256: of its content.
        ok: whether it is what it should be; None: nothing says what it should be.
    """

    name: str
    path: Path
    sha256: str
    ok: bool | None


def verify_checkpoints() -> list[Verdict]:
    """Hash every cached and bundled file, and compare; removes nothing.

    Raises:
        CheckpointError: a file cannot be read.
    """
    verdicts = []
    for row in list_checkpoints():
        if row.path is not None:
            digest = download.verify(row.path, None)
            ok = None if row.sha256 is None else digest == row.sha256
            verdicts.append(Verdict(row.name, row.path, digest, ok))
    return verdicts
