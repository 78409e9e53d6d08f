"""The mean over flips and rotations: exact, bounded, and right for two views side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from restormer_cli.batch import manifest
from restormer_cli.inference import engine, ensemble
from restormer_cli.inference.restorer import Restorer
from tests.support.networks import tiny_network
from tests.support.program import Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ONE = tiny_network()
TWO = tiny_network(in_channels=6, dual_pixel=True)


@pytest.mark.parametrize("network", [ONE, TWO], ids=["one view", "two views"])
def test_what_is_turned_is_turned_back(network) -> None:
    """Every orientation is another one, and its second half undoes the first on the result."""
    x = torch.rand(2, network.architecture.in_channels, 5, 7)
    over = ensemble.orientations(network.architecture)
    left = x[:, :3]
    seen = set()
    for turn, back in over:
        turned = turn(x)
        seen.add((turned.shape, tuple(turned.flatten().tolist())))
        views = turned.split(3, dim=1)  # of two, one is the left view, wherever it went
        assert any(torch.equal(back(view), left) for view in views)
    assert len(seen) == len(over) == (4 if network is TWO else 8)


def test_a_mirrored_pair_has_its_views_exchanged() -> None:
    """Mirrored left to right, the right view is the left one; upside down each stays itself."""
    left, right = torch.rand(2, 1, 3, 4, 6)
    wanted = [
        torch.cat([left, right], 1),
        torch.cat([right, left], 1).flip(3),
        torch.cat([right, left], 1).flip(2, 3),
        torch.cat([left, right], 1).flip(2),
    ]
    turned = [turn(wanted[0]) for turn, _ in ensemble.orientations(TWO.architecture)]
    for a, b in zip(turned, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("tile", [None, 16])
def test_the_result_is_the_mean_of_all_orientations(tile: int | None) -> None:
    """By hand, one after the other: what comes of turning, restoring and turning back."""
    x = 0.4 + 0.2 * torch.rand(1, 3, 24, 32)  # far from what is clamped

    def turned(x: Tensor, k: int, mirror: bool) -> Tensor:
        y = torch.rot90(x, k, (2, 3))
        return y.flip(3) if mirror else y

    def one(k: int, mirror: bool) -> Tensor:
        y = turned(x, k, mirror).contiguous()
        y = engine.restore(ONE, y, tile=tile, overlap=8)
        return torch.rot90(y.flip(3) if mirror else y, -k, (2, 3))

    by_hand = torch.stack([one(k, mirror) for k in range(4) for mirror in (False, True)])
    mean = engine.restore(ONE, x, tile=tile, overlap=8, ensemble=True)
    # Tiles lie symmetrically here, so that turning them or the image is one.
    torch.testing.assert_close(mean, by_hand.mean(0), atol=1e-6, rtol=0)
    assert not torch.allclose(mean, by_hand[0], atol=1e-4)


def test_where_all_agree_the_mean_is_theirs() -> None:
    """Bit for bit, for values that no division by eight would leave as they are."""
    x = torch.rand(1, 3, 8, 16) / 3
    mean = ensemble.ensembled(lambda x, _=None: x, ensemble.orientations(ONE.architecture))(x)
    assert torch.equal(mean, x)


def test_progress_is_that_of_all_orientations() -> None:
    """It rises to its total once, over all of them."""
    seen: list[tuple[int, int]] = []
    x = torch.rand(1, 3, 24, 32)
    engine.restore(ONE, x, ensemble=True, progress=lambda *told: seen.append(told))
    done, totals = zip(*seen, strict=True)
    assert list(done) == list(range(1, totals[0] + 1))
    assert set(totals) == {totals[0]}


def test_two_views_are_averaged_over_four(folder: Path, tiny: Callable[..., Path]) -> None:
    """Exchanging the views of a mirrored pair gives the mirrored result: nothing is left or right.

    Of the plain network that is not so, which shows that the ensemble makes it so.
    """
    weights = str(tiny("dual.pth", in_channels=6, dual_pixel=True))
    left, right = picture("l.png", (16, 24, 3)), picture("r.png", (16, 24, 3), seed=1)
    for whether in (False, True):
        restorer = Restorer(
            "defocus",
            weights=weights,
            device="cpu",
            precision="fp32",
            dual_pixel=True,
            ensemble=whether,
        )
        one = restorer.forward(left / np.float32(255), right, notify=print)[0]
        mirrored = restorer.forward(right[:, ::-1] / np.float32(255), left[:, ::-1], notify=print)
        assert np.allclose(mirrored[0][:, ::-1], one, atol=1e-5) == whether
        assert restorer.plan(16, 24).orientations == (4 if whether else 1)


@pytest.mark.usefixtures("folder")
def test_the_option_is_told_and_recorded(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """The result differs, the event and the plan say so, and so does the record."""
    picture("f/a.png", (24, 24, 3))
    command = ("denoise", "f", "--weights", tiny(), "--device", "cpu", "--json")
    plain = restormer(*command, "-o", "plain").events[-2]
    told = restormer(*command, "-o", "mean", "--ensemble").events[-2]
    assert (plain["orientations"], plain["strategy"]) == (1, "whole")
    assert (told["orientations"], told["strategy"]) == (8, "whole, mean of 8")
    assert not np.array_equal(pixels("plain/a.png"), pixels("mean/a.png"))
    line = json.loads((Path("mean") / manifest.NAME).read_text())
    assert line["recipe"]["options"]["ensemble"] is True
    again = restormer(*command, "-o", "mean", "--ensemble", "--skip-existing")
    assert again.events[-1]["skipped"] == 1
    assert restormer(*command, "-o", "mean", "--skip-existing").events[-1]["restored"] == 1


def test_the_plan_counts_what_a_mean_takes(identity: Callable[..., Path]) -> None:
    """Beside one run's memory, a turned image of three channels and two results; 8 runs' work."""
    plans = [
        Restorer("denoise", weights=str(identity()), device="cpu", ensemble=whether).plan(64, 96)
        for whether in (False, True)
    ]
    assert plans[1].peak_bytes - plans[0].peak_bytes == 4 * 9 * 64 * 96
    assert plans[1].pixels == 8 * plans[0].pixels
