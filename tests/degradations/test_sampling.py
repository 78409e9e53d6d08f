"""Test the conversion between sRGB and linear light, and mixtures of degradations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from restormer_cli.degradations import sampling
from tests.support.scenes import seeded


def test_srgb_and_linear_light_are_inverses() -> None:
    """A round trip is exact to 1e-6; black, white and middle grey have the standard's values."""
    x = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(sampling.to_srgb(sampling.to_linear(x)), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        sampling.to_linear(torch.tensor([0, 0.04045, 0.5, 1])),
        torch.tensor([0, 0.0031308, 0.2140411, 1]),
        atol=1e-6,
        rtol=0,
    )


def test_light_outside_of_srgb_is_clipped() -> None:
    """Negative light and light above white become black and white."""
    assert sampling.to_srgb(torch.tensor([-0.5, 2.0])).tolist() == pytest.approx([0, 1])


def test_values_are_rounded_to_8_bits() -> None:
    """Values are clamped to 0..1 and rounded to steps of 1/255."""
    x = torch.tensor([-0.3, 0.4 / 255, 0.6 / 255, 1.7])
    torch.testing.assert_close(sampling.to_8_bit(x), torch.tensor([0, 0, 1 / 255, 1]))


def test_a_mixture_draws_by_weight() -> None:
    """One part is applied to each image, with a probability proportional to its weight."""
    parts = [(value, lambda x, _, value=value: torch.full_like(x, value)) for value in (0.2, 0.8)]
    values = sampling.mixture(*parts)(torch.zeros(2000, 1, 1, 1), seeded()).flatten()
    assert set(values.tolist()) == {np.float32(0.2), np.float32(0.8)}
    assert float((values > 0.5).float().mean()) == pytest.approx(0.8, abs=0.03)


def test_a_part_gets_only_its_images() -> None:
    """A part is called only with the images for which it was drawn."""
    seen = []

    def record(x: Tensor, _: Generator) -> Tensor:
        seen.append(x.flatten().tolist())
        return x

    sampling.mixture((1, record), (1, record), (0, record))(
        torch.arange(9.0).view(9, 1, 1, 1), seeded()
    )
    assert len(seen) == 2
    assert sorted(seen[0] + seen[1]) == list(range(9))
