"""Test the division of feature maps into strips and blocks."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.inference import blocking


@settings(max_examples=60)
@given(
    channels=st.sampled_from([1, 3, 16, 48, 96, 192, 384]),
    height=st.integers(1, 8).map(lambda n: 8 * n),
    width=st.integers(1, 900).map(lambda n: 8 * n),
    threads=st.integers(1, 96),
    itemsize=st.sampled_from([2, 4]),
)
def test_blocks_are_even_and_fit_the_cache(channels, height, width, threads, itemsize):
    """Blocks for a CPU have even sides and fit the cache, and a strip has whole rows of them."""
    shape = blocking.block_shape_on_cpu(threads, itemsize, channels, height, width)
    assert shape.rows % 2 == shape.columns % 2 == 0
    assert shape.strip % shape.rows == 0
    assert shape.rows * shape.columns * channels * itemsize <= 2 * blocking.BLOCK_BYTES


def test_threads_share_the_items_and_keep_their_order():
    """All threads take items, this one too, and results are in the order of the items."""
    torch.set_num_threads(3)
    try:
        together = threading.Barrier(3, timeout=30)
        with blocking.parallel_map(torch.device("cpu")) as map_blocks:

            def meet(n):
                together.wait()
                return n, threading.get_ident()

            numbers = map_blocks(meet, range(3))
            assert map_blocks(str, range(50)) == [str(n) for n in range(50)]
    finally:
        torch.set_num_threads(1)
    assert [n for n, _ in numbers] == [0, 1, 2]
    assert len({thread for _, thread in numbers}) == 3
    assert threading.get_ident() in [thread for _, thread in numbers]


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_after_an_error_no_more_items_are_taken(bad):
    """It is raised when the other threads have finished their items."""
    taken, together = [], threading.Barrier(2, timeout=30)

    def fail(n):
        taken.append(n)
        if n < 2:
            together.wait()
        if n == bad:
            raise IndexError(n)
        time.sleep(0.001)

    torch.set_num_threads(2)
    try:
        with (
            blocking.parallel_map(torch.device("cpu")) as map_blocks,
            pytest.raises(IndexError, match=str(bad)),
        ):
            map_blocks(fail, range(1000))
    finally:
        torch.set_num_threads(1)
    assert len(taken) < 1000
