"""Photographs to train on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of 96 x 96 pixels: smooth colours and a disk."""
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[:96, :96] / 96
    for n in range(5):
        planes = [0.5 + 0.4 * np.sin(n + (3 + n) * x + (c + 2) * y) for c in range(3)]
        pixels = (np.stack(planes, -1) * 255).astype(np.uint8)
        cv2.circle(pixels, (30 + 8 * n, 50), 20, (200, 40 * n, 30), -1)
        (folder / f"{n}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return folder


@pytest.fixture
def noisy(photos: Path, tmp_path: Path) -> Path:
    """The five photos with noise of sigma 25, as JPEG files."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for path in photos.iterdir():
        pixels = cv2.imread(str(path)) + rng.normal(0, 25, (96, 96, 3))
        data = cv2.imencode(".jpg", pixels.clip(0, 255).astype(np.uint8))[1]
        (folder / f"{path.stem}.jpg").write_bytes(data.tobytes())
    return folder
