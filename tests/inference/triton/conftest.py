"""Run the kernels on a CPU, in Triton's interpreter, which `tests/conftest.py` selects.

Triton is not a dependency. To run these tests, `pip install triton`, or install it into a folder
that PYTHONPATH names.
"""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="package")
def kernels():
    """Return the kernels, in an interpreter that rounds bf16 as a GPU does."""
    with pytest.MonkeyPatch.context() as patch:
        pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
        from triton import language as tl
        from triton.runtime import interpreter

        from restormer_cli.inference.triton.blocks import TritonKernels

        builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
        cast_impl, patch_tensor = builder.cast_impl, interpreter._patch_lang_tensor

        def widened(a):
            if a.dtype.scalar != tl.bfloat16:
                return a.data.astype(np.float32)
            return (a.data.astype(np.uint32) << 16).view(np.float32)

        def create_dot(self, a, b, d, *_):
            return handle(widened(a) @ widened(b) + d.data, d.dtype.scalar)

        def cast(self, source, target):
            if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
                bits = source.data.view(np.uint32)
                rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
                rounded = np.where(np.isnan(source.data), 0x7FC0, rounded)
                return handle(rounded.astype(np.uint16), tl.bfloat16)
            return cast_impl(self, source, target)

        def patch_index(tensor, *scope):
            patch_tensor(tensor, *scope)
            # Old releases convert arrays of one element, which NumPy no longer allows.
            tensor.__index__ = lambda self: self.handle.data.item()

        patch.setattr(interpreter, "_patch_lang_tensor", patch_index)
        patch.setattr(builder, "create_dot", create_dot)
        patch.setattr(builder, "cast_impl", cast)
        yield TritonKernels()
