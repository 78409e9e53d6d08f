"""Speed and memory of the network on a device, for its self-test."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointStatus, load_network
from ..errors import RestormerError
from ..inference import PRECISIONS, restore, uses_fused_block
from ..text import format_bytes
from .benchmark import restore_unfused, run_reference, timed, watch_memory
from .selftest import synthetic_image
from .system import supported_precisions

SPEED_SIDES = {"cpu": (128, 64), "cuda": (1024, 512), "mps": (512, 256)}
"""Side of the image of the speed measurement, and of its tiles, by type of device."""

SELFTEST_SECONDS = 40.0
"""Time since the start of the test after which no further speed is measured."""


@dataclass(frozen=True)
class Speed:
    """Speed and memory of one way to run the network."""

    way: str
    precision: str
    ms_per_megapixel: float
    bytes_per_megapixel: int

    def __str__(self) -> str:
        digits = 0 if self.ms_per_megapixel >= 100 else 2
        memory = format_bytes(self.bytes_per_megapixel)
        if self.ms_per_megapixel >= 10_000:
            return f"{self.ms_per_megapixel / 1000:,.0f} s, {memory}"
        return f"{self.ms_per_megapixel:,.{digits}f} ms, {memory}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def measure_speeds(
    checkpoint: CheckpointStatus, device: torch.device, end: float
) -> Iterator[Speed]:
    """Measure the strips in every precision, and the other ways while time is left.

    Args:
        checkpoint: the network.
        device: the device under test.
        end: time in `time.monotonic()` after which no further measurement begins.
    """
    network, (side, tile) = load_network(str(checkpoint.path)), SPEED_SIDES[device.type]
    precisions = supported_precisions(device)
    image = synthetic_image(side, side, network.architecture.in_channels)
    try:
        network, image = network.to(device), image.to(device)
    except RuntimeError:  # the checks report it
        return

    def plain(precision: str) -> Tensor:
        dtype = PRECISIONS[precision]
        return run_reference(copy.deepcopy(network).to(dtype), image.to(dtype))

    fused = any(uses_fused_block(network.architecture, PRECISIONS[p], device) for p in precisions)
    ways: dict[str, Callable[[str], Tensor]] = {
        "strips": lambda p: restore(network, image, precision=p),
        **({"no fused block": partial(restore_unfused, network, image)} if fused else {}),
        f"tiles of {tile}": lambda p: restore(
            network, image, precision=p, tile=tile, overlap=tile // 4
        ),
        "plain": plain,
    }
    repeat = 1 if device.type == "cpu" else 3  # the first runs select kernels
    for way, run in ways.items():
        for precision in precisions:
            if way != "strips" and time.monotonic() > end:
                return
            with suppress(RuntimeError, RestormerError), torch.inference_mode():  # see the checks
                with watch_memory(device) as memory:
                    took = min(timed(partial(run, precision), device)[0] for _ in range(repeat))
                scale = 1e6 / side**2
                yield Speed(way, precision, 1e3 * took * scale, round(memory() * scale))
