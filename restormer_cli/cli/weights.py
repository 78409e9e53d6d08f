"""What is on this machine: the commands `weights` and `doctor`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints import CHECKPOINTS, TASKS, Checkpoint
from ..errors import CheckpointError, UsageError
from ..text import columns, format_bytes
from .console import Console
from .options import Json, Name, Names

if TYPE_CHECKING:
    pass


weights = typer.Typer(
    help="The checkpoints: which there are, where they lie, whether they are whole.",
    no_args_is_help=True,
)


@weights.command("list")
def list_weights(context: typer.Context, json: Json = False) -> None:
    """List the official checkpoints and the bundled lite ones, and which of them are here."""
    console: Console = context.obj
    console.configure(json=json)
    from ..checkpoints import list_checkpoints

    rows = list_checkpoints()
    if json:
        console.object([_plain(asdict(row)) for row in rows])
        return
    heads = ("NAME", "TASK", "IS", "SIZE", "LICENCE", "FOR")
    console.result(
        columns(
            heads,
            *(
                (row.name, row.task, row.state, _size(row.bytes), row.licence, row.purpose)
                for row in rows
            ),
        )
    )


@weights.command()
def pull(
    context: typer.Context,
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", metavar="", help="All of them: 1.4 GB.")] = False,
    json: Json = False,
) -> None:
    """Download checkpoints, verify them and keep them in the cache, for use without a network.

    A task's name stands for the checkpoint that the task uses when nothing more is said.
    """
    console: Console = context.obj
    console.configure(json=json)
    if every == bool(names):
        raise UsageError("what shall be pulled?", "Name tasks or checkpoints, or say --all.")
    from ..checkpoints import pull_checkpoint

    for checkpoint in CHECKPOINTS.values() if every else [_official(name) for name in names or ()]:
        found = pull_checkpoint(checkpoint, notify=console.warn)
        if json:
            console.object(_plain(asdict(found)))
        else:
            console.say(f"{found.name}  {found.path}")


@weights.command()
def path(context: typer.Context, name: Name) -> None:
    """Print where a checkpoint lies; it fails if it is not on this machine."""
    from ..checkpoints import list_checkpoints

    wanted = _official(name).name if name in TASKS else name
    rows = {row.name: row for row in list_checkpoints()}
    if wanted not in rows:
        raise _unknown(name)
    found = rows[wanted].path
    if found is None:
        raise CheckpointError(
            f"{wanted} is not on this machine", f"`restormer weights pull {wanted}` downloads it."
        )
    context.obj.result(str(found))


@weights.command()
def verify(context: typer.Context, json: Json = False) -> None:
    """Hash every checkpoint on this machine and compare; the exit status is 1 if one is damaged."""
    console: Console = context.obj
    console.configure(json=json)
    from ..checkpoints import verify_checkpoints

    words = {True: "whole", False: "DAMAGED", None: "not known"}
    verdicts = verify_checkpoints()
    if json:
        console.object([_plain(asdict(verdict)) for verdict in verdicts])
    elif verdicts:
        console.result(
            columns(*((v.name, words[v.ok], v.sha256[:12], str(v.path)) for v in verdicts))
        )
    else:
        console.say("There are no checkpoints on this machine.")
    if any(verdict.ok is False for verdict in verdicts):
        raise typer.Exit(1)


def _official(name: str) -> Checkpoint:
    """The official checkpoint of this name, or of the task of this name."""
    wanted = TASKS[name].official if name in TASKS else name
    if wanted not in CHECKPOINTS:
        raise _unknown(name)
    return CHECKPOINTS[wanted]


def _unknown(name: str) -> UsageError:
    return UsageError(f"no checkpoint is called {name!r}", "`restormer weights list` shows all.")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: str(v) if isinstance(v, Path) else v for key, v in value.items()}


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)


def _shown(cell: object) -> str:
    return "-" if cell is None else str(cell)
