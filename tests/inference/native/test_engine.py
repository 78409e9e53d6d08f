"""The engine with the fused block gives the results of the network."""

from __future__ import annotations

from ctypes import byref

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restormer_cli.errors import DeviceError, UsageError
from restormer_cli.inference import strips
from restormer_cli.inference.blocking import BlockShape
from restormer_cli.inference.fusion import dispatch
from restormer_cli.inference.fusion.mode import override_fusion
from restormer_cli.inference.native.library import FusedBlock
from restormer_cli.network import Architecture
from tests.support.networks import assert_close, random_network

pytestmark = pytest.mark.usefixtures("built")

SMALL = {"dim": 16, "heads": (1, 2, 2, 4)}
NETWORKS = {
    "rgb": random_network(**SMALL),
    "biased": random_network(**SMALL, bias=True),
    "grey": random_network(**SMALL, in_channels=1, out_channels=1, layer_norm="BiasFree"),
    "dual_pixel": random_network(**SMALL, in_channels=6, dual_pixel=True),
}


@pytest.fixture(autouse=True)
def required(monkeypatch):
    """Fail instead of using PyTorch's functions."""
    monkeypatch.setenv("RESTORMER_NATIVE", "require")


def plain(network, image):
    with torch.inference_mode():
        return network(image)


even = st.integers(2, 40).map(lambda n: 2 * n)
eights = st.integers(1, 8).map(lambda n: 8 * n)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=eights, width=eights, strip=even, rows=even, columns=even)
def test_strips_of_any_height_give_the_plain_forward(name, height, width, strip, rows, columns):
    """For any image size, strips and blocks, the result is that of one whole-image pass."""
    network = NETWORKS[name]
    image = torch.rand(1, network.architecture.in_channels, height, width)
    result = strips.forward(network, image, blocking=lambda *_: BlockShape(strip, rows, columns))
    assert_close(result, plain(network, image))
    request = network.architecture, (64, 64), torch.float32, torch.device("cpu"), None
    stages, _ = strips.pack(network, torch.float32, dispatch.fusion_for(*request))
    assert all(isinstance(block, FusedBlock) for blocks in stages.values() for block in blocks)


@pytest.mark.parametrize("rows", [8, 40])
def test_groups_of_channels_that_vectors_do_not_divide(rows):
    """Where only one of a level's two widths fits the library, both are right."""
    network, image = random_network(dim=24, heads=(1, 1, 2, 4)), torch.rand(2, 3, 40, 24)
    result = strips.forward(network, image, blocking=lambda *_: BlockShape(rows, rows, 16))
    assert_close(result, plain(network, image))


def test_images_of_a_batch_do_not_mix():
    """Each image of a batch has its own attention."""
    images = torch.rand(3, 3, 40, 24)
    assert_close(strips.forward(NETWORKS["rgb"], images), plain(NETWORKS["rgb"], images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_nothing(dtype):
    """One thread and two give the same bits, also inside torch.inference_mode."""
    network, image = NETWORKS["biased"], torch.rand(1, 3, 160, 136)
    try:
        single = strips.forward(network, image, dtype)
        torch.set_num_threads(2)
        with torch.inference_mode():
            double = strips.forward(network, image.clone(), dtype)
    except DeviceError as error:
        pytest.skip(error.message)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(single, double)


def test_bf16_is_as_close_to_fp32_as_pytorch(monkeypatch):
    """In bf16, the error is no larger than that of PyTorch's functions."""
    network, image = NETWORKS["rgb"], torch.rand(1, 3, 96, 96)
    try:
        native = strips.forward(network, image, torch.bfloat16)
    except DeviceError as error:
        pytest.skip(error.message)
    monkeypatch.setenv("RESTORMER_NATIVE", "off")
    eager, exact = strips.forward(network, image, torch.bfloat16), plain(network, image)
    assert not torch.equal(native, eager)
    assert (native - exact).square().mean() <= 1.1 * (eager - exact).square().mean()


def test_changed_weights_are_used():
    """Weights are packed again after they change, and after the mode changes."""
    network = random_network(**SMALL)
    image = torch.rand(1, 3, 16, 16)
    before = strips.forward(network, image)
    with torch.no_grad():
        network.latent[0].ffn.project_out.weight.mul_(3)
    after = strips.forward(network, image)
    assert not torch.equal(before, after)
    assert_close(after, plain(network, image))


def test_progress_counts_every_strip_and_can_cancel():
    """Progress is that of PyTorch's functions, and an exception in it ends the run."""
    reports: list[tuple[int, int]] = []
    image = torch.rand(1, 3, 72, 40)
    strips.forward(NETWORKS["rgb"], image, progress=lambda *report: reports.append(report))
    assert [done for done, _ in reports] == list(range(1, reports[-1][1] + 1))

    def cancel(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strips.forward(NETWORKS["rgb"], image, progress=cancel)


@pytest.mark.parametrize(
    ("changes", "dtype", "device", "cause"),
    [
        ({}, torch.float16, "cpu", "no fp16"),
        ({}, torch.float32, "meta", "CPUs and CUDA only"),
        ({"dim": 8, "heads": (1, 2, 4, 8)}, torch.float32, "cpu", "multiples of 16"),
    ],
)
def test_what_it_does_not_support(changes, dtype, device, cause, monkeypatch):
    """fp16, other devices and other widths are an error if it is required."""
    a = Architecture(**(SMALL | changes))
    request = a, (24, 24), dtype, torch.device(device), None
    with pytest.raises(DeviceError, match=cause):
        dispatch.fusion_for(*request)
    monkeypatch.setenv("RESTORMER_NATIVE", "auto")
    assert dispatch.fusion_for(*request) is None


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=eights, width=eights, window=eights, strip=even, rows=even, columns=even)
def test_windows_of_any_size(height, width, window, strip, rows, columns):
    """With attention windows, the result is that of PyTorch's functions."""
    image, network = torch.rand(2, 3, height, width), NETWORKS["biased"]
    shape = BlockShape(strip, rows, columns)
    fused = strips.forward(network, image, window=window, blocking=lambda *_: shape)
    with override_fusion("off"):
        assert_close(fused, strips.forward(network, image, window=window))


def test_a_window_larger_than_the_image_is_the_whole_image():
    """A window that covers the image changes nothing."""
    image = torch.rand(1, 3, 48, 48)
    whole = strips.forward(NETWORKS["rgb"], image)
    assert torch.equal(strips.forward(NETWORKS["rgb"], image, window=48), whole)


def test_another_value_is_a_usage_error(monkeypatch):
    """A value other than auto, off and require is rejected."""
    monkeypatch.setenv("RESTORMER_NATIVE", "yes")
    with pytest.raises(UsageError, match="RESTORMER_NATIVE is 'yes'"):
        strips.forward(NETWORKS["rgb"], torch.rand(1, 3, 16, 16))


def test_memory_is_no_higher(built):
    """The scratch memory of a block is less than that of PyTorch's functions."""
    from restormer_cli.inference.blocking import MAPS_PER_BLOCK, Region, block_shape_on_cpu
    from restormer_cli.inference.fusion.check import random_block
    from restormer_cli.inference.native.library import TYPES, Frame, Job, Library

    library, size = Library(built), (1000, 1000)
    for channels, heads in ((16, 1), (32, 1), (48, 1), (96, 2), (192, 4), (384, 8)):
        weights = random_block(channels, heads)
        for dtype in filter(library.supports, TYPES):
            shape = block_shape_on_cpu(2, dtype.itemsize, channels, *size)
            rows, columns = shape.rows, shape.columns
            block = FusedBlock(library, weights, dtype)
            region = Region(8, 8 + rows, 8, 8 + columns)
            used = max(
                library.function(name, dtype)(
                    byref(block._weights), byref(Job(frame=Frame.of(region, halo, size)))
                )
                for name, halo in (("sums", 1), ("finish", 2))
            )
            assert used < MAPS_PER_BLOCK["cpu"] * rows * columns * channels * dtype.itemsize
