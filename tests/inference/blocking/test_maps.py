"""Test feature maps that move to the free rows beside them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restormer_cli.inference.blocking import (
    BlockShape,
    Part,
    Region,
    StripRunner,
    empty_beside,
    empty_group,
)
from restormer_cli.inference.blocking.maps import free_rows


def runner(strip: int) -> StripRunner:
    return StripRunner(lambda *_: BlockShape(strip, 2, 4), lambda f, x: [*map(f, x)], None, 0)


def sum_of_neighbours(result: Part, source: Part, region: Region) -> None:
    """Write the sum of five rows, of those that exist, for a region of a map."""
    rows = source.block(region.expanded(2))[:, :, 2:-2]
    count = region.bottom - region.top
    for target in result.crop(region):
        target.copy_(sum(rows[:, i : i + count, :, : target.shape[-1]] for i in range(5)))


@given(
    height=st.integers(1, 20),
    strip=st.sampled_from([2, 4, 6]),
    extra=st.integers(0, 3),
    times=st.integers(1, 4),
)
def test_nothing_is_overwritten_before_it_is_read(height, strip, extra, times):
    """A map with room for a strip and its halo moves to and fro; every row is that of a copy."""
    room = min(strip, height) + 2 + extra
    x = [empty_group((2, height, 5, 3), room, torch.float32, torch.device("cpu"))]
    expected = torch.rand(2, height, 5, 3)
    x[0].copy_(expected)
    for time in range(times):
        assert runner(strip).move(x, sum_of_neighbours, 2)
        padded = torch.nn.functional.pad(expected, (0, 0, 0, 0, 2, 2))
        expected = sum(padded[:, i : i + height] for i in range(5))
        assert free_rows(x[0]) == (room if time % 2 else -room)
        torch.testing.assert_close(x[0], expected)


@pytest.mark.parametrize("room", [0, 5])
def test_a_map_without_enough_room_stays(room):
    """With too few free rows for a strip of four and its halo, nothing is done."""
    x = [empty_group((1, 8, 4, 3), room, torch.float32, torch.device("cpu")).fill_(1)]
    before = x[0]
    assert not runner(4).move(x, sum_of_neighbours, 2)
    assert x[0] is before
    assert (before == 1).all()


def test_groups_move_in_one_direction():
    """A group beside another one has its free rows on the same side; otherwise, both stay."""
    first = empty_group((1, 8, 4, 3), 6, torch.float32, torch.device("cpu"))
    moving = [first]
    assert runner(4).move(moving, sum_of_neighbours, 2)
    assert free_rows(empty_beside(moving[0])) == free_rows(moving[0]) == -6
    assert not runner(4).move([empty_beside(first), moving[0]], sum_of_neighbours, 2)
