"""Restormer in its published formulation: the baseline of speed measurements and MAC counts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .restormer import LayerNorm, Restormer, TransformerBlock


def reference_forward(network: Restormer, image: Tensor) -> Tensor:
    """The whole image in one pass as the published formulation has it, operation by operation.

    B C H W throughout, 1x1 convolutions as convolutions, LayerNorm by `var`, attention and output
    projection one after the other: what engines are measured against.
    """

    def normal(x: Tensor, norm: LayerNorm) -> Tensor:
        y = rearrange(x, "b c h w -> b (h w) c")
        deviation = (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        if norm.body.centred:
            y = y - y.mean(-1, keepdim=True)
        y = y / deviation * norm.body.weight
        if norm.body.bias is not None:
            y = y + norm.body.bias
        return rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])

    def block(x: Tensor, b: TransformerBlock) -> Tensor:
        qkv = b.attn.qkv_dwconv(b.attn.qkv(normal(x, b.norm1)))
        q, k, v = rearrange(
            qkv, "b (qkv head c) h w -> qkv b head c (h w)", qkv=3, head=b.attn.heads
        )
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * b.attn.temperature
        y = rearrange(weights.softmax(-1) @ v, "b head c (h w) -> b (head c) h w", h=x.shape[2])
        x = x + b.attn.project_out(y)
        gate, value = b.ffn.dwconv(b.ffn.project_in(normal(x, b.norm2))).chunk(2, dim=1)
        return x + b.ffn.project_out(F.gelu(gate) * value)  # type: ignore[no-any-return]

    def stage(x: Tensor, blocks: nn.Sequential) -> Tensor:
        for one in blocks:
            assert isinstance(one, TransformerBlock)  # noqa: S101 - for the type checker
            x = block(x, one)
        return x

    def down(x: Tensor, body: nn.Sequential) -> Tensor:
        return F.pixel_unshuffle(body[0](x), 2)

    def up(x: Tensor, body: nn.Sequential) -> Tensor:
        return F.pixel_shuffle(body[0](x), 2)

    n = network
    x0 = n.patch_embed.proj(image)
    x1 = stage(x0, n.encoder_level1)
    x2 = stage(down(x1, n.down1_2.body), n.encoder_level2)
    x3 = stage(down(x2, n.down2_3.body), n.encoder_level3)
    y = stage(down(x3, n.down3_4.body), n.latent)
    y = stage(n.reduce_chan_level3(torch.cat([up(y, n.up4_3.body), x3], 1)), n.decoder_level3)
    y = stage(n.reduce_chan_level2(torch.cat([up(y, n.up3_2.body), x2], 1)), n.decoder_level2)
    y = stage(torch.cat([up(y, n.up2_1.body), x1], 1), n.decoder_level1)
    y = stage(y, n.refinement)
    if n.architecture.dual_pixel:
        return n.output(y + n.skip_conv(x0))  # type: ignore[no-any-return]
    return n.output(y) + image  # type: ignore[no-any-return]
