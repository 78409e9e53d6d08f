"""Mixtures of degradations for training, and degradations of fixed severity for evaluation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ..errors import UsageError
from . import blur
from .jpeg import maybe_jpeg
from .noise import (
    blind_gaussian_noise,
    camera_noise,
    equal_noise,
    gaussian_noise,
    processed_noise,
)
from .rain import hard_rain, rain, streaks, veiled
from .sampling import Degradation, mixture, smooth_maps, to_8_bit, uniform, untouched
from .softness import softened
from .structures import with_structures


def _with_jpeg(degradation: Degradation) -> Degradation:
    return lambda x, generator: maybe_jpeg(degradation(x, generator), generator, 75)


DEGRADATIONS: dict[str, Degradation] = {
    "denoise": mixture(
        (0.12, untouched),
        (0.3, blind_gaussian_noise),
        (0.12, equal_noise),
        (0.18, camera_noise),
        (0.28, processed_noise),
    ),
    "derain": mixture(
        (0.22, untouched),
        (0.38, _with_jpeg(rain)),
        (0.3, _with_jpeg(hard_rain)),
        (0.1, _with_jpeg(lambda x, generator: hard_rain(rain(x, generator), generator))),
    ),
    "deblur": mixture((0.3, untouched), (0.7, _with_jpeg(blur.motion_blur))),
    "defocus": mixture((0.3, untouched), (0.7, _with_jpeg(blur.defocus))),
}
"""Degradation of the training images of each task."""

AUGMENTATIONS: dict[str, Degradation] = {
    "denoise": softened,
    "derain": lambda x, generator: with_structures(softened(x, generator), generator),
    "deblur": softened,
    "defocus": softened,
}
"""Change of the clean images of a task before they are degraded."""

BLUR_REACH = {"deblur": 16, "defocus": 16}
"""Width in pixels of the border that the blur of a task needs around a patch."""


def _noise(x: Tensor, generator: Generator, sigma: float) -> Tensor:
    return to_8_bit(gaussian_noise(x, generator, sigma))


def _rain(x: Tensor, generator: Generator, heaviness: float) -> Tensor:
    part = streaks(x, torch.full((1, 1, 1, 1), heaviness), generator)
    mist = 0.2 * heaviness * (1 + 0.3 * smooth_maps(1, x, generator))
    return to_8_bit(veiled(x + (1 - x) * part, mist.clamp(0, 1), torch.tensor(0.8)))


def _streaks(x: Tensor, generator: Generator, cover: float) -> Tensor:
    return hard_rain(x, generator, cover / 100)


def _motion(x: Tensor, generator: Generator, extent: float) -> Tensor:
    return blur.camera_shake(x, generator, torch.full((1, 1, 1, 1), extent))


def _defocus(x: Tensor, generator: Generator, radius: float) -> Tensor:
    circles = radius * (1 + 0.33 * smooth_maps(1, x, generator).clamp(-1, 1))
    softness, angle = uniform(1, 2, x, generator), uniform(0, 2 * math.pi, x, generator)
    light = blur.scene_light(x, generator)
    shape = (softness, torch.zeros_like(softness), angle)
    return blur.exposed(blur.defocused(light, circles, *shape), generator)


class Kind(NamedTuple):
    """Degradation, description of its amount, and amounts of the severities."""

    degrade: Callable[[Tensor, Generator, float], Tensor]
    description: str
    amounts: tuple[float, float, float]


SEVERITIES = ("light", "medium", "heavy")
KINDS = {
    "noise": Kind(_noise, "sigma {:g}, in 8 bits", (15, 25, 50)),
    "rain": Kind(_rain, "heaviness {:g} of 1", (0.2, 0.5, 0.9)),
    "streaks": Kind(_streaks, "opaque streaks over {:g} % of the image", (5, 10, 20)),
    "motion": Kind(_motion, "{:g} pixels of shake", (5, 10, 20)),
    "defocus": Kind(_defocus, "circles of {:g} pixels' radius", (1.5, 3, 6)),
}


class DegradationSpec(NamedTuple):
    """Degradation of one severity."""

    name: str  # "rain:medium"
    kind: Kind
    amount: float

    @property
    def description(self) -> str:
        """Name and amount for people."""
        amount = self.kind.description.format(self.amount)
        return f"{self.name}: {amount}, seeded by each image's pixels"

    def apply(self, clean: np.ndarray) -> np.ndarray:
        """Degrade an image (H W C, 0..1, C 1 or 3), with a seed that its pixels determine."""
        rgb = np.repeat(clean, 3, axis=2) if clean.shape[2] == 1 else clean
        x = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).unsqueeze(0)
        y = self.kind.degrade(x, torch.Generator().manual_seed(seed(clean)), self.amount)
        return y[0, : clean.shape[2]].permute(1, 2, 0).contiguous().numpy()


def parse_degradation(text: str) -> DegradationSpec:
    """Parse a degradation such as "rain:medium".

    Raises:
        UsageError: the kind or the severity is unknown.
    """
    kind, _, severity = text.partition(":")
    if kind not in KINDS or severity not in SEVERITIES:
        raise UsageError(
            f"unknown degradation {text!r}",
            f"Combine {', '.join(KINDS)} with {', '.join(SEVERITIES)}, for example noise:medium.",
        )
    return DegradationSpec(text, KINDS[kind], KINDS[kind].amounts[SEVERITIES.index(severity)])


def seed(image: np.ndarray) -> int:
    """Return a random seed that depends on an image's pixels and shape alone."""
    digest = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1  # PyTorch takes 63 bits
