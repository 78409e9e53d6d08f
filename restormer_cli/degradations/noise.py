"""Gaussian noise, and the noise of a camera from its sensor to the file."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .jpeg import filed
from .sampling import chosen, normal, to_8_bit, to_linear, to_srgb, uniform

# Weights of bilinear demosaicing, for all three colours.
_BILINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4

# Masks of the three colours in a Bayer cell, for each of its four possible corners.
_RGGB = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]])  # 3 2 2
_BAYER = torch.stack([_RGGB.roll((i, j), (1, 2)) for i in (0, 1) for j in (0, 1)])  # 4 3 2 2


def gaussian_noise(x: Tensor, generator: Generator, sigma: float | Tensor) -> Tensor:
    """Add white noise of standard deviation `sigma` / 255, without clipping or rounding."""
    return x + normal(x, generator) * (sigma / 255)


def blind_gaussian_noise(x: Tensor, generator: Generator) -> Tensor:
    """Add Gaussian noise of sigma 0..55; half of the images are clipped and rounded to 8 bits."""
    noisy = gaussian_noise(x, generator, uniform(0, 55, x, generator))
    return torch.where(chosen(0.5, x, generator), to_8_bit(noisy), noisy)


def equal_noise(x: Tensor, generator: Generator) -> Tensor:
    """Add the same Gaussian noise of sigma 0..55 to all channels, as in film and grey photographs.

    The grain is coarse in half of the images. Networks trained only on white noise that is
    independent in each channel mistake such noise for texture.
    """
    sigma = uniform(0, 55, x, generator)
    noise = half_coarsened(normal(x[:, :1], generator), generator)
    noisy = x + noise * (sigma / 255)
    return torch.where(chosen(0.5, x, generator), to_8_bit(noisy), noisy)


def sensor_noise(x: Tensor, generator: Generator) -> Tensor:
    """Add the noise of a camera at high ISO; the image itself stays sharp.

    Shot and read noise are added in linear light before white balance, with the distribution of
    Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019, section 3.1), but up
    to twice their highest level. Most of the noise is correlated by demosaicing. Half of it is
    coarse, as after denoising and scaling in the camera.
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
    """Add sensor noise and store the images in 8 bits, half of them as JPEG."""
    return filed(to_8_bit(sensor_noise(x, generator)), generator, 50)


def demosaicked(raw: Tensor, corner: Tensor) -> Tensor:
    """Sample B 3 H W with a Bayer pattern and interpolate the missing samples bilinearly.

    `corner` (B, integers 0..3) is the position of each image's first pixel in the pattern.
    """
    height, width = raw.shape[2:]
    cells = _BAYER.to(raw)[corner].repeat(1, 1, (height + 1) // 2, (width + 1) // 2)
    keep = cells[:, :, :height, :width]
    kernel = _BILINEAR.to(raw).expand(3, 1, 3, 3)

    def spread(t: Tensor) -> Tensor:
        return F.conv2d(F.pad(t, (1, 1, 1, 1)), kernel, groups=3)

    return spread(raw * keep) / spread(keep)


def half_coarsened(noise: Tensor, generator: Generator) -> Tensor:
    """Coarsen the grain of white noise (B C H W) in half of the images."""
    radius, strength = uniform(0.4, 1.6, noise, generator), uniform(0.4, 1.0, noise, generator)
    coarse = coarsened(noise, radius, strength)
    return torch.where(chosen(0.5, noise, generator), coarse, noise)


def coarsened(noise: Tensor, radius: Tensor, strength: Tensor) -> Tensor:
    """Smooth white noise (B C H W) with a Gaussian.

    Args:
        noise: B C H W.
        radius: B 1 1 1, standard deviation of the Gaussian in pixels.
        strength: B 1 1 1, standard deviation of the result relative to that of `noise`.
    """
    b, c, height, width = noise.shape
    offset = torch.arange(-4.0, 5.0, device=noise.device)
    line = torch.exp(-0.5 * (offset / radius.view(b, 1)) ** 2)  # B 9
    kernel = line.unsqueeze(2) * line.unsqueeze(1)  # B 9 9
    kernel = kernel / kernel.square().sum((1, 2), keepdim=True).sqrt()
    kernel = kernel.repeat_interleave(c, 0).unsqueeze(1)  # BC 1 9 9
    y = F.conv2d(F.pad(noise.reshape(1, b * c, height, width), (4,) * 4), kernel, groups=b * c)
    return y.view_as(noise) * strength
