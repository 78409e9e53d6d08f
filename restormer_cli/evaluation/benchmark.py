"""Speed and memory of a network in every execution mode."""

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
from typing import Any

import psutil
import torch
from torch import Tensor

from ..imaging import psnr
from ..inference import (
    PRECISIONS,
    choose_precision,
    full_precision,
    override_fusion,
    restore,
    synchronize,
    uses_fused_block,
)
from ..network import Restormer, multiply_adds_per_pixel, reference_forward

TILE = 256

WARM_UP = 64
"""Side in pixels of the first run on a CPU, which packs weights. A GPU selects kernels by size."""


@dataclass(frozen=True)
class Measurement:
    """Result of one execution mode on a square image.

    Attributes:
        size: side of the image in pixels.
        way: execution mode: "plain" (the published formulation), "strips" (with PyTorch's
            functions), "strips, native" (with the fused block, if it can be used) or "tiles of
            256".
        ratio: speed relative to the published formulation.
        memory: peak in bytes, without the network and the image.
        of_peak: multiply-adds per second, relative to those of a large matrix product.
        largest_difference, psnr: relative to the published formulation; `psnr` in dB.
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
        """Return the fields for JSON; an infinite PSNR is None."""
        return asdict(self) | {"psnr": None if self.psnr == math.inf else self.psnr}


def run_benchmark(
    network: Restormer, sizes: list[int], *, repeat: int = 1, with_published: bool = True
) -> Iterator[Measurement]:
    """Measure every execution mode at every size after a run to warm up.

    Args:
        network: in eval mode, on the device to measure.
        sizes: sides of square images in pixels, multiples of 8.
        repeat: number of runs, of which the fastest counts.
        with_published: measure the published formulation first, which needs much memory.
            Otherwise, ratios and differences are None.
    """
    device = next(network.parameters()).device
    half = choose_precision("auto", device)
    precisions = list(dict.fromkeys(["fp32", half]))
    work_per_pixel = multiply_adds_per_pixel(network.architecture)
    peaks = {p: matrix_peak(device, PRECISIONS[p]) for p in precisions}
    modes: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        *(("strips", p, partial(restore_unfused, network, precision=p)) for p in precisions),
        *(
            ("strips, native", p, partial(restore, network, precision=p))
            for p in precisions
            if uses_fused_block(network.architecture, PRECISIONS[p], device)
        ),
        (f"tiles of {TILE}", half, partial(restore, network, tile=TILE, precision=half)),
    ]
    if with_published:
        modes.insert(0, ("plain", "fp32", partial(run_reference, network)))
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        channels = network.architecture.in_channels
        image = torch.rand(1, channels, size, size, generator=generator).to(device)
        reference: tuple[float, Tensor] | None = None
        for way, p, forward in modes:
            with torch.inference_mode():
                forward(image if device.type != "cpu" else image[..., :WARM_UP, :WARM_UP])
            with torch.inference_mode(), watch_memory(device) as memory:
                runs = [timed(partial(forward, image), device) for _ in range(repeat)]
            seconds, result = min(runs, key=lambda run: run[0])
            if way == "plain":
                reference = seconds, result
            difference = (result - reference[1]).abs() if reference else None
            yield Measurement(
                size=size,
                way=way,
                precision=p,
                seconds=seconds,
                megapixels_per_second=size * size / seconds / 1e6,
                ratio=reference[0] / seconds if reference else None,
                memory=memory(),
                of_peak=work_per_pixel * size**2 / seconds / peaks[p],
                largest_difference=None if difference is None else difference.max().item(),
                psnr=psnr(result.cpu(), reference[1].cpu()) if reference else None,
            )


def run_reference(network: Restormer, x: Tensor) -> Tensor:
    """Restore an image, 1 C H W, by the published formulation."""
    with full_precision():  # as in the other modes
        return reference_forward(network, x).clamp(0, 1)


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Return the multiply-adds per second of a large matrix product, the best of five.

    A product of 2048 x 2048 takes an H100 20 microseconds, about as long as its launch.
    """
    side = side or (2048 if device.type == "cpu" else 8192)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    with full_precision():
        a @ b
        return side**3 / min(timed(lambda: a @ b, device)[0] for _ in range(5))


def restore_unfused(network: Restormer, image: Tensor, precision: str) -> Tensor:
    """Restore an image with PyTorch's functions instead of the fused block."""
    with override_fusion("off"):
        return restore(network, image, precision=precision)


def timed(function: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Return the time of a call in seconds, and its result."""
    synchronize(device)
    started = time.perf_counter()
    result = function()
    synchronize(device)
    return time.perf_counter() - started, result


@contextmanager
def watch_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak of the bytes allocated in this context."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    if sys.platform == "linux":
        # Return freed memory to the system: its reuse would not be counted.
        with suppress(AttributeError):  # C libraries other than glibc
            ctypes.CDLL(None).malloc_trim(0)
    process, stop, peak = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.01):
            peak = max(peak, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()
