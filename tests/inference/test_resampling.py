"""Test that convolutions with rearranged weights change the resolution as the network does."""

from __future__ import annotations

import pytest
import torch

from restormer_cli.inference.resampling import folded, pack_convolutions, upsample, with_unshuffle
from restormer_cli.network.functions import conv1x1, pixel_shuffle, pixel_unshuffle, same
from restormer_cli.network.restormer import Architecture, Restormer
from tests.support.networks import assert_close


def random_network(*, bias: bool) -> Restormer:
    torch.manual_seed(0)
    return Restormer(Architecture(dim=8, blocks=(1, 1, 1, 1), refinement=1, bias=bias)).eval()


def test_a_4x4_kernel_convolves_and_unshuffles():
    """At stride 2 it gives the channels of the level below, also at the borders of an image."""
    x, weight = torch.rand(2, 10, 6, 4), torch.rand(3, 4, 3, 3)
    result = same(x, with_unshuffle(weight), stride=2)
    assert_close(result, pixel_unshuffle(same(x, weight)))


@torch.no_grad()
def test_an_upsampling_fills_squares_of_pixels():
    """Without a skip connection, each source pixel becomes four pixels of the target."""
    network = random_network(bias=False)
    x, target = torch.rand(2, 5, 3, 16), torch.zeros(2, 10, 6, 8)
    upsample(same(x, *pack_convolutions(network, torch.float32)["up2_1"]), target)
    assert_close(
        target, pixel_shuffle(network.up2_1.body(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    )


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_the_reduction_of_channels_is_part_of_the_upsampling(bias):
    """The 1x1 convolution of the upsampled features and the skip connection is applied to both."""
    network = random_network(bias=bias)
    x, skip = torch.rand(2, 5, 3, 32), torch.rand(2, 10, 6, 16)
    features = network.up3_2.body(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = conv1x1(torch.cat([pixel_shuffle(features), skip], -1), network.reduce_chan_level2)
    packed = pack_convolutions(network, torch.float32)
    upsample(same(x, *packed["up3_2"]), skip, packed["reduce_chan_level2"])
    assert_close(skip, expected)


def test_folding_keeps_the_order_of_pixels():
    """Output channels of the four pixels do not mix."""
    reduction, weight = torch.eye(2) * 3, torch.rand(8, 5, 3, 3)
    assert_close(folded(reduction, weight), 3 * weight)
