"""A host of workers: processes on this machine, one for each device that was named."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from .pool import WorkerConfig, WorkerExited, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from ..batch import QueuedImage

_ENDED = (EOFError, OSError)
"""What reading from and writing to a process raises that is no longer there."""


@dataclass
class Processes:
    """One process for each of the `places`.

    Args:
        places: devices.
        orders: tells what a worker does on a device that so many share.
    """

    places: Sequence[str]
    orders: Callable[[str, int], WorkerConfig]

    def hire(self, place: int, tell: Callable[[object], None]) -> _Process:
        """A process that loads torch and the network, which takes it seconds."""
        device = self.places[place]
        sharing = self.places.count(device)
        return _Process(self.orders(device, sharing), sharing, tell)

    def close(self) -> None:
        """Nothing is left when the processes are not."""


class _Process:
    def __init__(self, orders: WorkerConfig, sharing: int, tell: Callable[[object], None]) -> None:
        # Not forked: a fork has only one of torch's threads, and none of CUDA.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, orders, sharing), daemon=True)
        with _deaf():
            self._process.start()
        theirs.close()
        threading.Thread(target=self._listen, args=(tell,), daemon=True).start()

    def _listen(self, tell: Callable[[object], None]) -> None:
        with suppress(*_ENDED):
            while True:
                tell(self._connection.recv())
        self._process.join()
        tell(WorkerExited(_cause(self._process.exitcode or 0)))

    def give(self, item: QueuedImage | None) -> None:
        with suppress(*_ENDED):
            self._connection.send(item)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _cause(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C, which a terminal sends to all, nor SIGTERM.

    They are told to end by this one; should it be gone, their pipe is closed. The signals are
    blocked from the very start, as torch is being imported.
    """
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would be started now, and unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _main(connection: Connection, orders: WorkerConfig, sharing: int) -> None:
    """The process: what is read goes to the worker, and what that yields is written."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // sharing))
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_fill, args=(inbox, connection), daemon=True).start()
    with suppress(*_ENDED):
        for message in work(inbox, orders):
            connection.send(message)


def _fill(inbox: SimpleQueue[Any], connection: Connection) -> None:
    with suppress(*_ENDED):
        while (item := connection.recv()) is not None:
            inbox.put(item)
    inbox.put(None)
