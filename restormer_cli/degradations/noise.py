"""Gaussian noise, the noise of a sensor, and the noise that is left in a camera's own files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .jpeg import maybe_jpeg, to_rgb
from .sampling import chosen, gaussian_kernels, normal, to_8_bit, to_linear, to_srgb, uniform

# Weights of bilinear demosaicing, for all three colours, and for green alone.
_BILINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4
_CROSS = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]]) / 4

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
    to twice their highest level. Some sensors have stripes and hot pixels. Most of the noise is
    correlated by demosaicing. Half of it is coarse, as after denoising and scaling in the camera.
    """
    red = uniform(1.3, 2.4, x, generator)
    blue = uniform(1.3, 2.2, x, generator)
    gains = torch.cat([red, torch.ones_like(red), blue], dim=1)  # B 3 1 1
    light = to_linear(x) / gains

    log_shot = uniform(-8.5, -3.6, x, generator)  # ln 0.0002 .. ln 0.027
    log_read = 2.18 * log_shot + 1.20 + 0.26 * normal(log_shot, generator)
    variance = light * log_shot.exp() + log_read.exp()
    noise = normal(x, generator) * variance.sqrt()
    noise = noise + stripes(x, generator) * (0.5 * log_read).exp() + hot_pixels(x, generator)
    corner = torch.randint(4, (len(x),), generator=generator, device=x.device)
    method = uniform(0, 1, x, generator)
    raw = torch.where(method < 0.35, demosaicked(noise, corner), noise)
    noise = torch.where(method > 0.65, demosaicked_by_differences(noise, corner), raw)
    return to_srgb((light + half_coarsened(noise, generator)) * gains)


def camera_noise(x: Tensor, generator: Generator) -> Tensor:
    """Add sensor noise and store the images in 8 bits, half of them as JPEG."""
    return maybe_jpeg(to_8_bit(sensor_noise(x, generator)), generator, 50)


def processed_noise(x: Tensor, generator: Generator) -> Tensor:
    """Add the noise that is left in a camera's own files, and store them in 8 bits, half as JPEG.

    A camera smooths colour more than brightness, and sharpens what is left. In photographs of real
    scenes, the standard deviation is 3 to 8 of 255, luma has 1.2 to 2.5 times the amplitude of
    chroma, and 34 to 56 % of the energy of chroma is below an eighth of the Nyquist frequency.
    Only the noise is sharpened: the clean photographs have been sharpened by their cameras.
    """
    fine = gaussian_kernels(uniform(0.35, 0.95, x, generator))
    soft = gaussian_kernels(uniform(1.0, 1.6, x, generator))
    sharpening = uniform(0, 1.5, x, generator) * chosen(0.5, x, generator)
    kernels = fine + sharpening.squeeze(1) * (fine - soft)
    luma = grain(normal(x[:, :1], generator), kernels)
    colour = 1 / (1.15 * 2.4 ** uniform(0, 1, x, generator))
    noise = to_rgb(torch.cat([luma, colour * blotches(x, generator)], 1))
    # In RGB, the variances of Cb and Cr add up to 1.91 times that of either, on average.
    noise = noise / (1 + 1.91 * colour**2).sqrt()

    # Shot noise rises with the light; where a camera lifts shadows, it is strongest in the dark.
    light, part = x.mean(1, keepdim=True), uniform(0, 1, x, generator)
    rising = (light / 0.45).clamp(0.05, 2.5)
    lifted = ((1.1 - light) / 0.6).clamp(0.1, 2)
    profile = torch.where(chosen(0.4, x, generator), lifted, rising)
    std = 2 * 7 ** uniform(0, 1, x, generator) / 255
    noisy = x + noise * std * (1 - part + part * profile).sqrt()
    return maybe_jpeg(to_8_bit(noisy), generator, 60)


def blotches(x: Tensor, generator: Generator) -> Tensor:
    """Draw fine and coarse noise for Cb and Cr, with a standard deviation of 1: B 2 H W."""
    height, width = x.shape[2:]
    half = torch.randn(
        (len(x), 2, height // 2 + 1, width // 2 + 1), generator=generator, device=x.device
    )
    # Coarse noise is drawn at half the resolution, where a small kernel is large enough.
    coarse = grain(half, gaussian_kernels(uniform(0.8, 1.6, x, generator)))
    coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    fine = normal(x[:, :2], generator)
    fine = grain(fine, gaussian_kernels(uniform(0.5, 1.2, x, generator)))
    share = uniform(0.4, 0.75, x, generator)
    return share.sqrt() * coarse[:, :, :height, :width] + (1 - share).sqrt() * fine


def stripes(x: Tensor, generator: Generator) -> Tensor:
    """Draw offsets of rows or columns, relative to the read noise, in 3 of 10 images: B 1 H W.

    Wei et al., "A Physics-Based Noise Formation Model for Extreme Low-Light Raw Denoising" (CVPR
    2020, section 3.3), where the offsets of rows are 0.1 to 0.6 of the read noise.
    """
    b, _, height, width = x.shape
    rows = torch.randn(b, 1, height, 1, generator=generator, device=x.device)
    columns = torch.randn(b, 1, 1, width, generator=generator, device=x.device)
    drawn = torch.where(chosen(0.7, x, generator), rows, columns)
    return drawn * uniform(0.1, 0.6, x, generator) * chosen(0.3, x, generator)


def hot_pixels(x: Tensor, generator: Generator) -> Tensor:
    """Draw a few bright samples, up to one in a thousand, in a fifth of the images: B 3 H W."""
    drawn = torch.rand(x.shape, generator=generator, device=x.device)
    density = 10 ** uniform(-4, -3, x, generator) * chosen(0.2, x, generator)
    hot = drawn < density
    return hot * (0.05 + 0.5 * drawn / density.clamp_min(1e-9))


def demosaicked(raw: Tensor, corner: Tensor) -> Tensor:
    """Sample B 3 H W with a Bayer pattern and interpolate the missing samples bilinearly.

    `corner` (B, integers 0..3) is the position of each image's first pixel in the pattern.
    """
    keep = _bayer(raw, corner)
    return _spread(raw * keep) / _spread(keep)


def demosaicked_by_differences(raw: Tensor, corner: Tensor) -> Tensor:
    """Sample B 3 H W with a Bayer pattern and interpolate green, red - green and blue - green.

    This is the usual method of cameras. It makes the fine noise of the three colours similar.
    """
    keep = _bayer(raw, corner)
    green = _spread((raw * keep)[:, 1:2], _CROSS) / _spread(keep[:, 1:2], _CROSS)
    return green + _spread((raw - green) * keep) / _spread(keep)


def _bayer(raw: Tensor, corner: Tensor) -> Tensor:
    """Return 1 for each sample of B 3 H W that a sensor measures, 0 for the others."""
    height, width = raw.shape[2:]
    cells = _BAYER.to(raw)[corner].repeat(1, 1, (height + 1) // 2, (width + 1) // 2)
    return cells[:, :, :height, :width]


def _spread(t: Tensor, weights: Tensor = _BILINEAR) -> Tensor:
    channels = t.shape[1]
    kernel = weights.to(t).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(t, (1, 1, 1, 1)), kernel, groups=channels)


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
    return grain(noise, gaussian_kernels(radius)) * strength


def grain(noise: Tensor, kernels: Tensor) -> Tensor:
    """Filter white noise (B C H W) with a kernel for each image (B 9 9), and keep its variance."""
    b, c, height, width = noise.shape
    kernels = kernels / kernels.square().sum((1, 2), keepdim=True).sqrt()
    kernels = kernels.repeat_interleave(c, 0).unsqueeze(1)  # BC 1 9 9
    padded = F.pad(noise.reshape(1, b * c, height, width), (4,) * 4)
    return F.conv2d(padded, kernels, groups=b * c).view_as(noise)
