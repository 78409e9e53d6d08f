"""Run the program: outcome of a command, and helpers for files and processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from restormer_cli.batch import manifest
from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io

PROGRAM = ("-m", "restormer_cli")


@dataclass
class Outcome:
    """Exit status and output of a command."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events printed by `--json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def picture(
    name: str, shape: tuple[int, ...] = (21, 34, 3), dtype: str = "uint8", seed: int = 0
) -> np.ndarray:
    """Write an image of random pixels and return its pixels."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        pixels = rng.random(shape, dtype=np.float32)
    else:
        pixels = rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(Image(pixels), path, quality=100)
    return image_io.read_image(path).pixels


def pixels(name: str) -> np.ndarray:
    return image_io.read_image(Path(name)).pixels


def tree() -> list[str]:
    """List all files below the working folder except manifests."""
    files = (path for path in Path().rglob("*") if path.is_file() and path.name != manifest.NAME)
    return sorted(path.as_posix() for path in files)


def python(
    *arguments: str, stdin: Any = None, stdout: Any = subprocess.PIPE, group: bool = False
) -> Any:
    """Start Python in a new process, and on request in a process group of its own."""
    stderr = stdout if isinstance(stdout, int) and stdout >= 0 else subprocess.PIPE
    command = [sys.executable, *arguments]
    return subprocess.Popen(  # noqa: S603
        command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=group
    )


def have_ended(processes: list[psutil.Process]) -> bool:
    """Wait up to 20 s and return True if all processes have ended."""
    return not psutil.wait_procs(processes, timeout=20)[1]


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command line that can call `restormer`."""
    program = f'restormer() {{ "{sys.executable}" -m restormer_cli "$@"; }}\n'
    wrapper = Path("bin/restormer")
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m restormer_cli "$@"\n')
    wrapper.chmod(0o755)  # xargs and parallel cannot call shell functions
    line = f'PATH="$PWD/bin:$PATH"\n{program}{line}'
    return subprocess.run(["sh", "-c", line], capture_output=True, check=False)  # noqa: S603, S607
