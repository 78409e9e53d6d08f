"""Memory of this process: how much is free, and whether an error means that it ran out.

No library has a common error for this. Each reports it in its own type and wording, which are
listed here once. Nothing is imported for it: an error's class is found by its name.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import psutil

from .errors import ImageError, RestormerError

if TYPE_CHECKING:
    from types import TracebackType

OUT_OF_MEMORY: dict[str, tuple[str, ...]] = {
    "builtins.MemoryError": ("",),  # Python, NumPy (a subclass), Pillow, zlib, std::bad_alloc
    "torch.OutOfMemoryError": ("",),  # PyTorch's caching allocators, such as that of CUDA
    "builtins.RuntimeError": (
        "can't allocate memory",  # PyTorch's CPU allocator on Linux and macOS
        "not enough memory",  # ... on Windows
        "could not create a primitive",  # oneDNN: no memory for the code or the workspace
        "could not create a memory object",
        "could not execute a primitive",
        "can't start new thread",  # Python: no memory for the thread's stack
        "out of memory",  # "CUDA error: out of memory", "MPS backend out of memory", libavif
        "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED, and others
        "cublas_status_not_initialized",  # no memory for the handle of cuBLAS
        "cudnn_status_not_supported",  # no memory for the workspace of cuDNN
        "unable to find an engine",  # ... in its newer interface
        "unable to find a valid cudnn algorithm",
        "invalid buffer size",  # MPS: larger than one buffer may be
        "bad_alloc",  # C++ (std::bad_alloc) in PyTorch
        "bad allocation",  # ... on Windows
        "memory allocation error",  # libheif
    ),
    "builtins.ImportError": ("failed to map segment", "cannot allocate memory"),
    "builtins.OSError": (
        f"[errno {errno.ENOMEM}]",
        f"(os error {errno.ENOMEM})",  # safetensors
        "out of memory error",  # Pillow's decoders
        "encoder error -9",  # Pillow's encoders
    ),
    "builtins.ValueError": (
        "encoding error 1",  # Pillow's WebP encoder: VP8_ENC_ERROR_OUT_OF_MEMORY
        "encoding error 2",  # ... BITSTREAM_OUT_OF_MEMORY
        "memory allocation error",  # libheif
    ),
    "cv2.error": ("insufficient memory", "out of memory"),
    "zlib.error": ("error -4",),  # Z_MEM_ERROR
    "safetensors_rust.SafetensorError": (f"(os error {errno.ENOMEM})",),
    "rawpy._rawpy.LibRawUnsufficientMemoryError": ("",),
}
"""Phrases in lower case, by the qualified name of the error's class or one of its bases."""


_M_ARENA_MAX = -8  # of <malloc.h>


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that the memory of this process or of a GPU ran out."""
    text = str(error).lower()
    return any(
        phrase in text
        for kind in type(error).__mro__
        for phrase in OUT_OF_MEMORY.get(f"{kind.__module__}.{kind.__qualname__}", ())
    )


def release(error: BaseException | None) -> None:
    """Free what an error and its causes hold: their tracebacks, and so all variables in these.

    An error that is kept, such as that of a future, would keep the tensors of a failed image while
    the next one is computed.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class MemoryGuard(ContextDecorator):
    """Context, or decorator of a function, that turns out-of-memory into an error for the user.

    Args:
        message: what could not be done, after "not enough memory ".
        hint: the remedy.
        kind: class of the error.
    """

    def __init__(
        self,
        message: str,
        hint: str = "Close other programs, or use a machine with more memory.",
        kind: type[RestormerError] = ImageError,
    ) -> None:
        self.message = f"not enough memory {message}"
        self.hint = hint
        self.kind = kind

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise the guard's error instead of one that means out of memory."""
        del trace  # `release` must be able to free it
        if error is not None and is_out_of_memory(error):
            release(error)
            raise self.kind(self.message, self.hint) from error


def available_memory(proc: Path = Path("/proc")) -> int:
    """Return the bytes that this process can still allocate, within all of its limits.

    These are the memory of the machine, the control groups of the process, and its resource limits
    (`ulimit -v`, `ulimit -d`).

    Args:
        proc: the file system with information about processes, on Linux.
    """
    limits = [*_free_in_groups(proc), *_free_below_limits(proc)]
    return max(0, min([psutil.virtual_memory().available, *limits]))


def save_address_space() -> None:
    """Let all threads share one heap if `ulimit -v` limits this process.

    The C library of Linux (glibc) reserves 64 MiB of addresses for the heap of each thread, which
    the limit counts. Call this before threads are started.
    """
    if sys.platform != "linux":
        return
    import resource  # does not exist on Windows

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        with suppress(AttributeError, OSError):  # other C libraries
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def peak_process_memory(proc: Path = Path("/proc")) -> int:
    """Return the peak of this process's resident memory so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # On Linux `ru_maxrss` survives fork and exec: a small process would report its parent's peak.
    if peak := _status(proc).get("VmHWM"):
        return peak
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on other systems


def _status(proc: Path) -> dict[str, int]:
    """Return the sizes of /proc/self/status in bytes; empty on systems without it."""
    sizes = {}
    with suppress(OSError):
        for line in (proc / "self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                sizes[name] = int(value[:-3]) * 1024
    return sizes


def _free_below_limits(proc: Path) -> Iterator[int]:
    """Yield the bytes that the resource limits of this process leave, if it has any."""
    if sys.platform == "win32":
        return
    import resource  # does not exist on Windows

    sizes = _status(proc)
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and name in sizes:
            # Addresses are also taken by stacks and generated code, and by gaps between blocks.
            yield (soft - sizes[name]) * 3 // 4


def _free_in_groups(proc: Path) -> Iterator[int]:
    """Yield the bytes free in each control group of this process that has a limit."""
    for group, (limit_file, usage_file, cache) in _groups(proc):
        with suppress(OSError, ValueError):  # no such file, or "max"
            limit, used = (int((group / name).read_text()) for name in (limit_file, usage_file))
            lines = (group / "memory.stat").read_text().splitlines()
            # The kernel counts the page cache as used, but frees it on demand.
            cached = int(dict(line.split() for line in lines).get(cache, 0))
            yield limit - used + cached


_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of the limit and the usage of a control group, and the field of memory.stat, by version."""


def _groups(proc: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folder of this process's group and of each group above it, and their files.

    See proc_pid_mountinfo(5) and cgroups(7). A limit of a group applies to those below it.
    """
    try:
        mounts = (proc / "self/mountinfo").read_text().splitlines()
        memberships = (proc / "self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    # Controllers -> path, for example "memory" -> "/user/1000"; version 2 has none: "".
    paths = {}
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        before, _, after = line.partition(" - ")
        (root, point), (kind, _, options) = before.split()[3:5], after.split(maxsplit=2)
        controller = "" if kind == "cgroup2" else "memory"
        is_mounted = kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(","))
        if not is_mounted or controller not in paths:
            continue
        # A container may see a part of the hierarchy only, and not the group that it is in.
        inside = PurePosixPath(paths[controller])
        below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        folder = Path(point)
        yield folder, _FILES[kind]
        for part in () if ".." in below.parts else below.parts:
            folder /= part
            yield folder, _FILES[kind]
