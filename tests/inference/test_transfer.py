"""Test the copies to and from a device, on stand-ins for a GPU: a `meta` device, and this CPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from restormer_cli.imaging import from_float, to_float
from restormer_cli.inference import engine, transfer
from restormer_cli.inference.restorer import Restorer

CPU = torch.device("cpu")


def stored(samples: np.ndarray) -> Tensor:
    """Return samples as they are sent to a GPU."""
    return torch.from_numpy(samples.view(np.int16) if samples.dtype == np.uint16 else samples)


def received(y: Tensor, dtype: str) -> np.ndarray:
    """Return samples that a GPU has rounded."""
    return transfer.from_unit(y, np.dtype(dtype)).numpy().view(dtype)


def every_sample(dtype: str) -> np.ndarray:
    return np.arange(np.iinfo(dtype).max + 1).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_samples_become_the_floats_of_the_host(dtype):
    """A GPU scales each integer to the same float, bit for bit."""
    samples = every_sample(dtype)
    floats = transfer.to_unit(stored(samples)).numpy()
    assert floats.dtype == np.float32
    assert floats.tobytes() == to_float(samples).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_samples_survive_the_way_through_a_device(dtype):
    """Scaling each integer and rounding it returns the integer."""
    samples = every_sample(dtype)
    assert np.array_equal(received(transfer.to_unit(stored(samples)), dtype), samples)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_floats_are_rounded_as_on_the_host(dtype):
    """Values beyond 0..1, halves and their neighbours become the same integers."""
    highest = np.float32(np.iinfo(dtype).max)
    halves = (every_sample(dtype).astype(np.float32) + np.float32(0.5)) / highest
    random = np.random.default_rng(0).uniform(-0.2, 1.2, 1_000_000).astype(np.float32)
    around = [np.nextafter(halves, np.float32(side)) for side in (-1, 2)]
    values = np.concatenate([halves, *around, random, np.float32([-0.0, 0, 1, -9, 9])])
    assert np.array_equal(received(torch.from_numpy(values), dtype), from_float(values, dtype))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_device_gets_samples_in_their_own_type(dtype, channels):
    """Only the bytes of the image are sent, and the result there is float32 in 0..1."""
    sent = []
    view = np.zeros((5, 6, channels), dtype)
    meta = torch.device("meta")
    x = transfer.network_input([view], 3, meta, lambda _, source: sent.append(source))
    assert [source.numel() * source.element_size() for source in sent] == [view.nbytes]
    assert (x.device.type, x.dtype, x.shape) == ("meta", torch.float32, (1, 3, 5, 6))


def test_a_contiguous_float_image_is_not_copied_on_a_cpu():
    """A copy of a large photo would take as much memory as a feature map."""
    view = np.zeros((5, 6, 3), np.float32)
    x = transfer.network_input([view], 3, CPU, lambda *_: pytest.fail("copied"))
    assert np.shares_memory(x.numpy(), view)


@pytest.mark.parametrize("size", [0, 1, 100, 101, 250])
def test_staged_copies_are_complete(monkeypatch, size):
    """A buffer smaller than the tensor is used several times, and allocated once."""
    monkeypatch.setattr(transfer, "STAGING_BYTES", 100)
    allocated = []

    def allocate(count: int) -> Tensor:
        allocated.append(count)
        return torch.empty(count, dtype=torch.uint8)

    copy = transfer.StagedCopy(allocate)
    for dtype in (torch.uint8, torch.int16, torch.float32):
        source = torch.arange(size).to(dtype).reshape(-1, 1)
        target = torch.full_like(source, -1 if dtype != torch.uint8 else 255)
        copy(target, source)
        assert torch.equal(target, source)
    assert allocated == [100]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_copies_work_without_page_locked_memory(error):
    """If the system refuses it, tensors are copied directly, and it is not asked again."""
    requests = []

    def refuse(count: int) -> Tensor:
        requests.append(count)
        raise error

    copy = transfer.StagedCopy(refuse)
    for value in (1, 2):
        target = torch.zeros(3)
        copy(target, torch.full((3,), float(value)))
        assert target.tolist() == [value] * 3
    assert len(requests) == 1


class FakeGpu:
    """Tensors of a GPU that lie on this CPU: uploads and downloads as on CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uploads, self.downloads = [], []
        monkeypatch.setattr(transfer, "upload", self.upload)
        monkeypatch.setattr(transfer, "download", self.download)

    def upload(self, samples: np.ndarray, device: torch.device, copy: transfer.Copy) -> Tensor:
        self.uploads.append(samples.dtype.name)
        return transfer.to_unit(stored(np.ascontiguousarray(samples)))

    def download(self, y: Tensor, dtype: np.dtype, copy: transfer.Copy) -> np.ndarray:
        self.downloads.append(dtype.name)
        return received(y[0].permute(1, 2, 0).contiguous(), dtype.name)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("network_channels", [1, 3])
def test_results_are_those_of_the_host(tiny, monkeypatch, dtype, channels, network_channels):
    """Conversions on a device change no sample, and integers are sent both ways."""
    weights = tiny(in_channels=network_channels, out_channels=network_channels)
    restorer = Restorer("denoise", weights=str(weights), device="cpu", precision="fp32")
    unit = np.random.default_rng(0).random((19, 26, *channels), dtype=np.float32)
    image = from_float(unit, dtype)
    expected = restorer(image)
    gpu = FakeGpu(monkeypatch)
    restored = restorer(image)
    assert (gpu.uploads, gpu.downloads) == ([dtype], [dtype])
    assert restored.dtype == image.dtype
    assert np.array_equal(restored, expected)


def test_running_out_of_memory_in_a_transfer_leads_to_the_next_plan(identity, monkeypatch):
    """An image that does not fit on the device as a whole is restored in tiles."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    real, attempts = transfer.upload, []

    def upload(*args):
        attempts.append(args)
        if len(attempts) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args)

    monkeypatch.setattr(transfer, "upload", upload)
    result = restorer.restore(image)
    assert result.strategy == "tiles of 2048"
    assert np.array_equal(result.pixels, image)


def test_the_memory_of_images_on_a_device_is_planned(monkeypatch):
    """Padded copies count, and so do the other channels that a grey network restores."""
    monkeypatch.setattr(engine.strips, "peak_bytes", lambda *_: 0)
    for network_channels, size, samples in ((3, (16, 24), 0), (3, (15, 24), 3), (1, (16, 24), 4)):
        network = SimpleNamespace(
            architecture=SimpleNamespace(in_channels=network_channels, out_channels=3),
            parameters=lambda: iter([torch.empty(0, device="meta")]),
        )
        peak = engine.peak_bytes(network, size, 0, torch.float32)
        assert peak == samples * 4 * 16 * 24
        assert engine.peak_bytes(network, size, 8, torch.float32) == 0


def test_only_cuda_has_page_locked_memory():
    """Other devices copy directly; nothing is allocated before the first copy."""
    assert isinstance(transfer.copy_for(torch.device("cuda")), transfer.StagedCopy)
    for device in (CPU, torch.device("mps")):
        assert transfer.copy_for(device) is Tensor.copy_
