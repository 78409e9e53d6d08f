"""Work in stages that overlap: one thing is written while the next is computed, the third read."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

Item = TypeVar("Item")


@contextmanager
def stage_executor(
    *stages: Callable[[Any], Any], initializer: Callable[[], object] | None = None
) -> Iterator[Callable[[Any], Future[Any]]]:
    """A function that sends an item through the stages, and returns the future of its end.

    Each stage has a thread, takes one item at a time, in their order, and is given what the stage
    before it returned; what one raises, the future raises. Leaving the context drops what no
    stage has begun with, and waits for the rest. `initializer` is called in every thread.
    """
    threads = [ThreadPoolExecutor(1, initializer=initializer) for _ in stages]

    def submit(item: Any) -> Future[Any]:
        future = threads[0].submit(stages[0], item)
        for thread, stage in zip(threads[1:], stages[1:], strict=True):
            future = thread.submit(_after, future, stage)
        return future

    try:
        yield submit
    finally:
        for thread in threads:
            thread.shutdown(cancel_futures=True)


def _after(before: Future[Any], stage: Callable[[Any], Any]) -> Any:
    return stage(before.result())


def run_overlapped(
    items: Iterable[Item],
    *stages: Callable[[Any], Any],
    initializer: Callable[[], object] | None = None,
) -> Generator[tuple[Item, Future[Any]], None, None]:
    """The items in their order, each with the future of what the last stage will have made of it.

    Whoever asks for the next item must have waited for this one's future: then no more items are
    under way than there are stages. Closing the iterator drops what no stage has begun with, and
    waits for the rest.
    """
    under_way: deque[tuple[Item, Future[Any]]] = deque()
    with stage_executor(*stages, initializer=initializer) as submit:
        for item in items:
            under_way.append((item, submit(item)))
            if len(under_way) == len(stages):
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()
