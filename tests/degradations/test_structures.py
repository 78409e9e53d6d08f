"""Test the structures that have to stay in an image when rain is removed from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from restormer_cli.degradations.structures import SHARE, bars, parallel_lines, with_structures
from tests.support.scenes import column, seeded


def grey(count: int, height: int = 48, width: int = 64) -> Tensor:
    return torch.full((count, 3, height, width), 0.2)


def test_some_images_get_a_structure_and_the_others_stay() -> None:
    """About the stated share changes; values are in range, and in 8 bits where they changed."""
    drawn = with_structures(grey(400), seeded())
    changed = (drawn != 0.2).flatten(1).any(1)
    assert abs(changed.float().mean() - SHARE) < 0.08
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    structured = drawn[changed] * 255
    assert (structured - structured.round()).abs().max() < 1e-4


def test_a_seed_determines_the_structures() -> None:
    """Equal seeds give identical images."""
    assert torch.equal(with_structures(grey(9), seeded(1)), with_structures(grey(9), seeded(1)))
    assert not torch.equal(with_structures(grey(9), seeded(1)), with_structures(grey(9), seeded(2)))


def test_bars_have_their_period_and_width() -> None:
    """Of each 10 pixels, 3 are covered, whatever the sign of the position."""
    covered = bars(torch.arange(-50, 50) + 0.5, torch.tensor(10.0), torch.tensor(3.0))
    assert torch.equal(covered, covered.roll(10))
    assert covered.sum() == 30


def test_lines_keep_their_distance() -> None:
    """Vertical lines cover width / spacing of an image, evenly."""
    x, count = grey(64, 40, 120), column(*[0.0] * 64)
    opacity = parallel_lines(x, count, count + 12, count + 3, seeded())
    whole = opacity.mean((1, 2, 3))
    assert opacity.shape == (64, 1, 40, 120)
    assert abs(whole.max() - 3 / 12) < 0.05
    assert abs(whole.min() - 2 / 3 * 3 / 12) < 0.05  # a chain has gaps


def test_lines_follow_their_angle() -> None:
    """A turn by a right angle exchanges rows and columns of the gradient."""
    x, angle = grey(32, 64, 64), column(*[0.0] * 32)
    for turn, strong in ((0.0, -1), (math.pi / 2, -2)):
        opacity = parallel_lines(x, angle + turn, angle + 12, angle + 2, seeded())
        change = {axis: opacity.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (-1, -2)}
        assert (change[strong].median() / change[-3 - strong].median()) > 2
