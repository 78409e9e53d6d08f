"""Amount of change, warnings about it, `--strength`, difference maps and changed regions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.imaging.analysis import difference
from restormer_cli.imaging.image import Box
from tests.support.program import Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 50, 3), (700, 90, 3), (65, 2, 1)])
def test_the_change_is_the_mean_of_all_samples(shape: tuple[int, ...]) -> None:
    """The mean does not depend on how an image is divided into blocks."""
    rng = np.random.default_rng(0)
    before, after = (rng.random(shape, dtype=np.float32) for _ in range(2))
    measured = difference.measure_change(before, after)
    assert measured.mean_absolute == pytest.approx(np.abs(after - before).mean(), rel=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_change_between_grey_and_rgb(reverse: bool) -> None:
    """Grey is compared with each of the three channels, whichever image comes first."""
    images = np.full((40, 50, 1), 0.25, np.float32), np.full((40, 50, 3), 0.375, np.float32)
    measured = difference.measure_change(*(reversed(images) if reverse else images))
    assert measured == (0.125, 0.125)


def test_drift_is_the_change_of_low_frequency() -> None:
    """A change of brightness is all drift; noise of that strength is almost none."""
    before = np.full((256, 320, 3), 0.5, np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, before.shape).astype(np.float32)
    assert difference.measure_change(before, before + np.float32(0.1)).drift == pytest.approx(
        0.1, rel=1e-5
    )
    assert difference.measure_change(before, before + noise).drift < 0.01
    half = before.copy()
    half[:, 160:] += np.float32(0.1)
    assert difference.measure_change(before, half).drift == pytest.approx(0.1 / 2**0.5, rel=1e-5)


def test_a_network_that_changes_nothing_gives_a_warning(restormer: Callable[..., Outcome]) -> None:
    """The warning names the file, and the event reports a change of zero."""
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--json")
    assert "warning: a.png: practically no change" in outcome.stderr
    (restored,) = (e for e in outcome.events if e["event"] == "restored")
    assert restored["mean_absolute_change"] == restored["colour_drift"] == 0
    assert len(restored["warnings"]) == 1


def test_drifting_colours_give_a_warning(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Random weights shift colours, and the event has the change of the written file."""
    before = picture("a.tif", (64, 64, 3), "float32")
    outcome = restormer("denoise", "a.tif", "--json", "--weights", tiny())
    assert "warning: a.tif: colours drift by " in outcome.stderr
    (restored,) = (e for e in outcome.events if e["event"] == "restored")
    moved = np.abs(pixels("a.restored.tif") - before).mean()
    assert restored["mean_absolute_change"] == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", "uint8"), ("a.png", "uint16"), ("a.tif", "float32")]
)
@pytest.mark.parametrize("shape", [(21, 34, 3), (21, 34, 1)])
def test_strength_blends_with_the_input(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
) -> None:
    """0 gives the input, 1 the result, both exactly, and 0.5 their mean up to rounding."""
    before = picture(name, shape, dtype)
    common = ["--weights", tiny(), "--precision", "fp32", "--tile", 0]
    after = {}
    for strength in (0, 0.5, 1, None):
        output = f"{strength}{Path(name).suffix}"
        options = [] if strength is None else ["--strength", strength]
        outcome = restormer("denoise", name, "-o", output, *common, *options)
        assert outcome.status == 0
        after[strength] = pixels(output)
    assert np.array_equal(after[0], before)
    assert np.array_equal(after[1], after[None])
    assert not np.array_equal(after[1], before)
    middle = (before.astype(np.float64) + after[1]) / 2
    assert np.abs(after[0.5] - middle).max() <= (1e-6 if dtype == "float32" else 1)


@pytest.mark.parametrize("strength", ["-0.1", "1.5", "nan", "much"])
def test_an_invalid_strength_is_refused(strength: str, restormer: Callable[..., Outcome]) -> None:
    """A strength outside 0..1 is a usage error."""
    picture("a.png")
    assert restormer("denoise", "a.png", "--strength", strength).status == 2


def test_most_changed_crops_are_disjoint_and_sorted() -> None:
    """The largest change comes first. Unchanged crops and crops that do not fit are left out."""
    before = np.zeros((90, 120, 3), np.uint8)
    after = before.copy()
    after[0:20, 0:30] = 50
    after[60:80, 90:120] = 100
    assert difference.most_changed(before, after, 30, 20, 3)[:2] == [
        Box(90, 60, 30, 20),
        Box(0, 0, 30, 20),
    ]
    assert len(difference.most_changed(before, after, 30, 20, 3)) == 2
    assert difference.most_changed(before, before, 30, 20, 3) == []
    assert difference.most_changed(before, after, 200, 20, 3) == []


@pytest.mark.parametrize("side", [1, 4, 7])
def test_blocks_are_means(side: int) -> None:
    """Each block is a mean absolute difference; the last of a row or column may be smaller."""
    rng = np.random.default_rng(0)
    before, after = (rng.random((20, 31, 3), dtype=np.float32) for _ in range(2))
    blocks = difference.block_differences(before, after, side)
    assert blocks.shape == (-(-20 // side), -(-31 // side))
    change = np.abs(after - before)
    assert blocks[0, 0] == pytest.approx(change[:side, :side].mean(), rel=1e-5)
    last = change[(blocks.shape[0] - 1) * side :, (blocks.shape[1] - 1) * side :]
    assert blocks[-1, -1] == pytest.approx(last.mean(), rel=1e-5)
