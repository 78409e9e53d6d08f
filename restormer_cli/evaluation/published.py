"""Results published for Restormer (Zamir et al., CVPR 2022, tables 1 to 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """Mean over a test set: PSNR in dB, and SSIM if published."""

    psnr: float
    ssim: float | None = None


class Row(NamedTuple):
    """Results of one network, by test set and condition."""

    variant: str
    results: Mapping[tuple[str, str], Result]


class Set(NamedTuple):
    """Name of a test set and the number of its images in the paper, if known."""

    name: str
    images: int | None = None


_Table = tuple[tuple[str, int | None, tuple[float, ...]], ...]  # name, images, results
_LEVELS = ("sigma 15", "sigma 25", "sigma 50")

_DERAIN: _Table = (  # PSNR, SSIM
    ("Test100", None, (32.00, 0.923)),
    ("Rain100H", 100, (31.46, 0.904)),
    ("Rain100L", 100, (38.99, 0.978)),
    ("Test2800", 2800, (34.18, 0.944)),
    ("Test1200", 1200, (33.19, 0.926)),
)
_DEBLUR: _Table = (  # PSNR, SSIM
    ("GoPro", 1111, (32.92, 0.961)),
    ("HIDE", 2025, (31.22, 0.942)),
    ("RealBlur-R", 980, (36.19, 0.957)),
    ("RealBlur-J", 980, (28.96, 0.879)),
)
_DEFOCUS: _Table = (  # PSNR, SSIM of one view, then of two views
    ("DPDD", 76, (25.98, 0.811, 26.66, 0.833)),
    ("DPDD indoor", 37, (28.87, 0.882, 29.48, 0.895)),
    ("DPDD outdoor", 39, (23.24, 0.743, 23.97, 0.773)),
)
_REAL_NOISE: _Table = (("SIDD", 1280, (40.02, 0.960)),)  # PSNR, SSIM
_GRAY_NOISE: _Table = (  # PSNR by level of the blind network, then of a network per level
    ("Set12", 12, (33.35, 31.04, 28.01, 33.42, 31.08, 28.00)),
    ("BSD68", 68, (31.95, 29.51, 26.62, 31.96, 29.52, 26.62)),
    ("Urban100", 100, (33.67, 31.39, 28.33, 33.79, 31.46, 28.29)),
)
_COLOR_NOISE: _Table = (
    ("CBSD68", 68, (34.39, 31.78, 28.59, 34.40, 31.79, 28.60)),
    ("Kodak24", 24, (35.44, 33.02, 30.00, 35.47, 33.04, 30.01)),
    ("McMaster", 18, (35.55, 33.31, 30.29, 35.61, 33.34, 30.30)),
    ("Urban100", 100, (35.06, 32.91, 30.02, 35.13, 32.96, 30.02)),
)


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _row(variant: str, table: _Table, first: int = 0, levels: tuple[str, ...] = ("",)) -> Row:
    """Return the columns from `first` on: PSNR and SSIM, or the PSNR of each noise level."""
    width = 2 if levels == ("",) else 1
    return Row(
        variant,
        {
            (_key(name), level): Result(*columns[column : column + width])
            for name, _, columns in table
            for column, level in enumerate(levels, first)
        },
    )


ROWS = {
    "derain": _row("", _DERAIN),
    "deblur": _row("", _DEBLUR),
    # Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (2022).
    "deblur, windows of 384": _row(
        "with TLC", (("GoPro", None, (33.57,)), ("HIDE", None, (31.49,)))
    ),
    "defocus": _row("one view", _DEFOCUS),
    "defocus, two views": _row("two views", _DEFOCUS, 2),
    "denoise": _row("real noise", _REAL_NOISE),
    "denoise, gray": _row("blind", _GRAY_NOISE, 0, _LEVELS),
    "denoise, gray, per sigma": _row("per sigma", _GRAY_NOISE, 3, _LEVELS),
    "denoise, color": _row("blind", _COLOR_NOISE, 0, _LEVELS),
    "denoise, color, per sigma": _row("per sigma", _COLOR_NOISE, 3, _LEVELS),
}
"""Results by task and variant of the network."""

SETS = {
    _key(name): Set(name, images)
    for table in (_DERAIN, _DEBLUR, _DEFOCUS, _REAL_NOISE, _GRAY_NOISE, _COLOR_NOISE)
    for name, images, _ in table
}
"""Test sets of the paper by key: the name in lower case, without punctuation and spaces."""

_SSIM = "The paper defines SSIM differently. With the definition used here, the same weights reach "
_ALIGNED = (
    "The protocol of this set aligns results with their references. Here, nothing is aligned."
)
REMARKS = {
    "gopro": f"{_SSIM}0.950.",
    "hide": f"{_SSIM}0.935.",
    "realblurr": _ALIGNED,
    "realblurj": _ALIGNED,
}
"""Differences from the protocol of the paper, by test set."""

_PARTS = 4
"""Number of path components, from the last, searched for a name: `Rain100L/test/target`."""


def known_set(folder: Path) -> str | None:
    """Return the key of the test set named by a folder or one of its parents, if any."""
    parts = [_key(part) for part in folder.resolve().parts[-_PARTS:]]
    for name in reversed(parts):
        if name in SETS:
            split = next((part for part in parts if f"{name}{part}" in SETS), "")
            return f"{name}{split}"
    return None


def published_row(
    task: str,
    *,
    sigma: bool = False,
    gray: bool = False,
    per_sigma: bool = False,
    two_views: bool = False,
    window: int | None = None,
) -> Row:
    """Return the published results of a network.

    Args:
        task: the restoration task.
        sigma: Gaussian noise was added.
        gray: the images are grey; matters with `sigma` only.
        per_sigma: each noise level has its own network, instead of a blind one for all.
        two_views: the network takes dual-pixel views.
        window: side of the TLC windows in pixels.
    """
    variant = {
        "gray" if gray else "color": sigma,
        "per sigma": sigma and per_sigma,
        "two views": two_views,
        f"windows of {window}": task == "deblur" and window == 384,
    }
    return ROWS[", ".join([task, *(name for name, applies in variant.items() if applies)])]
