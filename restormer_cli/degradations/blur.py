"""Blur in linear light: of a camera or an object that moves, and of a lens out of focus."""

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

# --- exposure ----------------------------------------------------------------------------------


def scene_light(x: Tensor, generator: Generator) -> Tensor:
    """Linear light of clean images (B 3 H W), for half of them with highlights above white.

    What was clipped in the sharp photograph was brighter than white, up to fourfold here, and so
    leaves a trail when it is blurred: Rim et al., "Realistic Blur Synthesis for Learning Image
    Deblurring" (ECCV 2022).
    """
    light = to_linear(x)
    clipped = ((light.amax(1, keepdim=True) - 0.96) / 0.04).clamp(0, 1)
    gain = uniform(0, 3, x, generator) * chosen(0.5, x, generator)
    return light * (1 + gain * clipped)


def exposed(light: Tensor, generator: Generator) -> Tensor:
    """Blurred light as a camera stores it: a little shot and read noise, clipped, in 8 bits.

    Noise as in Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019), from
    far below their lowest level to a twentieth of their highest.
    """
    log_shot = uniform(-11.0, -7.6, light, generator)
    variance = light.clamp(0, 1) * log_shot.exp() + (2.18 * log_shot + 1.2).exp()
    return to_8_bit(to_srgb(light.clamp(0, 1) + normal(light, generator) * variance.sqrt()))


def blurred(light: Tensor, kernels: Tensor) -> Tensor:
    """Images (B C H W) by each of their kernels (B K S S): B K C H W, mirrored at the border."""
    padded = reflected(light, kernels.shape[-1] // 2)
    return convolved(padded.unsqueeze(1), kernels.unsqueeze(2))


def blended(light: Tensor, kernels: Tensor, shares: Tensor) -> Tensor:
    """Images by kernels that change over the image: K of them in `shares` (B K H W)."""
    return (blurred(light, kernels) * shares.unsqueeze(2)).sum(1)


# --- motion ------------------------------------------------------------------------------------

MOTION_RADIUS = 12
"""Motion kernels have 25 pixels a side: as much as a patch of 64 can tell anything about."""

_STEPS = 128
"""Of a trajectory: fine enough that its points are less than half a pixel apart."""


def trajectories(count: int, x: Tensor, generator: Generator) -> Tensor:
    """`count` random paths for each image, each of unit time and length of order 1: B count T 2.

    Like those of Boracchi and Foi, "Modeling the Performance of Image Restoration From Motion
    Blur" (IEEE TIP 2012): a hand that has inertia, is more or less anxious, and now and then
    shakes. Here the heading wanders, from hardly at all to several turns, and the speed varies.
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
    """What paths (B K T 2) of this extent (B 1 1 1, pixels) make of a point: B K 25 25.

    Their mean lies in the middle, so that a restored image need not be shifted.
    """
    paths = paths - paths.mean(2, keepdim=True)
    length = (paths.amax(2) - paths.amin(2)).square().sum(2).sqrt()[..., None, None]
    reach = paths.abs().amax((2, 3), keepdim=True)
    paths = paths * torch.minimum(extent / length, MOTION_RADIUS / reach)
    line = torch.arange(-MOTION_RADIUS, MOTION_RADIUS + 1, device=paths.device)
    # Each point of the path falls on its four nearest pixels, bilinearly.
    near = (1 - (paths.unsqueeze(4) - line).abs()).clamp_min(0)  # B K T 2 S
    kernels = near[:, :, :, 0].transpose(2, 3) @ near[:, :, :, 1]
    return kernels / kernels.sum((2, 3), keepdim=True)


def _extent(x: Tensor, generator: Generator) -> Tensor:
    """How far things move, 1..24 pixels, half of them less than 6: B 1 1 1."""
    return 1 + 23 * uniform(0, 1, x, generator) ** 2.5


def camera_shake(x: Tensor, generator: Generator) -> Tensor:
    """Blur by one random camera trajectory for the whole image."""
    kernels = motion_kernels(trajectories(1, x, generator), _extent(x, generator))
    return exposed(blurred(scene_light(x, generator), kernels).squeeze(1), generator)


def varying_shake(x: Tensor, generator: Generator) -> Tensor:
    """Blur by trajectories that change over the image, as when a camera is also turned.

    Three relatives of one trajectory, blended by a smooth map.
    """
    paths = trajectories(4, x, generator)
    spread = uniform(0.2, 0.8, x, generator)
    kernels = motion_kernels(paths[:, :1] + spread * paths[:, 1:], _extent(x, generator))
    shares = (2 * fields(3, x, generator)).softmax(1)
    return exposed(blended(scene_light(x, generator), kernels, shares), generator)


def moved(light: Tensor, mask: Tensor, kernels: Tensor) -> Tensor:
    """The part in `mask` (B 1 H W) by the first of two kernels, over the rest by the second.

    The outline moves with its object: both are blurred alike, and what they leave free shows the
    background.
    """
    thing = blurred(torch.cat([light * mask, mask], 1), kernels[:, :1]).squeeze(1)
    background = blurred(light, kernels[:, 1:]).squeeze(1)
    return thing[:, :-1] + (1 - thing[:, -1:]) * background


def moving_region(x: Tensor, generator: Generator) -> Tensor:
    """Blur of something that moves through the picture; for half of them the camera is still."""
    edge = uniform(4, 40, x, generator)
    mask = torch.sigmoid(edge * (fields(1, x, generator) + uniform(-0.5, 0.5, x, generator)))
    extent = _extent(x, generator)
    shake = torch.where(chosen(0.5, x, generator), 1e-3, extent * uniform(0, 1, x, generator))
    kernels = motion_kernels(trajectories(2, x, generator), torch.cat([extent, shake], 1))
    return exposed(moved(scene_light(x, generator), mask, kernels), generator)


motion_blur = mixture((0.4, camera_shake), (0.3, varying_shake), (0.3, moving_region))
"""Blur by motion of every kind."""


# --- defocus -----------------------------------------------------------------------------------

DEFOCUS_RADIUS = 8.0
"""Of the largest circle of confusion, in pixels."""

_DEPTHS = 4
"""So many circles for each image; those in between are blended."""


def aperture_kernels(radius: Tensor, softness: Tensor, blades: Tensor, angle: Tensor) -> Tensor:
    """Images of a point out of focus: B K S S.

    Args:
        radius: B K 1 1, pixels.
        softness: B 1 1 1: over how many pixels the edge falls off; 1 or more.
        blades: B 1 1 1: corners of the aperture, 0 where it is round.
        angle: B 1 1 1, radians: by which it is turned.
    """
    reach = math.ceil(DEFOCUS_RADIUS) + 2
    line = torch.arange(-reach, reach + 1.0, device=radius.device)
    distance = (line[:, None] ** 2 + line**2).sqrt()
    direction = torch.atan2(line[:, None], line.expand(len(line), -1))
    sector = 2 * math.pi / blades.clamp_min(3)
    off_centre = torch.remainder(direction + angle, sector) - sector / 2
    # Of a regular polygon as large as the circle; `distance` is that from its sides.
    apothem = (sector / 2 / torch.tan(sector / 2)).sqrt()
    distance = torch.where(blades > 0, distance * off_centre.cos() / apothem, distance)
    kernels = ((radius - distance) / softness + 0.5).clamp(0, 1)
    return kernels / kernels.sum((2, 3), keepdim=True)


def defocused(light: Tensor, radius: Tensor, *shape: Tensor) -> Tensor:
    """Images (B C H W) in which each pixel has its own circle of confusion: `radius`, B 1 H W.

    `shape` is that of the aperture: softness, blades and angle of `aperture_kernels`.
    """
    low, high = radius.amin((2, 3), keepdim=True), radius.amax((2, 3), keepdim=True)
    depth = torch.arange(_DEPTHS, device=radius.device).view(1, -1, 1, 1)
    step = ((high - low) / (_DEPTHS - 1)).clamp_min(1e-3)
    shares = (1 - ((radius - low) / step - depth).abs()).clamp_min(0)
    return blended(light, aperture_kernels(low + depth * step, *shape), shares)


def defocus(x: Tensor, generator: Generator) -> Tensor:
    """Blur of a lens out of focus, by circles of up to 8 pixels' radius that change with depth.

    The model of Potmesil and Chakravarty, "A Lens and Aperture Camera Model for Synthetic Image
    Generation" (SIGGRAPH 1981): a disk whose radius goes with depth. The disk is soft-edged, for
    half of the images a polygon of 5 to 8 blades; depth is a smooth map, in some nearly a step.
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
