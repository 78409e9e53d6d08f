"""Run the fused block under the address and undefined-behaviour sanitizers.

Compiles `restormer_cli/inference/native/block.cpp` with them, once for each set of flags given (by
default for this CPU), and compares it with PyTorch's functions on blocks of many shapes. Each part
of the scratch memory is followed by bytes that must not be touched.

    python tools/sanitize.py
    python tools/sanitize.py -march=x86-64 '-mavx2 -mfma' -march=cooperlake

Needs GCC with libasan, on Linux. A finding is printed, and the exit status is 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch

from restormer_cli.inference.blocking import BlockShape, Region, StripRunner, empty_group
from restormer_cli.inference.fusion.check import Case, random_block
from restormer_cli.inference.native.check import cases
from restormer_cli.inference.native.compiler import FLAGS, SOURCE, TARGET, find_compiler
from restormer_cli.inference.native.library import TYPES, Library
from restormer_cli.inference.tlc import Windows

SANITIZERS = (
    *("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-include", "sanitizer/asan_interface.h"),
)
WIDTHS = ((16, 1), (32, 2), (48, 1), (80, 1), (96, 2), (384, 8))
SIZES = ((1, 1), (1, 7), (5, 3), (2, 300), (40, 33))


def compare(library: Library) -> None:
    """Compare the library with PyTorch's functions, as at its first use and on more shapes."""
    more = (
        Case(f"{channels} channels, {size}", weights, Region(0, size[0], 0, size[1]), size)
        for (channels, heads), size in product(WIDTHS, SIZES)
        for weights in [random_block(channels, heads, bias=True)]
    )
    compare_groups(library)
    count = 0
    with torch.inference_mode():
        for case, dtype in product([*cases(), *more], filter(library.supports, list(TYPES))):
            if cause := case.compare(library, dtype):
                sys.exit(f"{case.name}, {dtype}: {cause}")
            count += 1
    print(f"{library.instructions}: {count} blocks are right, no finding")  # noqa: T201


def compare_groups(library: Library) -> None:
    """Apply a block to a map in place, and to one of two groups of channels, which moves."""
    runner = StripRunner(lambda *_: BlockShape(8, 8, 16), lambda f, x: [*map(f, x)], None, 0)
    for size, dtype in product(SIZES, filter(library.supports, list(TYPES))):
        windows = Windows.over(*size, 16)
        block = library.block(random_block(32, 2, bias=True), dtype)
        whole = torch.rand(2, *size, 32).to(dtype)
        groups = [
            empty_group(part.shape, 10, dtype, part.device).copy_(part)
            for part in whole.split(16, -1)
        ]
        for _ in range(2):
            block.transform(runner, [whole], windows)
            block.transform(runner, groups, windows)
        if not torch.equal(torch.cat(groups, -1), whole):
            sys.exit(f"two groups, {size}, {dtype}: another result than with one")


def run(compiler: str, target: str) -> int:
    """Compile for a target and run `compare` in a process with the sanitizer's runtime."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "block.so"
        flags = [*(flag for flag in FLAGS if flag not in (TARGET, "-O2")), *SANITIZERS]
        command = [compiler, *flags, *target.split(), str(SOURCE), "-o", str(library)]
        subprocess.run(command, check=True)  # noqa: S603
        runtimes = [
            subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()  # noqa: S603
            for name in ("libasan.so", "libubsan.so", "libstdc++.so")
        ]
        environment = os.environ | {
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python and PyTorch keep memory
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, __file__, "--library", str(library)]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--library"]:
        compare(Library(Path(sys.argv[2])))
    else:
        compiler, _ = find_compiler()
        sys.exit(max(run(compiler, target) for target in sys.argv[1:] or [TARGET]))
