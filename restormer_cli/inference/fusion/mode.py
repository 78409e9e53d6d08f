"""The setting of the fused blocks, for CPUs and CUDA: its variable is older than the latter.

Does not import PyTorch, so that wrong values are found early.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ...errors import UsageError

VARIABLE = "RESTORMER_NATIVE"
MODES = ("auto", "off", "require")

_override: ContextVar[str | None] = ContextVar("fusion_mode", default=None)


def fusion_mode() -> str:
    """Return "auto", "off" or "require".

    Raises:
        UsageError: the environment variable has another value.
    """
    mode = _override.get() or os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise UsageError(f"{VARIABLE} is {mode!r}", f"Set it to one of {', '.join(MODES)}.")
    return mode


@contextmanager
def override_fusion(mode: str) -> Iterator[None]:
    """Replace the setting in this context."""
    token = _override.set(mode)
    try:
        yield
    finally:
        _override.reset(token)
