"""What happens to a photograph, modelled for training and evaluation: noise, and all the rest.

Every degradation takes clean images as B C H W float32, sRGB, 0..1, and a `torch.Generator`
that all its randomness comes from, and gives the degraded images in the same shape. Each image
of a batch draws its own severity. Rain and blur have modules of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .jpeg import filed
from .sampling import (
    chosen,
    normal,
    to_8_bit,
    to_linear,
    to_srgb,
    uniform,
)

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


def camera_noise(x: Tensor, generator: Generator) -> Tensor:
    """Sensor noise as it reaches a photographer, in 8 bits and often a JPEG file."""
    return filed(to_8_bit(sensor_noise(x, generator)), generator, 50)
