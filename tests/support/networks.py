"""Tiny networks that run in milliseconds."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from restormer_cli.network.restormer import Architecture, Restormer

DATA = Path(__file__).parents[1] / "data"
OFFICIAL = {
    "rgb_with_bias": Architecture(),
    "rgb_bias_free": Architecture(layer_norm="BiasFree"),
    "gray_bias_free": Architecture(in_channels=1, out_channels=1, layer_norm="BiasFree"),
    "dual_pixel": Architecture(in_channels=6, dual_pixel=True),
}
PARAMETERS = {
    "rgb_with_bias": 26_126_644,
    "rgb_bias_free": 26_111_668,
    "gray_bias_free": 26_109_076,
    "dual_pixel": 26_132_548,
}


TINY = Architecture(dim=8, blocks=(1, 1, 1, 1), refinement=1, heads=(1, 2, 2, 4))


def tiny_network(seed: int = 0, **changes: Any) -> Restormer:
    """Return a network with random weights that runs in milliseconds."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Restormer(replace(TINY, **changes)).eval()


def read_golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(DATA / "golden" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def golden_weight(name: str, shape: torch.Size, seed: int = 7) -> torch.Tensor:
    """Return a random weight as defined in data/golden/README.md."""
    rng = np.random.default_rng(zlib.crc32(f"{seed}:{name}".encode()))
    a = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    if name.endswith("temperature"):
        return 1 + 0.5 * a.abs()
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * a
    if name.endswith("bias"):
        return 0.1 * a
    return a / shape[1:].numel() ** 0.5


def random_network(**changes) -> Restormer:
    """Return a tiny network with random parameters, including norms and temperatures."""
    network = tiny_network(**changes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(golden_weight(name, parameter.shape))
    return network


VARIANTS = {
    "rgb_with_bias": random_network(),
    "rgb_bias_free": random_network(layer_norm="BiasFree"),
    "grey": random_network(in_channels=1, out_channels=1, layer_norm="BiasFree"),
    "dual_pixel": random_network(in_channels=6, dual_pixel=True),
    "biased": random_network(bias=True),
}


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Require a difference of at most 1e-5, relative to values above 1."""
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
