"""Overlapping stages: order, errors and cancellation."""

from __future__ import annotations

import threading

import pytest

from restormer_cli.batch.pipeline import run_overlapped, stage_executor


def test_items_pass_all_stages_in_order() -> None:
    """Each stage receives the result of the previous one."""
    results = run_overlapped(range(5), lambda n: n + 1, lambda n: n * 10)
    assert [(item, future.result()) for item, future in results] == [
        (n, (n + 1) * 10) for n in range(5)
    ]


def test_an_error_of_a_stage_concerns_one_item() -> None:
    """The future raises it, and later items go on."""
    with stage_executor(lambda n: 1 // n, lambda n: n + 1) as submit:
        futures = [submit(n) for n in (0, 1)]
        with pytest.raises(ZeroDivisionError):
            futures[0].result()
        assert futures[1].result() == 2


def test_leaving_waits_for_stages_that_have_begun() -> None:
    """Stages that have not begun are cancelled."""
    begun, release, finished = threading.Event(), threading.Event(), []

    def stage(n: int) -> None:
        begun.set()
        release.wait(10)
        finished.append(n)

    with stage_executor(stage) as submit:
        futures = [submit(n) for n in range(3)]
        begun.wait(10)
        threading.Timer(0.05, release.set).start()
    assert finished == [0]
    assert [future.cancelled() for future in futures] == [False, True, True]
