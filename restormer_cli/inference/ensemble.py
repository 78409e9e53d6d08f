"""Self-ensemble: restore an image in every orientation and average the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..callbacks import Progress
from ..network import Architecture

Run = Callable[[Tensor, Progress | None], Tensor]
"""Function that restores B C H W to B C' H W and reports progress."""


class Orientation(NamedTuple):
    """Rotation or reflection of an image; the fields are steps in order of application."""

    swapped: bool  # exchange the two views
    quarters: int  # number of quarter turns
    mirrored: bool  # flip horizontally

    def turn(self, x: Tensor) -> Tensor:
        """Return the image B C H W in this orientation."""
        x = x.roll(x.shape[1] // 2, 1) if self.swapped else x
        x = torch.rot90(x, self.quarters, (2, 3))
        return (x.flip(3) if self.mirrored else x).contiguous()

    def back(self, y: Tensor) -> Tensor:
        """Return the result for the turned image in the original orientation."""
        return torch.rot90(y.flip(3) if self.mirrored else y, -self.quarters, (2, 3))


def orientations(a: Architecture) -> tuple[Orientation, ...]:
    """Return the orientations in which a network can restore an image, the original first.

    There are eight. Dual-pixel networks have the four that keep the two views side by side. Those
    that exchange left and right of the scene also exchange the views.
    """
    return tuple(
        Orientation(a.dual_pixel and mirrored == (quarters == 0), quarters, mirrored)
        for quarters in ((0, 2) if a.dual_pixel else range(4))
        for mirrored in (False, True)
    )


def ensembled(run: Run, over: tuple[Orientation, ...]) -> Run:
    """Return a function that averages the results of `run` over orientations.

    Timofte, Rothe and Van Gool, "Seven Ways to Improve Example-Based Single Image Super
    Resolution" (CVPR 2016), enhanced prediction; Lim et al., "Enhanced Deep Residual Networks for
    Single Image Super-Resolution" (CVPR Workshops 2017), geometric self-ensemble.

    The running mean in fp32 keeps one result in memory, and returns equal results unchanged.
    """

    def average(x: Tensor, progress: Progress | None) -> Tensor:
        mean: Tensor | None = None
        for number, orientation in enumerate(over):
            result = run(orientation.turn(x), part_progress(progress, number, len(over)))
            y = orientation.back(result).float()
            mean = y.contiguous() if mean is None else mean.add_(y.sub(mean).div_(number + 1))
        assert mean is not None  # noqa: S101 - there is always one orientation
        return mean

    return average


def part_progress(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return a callback for part `number` of `count` equal parts of a task."""
    return progress and (lambda done, total: progress(number * total + done, count * total))
