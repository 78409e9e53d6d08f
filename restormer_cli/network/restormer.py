"""The Restormer network (Zamir et al., CVPR 2022, arXiv 2111.09881).

Attribute names (`encoder_level1.0.attn.qkv_dwconv`, ...) match the published state dicts, so
official checkpoints load strictly. Images are B C H W, RGB, 0..1. Feature maps are B H W C with C
innermost in memory ("channels last"), which is fastest for LayerNorm and 1x1 convolutions.

The mathematics of a transformer block is written once, in functions that accept any part of an
image: `statistics` sums over pixels, `attention` needs only those sums, and everything else
depends on a pixel and its eight neighbours. `Restormer.forward` applies them to the whole image,
`restormer_cli.inference.strips` to one strip after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .functions import (
    Convolve,
    conv1x1,
    crop_like,
    normalised,
    pixel_shuffle,
    pixel_unshuffle,
    same,
    sum_squares,
)
from .sizes import MULTIPLE

LEVELS = 4
CHANNELS = ((1, 1), (3, 3), (6, 3))
"""Supported numbers of input and output channels: grey, RGB, and two RGB views to one."""

PIECE = 4096
"""Number of pixels in one product of queries and keys.

The result of a product is rounded to the type of its factors, which exceeds the range of fp16 for
an image of any size. On MPS, products over 32767 pixels or more are wrong (pytorch#195163).
"""

FP16_SCALE = 64
"""Divisor of queries in fp16, whose products over `PIECE` pixels would still exceed its range."""


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of a Restormer; the defaults are the paper's (section 4, "Implementation").

    Attributes:
        in_channels, out_channels: channels of the input image and of the restored image.
        dim: channels of the feature maps at level 1; each level below has twice as many.
        blocks: number of transformer blocks at each level.
        refinement: number of transformer blocks after the decoder.
        heads: number of attention heads at each level.
        expansion: hidden width of the feed-forward networks, relative to the channels.
        bias: use a bias in convolutions, except the first one and those between levels.
        layer_norm: "WithBias", or "BiasFree" as in the paper's denoising networks.
        dual_pixel: restore the left of two views (6 channels). Instead of adding the input image
            to the output, add a 1x1 convolution of the embedded input to the features.

    Raises:
        ValueError: `layer_norm` is unknown, or `heads` do not divide the channels.
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
        if self.layer_norm not in ("WithBias", "BiasFree"):
            raise ValueError(f"layer_norm is {self.layer_norm!r}, not 'WithBias' or 'BiasFree'")
        for level, heads in enumerate(self.heads):
            if self.dim * 2**level % heads:
                raise ValueError(f"level {level + 1}: {heads} heads do not divide its channels")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Architecture:
        """Build an architecture from the fields of `as_dict`; tuples may be lists."""
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**plain)


class LayerNorm(nn.Module):
    """Parameters of a layer normalisation over channels, under the published names.

    "WithBias" is (x - mean) / std * weight + bias. "BiasFree" is x / std * weight, with the same
    std. `Projection.of` folds weight and bias into a convolution.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.centred = kind == "WithBias"
        self.body = nn.ParameterDict({"weight": torch.ones(channels)})
        if self.centred:
            self.body["bias"] = torch.zeros(channels)


class Projection(NamedTuple):
    """A 1x1 and a depthwise 3x3 convolution, with the LayerNorm's weight and bias folded in."""

    pointwise: Tensor  # D C
    pointwise_bias: Tensor | None  # D
    depthwise: Tensor  # D 1 3 3
    depthwise_bias: Tensor | None  # D

    @classmethod
    def of(
        cls, norm: LayerNorm, pointwise: nn.Conv2d, depthwise: nn.Conv2d, rows: slice
    ) -> Projection:
        """Fold a LayerNorm into the output channels `rows` of the two convolutions after it."""
        bias, depthwise_bias = (
            None if conv.bias is None else conv.bias[rows] for conv in (pointwise, depthwise)
        )
        matrix = pointwise.weight[rows].flatten(1)
        if norm.centred:
            shift = matrix @ norm.body["bias"]
            bias = shift if bias is None else bias + shift
        return cls(matrix * norm.body["weight"], bias, depthwise.weight[rows], depthwise_bias)


class Output(NamedTuple):
    """A 1x1 convolution back to the block's channels."""

    weight: Tensor  # C D
    bias: Tensor | None  # C


class BlockWeights(NamedTuple):
    """Weights of a transformer block in the form that the functions below take."""

    heads: int
    centred: bool
    temperature: Tensor  # heads 1 1
    qk: Projection  # C to 2C
    v: Projection  # C to C
    attention_out: Output  # C to C
    gate: Projection  # C to hidden
    value: Projection  # C to hidden
    ffn_out: Output  # hidden to C


class Statistics(NamedTuple):
    """Sums over pixels for channel attention, in fp32; the sums of disjoint regions add up."""

    gram: Tensor  # B heads c c: sum of q k^T
    squares: Tensor  # B 2 heads c: sums of q^2 and of k^2

    def plus(self, other: Statistics) -> Statistics:
        """Return the sums over the pixels of both regions."""
        return Statistics(self.gram + other.gram, self.squares + other.squares)


def project(normal: Tensor, p: Projection, convolve: Convolve = same) -> Tensor:
    """Project normalised B H W C to B H W D, without the halo that `convolve` consumes."""
    return convolve(F.linear(normal, p.pointwise, p.pointwise_bias), p.depthwise, p.depthwise_bias)


def statistics(qk: Tensor, heads: int) -> Statistics:
    """Sum over the pixels of queries and keys, B H W 2C."""
    q, k = rearrange(qk, "b h w (two head c) -> two b head (h w) c", two=2, head=heads)
    squares = rearrange(sum_squares(qk), "b (two head c) -> b two head c", two=2, head=heads)
    return Statistics(_gram(q, k), squares)


def _gram(q: Tensor, k: Tensor) -> Tensor:
    """Sum q k^T over pixels, in pieces that are added in fp32: B heads N c to B heads c c."""
    scale = FP16_SCALE if q.dtype == torch.float16 else 1
    q = q / scale if scale > 1 else q
    whole = (q.shape[2] - 1) // PIECE * PIECE
    gram = (q[:, :, whole:].mT @ k[:, :, whole:]).float()
    if whole:
        # One head after the other: a batch over heads and pieces would be copied.
        parts = (t[:, :, :whole].unflatten(2, (-1, PIECE)).unbind(1) for t in (q, k))
        sums = [(a.mT @ b).float().sum(1) for a, b in zip(*parts, strict=True)]
        gram = gram + torch.stack(sums, 1)
    return gram * scale if scale > 1 else gram


def attention(sums: Statistics, w: BlockWeights) -> Tensor:
    """Return the attention matrices of equation 1: B heads c c, fp32.

    The product of q and k is divided by their lengths. This equals the product of unit vectors in
    the equation, and needs no second pass over the pixels.
    """
    q, k = sums.squares.sqrt().clamp_min(1e-12).unbind(1)  # B heads c
    cosine = sums.gram / (q.unsqueeze(-1) * k.unsqueeze(-2))
    return torch.softmax(cosine * w.temperature.float(), dim=-1)


def mixing_matrix(attention: Tensor, w: BlockWeights) -> Tensor:
    """Return the product of output projection and attention, one matrix for an image: B C C."""
    out = rearrange(w.attention_out.weight.float(), "o (head c) -> head o c", head=w.heads)
    return rearrange(out @ attention, "b head o c -> b o (head c)")


def mix(v: Tensor, matrix: Tensor) -> Tensor:
    """Multiply each pixel of the values, B H W C, by the matrix of its image, B C C."""
    return torch.matmul(v.flatten(1, 2), matrix.to(v.dtype).mT).view(v.shape)


def attend(x: Tensor, mixed: Tensor, w: BlockWeights) -> Tensor:
    """Add the output bias and the input `x` without its halo to the mixed values (equation 1)."""
    if w.attention_out.bias is not None:
        mixed = mixed + w.attention_out.bias
    return mixed.add_(crop_like(x, mixed))


def feed_forward(x: Tensor, w: BlockWeights, convolve: Convolve = same) -> Tensor:
    """Apply the gated feed-forward network (equation 2) to B H W C and add its input."""
    normal = normalised(x, w.centred)
    gate = F.gelu(project(normal, w.gate, convolve))  # B H W hidden
    y = F.linear(gate * project(normal, w.value, convolve), *w.ffn_out)
    return y.add_(crop_like(x, y))


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


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network (3.2, equation 2)."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, hidden * 2, 1, bias=bias)
        self.dwconv = nn.Conv2d(hidden * 2, hidden * 2, 3, padding=1, groups=hidden * 2, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)


class TransformerBlock(nn.Module):
    """MDTA and GDFN, each on the normalised map and added to it (Figure 2)."""

    def __init__(self, channels: int, heads: int, a: Architecture) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, a.layer_norm)
        self.attn = MDTA(channels, heads, a.bias)
        self.norm2 = LayerNorm(channels, a.layer_norm)
        self.ffn = GDFN(channels, a.expansion, a.bias)

    def weights(self) -> BlockWeights:
        """Return the parameters, with the LayerNorms folded in; differentiable."""
        attn, ffn = self.attn, self.ffn
        channels, hidden = attn.project_out.in_channels, ffn.project_out.in_channels
        qkv = partial(Projection.of, self.norm1, attn.qkv, attn.qkv_dwconv)
        gates = partial(Projection.of, self.norm2, ffn.project_in, ffn.dwconv)
        return BlockWeights(
            heads=attn.heads,
            centred=self.norm1.centred,
            temperature=attn.temperature,
            qk=qkv(slice(0, 2 * channels)),
            v=qkv(slice(2 * channels, None)),
            attention_out=Output(attn.project_out.weight.flatten(1), attn.project_out.bias),
            gate=gates(slice(0, hidden)),
            value=gates(slice(hidden, None)),
            ffn_out=Output(ffn.project_out.weight.flatten(1), ffn.project_out.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a whole feature map, B H W C."""
        w = self.weights()
        normal = normalised(x, w.centred)
        sums = statistics(project(normal, w.qk), w.heads)
        mixed = mix(project(normal, w.v), mixing_matrix(attention(sums, w), w))
        return feed_forward(attend(x, mixed, w), w)


class OverlapPatchEmbed(nn.Module):
    """First 3x3 convolution, from the image to features."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image, B H W in_channels to B H W dim."""
        return same(x, self.proj.weight)


class Resample(nn.Module):
    """Transition to another level: a 3x3 convolution, then a pixel-shuffle or -unshuffle."""

    def __init__(
        self, in_channels: int, channels: int, shuffle: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.body = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Halve or double the resolution of B H W C."""
        return self.shuffle(same(x, self.body.get_parameter("0.weight")))


class Restormer(nn.Module):
    """The U-shaped network (Figure 2): encoder, latent, decoder, refinement and residual.

    Attributes:
        architecture: hyperparameters; by default those of the paper.
    """

    def __init__(self, architecture: Architecture | None = None) -> None:
        super().__init__()
        a = self.architecture = architecture or Architecture()
        width = [a.dim * 2**level for level in range(LEVELS)]

        def stage(channels: int, heads: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(channels, heads, a) for _ in range(blocks)))

        self.patch_embed = OverlapPatchEmbed(a.in_channels, a.dim)
        self.encoder_level1 = stage(width[0], a.heads[0], a.blocks[0])
        self.down1_2 = Resample(width[0], width[0] // 2, pixel_unshuffle)
        self.encoder_level2 = stage(width[1], a.heads[1], a.blocks[1])
        self.down2_3 = Resample(width[1], width[1] // 2, pixel_unshuffle)
        self.encoder_level3 = stage(width[2], a.heads[2], a.blocks[2])
        self.down3_4 = Resample(width[2], width[2] // 2, pixel_unshuffle)
        self.latent = stage(width[3], a.heads[3], a.blocks[3])
        self.up4_3 = Resample(width[3], width[3] * 2, pixel_shuffle)
        self.reduce_chan_level3 = nn.Conv2d(width[3], width[2], 1, bias=a.bias)
        self.decoder_level3 = stage(width[2], a.heads[2], a.blocks[2])
        self.up3_2 = Resample(width[2], width[2] * 2, pixel_shuffle)
        self.reduce_chan_level2 = nn.Conv2d(width[2], width[1], 1, bias=a.bias)
        self.decoder_level2 = stage(width[1], a.heads[1], a.blocks[1])
        self.up2_1 = Resample(width[1], width[1] * 2, pixel_shuffle)
        # Level 1 has no reduction: it is decoded at twice its width (3, "Overall Pipeline").
        self.decoder_level1 = stage(width[1], a.heads[0], a.blocks[0])
        self.refinement = stage(width[1], a.heads[0], a.refinement)
        if a.dual_pixel:
            self.skip_conv = nn.Conv2d(a.dim, width[1], 1, bias=a.bias)
        self.output = nn.Conv2d(width[1], a.out_channels, 3, padding=1, bias=a.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Restore whole images.

        Args:
            image: B in_channels H W, 0..1; H and W multiples of 8.

        Returns:
            B out_channels H W, not clamped.

        Raises:
            ValueError: a side is not a multiple of 8, or the channels do not match.
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
            y = y + conv1x1(x0, self.skip_conv)
        y = same(y, self.output.weight, self.output.bias).permute(0, 3, 1, 2)
        # The residual is added in the precision of the image, not of the features.
        return y if self.architecture.dual_pixel else y.to(image.dtype) + image

    def check(self, image: Tensor) -> None:
        """Raise ValueError unless `image` has the right channels and sides of multiples of 8."""
        channels, sides = self.architecture.in_channels, image.shape[2:]
        if image.ndim != 4 or image.shape[1] != channels or any(s % MULTIPLE for s in sides):
            raise ValueError(
                f"the network takes B {channels} H W with H and W multiples of {MULTIPLE}, not "
                f"{tuple(image.shape)}: restormer_cli.restore pads and crops"
            )
