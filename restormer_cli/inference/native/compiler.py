"""Compile block.cpp for this CPU and keep the library in the user's cache.

A library's name contains a hash of everything that it depends on, so that computers with different
CPUs can share the folder.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ..fusion.cache import cache_folder, store
from ..fusion.passes import FusionError
from ..fusion.process import run_limited

SOURCE = Path(__file__).with_name("block.cpp")
COMPILERS = ("c++", "g++", "clang++")
TARGET = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"
# `errno` after square roots would keep the compiler from computing several at a time.
FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", TARGET, "-shared", "-fPIC")

CPU_FIELDS = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # ARM
)
"""Fields of /proc/cpuinfo that are constant."""

COMPILE_LIMIT = 120.0
"""Seconds after which the compiler is stopped; on an idle CPU it takes 2."""


def find_compiler(limit: float = COMPILE_LIMIT) -> tuple[str, str]:
    """Return the path of the C++ compiler and its version.

    Raises:
        FusionError: there is none, or it does not report its version within `limit` seconds.
    """
    path = next(filter(None, map(shutil.which, COMPILERS)), None)
    if path is None:
        raise FusionError(f"no C++ compiler was found ({', '.join(COMPILERS)})")
    return path, run_limited([path, "--version"], limit)


def library_path(version: str, source: Path = SOURCE) -> Path:
    """Return the path of the library for this source, CPU, system, PyTorch and compiler.

    PyTorch is included because its speed decides whether the library is used.
    """
    system = platform.platform(), cpu_model(), torch.__version__
    parts = (source.read_text("utf-8"), *FLAGS, version, *system)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return cache_folder() / f"block-{key}.so"


@cache
def cpu_model() -> str:
    """Return the model and the instruction sets of the CPU as the system reports them."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.partition(":")[0].strip() in CPU_FIELDS)
    return f"{platform.machine()} {platform.processor()}"


def compile_library(
    compiler: str,
    target: Path,
    *,
    source: Path = SOURCE,
    flags: Sequence[str] = FLAGS,
    limit: float = COMPILE_LIMIT,
) -> None:
    """Compile `source` to the library `target`, which appears complete or not at all.

    Raises:
        FusionError: the compiler fails or takes more than `limit` seconds, or the library cannot
            be stored in a folder that only the user can change.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="restormer-") as folder:
            library = Path(folder) / "block.so"
            run_limited([compiler, *flags, str(source), "-o", str(library)], limit)
            store(target, library.read_bytes())
    except OSError as error:
        raise FusionError(f"{target}: {error.strerror or error}") from error
