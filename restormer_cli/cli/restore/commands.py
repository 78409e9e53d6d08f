"""The commands `denoise`, `derain`, `deblur` and `defocus`, and the options that they refuse."""

from __future__ import annotations

import math

import typer

from ... import reports
from ..console import Console
from ..options import Contradictions, DefocusOptions, DenoiseOptions, RestoreOptions, check_options
from .session import Session, right_view


def denoise(console: Console, options: DenoiseOptions) -> None:
    """Remove noise: of a camera at high ISO, or added Gaussian noise.

    Examples:
        restormer denoise photo.jpg               # write photo.restored.jpg
        restormer denoise photo.jpg -o clean.png  # write this file
        restormer denoise a.jpg --mask sky.png    # only where the mask is white
        restormer denoise holiday/ -r -o clean/   # a folder and its subfolders
        restormer denoise scan.tif --sigma 25     # Gaussian noise of a known level
        restormer denoise '*.jpg' --weights lite  # bundled weights, no network
    """
    run(console, "denoise", options)


def derain(console: Console, options: RestoreOptions) -> None:
    """Remove rain streaks.

    Examples:
        restormer derain street.jpg -o dry.png    # write this file
        restormer derain frames/ --device cuda    # a folder, on the first GPU
        restormer derain frames/ --skip-existing  # resume a run
    """
    run(console, "derain", options)


def deblur(console: Console, options: RestoreOptions) -> None:
    """Remove motion blur of a moving subject or a moving camera.

    Examples:
        restormer deblur shaken.jpg            # write shaken.restored.jpg
        restormer deblur - < in.jpg > out.jpg  # in a pipe
        restormer deblur shots/ --dry-run      # show the plan and its memory
    """
    run(console, "deblur", options)


def defocus(console: Console, options: DefocusOptions) -> None:
    """Sharpen out-of-focus images, from one view or from two dual-pixel views.

    Examples:
        restormer defocus soft.jpg               # write soft.restored.jpg
        restormer defocus l.png --right r.png    # two dual-pixel views
        restormer defocus l/ --right r/ -o out/  # folders of them, same names
    """
    run(console, "defocus", options)


CONTRADICTIONS: Contradictions = (
    (
        lambda o: not o.inputs and o.files_from is None,
        "no input given",
        "Name images, folders or patterns, or - for an image from stdin.",
    ),
    (lambda o: o.output == "", "-o is empty", "Name a file, a folder, or - for stdout."),
    (lambda o: o.mask == "", "--mask is empty", "Name an image, or a folder of masks."),
    (
        lambda o: o.null and o.files_from is None,
        "--null needs a list of inputs",
        "Add --files-from LIST.",
    ),
    (
        lambda o: o.files_from == "-" and "-" in (o.inputs or ()),
        "stdin cannot be both an image and the list of inputs",
        "Save one of them to a file.",
    ),
    (
        lambda o: o.json and o.output == "-",
        "--json and -o - both write to stdout",
        "Name an output file.",
    ),
    (lambda o: math.isnan(o.strength), "--strength is not a number", "Give a number from 0 to 1."),
    (
        lambda o: isinstance(o, DenoiseOptions) and math.isnan(o.keep_detail),
        "--keep-detail is not a number",
        "Give a number from 0 to 1.",
    ),
    (
        lambda o: o.in_place and o.output == "-",
        "--in-place and -o - name two different outputs",
        "Leave out one of them.",
    ),
    (
        lambda o: o.ray is not None and bool(o.preview or o.report or o.compare),
        "--preview, --report and --compare do not work with --ray, which may restore elsewhere",
        "Leave them out. `restormer report FOLDER` makes a report afterwards.",
    ),
    (
        lambda o: (
            o.watch
            and any(
                (o.files_from, o.in_place, o.dry_run, o.report, o.compare, o.ray, right_view(o))
            )
        ),
        "--watch does not go with --files-from, --in-place, --dry-run, --right, --ray, --report or "
        "--compare",
        "Leave them out. `restormer report FOLDER` makes a report at any time.",
    ),
    (lambda o: o.watch and "," in o.device, "--watch uses one device", "Name one with --device."),
)


def run(console: Console, task: str, options: RestoreOptions) -> None:
    """Restore all inputs of a command.

    Raises:
        typer.Exit: an input failed.
        UsageError: the options or the inputs make no sense. No file was changed.
        CheckpointError: the weights are unavailable or do not fit the task.
        DeviceError: the device is unavailable.
    """
    check_options(options, CONTRADICTIONS)
    with reports.open_preview(console, options.preview and not options.dry_run) as preview:
        tally = Session(console, task, options, preview).execute()
    if tally.failed:
        raise typer.Exit(1)
