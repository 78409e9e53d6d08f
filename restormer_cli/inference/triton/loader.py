"""Compile and check the Triton kernels for a network, and keep the verdict in the cache.

Triton keeps what it compiled in a cache of its own, so that later processes load it at once.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from threading import Lock

import torch

from ...network import Architecture
from ..devices import device_model
from ..fusion.cache import cache_folder
from ..fusion.passes import FusionError, Kernels
from ..fusion.verdict import NOT_BUILT, Opened, Verdict, read_verdict, write_verdict
from .check import examine

SOURCE = Path(__file__).with_name("blocks.py")

DISTRIBUTIONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows")
"""Names under which Triton is installed, mostly by PyTorch."""

NO_TRITON = "Triton is not installed"

_lock = Lock()
_opened: dict[Path, Opened] = {}


def triton_version() -> str | None:
    """Return the version of Triton, which is not imported; None if it is not installed."""
    for name in DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def open_kernels(
    a: Architecture, dtype: torch.dtype, device: torch.device, *, build: bool
) -> Opened:
    """Return the kernels for the blocks of a network.

    Without `build`, they are returned only if an earlier process or call has checked them.
    """
    version = triton_version()
    if version is None:
        return Opened(None, Verdict(NO_TRITON))
    path = verdict_path(a, dtype, device, version)
    with _lock:
        if path not in _opened or (build and not _opened[path].is_final):
            _opened[path] = _open(path, a, dtype, device, build)
        return _opened[path]


def _open(
    path: Path, a: Architecture, dtype: torch.dtype, device: torch.device, build: bool
) -> Opened:
    try:
        verdict = read_verdict(path, SOURCE)
    except FusionError as error:
        return Opened(None, Verdict(str(error)))
    if verdict is None:
        if not build:
            return Opened(None, Verdict(NOT_BUILT), is_final=False)
        verdict = examine(a, dtype, device)
        write_verdict(path, verdict, SOURCE)
    if verdict.cause:
        return Opened(None, verdict)
    return Opened(load_kernels(), verdict)


def load_kernels() -> Kernels:
    """Return the kernels; imports Triton."""
    from .blocks import TritonKernels

    return TritonKernels()


def last_verdict() -> Verdict | None:
    """Return the verdict of the last check on this machine, if any still holds."""
    try:
        paths = sorted(cache_folder().glob("triton-*.json"), key=lambda path: path.stat().st_mtime)
        return read_verdict(paths[-1], SOURCE) if paths else None
    except (OSError, FusionError):
        return None


def verdict_path(a: Architecture, dtype: torch.dtype, device: torch.device, version: str) -> Path:
    """Return the path of the verdict for these kernels, GPU, PyTorch, Triton and network."""
    parts = SOURCE.read_text("utf-8"), version, torch.__version__, device_model(device), dtype, a
    key = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
    return cache_folder() / f"triton-{key}.json"
