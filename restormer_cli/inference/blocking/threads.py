"""Call a function with many items on all cores of a CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import Any

import torch

from ...memory import is_out_of_memory


@contextmanager
def parallel_map(device: torch.device) -> Iterator[Callable[..., list[Any]]]:
    """Yield a `map` that uses all CPU threads, with one torch thread for each call."""

    def in_this_thread(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [function(item) for item in items]

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield in_this_thread
        return
    pool = _start_threads(threads - 1)
    # PyTorch's own threads would busy-wait on the cores of the pool.
    torch.set_num_threads(1)
    try:
        yield in_this_thread if pool is None else partial(_map_in_threads, pool, threads)
    finally:
        torch.set_num_threads(threads)
        if pool is not None:
            pool.shutdown()


def _map_in_threads(
    pool: ThreadPoolExecutor, threads: int, function: Callable[[Any], Any], items: Sequence[Any]
) -> list[Any]:
    """Call a function with each item, in this thread and in those of a pool.

    A thread that has finished an item takes the next one, which costs less than a future for each.
    After an exception, no more are taken.
    """
    results: list[Any] = [None] * len(items)
    left = deque(enumerate(items))
    # These modes are per thread, and inference tensors can be changed in inference mode only.
    no_grad = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def work() -> None:
        with no_grad():
            while True:
                try:
                    number, item = left.popleft()
                except IndexError:
                    return
                try:
                    results[number] = function(item)
                except BaseException:
                    left.clear()
                    raise

    others = [pool.submit(work) for _ in range(min(threads, len(items)) - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()
    return results


def _start_threads(count: int) -> ThreadPoolExecutor | None:
    """Return a pool whose threads all run, or None if the limits of the process forbid it."""
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    started = Event()
    try:
        for _ in range(count):
            pool.submit(started.wait)  # a busy thread, so that the next call starts another one
    except RuntimeError as error:
        started.set()
        pool.shutdown(cancel_futures=True)
        if not is_out_of_memory(error):
            raise
        return None
    started.set()
    return pool
