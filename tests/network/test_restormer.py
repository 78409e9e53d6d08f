"""Test the network against an independent implementation, published names and derivatives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from restormer_cli.network import restormer
from restormer_cli.network.functions import sum_squares, sum_squares_by_norm
from restormer_cli.network.restormer import (
    Architecture,
    Restormer,
    statistics,
)
from tests.support.networks import (
    DATA,
    OFFICIAL,
    PARAMETERS,
    golden_weight,
    read_golden,
    tiny_network,
)


def build_on_meta(architecture: Architecture) -> Restormer:
    with torch.device("meta"):
        return Restormer(architecture)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_state_dict_has_the_published_names_and_shapes(variant):
    """Names, shapes and order of the state dict are the official ones."""
    published = json.loads((DATA / "official_keys.json").read_text())[variant]
    network = build_on_meta(OFFICIAL[variant])
    assert [(n, list(p.shape)) for n, p in network.named_parameters()] == list(published.items())
    assert list(network.state_dict()) == list(published)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_parameter_counts(variant):
    """Full-size networks have the published number of parameters."""
    network = build_on_meta(OFFICIAL[variant])
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", OFFICIAL)
def test_tiny_golden_output(variant):
    """A small network agrees with an independent implementation."""
    tensors, metadata = read_golden(f"tiny_{variant}")
    config = json.loads(metadata["config"])
    network = Restormer(
        Architecture(
            in_channels=config.get("inp_channels", 3),
            out_channels=config.get("out_channels", 3),
            dim=config["dim"],
            blocks=tuple(config["num_blocks"]),
            refinement=config["num_refinement_blocks"],
            heads=tuple(config["heads"]),
            expansion=config["ffn_expansion_factor"],
            layer_norm=config["LayerNorm_type"],
            dual_pixel=config.get("dual_pixel_task", False),
        )
    ).eval()
    state = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
    network.load_state_dict(state)
    with torch.inference_mode():
        output = network(tensors["input"])
    assert (output - tensors["output"]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rgb_bias_free", "dual_pixel"])
def test_full_size_golden_output(variant):
    """The full-size network agrees with an independent implementation."""
    tensors, metadata = read_golden(f"full_{variant}")
    network = build_on_meta(OFFICIAL[variant]).eval()
    state = {name: golden_weight(name, p.shape) for name, p in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    seed, shape = int(metadata["seed"]), json.loads(metadata["input_shape"])
    image = np.random.default_rng(seed + 1).random(shape, dtype=np.float32)
    with torch.inference_mode():
        output = network(torch.from_numpy(image))
    assert (output - tensors["output"]).abs().max() < 1e-4


def gram(qk, heads):
    """Sum the products of queries and keys over pixels in double precision."""
    q, k = qk.double().flatten(1, 2).unflatten(-1, (2, heads, -1)).unbind(2)
    return torch.einsum("bnhc,bnhd->bhcd", q, k)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_sums_of_a_large_image_in_half_precision(dtype, tolerance):
    """Sums as large as those of the bundled networks exceed the range of fp16, but stay exact."""
    qk = (torch.rand(1, 110, 97, 32) * 32).to(dtype)
    exact = gram(qk, 2)
    assert exact.max() > 40 * torch.finfo(torch.float16).max
    sums = statistics(qk, 2)
    assert sums.gram.dtype == sums.squares.dtype == torch.float32
    assert (sums.gram - exact).abs().max() <= tolerance * exact.max()
    squares = qk.double().square().sum((1, 2)).view(1, 2, 2, 8)
    assert (sums.squares - squares).abs().max() <= tolerance * squares.max()


@pytest.mark.parametrize("pixels", [1, 7, 8, 9, 16, 29])
def test_sums_in_pieces(pixels, monkeypatch):
    """The sums do not depend on the number of pieces, and the last one may be of any length."""
    monkeypatch.setattr(restormer, "PIECE", 8)
    qk = torch.randn(2, 1, pixels, 24)
    exact = gram(qk, 3)
    assert (statistics(qk, 3).gram - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_gradient_of_sums_in_pieces(monkeypatch):
    """Training differentiates the sums; those of squares also in the form for GPUs."""
    monkeypatch.setattr(restormer, "PIECE", 4)

    qk = torch.randn(1, 3, 5, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(statistics(qk, 2).gram.square().sum(), qk)
    (exact,) = torch.autograd.grad(gram(qk, 2).square().sum(), qk)
    assert torch.allclose(slope, exact, rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(sum_squares_by_norm(qk).sum(), qk)
    assert torch.allclose(slope, 2 * qk, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_squares_for_gpus(dtype):
    """The form for GPUs gives the sums of squares without overflow."""
    x = (torch.randn(2, 30, 40, 6) * 300).to(dtype)
    exact = x.double().square().sum((1, 2))
    for sums in (sum_squares(x), sum_squares_by_norm(x)):
        assert sums.dtype == torch.float32
        # On a CPU, squares are rounded to bf16 before they are summed.
        assert (sums - exact).abs().max() <= (
            1e-3 if dtype == torch.bfloat16 else 1e-5
        ) * exact.max()


def test_zero_output_weights_return_the_image():
    """With zero output weights the residual is zero, and the image is returned unchanged."""
    network = tiny_network()
    torch.nn.init.zeros_(network.output.weight)
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    assert torch.equal(network(image), image)


def test_images_of_a_batch_do_not_mix():
    """Each image of a batch is restored independently."""
    network = tiny_network()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        torch.testing.assert_close(network(images)[1:], network(images[1:]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 20, 16), "multiples of 8"),
        ((1, 3, 16, 12), "multiples of 8"),
        ((1, 1, 16, 16), "takes B 3 H W"),
        ((3, 16, 16), "takes B 3 H W"),
    ],
)
def test_invalid_images_are_rejected(shape, message):
    """Sides that are no multiple of 8 and wrong channels raise an error that names them."""
    with pytest.raises(ValueError, match=message):
        tiny_network()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_norm": "None"}, "layer_norm is 'None'"),
        ({"dim": 10, "heads": (3, 1, 1, 1)}, "level 1: 3 heads"),
    ],
)
def test_invalid_architectures_are_rejected(fields, message):
    """Hyperparameters that no network can be built from raise an error that names them."""
    with pytest.raises(ValueError, match=message):
        Architecture(**fields)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_architecture_survives_json(variant):
    """An architecture survives a round trip through JSON."""
    a = OFFICIAL[variant]
    assert Architecture.from_dict(json.loads(json.dumps(a.as_dict()))) == a
