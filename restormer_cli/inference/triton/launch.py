"""Launch Triton kernels, or only compile them, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from ..fusion.passes import FusionError

_compiles_only: ContextVar[bool] = ContextVar("compiles_only", default=False)


def compile_together(calls: Iterable[Callable[[], object]]) -> None:
    """Compile the kernels that functions would launch in parallel threads, and launch none.

    Does nothing with older releases of Triton. A failure is raised when the kernel is launched.
    """
    mode = getattr(triton, "AsyncCompileMode", None)
    if mode is None:
        return

    def compile_all() -> None:
        _compiles_only.set(True)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool, mode(pool, ignore_errors=True):
            for call in calls:
                call()

    with suppress(Exception):
        copy_context().run(compile_all)


def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Launch a kernel on the device of its first argument; Triton would take the current one.

    Raises:
        FusionError: it cannot be compiled, or takes more of a multiprocessor than there is.
    """
    try:
        with torch.cuda.device_of(x):
            if _compiles_only.get():
                kernel.warmup(x, *arguments, grid=grid, **options)
            else:
                kernel[grid](x, *arguments, **options)
    except TritonError as error:
        raise FusionError(f"{type(error).__name__}: {str(error).strip()[:200]}") from error
