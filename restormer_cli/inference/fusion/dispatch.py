"""Decide whether the engine uses a fused block, and report the state."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache

import torch

from ...errors import DeviceError
from ...network import (
    Architecture,
    BlockWeights,
    block_values_per_pixel,
    multiply_adds_per_pixel,
)
from ..devices import PRECISIONS
from ..native.library import MULTIPLE, TYPES, fits
from ..native.loader import open_library
from ..triton.loader import NO_TRITON, last_verdict, open_kernels, triton_version
from .check import block_widths
from .mode import VARIABLE, fusion_mode
from .passes import KINDS, FusedPasses, Kernels
from .verdict import NOT_BUILT, WORTH_BUILDING, Opened, Verdict

CPU = torch.device("cpu")

NAMES = {KINDS[dtype]: name for name, dtype in PRECISIONS.items()}
"""Precisions by their names in verdicts."""

SPEED = {torch.float32: 44e9, torch.bfloat16: 200e9}
"""Rough multiply-adds per second of a thread in PyTorch's convolutions alone."""

SECONDS_PER_VALUE = 5e-8
"""Rough time of a thread for everything else in a block, for each value that enters it.

It is most of the time of narrow networks, whose convolutions have little to multiply.
"""

GPU_SPEED = {torch.float32: 10e12, torch.bfloat16: 50e12, torch.float16: 50e12}
"""The same for a GPU; a guess."""


@dataclass(frozen=True)
class Fusion:
    """Kernels for features of one type, and their speed relative to PyTorch by channels."""

    kernels: Kernels
    dtype: torch.dtype
    speed: tuple[tuple[int, float], ...]  # in ascending order of channels

    def block(self, w: BlockWeights) -> FusedPasses | None:
        """Return the fused block for these weights in fp32; None if PyTorch is to be used."""
        if not self.is_used(w.ffn_out.weight.shape[0], w.heads):
            return None
        return self.kernels.block(w, self.dtype)

    def is_used(self, channels: int, heads: int) -> bool:
        """Return True if blocks of this width use the kernels."""
        return self.kernels.fits(channels, heads) and self.is_faster(channels)

    def is_faster(self, channels: int) -> bool:
        """Return True if the kernels are faster at the nearest measured widths."""
        below = [ratio for width, ratio in self.speed if width <= channels][-1:]
        above = [ratio for width, ratio in self.speed if width >= channels][:1]
        return all(ratio > 1 for ratio in below + above)


_seconds_of_work = 0.0


def fusion_for(
    a: Architecture,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    window: int | None,
) -> Fusion | None:
    """Return the fused block for a forward pass, or None to use PyTorch's functions.

    Args:
        a: the network.
        size: height and width of the image in pixels.
        dtype: type of the features.
        device: device of the features.
        window: side in pixels of the attention windows, if any.

    Raises:
        UsageError: RESTORMER_NATIVE is invalid.
        DeviceError: RESTORMER_NATIVE is "require", and the fused block cannot be used.
    """
    mode = fusion_mode()
    if mode == "off":
        return None
    cause = _unsuitable(a, size, dtype, device, window)
    if not cause:
        build = mode == "require" or _is_worth_building(a, size, dtype, device)
        opened = _open_for(a, dtype, device, build=build)
        cause = opened.verdict.cause
        if opened.kernels and not cause:
            if opened.kernels.supports(dtype):
                speed = (opened.verdict.speed or {})[KINDS[dtype]]
                if mode == "require":  # also where it is slower, but not where it cannot run
                    speed = {width: ratio and math.inf for width, ratio in speed.items()}
                return Fusion(opened.kernels, dtype, tuple(sorted(speed.items())))
            cause = f"{opened.kernels.instructions} has no products in {KINDS[dtype]}"
    if mode == "require":
        raise DeviceError(
            f"{VARIABLE} is require, but the fused block cannot be used: {cause}",
            f"Set {VARIABLE}=auto to use PyTorch's functions instead.",
        )
    return None


def uses_fused_block(a: Architecture, dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if any block of a network is fused; the kernels are built if they are not.

    Raises:
        UsageError, DeviceError: as for `fusion_for`.
    """
    if fusion_mode() != "off" and not _unsuitable(a, (0, 0), dtype, device, None):
        _open_for(a, dtype, device, build=True)
    fusion = fusion_for(a, (0, 0), dtype, device, None)
    return fusion is not None and any(fusion.is_used(*width) for width in block_widths(a))


def check_requirement(
    a: Architecture, dtype: torch.dtype, device: torch.device, window: int | None
) -> None:
    """Raise the DeviceError of `fusion_for` before any image is read."""
    if fusion_mode() == "require":
        fusion_for(a, (sys.maxsize, sys.maxsize), dtype, device, window)


def fusion_obstacle(a: Architecture, dtype: torch.dtype, device: torch.device) -> str:
    """Return why long runs do not use the fused block; empty if they do, or the device has none.

    Raises:
        UsageError: RESTORMER_NATIVE is invalid.
    """
    if device.type != "cpu":
        return ""
    if fusion_mode() == "off":
        return f"{VARIABLE} is off"
    cause = _unsuitable(a, (0, 0), dtype, device, None)
    cause = cause or _open_for(a, dtype, device, build=False).verdict.cause
    return "" if cause == NOT_BUILT else cause


def fusion_status(
    a: Architecture | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    *,
    build: bool = False,
) -> str:
    """Describe the fused block on a device: what it uses, or why it is not used.

    Args:
        a: the network. On a GPU the block is checked for each network; without one, the last
            check is described.
        dtype: type of its features.
        device: a CPU or CUDA device.
        build: build it if it is not built.

    Raises:
        UsageError: RESTORMER_NATIVE is invalid.
    """
    if fusion_mode() == "off":
        return f"off ({VARIABLE})"
    if device.type == "cuda" and a is None:
        version = triton_version()
        return f"Triton {version}, {_last_check()}" if version else f"not used: {NO_TRITON}"
    if a is None:
        return _in_words(open_library(build=build).verdict)
    cause = _unsuitable(a, (0, 0), dtype, device, None)
    return _in_words(Verdict(cause) if cause else _open_for(a, dtype, device, build=build).verdict)


def _last_check() -> str:
    verdict = last_verdict()
    return f"last check: {_in_words(verdict)}" if verdict else "not checked yet"


def _in_words(verdict: Verdict) -> str:
    if verdict.cause:
        return f"not used: {verdict.cause}"
    speeds = (_speed_in_words(NAMES[kind], speed) for kind, speed in (verdict.speed or {}).items())
    return f"{verdict.instructions}, {', '.join(speeds)}"


def _speed_in_words(precision: str, speed: dict[int, float]) -> str:
    least = 0 if fusion_mode() == "require" else 1
    used = [ratio for ratio in speed.values() if ratio > least]
    if not used:
        return f"{precision} not used: no faster than PyTorch's functions"
    text = f"{precision} {min(used):.1f} to {max(used):.1f} times as fast"
    others = [str(channels) for channels, ratio in sorted(speed.items()) if ratio <= least]
    return f"{text} (PyTorch's functions at {', '.join(others)} channels)" if others else text


def describe_fusion() -> dict[str, str]:
    """Return the `fusion_status` of each kind of device that can have a fused block."""
    status = {"fused block": fusion_status()}
    if torch.cuda.is_available():
        status["fused block on CUDA"] = fusion_status(device=torch.device("cuda"))
    return status


def _open_for(a: Architecture, dtype: torch.dtype, device: torch.device, *, build: bool) -> Opened:
    if device.type == "cuda":
        return open_kernels(a, dtype, device, build=build)
    return open_library(build=build)


def _unsuitable(
    a: Architecture,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    window: int | None,
) -> str:
    """Return why the fused block does not apply to a forward pass, or an empty string."""
    if device.type not in ("cpu", "cuda"):
        return "it runs on CPUs and CUDA only"
    if device.type == "cuda":
        return "it has no attention windows on CUDA" if window and window < max(size) else ""
    if dtype not in TYPES:
        return "it has no fp16"
    if not any(fits(a.dim << level, heads) for level, heads in enumerate(a.heads)):
        return f"the channels of its heads must be multiples of {MULTIPLE}"
    return ""


def _is_worth_building(
    a: Architecture, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> bool:
    """Return True if this process has had, with this image, enough work to build the kernels."""
    global _seconds_of_work
    if device.type == "cpu":
        seconds = _multiply_adds_per_pixel(a) / SPEED[dtype]
        seconds += _block_values_per_pixel(a) * SECONDS_PER_VALUE
        seconds /= torch.get_num_threads()
    else:
        seconds = _multiply_adds_per_pixel(a) / GPU_SPEED[dtype]
    _seconds_of_work += seconds * math.prod(size)
    return _seconds_of_work >= WORTH_BUILDING


@cache
def _multiply_adds_per_pixel(a: Architecture) -> float:
    return multiply_adds_per_pixel(a)


@cache
def _block_values_per_pixel(a: Architecture) -> float:
    return block_values_per_pixel(a)
