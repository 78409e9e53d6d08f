"""Import packages of the optional extras, and name the extra of a missing one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .errors import RestormerError, UsageError


def require(module: str, extra: str, subject: str, kind: type[RestormerError] = UsageError) -> Any:
    """Import and return a module of an extra.

    Args:
        module: name of the module.
        extra: name of the extra that installs it.
        subject: the option or file that needs it, for the error.
        kind: class of the error.

    Raises:
        RestormerError: the module cannot be imported; of class `kind`.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(module, extra, subject, error, kind) from error


def require_installed(module: str, extra: str, subject: str) -> None:
    """Raise UsageError unless a module is installed, without importing it: see `require`."""
    if find_spec(module) is None:
        raise missing(module, extra, subject, "not installed")


def missing(
    module: str,
    extra: str,
    subject: str,
    cause: object,
    kind: type[RestormerError] = UsageError,
) -> RestormerError:
    """Return the error for a module that cannot be imported because of `cause`: see `require`."""
    return kind(
        f"{subject} needs {module} ({cause})", f"Install it: pip install 'restormer-cli[{extra}]'"
    )
