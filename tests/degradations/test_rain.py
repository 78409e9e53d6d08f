"""Test the shape, direction and brightness of streaks, and the severity of rain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restormer_cli.degradations import rain
from tests.support.scenes import column, seeded


def grey(count: int, height: int = 48, width: int = 48, level: float = 0.4) -> Tensor:
    return torch.full((count, 3, height, width), level)


def kernel(angle: float, length: float = 24.0, width: float = 0.8) -> Tensor:
    one = torch.ones(1, 1, 1)
    return rain.streak_kernels(angle * one, length * one, width * one)[0]


@pytest.mark.parametrize("size", [(48, 48), (17, 31), (3, 90), (1, 1)])
def test_images_of_any_size_are_degraded(size: tuple[int, int]) -> None:
    """Results are in 8 bits and within range; the input is unchanged."""
    clean = grey(5, *size)
    bad = rain.rain(clean, seeded())
    assert bad.shape == clean.shape
    assert bad.dtype == torch.float32
    assert 0 <= bad.min() <= bad.max() <= 1
    assert ((bad * 255).round() / 255 - bad).abs().max() < 1e-6
    assert torch.equal(clean, grey(5, *size))


def test_a_seed_determines_the_result() -> None:
    """Equal seeds give identical rain, and other seeds give different rain."""
    first = rain.rain(grey(4), seeded(1))
    assert torch.equal(first, rain.rain(grey(4), seeded(1)))
    assert not torch.equal(first, rain.rain(grey(4), seeded(2)))


def test_each_image_has_its_own_severity() -> None:
    """A batch contains light and heavy rain."""
    errors = (rain.rain(grey(32), seeded()) - grey(32)).square().mean((1, 2, 3)).sqrt()
    assert errors.max() > 4 * errors.min()


def test_rain_only_brightens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mist, no pixel becomes darker."""
    monkeypatch.setattr(rain, "veiled", lambda x, mist, light: x)
    clean = (torch.rand(16, 3, 40, 40, generator=seeded(3)) * 255).round() / 255
    wet = rain.rain(clean, seeded())
    assert (wet >= clean - 1e-6).all()
    assert (wet > clean + 0.1).any()


def test_heavier_rain_changes_more() -> None:
    """With the same seed, the light of the streaks grows with heaviness."""
    heaviness = torch.linspace(0, 1, 5).tolist()
    means = [
        float(rain.streaks(grey(24), torch.full((24, 1, 1, 1), h), seeded()).mean())
        for h in heaviness
    ]
    assert means == sorted(means)
    assert means[-1] > 5 * means[0]


def test_streaks_are_a_part_of_the_light() -> None:
    """Shares are in 0..1, and most of an image in light rain has no streaks."""
    light, heavy = rain.streaks(grey(20), column(*[0.0] * 10, *[1.0] * 10), seeded()).split(10)
    for part in (light, heavy):
        assert 0 <= part.min() <= part.max() <= 1
    assert (light < 0.02).float().mean() > 0.75
    assert (heavy > 0.05).float().mean() > 0.3


def test_borders_are_as_wet_as_the_middle() -> None:
    """Streaks cross the border of the image."""
    part = rain.streaks(grey(300, 32, 32), torch.full((300, 1, 1, 1), 0.7), seeded())
    inside = float(part[..., 8:24, 8:24].mean())
    for line in (part[..., 0, :], part[..., -1, :], part[..., 0], part[..., -1]):
        assert float(line.mean()) == pytest.approx(inside, rel=0.12)


def test_rain_is_mostly_steep() -> None:
    """Brightness changes less vertically than horizontally."""
    part = rain.streaks(grey(40), torch.full((40, 1, 1, 1), 0.5), seeded())
    assert part.diff(dim=3).abs().mean() > 2 * part.diff(dim=2).abs().mean()


@pytest.mark.parametrize("angle", [-0.7, 0.0, 0.4])
def test_a_streak_has_its_angle(angle: float) -> None:
    """A streak is 1 in its middle, fades to 0 at its ends, and has the requested angle."""
    streak = kernel(angle)
    line = torch.arange(len(streak)) - float(len(streak) // 2)
    y, x = line[:, None], line[None, :]
    lean = float((streak * x * y).sum() / (streak * y * y).sum())
    assert float(streak.max()) == float(streak[len(streak) // 2, len(streak) // 2]) == 1
    assert lean == pytest.approx(float(torch.tensor(angle).tan()), abs=0.03)
    assert torch.cat([streak[0], streak[-1], streak[:, 0], streak[:, -1]]).max() < 1e-3


def test_the_longest_streak_fits() -> None:
    """A streak of 48 pixels is not cut off, vertical or slanted."""
    for angle in (0.0, 0.9):
        assert kernel(angle, 48.0, 1.0)[[0, -1]].max() < 0.01


def test_mist_blends_in_its_light() -> None:
    """Mist blends every colour with the colour of its light, by its amount."""
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    misty = rain.veiled(image, column(0.25), torch.full((1, 3, 1, 1), 0.8))
    torch.testing.assert_close(misty.flatten(), torch.tensor([0.2, 0.575, 0.95]))


def test_hard_streaks_saturate() -> None:
    """As in published rain, 3 to 7 % of the pixels are nearly opaque, and most have no streak."""
    opacity = rain.hard_streaks(grey(100, 96, 96), seeded())
    assert opacity.max() == 1
    assert 0.03 < (opacity > 0.9).float().mean() < 0.07
    covers = (opacity > 0.1).float().mean((1, 2, 3))
    lowest, highest = torch.quantile(covers, torch.tensor([0.05, 0.95]))
    assert 0.03 < lowest < 0.08
    assert 0.2 < highest < 0.35


def test_hard_streaks_are_as_bright_as_published_ones() -> None:
    """The 95th percentile of the added light is 79 to 115 of 255 over all images."""
    clean = grey(100, 96, 96, 0.3)
    light = (rain.hard_rain(clean, seeded()) - clean).mean(1).flatten() * 255
    assert 79 < torch.quantile(light[::3], 0.95) < 115
    peaks = (rain.hard_rain(clean, seeded()) - clean).amax((1, 2, 3)) * 255
    assert peaks.min() > 30
    assert peaks.max() > 170


def test_hard_streaks_have_hard_edges() -> None:
    """Across a streak, opacity rises from less than a tenth to nine tenths within two pixels."""
    streak = rain.hard_kernels(
        *(torch.tensor(v).view(1, 1, 1) for v in (0.0, 60.0, 4.0, 6.0, 1.0))
    )[0]
    middle = len(streak) // 2
    assert streak[middle].tolist() == [0.0] * (middle - 2) + [0.5, 1, 1, 1, 0.5] + [0.0] * (
        middle - 2
    )
    assert float(streak[:, middle].sum()) == pytest.approx(60, abs=1)
    assert streak[[0, -1]].max() == 0


@pytest.mark.parametrize("angle", [-0.9, 0.0, 0.9])
def test_the_longest_hard_streak_fits(angle: float) -> None:
    """A streak of 80 pixels with the longest ends is not cut off."""
    streak = rain.hard_kernels(
        *(torch.tensor(v).view(1, 1, 1) for v in (angle, 80.0, 6.0, 32.0, 4.0))
    )
    assert streak[0, [0, -1]].max() < 0.4


def test_most_hard_rain_has_one_direction() -> None:
    """In three quarters of the images all streaks are parallel, to 7 degrees."""
    opacity = rain.hard_streaks(grey(60, 96, 96), seeded())
    across = opacity[..., :-1, 1:] - opacity[..., :-1, :-1]
    along = opacity[..., 1:, :-1] - opacity[..., :-1, :-1]
    # Coherence of the structure tensor: 1 if all edges are parallel.
    xx, yy, xy = ((a * b).sum((1, 2, 3)) for a, b in ((across,) * 2, (along,) * 2, (across, along)))
    coherence = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy)
    assert (coherence > 0.7).float().mean() > 0.5
    assert coherence.min() < 0.7
