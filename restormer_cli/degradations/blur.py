"""Motion blur and defocus blur in linear light."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .sampling import (
    chosen,
    convolved,
    fields,
    mixture,
    normal,
    reflected,
    to_8_bit,
    to_linear,
    to_srgb,
    uniform,
)

MOTION_RADIUS = 12
"""Radius of motion kernels in pixels: 25 a side, the most that a patch of 64 can support."""

DEFOCUS_RADIUS = 8.0
"""Radius of the largest circle of confusion in pixels."""

_STEPS = 128
"""Points of a trajectory; they are less than half a pixel apart."""

_DEPTHS = 4
"""Number of circles of confusion for each image; those in between are blended."""


def camera_shake(x: Tensor, generator: Generator) -> Tensor:
    """Blur by one random camera trajectory for the whole image."""
    kernels = motion_kernels(trajectories(1, x, generator), _extent(x, generator))
    return exposed(blurred(scene_light(x, generator), kernels).squeeze(1), generator)


def varying_shake(x: Tensor, generator: Generator) -> Tensor:
    """Blur by trajectories that vary over the image, as when the camera also rotates.

    Three variants of one trajectory are blended by smooth maps.
    """
    paths = trajectories(4, x, generator)
    spread = uniform(0.2, 0.8, x, generator)
    kernels = motion_kernels(paths[:, :1] + spread * paths[:, 1:], _extent(x, generator))
    shares = (2 * fields(3, x, generator)).softmax(1)
    return exposed(blended(scene_light(x, generator), kernels, shares), generator)


def moving_region(x: Tensor, generator: Generator) -> Tensor:
    """Blur by an object that moves through the image; in half of them the camera is still."""
    edge = uniform(4, 40, x, generator)
    mask = torch.sigmoid(edge * (fields(1, x, generator) + uniform(-0.5, 0.5, x, generator)))
    extent = _extent(x, generator)
    shake = torch.where(chosen(0.5, x, generator), 1e-3, extent * uniform(0, 1, x, generator))
    kernels = motion_kernels(trajectories(2, x, generator), torch.cat([extent, shake], 1))
    return exposed(moved(scene_light(x, generator), mask, kernels), generator)


motion_blur = mixture((0.4, camera_shake), (0.3, varying_shake), (0.3, moving_region))
"""Apply one of the kinds of motion blur to each image."""


def defocus(x: Tensor, generator: Generator) -> Tensor:
    """Blur by circles of confusion of up to 8 pixels' radius that vary with depth.

    The model is that of Potmesil and Chakravarty, "A Lens and Aperture Camera Model for Synthetic
    Image Generation" (SIGGRAPH 1981): a disk whose radius depends on depth. The disk has a soft
    edge and, for half of the images, the shape of 5 to 8 blades. Depth is a smooth map, in some
    images nearly a step.
    """
    far = 0.5 + (DEFOCUS_RADIUS - 0.5) * uniform(0, 1, x, generator) ** 1.3
    near = far * uniform(0, 1, x, generator)
    slope = 8 ** uniform(-0.3, 1, x, generator)
    depth = torch.sigmoid(slope * fields(1, x, generator))
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
    """Convert clean images (B 3 H W) to linear light, half of them with highlights above white.

    Light that was clipped in the sharp photograph was brighter than white, here up to fourfold,
    and therefore leaves a trail when it is blurred: Rim et al., "Realistic Blur Synthesis for
    Learning Image Deblurring" (ECCV 2022).
    """
    light = to_linear(x)
    clipped = ((light.amax(1, keepdim=True) - 0.96) / 0.04).clamp(0, 1)
    gain = uniform(0, 3, x, generator) * chosen(0.5, x, generator)
    return light * (1 + gain * clipped)


def exposed(light: Tensor, generator: Generator) -> Tensor:
    """Convert light to sRGB as a camera does: with weak shot and read noise, clipped, in 8 bits.

    The noise follows Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019),
    from far below the lowest level there to a twentieth of the highest.
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

    The mask is blurred with its object and lets the background show through.
    """
    thing = blurred(torch.cat([light * mask, mask], 1), kernels[:, :1]).squeeze(1)
    background = blurred(light, kernels[:, 1:]).squeeze(1)
    return thing[:, :-1] + (1 - thing[:, -1:]) * background


def defocused(light: Tensor, radius: Tensor, *shape: Tensor) -> Tensor:
    """Blur images (B C H W) with a circle of confusion for each pixel: `radius`, B 1 H W.

    `shape` is the aperture: softness, blades and angle of `aperture_kernels`.
    """
    low, high = radius.amin((2, 3), keepdim=True), radius.amax((2, 3), keepdim=True)
    depth = torch.arange(_DEPTHS, device=radius.device).view(1, -1, 1, 1)
    step = ((high - low) / (_DEPTHS - 1)).clamp_min(1e-3)
    shares = (1 - ((radius - low) / step - depth).abs()).clamp_min(0)
    return blended(light, aperture_kernels(low + depth * step, *shape), shares)


def trajectories(count: int, x: Tensor, generator: Generator) -> Tensor:
    """Draw `count` paths for each image, of unit time and a length of order 1: B count T 2.

    They resemble those of Boracchi and Foi, "Modeling the Performance of Image Restoration From
    Motion Blur" (IEEE TIP 2012): a hand with inertia, more or less anxious, that jerks now and
    then. The heading wanders, from hardly at all to several turns, and the speed varies.
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
    """Return the images of a point that moves along paths (B K T 2): B K 25 25.

    `extent` (B 1 1 1) is the size of the motion in pixels. The centre of mass is in the middle, so
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
    """Return the images of a point out of focus: B K S S.

    Args:
        radius: B K 1 1, pixels.
        softness: B 1 1 1, width of the edge in pixels; 1 or more.
        blades: B 1 1 1, corners of the aperture; 0 for a round one.
        angle: B 1 1 1, rotation in radians.
    """
    reach = math.ceil(DEFOCUS_RADIUS) + 2
    line = torch.arange(-reach, reach + 1.0, device=radius.device)
    distance = (line[:, None] ** 2 + line**2).sqrt()
    direction = torch.atan2(line[:, None], line.expand(len(line), -1))
    sector = 2 * math.pi / blades.clamp_min(3)
    off_centre = torch.remainder(direction + angle, sector) - sector / 2
    # For a regular polygon of the circle's area, use the distance that its sides determine.
    apothem = (sector / 2 / torch.tan(sector / 2)).sqrt()
    distance = torch.where(blades > 0, distance * off_centre.cos() / apothem, distance)
    kernels = ((radius - distance) / softness + 0.5).clamp(0, 1)
    return kernels / kernels.sum((2, 3), keepdim=True)


def _extent(x: Tensor, generator: Generator) -> Tensor:
    """Draw the size of the motion: 1..24 pixels, in half of the images less than 6: B 1 1 1."""
    return 1 + 23 * uniform(0, 1, x, generator) ** 2.5
