"""Degradations of a stated severity, which an image's own content seeds: for evaluation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from ..errors import UsageError
from . import blur
from .jpeg import filed
from .noise import blind_gaussian_noise, camera_noise, equal_noise, gaussian_noise
from .rain import rain, streaks, veiled
from .sampling import Degradation, fields, mixture, to_8_bit, uniform, untouched

Pixels: TypeAlias = npt.NDArray[np.float32]

Severely = Callable[[Tensor, Generator, float], Tensor]
"""1 3 H W in 0..1, the source of all randomness, and how much: the degraded image."""


def _noise(x: Tensor, generator: Generator, sigma: float) -> Tensor:
    """Gaussian noise, as a file of 8 bits holds it."""
    return to_8_bit(gaussian_noise(x, generator, sigma))


def _rain(x: Tensor, generator: Generator, heaviness: float) -> Tensor:
    """Streaks over the image, and a veil the thicker the more there are."""
    part = streaks(x, torch.full((1, 1, 1, 1), heaviness), generator)
    mist = 0.2 * heaviness * (1 + 0.3 * fields(1, x, generator))
    return to_8_bit(veiled(x + (1 - x) * part, mist.clamp(0, 1), torch.tensor(0.8)))


def _motion(x: Tensor, generator: Generator, extent: float) -> Tensor:
    """Shake of the camera during the exposure, by so many pixels."""
    paths = blur.trajectories(1, x, generator)
    kernels = blur.motion_kernels(paths, torch.full((1, 1, 1, 1), extent))
    light = blur.blurred(blur.scene_light(x, generator), kernels).squeeze(1)
    return blur.exposed(light, generator)


def _defocus(x: Tensor, generator: Generator, radius: float) -> Tensor:
    """Circles of confusion of this radius, give or take a third of it, by a round aperture."""
    circles = radius * (1 + 0.33 * fields(1, x, generator).clamp(-1, 1))
    softness, angle = uniform(1, 2, x, generator), uniform(0, 2 * math.pi, x, generator)
    light = blur.scene_light(x, generator)
    shape = (softness, torch.zeros_like(softness), angle)
    return blur.exposed(blur.defocused(light, circles, *shape), generator)


class Kind(NamedTuple):
    """A degradation, what its amount is of, and how much of it each severity means."""

    degrade: Severely
    amount: str
    light: float
    medium: float
    heavy: float


KINDS = {
    "noise": Kind(_noise, "sigma {:g}, in 8 bits", 15, 25, 50),
    "rain": Kind(_rain, "heaviness {:g} of 1", 0.2, 0.5, 0.9),
    "motion": Kind(_motion, "{:g} pixels of shake", 5, 10, 20),
    "defocus": Kind(_defocus, "circles of {:g} pixels' radius", 1.5, 3, 6),
}
SEVERITIES = ("light", "medium", "heavy")


class DegradationSpec(NamedTuple):
    """A degradation of one severity."""

    name: str  # as it was asked for: "rain:medium"
    kind: Kind
    amount: float

    @property
    def description(self) -> str:
        """It in words."""
        return f"{self.name}: {self.kind.amount.format(self.amount)}, seeded by each image's pixels"

    def apply(self, clean: Pixels) -> Pixels:
        """H W C float32 in 0..1, C 1 or 3, degraded: the same image always in the same way."""
        rgb = np.repeat(clean, 3, axis=2) if clean.shape[2] == 1 else clean
        x = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).unsqueeze(0)
        y = self.kind.degrade(x, torch.Generator().manual_seed(seed(clean)), self.amount)
        degraded: Pixels = y[0].permute(1, 2, 0).contiguous().numpy()
        if clean.shape[2] == 1:  # of its three channels, each with its own noise, the first
            degraded = np.ascontiguousarray(degraded[..., :1])
        return degraded


def seed(image: Pixels) -> int:
    """A number that depends on an image's pixels and shape alone."""
    digest = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1  # torch takes 63 bits


def parse_degradation(text: str) -> DegradationSpec:
    """What "rain:medium" means.

    Raises:
        UsageError: there is no such kind or severity.
    """
    kind, _, severity = text.partition(":")
    if kind not in KINDS or severity not in SEVERITIES:
        raise UsageError(
            f"no degradation is called {text!r}",
            f"Kinds are {', '.join(KINDS)}, each {', '.join(SEVERITIES)}: {next(iter(KINDS))}"
            f":{SEVERITIES[1]}, for example.",
        )
    return DegradationSpec(text, KINDS[kind], getattr(KINDS[kind], severity))


def rainy(x: Tensor, generator: Generator) -> Tensor:
    """Rain as it reaches a photographer: half of it through a good JPEG file."""
    return filed(rain(x, generator), generator, 75)


def shaken(x: Tensor, generator: Generator) -> Tensor:
    """Blur by motion, likewise."""
    return filed(blur.motion_blur(x, generator), generator, 75)


def unfocused(x: Tensor, generator: Generator) -> Tensor:
    """Blur of a lens out of focus, likewise."""
    return filed(blur.defocus(x, generator), generator, 75)


DEGRADATIONS: dict[str, Degradation] = {
    "denoise": mixture(
        (0.03, untouched), (0.4, blind_gaussian_noise), (0.37, camera_noise), (0.2, equal_noise)
    ),
    "derain": mixture((0.1, untouched), (0.9, rainy)),
    "deblur": mixture((0.3, untouched), (0.7, shaken)),
    "defocus": mixture((0.3, untouched), (0.7, unfocused)),
}
"""What each task's training undoes."""


BLUR_REACH = {"deblur": 16, "defocus": 16}
"""How far, in pixels, the tasks' blur looks beyond a patch; it would see a mirror there."""


SHARPEST_OF = 2
"""Of so many places that are drawn the sharpest is learned from. There is little to learn where
nothing is; and what is out of focus in a clean photograph teaches that blur is to be left alone,
of which a little is right: of four places, soft pictures were sharpened that were meant to be."""
