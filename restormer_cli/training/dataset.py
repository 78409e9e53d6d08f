"""Training photographs: decode them, cut patches and make training pairs.

All random choices made once per photograph (the position of its crop, its degradation for
validation) depend on the bytes of its file alone, not on names or other files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from ..callbacks import Notify
from ..degradations import BLUR_REACH, DEGRADATIONS, Degradation
from ..errors import ImageError, UsageError
from ..files import list_images, match_pairs
from ..imaging import Array, from_float, read_bytes, read_image, readable_suffixes, to_float

MULTIPLE = 16
"""Divisor of all patch sides. The network needs 8, JPEG with subsampled chroma 16."""

CANDIDATES = 2
"""Number of random patches of which training uses the sharpest.

Flat patches teach little. But some blurred ones are needed, so that networks keep intended blur:
with the sharpest of four, they sharpened soft pictures.
"""

VALIDATION_PHOTOS, VALIDATION_SIDE, VALIDATION_SEED = 24, 192, 20211118

Pair = tuple[Tensor, Tensor]
"""Degraded and clean images, B C H W each; the views of a dual-pixel sensor are joined along C."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A clean photograph and its degraded views, or a crop of them.

    Attributes:
        pixels: H W C uint8. The clean image, its degraded version or the left view, and the right
            view follow one another along the channels, 1 or 3 each.
        digest: the first 64 bits of the SHA-256 of the files, in hexadecimal.
    """

    pixels: Array
    digest: str

    @property
    def side(self) -> int:
        """Shorter side in pixels."""
        return int(min(self.pixels.shape[:2]))


class SampleSpec(NamedTuple):
    """Rules for cutting training pairs from samples.

    Attributes:
        degrade: degradation of clean patches; None if the samples have degraded views.
        views: number of degraded views in each sample, 2 from a dual-pixel sensor.
        reach: number of pixels that the degradation needs beyond each border of a patch.
        candidates: number of positions drawn per patch, of which the sharpest is used.
    """

    degrade: Degradation | None = None
    views: int = 0
    reach: int = 0
    candidates: int = 1

    def draw(
        self,
        photos: Sequence[Sample],
        side: int,
        count: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> Pair:
        """Return `count` pairs of `side` x `side` pixels from random positions.

        A photograph is drawn with a probability proportional to its area.

        Raises:
            UsageError: all photographs are smaller than a patch.
        """
        side += 2 * self.reach
        usable = [photo.pixels for photo in photos if photo.side >= side]
        if not usable:
            raise UsageError(
                f"no photo is {side} pixels high and wide", "Give larger photos or smaller patches."
            )
        area = np.array([p.shape[0] * p.shape[1] for p in usable], dtype=np.float64)
        augment = augment_dual_pixel if self.views == 2 else augment_dihedral

        def cut(index: int) -> Array:
            photo = usable[index]
            top = rng.integers(photo.shape[0] - side + 1)
            left = rng.integers(photo.shape[1] - side + 1)
            return photo[top : top + side, left : left + side]

        drawn = rng.choice(len(usable), size=(count, self.candidates), p=area / area.sum())
        patches = [augment(max(map(cut, row), key=_sharpness), rng) for row in drawn]
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        return self.pair(to_tensor(patches, device), generator)

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
    return SampleSpec(DEGRADATIONS[task], 0, BLUR_REACH.get(task, 0), CANDIDATES)


def load_photos(
    folder: Path,
    memory: int,
    notify: Notify,
    min_side: int = MULTIPLE,
    partners: Sequence[Path] = (),
    grey: bool = False,
) -> list[Sample]:
    """Decode the photographs in `folder` and its subfolders.

    Args:
        folder: clean photographs.
        memory: bytes for all samples. Photographs above their equal share are cropped.
        notify: called with a message for each file left out.
        min_side: smallest usable side in pixels.
        partners: folders with degraded views of the photographs (see `files.match_pairs`).
        grey: convert all images to one channel, instead of three.

    Raises:
        UsageError: a folder does not exist or has no images, or fewer than two photographs are
            usable: one for training, one for validation.
    """
    groups = _find_photos(folder, partners, notify)
    channels = (1 if grey else 3) * (1 + len(partners))
    share = memory // len(groups) // channels
    samples: dict[str, Sample] = {}
    for paths in groups:
        try:
            sample = _decode(paths, share, grey)
        except ImageError as error:
            notify(f"left out: {error.message}")
            continue
        if sample.digest in samples:
            notify(f"left out: {paths[0]}: copy of another photo")
        elif sample.side < min_side:
            notify(f"left out: {paths[0]}: smaller than {min_side} x {min_side} pixels")
        else:
            samples[sample.digest] = sample
    if len(samples) < 2:
        raise UsageError(
            f"{folder}: {len(samples)} of {len(groups)} photos can be used, training needs 2",
            "Give --photos a folder of clean, sharp photographs, or --pairs two folders of images "
            "with the same names.",
        )
    return list(samples.values())


def hold_out(
    photos: Sequence[Sample], held_out: Sequence[str] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Split photographs into a training and a validation set.

    The validation set has the digests `held_out`. By default, it is a twentieth of all photographs,
    at least 1 and at most 24: those with the lowest digests, so that adding photographs to the
    folder hardly changes the set.
    """
    if not held_out:
        count = max(1, min(VALIDATION_PHOTOS, len(photos) // 20))
        held_out = sorted(photo.digest for photo in photos)[:count]
    chosen = set(held_out)
    return (
        [photo for photo in photos if photo.digest not in chosen],
        [photo for photo in photos if photo.digest in chosen],
    )


def fingerprint(photos: Sequence[Sample]) -> str:
    """Return a digest of the set of photographs, in any order."""
    return hashlib.sha256(" ".join(sorted(p.digest for p in photos)).encode()).hexdigest()[:16]


def largest_side(photos: Sequence[Sample]) -> int:
    """Return the largest patch side, a multiple of 16, that fits into half of the photographs.

    With larger patches, the last stages would use only a few large photographs.
    """
    sides = sorted(photo.side for photo in photos)
    return sides[len(sides) // 2] // MULTIPLE * MULTIPLE


def augment_dihedral(patch: Array, rng: np.random.Generator) -> Array:
    """Return one of the eight rotations and reflections of a patch."""
    turned = np.rot90(patch, int(rng.integers(4)))
    return turned[:, ::-1] if rng.integers(2) else turned


def augment_dual_pixel(patch: Array, rng: np.random.Generator) -> Array:
    """Return one of the four reflections of a patch with a clean, a left and a right RGB view.

    The views differ by a horizontal shift, which a rotation would make vertical. A horizontal
    reflection exchanges the views.
    """
    patch = patch[::-1] if rng.integers(2) else patch
    return patch[:, ::-1][..., [0, 1, 2, 6, 7, 8, 3, 4, 5]] if rng.integers(2) else patch


def sharpest_crop(photo: Sample, side: int) -> Tensor:
    """Return the sharpest square of a photograph, 1 C S S in 0..1.

    S is `side`, or the largest multiple of 16 that fits.
    """
    side = min(side, photo.side) // MULTIPLE * MULTIPLE
    height, width = photo.pixels.shape[:2]
    crops = [
        photo.pixels[top : top + side, left : left + side]
        for top in range(0, height - side + 1, MULTIPLE)
        for left in range(0, width - side + 1, MULTIPLE)
    ]
    return to_tensor([max(crops, key=_sharpness)])


def validation_set(held_out: Sequence[Sample], spec: SampleSpec) -> list[Pair]:
    """Return the sharpest crop of each photograph, degraded in the same way in every run."""
    return [
        spec.pair(
            sharpest_crop(photo, VALIDATION_SIDE + 2 * spec.reach),
            torch.Generator().manual_seed(int(photo.digest, 16) ^ VALIDATION_SEED),
        )
        for photo in held_out
    ]


def to_tensor(patches: Sequence[Array], device: torch.device | str = "cpu") -> Tensor:
    """Stack patches, H W C uint8, to B C H W float32 in 0..1, in the channels-last layout."""
    # Convert on the device: bytes have a quarter of the size of floats.
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(patches))).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)


def _find_photos(folder: Path, partners: Sequence[Path], notify: Notify) -> list[list[Path]]:
    """Return for each photograph its path and those of its partners."""
    suffixes = readable_suffixes()
    if not partners:
        return [[path] for path in sorted(list_images(folder, suffixes, recursive=True))]
    pairs, unmatched = match_pairs(folder, *partners, suffixes=suffixes, recursive=True)
    for path in unmatched:
        notify(f"left out: {path}: no image of this name in the other folder")
    return [[p for p in (m.clean, m.degraded, m.right) if p is not None] for m in pairs]


def _decode(paths: Sequence[Path], share: int, grey: bool) -> Sample:
    """Read all views of a photograph and crop them to at most `share` pixels."""
    files = [read_bytes(path) for path in paths]
    views = [read_image(data, name=name).on_unit_scale().pixels for name, data in files]
    digest = hashlib.sha256(b"".join(data for _, data in files)).hexdigest()[:16]
    height, width = views[0].shape[:2]
    for path, view in zip(paths, views, strict=True):
        if view.shape[:2] != (height, width):
            raise ImageError(f"{paths[0]}: its size differs from that of {path}")
    scale = min(1.0, math.sqrt(share / (height * width)))
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    rng = np.random.default_rng(int(digest, 16))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    # Concatenation copies: slices would keep the whole photographs in memory.
    crops = [_convert(view[top : top + h, left : left + w], grey) for view in views]
    return Sample(np.concatenate(crops, axis=2), digest)


def _convert(pixels: Array, grey: bool) -> Array:
    if pixels.dtype != np.uint8:
        pixels = from_float(to_float(pixels), np.uint8)
    if grey and pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    return pixels if grey else np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _sharpness(patch: Array) -> float:
    """Return the mean absolute Laplacian of the first channel of the clean view."""
    return float(np.abs(cv2.Laplacian(np.ascontiguousarray(patch[..., 0]), cv2.CV_16S)).mean())
