"""Compilers and checks in processes of their own, which may crash or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import restormer_cli

from ...text import reason
from .mode import VARIABLE
from .passes import FusionError
from .verdict import Verdict


def run_check(module: list[str], limit: float, **environment: str) -> Verdict:
    """Run a module of this package with arguments in another process, and read its verdict."""
    root = str(Path(restormer_cli.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment |= {"PYTHONPATH": paths, VARIABLE: "off"}
    try:
        output = run_limited([sys.executable, "-m", *module], limit, **environment)
        return Verdict.from_json(output.strip().rpartition("\n")[2])
    except (FusionError, ValueError) as error:
        return Verdict(f"the check failed: {error}")


def run_limited(command: list[str], limit: float, **environment: str) -> str:
    """Run a command and return its output; stop it and its children after `limit` seconds.

    Raises:
        FusionError: it cannot be started, fails, or takes too long.
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
        raise FusionError(f"{name}: {reason(error)}") from error
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as error:  # also an interrupt, which the new session does not receive
        _stop(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise FusionError(f"{name} took more than {limit:.0f} s") from None
        raise
    if process.returncode < 0:
        raise FusionError(f"{name} was ended by {signal.Signals(-process.returncode).name}")
    if process.returncode:
        last = (errors.strip() or output.strip()).rpartition("\n")[2]
        raise FusionError(f"{name} failed with status {process.returncode}: {last[:200]}")
    return output


def _stop(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
