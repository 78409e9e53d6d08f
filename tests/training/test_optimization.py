"""One optimizer step, on tiny networks."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from restormer_cli.training import optimization
from restormer_cli.training.state import Run
from tests.support.networks import tiny_network
from tests.support.training import assert_same


class Compiled(torch.nn.Module):
    """A network as `torch.compile` wraps it: it has a length that cannot be computed."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def __len__(self) -> int:
        raise TypeError("Restormer does not support len()")

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


def test_a_compiled_network_can_be_trained() -> None:
    """The wrapper is used for the step, and asked for nothing else."""
    trained = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    compiled = Compiled(trained.network)
    clean = torch.rand(1, 3, 16, 16)
    assert math.isfinite(optimization.update(trained, clean * 0.5, clean, 1e-3, forward=compiled))
    assert compiled.calls == 1


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    """The weights, their average and the optimizer keep their values."""
    state = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    before = {name: p.clone() for name, p in state.network.state_dict().items()}
    clean = torch.full((1, 3, 16, 16), 0.5)
    assert math.isnan(optimization.update(state, clean * math.inf, clean, 1e-3))
    assert_same(state.network.state_dict(), before)
    assert_same(state.average.state_dict(), before)
    assert not state.optimizer.state


def test_the_average_follows_the_weights() -> None:
    """The average is multiplied by `decay`, the weights by the rest."""
    average, network = tiny_network(0), tiny_network(1)
    expected = [
        0.9 * a + 0.1 * b for a, b in zip(average.parameters(), network.parameters(), strict=True)
    ]
    optimization.update_average(average, network, 0.9)
    for parameter, value in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, value)


def test_an_update_moves_the_weights_and_their_average() -> None:
    """AdamW's first step equals the learning rate, and the average moves nine tenths of it."""
    state = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    before = state.network.output.weight.detach().clone()
    clean = torch.rand(1, 3, 16, 16, generator=Generator().manual_seed(0))
    optimization.update(state, clean * 0.5, clean, 1e-3)
    moved = state.network.output.weight.detach() - before
    followed = state.average.output.weight.detach() - before
    assert 0.9e-3 < float(moved.abs().median()) < 1.1e-3
    torch.testing.assert_close(followed, moved * 0.9, atol=1e-7, rtol=1e-3)
