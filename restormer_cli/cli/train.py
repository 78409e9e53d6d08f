"""The course of a training as a picture: loss and validation PSNR over steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ..errors import UsageError

FORMATS = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Find out before a training begins whether it can be drawn.

    Raises:
        UsageError: matplotlib is not installed, or does not write such files, or not there.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is no picture of a curve", f"Name one of {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", "Make it, or name another.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written", "Name a file in a folder that is yours.")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed",
            "pip install 'restormer-cli[plot]'",
        )


def draw(history: Mapping[int, tuple[float, float]], path: Path) -> None:
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
