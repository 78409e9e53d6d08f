"""Measure what a restored image has left of its degradation, by frequency.

PSNR does not tell whether a network leaves coarse colour noise or smears fine detail. Shares are
regression coefficients: the error of the restored image is projected on the noise, the rain or the
clean image. Of 0, nothing is left; of 1, everything.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .jpeg import to_ycc

OCTAVES = ("1/1", "1/2", "1/4", "1/8", "1/16")
"""Upper limits of the frequency bands, relative to the Nyquist frequency, from fine to coarse.

The first band contains the corners of the spectrum too, and the last all that is coarser.
"""

BLOCK = 64
"""Side in pixels of the overlapping, windowed blocks whose spectra are taken."""

STRONG, WEAK = 64 / 255, 8 / 255
"""Least brightening, in luma, of a pixel in a strong and in a weak streak."""


class Residual(NamedTuple):
    """What is left of the degradation of some images; None where there was none.

    Attributes:
        luma, chroma: share of the noise that is left, for each of the `OCTAVES`.
        detail: share of the clean image's luma that is lost, for each of the `OCTAVES`.
        strong, weak: share of the rain that is left in strong and in weak streaks.
        drift: shift of the mean of the colour that shifts most, averaged over the images, of 255.
    """

    luma: list[float | None]
    chroma: list[float | None]
    detail: list[float | None]
    strong: float | None
    weak: float | None
    drift: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the shares for JSON, by octave."""
        named = {
            name: dict(zip(OCTAVES, getattr(self, name), strict=True))
            for name in ("luma", "chroma", "detail")
        }
        return {**self._asdict(), **named}


class ResidualMeter:
    """Sums over images, from which a `Residual` is computed."""

    def __init__(self) -> None:
        self.images = 0
        self.drift = 0.0
        # Rows: noise in luma, noise in chroma, detail of luma; then error times it, and its square.
        self.bands = torch.zeros(3, 2, len(OCTAVES), dtype=torch.float64)
        self.streaks = torch.zeros(2, 2, dtype=torch.float64)

    def add(self, restored: Tensor, degraded: Tensor, clean: Tensor) -> None:
        """Add one image: three tensors C H W on the CPU, C 1 or 3, in 0..1."""
        error, added = restored - clean, degraded - clean
        self.images += 1
        self.drift += 255 * float(error.mean((1, 2), dtype=torch.float64).abs().max())
        error, added, kept = (_planes(t.float()) for t in (error, added, clean))
        self.bands[0] += _products(error[:1], added[:1])
        self.bands[1] += _products(error[1:], added[1:])
        self.bands[2] += _products(-error[:1], kept[:1])
        rain = added[0]
        for sums, streak in zip(
            self.streaks, (rain >= STRONG, (rain >= WEAK) & (rain < STRONG)), strict=True
        ):
            layer = rain[streak].double()
            sums += torch.stack([error[0][streak].double() @ layer, layer @ layer])

    def residual(self) -> Residual:
        """Return the shares over all images that were added."""
        luma, chroma, detail = ([_share(*pair) for pair in band.T] for band in self.bands)
        strong, weak = (_share(*pair) for pair in self.streaks)
        drift = self.drift / self.images if self.images else None
        return Residual(luma, chroma, detail, strong, weak, drift)


def _planes(t: Tensor) -> Tensor:
    """Return Y, Cb and Cr of C H W; a grey image has Y alone."""
    return to_ycc(t) if len(t) == 3 else t


def _products(error: Tensor, signal: Tensor) -> Tensor:
    """Return for each octave the products of the spectra of C H W: 2 x octaves.

    The first row is error times signal, the second the square of the signal.
    """
    sums = torch.zeros(2, len(OCTAVES), dtype=torch.float64)
    height, width = signal.shape[1:]
    if not len(signal) or min(height, width) < BLOCK:
        return sums
    window = torch.hann_window(BLOCK, periodic=True)
    frequency = torch.fft.fftfreq(BLOCK) * 2
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    bands = (-radius.clamp(1 / 32, 1).log2()).floor().clamp_max(len(OCTAVES) - 1).long()
    # Row by row of blocks, because their spectra take many times the memory of an image.
    for top in range(0, height - BLOCK + 1, BLOCK // 2):
        a, b = (
            torch.fft.fft2(_blocks(t[:, top : top + BLOCK]) * window * window[:, None])
            for t in (error, signal)
        )
        for row, product in zip(sums, ((a * b.conj()).real, b.abs().square()), strict=True):
            row.index_add_(0, bands.flatten(), product.sum((0, 1)).double().flatten())
    return sums


def _blocks(strip: Tensor) -> Tensor:
    """Split C S W into overlapping blocks without their means: C N S S."""
    blocks = strip.unfold(2, BLOCK, BLOCK // 2).transpose(1, 2)
    return blocks - blocks.mean((2, 3), keepdim=True)


def _share(product: Tensor, square: Tensor) -> float | None:
    return float(product / square) if square > 0 else None
