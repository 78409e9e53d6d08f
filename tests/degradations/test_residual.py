"""Test what is left of noise, rain and detail, on images with known residuals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restormer_cli.degradations.jpeg import to_rgb
from restormer_cli.degradations.residual import OCTAVES, ResidualMeter
from tests.support.scenes import scene, seeded


def noise(channels: int = 3, side: int = 160, seed: int = 0) -> Tensor:
    return torch.randn(channels, side, side, generator=seeded(seed)) * 0.1


@pytest.mark.parametrize("left", [0.0, 0.3, 1.0])
def test_the_share_of_noise_left_is_found_in_every_octave(left: float) -> None:
    """If 30 % of the noise is left, every band of luma and chroma says so."""
    clean, added = scene(1, 160, 160)[0], noise()
    meter = ResidualMeter()
    meter.add(clean + left * added, clean + added, clean)
    residual = meter.residual()
    assert residual.luma == pytest.approx([left] * len(OCTAVES), abs=1e-4)
    assert residual.chroma == pytest.approx([left] * len(OCTAVES), abs=1e-4)
    assert residual.detail == pytest.approx([0] * len(OCTAVES), abs=0.3 * left + 1e-4)


def test_luma_and_chroma_are_told_apart() -> None:
    """Chroma that is left whole does not count as luma."""
    clean, ycc = scene(1, 160, 160)[0], noise()
    kept = ycc * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    meter = ResidualMeter()
    meter.add(clean + to_rgb(kept), clean + to_rgb(ycc), clean)
    residual = meter.residual()
    assert residual.luma == pytest.approx([0] * len(OCTAVES), abs=1e-4)
    assert residual.chroma == pytest.approx([1] * len(OCTAVES), abs=1e-4)


def test_bands_are_octaves() -> None:
    """A sine counts in the band of its frequency alone."""
    line = torch.arange(256.0)
    for index, frequency in enumerate((0.75, 0.375, 0.1875, 0.09375, 0.03125)):
        wave = torch.sin(torch.pi * frequency * line).expand(1, 256, 256)
        meter = ResidualMeter()
        meter.add(wave, wave, torch.zeros_like(wave))
        energies = meter.bands[0, 1]
        assert energies.argmax() == index
        assert float(energies[index] / energies.sum()) > 0.6


def test_smeared_detail_is_found() -> None:
    """A restored image that is blurred has lost fine detail, and kept coarse detail."""
    clean = noise() + 0.5
    blurred = torch.nn.functional.avg_pool2d(clean[None], 3, stride=1, padding=1)[0]
    meter = ResidualMeter()
    meter.add(blurred, clean + noise(seed=1), clean)
    detail = meter.residual().detail
    assert detail[0] > 0.8
    assert detail[0] > detail[1] > detail[2] > 0.05 > detail[4]


def test_rain_left_in_strong_and_weak_streaks() -> None:
    """Strong streaks that are kept and weak ones that are removed count separately."""
    clean = torch.full((3, 80, 80), 0.3)
    rain = torch.zeros(1, 80, 80)
    rain[:, :, 10:12], rain[:, :, 40:42] = 0.6, 0.1
    restored = clean.clone()
    restored[:, :, 10:12] += 0.45
    meter = ResidualMeter()
    meter.add(restored, clean + rain, clean)
    residual = meter.residual()
    assert residual.strong == pytest.approx(0.75)
    assert residual.weak == pytest.approx(0)


def test_the_drift_of_the_mean_is_that_of_the_worst_colour() -> None:
    """A colour that is shifted by 2 of 255 in one image and 4 in another drifts by 3."""
    clean = torch.full((3, 80, 80), 0.5)
    meter = ResidualMeter()
    for shift in (2, -4):
        moved = clean.clone()
        moved[2] += shift / 255
        meter.add(moved, clean, clean)
    assert meter.residual().drift == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize("shape", [(3, 40, 90), (1, 90, 90)])
def test_what_cannot_be_measured_is_none(shape: tuple[int, int, int]) -> None:
    """Images smaller than a block have no bands, grey ones no chroma, clean ones no rain."""
    clean = torch.rand(shape, generator=seeded())
    meter = ResidualMeter()
    meter.add(clean, clean, clean)
    residual = meter.residual()
    assert residual.luma == residual.chroma == [None] * len(OCTAVES)
    assert residual.strong is None
    assert (residual.detail == [None] * len(OCTAVES)) == (min(shape[1:]) < 64)
    assert residual.as_dict()["chroma"] == dict.fromkeys(OCTAVES)
