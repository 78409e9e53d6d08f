"""Run short trainings and read the files that they write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from restormer_cli.checkpoints import serialization
from restormer_cli.degradations.noise import gaussian_noise
from restormer_cli.training.dataset import Sample
from restormer_cli.training.loop import Report, train
from restormer_cli.training.state import Settings
from tests.support.networks import TINY

GREY = replace(TINY, in_channels=1, out_channels=1)
TWO_VIEWS = replace(TINY, in_channels=6, dual_pixel=True)
SMALL: tuple[tuple[float, int, int], ...] = ((0.0, 32, 2),)
SIX = Settings(steps=6, validate_every=3, stages=SMALL)


def noise_25(x: Tensor, generator: Generator) -> Tensor:
    return gaussian_noise(x, generator, 25.0)


def grains(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return random pixels, H W 3 uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> Sample:
    """A photo with the row in red and the column in green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(height)[:, None]
    pixels[..., 1] = np.arange(width)
    return Sample(pixels, f"{height * 1000 + width:016x}")


def run(photos: Path, output: Path, settings: Settings = SIX, **options: Any) -> list[Report]:
    """Train to the end; warnings are errors unless a test passes `notify`."""
    return list(train("denoise", photos, output, settings, **{"architecture": TINY, **options}))


def state(output: Path) -> dict[str, Any]:
    return torch.load(output.with_name(output.name + ".resume"), weights_only=True)


def weights(output: Path) -> dict[str, Tensor]:
    return serialization.read(output)[0]


def provenance(output: Path) -> dict[str, Any]:
    return json.loads(serialization.read(output)[1]["record"])


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
