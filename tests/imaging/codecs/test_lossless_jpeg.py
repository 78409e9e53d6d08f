"""Lossless JPEG, read by LibRaw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from restormer_cli.imaging.linear import WHITE, RawDescription
from tests.support.camera import BALANCE, MATRIX

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("rawpy", reason="rawpy (the extra raw) is not installed")


@pytest.mark.parametrize(
    "spread",
    [
        lambda rng, shape: rng.integers(0, WHITE + 1, shape),
        lambda rng, shape: rng.integers(0, 2, shape) * WHITE,
        lambda rng, shape: rng.integers(0, 2, shape) * 2**15,  # a difference without bits
        lambda rng, shape: np.where(rng.random(shape) < 1e-4, 60000, 7),  # rare categories
        lambda rng, shape: (rng.exponential(1, shape) ** 6).clip(0, WHITE),
    ],
)
@pytest.mark.parametrize("size", [(48, 47), (270, 530), (33, 700)])
def test_all_samples_survive_compression(
    size: tuple[int, int], spread: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    """LibRaw reads every sample of every tile, whatever their differences are."""
    pixels = spread(np.random.default_rng(0), (*size, 3)).astype(np.uint16)
    description = RawDescription(BALANCE, MATRIX)
    path = tmp_path / "a.dng"
    image_io.write_image(Image(pixels, format="raw", raw=description), path)
    image = next(image_io.decode(path.read_bytes(), kind="dng").images)
    assert np.array_equal(image.pixels, pixels)
