"""The command `train`, and its plot of loss and PSNR over steps."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .console import Console
from .options import Device, Json, Quiet

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Find out before a training begins whether it can be drawn.

    Raises:
        UsageError: matplotlib is not installed, or does not write such files, or not there.
    """
    if path.suffix.lower() not in PLOT_FORMATS:
        raise UsageError(
            f"{path} is no picture of a curve", f"Name one of {', '.join(PLOT_FORMATS)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", "Make it, or name another.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written", "Name a file in a folder that is yours.")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed",
            "pip install 'restormer-cli[plot]'",
        )


def draw_curves(history: Mapping[int, tuple[float, float]], path: Path) -> None:
    """Write loss (left axis) and PSNR in dB (right axis) by step, as `path` ends: PNG, SVG, PDF."""
    from matplotlib.figure import Figure

    steps = sorted(history)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    series = ((left, 0, "loss (L1)", "tab:gray"), (right, 1, "held-out PSNR, dB", "tab:blue"))
    for axes, which, label, colour in series:
        axes.plot(steps, [history[step][which] for step in steps], color=colour, marker=".")
        axes.set_ylabel(label, color=colour)
    left.set_xlabel("step")
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def train(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="What to learn: denoise, derain, deblur, defocus; "
            "of pairs, whatever it is called.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The weights (.safetensors). FILE.resume, beside it, lets a run go on.",
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Clean, sharp photographs, also in subfolders; degraded on the fly."
        ),
    ] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="DEGRADED CLEAN",
            help="In place of --photos: two folders of photographs with the same names and sizes.",
        ),
    ] = None,
    right: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Right dual-pixel views; DEGRADED are the left ones."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many steps.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="End after so many hours.")] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Start from these weights (fine-tuning).")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest, after the warm-up.")] = 1e-3,
    validate_every: Annotated[
        int, typer.Option(min=1, metavar="STEPS", help="Validate and save every so many steps.")
    ] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw loss and PSNR (.png, .svg, .pdf) as they come."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small network, or go on with one, on clean photographs or on pairs.

    The weights that are best on photographs held out are kept. A run that was interrupted goes on
    when the same command is given again. With --start, an official checkpoint or your own learns
    on, be it of colour or grey images or of dual-pixel views. Started by torchrun, it trains on
    several devices at once.
    """
    console: Console = context.obj
    console.configure(json=json, quiet=quiet)
    if (photos is None) == (pairs is None):
        raise UsageError(
            "what shall it learn from?", "Give --photos DIR, or --pairs DEGRADED CLEAN."
        )
    from ..inference import choose_device
    from ..training import Settings, join_ranks
    from ..training import train as run_training

    if plot is not None:
        check_plot(plot)
    settings = Settings(
        steps=steps,
        hours=hours,
        learning_rate=learning_rate,
        validate_every=validate_every,
        seed=seed,
    )
    degraded, clean = pairs or (None, photos)
    assert clean is not None  # noqa: S101 - one of the two was given
    with join_ranks(choose_device(device)) as (team, own), ExitStack() as bar:
        if team.leads:
            bar.enter_context(console.progress(100))
        reports = run_training(
            task,
            clean,
            output,
            settings,
            start=start,
            device=own,
            degraded=degraded,
            right=right,
            ranks=team,
            notify=console.warn if team.leads else lambda _: None,
        )
        for report in reports:
            if json:
                told = {k: v for k, v in report._asdict().items() if k != "history"}
                console.object({"event": "validated", **told})
            line = (
                f"step {report.step}, loss {report.loss:.4f}, validation {report.psnr:.2f} dB "
                f"(best {report.best:.2f})"
            )
            console.say(f"{line}, {report.megapixels_per_second:.3f} MP/s")
            console.advance(100 * report.progress, f"{report.best:.2f} dB")
            if plot is not None:
                try:
                    draw_curves(report.history, plot)
                except OSError as error:  # no reason to lose a training
                    console.warn(f"{plot}: cannot be written ({error.strerror})")
    if team.leads:
        console.say(f"{output}: {report.best:.2f} dB on photographs held out")
