"""Compile the Triton kernels for a GPU that need not be there, and list what each one takes.

    python tools/triton_registers.py [CAPABILITY]

CAPABILITY is 90 (H100) by default. Triton must be installed. For each width of the full
network: registers of a thread, bytes of them spilled to the stack, and shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from restormer_cli.inference.blocking import Region
from restormer_cli.inference.fusion.check import random_block
from restormer_cli.inference.tlc import Mixing
from restormer_cli.inference.triton.blocks import TritonBlock

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
WIDTHS = ((48, 1), (96, 1), (96, 2), (192, 4), (384, 8))
"""Channels and heads."""


def compile_instead(
    kernel: JITFunction, capability: int, *arguments: object, **options: object
) -> None:
    """Compile a kernel for the arguments of a launch, and print its registers."""
    settings = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    names = kernel.arg_names
    signature, attributes = {}, {}
    for index, (name, value) in enumerate(zip(names, arguments, strict=False)):
        pointer = isinstance(value, torch.Tensor)
        signature[name] = POINTERS[value.dtype] if pointer else "i32"
        if pointer or (value % 16 == 0 and name not in kernel.do_not_specialize):
            attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(options, "constexpr")
    constants = {(names.index(name),): value for name, value in options.items()}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
    print(f"  {kernel.__name__[1:]:10} {registers(compiled)}")  # noqa: T201


def registers(compiled: CompiledKernel) -> str:
    """Return what NVIDIA's tool says of a compiled kernel; what is spilled is on the stack."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    used = dict(re.findall(r"(\w+):(\d+)", text.replace("\n", " ")))
    shared = compiled.metadata.shared / 1024
    return (
        f"{used['REG']:>3} registers, {used['STACK']} bytes on the stack, {shared:.0f} KiB shared"
    )


def main() -> None:
    """Compile the kernels of a block of each width."""
    capability = int(sys.argv[1]) if len(sys.argv) > 1 else 90

    def launch(kernel: JITFunction, _: object) -> object:
        return lambda *arguments, **options: compile_instead(
            kernel, capability, *arguments, **options
        )

    for dtype in (torch.bfloat16, torch.float32):
        for channels, heads in WIDTHS:
            print(f"{dtype}, {channels} channels, {heads} heads")  # noqa: T201
            block = TritonBlock(random_block(channels, heads), dtype)
            x, region = torch.zeros(1, 16, 16, channels, dtype=dtype), Region(0, 16, 0, 16)
            with torch.no_grad(), mock.patch.object(JITFunction, "__getitem__", launch):
                block.sums(x, region, (16, 16))
                matrices = block.packed(torch.zeros(1, channels, channels))
                mixing = Mixing(([], []), lambda *_, matrices=matrices: matrices)
                block.finish(x, mixing, region, (16, 16))


if __name__ == "__main__":
    main()
