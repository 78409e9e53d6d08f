"""Devices of this machine: selection, precision, memory and description."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch

from ..errors import DeviceError
from ..memory import available_memory, peak_process_memory
from ..memory import is_out_of_memory as is_out_of_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of this name; "auto" prefers CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: the device is unknown or not available.
    """
    if name == "auto":
        return torch.device(available()[0])
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", name):
        raise DeviceError(f"unknown device {name!r}", "Choose auto, cpu, cuda, cuda:1, ... or mps.")
    device = torch.device(name)
    missing = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if missing or device.type not in available():
        raise DeviceError(
            f"device {name} is not available to PyTorch {torch.__version__}",
            "`restormer doctor` lists the devices; --device auto chooses the fastest.",
        )
    return device


def available() -> list[str]:
    """Return the available device types, fastest first; "cpu" is always the last."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name, is_usable in usable.items() if is_usable), "cpu"]


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


def free_memory(device: torch.device) -> int:
    """Return the free bytes of the device; for a CPU within the limits of this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return available_memory()


def held_memory(device: torch.device) -> int:
    """Return the bytes in use: by tensors on a CUDA device, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


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
