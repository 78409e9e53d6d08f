"""What the paper measured, set by set: Restormer (Zamir et al., CVPR 2022), tables 1 to 6."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Result(NamedTuple):
    """A mean over a set: PSNR in dB, and SSIM where the paper gives it."""

    psnr: float
    ssim: float | None = None


class Row(NamedTuple):
    """A row of the paper's tables: what was measured how, and by set and condition what came."""

    variant: str
    results: Mapping[tuple[str, str], Result]


def _plain(**results: tuple[float, float]) -> dict[tuple[str, str], Result]:
    """One result a set: PSNR and SSIM."""
    return {(name, ""): Result(*result) for name, result in results.items()}


def _sigmas(**results: tuple[float, float, float]) -> dict[tuple[str, str], Result]:
    """Three results a set: PSNR at sigma 15, 25 and 50."""
    return {
        (name, f"sigma {sigma}"): Result(psnr)
        for name, result in results.items()
        for sigma, psnr in zip((15, 25, 50), result, strict=True)
    }


ROWS: dict[str, Row] = {
    "derain": Row(
        "",
        _plain(
            test100=(32.00, 0.923),
            rain100h=(31.46, 0.904),
            rain100l=(38.99, 0.978),
            test2800=(34.18, 0.944),
            test1200=(33.19, 0.926),
        ),
    ),
    "deblur": Row(
        "",
        _plain(
            gopro=(32.92, 0.961),
            hide=(31.22, 0.942),
            realblurr=(36.19, 0.957),
            realblurj=(28.96, 0.879),
        ),
    ),
    # Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (2022).
    "deblur, windows of 384": Row(
        "with TLC", {("gopro", ""): Result(33.57), ("hide", ""): Result(31.49)}
    ),
    "defocus": Row(
        "one view",
        _plain(dpdd=(25.98, 0.811), dpddindoor=(28.87, 0.882), dpddoutdoor=(23.24, 0.743)),
    ),
    "defocus, two views": Row(
        "two views",
        _plain(dpdd=(26.66, 0.833), dpddindoor=(29.48, 0.895), dpddoutdoor=(23.97, 0.773)),
    ),
    "denoise": Row("real noise", _plain(sidd=(40.02, 0.960))),
    "denoise, gray": Row(
        "blind",
        _sigmas(
            set12=(33.35, 31.04, 28.01),
            bsd68=(31.95, 29.51, 26.62),
            urban100=(33.67, 31.39, 28.33),
        ),
    ),
    "denoise, gray, per sigma": Row(
        "per sigma",
        _sigmas(
            set12=(33.42, 31.08, 28.00),
            bsd68=(31.96, 29.52, 26.62),
            urban100=(33.79, 31.46, 28.29),
        ),
    ),
    "denoise, color": Row(
        "blind",
        _sigmas(
            cbsd68=(34.39, 31.78, 28.59),
            kodak24=(35.44, 33.02, 30.00),
            mcmaster=(35.55, 33.31, 30.29),
            urban100=(35.06, 32.91, 30.02),
        ),
    ),
    "denoise, color, per sigma": Row(
        "per sigma",
        _sigmas(
            cbsd68=(34.40, 31.79, 28.60),
            kodak24=(35.47, 33.04, 30.01),
            mcmaster=(35.61, 33.34, 30.30),
            urban100=(35.13, 32.96, 30.02),
        ),
    ),
}
"""By task and what matters to it; sets in small letters without punctuation."""


class Set(NamedTuple):
    """A set of test images, and how many there are."""

    name: str
    images: int | None = None


SETS = {
    "test100": Set("Test100"),
    "rain100h": Set("Rain100H", 100),
    "rain100l": Set("Rain100L", 100),
    "test2800": Set("Test2800", 2800),
    "test1200": Set("Test1200", 1200),
    "gopro": Set("GoPro", 1111),
    "hide": Set("HIDE", 2025),
    "realblurr": Set("RealBlur-R", 980),
    "realblurj": Set("RealBlur-J", 980),
    "dpdd": Set("DPDD", 76),
    "dpddindoor": Set("DPDD indoor", 37),
    "dpddoutdoor": Set("DPDD outdoor", 39),
    "sidd": Set("SIDD", 1280),
    "set12": Set("Set12", 12),
    "bsd68": Set("BSD68", 68),
    "cbsd68": Set("CBSD68", 68),
    "kodak24": Set("Kodak24", 24),
    "mcmaster": Set("McMaster", 18),
    "urban100": Set("Urban100", 100),
}

REMARKS = {
    "gopro": "The paper's SSIM is by another definition: by this one the same weights have 0.950.",
    "hide": "The paper's SSIM is by another definition: by this one the same weights have 0.935.",
    "realblurr": "The set's own protocol aligns results with their references; here nothing is.",
    "realblurj": "The set's own protocol aligns results with their references; here nothing is.",
}
"""Where the paper measured a set otherwise than we do."""

_PARTS = 4
"""How many names of a path are looked at, from its end: Rain100L/test/target is Rain100L, too."""


def known_set(folder: Path) -> str | None:
    """The key of the set that a folder, or one of those it lies in, is named after."""
    parts = [re.sub("[^a-z0-9]", "", part.lower()) for part in folder.resolve().parts[-_PARTS:]]
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
    """The row of the paper's tables that an evaluation is to be read beside."""
    said = {
        "gray" if gray else "color": sigma,
        "per sigma": sigma and per_sigma,
        "two views": two_views,
        f"windows of {window}": task == "deblur" and window == 384,  # the only ones published
    }
    return ROWS[", ".join([task, *(words for words, applies in said.items() if applies)])]
