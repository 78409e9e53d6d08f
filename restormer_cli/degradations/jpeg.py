"""JPEG compression (ITU-T T.81) on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from .sampling import chosen, to_8_bit, uniform

# Annex K of ITU-T T.81: the tables that JPEG encoders scale by their quality setting.
_LUMINANCE = """
    16 11 10 16  24  40  51  61  12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56  14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77  24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103  99"""
_CHROMINANCE = """
    17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99"""
_TABLES = torch.tensor(
    [[float(n) for n in table.split()] for table in (_LUMINANCE, _CHROMINANCE, _CHROMINANCE)]
).view(3, 8, 8)  # Y, Cb, Cr

_YCBCR = torch.tensor(  # JFIF, section 7
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_RGB = _YCBCR.inverse()
_CENTRE = torch.tensor([128.0, 0.0, 0.0]).view(3, 1, 1)  # Cb and Cr are already centred on 0

# The orthonormal 8-point DCT-II as a matrix.
_N = torch.arange(8.0)
_DCT = torch.cos(torch.pi * (2 * _N + 1) * _N[:, None] / 16) / 2
_DCT[0] /= 2**0.5


def jpeg(x: Tensor, quality: Tensor, subsample: Tensor) -> Tensor:
    """Compress and decompress images with baseline JPEG (ITU-T T.81).

    Args:
        x: B 3 H W, 0..1, of any size.
        quality: B 1 1 1, integers 1..100 that scale the tables of Annex K as libjpeg does.
        subsample: B 1 1 1, bool; True halves the resolution of chroma (4:2:0).
    """
    height, width = x.shape[2:]
    x = F.pad(to_8_bit(x), (0, -width % 16, 0, -height % 16), mode="replicate")
    centre = _CENTRE.to(x)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = ((_TABLES.to(x) * percent + 50) / 100).floor().clamp(1, 255)  # B 3 8 8

    ycc = to_ycc(x * 255).round() - centre
    half = _quantised(F.avg_pool2d(ycc[:, 1:], 2).round(), steps[:, 1:])
    # Decoders enlarge chroma with a triangle filter ("fancy upsampling" in libjpeg).
    half = F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
    ycc = _quantised(ycc, steps)
    ycc = torch.cat([ycc[:, :1], torch.where(subsample, half, ycc[:, 1:])], dim=1).round()
    return to_8_bit(to_rgb(ycc + centre)[:, :, :height, :width] / 255)


def to_ycc(rgb: Tensor) -> Tensor:
    """Convert ... 3 H W to Y, Cb and Cr (JFIF, section 7), with Cb and Cr centred on 0."""
    return torch.einsum("oc,...chw->...ohw", _YCBCR.to(rgb), rgb)


def to_rgb(ycc: Tensor) -> Tensor:
    """Convert ... 3 H W from Y, Cb and Cr, centred on 0."""
    return torch.einsum("oc,...chw->...ohw", _RGB.to(ycc), ycc)


def maybe_jpeg(x: Tensor, generator: Generator, lowest: float) -> Tensor:
    """Compress half of the images with JPEG, at a quality of `lowest` to 98."""
    quality = uniform(lowest, 98, x, generator).round()
    packed = jpeg(x, quality, chosen(0.5, x, generator))
    return torch.where(chosen(0.5, x, generator), packed, x)


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT coefficients of each 8 x 8 block (B C H W) to `steps` (B C 8 8)."""
    dct = _DCT.to(planes)
    blocks = rearrange(planes, "b c (h i) (w j) -> h w b c i j", i=8, j=8)
    blocks = dct.T @ ((dct @ blocks @ dct.T / steps).round() * steps) @ dct
    return rearrange(blocks, "h w b c i j -> b c (h i) (w j)")
