"""Distributed data parallel training: one process per device, started by `torchrun`.

Each process draws its own batches. DistributedDataParallel averages their gradients, so that all
processes make the same steps and hold the same weights.
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
    """Rank of this process and number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that validates, saves and reports."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Average the gradients of the network over all processes in each backward pass."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def broadcast(self, value: float, device: torch.device) -> float:
        """Return the value of rank 0. Clocks differ, but all processes must stop at one step."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.broadcast(tensor, 0)
        return tensor.item()


SINGLE = Ranks()


@contextmanager
def join_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that `torchrun` started, or run alone.

    Yields:
        The ranks, and the device of this process: `device`, or the CUDA device of its local rank.

    Raises:
        DeviceError: several processes were started on MPS.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE, device
        return
    if device.type == "mps":
        raise DeviceError("mps: cannot be shared by several processes", "Choose --device cpu.")
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size()), device
    finally:
        torch.distributed.destroy_process_group()
