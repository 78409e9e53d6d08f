"""The kernels in Triton's interpreter against PyTorch's functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from restormer_cli.inference.blocking import Region
from restormer_cli.inference.fusion.check import Case, random_block
from restormer_cli.inference.tlc import Mixing

WIDTHS = ((8, 1), (24, 2), (32, 2), (48, 1), (96, 1), (384, 8))
"""Channels and heads."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def compare(kernels, weights, region, size, *, dtypes=TYPES[:1], halo=True):
    """Require the results of the kernels to be right."""
    for dtype in dtypes:
        with torch.inference_mode():
            assert Case("", weights, region, size, halo).compare(kernels, dtype) == ""


def block(channels, heads, **architecture):
    """Return random weights. Few hidden channels, because the interpreter is slow."""
    return random_block(channels, heads, **({"expansion": 0.75} | architecture))


@pytest.mark.parametrize(("channels", "heads"), WIDTHS)
def test_all_widths_and_heads(kernels, channels, heads):
    """Every width gives PyTorch's results, with one head and with several."""
    compare(kernels, block(channels, heads), Region(0, 5, 5, 10), (12, 10))


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_half_precision(kernels, dtype):
    """In bf16 and fp16 the error is no larger than that of PyTorch's functions."""
    weights = block(48, 2, bias=True)
    compare(kernels, weights, Region(0, 9, 5, 10), (20, 10), dtypes=(dtype,))


def test_hidden_channels_in_several_pieces(kernels):
    """A number of hidden channels that no piece divides gives PyTorch's results."""
    compare(kernels, block(16, 1, expansion=4.7), Region(0, 3, 0, 3), (3, 3))


@pytest.mark.parametrize("halo", [False, True])
@pytest.mark.parametrize(
    ("bias", "norm"), [(False, "BiasFree"), (True, "BiasFree"), (False, "WithBias")]
)
def test_biases_and_norms(kernels, bias, norm, halo):
    """Both kinds of LayerNorm are right, with biases and without, on strips and whole maps."""
    region, size = (Region(2, 9, 0, 3), (9, 9)) if halo else (Region(0, 9, 0, 3), (9, 3))
    compare(kernels, block(16, 1, bias=bias, layer_norm=norm), region, size, halo=halo)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("halo", [False, True])
def test_odd_and_tiny_maps(kernels, size, halo):
    """A map of any size is right, with a halo that is all outside the image and without."""
    compare(kernels, block(16, 1), Region(0, size[0], 0, size[1]), size, halo=halo)


@pytest.mark.parametrize("region", [Region(0, 9, 0, 9), Region(1, 9, 1, 5), Region(4, 10, 7, 11)])
def test_blocks_anywhere_in_a_map(kernels, region):
    """A region is right in the corners of a map, one pixel from its edges and inside."""
    compare(kernels, block(16, 2, bias=True), region, (10, 11))


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_values_of_any_scale(kernels, scale):
    """Sums beyond the range of fp16, and the tails of GELU, are right."""
    weights = block(16, 1)
    parts = {
        name: getattr(weights, name)._replace(pointwise=getattr(weights, name).pointwise * scale)
        for name in ("gate", "qk")
    }
    region = Region(0, 8, 0, 8)
    compare(kernels, weights._replace(**parts), region, (8, 8), dtypes=TYPES[::2])


@pytest.mark.parametrize(
    ("dtype", "value"), [*zip(TYPES, (torch.nan, torch.inf, torch.nan), strict=True)]
)
def test_nan_is_not_hidden(kernels, dtype, value):
    """A feature that is NaN or infinite makes sums and results NaN, as with PyTorch."""
    case = Case("", block(16, 1), Region(0, 5, 0, 5), (5, 5))
    x, matrix = case.inputs(dtype)
    x[0, 4, 4, 3] = value
    with torch.inference_mode(), np.errstate(invalid="ignore"):
        fused, eager = case.fused(kernels, x, matrix), case.eager(x, matrix, dtype)
    for result, expected in zip(fused, eager, strict=True):
        assert torch.equal(result.isnan(), expected.isnan())
        assert result.isnan().any()


def test_images_of_a_batch_do_not_mix(kernels):
    """Each image of a batch has its own sums and its own matrix."""
    case = Case("", block(16, 1), Region(0, 5, 0, 5), (5, 5))
    fused = kernels.block(case.weights, torch.float32)
    inputs = [case.inputs(torch.float32), case.inputs(torch.float32)]
    inputs[1] = (inputs[1][0] * 3 - 1, inputs[1][1].mT.contiguous())
    x = torch.cat([x for x, _ in inputs])
    matrices = fused.packed(torch.cat([matrix[0] for _, matrix in inputs]))
    mixing = Mixing(([], []), lambda *_: matrices)
    gram, squares = fused.sums(x[:, 1:-1, 1:-1].contiguous(), case.region, case.size)
    together = fused.finish(x, mixing, case.region, case.size)
    for index, (image, matrix) in enumerate(inputs):
        alone = case.fused(kernels, image, matrix)
        assert torch.equal(gram[index], alone.gram[0])
        assert torch.equal(squares[index], alone.squares[0])
        assert torch.equal(together[index], alone.finished[0])


def test_results_repeat(kernels):
    """The same input gives the same bits."""
    case = Case("", block(16, 1), Region(0, 17, 0, 9), (17, 9))
    x, matrix = case.inputs(torch.float32)
    first, second = (case.fused(kernels, x, matrix) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
