"""Self-ensemble: restore an image in every orientation and average the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..callbacks import Progress
from ..network import Architecture

Run = Callable[[Tensor, Progress | None], Tensor]
"""Restores B C H W to B C' H W and reports progress."""


class Orientation(NamedTuple):
    """A rotation or reflection of an image, and the inverse for its result."""

    turn: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def _orientation(quarters: int, mirrored: bool, views: int) -> Orientation:
    """Return `quarters` quarter turns, followed by a mirror image if `mirrored`.

    The two views of a dual-pixel sensor are the halves of the aperture, side by side. If left and
    right of the scene are exchanged, the mirrored right view takes the place of the left one.
    """
    swapped = views == 2 and mirrored == (quarters == 0)

    def turn(x: Tensor) -> Tensor:
        x = x.roll(x.shape[1] // 2, 1) if swapped else x
        x = torch.rot90(x, quarters, (2, 3))
        return (x.flip(3) if mirrored else x).contiguous()

    def back(y: Tensor) -> Tensor:
        return torch.rot90(y.flip(3) if mirrored else y, -quarters, (2, 3))

    return Orientation(turn, back)


def orientations(a: Architecture) -> tuple[Orientation, ...]:
    """Return the orientations in which a network can restore an image, the original first.

    There are eight: four quarter turns and their mirror images. Dual-pixel networks have the four
    that keep the two views side by side.
    """
    quarters, views = ((0, 2), 2) if a.dual_pixel else (range(4), 1)
    return tuple(_orientation(q, m, views) for q in quarters for m in (False, True))


def ensembled(run: Run, over: tuple[Orientation, ...]) -> Run:
    """Return a function that averages the results of `run` over these orientations.

    Timofte, Rothe and Van Gool, "Seven Ways to Improve Example-Based Single Image Super
    Resolution" (CVPR 2016), enhanced prediction; Lim et al., "Enhanced Deep Residual Networks for
    Single Image Super-Resolution" (CVPR Workshops 2017), geometric self-ensemble.

    Results are not clamped before averaging. A running mean in fp32 keeps one result in memory,
    and returns equal results unchanged, bit for bit.
    """

    def average(x: Tensor, progress: Progress | None) -> Tensor:
        mean: Tensor | None = None
        for number, (turn, back) in enumerate(over):
            y = back(run(turn(x), part_progress(progress, number, len(over)))).float()
            mean = y.contiguous() if mean is None else mean.add_(y.sub(mean).div_(number + 1))
        assert mean is not None  # noqa: S101 - there is always one orientation
        return mean

    return average


def part_progress(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return a callback for one of `count` equal parts, which reports to that of the whole."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)


def extra_bytes(a: Architecture, height: int, width: int) -> int:
    """Return the bytes that an ensemble adds to a single run: a turned image and two results."""
    return 4 * (a.in_channels + 2 * a.out_channels) * height * width
