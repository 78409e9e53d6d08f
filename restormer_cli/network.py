"""Restormer (Zamir et al., CVPR 2022, arXiv 2111.09881): the network, and nothing but the network.

The attribute names (`encoder_level1.0.attn.qkv_dwconv`, ...) are those of the published state
dicts, so that the official checkpoints load strictly and a user's own fine-tuned files do too.

Inside, a feature map is B H W C with C innermost in memory ("channels last"): LayerNorm and the
1x1 convolutions then read each pixel's channels as one run, which is what CPUs and GPUs are
fastest at. Images come and go as B C H W, RGB, 0..1.

A block's mathematics stands here once, in pieces that do not know how much of the image they
are given: `MDTA.statistics` sums over pixels, `MDTA.mixing_matrix` needs only those sums, and all
the rest is local to a pixel and its eight neighbours. The plain forward runs the pieces on the
whole image; `streaming` runs the same pieces strip by strip.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LEVELS = 4
MULTIPLE = 8
"""Height and width must be multiples of this: three halvings by pixel-unshuffle."""

_EPSILON_NORM = 1e-5
_EPSILON_COSINE = 1e-12


@dataclass(frozen=True)
class Architecture:
    """What shapes a Restormer; the defaults are the paper's network (section 4, "Implementation").

    `layer_norm` is "WithBias" or "BiasFree" (the paper uses the latter for denoising).
    `dual_pixel` networks take two views (6 channels) and give the restored left one: they add a
    1x1 skip of the embedded input where the others add the input image itself.
    """

    in_channels: int = 3
    out_channels: int = 3
    dim: int = 48
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    refinement: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    expansion: float = 2.66
    bias: bool = False
    layer_norm: str = "WithBias"
    dual_pixel: bool = False

    def __post_init__(self) -> None:
        if self.layer_norm not in LAYER_NORMS:
            raise ValueError(f"layer_norm is {self.layer_norm!r}, not one of {list(LAYER_NORMS)}")
        for level, heads in enumerate(self.heads):
            if self.dim * 2**level % heads:
                raise ValueError(f"level {level + 1}: {heads} heads do not divide its channels")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Architecture:
        """The inverse of `as_dict`, lists and tuples alike."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


# --- the operations everything is made of; x is B H W C ---------------------------------------


def conv1x1(x: Tensor, conv: nn.Conv2d, rows: slice = slice(None)) -> Tensor:
    """A 1x1 convolution as one matrix product; `rows` picks some of its output channels."""
    bias = None if conv.bias is None else conv.bias[rows]
    return F.linear(x, conv.weight[rows].flatten(1), bias)  # B H W D


def conv3x3(x: Tensor, conv: nn.Conv2d, rows: slice = slice(None)) -> Tensor:
    """A 3x3 convolution, dense or depthwise, zeros beyond the border; `rows` as in `conv1x1`."""
    weight = conv.weight[rows]
    bias = None if conv.bias is None else conv.bias[rows]
    groups = 1 if conv.groups == 1 else weight.shape[0]
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=groups)
    return y.permute(0, 2, 3, 1)  # B H W D


def pixel_unshuffle(x: Tensor) -> Tensor:
    """Halve height and width, each 2 x 2 pixels into channels."""
    return rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=2, j=2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Double height and width, the inverse of `pixel_unshuffle`."""
    return rearrange(x, "b h w (c i j) -> b (h i) (w j) c", i=2, j=2)


# --- layer normalisation over channels (section 3, "LN" in Figure 2) ---------------------------


class WithBias(nn.Module):
    """(x - mean) / std * weight + bias, over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, _EPSILON_NORM)


class BiasFree(nn.Module):
    """x / std * weight: the deviation is about the mean, but the mean stays in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _DivideByDeviation.apply(x) * self.weight.to(x.dtype)  # type: ignore[no-untyped-call]


class _DivideByDeviation(torch.autograd.Function):
    """x / sqrt(var + eps), with the deviation that the native LayerNorm finds on its way.

    `Tensor.var` over the innermost axis takes several times as long, and the native kernel's
    deviation has no gradient of its own: hence the closed form below.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        _, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, _EPSILON_NORM)
        ctx.save_for_backward(x, mean, rstd)
        return x * rstd.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # y = x r, r = (var + eps)^-1/2, dr/dx = -r^3 (x - mean) / C
        x, mean, rstd = ctx.saved_tensors
        mean, rstd = mean.to(x.dtype), rstd.to(x.dtype)
        along = (gradient * x).sum(-1, keepdim=True) / x.shape[-1]
        return gradient * rstd - (x - mean) * (along * rstd**3)


LAYER_NORMS: dict[str, type[nn.Module]] = {"WithBias": WithBias, "BiasFree": BiasFree}


class LayerNorm(nn.Module):
    """The kind of normalisation that the architecture names, under the published name `body`."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.body = LAYER_NORMS[kind](channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


# --- the two halves of a block -----------------------------------------------------------------


class Statistics(NamedTuple):
    """The sums over pixels that channel attention needs, in fp32: they add up over strips."""

    gram: Tensor  # B heads c c: sum of q k^T
    squares: Tensor  # B 2 heads c: sums of q^2 and of k^2

    def __add__(self, other: tuple[Tensor, ...]) -> Statistics:  # type: ignore[override]
        return Statistics(self.gram + other[0], self.squares + other[1])


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention: self-attention across channels (3.1, equation 1)."""

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, channels * 3, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(
            channels * 3, channels * 3, 3, padding=1, groups=channels * 3, bias=bias
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """X-hat of equation 1 for a whole image: B H W C to B H W C, `x` being normalised."""
        channels = x.shape[-1]
        qk, v = self.project(x).split([2 * channels, channels], dim=-1)
        return self.mix(v, self.mixing_matrix(self.statistics(qk)))

    def project(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Queries, keys and values, B H W 3C; `rows` picks some of these channels."""
        return conv3x3(conv1x1(x, self.qkv, rows), self.qkv_dwconv, rows)

    def statistics(self, qk: Tensor) -> Statistics:
        """What B H W 2C of queries and keys add to the sums over pixels."""
        q, k = rearrange(qk, "b h w (two head c) -> two b head (h w) c", two=2, head=self.heads)
        gram = (q.mT @ k).float()  # B heads c c
        squares = qk.float().square().sum((1, 2))  # B 2C
        return Statistics(
            gram, rearrange(squares, "b (two head c) -> b two head c", two=2, head=self.heads)
        )

    def mixing_matrix(self, sums: Statistics) -> Tensor:
        """Attention and output projection as one matrix on the values' channels, B C C, fp32.

        q and k have unit length over pixels in equation 1; dividing their product by the lengths
        comes to the same and needs no second look at the pixels.
        """
        q, k = sums.squares.sqrt().clamp_min(_EPSILON_COSINE).unbind(1)  # B heads c
        cosine = sums.gram / (q.unsqueeze(-1) * k.unsqueeze(-2))
        attention = torch.softmax(cosine * self.temperature.float(), dim=-1)  # B heads c c
        project = self.project_out.weight.flatten(1).float()
        project = rearrange(project, "o (head c) -> head o c", head=self.heads)
        return rearrange(project @ attention, "b head o c -> b o (head c)")  # B C C

    def mix(self, v: Tensor, matrix: Tensor) -> Tensor:
        """The attended and projected values, B H W C."""
        b, h, w, c = v.shape
        y = v.reshape(b, h * w, c) @ matrix.to(v.dtype).mT  # B HW C
        if self.project_out.bias is not None:
            y = y + self.project_out.bias.to(v.dtype)
        return y.view(b, h, w, c)


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network (3.2, equation 2)."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, hidden * 2, 1, bias=bias)
        self.dwconv = nn.Conv2d(hidden * 2, hidden * 2, 3, padding=1, groups=hidden * 2, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B H W C, `x` being normalised."""
        gate, value = conv3x3(conv1x1(x, self.project_in), self.dwconv).chunk(2, dim=-1)
        return conv1x1(F.gelu(gate) * value, self.project_out)


class TransformerBlock(nn.Module):
    """MDTA and GDFN, each on the normalised map and added to it (Figure 2)."""

    def __init__(self, channels: int, heads: int, a: Architecture) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, a.layer_norm)
        self.attn = MDTA(channels, heads, a.bias)
        self.norm2 = LayerNorm(channels, a.layer_norm)
        self.ffn = GDFN(channels, a.expansion, a.bias)

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B H W C."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.ffn(self.norm2(x))
        return y


# --- the U -------------------------------------------------------------------------------------


class OverlapPatchEmbed(nn.Module):
    """The first 3x3 convolution: image to features."""

    def __init__(self, in_channels: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """B H W in_channels to B H W dim."""
        return conv3x3(x, self.proj)


class Downsample(nn.Module):
    """To the next level: half the channels, then pixel-unshuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B H/2 W/2 2C."""
        return pixel_unshuffle(conv3x3(x, self.body[0]))  # type: ignore[arg-type]


class Upsample(nn.Module):
    """Back to the level above: twice the channels, then pixel-shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B 2H 2W C/2."""
        return pixel_shuffle(conv3x3(x, self.body[0]))  # type: ignore[arg-type]


class Restormer(nn.Module):
    """The U-shaped whole (Figure 2): four levels down, three up, refinement, and the residual.

    Attributes:
        architecture: what it was built from.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        a = self.architecture = architecture or Architecture()
        width = [a.dim * 2**level for level in range(LEVELS)]

        def stage(channels: int, heads: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(channels, heads, a) for _ in range(blocks)))

        self.patch_embed = OverlapPatchEmbed(a.in_channels, a.dim, a.bias)
        self.encoder_level1 = stage(width[0], a.heads[0], a.blocks[0])
        self.down1_2 = Downsample(width[0])
        self.encoder_level2 = stage(width[1], a.heads[1], a.blocks[1])
        self.down2_3 = Downsample(width[1])
        self.encoder_level3 = stage(width[2], a.heads[2], a.blocks[2])
        self.down3_4 = Downsample(width[2])
        self.latent = stage(width[3], a.heads[3], a.blocks[3])
        self.up4_3 = Upsample(width[3])
        self.reduce_chan_level3 = nn.Conv2d(width[3], width[2], 1, bias=a.bias)
        self.decoder_level3 = stage(width[2], a.heads[2], a.blocks[2])
        self.up3_2 = Upsample(width[2])
        self.reduce_chan_level2 = nn.Conv2d(width[2], width[1], 1, bias=a.bias)
        self.decoder_level2 = stage(width[1], a.heads[1], a.blocks[1])
        self.up2_1 = Upsample(width[1])
        # No reduction here: level 1 is decoded at twice its width (3, "Overall Pipeline").
        self.decoder_level1 = stage(width[1], a.heads[0], a.blocks[0])
        self.refinement = stage(width[1], a.heads[0], a.refinement)
        if a.dual_pixel:
            self.skip_conv = nn.Conv2d(a.dim, width[1], 1, bias=a.bias)
        self.output = nn.Conv2d(width[1], a.out_channels, 3, padding=1, bias=a.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Restore whole images in one pass.

        Args:
            image: B C H W, 0..1, C being `architecture.in_channels`; H and W multiples of 8.

        Returns:
            B C H W, C being `architecture.out_channels`; not clamped.

        Raises:
            ValueError: a side is no multiple of 8, or the channels do not match.
        """
        self.check(image)
        x0 = self.patch_embed(image.permute(0, 2, 3, 1).contiguous())  # B H W dim
        x1 = self.encoder_level1(x0)
        x2 = self.encoder_level2(self.down1_2(x1))  # B H/2 W/2 2dim
        x3 = self.encoder_level3(self.down2_3(x2))  # B H/4 W/4 4dim
        y = self.latent(self.down3_4(x3))  # B H/8 W/8 8dim
        y = conv1x1(torch.cat([self.up4_3(y), x3], -1), self.reduce_chan_level3)
        y = self.decoder_level3(y)  # B H/4 W/4 4dim
        y = conv1x1(torch.cat([self.up3_2(y), x2], -1), self.reduce_chan_level2)
        y = self.decoder_level2(y)  # B H/2 W/2 2dim
        y = self.decoder_level1(torch.cat([self.up2_1(y), x1], -1))  # B H W 2dim
        y = self.refinement(y)
        if self.architecture.dual_pixel:
            return conv3x3(y + conv1x1(x0, self.skip_conv), self.output).permute(0, 3, 1, 2)
        # The residual is added in the image's own precision, whatever the features ran in.
        return conv3x3(y, self.output).permute(0, 3, 1, 2).to(image.dtype) + image

    def check(self, image: Tensor) -> None:
        """Raise ValueError where `image` (B C H W) is not what the network takes."""
        if image.ndim != 4 or image.shape[1] != self.architecture.in_channels:
            raise ValueError(
                f"an image of shape {tuple(image.shape)} was given to a network that takes "
                f"B {self.architecture.in_channels} H W"
            )
        if image.shape[2] % MULTIPLE or image.shape[3] % MULTIPLE:
            raise ValueError(
                f"height {image.shape[2]} and width {image.shape[3]} must be multiples "
                f"of {MULTIPLE}: restormer_cli.restore pads and crops"
            )
