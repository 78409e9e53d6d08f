"""Workers as processes on this machine, one for each named device."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from .. import inference
from ..checkpoints import TASKS
from ..memory import save_address_space
from .worker import Message, WorkerConfig, WorkerExited, run_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from ..batch import QueuedImage
    from ..callbacks import Notify
    from .worker import Send

_CLOSED = (EOFError, OSError)  # errors of a connection whose other end is closed


@dataclass
class ProcessLauncher:
    """Starts a process for each device.

    Args:
        devices: device of each worker; workers may share one.
        config: configuration of the workers.
        notify: called with a sentence if other weights are used than those requested.
    """

    devices: Sequence[str]
    config: WorkerConfig
    notify: Notify

    @cached_property
    def _resolved_config(self) -> WorkerConfig:
        """The configuration with its checkpoint resolved once, for all workers."""
        from ..checkpoints import resolve_checkpoint  # the Hub's client is slow to import

        restorer = self.config.restorer
        if not isinstance(restorer.weights, str):
            return self.config
        weights = resolve_checkpoint(
            restorer.weights, restorer.checkpoint, TASKS[restorer.task], notify=self.notify
        )
        return replace(self.config, restorer=replace(restorer, weights=weights))

    def start_worker(self, index: int, send: Send) -> _Process:
        """Start a process, which takes seconds to load torch and the network."""
        device = self.devices[index]
        sharing = sum(_same_device(device, other) for other in self.devices)
        return _Process(self._resolved_config.for_device(device, sharing), send)

    def check_unused(self, devices: Sequence[str]) -> None:
        """Raise DeviceError unless devices that get no worker are available, too."""
        check_devices(devices)

    def close(self) -> None:
        """Do nothing: the processes hold all resources."""


def check_devices(names: Sequence[str]) -> None:
    """Raise DeviceError unless all devices are available on this machine."""
    for name in names:  # without names, PyTorch is not imported
        inference.choose_device(name)


def _same_device(a: str, b: str) -> bool:
    """Compare the names of devices: "cuda" is "cuda:0"."""
    return a.removesuffix(":0") == b.removesuffix(":0")


class _Process:
    def __init__(self, config: WorkerConfig, send: Send) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would lack torch's threads and CUDA
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_main, args=(remote, config), daemon=True)
        with _signals_blocked():
            self._process.start()
        remote.close()
        threading.Thread(target=self._listen, args=(send,), daemon=True).start()

    def _listen(self, send: Send) -> None:
        with suppress(*_CLOSED):
            while True:
                send(self._connection.recv())
        self._process.join()
        send(WorkerExited(_cause(self._process.exitcode or 0)))

    def give(self, image: QueuedImage | None) -> None:
        with suppress(*_CLOSED):
            self._connection.send(image)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _cause(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGTERM, and SIGINT, which Ctrl-C sends to all processes of a terminal.

    Processes started in this context inherit the mask, so it applies even while they import torch.
    The parent stops them. If it dies, its end of their pipes closes, and they stop.
    """
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise it would start later and unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _main(connection: Connection, config: WorkerConfig) -> None:
    import torch

    save_address_space()
    torch.set_num_threads(max(1, torch.get_num_threads() // config.restorer.sharing))
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock, suppress(*_CLOSED):
            connection.send(message)

    def requests() -> Iterator[QueuedImage]:
        with suppress(*_CLOSED):
            yield from iter(connection.recv, None)

    run_worker(requests(), config, send)
