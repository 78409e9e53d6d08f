"""Restore photographs with the Restormer network, from Python.

    from restormer_cli import Restorer

    denoise = Restorer("denoise")
    clean = denoise(noisy)  # H W C, uint8, uint16 or float32

`Restorer` chooses weights and device; `load_network` gives a network in eval mode, whose plain
forward takes B C H W in 0..1; `restore` runs a network on tensors of any size.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .checkpoints.serialization import load_network
    from .inference.engine import restore
    from .inference.restorer import Restorer

__all__ = ["Restorer", "__version__", "load_network", "restore"]

_HOME = {
    "Restorer": "inference.restorer",
    "load_network": "checkpoints.serialization",
    "restore": "inference.engine",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
