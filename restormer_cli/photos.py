"""The photographs that a network learns from: decoded, kept in memory, cut into patches.

What is drawn from a photograph but must never change (its crop, whether it is held out, how it is
degraded for validation) depends on its file's bytes alone: not on its name, on the others, or on
when the run was started. A copy under another name is the same photograph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import images
from .errors import ImageError, UsageError
from .pixels import Array

MULTIPLE = 16
"""Sides of patches are multiples of this: the network takes 8, JPEG at half chroma 16."""

_HINT = "Give --photos a folder of clean, sharp photographs, or --pairs two folders of like names."


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, or the part of it that is kept: uint8, and its file's digest.

    H W 3; of a pair H W 6: the clean one, then the degraded one, so that they are cut alike.
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
    notify: Callable[[str], None],
    least: int = MULTIPLE,
    degraded: Path | None = None,
) -> list[Photo]:
    """Decode all photographs in and below `folder`, in the order of their names.

    Each may take its share of `memory` bytes: of a larger one a crop is kept, at a place that is
    its own. Damaged files, copies of other files and pictures with a side of less than `least`
    pixels are told to `notify`. With a folder of `degraded` photos, the one of the same name there
    (whatever its suffix) goes with each; what has none is told, too.

    Raises:
        UsageError: fewer than two photos can be used: one to learn from, one to validate with.
    """
    paths = _images(folder)
    others = {} if degraded is None else {_stem(path, degraded): path for path in _images(degraded)}
    found: dict[str, Photo] = {}
    for path in paths:
        partner = others.get(_stem(path, folder))
        if degraded is not None and partner is None:
            notify(f"left out: {path}: there is none of its name in {degraded}")
            continue
        both = [path] if partner is None else [path, partner]
        try:
            photo = _decode(both, memory // len(paths) // (3 * len(both)))
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
            f"{folder}: {len(found)} of {len(paths)} photos can be used; training needs 2", _HINT
        )
    return list(found.values())


def _images(folder: Path) -> list[Path]:
    suffixes = images.readable_suffixes()
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def _stem(path: Path, folder: Path) -> Path:
    """What the two photos of a pair are called alike."""
    return path.relative_to(folder).with_suffix("")


def _decode(paths: Sequence[Path], share: int) -> Photo:
    """A photograph, or the two of a pair, of which at most `share` pixels are kept."""
    views = [images.read(path).pixels for path in paths]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
    height, width = views[0].shape[:2]
    if any(view.shape[:2] != (height, width) for view in views):
        raise ImageError(f"{paths[0]}: not as large as {paths[-1]}")
    scale = min(1.0, math.sqrt(share / (height * width)))
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    rng = np.random.default_rng(int(digest, 16))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    kept = np.empty((h, w, 3 * len(views)), np.uint8)  # a view would keep all of the photo
    for n, view in enumerate(views):
        colours = 3 if view.shape[2] > 2 else 1  # and no alpha
        pixels = view[top : top + h, left : left + w, :colours]
        if pixels.dtype != np.uint8:
            pixels = images.from_float(images.to_float(pixels), np.uint8)
        kept[..., 3 * n : 3 * n + 3] = pixels
    return Photo(kept, digest)


def hold_out(
    photos: Sequence[Photo], count: int, held_out: Sequence[str] = ()
) -> tuple[list[Photo], list[Photo]]:
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


def fingerprint(photos: Sequence[Photo]) -> str:
    """A name for this very set of photographs, in whatever order."""
    return hashlib.sha256(" ".join(sorted(p.digest for p in photos)).encode()).hexdigest()[:16]


def largest_side(photos: Sequence[Photo]) -> int:
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


def patches(
    photos: Sequence[Photo],
    side: int,
    count: int,
    rng: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`count` patches at random places, flipped and turned at random: B C side side, 0..1.

    Photos are drawn by their area, so that every pixel is as likely as any other; photos smaller
    than a patch are not drawn.

    Raises:
        UsageError: all photos are smaller than a patch.
    """
    usable = [photo.pixels for photo in photos if photo.side >= side]
    if not usable:
        raise UsageError(
            f"no photo is {side} pixels high and wide", "Give larger photos or smaller patches."
        )
    area = np.array([p.shape[0] * p.shape[1] for p in usable], dtype=np.float64)
    drawn = []
    for index in rng.choice(len(usable), size=count, p=area / area.sum()):
        photo = usable[index]
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        patch = np.rot90(photo[top : top + side, left : left + side], int(rng.integers(4)))
        drawn.append(patch[:, ::-1] if rng.integers(2) else patch)
    return to_tensor(drawn, device)


def middle(photo: Photo, side: int) -> Tensor:
    """The middle of a photo, `side` pixels or as many as it has: 1 C S S, 0..1."""
    side = min(side, photo.side) // MULTIPLE * MULTIPLE
    top, left = ((length - side) // 2 for length in photo.pixels.shape[:2])
    return to_tensor([photo.pixels[top : top + side, left : left + side]])
