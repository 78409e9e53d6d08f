"""Training photographs: decode them, split them and find their sharpest crops.

All random choices made once per photograph (the position of its crop, its degradation for
validation) depend on the bytes of its file alone, not on names or other files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..callbacks import Notify
from ..errors import ImageError, UsageError
from ..files import list_images, match_pairs
from ..imaging import (
    Array,
    from_float,
    on_common_scale,
    read_bytes,
    read_image,
    readable_suffixes,
    to_float,
)

MULTIPLE = 16
"""Divisor of all patch sides. The network needs 8, JPEG with subsampled chroma 16."""

VALIDATION_PHOTOS = 24
"""Largest number of photographs that are held out."""


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


def sharpest_crop(photo: Sample, side: int) -> Array:
    """Return the sharpest square of a photograph, S S C uint8.

    S is `side`, or the largest multiple of 16 that fits.
    """
    side = min(side, photo.side) // MULTIPLE * MULTIPLE
    height, width = photo.pixels.shape[:2]
    crops = [
        photo.pixels[top : top + side, left : left + side]
        for top in range(0, height - side + 1, MULTIPLE)
        for left in range(0, width - side + 1, MULTIPLE)
    ]
    return max(crops, key=_sharpness)


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
    images = on_common_scale([read_image(data, name=name) for name, data in files])
    views = [image.pixels for image in images]
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
