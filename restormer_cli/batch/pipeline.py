"""Overlapping stages: while one item is written, the next is computed and another is read."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ImageError
from ..memory import MemoryGuard, release

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

Item = TypeVar("Item")


@contextmanager
def stage_executor(
    *stages: Callable[[Any], Any], initializer: Callable[[], object] | None = None
) -> Iterator[Callable[[Any], Future[Any]]]:
    """Provide a function that submits an item and returns the future of its last stage.

    Each stage runs in one thread, on one item at a time, in the order of submission. It receives
    the result of the previous stage. The future raises the error of any stage. Leaving the context
    cancels stages that have not started, and waits for the others.

    Args:
        stages: functions of one argument.
        initializer: called in every thread.
    """
    threads = [ThreadPoolExecutor(1, initializer=initializer) for _ in stages]

    def run(stage: Callable[[Any], Any], before: Future[Any]) -> Any:
        try:
            return stage(before.result())
        except ImageError as error:
            # The future keeps the error while the next items are processed.
            release(error)
            del before
            raise

    def submit(item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(item)
        for thread, stage in zip(threads, stages, strict=True):
            future = thread.submit(run, stage, future)
        return future

    try:
        with MemoryGuard("to start a thread"):
            for thread in threads:
                thread.submit(int)  # a thread starts when it is first used
        yield submit
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)


def run_overlapped(
    items: Iterable[Item],
    *stages: Callable[[Any], Any],
    initializer: Callable[[], object] | None = None,
) -> Generator[tuple[Item, Future[Any]], None, None]:
    """Yield the items in order, each with the future of its last stage; see `stage_executor`.

    At most as many items are in progress as there are stages, provided that the consumer waits for
    each future before it asks for the next item.
    """
    pending: deque[tuple[Item, Future[Any]]] = deque()
    with stage_executor(*stages, initializer=initializer) as submit:
        for item in items:
            pending.append((item, submit(item)))
            if len(pending) == len(stages):
                yield pending.popleft()
        while pending:
            yield pending.popleft()  # which keeps no reference to its result
