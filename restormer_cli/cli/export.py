"""The command `export`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from .. import checkpoints, files
from ..checkpoints import TASKS, CheckpointQuery, weights_label
from ..errors import UsageError
from ..text import format_bytes, printable
from .console import Console
from .options import Json, Quiet, TaskArgument, Weights


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
