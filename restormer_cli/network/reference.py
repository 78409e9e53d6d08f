"""Restormer in its published formulation: the baseline of speed measurements and MAC counts.

Equation 1 (MDTA, section 3.1): X' = W_p Softmax(Q K^T * temperature) V + X, where Q, K and V are
W_d W_p LN(X) with the pixels in the last axis, over which Q and K have unit length.
Equation 2 (GDFN, section 3.2): X' = W_p (GELU(W_d1 W_p1 LN(X)) * W_d2 W_p2 LN(X)) + X.
W_p are 1x1 and W_d depthwise 3x3 convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .functions import NORM_EPSILON
from .restormer import LayerNorm, Restormer, TransformerBlock


def reference_forward(network: Restormer, image: Tensor) -> Tensor:
    """Restore a whole image in one pass, with the operations of the publication (Figure 2).

    Args:
        network: in eval mode.
        image: B C H W, 0..1; H and W multiples of 8.

    Returns:
        B C' H W, not clamped.
    """
    n = network
    x0 = n.patch_embed.proj(image)
    x1 = _stage(x0, n.encoder_level1)
    x2 = _stage(F.pixel_unshuffle(n.down1_2.body(x1), 2), n.encoder_level2)
    x3 = _stage(F.pixel_unshuffle(n.down2_3.body(x2), 2), n.encoder_level3)
    y = _stage(F.pixel_unshuffle(n.down3_4.body(x3), 2), n.latent)
    y = torch.cat([F.pixel_shuffle(n.up4_3.body(y), 2), x3], 1)
    y = _stage(n.reduce_chan_level3(y), n.decoder_level3)
    y = torch.cat([F.pixel_shuffle(n.up3_2.body(y), 2), x2], 1)
    y = _stage(n.reduce_chan_level2(y), n.decoder_level2)
    y = torch.cat([F.pixel_shuffle(n.up2_1.body(y), 2), x1], 1)
    y = _stage(_stage(y, n.decoder_level1), n.refinement)
    if n.architecture.dual_pixel:
        return n.output(y + n.skip_conv(x0))  # type: ignore[no-any-return]
    return n.output(y) + image  # type: ignore[no-any-return]


def _stage(x: Tensor, blocks: Any) -> Tensor:
    for block in blocks:
        x = _feed_forward(_attention(x, block), block)
    return x


def _attention(x: Tensor, block: TransformerBlock) -> Tensor:  # equation 1
    attn = block.attn
    qkv = attn.qkv_dwconv(attn.qkv(_normalise(x, block.norm1)))
    q, k, v = rearrange(qkv, "b (qkv head c) h w -> qkv b head c (h w)", qkv=3, head=attn.heads)
    weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * attn.temperature
    y = rearrange(weights.softmax(-1) @ v, "b head c (h w) -> b (head c) h w", h=x.shape[2])
    return x + attn.project_out(y)  # type: ignore[no-any-return]


def _feed_forward(x: Tensor, block: TransformerBlock) -> Tensor:  # equation 2
    gate, value = block.ffn.dwconv(block.ffn.project_in(_normalise(x, block.norm2))).chunk(2, 1)
    return x + block.ffn.project_out(F.gelu(gate) * value)  # type: ignore[no-any-return]


def _normalise(x: Tensor, norm: LayerNorm) -> Tensor:
    y = rearrange(x, "b c h w -> b (h w) c")
    deviation = (y.var(-1, keepdim=True, unbiased=False) + NORM_EPSILON).sqrt()
    if norm.centred:
        y = y - y.mean(-1, keepdim=True)
    y = y / deviation * norm.body["weight"]
    if norm.centred:
        y = y + norm.body["bias"]
    return rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])  # type: ignore[no-any-return]
