"""A network's weights made ready for inference: folded, padded and cast once."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import BlockWeights, Output, Projection, Restormer, TransformerBlock

ALIGNMENT = 16
"""Hidden channels are padded with zeros to a multiple of this: where rows begin in the middle of
a cache line, matrix products on CPUs take up to twice as long."""


class Packed(NamedTuple):
    """A network's weights in one precision: stages of blocks, and the convolutions between."""

    stages: dict[str, list[BlockWeights]]
    convolutions: dict[str, tuple[Tensor, Tensor | None]]


_packed: WeakKeyDictionary[Restormer, tuple[object, Packed]] = WeakKeyDictionary()


def pack(network: Restormer, dtype: torch.dtype) -> Packed:
    """The network's weights folded, padded and cast, kept for as long as they do not change."""
    token = (dtype, [(p.data_ptr(), p._version) for p in network.parameters()])
    if network not in _packed or _packed[network][0] != token:
        stages, convolutions = {}, {}
        with torch.no_grad():
            for name, module in network.named_children():
                if isinstance(module, nn.Sequential):  # a stage
                    stages[name] = [
                        pack_block(block.weights(), dtype)
                        for block in module
                        if isinstance(block, TransformerBlock)
                    ]
                else:
                    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
                    bias = None if conv.bias is None else conv.bias.to(dtype)
                    convolutions[name] = (conv.weight.to(dtype), bias)
        _packed[network] = (token, Packed(stages, convolutions))
    return _packed[network][1]


def pack_block(w: BlockWeights, dtype: torch.dtype) -> BlockWeights:
    """A block's weights in `dtype`, with hidden channels added that stay zero."""
    missing = -w.ffn_out.weight.shape[1] % ALIGNMENT

    def cast(t: Tensor | None, rows: int = 0, columns: int = 0) -> Any:
        if t is None:
            return None
        margins = (0, columns) + (0, 0) * (t.ndim - 2) + (0, rows)
        return F.pad(t, margins[-2 * t.ndim :]).to(dtype).contiguous()

    return w._replace(
        qk=Projection(*map(cast, w.qk)),
        v=Projection(*map(cast, w.v)),
        attention_out=Output(w.attention_out.weight, cast(w.attention_out.bias)),
        gate=Projection(*(cast(t, rows=missing) for t in w.gate)),
        value=Projection(*(cast(t, rows=missing) for t in w.value)),
        ffn_out=Output(cast(w.ffn_out.weight, columns=missing), cast(w.ffn_out.bias)),
    )
