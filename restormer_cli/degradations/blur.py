"""Motion blur and defocus blur in linear light."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .sampling import (
    chosen,
    convolved,
    mixture,
    normal,
    reflected,
    smooth_maps,
    to_8_bit,
    to_linear,
    to_srgb,
    uniform,
)

MOTION_RADIUS = 12
"""Radius of motion kernels in pixels, suitable for patches of 64 x 64 pixels."""

DEFOCUS_RADIUS = 8.0
"""Radius of the largest circle of confusion in pixels."""

_STEPS = 128  # points of a trajectory, less than half a pixel apart
_DEPTHS = 4  # circles of confusion for each image; blur in between is interpolated


def camera_shake(x: Tensor, generator: Generator, extent: Tensor | None = None) -> Tensor:
    """Blur the whole image by one random camera trajectory, of `extent` pixels if given."""
    paths = trajectories(1, x, generator)
    kernels = motion_kernels(paths, _extent(x, generator) if extent is None else extent)
    return exposed(blurred(scene_light(x, generator), kernels).squeeze(1), generator)


def varying_shake(x: Tensor, generator: Generator) -> Tensor:
    """Blur by three variants of a trajectory, blended by smooth maps, as if the camera rotated."""
    paths = trajectories(4, x, generator)
    spread = uniform(0.2, 0.8, x, generator)
    kernels = motion_kernels(paths[:, :1] + spread * paths[:, 1:], _extent(x, generator))
    shares = (2 * smooth_maps(3, x, generator)).softmax(1)
    return exposed(blended(scene_light(x, generator), kernels, shares), generator)


def moving_region(x: Tensor, generator: Generator) -> Tensor:
    """Blur by a moving object; in half of the images the camera is still."""
    edge = uniform(4, 40, x, generator)
    mask = torch.sigmoid(edge * (smooth_maps(1, x, generator) + uniform(-0.5, 0.5, x, generator)))
    extent = _extent(x, generator)
    shake = torch.where(chosen(0.5, x, generator), 1e-3, extent * uniform(0, 1, x, generator))
    kernels = motion_kernels(trajectories(2, x, generator), torch.cat([extent, shake], 1))
    return exposed(moved(scene_light(x, generator), mask, kernels), generator)


motion_blur = mixture((0.4, camera_shake), (0.3, varying_shake), (0.3, moving_region))
"""Apply one of the three kinds of motion blur to each image."""


def defocus(x: Tensor, generator: Generator) -> Tensor:
    """Blur by circles of confusion of up to 8 pixels' radius that vary with depth.

    Potmesil and Chakravarty, "A Lens and Aperture Camera Model for Synthetic Image Generation"
    (SIGGRAPH 1981). The circles have soft edges and, in half of the images, the shape of 5 to 8
    aperture blades. Depth is a smooth map, in some images nearly a step.
    """
    far = 0.5 + (DEFOCUS_RADIUS - 0.5) * uniform(0, 1, x, generator) ** 1.3
    near = far * uniform(0, 1, x, generator)
    slope = 8 ** uniform(-0.3, 1, x, generator)
    depth = torch.sigmoid(slope * smooth_maps(1, x, generator))
    corners = torch.randint(5, 9, (len(x), 1, 1, 1), generator=generator, device=x.device)
    blurry = defocused(
        scene_light(x, generator),
        (near + (far - near) * depth).clamp_min(0.3),
        uniform(1, 2, x, generator),
        corners * chosen(0.5, x, generator),
        uniform(0, 2 * math.pi, x, generator),
    )
    return exposed(blurry, generator)


def scene_light(x: Tensor, generator: Generator) -> Tensor:
    """Convert clean images (B 3 H W) to linear light, and brighten white in half of them.

    Clipped light was brighter than white, here up to fourfold, and leaves bright trails when it is
    blurred: Rim et al., "Realistic Blur Synthesis for Learning Image Deblurring" (ECCV 2022).
    """
    light = to_linear(x)
    clipped = ((light.amax(1, keepdim=True) - 0.96) / 0.04).clamp(0, 1)
    gain = uniform(0, 3, x, generator) * chosen(0.5, x, generator)
    return light * (1 + gain * clipped)


def exposed(light: Tensor, generator: Generator) -> Tensor:
    """Add weak shot and read noise to linear light and convert it to sRGB in 8 bits.

    The noise follows Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019),
    from far below their lowest level to a twentieth of their highest.
    """
    log_shot = uniform(-11.0, -7.6, light, generator)
    variance = light.clamp(0, 1) * log_shot.exp() + (2.18 * log_shot + 1.2).exp()
    return to_8_bit(to_srgb(light.clamp(0, 1) + normal(light, generator) * variance.sqrt()))


def blurred(light: Tensor, kernels: Tensor) -> Tensor:
    """Blur images (B C H W) with each of their kernels (B K S S), borders mirrored: B K C H W."""
    padded = reflected(light, kernels.shape[-1] // 2)
    return convolved(padded.unsqueeze(1), kernels.unsqueeze(2))


def blended(light: Tensor, kernels: Tensor, shares: Tensor) -> Tensor:
    """Blur images with K kernels and blend the results by `shares` (B K H W)."""
    return (blurred(light, kernels) * shares.unsqueeze(2)).sum(1)


def moved(light: Tensor, mask: Tensor, kernels: Tensor) -> Tensor:
    """Blur the object in `mask` (B 1 H W) with the first of two kernels, the rest with the second.

    The mask is blurred as well, so that the background shows through at the object's edges.
    """
    foreground = blurred(torch.cat([light * mask, mask], 1), kernels[:, :1]).squeeze(1)
    background = blurred(light, kernels[:, 1:]).squeeze(1)
    return foreground[:, :-1] + (1 - foreground[:, -1:]) * background


def defocused(light: Tensor, radius: Tensor, *shape: Tensor) -> Tensor:
    """Blur images (B C H W) with a circle of confusion for each pixel.

    `radius` is B 1 H W. `shape` is softness, blades and angle, as for `aperture_kernels`.
    """
    low, high = radius.amin((2, 3), keepdim=True), radius.amax((2, 3), keepdim=True)
    depth = torch.arange(_DEPTHS, device=radius.device).view(1, -1, 1, 1)
    step = ((high - low) / (_DEPTHS - 1)).clamp_min(1e-3)
    shares = (1 - ((radius - low) / step - depth).abs()).clamp_min(0)
    return blended(light, aperture_kernels(low + depth * step, *shape), shares)


def trajectories(count: int, x: Tensor, generator: Generator) -> Tensor:
    """Draw `count` camera paths for each image, with lengths of about 1: B count T 2.

    Similar to Boracchi and Foi, "Modeling the Performance of Image Restoration From Motion Blur"
    (IEEE TIP 2012): a random walk of the direction with occasional jerks, and varying speed.
    """
    shape = (len(x), count, _STEPS)

    def rand(*size: int) -> Tensor:
        return torch.rand(len(x), count, *size, generator=generator, device=x.device)

    start, bend, anxiety = rand(1) * 2 * math.pi, rand(1) * 4 - 2, 4 * rand(1) ** 2
    wander = torch.randn(shape, generator=generator, device=x.device)
    shake = (rand(_STEPS) < 0.8 / _STEPS) * wander.sign() * (math.pi / 2 + rand(1) * math.pi / 2)
    turn = bend / _STEPS + anxiety * wander / math.sqrt(_STEPS) + shake
    heading = start + turn.cumsum(2)
    pace = F.interpolate(0.15 + rand(6), _STEPS, mode="linear", align_corners=True)
    step = torch.stack([heading.sin(), heading.cos()], 3) * pace.unsqueeze(3)
    return step.cumsum(2) / _STEPS


def motion_kernels(paths: Tensor, extent: Tensor) -> Tensor:
    """Return the image of a point that moves along each path (B K T 2): B K 25 25.

    `extent` (B 1 1 1) is the size of the motion in pixels. Kernels are centred on their mean, so
    that blur does not shift the image.
    """
    paths = paths - paths.mean(2, keepdim=True)
    length = (paths.amax(2) - paths.amin(2)).square().sum(2).sqrt()[..., None, None]
    reach = paths.abs().amax((2, 3), keepdim=True)
    paths = paths * torch.minimum(extent / length, MOTION_RADIUS / reach)
    line = torch.arange(-MOTION_RADIUS, MOTION_RADIUS + 1, device=paths.device)
    # Each point of the path contributes bilinearly to its four nearest pixels.
    near = (1 - (paths.unsqueeze(4) - line).abs()).clamp_min(0)  # B K T 2 S
    kernels = near[:, :, :, 0].transpose(2, 3) @ near[:, :, :, 1]
    return kernels / kernels.sum((2, 3), keepdim=True)


def aperture_kernels(radius: Tensor, softness: Tensor, blades: Tensor, angle: Tensor) -> Tensor:
    """Return the image of a point out of focus for each radius: B K S S.

    Args:
        radius: B K 1 1, pixels.
        softness: B 1 1 1, width of the edge in pixels; 1 or more.
        blades: B 1 1 1, number of aperture blades; 0 for a circle.
        angle: B 1 1 1, rotation in radians.
    """
    reach = math.ceil(DEFOCUS_RADIUS) + 2
    line = torch.arange(-reach, reach + 1.0, device=radius.device)
    distance = (line[:, None] ** 2 + line**2).sqrt()
    direction = torch.atan2(line[:, None], line.expand(len(line), -1))
    sector = 2 * math.pi / blades.clamp_min(3)
    off_centre = torch.remainder(direction + angle, sector) - sector / 2
    # For a regular polygon with the circle's area, measure distances perpendicular to its sides.
    apothem = (sector / 2 / torch.tan(sector / 2)).sqrt()
    distance = torch.where(blades > 0, distance * off_centre.cos() / apothem, distance)
    kernels = ((radius - distance) / softness + 0.5).clamp(0, 1)
    return kernels / kernels.sum((2, 3), keepdim=True)


def _extent(x: Tensor, generator: Generator) -> Tensor:
    """Draw the size of the motion, 1..24 pixels, with a median of 5: B 1 1 1."""
    return 1 + 23 * uniform(0, 1, x, generator) ** 2.5
