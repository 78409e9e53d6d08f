"""Test the softness that networks have to keep."""

from __future__ import annotations

import torch
from torch import Tensor

from restormer_cli.degradations.softness import SHARE, softened
from tests.support.scenes import seeded


def noise(count: int) -> Tensor:
    """Return images with as much detail as possible, in 8 bits."""
    return torch.randint(64, 192, (count, 3, 48, 64), generator=seeded()) / 255


def test_some_images_are_softened_and_the_others_stay() -> None:
    """About the stated share loses detail, keeps its mean, and is in 8 bits again."""
    x = noise(200)
    soft = softened(x, seeded())
    changed = (soft != x).flatten(1).any(1)
    assert abs(changed.float().mean() - SHARE) < 0.1
    before, after = x[changed], soft[changed]
    assert (after.std((1, 2, 3)) < before.std((1, 2, 3))).all()
    assert (after.mean((1, 2, 3)) - before.mean((1, 2, 3))).abs().max() < 1 / 255
    assert (after * 255 - (after * 255).round()).abs().max() < 1e-4


def test_the_border_is_as_soft_as_the_middle() -> None:
    """The image is mirrored at its border: a flat one stays flat."""
    flat = torch.full((64, 3, 9, 11), 77 / 255)
    assert (softened(flat, seeded()) - flat).abs().max() < 1e-6


def test_a_seed_determines_the_softness() -> None:
    """Equal seeds give identical images."""
    x = noise(9)
    assert torch.equal(softened(x, seeded(1)), softened(x, seeded(1)))
    assert not torch.equal(softened(x, seeded(1)), softened(x, seeded(2)))
