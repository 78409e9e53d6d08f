"""Test the windows for attention statistics against the method of Chu et al. (ECCV 2022)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from restormer_cli.inference import strips
from restormer_cli.inference.blocking import BlockShape
from restormer_cli.network.restormer import TransformerBlock
from tests.support.networks import VARIANTS, assert_close


def local_block(window: int, height: int):
    """Return a block's forward as published: window by window, with overlaps averaged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def normal(norm, x):  # B H W C to B C H W
            weight, bias = norm.body["weight"], norm.body.get("bias")
            y = (x - (x.mean(-1, keepdim=True) if norm.centred else 0)) * weight
            y = y / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            return (y if bias is None else y + bias).permute(0, 3, 1, 2)

        q, k, v = self.attn.qkv_dwconv(self.attn.qkv(normal(self.norm1, x))).chunk(3, dim=1)
        side = window * x.shape[1] // height
        total, count = torch.zeros_like(v), torch.zeros_like(v)
        for top in window_starts(v.shape[2], side):
            for left in window_starts(v.shape[3], side):
                inside = (..., slice(top, top + side), slice(left, left + side))

                def heads(t, inside=inside):
                    return t[inside].flatten(2).unflatten(1, (self.attn.heads, -1))

                unit_q, unit_k = (F.normalize(heads(t), dim=-1) for t in (q, k))
                weights = (unit_q @ unit_k.mT * self.attn.temperature).softmax(-1)
                total[inside] += (weights @ heads(v)).reshape(v[inside].shape)
                count[inside] += 1
        x = x + self.attn.project_out(total / count).permute(0, 2, 3, 1)
        gate, value = self.ffn.dwconv(self.ffn.project_in(normal(self.norm2, x))).chunk(2, dim=1)
        return x + self.ffn.project_out(F.gelu(gate) * value).permute(0, 2, 3, 1)

    return forward


def window_starts(length: int, side: int) -> list[int]:
    """Return the starts of the fewest windows that cover an axis in equal steps."""
    if length <= side:
        return [0]
    step = math.ceil((length - side) / ((length - 1) // side))
    return [*range(0, length - side, step), length - side]


@pytest.mark.parametrize("variant", ["rgb_with_bias", "rgb_bias_free", "biased"])
@pytest.mark.parametrize("size", [(96, 120), (64, 200), (40, 48)])
def test_windows_agree_with_the_published_method(variant, size, monkeypatch):
    """Strips with windows give the result of the published method, window by window."""
    network = VARIANTS[variant]
    image = torch.rand(1, 3, *size)
    result = strips.forward(network, image, window=48, blocking=lambda *_: BlockShape(12, 12, 20))
    monkeypatch.setattr(TransformerBlock, "forward", local_block(48, size[0]))
    with torch.inference_mode():
        assert_close(result, network(image))


def test_a_window_as_large_as_the_image_changes_nothing():
    """A window that contains the whole image gives the result without windows."""
    network = VARIANTS["rgb_with_bias"]
    image = torch.rand(1, 3, 48, 64)
    assert torch.equal(strips.forward(network, image, window=64), strips.forward(network, image))
    assert not torch.allclose(
        strips.forward(network, image, window=32), strips.forward(network, image)
    )


def test_progress_counts_the_strips_of_windows():
    """Progress also counts the strips that end at edges of windows."""
    reports: list[tuple[int, int]] = []
    strips.forward(
        VARIANTS["rgb_bias_free"],
        torch.rand(1, 3, 120, 72),
        window=48,
        progress=lambda *report: reports.append(report),
    )
    assert reports[-1] == (len(reports), len(reports))
