"""Restormer (Zamir et al., CVPR 2022, arXiv 2111.09881): the network, and nothing but the network.

The attribute names (`encoder_level1.0.attn.qkv_dwconv`, ...) are those of the published state
dicts, so that the official checkpoints load strictly and a user's own fine-tuned files do too.

Inside, a feature map is B H W C with C innermost in memory ("channels last"): LayerNorm and the
1x1 convolutions then read each pixel's channels as one run, which is what CPUs and GPUs are
fastest at. Images come and go as B C H W, RGB, 0..1.

A block's mathematics stands here once, in functions that do not know how much of the image they
are given: `statistics` sums over pixels, `attention` needs only those sums, and all the rest is
local to a pixel and its eight neighbours. The plain forward runs them on the whole image, and
`streaming` runs the very same on one strip after another.
"""

from __future__ import annotations

from collections.abc import Callable
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


CHANNELS = ((1, 1), (3, 3), (6, 3))
"""In and out: of networks of grey images, of RGB ones, and of two RGB views."""


@dataclass(frozen=True)
class Architecture:
    """What shapes a Restormer; the defaults are the paper's network (section 4, "Implementation").

    `bias` is that of the convolutions, but for the first one and those between levels, which have
    none. `layer_norm` is "WithBias" or "BiasFree" (the paper uses the latter for denoising).
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
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**plain)


# --- the operations everything is made of; x is B H W C ---------------------------------------

Convolve = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""A 3x3 convolution of B H W C with a weight and a bias, dense, or depthwise for D 1 3 3."""


def same(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 1) -> Tensor:
    """A 3x3 convolution that sees zeros beyond the border: B H W C to B H W D."""
    groups = x.shape[-1] // weight.shape[1]
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def inner(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x` that `like` was computed from: a convolution may have used up a margin."""
    margin = (x.shape[1] - like.shape[1]) // 2
    return x[:, margin : x.shape[1] - margin, margin : x.shape[2] - margin]


def conv1x1(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution as one matrix product: B H W C to B H W D."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """Halve height and width, each 2 x 2 pixels into channels."""
    return rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=2, j=2)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Double height and width, the inverse of `pixel_unshuffle`."""
    return rearrange(x, "b h w (c i j) -> b (h i) (w j) c", i=2, j=2)


# --- layer normalisation over channels (Figure 2; the paper's two kinds) -----------------------


class _Normalise(torch.autograd.Function):
    """(x - mean) / std, or x / std, over the innermost axis.

    `Tensor.var` takes many times as long as what stands here, and the deviation that the native
    LayerNorm finds on its way has no gradient of its own: hence the closed form below.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool) -> Tensor:
        channels = x.shape[-1]
        if x.is_cpu and x.dtype == torch.float32:
            # For some hundred channels this is 2 to 3 times as fast as the native kernel.
            mean = x.mean(-1, keepdim=True)
            deviation = x - mean
            norm = torch.linalg.vector_norm(deviation, dim=-1, keepdim=True)
            rstd = norm.square_().div_(channels).add_(_EPSILON_NORM).rsqrt_()
            y = deviation.mul_(rstd) if centred else torch.mul(x, rstd, out=deviation)
        else:
            y, mean, rstd = torch.native_layer_norm(x, (channels,), None, None, _EPSILON_NORM)
            mean, rstd = mean.to(x.dtype), rstd.to(x.dtype)
            y = y if centred else x * rstd
        ctx.save_for_backward(x, mean, rstd)
        ctx.centred = centred
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # r = (var + eps)^-1/2 and dr/dx = -r^3 (x - mean) / C
        x, mean, rstd = ctx.saved_tensors
        deviation = x - mean
        seen = deviation if ctx.centred else x
        along = (gradient * seen).mean(-1, keepdim=True)
        if ctx.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient * rstd - deviation * (along * rstd**3), None


def normalised(x: Tensor, centred: bool) -> Tensor:
    """Every pixel's channels divided by their deviation, and centred on zero if so asked."""
    y: Tensor = _Normalise.apply(x, centred)  # type: ignore[no-untyped-call]
    return y


class WithBias(nn.Module):
    """(x - mean) / std * weight + bias."""

    centred = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class BiasFree(nn.Module):
    """x / std * weight: the deviation is about the mean, but the mean stays in."""

    centred = False
    bias = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


LAYER_NORMS: dict[str, type[WithBias | BiasFree]] = {"WithBias": WithBias, "BiasFree": BiasFree}


class LayerNorm(nn.Module):
    """The kind of normalisation that the architecture names, under the published name `body`."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.body = LAYER_NORMS[kind](channels)

    def forward(self, x: Tensor) -> Tensor:
        """What is left to do to a pixel once weight and bias are folded into what follows."""
        return normalised(x, self.body.centred)


# --- the two halves of a block -----------------------------------------------------------------


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
        """Those output channels of the two convolutions that `rows` says."""

        def picked(bias: Tensor | None) -> Tensor | None:
            return None if bias is None else bias[rows]

        matrix = pointwise.weight[rows].flatten(1)
        bias = picked(pointwise.bias)
        if norm.body.bias is not None:
            shift = matrix @ norm.body.bias
            bias = shift if bias is None else bias + shift
        return cls(matrix * norm.body.weight, bias, depthwise.weight[rows], picked(depthwise.bias))


class Output(NamedTuple):
    """A 1x1 convolution back to the block's channels."""

    weight: Tensor  # C D
    bias: Tensor | None  # C


class BlockWeights(NamedTuple):
    """All a block needs, as tensors: what the pieces below are run with."""

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
    """The sums over pixels that channel attention needs, in fp32: they add up over strips."""

    gram: Tensor  # B heads c c: sum of q k^T
    squares: Tensor  # B 2 heads c: sums of q^2 and of k^2


def project(normal: Tensor, p: Projection, convolve: Convolve = same) -> Tensor:
    """B H W C, normalised, to B H W D; less the margin that `convolve` uses up."""
    return convolve(F.linear(normal, p.pointwise, p.pointwise_bias), p.depthwise, p.depthwise_bias)


def statistics(qk: Tensor, heads: int) -> Statistics:
    """What B H W 2C of queries and keys add to the sums over pixels."""
    q, k = rearrange(qk, "b h w (two head c) -> two b head (h w) c", two=2, head=heads)
    # Not in fp16, whose range ends at the square of 256.
    wide = qk.float() if qk.dtype == torch.float16 else qk
    squares = wide.square().sum((1, 2), dtype=torch.float32)  # B 2C
    return Statistics(
        (q.mT @ k).float(), rearrange(squares, "b (two head c) -> b two head c", two=2, head=heads)
    )


def attention(sums: Statistics, w: BlockWeights) -> Tensor:
    """How much of each channel of the values each channel attends to: B heads c c, fp32.

    q and k have unit length over pixels in equation 1; dividing their product by the lengths
    comes to the same and needs no second look at the pixels.
    """
    q, k = sums.squares.sqrt().clamp_min(_EPSILON_COSINE).unbind(1)  # B heads c
    cosine = sums.gram / (q.unsqueeze(-1) * k.unsqueeze(-2))
    return torch.softmax(cosine * w.temperature.float(), dim=-1)


def mixing_matrix(attention: Tensor, w: BlockWeights) -> Tensor:
    """Attention and output projection as one matrix on the values' channels: B C C, fp32."""
    out = rearrange(w.attention_out.weight.float(), "o (head c) -> head o c", head=w.heads)
    return rearrange(out @ attention, "b head o c -> b o (head c)")


def mix(v: Tensor, matrix: Tensor) -> Tensor:
    """The values B H W C times a matrix for each image, B C C."""
    return torch.matmul(v.flatten(1, 2), matrix.to(v.dtype).mT).view(v.shape)


def attend(x: Tensor, mixed: Tensor, w: BlockWeights) -> Tensor:
    """Add the attended and projected values to `x` (equation 1): B H W C, as large as they are."""
    if w.attention_out.bias is not None:
        mixed = mixed + w.attention_out.bias
    return mixed.add_(inner(x, mixed))


def feed_forward(x: Tensor, w: BlockWeights, convolve: Convolve = same) -> Tensor:
    """Add the gated feed-forward network (equation 2) to B H W C."""
    normal = normalised(x, w.centred)
    gate = F.gelu(project(normal, w.gate, convolve))  # B H W hidden
    y = F.linear(gate * project(normal, w.value, convolve), *w.ffn_out)
    return y.add_(inner(x, y))


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
        """The parameters as the pieces above take them; gradients flow through."""
        attn, ffn = self.attn, self.ffn
        channels, hidden = attn.project_out.in_channels, ffn.project_out.in_channels

        def of_attention(rows: slice) -> Projection:
            return Projection.of(self.norm1, attn.qkv, attn.qkv_dwconv, rows)

        def of_ffn(rows: slice) -> Projection:
            return Projection.of(self.norm2, ffn.project_in, ffn.dwconv, rows)

        return BlockWeights(
            heads=attn.heads,
            centred=self.norm1.body.centred,
            temperature=attn.temperature,
            qk=of_attention(slice(0, 2 * channels)),
            v=of_attention(slice(2 * channels, None)),
            attention_out=Output(attn.project_out.weight.flatten(1), attn.project_out.bias),
            gate=of_ffn(slice(0, hidden)),
            value=of_ffn(slice(hidden, None)),
            ffn_out=Output(ffn.project_out.weight.flatten(1), ffn.project_out.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The whole map as one strip: B H W C to B H W C."""
        w = self.weights()
        normal = normalised(x, w.centred)
        sums = statistics(project(normal, w.qk), w.heads)
        mixed = mix(project(normal, w.v), mixing_matrix(attention(sums, w), w))
        x = attend(x, mixed, w)
        return feed_forward(x, w)


# --- the U -------------------------------------------------------------------------------------


class OverlapPatchEmbed(nn.Module):
    """The first 3x3 convolution: image to features."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B H W in_channels to B H W dim."""
        return same(x, self.proj.weight)


class Downsample(nn.Module):
    """To the next level: half the channels, then pixel-unshuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B H/2 W/2 2C."""
        return pixel_unshuffle(same(x, self.body.get_parameter("0.weight")))


class Upsample(nn.Module):
    """Back to the level above: twice the channels, then pixel-shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """B H W C to B 2H 2W C/2."""
        return pixel_shuffle(same(x, self.body.get_parameter("0.weight")))


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

        self.patch_embed = OverlapPatchEmbed(a.in_channels, a.dim)
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
            y = y + conv1x1(x0, self.skip_conv)
            return same(y, self.output.weight, self.output.bias).permute(0, 3, 1, 2)
        # The residual is added in the image's own precision, whatever the features ran in.
        y = same(y, self.output.weight, self.output.bias).permute(0, 3, 1, 2)
        return y.to(image.dtype) + image

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
