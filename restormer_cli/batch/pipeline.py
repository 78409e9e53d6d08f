"""Overlapping stages: while one item is written, the next is computed and another is read."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ImageError
from ..memory import MemoryGuard, release

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

Item = TypeVar("Item")


class Stage(NamedTuple):
    """A function of one argument, and the number of threads that call it."""

    function: Callable[[Any], Any]
    threads: int = 1


@contextmanager
def stage_executor(
    *stages: Stage, initializer: Callable[[], object] | None = None
) -> Iterator[Callable[[Any], Future[Any]]]:
    """Provide a function that submits an item and returns the future of its last stage.

    A stage takes the items in the order of submission. It receives the result of the previous
    stage. The future raises the error of any stage. Leaving the context cancels stages that have
    not started, and waits for the others.

    Args:
        stages: what is done with each item.
        initializer: called in every thread.
    """
    all_started = Event()
    pools = [ThreadPoolExecutor(stage.threads, initializer=initializer) for stage in stages]

    def run(stage: Stage, before: Future[Any]) -> Any:
        try:
            return stage.function(before.result())
        except ImageError as error:
            # The future keeps the error while the next items are processed.
            release(error)
            del before
            raise

    def submit(item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(item)
        for pool, stage in zip(pools, stages, strict=True):
            future = pool.submit(run, stage, future)
        return future

    try:
        with MemoryGuard("to start a thread"):
            for pool, stage in zip(pools, stages, strict=True):
                for _ in range(stage.threads):
                    # A busy thread, so that the next call starts another one.
                    pool.submit(all_started.wait)
        all_started.set()
        yield submit
    finally:
        all_started.set()
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def run_overlapped(
    items: Iterable[Item],
    *stages: Stage,
    initializer: Callable[[], object] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[tuple[Item, Future[Any]], None, None]:
    """Yield the items in order, each with the future of its last stage; see `stage_executor`.

    At most as many items are in progress as the stages have threads, provided that the consumer
    waits for each future before it asks for the next item. After `stopped`, no item is taken.
    """
    limit = sum(stage.threads for stage in stages)
    pending: deque[tuple[Item, Future[Any]]] = deque()
    with stage_executor(*stages, initializer=initializer) as submit:
        for item in items:
            pending.append((item, submit(item)))
            if len(pending) == limit:
                yield pending.popleft()
                if stopped():
                    break
        while pending:
            yield pending.popleft()  # which keeps no reference to its result
