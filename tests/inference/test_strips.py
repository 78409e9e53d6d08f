"""Test that strips give the result of the plain forward for any size and blocks."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from copy import deepcopy
from pathlib import Path

import cv2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from restormer_cli.checkpoints import load_network
from restormer_cli.imaging import psnr
from restormer_cli.inference import strips
from restormer_cli.inference.blocking import BlockShape
from restormer_cli.inference.strips import pack
from restormer_cli.network.restormer import Architecture, Restormer
from restormer_cli.network.summary import ActivationMeter, feature_maps_bytes
from tests.support.networks import (
    OFFICIAL,
    VARIANTS,
    assert_close,
    read_golden,
    tiny_network,
)

ROOT = Path(__file__).parents[2]

even = st.integers(2, 40).map(lambda n: 2 * n)
eights = st.integers(1, 8).map(lambda n: 8 * n)


def plain(network: Restormer, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(image)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=12)
@given(height=eights, width=eights, strip=even, rows=even, columns=even)
def test_strips_of_any_height_give_the_plain_forward(variant, height, width, strip, rows, columns):
    """For any image size, strips and blocks, the result is that of one whole-image pass."""
    network = VARIANTS[variant]
    image = torch.rand(1, network.architecture.in_channels, height, width)
    result = strips.forward(network, image, blocking=lambda *_: BlockShape(strip, rows, columns))
    assert_close(result, plain(network, image))


def test_a_network_that_was_made_in_inference_mode():
    """Its weights, whose changes PyTorch does not count, can be used, in that mode and outside."""
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        network = tiny_network()
        inside = strips.forward(network, image)
    assert torch.equal(strips.forward(network, image), inside)


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 8), (136, 264)])
def test_extreme_shapes(size):
    """Very small, wide and tall images are restored as in one pass, with the default strips."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, *size)
    assert_close(strips.forward(network, image), plain(network, image))


def test_strips_are_no_less_exact_than_one_pass():
    """The error of strips against double precision is as small as that of the plain forward."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 200, 200)
    true = plain(deepcopy(network).double(), image.double())
    error = (strips.forward(network, image) - true).abs().max()
    assert error <= 1e-5 * true.abs().max()
    assert error <= 2 * (plain(network, image) - true).abs().max()


@pytest.mark.parametrize("variant", OFFICIAL)
def test_golden_vectors_in_strips(variant):
    """In strips, a small network agrees with an independent implementation."""
    tensors, metadata = read_golden(f"tiny_{variant}")
    network = golden_network(tensors, metadata, OFFICIAL[variant])
    result = strips.forward(network, tensors["input"], blocking=lambda *_: BlockShape(16, 16, 16))
    assert (result - tensors["output"]).abs().max() <= 1e-4


def golden_network(tensors, metadata, official: Architecture) -> Restormer:
    network = Restormer(
        Architecture(
            in_channels=official.in_channels,
            out_channels=official.out_channels,
            dim=8,
            blocks=(1, 2, 1, 1),
            refinement=1,
            layer_norm=official.layer_norm,
            dual_pixel=official.dual_pixel,
        )
    )
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    network.load_state_dict(state)
    return network.eval()


def test_images_of_a_batch_do_not_mix():
    """Each image of a batch is restored independently."""
    network = VARIANTS["rgb_bias_free"]
    images = torch.rand(3, 3, 40, 24)
    together = strips.forward(network, images)
    alone = torch.cat([strips.forward(network, image[None]) for image in images])
    assert_close(together, alone)


WHOLE = BlockShape(4096, 4096, 4096, halo=False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(8, 8), (40, 56)])
def test_a_block_that_covers_the_map_needs_no_halo(variant, size):
    """The result is that of blocks with halos, also in windows, whose edges divide the map."""
    network = VARIANTS[variant]
    image = torch.rand(2, network.architecture.in_channels, *size)
    result = strips.forward(network, image, blocking=lambda *_: WHOLE)
    assert_close(result, plain(network, image))
    windows = [
        strips.forward(network, image, window=24, blocking=lambda *_, s=shape: s)
        for shape in (WHOLE, BlockShape(16, 16, 16))
    ]
    assert_close(*windows)


class Launches(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_a_block_without_halo_saves_launches():
    """On a GPU, fills and copies for halos would take a third of all launches."""
    network = deepcopy(VARIANTS["rgb_bias_free"]).to("meta")
    counts = []
    for halo in (True, False):
        with Launches() as launches:
            shape = WHOLE._replace(halo=halo)
            strips.forward(network, torch.rand(1, 3, 64, 64), blocking=lambda *_, s=shape: s)
        counts.append(launches.count)
    with_halo, without = counts
    assert without["zero_"] == without["fill_"] == 0
    assert without["native_layer_norm"] == with_halo["native_layer_norm"]
    assert without["copy_"] < with_halo["copy_"] / 2
    assert without.total() < 0.75 * with_halo.total()


@pytest.mark.parametrize("task", ["denoise", "derain", "deblur", "defocus"])
def test_bundled_networks_in_fp16(task):
    """On blocks as large as those of a GPU, nothing overflows, and 50 dB to fp32 are exceeded."""
    network = load_network(ROOT / f"weights/restormer-lite-{task}.safetensors")
    photo = cv2.cvtColor(cv2.imread(str(ROOT / "docs/sample.jpg")), cv2.COLOR_BGR2RGB)
    photo = cv2.resize(photo, (192, 128), interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    image += 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    exact = strips.forward(network, image)
    rounded = strips.forward(network, image, torch.float16, blocking=lambda *_: WHOLE)
    assert torch.isfinite(rounded).all()
    assert psnr(rounded.clamp(0, 1), exact.clamp(0, 1)) > 50


def test_fp32_is_fp32_whatever_the_settings():
    """Settings that permit PyTorch fewer digits do not apply, and are unchanged afterwards."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 40, 48)
    exact = strips.forward(network, image)
    torch.set_float32_matmul_precision("medium")  # bf16, also on CPUs that have it
    try:
        assert torch.equal(strips.forward(network, image), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_change_nothing():
    """The result does not depend on the number of threads, because sums keep their order."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 160, 136)
    single = strips.forward(network, image)
    torch.set_num_threads(2)
    try:
        double = strips.forward(network, image)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(single, double)


@pytest.mark.parametrize("started", [0, 1])
def test_without_threads_the_result_is_the_same(started, monkeypatch):
    """If a limit of the process permits no or too few threads, blocks run one after the other."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 160, 136)
    expected = strips.forward(network, image)
    real, count = threading.Thread.start, itertools.count()

    def start(thread):
        if next(count) >= started:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    torch.set_num_threads(3)
    try:
        assert torch.equal(strips.forward(network, image), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert next(count) > started


def test_bf16_stays_close():
    """In bf16 the result differs only slightly, and the image is still added in fp32."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 64, 64)
    exact = plain(network, image)
    rounded = strips.forward(network, image, torch.bfloat16)
    scale = (exact - image).abs().max()
    assert 0 < (rounded - exact).abs().max() < 0.05 * scale

    network = tiny_network()
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(strips.forward(network, image, torch.bfloat16), image)


def test_inference_mode_changes_nothing():
    """The result is the same inside torch.inference_mode, also on several threads."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 136, 136)
    outside = strips.forward(network, image)
    assert not outside.is_inference()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            assert torch.equal(strips.forward(network, image.clone()), outside)
    finally:
        torch.set_num_threads(1)


def test_changed_weights_are_used():
    """Weights are packed again after they change."""
    network = tiny_network()
    image = torch.rand(1, 3, 16, 16)
    before = strips.forward(network, image)
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(strips.forward(network, image), image)
    assert not torch.equal(before, image)


def test_changed_signs_are_used():
    """A change that keeps the length of all weights is noticed, too."""
    network = tiny_network()
    image = torch.rand(1, 3, 16, 16)
    before = strips.forward(network, image) - image
    with torch.no_grad():
        network.output.weight.neg_()
    torch.testing.assert_close(strips.forward(network, image) - image, -before)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_an_optimizer_is_used(fused):
    """So are the weights after a training step; a fused one changes no version of a tensor."""
    network = tiny_network()
    image = torch.rand(1, 3, 16, 16)
    strips.forward(network, image)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01, fused=fused)
    network(image).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert_close(strips.forward(network, image), plain(network, image))


def test_progress_counts_every_strip():
    """Progress increases by one strip at a time, up to the total."""
    for network in VARIANTS.values():
        reports: list[tuple[int, int]] = []
        image = torch.rand(1, network.architecture.in_channels, 72, 40)
        strips.forward(
            network,
            image,
            blocking=lambda *_: BlockShape(6, 6, 16),
            progress=lambda *report: reports.append(report),  # noqa: B023
        )
        assert [done for done, _ in reports] == list(range(1, reports[-1][1] + 1))
        assert {total for _, total in reports} == {len(reports)}


def test_the_shape_is_checked():
    """Sides that are no multiple of 8 and wrong channels raise an error."""
    for shape in ((1, 3, 20, 16), (1, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"multiples of 8|takes"):
            strips.forward(VARIANTS["rgb_with_bias"], torch.rand(shape))


@pytest.mark.parametrize("variant", VARIANTS)
def test_strips_run_on_devices_other_than_the_cpu(variant):
    """On PyTorch's meta device the engine runs and returns the right shapes."""
    network = deepcopy(VARIANTS[variant]).to("meta")
    a = network.architecture
    image = torch.rand(2, a.in_channels, 48, 72)
    for dtype in (torch.float32, torch.bfloat16):
        restored = strips.forward(network, image, dtype, window=24)
        assert restored.device.type == "meta"
        assert restored.shape == (2, a.out_channels, 48, 72)
        assert restored.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(512, 512), (1536, 2048)])
def test_the_predicted_peak_of_a_gpu_suffices(dtype, size):
    """Plans rely on it: it exceeds what is alive by a margin for libraries, and not by much."""
    network = tiny_network(dim=16).to("meta")
    image = torch.rand(1, 3, *size, device="meta")
    with torch.no_grad():
        pack(network, dtype)
        with ActivationMeter([*network.parameters(), image]) as meter:
            strips.forward(network, image, dtype)
    predicted = strips.peak_bytes(network, *size, dtype)
    assert meter.peak <= predicted <= 1.35 * meter.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_is_bounded(dtype):
    """At most two maps of level 1 and one of level 2 exist at once, for any number of strips."""
    network = tiny_network().to("meta")
    above_the_maps = []
    for height in (128, 512):
        image = torch.rand(1, 3, height, 128, device="meta")
        pack(network, dtype)
        with ActivationMeter([*network.parameters(), image]) as meter, torch.no_grad():
            strips.forward(network, image, dtype, blocking=lambda *_: BlockShape(32, 32, 64))
        maps = feature_maps_bytes(network.architecture, height, 128, dtype.itemsize)
        restored = image.numel() * 4
        above_the_maps.append(meter.peak - maps - restored)
    assert max(above_the_maps) < 2.5e6  # a strip and a block
    assert above_the_maps[1] <= 1.2 * above_the_maps[0]
