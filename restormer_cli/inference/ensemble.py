"""Self-ensemble: an image restored in every orientation, and the results averaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..callbacks import Progress
from ..network import Architecture

Turn = Callable[[Tensor], Tensor]


class Run(Protocol):
    """B C H W to B C' H W, telling the parts done and their number."""

    def __call__(self, x: Tensor, progress: Progress | None = None, /) -> Tensor:
        """Restore `x`."""


class Orientation(NamedTuple):
    """How an image is turned before it is restored, and its result turned back."""

    turn: Turn
    back: Turn


def _orientation(quarters: int, mirrored: bool, views: int = 1) -> Orientation:
    """So many quarter turns, and then the mirror image; of `views` pictures in the channels.

    The aperture's halves that a dual-pixel sensor sees through lie side by side: in a scene whose
    left and right are exchanged, each view is blurred as the other one was, so that the mirrored
    right view is the left one.
    """
    swapped = views == 2 and mirrored == (quarters == 0)

    def turn(x: Tensor) -> Tensor:
        x = x.roll(x.shape[1] // 2, 1) if swapped else x
        x = torch.rot90(x, quarters, (2, 3))
        return (x.flip(3) if mirrored else x).contiguous()

    def back(y: Tensor) -> Tensor:
        return torch.rot90(y.flip(3) if mirrored else y, -quarters, (2, 3))

    return Orientation(turn, back)


_OF_ONE_VIEW = tuple(_orientation(q, m) for q in range(4) for m in (False, True))
_OF_TWO_VIEWS = tuple(_orientation(q, m, views=2) for q in (0, 2) for m in (False, True))


def orientations(a: Architecture) -> tuple[Orientation, ...]:
    """Those in which a network may see its images, the given one first.

    Eight: four quarter turns and their mirror images. For dual-pixel networks four, those that
    keep the two views side by side: no sensor has them one above the other.
    """
    return _OF_TWO_VIEWS if a.dual_pixel else _OF_ONE_VIEW


def ensembled(run: Run, over: tuple[Orientation, ...]) -> Run:
    """A function that gives the mean of what `run` gives for an image in these orientations.

    Timofte, Rothe and Van Gool, "Seven Ways to Improve Example-Based Single Image Super
    Resolution" (CVPR 2016), there called enhanced prediction; Lim et al., "Enhanced Deep Residual
    Networks for Single Image Super-Resolution" (CVPR Workshops 2017), geometric self-ensemble.

    Results are taken as they come and not clamped. The mean runs along in fp32, so that there is
    one of them and one result at a time; where all agree it is theirs, bit for bit.
    """

    def average(x: Tensor, progress: Progress | None = None, /) -> Tensor:
        mean: Tensor | None = None
        for number, (turn, back) in enumerate(over):
            part = progress and partial(_told, progress, number, len(over))
            y = back(run(turn(x), part)).float()
            mean = y.contiguous() if mean is None else mean.add_(y.sub(mean).div_(number + 1))
        assert mean is not None  # noqa: S101 - there is always one orientation
        return mean

    return average


def _told(progress: Progress, number: int, count: int, done: int, total: int) -> None:
    """Report what is done of one of `count` runs as a part of all of them."""
    progress(number * total + done, count * total)


def extra_bytes(a: Architecture, height: int, width: int) -> int:
    """Bytes that an ensemble takes beside what one run does: the turned image, and two results."""
    return 4 * (a.in_channels + 2 * a.out_channels) * height * width
