"""Strips: the plain forward's result, whatever the size and the strips."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from conftest import tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import OFFICIAL, made, read_golden

from restormer_cli import streaming
from restormer_cli.network import Architecture, Restormer
from restormer_cli.streaming import Grain

even = st.integers(2, 40).map(lambda n: 2 * n)
eights = st.integers(1, 8).map(lambda n: 8 * n)


def random_network(**changes) -> Restormer:
    """A tiny network in which every parameter, norms and temperatures too, is random."""
    network = tiny_network(**changes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(made(name, parameter.shape))
    return network


VARIANTS = {
    "rgb_with_bias": random_network(),
    "rgb_bias_free": random_network(layer_norm="BiasFree"),
    "grey": random_network(in_channels=1, out_channels=1, layer_norm="BiasFree"),
    "dual_pixel": random_network(in_channels=6, dual_pixel=True),
    "biased": random_network(bias=True),
}


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    """At most 1e-5 apart for values of order 1; these random networks' reach 8."""
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)


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
    streamed = streaming.forward(network, image, grain=lambda _: Grain(strip, rows, columns))
    assert_close(streamed, plain(network, image))


@pytest.mark.parametrize("size", [(8, 8), (8, 4000), (4000, 8), (136, 264)])
def test_extreme_shapes(size):
    """Very small, wide and tall images come out as in one pass, with the default strips."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, *size)
    assert_close(streaming.forward(network, image), plain(network, image))


def test_strips_are_no_less_exact_than_one_pass():
    """Against a forward in double precision, strips err no more than the plain forward does."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 200, 200)
    true = plain(deepcopy(network).double(), image.double())
    error = (streaming.forward(network, image) - true).abs().max()
    assert error <= 1e-5 * true.abs().max()
    assert error <= 2 * (plain(network, image) - true).abs().max()


@pytest.mark.parametrize("variant", OFFICIAL)
def test_golden_vectors_in_strips(variant):
    """In strips, too, a small network gives what an independent implementation gives."""
    tensors, metadata = read_golden(f"tiny_{variant}")
    network = golden_network(tensors, metadata, OFFICIAL[variant])
    streamed = streaming.forward(network, tensors["input"], grain=lambda _: Grain(16, 16, 16))
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
    together = streaming.forward(network, images)
    alone = torch.cat([streaming.forward(network, image[None]) for image in images])
    assert_close(together, alone)


def test_threads_change_nothing():
    """On several threads the result is the same to the last bit: sums keep their order."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 160, 136)
    one = streaming.forward(network, image)
    torch.set_num_threads(2)
    try:
        two = streaming.forward(network, image)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


def test_bf16_stays_close():
    """In bf16 the result differs by little, and the image itself is added in fp32."""
    network = VARIANTS["rgb_bias_free"]
    image = torch.rand(1, 3, 64, 64)
    exact = plain(network, image)
    rounded = streaming.forward(network, image, torch.bfloat16)
    scale = (exact - image).abs().max()
    assert 0 < (rounded - exact).abs().max() < 0.05 * scale

    network = tiny_network()
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(streaming.forward(network, image, torch.bfloat16), image)


def test_changed_weights_are_seen():
    """Packed weights are made anew when the network's change."""
    network = tiny_network()
    image = torch.rand(1, 3, 16, 16)
    before = streaming.forward(network, image)
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(streaming.forward(network, image), image)
    assert not torch.equal(before, image)


def test_progress_counts_every_strip():
    """Progress goes up by one strip at a time and ends with all of them."""
    for network in VARIANTS.values():
        seen: list[tuple[int, int]] = []
        image = torch.rand(1, network.architecture.in_channels, 72, 40)
        streaming.forward(
            network,
            image,
            grain=lambda _: Grain(6, 6, 16),
            progress=lambda done, total: seen.append((done, total)),  # noqa: B023
        )
        assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
        assert {total for _, total in seen} == {len(seen)}


def test_the_shape_is_checked():
    """Sides that are no multiple of 8 and a wrong number of channels are refused."""
    for shape in ((1, 3, 20, 16), (1, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"multiples of 8|takes"):
            streaming.forward(VARIANTS["rgb_with_bias"], torch.rand(shape))
