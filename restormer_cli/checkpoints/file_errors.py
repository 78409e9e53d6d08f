"""Errors of checkpoint files. This module does not import torch."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

from ..errors import CheckpointError
from ..files import write_hint
from ..text import reason

MALFORMED = (
    UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""Raised by `torch.load` for damaged or unrelated files, and by `Architecture` and `Restormer` for
invalid metadata and shapes."""


def unreadable_error(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a checkpoint file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(
            f"{path}: no such file",
            "Use a path, hf:ORG/REPO/FILE, a name from `restormer weights list`, or, with "
            "--weights, auto, official or lite.",
        )
    if isinstance(error, IsADirectoryError):
        return CheckpointError(f"{path}: is a folder", "Name the checkpoint file in it.")
    return CheckpointError(f"{path}: {reason(error)}", "Check its permissions.")


def unwritable_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a checkpoint or another file of a network that cannot be written."""
    return CheckpointError(
        f"{path}: cannot be written ({reason(error)})",
        write_hint(error, "Choose a folder that is writable and has free space."),
    )
