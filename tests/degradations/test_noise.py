"""Test Gaussian noise and camera noise against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from restormer_cli.degradations import noise as noises
from restormer_cli.degradations import sampling
from restormer_cli.degradations.jpeg import to_ycc
from restormer_cli.degradations.residual import ResidualMeter
from tests.support.scenes import is_8_bit, scene, seeded


@pytest.mark.parametrize("sigma", [5.0, 25.0, 50.0])
def test_gaussian_noise_has_its_level(sigma: float) -> None:
    """The standard deviation is sigma / 255 to 2 %, the mean is 0, and values are not clipped."""
    clean = torch.full((2, 3, 128, 128), 0.02)
    noise = noises.gaussian_noise(clean, seeded(), sigma) - clean
    assert float(noise.std()) == pytest.approx(sigma / 255, rel=0.02)
    assert abs(float(noise.mean())) < sigma / 255 * 0.02
    assert (clean + noise).min() < 0


def test_half_of_blind_noise_is_in_8_bits() -> None:
    """About half of the images are clipped and rounded, the others are not."""
    noisy = noises.blind_gaussian_noise(torch.full((400, 3, 8, 8), 0.5), seeded())
    share = sum(is_8_bit(image) for image in noisy) / len(noisy)
    assert 0.42 < share < 0.58


def test_equal_noise_is_the_same_in_all_channels() -> None:
    """The same noise is added to all channels of a pixel."""
    clean = scene(8)
    noise = noises.equal_noise(clean, seeded()) - clean
    assert noise.std() > 0.05
    unrounded = [n for n, x in zip(noise, noise + clean, strict=True) if not is_8_bit(x)]
    assert unrounded
    for image in unrounded:
        torch.testing.assert_close(image, image[:1].expand_as(image), atol=1e-6, rtol=0)


def test_blind_levels_are_spread_evenly_up_to_55() -> None:
    """Sigma is uniform in 0..55."""
    noisy = noises.blind_gaussian_noise(torch.full((400, 3, 24, 24), 0.5), seeded())
    sigma = (noisy - 0.5).flatten(1).std(1) * 255
    assert sigma.max() < 60
    quartiles = torch.quantile(sigma, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([13.75, 27.5, 41.25]), atol=4, rtol=0)


def neighbours(noise: Tensor) -> float:
    """Return the correlation of horizontally adjacent values."""
    centred = noise - noise.mean()
    return float((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean())


@pytest.mark.parametrize("corner", range(4))
def test_demosaicked_noise_is_correlated(corner: int) -> None:
    """Demosaicing correlates the noise of adjacent pixels, for every corner of the pattern."""
    noise = torch.randn(2, 3, 96, 96, generator=seeded())
    spread = noises.demosaicked(noise, torch.tensor([corner, corner]))
    assert abs(neighbours(noise)) < 0.03
    assert all(neighbours(spread[:, colour]) > 0.25 for colour in range(3))


def test_demosaicking_keeps_sampled_values() -> None:
    """A flat colour is unchanged up to the border, and so are the sampled values of red."""
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(4, 3, 7, 9)
    torch.testing.assert_close(noises.demosaicked(flat, torch.arange(4)), flat)
    noise = torch.randn(1, 3, 8, 8, generator=seeded()).expand(4, 3, 8, 8)
    spread = noises.demosaicked(noise, torch.arange(4))
    for corner, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(
            spread[corner, 0, top::2, left::2], noise[corner, 0, top::2, left::2]
        )


def test_sensor_noise_leaves_the_signal_sharp() -> None:
    """The mean of many noisy versions of an edge, in linear light, is that edge."""
    edge = torch.full((1500, 3, 8, 16), 0.45)
    edge[..., 8:] = 0.65
    light = sampling.to_linear(edge)
    mean = sampling.to_linear(noises.sensor_noise(edge, seeded())).mean((0, 2))
    step = float(light[0, 0, 0, 8] - light[0, 0, 0, 7])
    assert (mean - light[0, :, 0]).abs().max() < 0.07 * step


def test_bright_parts_are_noisier_in_linear_light() -> None:
    """The variance of shot noise grows with the light."""
    grey = torch.full((64, 3, 16, 16), 0.25)
    grey[..., 8:] = 0.6
    noise = sampling.to_linear(noises.sensor_noise(grey, seeded())) - sampling.to_linear(grey)
    assert noise[..., 8:].var() > 2 * noise[..., :8].var()


def test_camera_noise_is_rounded_to_8_bits() -> None:
    """All images with camera noise are in 8 bits."""
    assert is_8_bit(noises.camera_noise(scene(8), seeded()))


def amplitude(noise: Tensor) -> Tensor:
    """Return the root mean square of each image."""
    return noise.square().mean((1, 2, 3)).sqrt()


@pytest.fixture(scope="module")
def processed() -> Tensor:
    """The noise in 160 camera files of a flat grey, without its mean."""
    grey = torch.full((160, 3, 128, 128), 0.45)
    noise = noises.processed_noise(grey, seeded()) - grey
    return noise - noise.mean((2, 3), keepdim=True)


def test_processed_noise_is_weak(processed: Tensor) -> None:
    """The standard deviation is 2 to 14 of 255, and that of most images 3 to 8."""
    std = amplitude(processed) * 255
    assert std.min() > 1.3
    assert std.max() < 17
    assert 4 < std.median() < 7


def test_channels_of_processed_noise_go_together(processed: Tensor) -> None:
    """The correlation of red and green is 0.3 to 0.65 in most images."""
    red, green = processed[:, 0].flatten(1), processed[:, 1].flatten(1)
    correlation = (red * green).sum(1) / red.norm(dim=1) / green.norm(dim=1)
    assert 0.4 < correlation.median() < 0.62
    assert ((correlation > 0.2) & (correlation < 0.75)).float().mean() > 0.7


def test_luma_of_processed_noise_is_stronger_than_chroma(processed: Tensor) -> None:
    """Luma has 1.2 to 2.5 times the amplitude of chroma in most images."""
    ycc = to_ycc(processed)
    ratio = amplitude(ycc[:, :1]) / amplitude(ycc[:, 1:])
    assert 1.5 < ratio.median() < 2.2
    assert ((ratio > 1.2) & (ratio < 2.5)).float().mean() > 0.65


def test_chroma_of_processed_noise_is_coarse(processed: Tensor) -> None:
    """A third to half of the energy of chroma, and little of luma's, is below 1/8 of Nyquist."""
    meter = ResidualMeter()
    for noise in processed:
        meter.add(noise, noise, torch.zeros_like(noise))
    luma, chroma = meter.bands[:2, 1]
    assert 0.34 < float(chroma[3:].sum() / chroma.sum()) < 0.56
    assert float(luma[3:].sum() / luma.sum()) < 0.15


def test_processed_noise_depends_on_the_light() -> None:
    """In some images the noise rises with the light, in others it is stronger in the dark."""
    grey = torch.full((100, 3, 32, 64), 0.15)
    grey[..., 32:] = 0.75
    noise = noises.processed_noise(grey, seeded()) - grey
    ratio = amplitude(noise[..., 40:]) / amplitude(noise[..., :24])
    assert (ratio > 1.5).float().mean() > 0.2
    assert (ratio < 0.8).float().mean() > 0.1


@pytest.mark.parametrize("corner", range(4))
def test_demosaicking_by_differences_makes_channels_similar(corner: int) -> None:
    """The noise of red and green is more similar than after bilinear interpolation."""
    raw = torch.randn(1, 3, 96, 96, generator=seeded())

    def similarity(noise: Tensor) -> float:
        return float(torch.corrcoef(noise[0].flatten(1))[0, 1])

    corners = torch.tensor([corner])
    assert abs(similarity(noises.demosaicked(raw, corners))) < 0.1
    assert similarity(noises.demosaicked_by_differences(raw, corners)) > 0.25


def test_demosaicking_by_differences_keeps_colours() -> None:
    """A flat colour is unchanged up to the border, and so are the sampled values."""
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(4, 3, 7, 9)
    corners = torch.arange(4)
    torch.testing.assert_close(noises.demosaicked_by_differences(flat, corners), flat)
    raw = torch.randn(1, 3, 8, 8, generator=seeded()).expand(4, 3, 8, 8)
    result = noises.demosaicked_by_differences(raw, corners)
    for corner, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        for colour, row, column in ((0, top, left), (1, 1 - top, left), (2, 1 - top, 1 - left)):
            torch.testing.assert_close(
                result[corner, colour, row::2, column::2], raw[corner, colour, row::2, column::2]
            )


def test_some_sensors_have_stripes() -> None:
    """Three of ten images have the same offset along each row, or along each column."""
    offsets = noises.stripes(torch.zeros(400, 3, 24, 24), seeded())
    striped = offsets.flatten(1).std(1) > 0
    rows = (offsets[striped].diff(dim=3) == 0).all(3).all(2)
    columns = (offsets[striped].diff(dim=2) == 0).all(3).all(2)
    assert 0.22 < striped.float().mean() < 0.38
    assert (rows ^ columns).all()
    assert rows.float().mean() == pytest.approx(0.7, abs=0.15)


def test_hot_pixels_are_few_and_bright() -> None:
    """A fifth of the images has some, at most one in a thousand samples or so."""
    hot = noises.hot_pixels(torch.zeros(400, 3, 64, 64), seeded())
    shares = (hot > 0).float().mean((1, 2, 3))
    assert hot.min() == 0
    assert hot[hot > 0].min() >= 0.05
    assert 0.12 < (shares > 0).float().mean() < 0.26
    assert shares.max() < 2e-3
