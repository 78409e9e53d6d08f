"""What the network can run on here, in which precision, and how much memory that has."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: the device that was named is not there, or there is none of that name.
    """
    if name == "auto":
        return torch.device(available()[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"there is no device called {name!r}", "Say auto, cpu, cuda, cuda:1, ... or mps."
        ) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(
            f"restormer does not run on {name!r}", "Say auto, cpu, cuda, cuda:1, ... or mps."
        )
    if device.type not in available():
        raise DeviceError(
            f"{name} was asked for, but PyTorch {torch.__version__} finds none here",
            "`restormer doctor` shows what it finds; --device auto takes the best there is.",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{name} was asked for, but there are only {torch.cuda.device_count()} CUDA devices",
            "They are counted from cuda:0; `restormer doctor` lists them.",
        )
    return device


def available() -> list[str]:
    """The kinds of device that are there, the fastest first; "cpu" is always the last."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    return found


def native_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products, and so gains from them."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older releases of PyTorch cannot tell: then fp32, which is always right.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(f, False) for f in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def choose_precision(name: str, device: torch.device) -> str:
    """What "auto" means on this device: bf16 where it is native, else fp32; others as they are.

    fp16 is never chosen: the residual stream of trained networks comes near its range, and
    bf16 is as fast wherever fp16 is.
    """
    if name != "auto":
        return name
    return "bf16" if native_bf16(device) else "fp32"


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on the device now; on Linux within the process's cgroup."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min([psutil.virtual_memory().available, *_left_in_cgroup()])


def _left_in_cgroup() -> list[int]:
    """What a container's limit leaves, where there is one (cgroup v2 or v1)."""
    left = []
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            most, now = (int(Path(folder, name).read_text()) for name in (limit, used))
            lines = Path(folder, "memory.stat").read_text().splitlines()
            # Files that were read stay in memory until it is wanted: they do not take it away.
            kept = dict(line.split() for line in lines).get(cache, 0)
            left.append(most - now + int(kept))
    return [max(0, n) for n in left]


def held_memory(device: torch.device) -> int:
    """Bytes held now: on CUDA by this process's tensors, else by the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(device: torch.device) -> int:
    """The most bytes held so far: on CUDA by this process's tensors, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows has not

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in kilobytes


def inherit_threads() -> Callable[[], None]:
    """To be called first in a thread that computes: as many threads work for it as for this one."""
    return partial(torch.set_num_threads, torch.get_num_threads())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, and nothing else."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # PyTorch's CPU and MPS allocators raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "MPS backend out of memory")
    )


def describe_devices() -> list[dict[str, Any]]:
    """One entry a device: its name, model, precision that "auto" takes, and free memory."""
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
    """What a device is called, as far as PyTorch or the system knows."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or platform.machine()
