"""Measure a network on the held-out photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..degradations import Residual, ResidualMeter
from ..imaging import psnr
from .pairs import Pair

CEILING = 50.0
"""Limit of the PSNR of an image in dB: a nearly perfect one must not dominate the mean."""


class Validation(NamedTuple):
    """Scores on the held-out photographs.

    Attributes:
        psnr: mean PSNR in dB of the restored images, each at most 50 dB.
        clean: lowest PSNR in dB of a clean image that the network was given.
        residual: what is left of the degradation.
    """

    psnr: float
    clean: float
    residual: Residual

    def as_dict(self) -> dict[str, Any]:
        """Return all scores for JSON, rounded."""
        scores = {"psnr": self.psnr, "clean": self.clean, "remains": self.residual.as_dict()}
        return {name: _rounded(value) for name, value in scores.items()}


def mean_psnr(restore: Callable[[Tensor], Tensor], pairs: Sequence[Pair]) -> float:
    """Return the mean PSNR in dB of the restored images, clamped to 0..1 but not rounded."""
    values = [psnr(_restored(restore, degraded, "cpu"), clean) for degraded, clean in pairs]
    return sum(min(value, CEILING) for value in values) / len(values)


def validate(
    restore: Callable[[Tensor], Tensor], pairs: Sequence[Pair], device: torch.device | str = "cpu"
) -> Validation:
    """Restore the degraded image of each pair, and its clean image."""
    values, kept, meter = [], [], ResidualMeter()
    for degraded, clean in pairs:
        views = degraded.shape[1] // clean.shape[1]
        result = _restored(restore, degraded, device)
        values.append(min(psnr(result, clean), CEILING))
        meter.add(result[0], degraded[0, : clean.shape[1]], clean[0])
        kept.append(psnr(_restored(restore, clean.repeat(1, views, 1, 1), device), clean))
    return Validation(sum(values) / len(values), min(kept), meter.residual())


@torch.inference_mode()
def _restored(restore: Callable[[Tensor], Tensor], x: Tensor, device: torch.device | str) -> Tensor:
    return restore(x.to(device)).clamp(0, 1).cpu()


def _rounded(value: Any) -> Any:
    """Round the numbers in nested dictionaries; infinity becomes None, for JSON."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if value is None or not math.isfinite(value):
        return None
    return round(value, 4)
