"""Devices of this machine: selection, precision, memory and description."""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.torch_version import TorchVersion

from ..errors import DeviceError
from ..memory import available_memory, is_out_of_memory, peak_process_memory
from ..text import first_line

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MPS_FIXED = "2.14"
"""Release of PyTorch from which sums over many pixels are right on MPS. Before, matrix products
over 32767 or more elements are wrong (pytorch#193487)."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of this name; "auto" prefers CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: the device is unknown or not available.
    """
    if name == "auto":
        return torch.device(available()[0])
    parts = re.fullmatch(r"(cpu|cuda|mps)(?::(0|[1-9][0-9]*))?", name)
    if parts is None:
        raise DeviceError(f"unknown device {name!r}", "Choose auto, cpu, cuda, cuda:1, ... or mps.")
    kind, index = parts.groups(default="0")
    # Before PyTorch sees the index: it takes any cpu:N, and cuda:300 for cuda:44.
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index not in map(str, range(count)) or kind not in available():
        raise DeviceError(
            f"device {name} is not available to PyTorch {torch.__version__}",
            "`restormer doctor` lists the devices; --device auto chooses the fastest.",
        )
    return torch.device(name)


def check_training_device(device: torch.device) -> None:
    """Raise DeviceError if this release of PyTorch computes wrong gradients on the device.

    The gradient of a 1x1 convolution sums over all pixels of a batch: see `MPS_FIXED`.
    """
    if device.type == "mps" and precedes(torch.__version__, MPS_FIXED):
        raise DeviceError(
            f"PyTorch {torch.__version__} computes wrong gradients on mps",
            f"Install PyTorch {MPS_FIXED} or later, or train with --device cpu.",
        )


def precedes(version: str, release: str) -> bool:
    """Return True if a version of PyTorch is older than a release, as its pre-releases are."""
    return bool(TorchVersion(version) < release)


def available() -> list[str]:
    """Return the available device types, fastest first; "cpu" is always the last."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name, is_usable in usable.items() if is_usable), "cpu"]


def unused_gpu(device: torch.device) -> str:
    """Return how a GPU that is there could be used instead of the CPU; empty if there is none."""
    if device.type != "cpu":
        return ""
    if (fastest := available()[0]) != "cpu":
        return f"--device {fastest}"
    if not Path("/proc/driver/nvidia/version").exists():
        return ""
    if torch.version.cuda is None:
        return "the NVIDIA GPU (this PyTorch is for CPUs only: install one for CUDA)"
    return "the NVIDIA GPU (PyTorch does not find it: see `restormer doctor`)"


def native_bf16(device: torch.device) -> bool:
    """Return True if the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older releases of PyTorch have no get_capabilities.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(f, False) for f in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def choose_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": bf16 where it is native to the device, else fp32.

    fp16 is never chosen: features of trained networks nearly exceed its range, and bf16 is as fast.
    """
    if name != "auto":
        return name
    return "bf16" if native_bf16(device) else "fp32"


# Settings that let PyTorch compute with fewer digits than the type of its tensors has, and the
# values that forbid it. The first ones are older: they exist in all releases, and change some of
# the others, which release 2.9 added and which win.
_FULL_PRECISION: dict[str, bool | str] = {
    "float32_matmul_precision": "highest",
    "backends.cudnn.allow_tf32": False,  # True by default: 10 bits of a convolution's factors
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": False,  # True by default
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": False,  # True by default
    "backends.cudnn.conv.fp32_precision": "ieee",
    "backends.cudnn.rnn.fp32_precision": "ieee",
    "backends.cuda.matmul.fp32_precision": "ieee",
    "backends.mkldnn.conv.fp32_precision": "ieee",
    "backends.mkldnn.matmul.fp32_precision": "ieee",
}
_original_settings: dict[str, Any] = {}
_users: list[None] = []
_settings_lock = threading.Lock()


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the precision of the tensors: fp32 without TF32, sums of bf16 and fp16 in fp32.

    The settings are global. The first thread to enter saves the original values, and the last to
    leave restores them.
    """
    with _settings_lock:
        if not _users:
            for setting in _FULL_PRECISION:
                # Missing in this release, or not readable since the user has changed a newer one.
                with suppress(AttributeError, RuntimeError):
                    _original_settings[setting] = _setting(setting)
            for setting, value in _FULL_PRECISION.items():
                with suppress(AttributeError):
                    _set(setting, value)
        _users.append(None)
    try:
        yield
    finally:
        with _settings_lock:
            _users.pop()
            if not _users:
                for setting, value in _original_settings.items():
                    _set(setting, value)
                _original_settings.clear()


def _setting(path: str) -> Any:
    """Return the value of a setting of PyTorch."""
    if path == "float32_matmul_precision":
        return torch.get_float32_matmul_precision()
    return attrgetter(path)(torch)


def _set(path: str, value: Any) -> None:
    """Change a setting of PyTorch."""
    if path == "float32_matmul_precision":
        torch.set_float32_matmul_precision(value)
        return
    owner, _, name = path.rpartition(".")
    setattr(attrgetter(owner)(torch), name, value)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of the device; for a CPU within the limits of this process."""
    if device.type == "cuda":
        # PyTorch keeps the memory of freed tensors for new ones.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":  # its memory is that of the machine
        used = torch.mps.current_allocated_memory()
        kept = torch.mps.driver_allocated_memory() - used
        return min(torch.mps.recommended_max_memory() - used, available_memory() + kept)
    return available_memory()


def largest_tensor(device: torch.device) -> int | None:
    """Return the maximum size of a tensor in bytes, or None if only memory limits it.

    MPS aborts the process at 4 GiB; a copy of a tensor in fp32, or with halos, is larger.
    """
    return 1 << 30 if device.type == "mps" else None


_GPU_LIBRARIES = re.compile(r"\b(CUDA|cuDNN|cuBLAS|NVRTC|HIP|MIOpen|MPS)", re.IGNORECASE)


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Raise DeviceError for a failure of the driver or the libraries of a GPU.

    They raise RuntimeError, as PyTorch does for defects of the program, which stay as they are.
    """
    try:
        yield
    except RuntimeError as error:
        is_of_gpu = device.type != "cpu" and _GPU_LIBRARIES.search(str(error))
        if not is_of_gpu or is_out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} failed ({first_line(error)})",
            "Update its driver and PyTorch, or use --device cpu.",
        ) from error


def held_memory(device: torch.device) -> int:
    """Return the bytes in use: by tensors on a CUDA device, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # without an argument, it waits for another GPU
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize()


def sleep_until_done(device: torch.device) -> None:
    """Let this thread sleep until CUDA has finished its work.

    Other ways to wait keep a core busy, which other threads could decode and encode images on.
    """
    if device.type == "cuda":
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(device))
        done.synchronize()


def peak_memory(device: torch.device) -> int:
    """Return the peak of `held_memory` so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_process_memory()


def inherit_threads() -> Callable[[], None]:
    """Return an initializer that gives worker threads this thread's number of torch threads."""
    return partial(torch.set_num_threads, torch.get_num_threads())


def describe_devices() -> list[dict[str, Any]]:
    """List the devices with model, "auto" precision, free memory and number of CPU threads."""
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    names += [kind for kind in available() if kind != "cuda"]
    return [
        {
            "device": name,
            "model": device_model(torch.device(name)),
            "precision": choose_precision("auto", torch.device(name)),
            "free_memory": free_memory(torch.device(name)),
            "threads": torch.get_num_threads() if name == "cpu" else None,
        }
        for name in names
    ]


def device_model(device: torch.device) -> str:
    """Return the model of a device as PyTorch or the system reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()
