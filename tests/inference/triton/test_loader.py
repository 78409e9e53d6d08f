"""The choice of the kernels: what is checked, what is refused, and what is remembered.

Stand-ins take the place of the kernels and of the GPU, which no machine of the tests has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import torch

from restormer_cli.errors import DeviceError
from restormer_cli.inference import fusion_status, override_fusion, strips
from restormer_cli.inference.blocking import BlockShape, block_convolution
from restormer_cli.inference.fusion import dispatch
from restormer_cli.inference.fusion.cache import cache_folder
from restormer_cli.inference.fusion.check import block_widths, eager_passes, random_block
from restormer_cli.inference.fusion.dispatch import Fusion, fusion_for, uses_fused_block
from restormer_cli.inference.fusion.passes import FusedPasses, FusionError
from restormer_cli.inference.fusion.verdict import NOT_BUILT, Verdict
from restormer_cli.inference.triton import loader
from restormer_cli.inference.triton.check import check, examine
from restormer_cli.network import Architecture, same
from tests.support.networks import assert_close, random_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
A = Architecture(dim=8, blocks=(1, 1, 1, 1), refinement=1, heads=(1, 2, 2, 4), expansion=0.75)
FAILED = "the check failed: python failed with status 1: CompilationError: at 3:4"
FAST = {channels: 2.0 for channels, _ in block_widths(A)}


class StandIn(FusedPasses):
    """A block that gives PyTorch's results on whole maps, later or a little wrong."""

    def __init__(self, w, dtype, delay, error):
        super().__init__(w)
        self.w, self.dtype, self.delay, self.error = w, dtype, delay, error

    def sums(self, x, region, size):
        time.sleep(self.delay)
        sums, _ = eager_passes(self.w, None, self.dtype)
        return sums(x, region, self._convolve(region, size, x))

    def packed(self, matrices):
        return matrices

    def finish(self, x, mixing, region, size):
        _, finish = eager_passes(self.w, mixing, self.dtype)
        return finish(x, region, self._convolve(region, size, x)) * (1 + self.error)

    @staticmethod
    def _convolve(region, size, x):
        covers = x.shape[1:3] == size and (region.bottom, region.right) == size
        return same if covers else block_convolution(region, *size)


@dataclass(frozen=True)
class StandIns:
    """Kernels that need no GPU."""

    delay: float = 0
    error: float = 0
    instructions: str = "stand-in"

    def supports(self, dtype):
        return True

    def fits(self, channels, heads):
        return True

    def block(self, w, dtype):
        return StandIn(w, dtype, self.delay, self.error)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """Start each test as a new process does, on a machine that seems to have Triton and a GPU."""
    monkeypatch.setenv("RESTORMER_NATIVE", "auto")
    monkeypatch.setattr(dispatch, "_seconds_of_work", 0.0)
    monkeypatch.setattr(loader, "_opened", {})
    monkeypatch.setattr(loader, "device_model", lambda _: "a GPU")
    for module in (loader, dispatch):
        monkeypatch.setattr(module, "triton_version", lambda: "3.6")
    monkeypatch.setattr(loader, "load_kernels", StandIns)


@pytest.fixture
def verdict(monkeypatch):
    """Set the verdict of the check; return the number of checks so far."""
    checks = []

    def verdict(verdict):
        monkeypatch.setattr(loader, "examine", lambda *_: checks.append(1) or verdict)
        return checks

    return verdict


def chosen(size=(1 << 20, 1 << 20), window=None):
    return fusion_for(A, size, torch.bfloat16, CUDA, window)


def run_check(kernels, dtype=torch.float32):
    with torch.inference_mode():
        return check(kernels, A, dtype, CPU, values=1 << 10)


def test_equal_kernels_pass_the_check():
    """Kernels with PyTorch's results are approved, with their speed at every width."""
    verdict = run_check(StandIns())
    assert verdict.cause == ""
    assert verdict.speed is not None
    assert set(verdict.speed["float"]) == {8, 16, 32, 64}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_wrong_kernels_are_refused(dtype, error):
    """Kernels whose results differ by more than the type's rounding are not used."""
    assert "finished differs by" in run_check(StandIns(error=error), dtype).cause


def test_nan_is_refused():
    """Kernels that return NaN are not used."""
    assert "differs by nan" in run_check(StandIns(error=torch.nan)).cause


def test_slow_kernels_are_refused(verdict):
    """Kernels that are right and slower than PyTorch's functions are not used."""
    slow = run_check(StandIns(delay=0.1))
    assert slow.cause == ""
    assert slow.speed is not None
    assert max(slow.speed["float"].values()) < 1
    verdict(Verdict("", "Triton", {"bf16": slow.speed["float"]}))
    fusion = chosen()
    assert fusion is not None
    assert fusion.block(random_block(8, 1)) is None


@dataclass(frozen=True)
class TooWide(StandIns):
    """Kernels that cannot run at 32 channels or more, or at fewer."""

    least: int = 32

    def block(self, w, dtype):
        if w.ffn_out.weight.shape[0] >= self.least:
            raise FusionError("OutOfResources: shared memory")
        return super().block(w, dtype)


def test_a_gpu_that_is_too_small_for_a_width(verdict, monkeypatch):
    """A width that cannot run is left to PyTorch, also if the kernels are required."""
    result = run_check(TooWide())
    assert result.cause == ""
    assert result.speed is not None
    assert [c for c, ratio in result.speed["float"].items() if ratio] == [8, 16]
    monkeypatch.setattr(loader, "load_kernels", TooWide)
    verdict(Verdict("", "Triton", {"bf16": result.speed["float"]}))
    with override_fusion("require"):
        fusion = chosen()
    assert fusion is not None
    used = [c for c, heads in sorted(set(block_widths(A))) if fusion.block(random_block(c, heads))]
    assert used == [8, 16, 16]


def test_a_gpu_that_is_too_small_for_every_width():
    """If no width can run, the first failure is the reason."""
    assert run_check(TooWide(least=0)).cause == "8 channels: OutOfResources: shared memory"


def test_only_faster_widths_are_used(verdict):
    """The kernels are used at the widths where they are faster."""
    verdict(Verdict("", "Triton", {"bf16": FAST | {16: 0.9}}))
    fusion = chosen()
    assert fusion is not None
    used = [c for c, heads in sorted(set(block_widths(A))) if fusion.block(random_block(c, heads))]
    assert used == [8, 32, 64]


def test_slow_widths_are_remembered_and_described(verdict):
    """The verdict is kept if some widths are slow, and the status names them."""
    checks = verdict(Verdict("", "Triton", {"bf16": FAST | {32: 0.9, 64: 0.5}}))
    fast = "Triton, bf16 2.0 to 2.0 times as fast"
    for _ in range(2):
        assert fusion_status(A, torch.bfloat16, CUDA, build=True) == (
            f"{fast} (PyTorch's functions at 32, 64 channels)"
        )
        assert uses_fused_block(A, torch.bfloat16, CUDA)
        loader._opened.clear()  # another process
    assert len(checks) == 1
    with override_fusion("require"):
        assert fusion_status(A, torch.bfloat16, CUDA) == "Triton, bf16 0.5 to 2.0 times as fast"


def test_kernels_that_are_slow_everywhere_are_described(verdict):
    """Kernels that no block uses are reported as not used."""
    verdict(Verdict("", "Triton", {"bf16": dict.fromkeys(FAST, 0.5)}))
    assert not uses_fused_block(A, torch.bfloat16, CUDA)
    assert fusion_status(A, torch.bfloat16, CUDA) == (
        "Triton, bf16 not used: no faster than PyTorch's functions"
    )
    with override_fusion("require"):
        assert uses_fused_block(A, torch.bfloat16, CUDA)


def test_a_check_that_fails_is_the_reason(verdict):
    """What ends the check is shown; results are PyTorch's; it is not tried again at once."""
    checks = verdict(Verdict(FAILED))
    assert chosen() is None
    loader._opened.clear()  # another process
    assert chosen() is None
    assert len(checks) == 1
    assert fusion_status(A, torch.bfloat16, CUDA) == "not used: " + FAILED
    loader._opened.clear()
    assert fusion_status(device=CUDA).endswith("last check: not used: " + FAILED)
    with override_fusion("require"), pytest.raises(DeviceError, match="CompilationError"):
        chosen()
    assert len(checks) == 2


def test_a_real_check_without_a_gpu():
    """The process of the check reports why it failed, whatever is missing there."""
    verdict = examine(A, torch.bfloat16, CUDA)
    assert "the check failed: python" in verdict.cause


def test_short_work_compiles_nothing(verdict):
    """Nothing is compiled for a small image; after a long run, later processes use it at once."""
    checks = verdict(Verdict("", "Triton", {"bf16": FAST}))
    assert chosen((64, 64)) is None
    assert fusion_status(A, torch.bfloat16, CUDA) == f"not used: {NOT_BUILT}"
    assert fusion_status(device=CUDA) == "Triton 3.6, not checked yet"
    assert checks == []
    assert chosen() is not None
    loader._opened.clear()
    assert chosen((64, 64)) is not None
    assert len(checks) == 1
    assert fusion_status(A, torch.bfloat16, CUDA) == "Triton, bf16 2.0 to 2.0 times as fast"


def test_another_network_is_checked_anew(verdict):
    """A verdict holds for a network, a type of features, a GPU and a version of Triton."""
    paths = {
        loader.verdict_path(a, dtype, CUDA, version)
        for a in (A, Architecture())
        for dtype in (torch.float32, torch.bfloat16)
        for version in ("3.6", "3.7")
    }
    assert len(paths) == 8
    assert {path.parent for path in paths} == {cache_folder()}


def test_off_and_require(verdict):
    """`off` uses PyTorch's functions, `require` the kernels at every width, for any image."""
    verdict(Verdict("", "Triton", {"bf16": dict.fromkeys(FAST, 0.5)}))
    with override_fusion("off"):
        assert chosen() is None
        assert fusion_status(A, torch.bfloat16, CUDA) == "off (RESTORMER_NATIVE)"
    with override_fusion("require"):
        fusion = chosen((8, 8))
        assert fusion is not None
        assert fusion.block(random_block(8, 1)) is not None
        with pytest.raises(DeviceError, match="no attention windows"):
            chosen(window=16)
    assert chosen(window=16) is None


def test_without_triton(monkeypatch):
    """Without Triton, PyTorch's functions are used, and the status says why."""
    monkeypatch.setattr(loader, "triton_version", lambda: None)
    monkeypatch.setattr(dispatch, "triton_version", lambda: None)
    assert chosen() is None
    assert not uses_fused_block(A, torch.bfloat16, CUDA)
    assert fusion_status(A, torch.bfloat16, CUDA) == "not used: Triton is not installed"
    assert fusion_status(device=CUDA) == "not used: Triton is not installed"


@pytest.mark.parametrize("halo", [False, True])
def test_the_network_in_the_interpreter(kernels, monkeypatch, halo):
    """The engine with the kernels gives the network's results, in strips and on whole maps."""
    network = random_network(**{name: getattr(A, name) for name in ("dim", "heads", "expansion")})
    image = torch.rand(1, 3, 16, 8)
    fusion = Fusion(kernels, torch.float32, ((A.dim, 2.0),))
    monkeypatch.setattr(strips, "fusion_for", lambda *_: fusion)
    rows = 8 if halo else 16
    result = strips.forward(network, image, blocking=lambda *_: BlockShape(rows, rows, 16, halo))
    with torch.inference_mode():
        assert_close(result, network(image))
    stages, _ = strips.pack(network, torch.float32, fusion)
    assert all(isinstance(block, FusedPasses) for stage in stages.values() for block in stage)
