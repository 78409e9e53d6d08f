"""Overlapping stages: order, errors and cancellation."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from restormer_cli.batch.pipeline import Stage, run_overlapped, stage_executor
from restormer_cli.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_items_pass_all_stages_in_order() -> None:
    """Each stage receives the result of the previous one."""
    results = run_overlapped(range(5), Stage(lambda n: n + 1), Stage(lambda n: n * 10, 2))
    assert [(item, future.result()) for item, future in results] == [
        (n, (n + 1) * 10) for n in range(5)
    ]


def test_two_threads_of_a_stage_work_at_a_time() -> None:
    """A stage with two threads takes two items at a time, and the results keep their order."""
    together = threading.Barrier(2, timeout=60)

    def meet(n: int) -> int:
        together.wait()
        return n

    results = run_overlapped(range(6), Stage(lambda n: n), Stage(meet, 2))
    assert [future.result() for _, future in results] == list(range(6))


def test_no_item_is_started_after_a_stop() -> None:
    """No further item is taken, which might wait for a pipe; those in progress are yielded."""
    taken, stop = [], threading.Event()

    def items() -> Iterator[int]:
        for n in range(9):
            taken.append(n)
            yield n

    stages = Stage(lambda n: n), Stage(lambda n: n)
    results = run_overlapped(items(), *stages, stopped=stop.is_set)
    yielded = [next(results)[0]]
    stop.set()
    yielded.extend(item for item, _ in results)
    assert yielded == taken == [0, 1]


def test_an_error_of_a_stage_concerns_one_item() -> None:
    """The future raises it, and later items go on."""
    with stage_executor(Stage(lambda n: 1 // n), Stage(lambda n: n + 1)) as submit:
        futures = [submit(n) for n in (0, 1)]
        with pytest.raises(ZeroDivisionError):
            futures[0].result()
        assert futures[1].result() == 2


def test_an_error_that_is_kept_holds_nothing() -> None:
    """What a failed item held is freed, although its future keeps the error."""
    held: list[weakref.ref[Content]] = []

    class Content:
        """Something large."""

    def read(_: int) -> Content:
        content = Content()
        held.append(weakref.ref(content))
        return content

    def fail(content: Content) -> None:
        raise ImageError("no memory")

    gc.disable()
    try:
        with stage_executor(Stage(read), Stage(fail)) as submit:
            future = submit(0)
            with pytest.raises(ImageError, match="no memory"):
                future.result()
            assert held[0]() is None
    finally:
        gc.enable()


def test_a_thread_that_cannot_start_is_an_error_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on memory also limits the stacks of threads."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with (
        pytest.raises(ImageError, match="not enough memory to start a thread"),
        stage_executor(Stage(lambda n: n)),
    ):
        pass


def test_leaving_waits_for_stages_that_have_begun() -> None:
    """Stages that have not begun are cancelled."""
    begun, release, finished = threading.Event(), threading.Event(), []

    def stage(n: int) -> None:
        begun.set()
        release.wait(10)
        finished.append(n)

    with stage_executor(Stage(stage)) as submit:
        futures = [submit(n) for n in range(3)]
        begun.wait(10)
        threading.Timer(0.05, release.set).start()
    assert finished == [0]
    assert [future.cancelled() for future in futures] == [False, True, True]
