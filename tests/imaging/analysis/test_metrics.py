"""PSNR and SSIM against scikit-image, and luma against MATLAB's documented values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from restormer_cli.checkpoints.catalog import TASKS
from restormer_cli.degradations import to_8_bit
from restormer_cli.imaging.analysis import metrics


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a smooth image and a noisy one."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 1, shape[-1]).expand(shape).clone()
    return ramp, (ramp + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)


def hwc(x: Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("shape", [(3, 40, 33), (1, 11, 11)])
def test_psnr_matches_scikit_image(shape: tuple[int, ...]) -> None:
    """PSNR over all channels together matches scikit-image."""
    a, b = pair(*shape)
    expected = peak_signal_noise_ratio(hwc(a), hwc(b), data_range=1)
    assert metrics.psnr(a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 40, 33), (1, 11, 11), (3, 12, 64)])
def test_ssim_matches_scikit_image(shape: tuple[int, ...]) -> None:
    """SSIM matches scikit-image with Gaussian weights and population covariances."""
    a, b = pair(*shape)
    expected = structural_similarity(
        hwc(a),
        hwc(b),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
    )
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_the_score_of_a_batch_is_the_mean_of_its_images(metric) -> None:
    """Images of a batch are scored one by one."""
    a, b = pair(2, 3, 20, 20)
    b[1] = b[1] * 0.5
    one_by_one = [metric(x, y) for x, y in zip(a, b, strict=True)]
    assert metric(a, b) == pytest.approx(sum(one_by_one) / 2)


def test_equal_images_have_the_highest_scores() -> None:
    """Equal images have infinite PSNR and an SSIM of 1."""
    a, _ = pair(3, 16, 16)
    assert metrics.psnr(a, a.clone()) == math.inf
    assert metrics.ssim(a, a.clone()) == pytest.approx(1, abs=1e-12)


def test_images_that_cannot_be_compared_are_refused() -> None:
    """Different shapes, wrong dimensions, and images smaller than the window are errors."""
    a, b = pair(3, 16, 16)
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match="not two images"):
            metric(a, b[:, :8])
        with pytest.raises(ValueError, match="not two images"):
            metric(a[0], b[0])
    with pytest.raises(ValueError, match="11 x 11 pixels, not 10 x 16"):
        metrics.ssim(a[:, :10], b[:, :10])


@pytest.mark.parametrize(
    ("rgb", "y"),
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 0.5, 1), 105.2425)],
)
def test_luma_matches_matlab(rgb: tuple[float, ...], y: float) -> None:
    """Y is 65.481 R + 128.553 G + 24.966 B + 16, of 255, for images and batches."""
    image = torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1).expand(3, 4, 5)
    expected = torch.full((1, 4, 5), y / 255, dtype=torch.float64)
    torch.testing.assert_close(metrics.luma(image), expected)
    torch.testing.assert_close(metrics.luma(image[None]), expected[None])


def test_every_task_has_its_protocol() -> None:
    """Each task has a protocol, under which a nearly perfect result scores highest."""
    assert set(metrics.PROTOCOLS) == set(TASKS)
    clean = to_8_bit(pair(3, 16, 16)[0])
    for protocol in metrics.PROTOCOLS.values():
        scores = protocol.scores(clean + 0.1 / 255, clean)
        assert scores.psnr > 65
        assert scores.ssim > 0.999


def test_rain_is_measured_on_luma_alone() -> None:
    """A change of colour that keeps Y lowers the score except in the protocol for rain."""
    clean = torch.full((3, 16, 16), 0.5)
    tinted = clean + torch.tensor([128.553, -65.481, 0]).view(3, 1, 1) / 2000
    assert metrics.PROTOCOLS["derain"].scores(tinted, clean).psnr == math.inf
    assert metrics.PROTOCOLS["denoise"].scores(tinted, clean).psnr < 30
