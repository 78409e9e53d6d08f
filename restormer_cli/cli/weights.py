"""The commands `weights list`, `pull`, `path` and `verify`, and `export` for other programs."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import checkpoints, files
from ..checkpoints import BY_QUERY, CHECKPOINTS, TASKS, Checkpoint, CheckpointQuery, weights_label
from ..errors import CheckpointError, UsageError
from ..text import columns, format_bytes, printable
from .console import Console
from .options import NAMES, Command, Json, Quiet, TaskArgument, Weights, completion, typer_command

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


def export(
    console: Console,
    task: TaskArgument,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="ONNX file to write (.onnx)."),
    ],
    precision: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(help="Format of the network. fp16: half the size. Images are always fp32."),
    ] = "fp32",
    weights: Weights = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a network as an ONNX file, to run it in other programs.

    It takes and returns one image of 1 x 3 x H x W, RGB, 0..1, whose height and width are multiples
    of 8. The file is written only if ONNX Runtime computes what restormer does.

    Examples:
        restormer export denoise -o denoise.onnx                 # the default weights
        restormer export derain -o lite.onnx --weights lite      # the bundled weights
        restormer export deblur -o half.onnx --precision fp16    # half the size
        restormer export denoise -o my.onnx --weights my.pth     # your own weights
    """
    official = CheckpointQuery(task).checkpoint
    path = files.as_path(output)
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise UsageError(f"-o {output}: not the name of an ONNX file", "Use one ending in .onnx.")
    other = next((row for row in checkpoints.list_checkpoints() if row.name == weights), None)
    if other is not None and other.task != task:
        raise UsageError(
            f"--weights {weights} is for {other.task}, not for {task}",
            f"Use `restormer export {other.task}`, or other weights.",
        )
    checkpoints.require_packages()
    found = checkpoints.resolve_checkpoint(weights, official, TASKS[task], notify=console.warn)
    if warning := checkpoints.task_warning(found.name, found.task, task):
        console.warn(warning)
    exported = checkpoints.export_onnx(found, task, path, precision)
    if json:
        console.object({**asdict(exported), "weights": found.name, "sha256": found.sha256})
        return
    console.say(
        f"{printable(str(path))}: {format_bytes(exported.bytes)}, {precision}, "
        f"{weights_label(found.name, found.source)}"
    )


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
    if checkpoint not in CHECKPOINTS:
        cause, hint = _other_names().get(
            name, (f"unknown checkpoint {name!r}", "`restormer weights list` shows all.")
        )
        raise UsageError(cause, hint)
    return CHECKPOINTS[checkpoint]


def _other_names() -> dict[str, tuple[str, str]]:
    """Return the error and the hint for names of weights that are no official checkpoints."""
    own = "Each task has its own: name a task, or a checkpoint in `restormer weights list`."
    of_a_task = {name: (f"{name!r} does not name a task", own) for name in BY_QUERY}
    bundled = {Path(task.lite).stem: task.name for task in TASKS.values()}
    lite = f"Each task has its own: name one of {', '.join(bundled)}."
    return {
        **of_a_task,
        "lite": ("'lite' does not name a task", lite),
        **{
            name: (
                f"{name} is not downloaded, but part of the program",
                f"`restormer {task} --weights lite` uses it.",
            )
            for name, task in bundled.items()
        },
    }


def size_text(status: CheckpointStatus) -> str:
    """Return the size of a checkpoint's file as text, empty if unknown."""
    return "" if status.bytes is None else format_bytes(status.bytes)
