"""One optimizer step, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import Restormer
from .state import Run

CLIP = 0.1
"""Limit of the norm of the gradient."""
EMA_DECAY = 0.999
"""Share of the average that a step keeps; less in the first steps."""


def update(
    run: Run,
    degraded: Tensor,
    clean: Tensor,
    rate: float,
    *,
    forward: nn.Module | None = None,
    bf16: bool = False,
) -> float:
    """Make one optimizer step at a learning rate, and update the moving average of the weights.

    `forward` is the network wrapped for several processes; `bf16` enables autocast.

    Returns:
        The loss, or NaN, with all weights unchanged, if the loss or its gradient is not finite.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    network = run.network if forward is None else forward  # a compiled network has no truth value
    loss = batch_loss(network, degraded, clean, bf16=bf16)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), CLIP)
    if not torch.isfinite(loss + norm):
        return math.nan
    run.optimizer.step()
    update_average(run.average, run.network, min(EMA_DECAY, (1 + run.step) / (10 + run.step)))
    return loss.item()


def batch_loss(network: nn.Module, degraded: Tensor, clean: Tensor, *, bf16: bool) -> Tensor:
    """Return the L1 loss of a batch."""
    with torch.autocast(degraded.device.type, torch.bfloat16, enabled=bf16):
        return F.l1_loss(network(degraded).float(), clean)


@torch.no_grad()
def update_average(average: Restormer, network: Restormer, decay: float) -> None:
    """Replace the average by `decay` times itself plus `1 - decay` times the weights."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
