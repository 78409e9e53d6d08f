"""Pairs of clean and degraded images, matched by name or by order."""

from __future__ import annotations

from pathlib import Path

import pytest

from restormer_cli.errors import UsageError
from restormer_cli.files import match_pairs
from tests.support.program import picture


@pytest.mark.usefixtures("folder")
def test_equal_names_win_over_equal_stems() -> None:
    """Of two images with the same stem, only the one with the same suffix is matched."""
    for name in ("a/1.png", "a/2.png", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        picture(name, (12, 12, 3))
    pairs, unmatched = match_pairs(Path("a"), Path("b"), suffixes={".png", ".jpg"})
    assert [(str(pair.clean), str(pair.degraded)) for pair in pairs] == [
        ("a/1.png", "b/1.jpg"),
        ("a/2.jpg", "b/2.jpg"),
    ]
    assert unmatched == [Path("a/2.png")]
    with pytest.raises(UsageError, match="3 in a and 2 in b"):
        match_pairs(Path("a"), Path("b"), suffixes={".png", ".jpg"}, by_order=True)
