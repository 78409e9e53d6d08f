"""Published results and their test sets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from restormer_cli.evaluation import published


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("data/Rain100L", "rain100l"),
        ("Rain100H/test/target", "rain100h"),
        ("RealBlur-J/target", "realblurj"),
        ("real_blur_r", "realblurr"),
        ("DPDD/test/outdoor/target", "dpddoutdoor"),
        ("CBSD68", "cbsd68"),
        ("my photos", None),
    ],
)
def test_sets_are_recognized_by_the_names_of_their_folders(folder: str, known: str | None) -> None:
    """Spelling and parent folders do not matter."""
    assert published.known_set(Path("sets") / folder) == known


def test_every_published_result_belongs_to_a_known_set() -> None:
    """All sets have results, and all results are in the usual range."""
    sets = set()
    for row in published.ROWS.values():
        for (name, _), result in row.results.items():
            sets.add(name)
            assert 20 < result.psnr < 45
            assert result.ssim is None or 0.7 < result.ssim < 1
    assert sets == set(published.SETS)
    assert set(published.REMARKS) <= sets
    assert not math.isnan(
        published.published_row("denoise", sigma=True).results["kodak24", "sigma 25"].psnr
    )
