"""Strips: the plain forward's result, whatever the size and the strips."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.inference import blocking, engine, strips
from restormer_cli.inference.blocking import BlockShape
from restormer_cli.inference.strips import pack
from restormer_cli.network.restormer import Architecture, Restormer, TransformerBlock
from restormer_cli.network.summary import _Meter, feature_maps_bytes
from tests.support.networks import (
    OFFICIAL,
    VARIANTS,
    assert_close,
    read_golden,
    tiny_network,
)

even = st.integers(2, 40).map(lambda n: 2 * n)
eights = st.integers(1, 8).map(lambda n: 8 * n)


def plain(network: Restormer, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(image)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=12)
@given(height=eights, width=eights, strip=even, rows=even, columns=even)
def test_strips_of_any_height_give_the_plain_forward(variant, height, width, strip, rows, columns):
    """For any size, strips and cells, the result is that of one whole-image pass."""
    network = VARIANTS[variant]
    image = torch.rand(1, network.architecture.in_channels, height, width)
    streamed = strips.forward(network, image, grain=lambda *_: BlockShape(strip, rows, columns))
    assert_close(streamed, plain(network, image))


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 8), (136, 264)])
def test_extreme_shapes(size):
    """Very small, wide and tall images come out as in one pass, with the default strips."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, *size)
    assert_close(strips.forward(network, image), plain(network, image))


def test_strips_are_no_less_exact_than_one_pass():
    """Against a forward in double precision, strips err no more than the plain forward does."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 200, 200)
    true = plain(deepcopy(network).double(), image.double())
    error = (strips.forward(network, image) - true).abs().max()
    assert error <= 1e-5 * true.abs().max()
    assert error <= 2 * (plain(network, image) - true).abs().max()


@pytest.mark.parametrize("variant", OFFICIAL)
def test_golden_vectors_in_strips(variant):
    """In strips, too, a small network gives what an independent implementation gives."""
    tensors, metadata = read_golden(f"tiny_{variant}")
    network = golden_network(tensors, metadata, OFFICIAL[variant])
    streamed = strips.forward(network, tensors["input"], grain=lambda *_: BlockShape(16, 16, 16))
    assert (streamed - tensors["output"]).abs().max() <= 1e-4


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


def test_a_batch_is_its_images_one_by_one():
    """Images of a batch do not see each other."""
    network = VARIANTS["rgb_bias_free"]
    images = torch.rand(3, 3, 40, 24)
    together = strips.forward(network, images)
    alone = torch.cat([strips.forward(network, image[None]) for image in images])
    assert_close(together, alone)


def test_threads_change_nothing():
    """On several threads the result is the same to the last bit: sums keep their order."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 160, 136)
    one = strips.forward(network, image)
    torch.set_num_threads(2)
    try:
        two = strips.forward(network, image)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


def test_bf16_stays_close():
    """In bf16 the result differs by little, and the image itself is added in fp32."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 64, 64)
    exact = plain(network, image)
    rounded = strips.forward(network, image, torch.bfloat16)
    scale = (exact - image).abs().max()
    assert 0 < (rounded - exact).abs().max() < 0.05 * scale

    network = tiny_network()
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(strips.forward(network, image, torch.bfloat16), image)


def test_inference_mode_is_no_matter():
    """Inside and outside of torch.inference_mode, on one thread and several, it is the same."""
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


def test_changed_weights_are_seen():
    """Packed weights are made anew when the network's change."""
    network = tiny_network()
    image = torch.rand(1, 3, 16, 16)
    before = strips.forward(network, image)
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(strips.forward(network, image), image)
    assert not torch.equal(before, image)


def test_progress_counts_every_strip():
    """Progress goes up by one strip at a time and ends with all of them."""
    for network in VARIANTS.values():
        seen: list[tuple[int, int]] = []
        image = torch.rand(1, network.architecture.in_channels, 72, 40)
        strips.forward(
            network,
            image,
            grain=lambda *_: BlockShape(6, 6, 16),
            progress=lambda done, total: seen.append((done, total)),  # noqa: B023
        )
        assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
        assert {total for _, total in seen} == {len(seen)}


def test_the_shape_is_checked():
    """Sides that are no multiple of 8 and a wrong number of channels are refused."""
    for shape in ((1, 3, 20, 16), (1, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"multiples of 8|takes"):
            strips.forward(VARIANTS["rgb_with_bias"], torch.rand(shape))


def local_block(window: int, height: int):
    """A block as Chu et al. (ECCV 2022) publish it: window by window, overlaps averaged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def normal(norm, x):  # B H W C to B C H W
            weight, bias = norm.body.weight, norm.body.bias
            y = (x - (x.mean(-1, keepdim=True) if norm.body.centred else 0)) * weight
            y = y / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            return (y if bias is None else y + bias).permute(0, 3, 1, 2)

        q, k, v = self.attn.qkv_dwconv(self.attn.qkv(normal(self.norm1, x))).chunk(3, dim=1)
        side = window * x.shape[1] // height
        total, count = torch.zeros_like(v), torch.zeros_like(v)
        for top in window_starts(v.shape[2], side):
            for left in window_starts(v.shape[3], side):
                here = (..., slice(top, top + side), slice(left, left + side))

                def heads(t, here=here):
                    return t[here].flatten(2).unflatten(1, (self.attn.heads, -1))

                unit_q, unit_k = (F.normalize(heads(t), dim=-1) for t in (q, k))
                weights = (unit_q @ unit_k.mT * self.attn.temperature).softmax(-1)
                total[here] += (weights @ heads(v)).reshape(v[here].shape)
                count[here] += 1
        x = x + self.attn.project_out(total / count).permute(0, 2, 3, 1)
        gate, value = self.ffn.dwconv(self.ffn.project_in(normal(self.norm2, x))).chunk(2, dim=1)
        return x + self.ffn.project_out(F.gelu(gate) * value).permute(0, 2, 3, 1)

    return forward


def window_starts(length: int, side: int) -> list[int]:
    """As many windows as are needed side by side, moved by equal steps, the last one flush."""
    if length <= side:
        return [0]
    step = math.ceil((length - side) / ((length - 1) // side))
    return [*range(0, length - side, step), length - side]


@pytest.mark.parametrize("variant", ["rgb_with_bias", "rgb_bias_free", "biased"])
@pytest.mark.parametrize("size", [(96, 120), (64, 200), (40, 48)])
def test_windows_are_the_published_local_statistics(variant, size, monkeypatch):
    """With windows, in strips, comes out what the published method gives window by window."""
    network = VARIANTS[variant]
    image = torch.rand(1, 3, *size)
    streamed = strips.forward(network, image, window=48, grain=lambda *_: BlockShape(12, 12, 20))
    monkeypatch.setattr(TransformerBlock, "forward", local_block(48, size[0]))
    assert_close(streamed, plain(network, image))


def test_a_window_as_large_as_the_image_changes_nothing():
    """A window that holds the whole image is the network as published."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 48, 64)
    assert torch.equal(strips.forward(network, image, window=64), strips.forward(network, image))
    assert not torch.allclose(
        strips.forward(network, image, window=32), strips.forward(network, image)
    )


def test_progress_counts_the_strips_of_windows():
    """Windows cut strips at their edges, and progress counts those too."""
    seen: list[tuple[int, int]] = []
    strips.forward(
        VARIANTS["rgb_bias_free"],
        torch.rand(1, 3, 120, 72),
        window=48,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (len(seen), len(seen))


@settings(max_examples=60)
@given(
    channels=st.sampled_from([1, 3, 16, 48, 96, 192, 384]),
    height=eights,
    width=st.integers(1, 900).map(lambda n: 8 * n),
    threads=st.integers(1, 96),
    itemsize=st.sampled_from([2, 4]),
)
def test_cells_are_even_and_enough(channels, height, width, threads, itemsize):
    """Default cells have even sides, fit the cache, and a strip is whole rows of them."""
    grain = blocking._cut_for_cpu(threads, itemsize, channels, height, width)
    assert grain.rows % 2 == grain.columns % 2 == 0
    assert grain.strip % grain.rows == 0
    assert grain.rows * grain.columns * channels * itemsize <= 2 * blocking.CELL_BYTES


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_device_is_taken_for_granted(variant):
    """On PyTorch's meta device, which is no CPU, all of the engine runs and shapes are right."""
    network = deepcopy(VARIANTS[variant]).to("meta")
    a = network.architecture
    image = torch.rand(2, a.in_channels, 48, 72)
    for dtype in (torch.float32, torch.bfloat16):
        restored = strips.forward(network, image, dtype, window=24)
        assert restored.device.type == "meta"
        assert restored.shape == (2, a.out_channels, 48, 72)
        assert restored.dtype == torch.float32


def test_a_gpu_takes_tiles_in_batches(monkeypatch):
    """On what is no CPU, as many small tiles run at once as memory holds; on a CPU one by one."""
    network = VARIANTS["rgb_bias_free"]
    assert engine.tiles_at_once(network, 64, torch.float32) == 1
    far = deepcopy(network).to("meta")
    monkeypatch.setattr(engine, "free_memory", lambda _: 1 << 40)
    assert engine.tiles_at_once(far, 64, torch.float32) == 16
    monkeypatch.setattr(engine, "free_memory", lambda _: 0)
    assert engine.tiles_at_once(far, 64, torch.float32) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_one_map_a_level(dtype):
    """At its peak a run holds two maps of level 1 and one of level 2, however many strips it has.

    Counted on PyTorch's meta device, tensor by tensor: beside the image and the weights.
    """
    network = tiny_network().to("meta")
    above_the_maps = []
    for height in (128, 512):
        image = torch.rand(1, 3, height, 128, device="meta")
        pack(network, dtype)
        with _Meter([*network.parameters(), image]) as meter, torch.no_grad():
            strips.forward(network, image, dtype, grain=lambda *_: BlockShape(32, 32, 64))
        maps = feature_maps_bytes(network.architecture, height, 128, dtype.itemsize)
        restored = image.numel() * 4
        above_the_maps.append(meter.peak - maps - restored)
    assert max(above_the_maps) < 2.5e6  # a strip and a cell at work
    assert above_the_maps[1] <= 1.2 * above_the_maps[0]
