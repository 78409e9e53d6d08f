"""Test the functions on feature maps against PyTorch's and the paper's formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from restormer_cli.network.functions import (
    depthwise_by_taps,
    normalised,
    pixel_shuffle,
    pixel_unshuffle,
    same,
)


@pytest.mark.parametrize(("padding", "biased"), [((1, 1), True), ((0, 0), False), ((0, 1), True)])
def test_the_depthwise_convolution_of_compiled_networks(padding, biased):
    """The sum of products and its gradients are those of PyTorch's convolution."""
    generator = torch.Generator().manual_seed(2)
    draw = partial(torch.randn, generator=generator, dtype=torch.float32)
    arguments = [draw(2, 7, 9, 5), draw(5, 1, 3, 3), draw(5) if biased else None]
    given = [t.requires_grad_() for t in arguments if t is not None]
    results = [f(*arguments, padding) for f in (same, depthwise_by_taps)]
    torch.testing.assert_close(*results)
    target = torch.randn(results[0].shape, generator=generator)
    expected, gradients = (torch.autograd.grad((y * target).sum(), given) for y in results)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("centred", [False, True])
def test_normalisation_follows_the_paper(centred):
    """Both norms divide by the standard deviation; only "WithBias" subtracts the mean."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 8, generator=generator, requires_grad=True)
    deviation = x - x.mean(-1, keepdim=True)
    std = (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    result, expected = normalised(x, centred), (deviation if centred else x) / std
    torch.testing.assert_close(result, expected)
    weights = torch.randn(result.shape, generator=generator)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (result, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("centred", [False, True])
def test_gradient_of_the_normalisation(centred):
    """The closed form of the gradient agrees with numerical differentiation in float64."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 2, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalised(x, centred), (x,))


@pytest.mark.parametrize("centred", [True, False])
def test_small_variances_are_not_cut(centred):
    """The form of the normalisation for MPS keeps variances far below the mean."""
    x = 3 + 1e-3 * torch.randn(4, 5, 48, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    deviation = wide - wide.mean(-1, keepdim=True)
    rstd = (deviation.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    expected = (deviation if centred else wide) * rstd
    assert (normalised(x, centred) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_pixel_shuffles_agree_with_torch():
    """Channels-last pixel (un)shuffle equals torch's on B C H W."""
    x = torch.arange(2 * 8 * 4 * 6.0).view(2, 8, 4, 6)
    last = x.permute(0, 2, 3, 1)
    assert torch.equal(pixel_shuffle(last).permute(0, 3, 1, 2), F.pixel_shuffle(x, 2))
    assert torch.equal(pixel_unshuffle(last).permute(0, 3, 1, 2), F.pixel_unshuffle(x, 2))
