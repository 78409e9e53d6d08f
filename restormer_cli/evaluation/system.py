"""Versions and properties of a machine and its devices."""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import suppress

import psutil
import torch

from .._version import __version__
from ..inference import (
    MPS_FIXED,
    PRECISIONS,
    choose_precision,
    device_model,
    fusion_status,
    precedes,
)

KNOWN_ISSUES = (
    (
        "mps",
        MPS_FIXED,
        f"PyTorch before {MPS_FIXED} adds up many pixels wrongly on M1 and M2. Restoring avoids "
        "this, and training is refused",
    ),
)
"""Type of device, first release of PyTorch without the issue, and the issue."""


def describe_system(device: torch.device) -> dict[str, str | None]:
    """Return the versions and the properties of a device that a bug report needs."""
    facts: dict[str, str | None] = {
        "restormer": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "device": f"{device}: {device_model(device)}",
        "precision": choose_precision("auto", device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda or f"ROCm {torch.version.hip}",
            "cudnn": str(torch.backends.cudnn.version()),
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        }
    else:
        facts["memory"] = f"{psutil.virtual_memory().total / 2**30:.1f} GiB"
    if device.type == "cpu":
        facts["threads"] = str(torch.get_num_threads())
    if device.type in ("cpu", "cuda"):
        facts["fused block"] = fusion_status(device=device, build=True)
    return facts


def known_issues(device: torch.device, version: str = torch.__version__) -> list[str]:
    """Return the known issues of this release of PyTorch on the device."""
    return [
        text
        for kind, fixed, text in KNOWN_ISSUES
        if kind == device.type and precedes(version, fixed)
    ]


def supported_precisions(device: torch.device) -> list[str]:
    """Return fp32 and the other precisions in which the device can compute at all."""
    supported = ["fp32"]
    for name in (name for name in PRECISIONS if name != "fp32"):
        with suppress(RuntimeError, TypeError):  # TypeError: bf16 on MPS before macOS 14
            x = torch.ones(8, 8, device=device).to(PRECISIONS[name])
            (x @ x).cpu()
            supported.append(name)
    return supported


def _nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver, None if it is unknown."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return output.stdout.strip().partition("\n")[0] or None
    return None
