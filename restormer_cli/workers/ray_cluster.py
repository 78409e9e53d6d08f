"""A host of workers: actors on a Ray cluster, one for each GPU or for a share of the processors."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..batch import ImageProgress
from ..errors import DeviceError, UsageError
from .pool import WorkerConfig, WorkerExited, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..batch import QueuedImage

LOCAL = "local"
"""The address of a cluster that is started on this machine for the run, and ends with it."""

SHARE = 4
"""Processors for each worker where there are no GPUs, and no devices are named."""


@dataclass
class Cluster:
    """Ray at an address; without a device's name, its free GPUs or else processors are taken.

    Args:
        address: as Ray takes it, or LOCAL.
        devices: what the options name.
        orders: tells what a worker does on a device of which so many are.
    """

    address: str
    devices: Sequence[str]
    orders: Callable[[str, int], WorkerConfig]

    @cached_property
    def places(self) -> list[str]:
        """The devices, for which the cluster has to be there."""
        free = _ray(self.address).available_resources()
        gpus, processors = (int(free.get(kind, 0)) for kind in ("GPU", "CPU"))
        places = [device.partition(":")[0] for device in self.devices]
        if places == ["auto"]:
            shares = sum(max(count // SHARE, 1) for count in self._processors())
            places = ["cuda"] * gpus or ["cpu"] * min(shares, processors)
        wanted = Counter(places)
        if not places or wanted["cuda"] > gpus or wanted["cpu"] > processors:
            raise DeviceError(
                f"the Ray cluster has {gpus} GPUs and {processors} processors free, which is too "
                "little",
                "Name fewer with --device, or wait until it is less busy.",
            )
        return places

    def _processors(self) -> list[int]:
        """How many each machine has, of those that have any."""
        import ray

        counts = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        return [count for count in counts if count]

    @cached_property
    def _share(self) -> int:
        """The most processors that every worker can have, none being spread over two machines."""
        counts, wanted = self._processors(), self.places.count("cpu")
        shares = range(max(counts), 0, -1)
        return next((n for n in shares if sum(count // n for count in counts) >= wanted), 1)

    def hire(self, place: int, tell: Callable[[object], None]) -> _Actor:
        """An actor; where its worker has to wait for resources, so does the run."""
        device = self.places[place]
        takes = {"num_cpus": 1, "num_gpus": 1} if device == "cuda" else {"num_cpus": self._share}
        # Ray gives a GPU to one alone; of a machine's memory each has its part.
        together = min(self.places.count("cpu"), max(self._processors()) // self._share)
        return _Actor(self.orders(device, 1 if device == "cuda" else together), takes, tell)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray = sys.modules.get("ray")
        if ray is not None:
            ray.shutdown()


def _ray(address: str) -> Any:
    """Ray, connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # which would tell its makers of it
    if address == LOCAL:
        # What Ray calls so makes it listen on the loopback interface alone, on any system.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    before = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        import ray

        dashboard = False if address == LOCAL else None
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard
        )
    except ImportError as error:
        raise UsageError(
            f"--ray needs Ray ({error})", "Install it: pip install 'restormer-cli[ray]'"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"there is no Ray cluster at {address} ({cause})",
            "Say HOST:PORT, ray://HOST:PORT, auto, or local for one on this machine.",
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own there
    return ray


class _Actor:
    """A worker on the cluster, as seen from here."""

    def __init__(
        self, orders: WorkerConfig, takes: dict[str, int], tell: Callable[[object], None]
    ) -> None:
        import ray

        remote = ray.remote(RayWorker).options(max_concurrency=2, **takes)
        self._actor = remote.remote(str(Path.cwd()))
        stream = self._actor.work.options(num_returns="streaming").remote(orders)
        self._listener = threading.Thread(target=self._listen, args=(stream, tell), daemon=True)
        self._listener.start()

    def _listen(self, stream: Any, tell: Callable[[object], None]) -> None:
        import ray

        cause = "it ended"
        try:
            for message in stream:
                tell(ray.get(message))
        except ray.exceptions.RayActorError:
            cause = "its actor died"
        except ray.exceptions.RayError as error:
            cause = str(error).strip().splitlines()[-1]
        tell(WorkerExited(cause))

    def give(self, item: QueuedImage | None) -> None:
        self._actor.give.remote(item)

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)
        self._listener.join()


class RayWorker:
    """The worker itself, as `ps` and Ray call it; two of its methods run at once."""

    def __init__(self, folder: str) -> None:
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        with suppress(OSError):  # then the images that are named relative to it will be missing
            os.chdir(folder)

    def give(self, item: QueuedImage | None) -> None:
        """Called while `work` goes on."""
        self._inbox.put(item)

    def work(self, orders: WorkerConfig) -> Iterator[Any]:
        """What it has to tell, but how far an image is: that would be a message for every strip."""
        for message in work(self._inbox, orders):
            if not isinstance(message, ImageProgress):
                yield message
