"""Workers as actors on a Ray cluster, one for each GPU or for a share of the processors."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..batch import ImageProgress
from ..errors import DeviceError
from ..extras import missing
from ..text import first_line
from .worker import Message, WorkerConfig, WorkerExited, run_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..batch import QueuedImage
    from .worker import Send

LOCAL = "local"  # address of a cluster that is started on this machine for the run only
PROCESSORS_PER_WORKER = 4  # if no devices are named and there are no GPUs


@dataclass
class RayLauncher:
    """Starts actors on a Ray cluster.

    Args:
        address: address of the cluster in Ray's syntax, or LOCAL.
        names: devices; with "auto", the free GPUs of the cluster, or else its processors.
        config: configuration of the workers.
    """

    address: str
    names: Sequence[str]
    config: WorkerConfig

    @cached_property
    def devices(self) -> list[str]:
        """The device of each worker; connects to the cluster."""
        free = _connect(self.address).available_resources()
        gpus, processors = (int(free.get(kind, 0)) for kind in ("GPU", "CPU"))
        devices = [name.partition(":")[0] for name in self.names]
        if devices == ["auto"]:
            shares = sum(max(count // PROCESSORS_PER_WORKER, 1) for count in self._processors())
            devices = ["cuda"] * gpus or ["cpu"] * min(shares, processors)
        needed = Counter(devices)
        if not devices or needed["cuda"] > gpus or needed["cpu"] > processors:
            raise DeviceError(
                f"the Ray cluster has only {gpus} GPUs and {processors} processors free",
                "Name fewer devices with --device, or wait until the cluster is less busy.",
            )
        return devices

    @cached_property
    def processors_per_worker(self) -> int:
        """Maximum number of processors that every worker can have on one machine."""
        counts, workers = self._processors(), self.devices.count("cpu")
        shares = range(max(counts), 0, -1)
        return next((n for n in shares if sum(count // n for count in counts) >= workers), 1)

    def _processors(self) -> list[int]:
        """Return the number of processors of each machine that has any."""
        import ray

        counts = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        return [count for count in counts if count]

    def start_worker(self, index: int, send: Send) -> _Actor:
        """Start an actor, which waits until its resources are free."""
        device = self.devices[index]
        if device == "cuda":  # Ray assigns each GPU to one actor
            return _Actor(self.config.for_device(device, 1), {"num_cpus": 1, "num_gpus": 1}, send)
        count = self.processors_per_worker
        sharing = min(self.devices.count("cpu"), max(self._processors()) // count)
        return _Actor(self.config.for_device(device, sharing), {"num_cpus": count}, send)

    def check_unused(self, devices: Sequence[str]) -> None:
        """Do nothing: `devices` was compared with the free resources of the cluster."""

    def close(self) -> None:
        """Disconnect, which ends a cluster that was started for this run."""
        if (ray := sys.modules.get("ray")) is not None:
            ray.shutdown()


def _connect(address: str) -> Any:
    """Connect to a cluster and return the module `ray`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        # This restricts the cluster to the loopback interface, as on Windows and macOS.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    before = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdecimal():  # fail immediately; Ray would retry for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        import ray

        dashboard = False if address == LOCAL else None
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard
        )
    except ImportError as error:
        raise missing("ray", "ray", "--ray", error) from error
    except (OSError, RuntimeError, ValueError) as error:
        cause = first_line(error)
        raise DeviceError(
            f"there is no Ray cluster at {address} ({cause})",
            "Give HOST:PORT, ray://HOST:PORT, auto, or local for one on this machine.",
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray installs a handler
    return ray


class _Actor:
    def __init__(self, config: WorkerConfig, resources: dict[str, int], send: Send) -> None:
        import ray

        remote = ray.remote(RayWorker).options(max_concurrency=2, **resources)
        self._actor = remote.remote(str(Path.cwd()))
        stream = self._actor.run.options(num_returns="streaming").remote(config)
        self._listener = threading.Thread(target=self._listen, args=(stream, send), daemon=True)
        self._listener.start()

    def _listen(self, stream: Any, send: Send) -> None:
        import ray

        cause = "it ended"
        try:
            for message in stream:
                send(ray.get(message))
        except ray.exceptions.RayActorError:
            cause = "its actor died"
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()  # the error comes last, and then its hint
            cause = next((s for s in reversed(lines) if not s.startswith("hint: ")), cause)
        send(WorkerExited(cause))

    def give(self, image: QueuedImage | None) -> None:
        self._actor.give.remote(image)

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)
        self._listener.join()


class RayWorker:
    """The class of the actor, whose name `ps` shows. Ray calls `give` while `run` is active."""

    def __init__(self, folder: str) -> None:
        self._requests: SimpleQueue[QueuedImage | None] = SimpleQueue()
        with suppress(OSError):  # images with relative names will then fail as missing
            os.chdir(folder)

    def give(self, image: QueuedImage | None) -> None:
        """Queue an image, or None to stop."""
        self._requests.put(image)

    def run(self, config: WorkerConfig) -> Iterator[Message]:
        """Yield the worker's messages, except those on progress, which are too frequent."""
        messages: SimpleQueue[Message | None] = SimpleQueue()
        requests = iter(self._requests.get, None)
        with ThreadPoolExecutor(1) as executor:
            done = executor.submit(run_worker, requests, config, messages.put)
            done.add_done_callback(lambda _: messages.put(None))
            while (message := messages.get()) is not None:
                if not isinstance(message, ImageProgress):
                    yield message
            done.result()  # raises the error of a worker that crashed
