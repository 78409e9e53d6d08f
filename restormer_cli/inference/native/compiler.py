"""Compile block.cpp for this CPU and keep the library in the user's cache.

The cache is `restormer/native` in `HF_HOME`, as for downloaded weights. A library's name contains a
hash of everything that it depends on, so that computers with different CPUs can share the folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import constants

from ...files import write_atomic

SOURCE = Path(__file__).with_name("block.cpp")
COMPILERS = ("c++", "g++", "clang++")
TARGET = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"
FLAGS = ("-std=c++17", "-O2", TARGET, "-shared", "-fPIC")

CPU_FIELDS = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # ARM
)
"""Fields of /proc/cpuinfo that are constant."""

COMPILE_LIMIT = 120.0
"""Seconds after which the compiler is stopped; on an idle CPU it takes 2."""


class NativeError(Exception):
    """The fused block cannot be used; the message is the cause."""


def cache_folder() -> Path:
    """Return the folder of the compiled libraries."""
    return Path(constants.HF_HOME) / "restormer" / "native"


def find_compiler(limit: float = COMPILE_LIMIT) -> tuple[str, str]:
    """Return the path of the C++ compiler and its version.

    Raises:
        NativeError: there is none, or it does not report its version within `limit` seconds.
    """
    path = next(filter(None, map(shutil.which, COMPILERS)), None)
    if path is None:
        raise NativeError(f"no C++ compiler was found ({', '.join(COMPILERS)})")
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


def build(
    compiler: str,
    target: Path,
    *,
    source: Path = SOURCE,
    flags: Sequence[str] = FLAGS,
    limit: float = COMPILE_LIMIT,
) -> None:
    """Compile `source` to the library `target`, which appears complete or not at all.

    Raises:
        NativeError: the compiler fails or takes more than `limit` seconds, or the library cannot
            be stored in a folder that only the user can change.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="restormer-") as folder:
            library = Path(folder) / "block.so"
            run_limited([compiler, *flags, str(source), "-o", str(library)], limit)
            store(target, library.read_bytes())
    except OSError as error:
        raise NativeError(f"{target}: {error.strerror or error}") from error


def store(path: Path, data: bytes) -> None:
    """Write a file of the cache that only the user can change.

    Raises:
        OSError: it cannot be written.
        NativeError: others can change the folder.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    require_private(path.parent)
    write_atomic(path, data)
    path.chmod(0o600)


def require_private(path: Path) -> None:
    """Check that only the user can change a file or folder: a library is code.

    Raises:
        OSError: it does not exist or cannot be examined.
        NativeError: it belongs to another user, or others can write to it.
    """
    if os.name != "posix":  # other systems have neither owners as numbers nor these permissions
        return
    status = path.lstat() if path.suffix else path.stat()
    if status.st_uid != os.getuid():
        raise NativeError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NativeError(f"{path} can be changed by other users")


def run_limited(command: list[str], limit: float, **environment: str) -> str:
    """Run a command and return its output; stop it and its children after `limit` seconds.

    Raises:
        NativeError: it cannot be started, fails, or takes too long.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env=os.environ | environment,
        )
    except OSError as error:
        raise NativeError(f"{name}: {error.strerror}") from error
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as error:  # also an interrupt, which the new session does not receive
        _stop(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise NativeError(f"{name} took more than {limit:.0f} s") from None
        raise
    if process.returncode < 0:
        raise NativeError(f"{name} was ended by {signal.Signals(-process.returncode).name}")
    if process.returncode:
        last = (errors.strip() or output.strip()).rpartition("\n")[2]
        raise NativeError(f"{name} failed with status {process.returncode}: {last[:200]}")
    return output


def _stop(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
