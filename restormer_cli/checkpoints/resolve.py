"""Resolve `--weights` to a verified file; list and verify the checkpoints on this machine.

This module does not import torch.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors

from ..callbacks import Notify
from ..errors import CheckpointError
from ..files import as_local_path
from . import download
from .catalog import (
    BY_QUERY,
    CHECKPOINTS,
    HUB_REPOSITORY,
    LICENCE,
    TASKS,
    Checkpoint,
    CheckpointQuery,
    Task,
)
from .download import UnavailableError, expected_sha256, file_sha256

_PACKAGE = Path(__file__).parents[1]
LITE_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Folders of the lite weights: in an installed wheel and in a checkout."""


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A verified checkpoint file on this machine."""

    name: str  # official name, or file name
    source: str  # "official", "lite", "hub" or "file"
    path: Path
    sha256: str  # computed from the content
    licence: str | None = None  # None if it is unknown
    task: str | None = None  # key in `TASKS`; None if it is unknown


@dataclass(frozen=True)
class CheckpointStatus:
    """One line of `restormer weights list`; values are None if they are unknown."""

    name: str
    task: str
    purpose: str
    state: str  # "bundled", "cached" or "downloadable"; "absent" for missing lite weights
    bytes: int | None
    licence: str
    sha256: str | None  # the expected hash
    path: Path | None


@dataclass(frozen=True)
class Verdict:
    """One line of `restormer weights verify`; `ok` is None if no hash is recorded."""

    name: str
    path: Path
    sha256: str
    ok: bool | None


def warn_in_python(message: str) -> None:
    """Issue a Python warning: the default `notify` where there is no console."""
    warnings.warn(message, stacklevel=2)


def task_warning(name: str, own: str | None, task: str) -> str | None:
    """Return a warning if weights are known to be for another task than that they are used for.

    Args:
        name: name of the weights.
        own: their task; None if it is unknown.
        task: the task that they are used for.
    """
    if own in (None, task):
        return None
    return f"{name} is for {own}, not for {task}: use `restormer {own}`, or other weights"


def resolve_checkpoint(
    weights: str,
    checkpoint: Checkpoint,
    task: Task,
    *,
    notify: Notify = warn_in_python,
) -> ResolvedCheckpoint:
    """Return the verified file for a value of `--weights`; download it if necessary.

    Args:
        weights: "official"; "lite", which makes no request; "auto" for the official checkpoint,
            or the lite weights if it is unavailable; a name from `list_checkpoints`;
            "hf:ORG/REPO/FILE[@REV]" for a file of any Hub repository; or a path, or its
            `file://` URL.
        checkpoint: the official checkpoint, from `CheckpointQuery.checkpoint`.
        task: the task of the lite weights.
        notify: called with a sentence if a fallback is used.

    Raises:
        CheckpointError: the file does not exist, cannot be downloaded, or has the wrong content.
        UsageError: `weights` is the URL of a remote file.
    """
    if weights == "auto":
        return _auto(checkpoint, task, notify)
    bundled = {Path(task.lite).stem: task for task in TASKS.values()}
    if weights in ("lite", *bundled):
        return _lite(checkpoint, bundled.get(weights, task))
    if weights in ("official", *CHECKPOINTS):
        return pull_checkpoint(CHECKPOINTS.get(weights, checkpoint), notify=notify)
    if weights.startswith("hf:"):
        return _from_hub(weights)
    path = as_local_path(weights, "weights").expanduser()
    digest = file_sha256(path)
    return ResolvedCheckpoint(path.name, "file", path, digest, task=_task_of(path, digest))


def resolve_name(name: str) -> ResolvedCheckpoint:
    """Resolve a task to "auto", and other names as `resolve_checkpoint` does.

    Raises:
        CheckpointError: as in `resolve_checkpoint`, or the name depends on a task.
    """
    if name in (*BY_QUERY, "lite"):
        raise CheckpointError(
            f"{name!r} does not name a task", f"Use one of {', '.join(TASKS)} instead."
        )
    task = TASKS.get(name, TASKS["denoise"])  # other names do not depend on the task
    weights = "auto" if name in TASKS else name
    return resolve_checkpoint(weights, CheckpointQuery(task.name).checkpoint, task)


def pull_checkpoint(
    checkpoint: Checkpoint, *, notify: Notify = warn_in_python
) -> ResolvedCheckpoint:
    """Return an official checkpoint, downloaded into the cache and verified.

    Raises:
        CheckpointError: the checkpoint cannot be downloaded or has the wrong content.
    """
    path = download.fetch(checkpoint, notify=notify)
    digest = _verified(path, expected_sha256(path, checkpoint))
    task = checkpoint.task
    return ResolvedCheckpoint(checkpoint.name, "official", path, digest, LICENCE, task)


def list_checkpoints() -> list[CheckpointStatus]:
    """List all official and lite checkpoints; makes no request and computes no hash."""
    rows = []
    for checkpoint in CHECKPOINTS.values():
        path = download.cached_file(checkpoint)
        sha256 = expected_sha256(path, checkpoint) if path else checkpoint.sha256
        size = path.stat().st_size if path else checkpoint.bytes
        state = "cached" if path else "downloadable"
        about = (checkpoint.name, checkpoint.task, checkpoint.purpose)
        rows.append(CheckpointStatus(*about, state, size, LICENCE, sha256, path))
    purpose = "small, for trying out and for machines without a network"
    for task in TASKS.values():
        path = _lite_file(task)
        size = path.stat().st_size if path else None
        state = "bundled" if path else "absent"
        about = (Path(task.lite).stem, task.name, purpose)
        rows.append(CheckpointStatus(*about, state, size, LICENCE, task.lite_sha256, path))
    return rows


def verify_checkpoints() -> list[Verdict]:
    """Compare all cached and bundled checkpoints with their hashes; remove none.

    Raises:
        CheckpointError: a file cannot be read.
    """
    verdicts = []
    for row in list_checkpoints():
        if row.path is not None:
            digest = file_sha256(row.path)
            ok = None if row.sha256 is None else digest == row.sha256
            verdicts.append(Verdict(row.name, row.path, digest, ok))
    return verdicts


def _auto(checkpoint: Checkpoint, task: Task, notify: Notify) -> ResolvedCheckpoint:
    try:
        return pull_checkpoint(checkpoint, notify=notify)
    except UnavailableError as error:
        try:
            lite = _lite(checkpoint, task)
        except CheckpointError:
            raise CheckpointError(
                f"{error.message}; and no lite weights are bundled for this network",
                f"Run `restormer weights pull {checkpoint.name}` while online, or use a file.",
            ) from error
        notify(
            f"{error.message}; using the bundled lite weights, which are smaller and restore less"
        )
        return lite


def _lite(checkpoint: Checkpoint, task: Task) -> ResolvedCheckpoint:
    path = _lite_file(task)
    if path is None or checkpoint.channels == 6:
        bundled = [name for name, task in TASKS.items() if _lite_file(task)]
        raise CheckpointError(
            "no lite weights are bundled for "
            f"{'two views' if checkpoint.channels == 6 else task.name}",
            f"Use official weights. Bundled are those for {', '.join(bundled) or 'no task'}.",
        )
    digest = file_sha256(path)
    return ResolvedCheckpoint(path.stem, "lite", path, digest, LICENCE, task.name)


def _lite_file(task: Task) -> Path | None:
    return next((f / task.lite for f in LITE_FOLDERS if (f / task.lite).is_file()), None)


def _from_hub(weights: str) -> ResolvedCheckpoint:
    name, _, revision = weights.removeprefix("hf:").partition("@")
    organisation, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not (organisation and repository and file):
        raise CheckpointError(
            f"{weights}: not a file of the Hub", "Name the file as hf:ORG/REPO/FILE[@REV]."
        )
    path = download.from_hub(f"{organisation}/{repository}", file, revision or "main")
    digest = _verified(path, expected_sha256(path))
    published = {f"{HUB_REPOSITORY}/{c.file}": c.task for c in CHECKPOINTS.values()}
    task = published.get(name) or _task_of(path, digest)
    return ResolvedCheckpoint(name, "hub", path, digest, task=task)


def _verified(path: Path, sha256: str | None) -> str:
    """Return the SHA-256 of a cached file; if it is known, the file must have it."""
    if sha256 is None:
        return file_sha256(path)
    download.verify(path, sha256)
    return sha256


def _task_of(path: Path, digest: str) -> str | None:
    """Return the task of a file: that of the published file, or that in a training's record."""
    for checkpoint in CHECKPOINTS.values():
        if checkpoint.sha256 == digest:
            return checkpoint.task
    try:
        with safetensors.safe_open(str(path), framework="np") as file:
            task = json.loads((file.metadata() or {})["record"])["task"]
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError):
        return None  # not safetensors, or without a record that can be read
    return task if isinstance(task, str) and task in TASKS else None
