"""`--keep-detail`: luminance detail that exceeds the noise is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.imaging.detail import luminance, removed_detail
from restormer_cli.imaging.image import Image
from restormer_cli.imaging.network_view import prepare
from tests.support.program import Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 256
SMOOTH = np.tile(np.linspace(0.2, 0.8, SIDE, dtype=np.float32), (SIDE, 1))[..., None]


def noisy(channels: int = 3, *, seed: int = 0) -> np.ndarray:
    """Return a ramp with noise that grows with brightness."""
    noise = np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE, channels))
    return (SMOOTH + noise * (0.01 + 0.04 * SMOOTH)).astype(np.float32)


def weave(contrast: float, period: float) -> np.ndarray:
    """Return a fabric in the middle of the picture."""
    rows, columns = np.mgrid[:SIDE, :SIDE] * (2 * np.pi / period)
    fabric = contrast * np.sin(rows) * np.sin(columns)
    fabric[:80] = fabric[-80:] = fabric[:, :80] = fabric[:, -80:] = 0
    return fabric[..., None].astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_not_given_back(channels: int) -> None:
    """Of pure noise, bright and dark, less than 2 % of the energy comes back."""
    removed = luminance(noisy(channels) - SMOOTH)
    detail = removed_detail(noisy(channels), np.repeat(SMOOTH, channels, axis=2))
    for half in (np.s_[:, :128], np.s_[:, 128:]):
        assert np.square(detail[half]).sum() < 0.02 * np.square(removed[half]).sum()


@pytest.mark.parametrize("period", [4, 8, 16])
def test_detail_above_the_noise_is_given_back(period: float) -> None:
    """Fabric that the network took for noise returns, whatever its scale; flat parts stay clean."""
    fabric = weave(0.15, period)
    detail = removed_detail(noisy() + fabric, np.repeat(SMOOTH, 3, axis=2))
    inside = np.s_[96:160, 96:160]
    error = detail[inside] - fabric[inside][..., 0]
    assert np.square(error).sum() < 0.25 * np.square(fabric[inside]).sum()
    assert np.square(detail[:40]).mean() < 0.02 * np.square(luminance(noisy() - SMOOTH)).mean()


def test_chroma_is_never_given_back() -> None:
    """All channels change alike, also by detail that differs among them."""
    before = noisy()
    before[..., :1] += weave(0.2, 6)
    view = prepare(Image(before))
    clean = np.repeat(SMOOTH, 3, axis=2)
    change = view.return_detail(clean.copy(), 0.7) - clean
    assert np.abs(change).max() > 0.01
    np.testing.assert_allclose(change, np.repeat(change[..., :1], 3, axis=2), atol=1e-6)
    half = view.return_detail(clean.copy(), 0.35) - clean
    np.testing.assert_allclose(2 * half, change, atol=1e-6)


def test_hidden_pixels_get_no_detail() -> None:
    """Colour that alpha hides stays as it is."""
    alpha = np.ones((SIDE, SIDE), np.float32)
    alpha[:, 100:140] = 0
    before = noisy() + weave(0.2, 6)
    view = prepare(Image(before, alpha))
    restored = view.return_detail(view.merge(np.repeat(SMOOTH, 3, axis=2)), 1)
    np.testing.assert_array_equal(view.encode(restored)[:, 100:140], before[:, 100:140])


@pytest.mark.usefixtures("folder")
def test_the_option_changes_the_result_of_denoise(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """0 is the result without it, and other values give another one."""
    picture("a.png", (64, 64, 3))
    common = ("denoise", "a.png", "--weights", tiny(), "--precision", "fp32", "-o")
    assert restormer(*common, "none.png").status == 0
    assert restormer(*common, "0.png", "--keep-detail", 0).status == 0
    assert restormer(*common, "1.png", "--keep-detail", 1).status == 0
    assert np.array_equal(pixels("0.png"), pixels("none.png"))
    assert not np.array_equal(pixels("1.png"), pixels("none.png"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "much"])
def test_an_invalid_share_is_refused(share: str, restormer: Callable[..., Outcome]) -> None:
    """A share outside 0..1 is a usage error."""
    picture("a.png")
    assert restormer("denoise", "a.png", "--keep-detail", share).status == 2
