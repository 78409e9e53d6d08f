"""Compiling kernels without launching them."""

from __future__ import annotations

import pytest
import torch

from restormer_cli.inference.blocking import Region
from restormer_cli.inference.fusion.check import Case, random_block

CASE = Case("", random_block(16, 1, expansion=0.75), Region(0, 3, 0, 3), (5, 5))


@pytest.fixture
def compile_together(kernels):
    """Return the function, which imports Triton."""
    from restormer_cli.inference.triton.launch import compile_together

    return compile_together


@pytest.fixture
def in_threads(kernels):
    """Skip a test if this Triton cannot compile in threads."""
    import triton

    if not hasattr(triton, "AsyncCompileMode"):
        pytest.skip(f"Triton {triton.__version__} cannot compile in threads")


@pytest.mark.usefixtures("in_threads")
def test_compiling_launches_nothing(kernels, compile_together, monkeypatch):
    """Kernels are compiled for every call, and launched only by later ones."""
    from triton.runtime.interpreter import InterpretedFunction

    compiled, run = [], InterpretedFunction.run

    def record(self, *arguments, warmup, **options):
        compiled.append(warmup)
        return run(self, *arguments, warmup=warmup, **options)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    inputs = CASE.inputs(torch.float32)
    compile_together([lambda: CASE.fused(kernels, *inputs)] * 2)
    assert compiled == [True] * 12
    with torch.inference_mode():
        assert CASE.compare(kernels, torch.float32) == ""


@pytest.mark.usefixtures("in_threads")
def test_a_failure_is_left_to_the_launch(compile_together):
    """What fails while kernels are compiled raises nothing, and later launches are real."""
    done = []
    compile_together([lambda: done.append(1), lambda: 1 / 0, lambda: done.append(2)])
    assert done == [1]


def test_older_releases_of_triton(compile_together, monkeypatch):
    """A Triton that cannot compile in threads is given no calls."""
    import triton

    monkeypatch.delattr(triton, "AsyncCompileMode", raising=False)
    done = []
    compile_together([lambda: done.append(1)])
    assert done == []
