"""Test the mean over flips and rotations, for one view and for two."""

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
def test_orientations_are_inverted(network) -> None:
    """Orientations differ, and `back` inverts `turn` on the left view."""
    x = torch.rand(2, network.architecture.in_channels, 5, 7)
    over = ensemble.orientations(network.architecture)
    left = x[:, :3]
    seen = set()
    for orientation in over:
        turned = orientation.turn(x)
        seen.add((turned.shape, tuple(turned.flatten().tolist())))
        views = turned.split(3, dim=1)  # either may be the left one now
        assert any(torch.equal(orientation.back(view), left) for view in views)
    assert len(seen) == len(over) == (4 if network is TWO else 8)


def test_a_mirrored_pair_has_its_views_exchanged() -> None:
    """A horizontal flip exchanges the views; a vertical flip does not."""
    left, right = torch.rand(2, 1, 3, 4, 6)
    expected = [
        torch.cat([left, right], 1),
        torch.cat([right, left], 1).flip(3),
        torch.cat([right, left], 1).flip(2, 3),
        torch.cat([left, right], 1).flip(2),
    ]
    turned = [o.turn(expected[0]) for o in ensemble.orientations(TWO.architecture)]
    for a, b in zip(turned, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("tile", [None, 16])
def test_the_result_is_the_mean_of_all_orientations(tile: int | None) -> None:
    """The result is the mean of images that were turned, restored and turned back one by one."""
    x = 0.4 + 0.2 * torch.rand(1, 3, 24, 32)  # results are not clamped

    def turned(x: Tensor, k: int, mirror: bool) -> Tensor:
        y = torch.rot90(x, k, (2, 3))
        return y.flip(3) if mirror else y

    def restored(k: int, mirror: bool) -> Tensor:
        y = turned(x, k, mirror).contiguous()
        y = engine.restore(ONE, y, tile=tile, overlap=8)
        return torch.rot90(y.flip(3) if mirror else y, -k, (2, 3))

    by_hand = torch.stack([restored(k, mirror) for k in range(4) for mirror in (False, True)])
    mean = engine.restore(ONE, x, tile=tile, overlap=8, ensemble=True)
    # The tiles are symmetric here, so turning each tile is equivalent to turning the image.
    torch.testing.assert_close(mean, by_hand.mean(0), atol=1e-6, rtol=0)
    assert not torch.allclose(mean, by_hand[0], atol=1e-4)


def test_mean_of_equal_results_is_exact() -> None:
    """The mean of equal results is exact, even if a division by eight would not be."""
    x = torch.rand(1, 3, 8, 16) / 3
    mean = ensemble.ensembled(lambda x, _: x, ensemble.orientations(ONE.architecture))(x, None)
    assert torch.equal(mean, x)


def test_progress_spans_all_orientations() -> None:
    """Progress covers all orientations and reaches its total once."""
    reports: list[tuple[int, int]] = []
    x = torch.rand(1, 3, 24, 32)
    engine.restore(ONE, x, ensemble=True, progress=lambda *report: reports.append(report))
    done, totals = zip(*reports, strict=True)
    assert list(done) == list(range(1, totals[0] + 1))
    assert set(totals) == {totals[0]}


def test_two_views_are_averaged_over_four(folder: Path, tiny: Callable[..., Path]) -> None:
    """Only with the ensemble does a mirrored pair give the mirrored result."""
    weights = str(tiny("dual.pth", in_channels=6, dual_pixel=True))
    left, right = picture("l.png", (16, 24, 3)), picture("r.png", (16, 24, 3), seed=1)
    for averaged in (False, True):
        restorer = Restorer(
            "defocus",
            weights=weights,
            device="cpu",
            precision="fp32",
            dual_pixel=True,
            ensemble=averaged,
        )
        result = restorer.forward(left / np.float32(255), right).pixels
        mirrored = restorer.forward(right[:, ::-1] / np.float32(255), left[:, ::-1]).pixels
        assert np.allclose(mirrored[:, ::-1], result, atol=1e-5) == averaged
        assert restorer.plan(16, 24).orientations == (4 if averaged else 1)


@pytest.mark.usefixtures("folder")
def test_the_option_is_reported_and_recorded(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """The result differs, and the event, the plan and the manifest contain the option."""
    picture("f/a.png", (24, 24, 3))
    command = ("denoise", "f", "--weights", tiny(), "--device", "cpu", "--json")
    plain = restormer(*command, "-o", "plain").events[-2]
    mean = restormer(*command, "-o", "mean", "--ensemble").events[-2]
    assert (plain["orientations"], plain["strategy"]) == (1, "whole")
    assert (mean["orientations"], mean["strategy"]) == (8, "whole, mean of 8")
    assert not np.array_equal(pixels("plain/a.png"), pixels("mean/a.png"))
    line = json.loads((Path("mean") / manifest.NAME).read_text())
    assert line["recipe"]["options"]["ensemble"] is True
    again = restormer(*command, "-o", "mean", "--ensemble", "--skip-existing")
    assert again.events[-1]["skipped"] == 1
    assert restormer(*command, "-o", "mean", "--skip-existing").events[-1]["restored"] == 1


def test_the_plan_includes_the_ensemble(identity: Callable[..., Path]) -> None:
    """An ensemble needs memory for a turned image and two results, and takes 8 times the work."""
    plans = [
        Restorer("denoise", weights=str(identity()), device="cpu", ensemble=averaged).plan(64, 96)
        for averaged in (False, True)
    ]
    assert plans[1].peak_bytes - plans[0].peak_bytes == 4 * 9 * 64 * 96
    assert plans[1].pixels == 8 * plans[0].pixels
