"""What happens to a photograph, modelled for training and evaluation: noise, and all the rest.

Every degradation takes clean images as B C H W float32, sRGB, 0..1, and a `torch.Generator`
that all its randomness comes from, and gives the degraded images in the same shape. Each image
of a batch draws its own severity. Rain and blur have modules of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from .blur import defocus, motion_blur
from .rain import rain
from .sampling import (
    Degradation,
    chosen,
    mixture,
    normal,
    to_8_bit,
    to_linear,
    to_srgb,
    uniform,
    untouched,
)

__all__ = ["DEGRADATIONS", "Degradation"]

# --- Gaussian noise ----------------------------------------------------------------------------


def gaussian_noise(x: Tensor, generator: Generator, sigma: float | Tensor) -> Tensor:
    """White noise of standard deviation `sigma` / 255, neither clipped nor rounded."""
    return x + normal(x, generator) * (sigma / 255)


def blind_gaussian_noise(x: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise of unknown level, sigma 0..55; half of it as an 8-bit file would hold it."""
    noisy = gaussian_noise(x, generator, uniform(0, 55, x, generator))
    return torch.where(chosen(0.5, x, generator), to_8_bit(noisy), noisy)


def equal_noise(x: Tensor, generator: Generator) -> Tensor:
    """The same Gaussian noise in all channels, sigma 0..55: that of film, and of grey photos.

    Half of it has a larger grain. Networks that have only seen channels with noise of their own,
    or white noise, take this for texture.
    """
    sigma = uniform(0, 55, x, generator)
    noise = half_coarsened(normal(x[:, :1], generator), generator)
    noisy = x + noise * (sigma / 255)
    return torch.where(chosen(0.5, x, generator), to_8_bit(noisy), noisy)


# --- what a camera does ------------------------------------------------------------------------

# One 3x3 kernel for all three colours: bilinear demosaicing of a Bayer pattern.
_BILINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4

# Which colours the four pixels of a Bayer cell sample, for each of its four possible corners.
_RGGB = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]])  # 3 2 2
_BAYER = torch.stack([_RGGB.roll((i, j), (1, 2)) for i in (0, 1) for j in (0, 1)])  # 4 3 2 2


def demosaicked(raw: Tensor, corner: Tensor) -> Tensor:
    """Keep of B 3 H W what a Bayer pattern samples, and interpolate the rest bilinearly.

    `corner` (B, integers 0..3) says which pixel of the pattern lies in each image's first pixel.
    """
    height, width = raw.shape[2:]
    cells = _BAYER.to(raw)[corner].repeat(1, 1, (height + 1) // 2, (width + 1) // 2)
    keep = cells[:, :, :height, :width]
    kernel = _BILINEAR.to(raw).expand(3, 1, 3, 3)

    def spread(t: Tensor) -> Tensor:
        return F.conv2d(F.pad(t, (1, 1, 1, 1)), kernel, groups=3)

    return spread(raw * keep) / spread(keep)


def coarsened(noise: Tensor, radius: Tensor, strength: Tensor) -> Tensor:
    """Noise with a larger grain: B C H W, smoothed by a Gaussian of `radius` pixels (B 1 1 1).

    Smoothing alone would all but remove it: `strength` (B 1 1 1) is the part of the standard
    deviation of white noise that is left.
    """
    b, c, height, width = noise.shape
    offset = torch.arange(-4.0, 5.0, device=noise.device)
    line = torch.exp(-0.5 * (offset / radius.view(b, 1)) ** 2)  # B 9
    kernel = line.unsqueeze(2) * line.unsqueeze(1)  # B 9 9
    kernel = kernel / kernel.square().sum((1, 2), keepdim=True).sqrt()
    kernel = kernel.repeat_interleave(c, 0).unsqueeze(1)  # BC 1 9 9
    y = F.conv2d(F.pad(noise.reshape(1, b * c, height, width), (4,) * 4), kernel, groups=b * c)
    return y.view_as(noise) * strength


def half_coarsened(noise: Tensor, generator: Generator) -> Tensor:
    """Noise (B C H W), for half of the images with a larger grain."""
    radius, strength = uniform(0.4, 1.6, noise, generator), uniform(0.4, 1.0, noise, generator)
    return torch.where(chosen(0.5, noise, generator), coarsened(noise, radius, strength), noise)


def sensor_noise(x: Tensor, generator: Generator) -> Tensor:
    """Noise of a camera at high ISO: RGB as developed in the camera.

    Shot and read noise in linear light before white balance, distributed as in Brooks et al.,
    "Unprocessing Images for Learned Raw Denoising" (CVPR 2019, section 3.1) but to twice their
    highest level; then, for most images, the spatial correlation that demosaicing gives it, and
    for half of them the larger grain that cameras' own denoising and scaling leave; then gains and
    the sRGB curve. The image itself is sharp, as if it had been sampled more finely.
    """
    red = uniform(1.3, 2.4, x, generator)
    blue = uniform(1.3, 2.2, x, generator)
    gains = torch.cat([red, torch.ones_like(red), blue], dim=1)  # B 3 1 1
    light = to_linear(x) / gains

    log_shot = uniform(-8.5, -3.6, x, generator)  # ln 0.0002 .. ln 0.027
    log_read = 2.18 * log_shot + 1.20 + 0.26 * normal(log_shot, generator)
    variance = light * log_shot.exp() + log_read.exp()
    noise = normal(x, generator) * variance.sqrt()
    corner = torch.randint(4, (len(x),), generator=generator, device=x.device)
    noise = torch.where(chosen(0.7, x, generator), demosaicked(noise, corner), noise)
    return to_srgb((light + half_coarsened(noise, generator)) * gains)


# Annex K of ITU-T T.81: the tables that JPEG encoders scale by their quality setting.
_LUMINANCE = """
    16 11 10 16  24  40  51  61  12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56  14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77  24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103  99"""
_CHROMINANCE = (
    """
    17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99"""
    + " 99" * 32
)
_TABLES = torch.tensor([[float(n) for n in t.split()] for t in (_LUMINANCE, _CHROMINANCE)])
_TABLES = _TABLES.view(2, 8, 8)[[0, 1, 1]]  # Y, Cb, Cr

_YCBCR = torch.tensor(  # JFIF, section 7
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_RGB = _YCBCR.inverse()
_CENTRE = torch.tensor([128.0, 0.0, 0.0]).view(3, 1, 1)  # Cb and Cr lie about 0 as it is


def _cosines() -> Tensor:
    """The orthonormal 8-point DCT-II as a matrix."""
    n = torch.arange(8.0)
    matrix = torch.cos(torch.pi * (2 * n + 1) * n[:, None] / 16) / 2
    matrix[0] /= 2**0.5
    return matrix


_DCT = _cosines()


def jpeg(x: Tensor, quality: Tensor, subsample: Tensor) -> Tensor:
    """What baseline JPEG (ITU-T T.81) leaves of the images: B 3 H W, 0..1, in 8 bits.

    Args:
        x: B 3 H W; sides that are no multiples of 16 are filled up as encoders do.
        quality: B 1 1 1, whole numbers 1..100, scaling the tables of Annex K as libjpeg does.
        subsample: B 1 1 1, bool: whether chroma is kept at half resolution (4:2:0).
    """
    height, width = x.shape[2:]
    x = F.pad(to_8_bit(x), (0, -width % 16, 0, -height % 16), mode="replicate")
    centre = _CENTRE.to(x)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = ((_TABLES.to(x) * percent + 50) / 100).floor().clamp(1, 255)  # B 3 8 8

    ycc = torch.einsum("oc,bchw->bohw", _YCBCR.to(x), x * 255).round() - centre
    half = _quantised(F.avg_pool2d(ycc[:, 1:], 2).round(), steps[:, 1:])
    # Decoders enlarge chroma by a triangle filter ("fancy upsampling" in libjpeg).
    half = F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
    ycc = _quantised(ycc, steps)
    ycc = torch.cat([ycc[:, :1], torch.where(subsample, half, ycc[:, 1:])], dim=1).round()
    rgb = torch.einsum("oc,bchw->bohw", _RGB.to(x), ycc + centre)[:, :, :height, :width]
    return to_8_bit(rgb / 255)


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (B C H W) of which each 8 x 8 block's cosines are rounded to `steps` (B C 8 8)."""
    dct = _DCT.to(planes)
    blocks = rearrange(planes, "b c (h i) (w j) -> h w b c i j", i=8, j=8)
    blocks = dct.T @ ((dct @ blocks @ dct.T / steps).round() * steps) @ dct
    return rearrange(blocks, "h w b c i j -> b c (h i) (w j)")


def camera_noise(x: Tensor, generator: Generator) -> Tensor:
    """Sensor noise as it reaches a photographer, in 8 bits and often a JPEG file."""
    return filed(to_8_bit(sensor_noise(x, generator)), generator, 50)


def filed(x: Tensor, generator: Generator, lowest: float) -> Tensor:
    """Images as they reach a photographer: half of them through JPEG, quality `lowest` to 98."""
    quality = uniform(lowest, 98, x, generator).round()
    packed = jpeg(x, quality, chosen(0.5, x, generator))
    return torch.where(chosen(0.5, x, generator), packed, x)


def rainy(x: Tensor, generator: Generator) -> Tensor:
    """Rain as it reaches a photographer: half of it through a good JPEG file."""
    return filed(rain(x, generator), generator, 75)


def shaken(x: Tensor, generator: Generator) -> Tensor:
    """Blur by motion, likewise."""
    return filed(motion_blur(x, generator), generator, 75)


def unfocused(x: Tensor, generator: Generator) -> Tensor:
    """Blur of a lens out of focus, likewise."""
    return filed(defocus(x, generator), generator, 75)


DEGRADATIONS: dict[str, Degradation] = {
    "denoise": mixture(
        (0.03, untouched), (0.4, blind_gaussian_noise), (0.37, camera_noise), (0.2, equal_noise)
    ),
    "derain": mixture((0.1, untouched), (0.9, rainy)),
    "deblur": mixture((0.3, untouched), (0.7, shaken)),
    "defocus": mixture((0.3, untouched), (0.7, unfocused)),
}
"""What each task's training undoes."""

REACH = {"deblur": 16, "defocus": 16}
"""How far, in pixels, the tasks' blur looks beyond a patch; it would see a mirror there."""

AMONG = 2
"""Of so many places that are drawn the sharpest is learned from. There is little to learn where
nothing is; and what is out of focus in a clean photograph teaches that blur is to be left alone,
of which a little is right: of four places, soft pictures were sharpened that were meant to be."""
