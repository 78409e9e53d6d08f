"""The photographs that a network learns from: decoded, kept in memory, cut into patches.

What is drawn from a photograph but must never change (the place of its crop, whether it is held
out, how it is degraded for validation) depends on its file's bytes alone: not on its name, on the
others, or on when the run was started. A copy under another name is the same photograph. How large
a crop may be does depend on how many photographs there are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Generator, Tensor

from ..callbacks import Notify
from ..degradations import Degradation
from ..errors import ImageError, UsageError
from ..files import match_pairs
from ..imaging import Array, from_float, read_image, readable_suffixes, to_float

# --- photos --------------------------------------------------------------------------------------

MULTIPLE = 16
"""Sides of patches are multiples of this: the network takes 8, JPEG at half chroma 16."""

_HINT = "Give --photos a folder of clean, sharp photographs, or --pairs two folders of like names."


@dataclass(frozen=True, eq=False)
class Sample:
    """A photograph, or the part of it that is kept: uint8, and its file's digest.

    H W C, C 1 or 3; of a pair H W 2C, so that both are cut alike: the clean one, then the degraded
    one; of dual-pixel pairs H W 3C, with the left view and then the right one.
    """

    pixels: Array
    digest: str

    @property
    def side(self) -> int:
        """The shorter one, in pixels."""
        height, width = self.pixels.shape[:2]
        return int(min(height, width))

    @property
    def seed(self) -> int:
        """What all that is random about the photo itself is drawn from: 64 bits."""
        return int(self.digest, 16)


def load_photos(
    folder: Path,
    memory: int,
    notify: Notify,
    least: int = MULTIPLE,
    partners: Sequence[Path] = (),
    grey: bool = False,
) -> list[Sample]:
    """Decode all photographs in and below `folder`, in the order of their names.

    Each may take its share of `memory` bytes: of a larger one a crop is kept, at a place that is
    its own. Damaged files, copies of other files and pictures with a side of less than `least`
    pixels are told to `notify`. With each photo goes its partner in each folder of `partners` (see
    `pairs.matched`); what has none is told, too. All are made `grey` if so asked.

    Raises:
        UsageError: a folder of partners is none, or fewer than two photos can be used: one to
            learn from, one to validate with.
    """
    if partners:
        matches, lonely = match_pairs(
            folder, *partners, suffixes=readable_suffixes(), recursive=True
        )
        for path in lonely:
            notify(f"left out: {path}: there is none of its name in the other folder")
        together = [[p for p in (m.clean, m.degraded, m.right) if p is not None] for m in matches]
    else:
        together = [[path] for path in _images(folder)]
    convert = _to_grey if grey else _to_rgb
    channels = (1 if grey else 3) * (1 + len(partners))
    found: dict[str, Sample] = {}
    for paths in together:
        path = paths[0]
        try:
            photo = _decode(paths, memory // len(together) // channels, convert)
        except ImageError as error:  # no reason to give up all the others
            notify(f"left out: {error.message}")
            continue
        if photo.digest in found:
            notify(f"left out: {path}: the copy of another photo")
        elif photo.side < least:
            notify(f"left out: {path}: less than {least} pixels a side")
        else:
            found[photo.digest] = photo
    if len(found) < 2:
        raise UsageError(
            f"{folder}: {len(found)} of {len(together)} photos can be used; training needs 2", _HINT
        )
    return list(found.values())


def _images(folder: Path) -> list[Path]:
    suffixes = readable_suffixes()
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def _decode(paths: Sequence[Path], share: int, convert: Callable[[Array], Array]) -> Sample:
    """Photographs of one scene, converted, of which at most `share` pixels are kept."""
    views = [read_image(path).pixels for path in paths]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
    height, width = views[0].shape[:2]
    for path, view in zip(paths, views, strict=True):
        if view.shape[:2] != (height, width):
            raise ImageError(f"{paths[0]}: not as large as {path}")
    scale = min(1.0, math.sqrt(share / (height * width)))
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    rng = np.random.default_rng(int(digest, 16))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    # Whole arrays of their own: views would keep all of the photos.
    kept = [convert(_to_8_bit(view[top : top + h, left : left + w])) for view in views]
    return Sample(np.concatenate(kept, axis=2), digest)


def _to_8_bit(pixels: Array) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    return from_float(to_float(pixels), np.uint8)


def _to_rgb(pixels: Array) -> Array:
    """H W 3 of H W C, C 1 or 3."""
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _to_grey(pixels: Array) -> Array:
    """H W 1 of H W C, C 1 or 3."""
    return pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]


def hold_out(
    photos: Sequence[Sample], count: int, held_out: Sequence[str] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Photos to learn from, and photos held out: `count`, at most a twentieth, at least one.

    Those of the lowest digests are held out, so that of a folder that grew nearly the same are.
    `held_out` names digests in their place: those that a run has held out from its start.
    """
    if not held_out:
        count = max(1, min(count, len(photos) // 20))
        held_out = sorted(photo.digest for photo in photos)[:count]
    chosen = set(held_out)
    return (
        [photo for photo in photos if photo.digest not in chosen],
        [photo for photo in photos if photo.digest in chosen],
    )


def fingerprint(photos: Sequence[Sample]) -> str:
    """A name for this very set of photographs, in whatever order."""
    return hashlib.sha256(" ".join(sorted(p.digest for p in photos)).encode()).hexdigest()[:16]


def largest_side(photos: Sequence[Sample]) -> int:
    """The largest side of patches, a multiple of 16, that half of the photos can give.

    Half, because a few large ones would otherwise be all that a late stage sees.
    """
    sides = sorted(photo.side for photo in photos)
    return sides[len(sides) // 2] // MULTIPLE * MULTIPLE


def to_tensor(patches: Sequence[Array], device: torch.device | str = "cpu") -> Tensor:
    """Patches of H W C uint8 as one B C H W float32 tensor, 0..1, C innermost in memory."""
    # Bytes, a quarter of the floats, go to the device; the network wants this memory layout.
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(patches))).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)


Orient = Callable[[Array, np.random.Generator], Array]
"""Turns a patch, S S C, as the world could have been turned."""


def augment_dihedral(patch: Array, rng: np.random.Generator) -> Array:
    """One of eight: a number of quarter turns, and the mirror image or not."""
    turned = np.rot90(patch, int(rng.integers(4)))
    return turned[:, ::-1] if rng.integers(2) else turned


def side_by_side(patch: Array, rng: np.random.Generator) -> Array:
    """One of the four that leave the views of a dual-pixel sensor (see `Photo`) side by side.

    Where left and right are exchanged, the aperture's halves are: so are the views (see
    `ensemble`).
    """
    patch = patch[::-1] if rng.integers(2) else patch
    return patch[:, ::-1][..., [0, 1, 2, 6, 7, 8, 3, 4, 5]] if rng.integers(2) else patch


def detail(patch: Array) -> float:
    """How fine and strong the detail of a patch is: of a pair, that of the clean photo.

    The mean absolute Laplacian of the first channel.
    """
    return float(np.abs(cv2.Laplacian(np.ascontiguousarray(patch[..., 0]), cv2.CV_16S)).mean())


def patches(
    photos: Sequence[Sample],
    side: int,
    count: int,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
    orient: Orient = augment_dihedral,
    among: int = 1,
) -> Tensor:
    """`count` patches at random places, each turned by `orient`: B C side side, 0..1.

    Photos are drawn by their area, so that every pixel is as likely as any other; photos smaller
    than a patch are not drawn. Of `among` places the one with the most `detail` becomes a patch.

    Raises:
        UsageError: all photos are smaller than a patch.
    """
    usable = [photo.pixels for photo in photos if photo.side >= side]
    if not usable:
        raise UsageError(
            f"no photo is {side} pixels high and wide", "Give larger photos or smaller patches."
        )
    area = np.array([p.shape[0] * p.shape[1] for p in usable], dtype=np.float64)

    def place(index: int) -> Array:
        photo = usable[index]
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        return photo[top : top + side, left : left + side]

    places = rng.choice(len(usable), size=(count, among), p=area / area.sum())
    return to_tensor([orient(max(map(place, row), key=detail), rng) for row in places], device)


def sharpest(photo: Sample, side: int) -> Tensor:
    """Where a photo has the most `detail`, `side` pixels or as many as it has: 1 C S S, 0..1."""
    side = min(side, photo.side) // MULTIPLE * MULTIPLE
    height, width = photo.pixels.shape[:2]
    views = [
        photo.pixels[top : top + side, left : left + side]
        for top in range(0, height - side + 1, MULTIPLE)
        for left in range(0, width - side + 1, MULTIPLE)
    ]
    return to_tensor([max(views, key=detail)])


# --- pairing -------------------------------------------------------------------------------------

__all__ = ["Pair", "Pairing", "SampleSpec", "degrading", "photographed"]

Pair = tuple[Tensor, Tensor]
"""Degraded and clean images, B C H W each; two views of a scene lie one after the other in C."""

Pairing = Callable[[Tensor, Generator], Pair]
"""Makes pairs of what photos hold (see `Photo`), cut to B C H W."""


class SampleSpec(NamedTuple):
    """How pairs are made, of patches that are `reach` pixels larger on every side than these.

    A patch is the sharpest of `among` places.
    """

    pairing: Pairing
    reach: int = 0
    among: int = 1


def degrading(degrade: Degradation, reach: int = 0) -> Pairing:
    """Pairs of clean images and these degraded, cut by how far that looks beyond a border.

    Grey images are degraded as three equal channels, each with noise of its own; one is kept.
    """

    def pair(clean: Tensor, generator: Generator) -> Pair:
        inside = (..., slice(reach, clean.shape[2] - reach), slice(reach, clean.shape[3] - reach))
        degraded = degrade(clean.expand(-1, 3, -1, -1), generator)[:, : clean.shape[1]]
        return degraded[inside], clean[inside]

    return pair


def photographed(views: int = 1) -> Pairing:
    """Pairs as they were photographed: the clean image, then so many degraded views of it."""

    def pair(together: Tensor, _: Generator) -> Pair:
        channels = together.shape[1] // (1 + views)
        return together[:, channels:], together[:, :channels]

    return pair
