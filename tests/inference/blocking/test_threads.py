"""Test that all threads of a CPU take part."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from restormer_cli.inference.blocking import parallel_map


def test_threads_share_the_items_and_keep_their_order():
    """All threads take items, this one too, and results are in the order of the items."""
    torch.set_num_threads(3)
    try:
        together = threading.Barrier(3, timeout=30)
        with parallel_map(torch.device("cpu")) as map_blocks:

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
            parallel_map(torch.device("cpu")) as map_blocks,
            pytest.raises(IndexError, match=str(bad)),
        ):
            map_blocks(fail, range(1000))
    finally:
        torch.set_num_threads(1)
    assert len(taken) < 1000
