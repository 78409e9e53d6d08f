"""The commands `weights list`, `pull`, `path` and `verify`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import checkpoints
from ..checkpoints import BY_QUERY, CHECKPOINTS, TASKS, Checkpoint
from ..errors import CheckpointError, UsageError
from ..text import columns, format_bytes
from .console import Console
from .options import NAMES, Command, Json, completion, typer_command

if TYPE_CHECKING:
    from ..checkpoints import CheckpointStatus


def list_weights(console: Console, json: Json = False) -> None:
    """List the official and the bundled lite checkpoints, and where each is available."""
    rows = checkpoints.list_checkpoints()
    if json:
        console.object([asdict(row) for row in rows])
        return
    header = ("NAME", "TASK", "STATE", "SIZE", "LICENCE", "PURPOSE")
    cells = ((r.name, r.task, r.state, size_text(r), r.licence, r.purpose) for r in rows)
    console.result(columns(header, *cells))


def pull(
    console: Console,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Checkpoints, or tasks for their default ones.",
            autocompletion=completion(*NAMES),
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", metavar="", help="Download all checkpoints, 1.4 GB.")
    ] = False,
    json: Json = False,
) -> None:
    """Download checkpoints to the cache and verify them, for use without a network."""
    if every == bool(names):
        raise UsageError("no checkpoint named", "Name tasks or checkpoints, or give --all.")
    named = [official_checkpoint(name) for name in names or ()]  # all, before the first download
    for checkpoint in CHECKPOINTS.values() if every else named:
        pulled = checkpoints.pull_checkpoint(checkpoint, notify=console.warn)
        if json:
            console.object(asdict(pulled))
        else:
            console.say(f"{pulled.name}  {pulled.path}")


def path(
    console: Console,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A checkpoint, or a task for its default one.",
            autocompletion=completion(*NAMES),
        ),
    ],
) -> None:
    """Print the path of a checkpoint. Fails if the checkpoint is not on this machine."""
    paths = {row.name: row.path for row in checkpoints.list_checkpoints()}
    checkpoint = name if name in paths else official_checkpoint(name).name
    found = paths[checkpoint]
    if found is None:
        raise CheckpointError(
            f"{checkpoint} is not on this machine",
            f"`restormer weights pull {checkpoint}` downloads it.",
        )
    console.result(os.fsencode(found))


def verify(console: Console, json: Json = False) -> None:
    """Check the SHA-256 of every checkpoint on this machine, also of the bundled ones.

    The exit status is 1 if a checkpoint is damaged.
    """
    states = {True: "intact", False: "DAMAGED", None: "no hash to compare with"}
    verdicts = checkpoints.verify_checkpoints()
    if json:
        console.object([asdict(verdict) for verdict in verdicts])
    elif verdicts:
        rows = ((v.name, states[v.ok], v.sha256[:12], str(v.path)) for v in verdicts)
        console.result(columns(*rows))
    else:
        console.say("No checkpoints on this machine.")
    if any(verdict.ok is False for verdict in verdicts):
        raise typer.Exit(1)


weights = typer.Typer(help="List, download, locate and verify checkpoints.", no_args_is_help=True)
weights.command("list", cls=Command)(typer_command(list_weights))
weights.command("pull", cls=Command)(typer_command(pull))
weights.command("path", cls=Command)(typer_command(path))
weights.command("verify", cls=Command)(typer_command(verify))


def official_checkpoint(name: str) -> Checkpoint:
    """Return the official checkpoint of this name, or the default one of a task.

    Raises:
        UsageError: there is no such checkpoint.
    """
    checkpoint = TASKS[name].official if name in TASKS else name
    if checkpoint in CHECKPOINTS:
        return CHECKPOINTS[checkpoint]
    bundled = {Path(task.lite).stem: task.name for task in TASKS.values()}
    if name in bundled:
        raise UsageError(
            f"{name} is not downloaded, but part of the program",
            f"`restormer {bundled[name]} --weights lite` uses it.",
        )
    if name in (*BY_QUERY, "lite"):
        listed = "a task, or a checkpoint in `restormer weights list`"
        named = f"one of {', '.join(bundled)}" if name == "lite" else listed
        raise UsageError(f"{name!r} does not name a task", f"Each task has its own: name {named}.")
    raise UsageError(f"unknown checkpoint {name!r}", "`restormer weights list` shows all.")


def size_text(status: CheckpointStatus) -> str:
    """Return the size of a checkpoint's file as text, empty if unknown."""
    return "" if status.bytes is None else format_bytes(status.bytes)
