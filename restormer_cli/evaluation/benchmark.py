"""How fast a network runs here, in every way it can run, and how far that is from the limits."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from ..inference import PRECISIONS, choose_precision, restore, synchronize
from ..network import Restormer, reference_forward, summarize

if TYPE_CHECKING:
    pass

TILE = 256


@dataclass(frozen=True)
class Measurement:
    """One way of running, at one size.

    `ratio` is the plain forward's time over this one's; `of_peak` the share of the matrix
    products' measured peak in this precision, counting the network's multiply-adds; `memory` the
    peak in bytes beside the network and the image; `psnr` in dB against the plain forward.
    """

    size: int
    way: str
    precision: str
    seconds: float
    megapixels_per_second: float
    ratio: float | None
    memory: int
    of_peak: float
    largest_difference: float | None
    psnr: float | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, fit for JSON; a PSNR without limit is None."""
        fields = asdict(self)
        return {**fields, "psnr": None if self.psnr == math.inf else self.psnr}


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Multiply-adds a second that a large matrix product reaches here: the best of five."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    times = [_timed(lambda: a @ b, device)[0] for _ in range(5)]
    return side**3 / min(times)


def run_benchmark(
    network: Restormer, sizes: list[int], *, repeat: int = 1, with_plain: bool = True
) -> Iterator[Measurement]:
    """Measure every way of running at every size, the plain forward first.

    Args:
        network: in eval mode, on the device to measure.
        sizes: sides of square images in pixels, multiples of 8.
        repeat: runs of which the fastest counts.
        with_plain: whether to run the plain forward, which needs much memory; without it there
            are no ratios and differences.
    """
    device = next(network.parameters()).device
    half = choose_precision("auto", device)
    precisions = ["fp32"] if half == "fp32" else ["fp32", half]
    peaks = {p: matrix_peak(device, PRECISIONS[p]) for p in precisions}

    ways: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        ("plain", "fp32", lambda x: reference_forward(network, x).clamp(0, 1)),
        *(("strips", p, partial(restore, network, precision=p)) for p in precisions),
        (
            f"tiles of {TILE}",
            precisions[-1],
            partial(restore, network, tile=TILE, precision=precisions[-1]),
        ),
    ]
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        channels = network.architecture.in_channels
        image = torch.rand(1, channels, size, size, generator=generator).to(device)
        work = summarize(network.architecture, size, size).multiply_adds
        reference: tuple[float, Tensor] | None = None
        for way, p, forward in ways if with_plain else ways[1:]:
            with torch.inference_mode(), _metered(device) as memory:
                runs = [_timed(partial(forward, image), device) for _ in range(repeat)]
            seconds, result = min(runs, key=lambda run: run[0])
            if way == "plain":
                reference = seconds, result
            difference = (result - reference[1]).abs() if reference else None
            error = None if difference is None else difference.square().mean().item()
            yield Measurement(
                size=size,
                way=way,
                precision=p,
                seconds=seconds,
                megapixels_per_second=size * size / seconds / 1e6,
                ratio=reference[0] / seconds if reference else None,
                memory=memory(),
                of_peak=work / seconds / peaks[p],
                largest_difference=None if difference is None else difference.max().item(),
                psnr=None if error is None else (-10 * math.log10(error) if error else math.inf),
            )


def _timed(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Seconds until the device is done, and the result."""
    synchronize(device)
    started = time.perf_counter()
    result = function()
    synchronize(device)
    return time.perf_counter() - started, result


@contextmanager
def _metered(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that tells the most bytes that were in use inside, beyond those before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    _release()
    process, stop, most = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.01):
            most = max(most, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        stop.set()
        thread.join()


def _release() -> None:
    """Give what earlier runs have freed back to the system: else it would not count again."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
