"""Decide whether the engine uses the fused block: build it, check it, and report the state."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

import torch

from ...errors import DeviceError
from ...files import sha256_file
from ...network import Architecture, BlockWeights, multiply_adds_per_pixel
from .check import Verdict, examine
from .compiler import (
    COMPILE_LIMIT,
    SOURCE,
    NativeError,
    build,
    find_compiler,
    library_path,
    require_private,
    store,
)
from .library import MULTIPLE, TYPES, FusedBlock, Library, fits
from .mode import VARIABLE, native_mode

WORTH_BUILDING = 10.0
"""Predicted seconds of work from which the library is built unasked."""

SPEED = {torch.float32: 25e9, torch.bfloat16: 50e9}
"""Rough multiply-adds per second of a thread, with PyTorch's functions."""

RETRY_AFTER = 24 * 60 * 60
"""Seconds for which a failure is remembered."""


@dataclass(frozen=True)
class Fusion:
    """The library for features of one type, and the numbers of channels for which it is used."""

    library: Library
    dtype: torch.dtype
    speed: tuple[tuple[int, float], ...] | None  # by channels; None to use it for all

    def block(self, w: BlockWeights) -> FusedBlock | None:
        """Return the fused block for these weights in fp32; None if PyTorch is to be used."""
        channels = w.ffn_out.weight.shape[0]
        if not fits(channels, w.heads) or not self.is_faster(channels):
            return None
        return FusedBlock(self.library, w, self.dtype)

    def is_faster(self, channels: int) -> bool:
        """Return True if the library is faster at the nearest measured widths."""
        if self.speed is None:
            return True
        below = [ratio for width, ratio in self.speed if width <= channels][-1:]
        above = [ratio for width, ratio in self.speed if width >= channels][:1]
        return all(ratio > 1 for ratio in below + above)


@dataclass
class Opened:
    """The library of this process, or the cause why there is none."""

    library: Library | None
    verdict: Verdict
    is_final: bool = True  # False if it was not built because nobody asked for it


NOT_BUILT = f"it is built when a run takes more than about {WORTH_BUILDING:.0f} s"

_lock = Lock()
_opened: Opened | None = None
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
    mode = native_mode()
    if mode == "off":
        return None
    cause = _unsuitable(a, size, dtype, device, window)
    if not cause:
        opened = open_library(ask=mode == "require" or _is_worth_building(a, size, dtype))
        cause = opened.verdict.cause
        if opened.library and not cause:
            if opened.library.supports(dtype):
                speed = opened.verdict.speed or {}
                ratios = None if mode == "require" else tuple(speed[TYPES[dtype]].items())
                return Fusion(opened.library, dtype, ratios)
            cause = f"{opened.library.instructions} has no products in {TYPES[dtype]}"
    if mode == "require":
        raise DeviceError(
            f"{VARIABLE} is require, but the fused block cannot be used: {cause}",
            f"Set {VARIABLE}=auto to use PyTorch's functions instead.",
        )
    return None


def is_native(a: Architecture, dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if forward passes use the fused block, which is built if it is not built.

    Raises:
        UsageError, DeviceError: as for `fusion_for`.
    """
    if device.type == "cpu" and native_mode() != "off":
        open_library(ask=True)
    return fusion_for(a, (0, 0), dtype, device, None) is not None


def check_requirement(
    a: Architecture, dtype: torch.dtype, device: torch.device, window: int | None
) -> None:
    """Raise the DeviceError of `fusion_for` before any image is read."""
    if native_mode() == "require":
        fusion_for(a, (sys.maxsize, sys.maxsize), dtype, device, window)


def native_status(*, ask: bool = False) -> str:
    """Describe the fused block on this machine: what it uses, or why it is not used.

    Args:
        ask: build it if it is not built.

    Raises:
        UsageError: RESTORMER_NATIVE is invalid.
    """
    if native_mode() == "off":
        return f"off ({VARIABLE})"
    opened = open_library(ask=ask)
    if opened.verdict.cause:
        return f"not used: {opened.verdict.cause}"
    kinds = {TYPES[torch.float32]: "fp32", TYPES[torch.bfloat16]: "bf16"}
    speeds = [
        f"{kinds[kind]} {min(ratios.values()):.1f} to {max(ratios.values()):.1f} times as fast"
        for kind, ratios in (opened.verdict.speed or {}).items()
    ]
    return f"{opened.verdict.instructions}, {', '.join(speeds)}"


def open_library(*, ask: bool) -> Opened:
    """Return the library of this process; build and check it first if `ask` is set.

    Without `ask`, only a library that was built before is opened.
    """
    global _opened
    with _lock:
        if _opened is None or (ask and not _opened.is_final):
            _opened = _open(ask)
        return _opened


def _open(ask: bool) -> Opened:
    try:
        return prepare(ask=ask)
    except NativeError as error:
        return Opened(None, Verdict(str(error)))


def prepare(*, ask: bool, source: Path = SOURCE, limit: float = COMPILE_LIMIT) -> Opened:
    """Open the library in the cache; build and check it first if `ask` is set.

    The verdict is stored beside the library, with the library's SHA-256. A failure is stored, too,
    and remembered for a day.

    Raises:
        NativeError: there is no compiler, or it fails, or the library cannot be stored or loaded.
    """
    compiler, version = find_compiler(limit)
    path = library_path(version, source)
    verdict = _read_verdict(path)
    if verdict is None:
        if not ask:
            return Opened(None, Verdict(NOT_BUILT), is_final=False)
        try:
            build(compiler, path, source=source, limit=limit)
            verdict = examine(path)
        except NativeError as error:
            verdict = Verdict(str(error))
        _write_verdict(path, verdict)
    if verdict.cause:
        return Opened(None, verdict)
    try:
        library = Library(path)
    except OSError as error:
        raise NativeError(f"{path} cannot be loaded: {error}") from error
    if library.instructions != verdict.instructions:  # the system may refuse AMX to a process
        raise NativeError(f"this process has {library.instructions}, not {verdict.instructions}")
    return Opened(library, verdict)


def _unsuitable(
    a: Architecture,
    size: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    window: int | None,
) -> str:
    """Return why the fused block does not apply to a forward pass, or an empty string."""
    if device.type != "cpu":
        return "it runs on CPUs only"
    if dtype not in TYPES:
        return "it has no fp16"
    if window and window < max(size):
        return "it has no attention windows"
    if not any(fits(a.dim << level, heads) for level, heads in enumerate(a.heads)):
        return f"the channels of its heads must be multiples of {MULTIPLE}"
    return ""


def _is_worth_building(a: Architecture, size: tuple[int, int], dtype: torch.dtype) -> bool:
    """Return True if this process has had, with this image, enough work to build the library."""
    global _seconds_of_work
    speed = SPEED[dtype] * torch.get_num_threads()
    _seconds_of_work += _multiply_adds_per_pixel(a) * math.prod(size) / speed
    return _seconds_of_work >= WORTH_BUILDING


@cache
def _multiply_adds_per_pixel(a: Architecture) -> float:
    return multiply_adds_per_pixel(a)


def _read_verdict(library: Path) -> Verdict | None:
    """Return the stored verdict on a library; None if there is none that still holds.

    Raises:
        NativeError: others can change the files.
    """
    path = library.with_suffix(".json")
    try:
        for part in (path.parent, path):
            require_private(part)
        digest, _, text = path.read_text("utf-8").partition("\n")
        verdict = Verdict.from_json(text)
        if verdict.cause:
            is_recent = time.time() - path.stat().st_mtime < RETRY_AFTER
            return verdict if is_recent and native_mode() != "require" else None
        require_private(library)
        return verdict if sha256_file(library) == digest else None
    except (OSError, ValueError):
        return None


def _write_verdict(library: Path, verdict: Verdict) -> None:
    with suppress(OSError, NativeError):  # then the next process checks again
        digest = sha256_file(library) if library.is_file() else ""
        store(library.with_suffix(".json"), f"{digest}\n{verdict.to_json()}\n".encode())
