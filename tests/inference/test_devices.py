"""Test devices with fake GPUs: memory, precision, and releases of PyTorch with known faults."""

from __future__ import annotations

import threading
from copy import deepcopy
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restormer_cli.errors import DeviceError, ImageError
from restormer_cli.inference import devices, engine
from restormer_cli.inference.blocking import shapes
from restormer_cli.inference.restorer import Restorer
from restormer_cli.network.restormer import Restormer
from tests.support.networks import VARIANTS

CUDA, MPS = torch.device("cuda:1"), torch.device("mps")
GIB = 1 << 30


class FakeCuda:
    """The memory of a GPU as PyTorch's allocator manages it: freed tensors stay reserved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int) -> None:
        self.total, self.reserved, self.allocated = total, 0, 0
        for name in ("mem_get_info", "memory_reserved", "memory_allocated"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def run(self, peak: int) -> None:
        self.reserved = max(self.reserved, peak)

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        assert device == CUDA
        return self.total - self.reserved, self.total

    def memory_reserved(self, device: torch.device) -> int:
        assert device == CUDA
        return self.reserved

    def memory_allocated(self, device: torch.device) -> int:
        assert device == CUDA
        return self.allocated


def test_the_second_image_of_a_folder_has_the_plan_of_the_first(identity, monkeypatch):
    """What PyTorch keeps from the first image is free for the second."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    restorer.device = CUDA
    whole = restorer_plan_bytes(restorer, (3000, 4000))
    gpu = FakeCuda(monkeypatch, total=whole * 5 // 4)
    gpu.allocated = gpu.reserved = whole // 100  # the network
    first = restorer.plan(3000, 4000)
    gpu.run(gpu.allocated + first.peak_bytes)
    assert restorer.plan(3000, 4000) == first
    assert first.strategy == "whole"


def restorer_plan_bytes(restorer: Restorer, size: tuple[int, int]) -> int:
    return engine.peak_bytes(restorer.network, size, 0, torch.float32)


def test_memory_of_mps_is_that_of_the_machine(monkeypatch):
    """Other programs take it, too; what PyTorch keeps is free."""
    values = {"recommended_max_memory": 24, "current_allocated_memory": 2}
    values["driver_allocated_memory"] = 5
    for name, value in values.items():
        monkeypatch.setattr(torch.mps, name, lambda value=value: value * GIB)
    for available, free in ((30, 22), (10, 13)):
        monkeypatch.setattr(devices, "available_memory", lambda a=available: a * GIB)
        assert devices.free_memory(MPS) == free * GIB


def test_a_gpu_is_waited_for_by_name(monkeypatch):
    """Without the device, PyTorch would wait for the first GPU."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(MPS))
    for device in (CUDA, MPS, torch.device("cpu")):
        devices.synchronize(device)
    assert waited == [CUDA, MPS]


def test_waiting_for_cuda_leaves_the_core_to_others(monkeypatch):
    """The thread sleeps until the work of the device's own stream is done."""
    calls = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            calls.append(blocking)

        def record(self, stream: object) -> None:
            calls.append(stream)

        def synchronize(self) -> None:
            calls.append("done")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    for device in (CUDA, MPS, torch.device("cpu")):
        devices.sleep_until_done(device)
    assert calls == [True, CUDA, "done"]


settings = attrgetter(
    "cudnn.allow_tf32",
    "cuda.matmul.allow_tf32",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
)


def test_full_precision_is_restored_after_the_last_user():
    """Threads may overlap: the first one to leave must not change the precision of the other."""
    before = settings(torch.backends)
    assert True in before
    entered, leave = threading.Event(), threading.Event()

    def use() -> None:
        with devices.full_precision():
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=use)
    with devices.full_precision():
        other.start()
        entered.wait(10)
    assert not any(settings(torch.backends))
    leave.set()
    other.join()
    assert settings(torch.backends) == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs PyTorch 2.9")
def test_newer_settings_of_the_user_are_kept():
    """PyTorch 2.9 has other settings, after whose change the older ones cannot be read."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with devices.full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


@given(
    channels=st.sampled_from([3, 16, 48, 96, 384]),
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    free=st.integers(0, 128).map(lambda n: n * GIB),
    limit=st.sampled_from([None, GIB]),
)
def test_blocks_of_a_gpu(channels, height, width, free, limit):
    """They fill it, and no tensor exceeds its limit."""
    shape = shapes.block_shape_on_gpu(free, limit, 4, channels, height, width)
    assert shape.rows % 2 == 0
    assert not shape.halo
    assert shape.rows * shape.columns <= shapes.GPU_BLOCK_PIXELS + 2 * width
    if limit:
        assert shape.rows * shape.columns * channels * 4 * shapes.WIDEST <= limit
    fine = shapes.smaller_blocks(lambda *_: shape)(channels, height, width)
    assert fine.rows <= max(2, shape.rows // 4)
    assert not fine.halo


def test_tensors_larger_than_mps_supports(identity, monkeypatch):
    """MPS would abort the process: large images are restored in tiles, or rejected."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    pixels = restorer.architecture.dim * 4 * 3000 * 4000
    monkeypatch.setattr(engine, "largest_tensor", lambda _: pixels)
    assert restorer.plan(3000, 4000).strategy == "whole"
    monkeypatch.setattr(engine, "largest_tensor", lambda _: pixels - 1)
    assert restorer.plan(3000, 4000).strategy == "tiles of 2048"
    whole = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32", tile=0)
    with pytest.raises(ImageError, match="4000 x 3000 pixels need a larger tensor"):
        whole.plan(3000, 4000)
    assert devices.largest_tensor(MPS) == GIB
    assert devices.largest_tensor(CUDA) is devices.largest_tensor(torch.device("cpu")) is None


NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCompile with ..."


@pytest.mark.parametrize("works_at_first", [False, True])
def test_failures_of_a_gpu_are_errors_of_the_device(identity, monkeypatch, works_at_first):
    """A GPU that does not work fails when the network is loaded; one that fails later, then."""

    def fail(*_, **__):
        raise RuntimeError(NO_KERNEL)

    monkeypatch.setattr(devices, "choose_device", lambda _: CUDA)
    monkeypatch.setattr(Restormer, "to", lambda network, _: network)  # stays on the CPU
    FakeCuda(monkeypatch, total=GIB)
    options = {"weights": str(identity()), "precision": "fp32"}
    if works_at_first:
        restorer = Restorer("denoise", **options)
        monkeypatch.setattr(engine, "restore", fail)
        with pytest.raises(DeviceError, match=r"^cuda:1 failed \(CUDA error: no kernel image"):
            restorer(np.zeros((24, 24, 3), np.uint8))
        return
    monkeypatch.setattr(engine, "restore", fail)
    with pytest.raises(DeviceError, match=r"^cuda:1 failed \(CUDA error: no kernel image") as error:
        Restorer("denoise", **options)
    assert "--device cpu" in error.value.hint
    assert "\n" not in error.value.message


def test_defects_are_not_taken_for_failures_of_a_gpu():
    """Other errors of PyTorch, and those on a CPU, are raised unchanged."""
    for device, text in ((CUDA, "The size of tensor a must match"), (torch.device("cpu"), "CUDA")):
        with pytest.raises(RuntimeError, match=text), devices.device_errors(device):
            raise RuntimeError(text)


@pytest.mark.parametrize("difference", [20.0, float("nan"), None])
def test_mps_is_verified_when_the_network_is_loaded(identity, monkeypatch, difference):
    """A wrong kernel on the device is found by comparing it with the CPU, and refused."""
    monkeypatch.setattr(devices, "choose_device", lambda _: MPS)
    monkeypatch.setattr(Restormer, "to", lambda network, _: network)  # stays on the CPU
    options = {"weights": str(identity()), "precision": "fp32"}
    if difference is None:
        assert Restorer("denoise", **options).device == MPS
        return
    monkeypatch.setattr(engine, "psnr_to_cpu", lambda _: difference)
    with pytest.raises(DeviceError, match="computes wrong results on mps") as failure:
        Restorer("denoise", **options)
    assert "--device cpu" in failure.value.hint


def test_batches_of_tiles_within_the_largest_tensor(monkeypatch):
    """The number of tiles in a batch follows the limit of tensors, too."""
    network = deepcopy(VARIANTS["rgb_bias_free"]).to("meta")
    monkeypatch.setattr(engine, "free_memory", lambda _: 1 << 40)
    widest = shapes.WIDEST * 2 * network.architecture.dim * 4 * 64 * 64
    for limit, count in ((widest * 3, 3), (widest // 2, 1)):
        monkeypatch.setattr(engine, "largest_tensor", lambda _, limit=limit: limit)
        assert engine.tiles_at_once(network, 64, torch.float32) == count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:3", "device cuda:3 is not available"),
        ("cuda:257", "device cuda:257 is not available"),  # PyTorch would choose cuda:1
        ("cpu:256", "device cpu:256 is not available"),
        (f"cuda:{'9' * 5000}", "is not available"),
        ("cuda:01", "unknown device 'cuda:01'"),
        ("cuda:\u0661", "unknown device"),  # a digit of another script
        ("cuda:", "unknown device"),
        ("cuda,cuda", "unknown device"),
    ],
)
def test_indices_of_devices_are_checked_before_pytorch_sees_them(name, message, monkeypatch):
    """PyTorch wraps large indices, and its errors for others have no remedy."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.choose_device("cuda") == torch.device("cuda")
    assert devices.choose_device("cuda:2") == torch.device("cuda:2")
    assert devices.choose_device("cpu:0") == torch.device("cpu:0")
    with pytest.raises(DeviceError, match=message) as failure:
        devices.choose_device(name)
    assert failure.value.hint


def test_training_on_mps_needs_a_release_with_right_gradients(monkeypatch):
    """Older releases are refused with the remedy; other devices are not concerned."""
    versions = {"2.13.1": True, "2.14.0a0+git1": True, "2.14.0": False, "3.0": False}
    for version, refused in versions.items():
        fake = SimpleNamespace(__version__=torch.torch_version.TorchVersion(version))
        monkeypatch.setattr(devices, "torch", fake)
        devices.check_training_device(CUDA)
        if refused:
            with pytest.raises(DeviceError, match="wrong gradients on mps") as failure:
                devices.check_training_device(MPS)
            assert "2.14" in failure.value.hint
        else:
            devices.check_training_device(MPS)
