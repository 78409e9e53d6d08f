"""Make pairs of degraded and clean images, for training and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ..degradations import AUGMENTATIONS, BLUR_REACH, DEGRADATIONS, Degradation
from ..errors import UsageError
from .dataset import Sample, sharpest_crop
from .patches import (
    PhotoBuffer,
    augment_dihedral,
    augment_dual_pixel,
    choose_by_detail,
    to_batch,
)

VALIDATION_SIDE, VALIDATION_SEED = 192, 20211118

Pair = tuple[Tensor, Tensor]
"""Degraded and clean images, B C H W each; the views of a dual-pixel sensor are joined along C."""


class Choice(NamedTuple):
    """Choice of patches by their detail.

    Attributes:
        candidates: number of positions drawn for each patch.
        ranks: the place of the one that is used, 0 for the flattest, for each patch in turn.
    """

    candidates: int = 1
    ranks: tuple[int, ...] = (0,)


CHOICES = {
    # Fur, fabric and foliage teach most, but grain has to be removed from flat areas too.
    "denoise": Choice(4, (3, 0, 2, 3)),
    "derain": Choice(4, (3, 0, 2, 3)),
    # Intended blur must stay: with the sharpest of four, networks sharpened soft pictures.
    "deblur": Choice(2, (1,)),
    "defocus": Choice(2, (1,)),
}
"""Choice of the patches of each task."""


class SampleSpec(NamedTuple):
    """Rules for making training pairs from photographs.

    Attributes:
        degrade: degradation of clean patches; None if the photographs have degraded views.
        views: number of degraded views of each photograph, 2 from a dual-pixel sensor.
        reach: number of pixels that the degradation needs beyond each border of a patch.
        choice: choice of the patches by their detail.
        augment: change of clean patches before they are degraded, if any; not in validation.
    """

    degrade: Degradation | None = None
    views: int = 0
    reach: int = 0
    choice: Choice = Choice()
    augment: Degradation | None = None

    def draw(self, photos: PhotoBuffer, side: int, count: int, rng: np.random.Generator) -> Pair:
        """Return `count` pairs of `side` x `side` pixels from random positions.

        Raises:
            UsageError: all photographs are smaller than a patch.
        """
        side += 2 * self.reach
        turn = augment_dual_pixel if self.views == 2 else augment_dihedral
        positions = photos.positions(side, count * self.choice.candidates, rng)
        patches = choose_by_detail(photos.cut(*positions, side), *self.choice)
        batch = to_batch(turn(patches, rng))
        generator = torch.Generator(batch.device).manual_seed(int(rng.integers(2**63)))
        if self.augment is not None:
            batch = self.augment(batch, generator)
        return self.pair(batch, generator)

    def pair(self, patches: Tensor, generator: Generator) -> Pair:
        """Make pairs of patches, B C H W: split them into views, or degrade them and crop."""
        if self.degrade is None:
            channels = patches.shape[1] // (1 + self.views)
            return patches[:, channels:], patches[:, :channels]
        height, width = patches.shape[2:]
        # Degradations take RGB: repeat a grey channel, and keep the first of the result.
        inner = (..., slice(self.reach, height - self.reach), slice(self.reach, width - self.reach))
        degraded = self.degrade(patches.expand(-1, 3, -1, -1), generator)[:, : patches.shape[1]]
        return degraded[inner], patches[inner]


def sample_spec(task: str, views: int = 0, degrade: Degradation | None = None) -> SampleSpec:
    """Return the rules for recorded views, for `degrade`, or else for the degradation of a task.

    Raises:
        UsageError: the task has no degradation.
    """
    if views:
        return SampleSpec(views=views)
    if degrade is not None:
        return SampleSpec(degrade)
    if task not in DEGRADATIONS:
        raise UsageError(
            f"{task}: cannot be trained without pairs",
            f"Give --pairs, or one of these tasks: {', '.join(DEGRADATIONS)}.",
        )
    reach, augment = BLUR_REACH.get(task, 0), AUGMENTATIONS.get(task)
    return SampleSpec(DEGRADATIONS[task], 0, reach, CHOICES[task], augment)


def validation_set(held_out: Sequence[Sample], spec: SampleSpec) -> list[Pair]:
    """Return the sharpest crop of each photograph, degraded in the same way in every run."""
    return [
        spec.pair(
            to_batch(
                torch.from_numpy(sharpest_crop(photo, VALIDATION_SIDE + 2 * spec.reach)[None])
            ),
            torch.Generator().manual_seed(int(photo.digest, 16) ^ VALIDATION_SEED),
        )
        for photo in held_out
    ]
