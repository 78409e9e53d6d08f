"""Test positions of tiles and the blending of their results."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from restormer_cli.inference.engine import blend_weights, starts, tiled

sides = st.integers(1, 200)
tiles = st.integers(2, 96)


@st.composite
def tile_and_overlap(draw: st.DrawFn) -> tuple[int, int]:
    tile = draw(tiles)
    return tile, draw(st.integers(0, tile - 1))


@given(sides, tile_and_overlap())
def test_tiles_cover_the_axis_evenly(length: int, size: tuple[int, int]) -> None:
    """Tiles cover the axis in equal steps and share at least the given overlap."""
    tile, overlap = size
    begins = starts(length, tile, overlap)
    assert begins[0] == 0
    assert begins[-1] + min(tile, length) == length
    steps = [b - a for a, b in pairwise(begins)]
    assert all(0 < step <= tile - overlap for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


@given(sides, tile_and_overlap())
def test_weights_sum_to_one_everywhere(length: int, size: tuple[int, int]) -> None:
    """The weights of tiles are not negative and sum to one at every pixel of an axis."""
    tile, overlap = size
    total = torch.zeros(length)
    for begin, row in zip(
        starts(length, tile, overlap), blend_weights(length, tile, overlap), strict=True
    ):
        assert (row >= 0).all()
        total[begin : begin + len(row)] += row
    assert torch.allclose(total, torch.ones(length), atol=1e-6)


@given(st.integers(1, 90), st.integers(1, 90), tile_and_overlap(), st.integers(1, 5))
def test_identity_on_tiles_returns_the_image(
    height: int, width: int, size: tuple[int, int], batch: int
) -> None:
    """Tiles of an identity return the image, for any size, tile, overlap and batch."""
    x = torch.rand(2, 3, height, width)
    y = tiled(x, lambda t: t, tile=size[0], overlap=size[1], batch=batch)
    assert (y - x).abs().max() <= 1e-6


def test_blending_is_smooth() -> None:
    """If two tiles differ by one, the result has no jump between them."""
    values = iter([0.0, 1.0])
    x = torch.zeros(1, 1, 64, 112)
    y = tiled(x, lambda t: torch.full_like(t, next(values)), tile=64, overlap=16)
    row = y[0, 0, 0]
    assert row[0] == 0
    assert row[-1] == 1
    assert (row[1:] - row[:-1]).max() < 0.1  # a raised cosine over 16 pixels


def test_progress_counts_tiles() -> None:
    """Progress is reported after each batch, up to the number of tiles."""
    reports: list[tuple[int, int]] = []
    tiled(
        torch.rand(1, 1, 40, 40),
        lambda t: t,
        tile=16,
        overlap=4,
        batch=4,
        progress=lambda *report: reports.append(report),
    )
    assert reports == [(4, 9), (8, 9), (9, 9)]
