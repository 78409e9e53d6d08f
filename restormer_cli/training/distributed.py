"""Training on several devices at once: one process for each, started by `torchrun`.

Each process draws batches of its own; DistributedDataParallel averages their gradients, so that
all of them make the same step and hold the same weights. One process alone is a team of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import DeviceError
from ..inference import choose_device


class Ranks(NamedTuple):
    """Which of how many processes this one is; the first one validates, saves and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """The network, its gradients averaged over the team after every backward pass."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def agreed(self, value: float, device: torch.device) -> float:
        """The leader's value: clocks differ, and all must end at the same step."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(told, 0)
        return told.item()


ALONE = Ranks()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """The team that `torchrun` has called this process into, and the device that is its own.

    Of CUDA devices each process takes the one of its number on its machine. Without `torchrun` it
    is alone, on `device`.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE, device
        return
    if device.type == "mps":
        raise DeviceError("several processes cannot train on mps", "Say --device cpu.")
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size()), device
    finally:
        torch.distributed.destroy_process_group()
