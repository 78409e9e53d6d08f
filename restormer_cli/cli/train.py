"""The command `train`, and its plot of loss and PSNR."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import files, inference, training
from ..checkpoints import TASKS
from ..errors import UsageError
from ..extras import require_installed
from ..text import reason
from .console import Console
from .evaluate import percentages
from .options import Device, Json, Quiet, completion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..training import Step, Validation

PLOT_FORMATS = (".png", ".svg", ".pdf")


def train(
    console: Console,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="Task to learn: denoise, derain, deblur or defocus; with --pairs any name.",
            autocompletion=completion(*TASKS),
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File of the weights (.safetensors). FILE.resume beside it holds the state to "
            "resume from.",
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of clean, sharp photographs, searched recursively and degraded during "
            "training.",
        ),
    ] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="DEGRADED CLEAN",
            help="Instead of --photos: two folders of photographs of the same names and sizes.",
        ),
    ] = None,
    right: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of right dual-pixel views; DEGRADED holds the left ones. Default: one "
            "view.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of training steps. Default: until --hours have passed.",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="HOURS",
            help="Training time in hours. Default: until --steps are done.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Checkpoint to fine-tune. Default: a new small network with random weights.",
        ),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Peak learning rate, reached after the warm-up.")
    ] = 1e-3,
    batch_scale: Annotated[
        float,
        typer.Option(metavar="FACTOR", help="Multiply the patches per batch; 6 suits a GPU."),
    ] = 1.0,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="START:SIDE:PATCHES of each stage: fraction of the run, pixels, patches per "
            "batch. Default: 0:64:16, 0.45:96:7, 0.75:128:4, 0.92:192:2.",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            metavar="",
            help="Compile the network, on CUDA and if a step is measured to be faster.",
        ),
    ] = False,
    validate_every: Annotated[
        int,
        typer.Option(min=1, metavar="STEPS", help="Steps between validations, which also save."),
    ] = 250,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random numbers.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot loss and PSNR (.png, .svg, .pdf) at every validation. Default: none.",
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small network, or fine-tune a checkpoint, on photographs or on pairs.

    The weights that score best on held-out photographs are kept. Ctrl-C saves the state; repeat
    the command to resume. --start fine-tunes an official checkpoint or your own, for colour, grey
    or dual-pixel images. With torchrun, several devices train together.

    Examples:
        restormer train denoise --photos DIR -o a.safetensors --hours 3    # photos
        restormer train derain --pairs WET DRY -o a.safetensors --hours 3  # pairs
        torchrun --nproc-per-node 4 -m restormer_cli train ...             # 4 GPUs
        restormer denoise in.png --weights a.safetensors                   # use it
    """
    if (photos is None) == (pairs is None):
        raise UsageError(
            "--photos or --pairs is required, but not both",
            "Give --photos DIR, or --pairs DEGRADED CLEAN.",
        )
    if plot is not None:
        check_plot(plot)
    settings = training.Settings(
        steps=steps,
        hours=hours,
        learning_rate=learning_rate,
        validate_every=validate_every,
        seed=seed,
    )
    if stages is not None:
        settings = replace(settings, stages=training.parse_stages(stages))
    settings = settings.scaled(batch_scale)
    degraded, clean = pairs or (None, photos)
    assert clean is not None  # noqa: S101 - checked above
    with training.join_ranks(inference.choose_device(device)) as (ranks, rank_device):
        reports = training.train(
            task,
            clean,
            output,
            settings,
            start=start,
            device=rank_device,
            degraded=degraded,
            right=right,
            ranks=ranks,
            compiled=compiled,
            notify=console.warn if ranks.leads else lambda _: None,
            progress=partial(show_step, console),
        )
        with console.progress(100) if ranks.leads else nullcontext():
            for report in reports:
                if json:
                    values = {**report._asdict(), "validation": report.validation.as_dict()}
                    del values["history"]
                    console.object({"event": "validated", **values})
                speed = report.megapixels_per_second
                console.say(
                    f"step {report.step}, loss {report.loss:.4f}, validation {report.psnr:.2f} dB "
                    f"(best {report.best:.2f}), {f'{speed:.3f} MP/s' if speed else 'no new steps'}"
                )
                console.say(describe(report.validation, task))
                console.advance(100 * report.progress, f"{report.best:.2f} dB")
                if plot is not None:
                    try:
                        draw_curves(report.history, plot)
                    except OSError as error:  # the training goes on
                        console.warn(f"{plot}: cannot be written ({reason(error)})")
    if ranks.leads:
        console.say(f"{output}: {report.best:.2f} dB on held-out photographs")
        if not speed:
            console.say("This run is finished. Pass more --steps or --hours to continue")


def show_step(console: Console, step: Step) -> None:
    """Move the bar, or write a line now and then."""
    console.advance(
        100 * step.progress,
        line=f"step {step.step}, loss {step.loss:.4f}, {step.megapixels_per_second:.3f} MP/s, "
        f"{step.progress:.1%} done",
    )


def describe(validation: Validation, task: str) -> str:
    """Return what is left of the noise or the rain, and how clean images are kept."""
    residual = validation.residual
    rain = {"strong streaks": [residual.strong], "weak streaks": [residual.weak]}
    noise = {"luma": residual.luma, "chroma": residual.chroma}
    parts = [
        f"{name} {' '.join(percentages(shares))} %"
        for name, shares in (rain if task == "derain" else noise).items()
    ]
    drift = "-" if residual.drift is None else f"{residual.drift:.2f}"
    return (
        f"  left: {', '.join(parts)}; detail lost: {' '.join(percentages(residual.detail))} %; "
        f"worst clean image {validation.clean:.1f} dB; drift {drift} of 255"
    )


def check_plot(path: Path) -> None:
    """Raise UsageError if the plot cannot be written, or matplotlib is not installed."""
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UsageError(
            f"{path}: not a format of plots", f"Choose one of {', '.join(PLOT_FORMATS)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", "Create it, or choose another.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(
            f"{path} cannot be written", "Choose a file in a folder that you may write to."
        )
    if files.is_foreign(path, b"Matplotlib", b"matplotlib"):  # in the metadata of plots
        raise UsageError(f"{path}: exists and is not a plot", "Choose another name, or remove it.")
    require_installed("matplotlib", "plot", "--plot")


def draw_curves(history: Mapping[int, tuple[float, float]], path: Path) -> None:
    """Plot loss and PSNR by step.

    Args:
        history: (L1 loss, validation PSNR in dB) by step.
        path: file to write; its suffix chooses the format.
    """
    from matplotlib.figure import Figure

    steps = sorted(history)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    series = ((left, 0, "loss (L1)", "tab:gray"), (right, 1, "held-out PSNR, dB", "tab:blue"))
    for axes, index, label, colour in series:
        axes.plot(steps, [history[step][index] for step in steps], color=colour, marker=".")
        axes.set_ylabel(label, color=colour)
    left.set_xlabel("step")
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
