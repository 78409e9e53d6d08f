"""Test the restoration of tensors of any size, whole and in tiles, and invalid results."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.errors import ImageError, UsageError
from restormer_cli.inference import engine
from restormer_cli.inference.blocking import BlockShape
from restormer_cli.inference.engine import padded, restore
from tests.support.networks import VARIANTS, tiny_network

sides = st.integers(1, 70)


def identity_network(**changes):
    network = tiny_network(**changes)
    torch.nn.init.zeros_(network.output.weight)
    return network


IDENTITY = identity_network()


@given(sides, sides)
def test_padding_reflects(height, width):
    """Sides grow to multiples of 8 by numpy's reflection, if the image is large enough for it."""
    x = torch.rand(1, 2, height, width)
    y = padded(x)
    assert y.shape[2] % 8 == y.shape[3] % 8 == 0
    assert y.shape[2] - height < 8
    assert y.shape[3] - width < 8
    assert torch.equal(y[..., :height, :width], x)
    if min(height, width) >= 8:
        missing = ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8))
        assert np.array_equal(y.numpy(), np.pad(x.numpy(), missing, mode="reflect"))


@given(sides, sides)
def test_identity_on_whole_images_of_any_size(height, width):
    """A network whose residual is zero returns images of any size unchanged, bit for bit."""
    x = torch.rand(1, 3, height, width)
    assert torch.equal(restore(IDENTITY, x), x)


@settings(max_examples=30)
@given(sides, sides, st.integers(8, 48), st.data())
def test_identity_on_tiles_of_any_size(height, width, tile, data):
    """In tiles, a network whose residual is zero returns images unchanged up to rounding."""
    overlap = data.draw(st.integers(0, tile - 1))
    x = torch.rand(1, 3, height, width)
    assert (restore(IDENTITY, x, tile=tile, overlap=overlap) - x).abs().max() <= 1e-6


def test_whole_images_agree_with_the_plain_forward():
    """A restored image is the plain forward of the padded image, cropped and clamped."""
    network = tiny_network()
    x = torch.rand(1, 3, 37, 50)
    with torch.inference_mode():
        expected = network(padded(x))[..., :37, :50].clamp(0, 1)
    assert (restore(network, x) - expected).abs().max() <= 1e-5


def test_an_image_smaller_than_a_tile_is_restored_whole():
    """An image that is smaller than a tile is restored as one tile."""
    network = tiny_network()
    x = torch.rand(1, 3, 40, 33)
    assert torch.equal(restore(network, x, tile=64), restore(network, x))


@pytest.mark.parametrize(("tile", "overlap"), [(4, 0), (-8, 0), (64, 64), (64, -1)])
def test_invalid_tiles_are_rejected(tile, overlap):
    """A tile below 8 or an overlap that does not fit the tile is a usage error."""
    with pytest.raises(UsageError):
        restore(IDENTITY, torch.rand(1, 3, 16, 16), tile=tile, overlap=overlap)


def overflowing_network(gain: float):
    """Return a network whose features exceed the range of fp16, but not that of fp32."""
    network = tiny_network()
    with torch.no_grad():
        network.patch_embed.proj.weight.mul_(gain)
    return network


def test_an_overflow_is_restored_again_in_fp32():
    """If fp16 overflows, the image is restored again in fp32, with a notice."""
    network = overflowing_network(1e6)
    x = torch.rand(1, 3, 16, 16)
    notes: list[str] = []
    result = restore(network, x, precision="fp16", notify=notes.append)
    assert torch.equal(result, restore(network, x))
    assert notes == ["fp16 overflowed; restored again in fp32"]


def test_the_second_run_in_fp32_takes_smaller_blocks(monkeypatch):
    """Blocks that were as large as memory allows in fp16 would not fit in fp32."""
    shapes = []
    real = engine.strips.forward

    def forward(*args, blocking, **options):
        shapes.append(blocking(8, 64, 64))
        return real(*args, blocking=blocking, **options)

    monkeypatch.setattr(engine.strips, "forward", forward)
    x = torch.rand(1, 3, 64, 64)
    large = BlockShape(64, 64, 64)
    restore(overflowing_network(1e6), x, precision="fp16", blocking=lambda *_: large)
    assert shapes == [large, BlockShape(16, 16, 16)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tile", [None, 16])
def test_nan_is_an_error(precision, tile):
    """A result that is not finite even in fp32 raises an error."""
    network = tiny_network()
    with torch.no_grad():
        network.output.weight.fill_(float("inf"))
    with pytest.raises(ImageError, match="NaN or infinite"):
        restore(network, torch.rand(1, 3, 24, 24), precision=precision, tile=tile, overlap=4)


def test_the_result_is_clamped():
    """The result is clamped to 0..1."""
    network = tiny_network(bias=True)
    with torch.no_grad():
        network.output.bias.fill_(5.0)
    assert restore(network, torch.rand(1, 3, 16, 16)).max() == 1.0


def test_a_gpu_takes_tiles_in_batches(monkeypatch):
    """A GPU runs as many tiles at once as fit into memory, up to 16; a CPU runs one."""
    network = VARIANTS["rgb_bias_free"]
    assert engine.tiles_at_once(network, 64, torch.float32) == 1
    on_gpu = deepcopy(network).to("meta")
    monkeypatch.setattr(engine, "free_memory", lambda _: 1 << 40)
    assert engine.tiles_at_once(on_gpu, 64, torch.float32) == 16
    monkeypatch.setattr(engine, "free_memory", lambda _: 0)
    assert engine.tiles_at_once(on_gpu, 64, torch.float32) == 1
