"""Masks: images that select the part of an input to restore."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError, UsageError
from ..files import UrlPath, as_path, is_folder, is_special, unreachable
from ..imaging import decode, luminance, opacity, readable_suffixes, to_float
from ..text import format_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ..files import Input
    from ..imaging import Array, Image
    from .jobs import Job
    from .manifest import FileFingerprint

_NEARLY_BLACK = 0.02  # masks of the values 0 and 1 of 255 are meant to be 0 and 255
_MISSING_HINT = "Add it to the folder, or restore the other images alone."


def assign_masks(jobs: Sequence[Job], inputs: Sequence[Input], mask: str | None) -> list[Job]:
    """Return the jobs, one for each input, with their masks.

    A mask in a folder has the path that its input has below its own folder, and any suffix of an
    image. Jobs without exactly one mask have a problem.

    Args:
        jobs: a job for each input.
        inputs: the inputs.
        mask: a file for all inputs, a folder, or None.

    Raises:
        UsageError: there is no such mask, or a mask is also an input or an output.
    """
    if mask is None:
        return list(jobs)
    path = as_path(mask)
    if problem := unreachable(path):
        raise UsageError(f"--mask {mask}: {problem[0]}", "Name an image, or a folder of images.")
    if not is_folder(path):
        masked = [replace(job, mask=path) for job in jobs]
    elif any(job.source is None for job in jobs):
        raise UsageError(
            f"{mask} is a folder, but the image on stdin has no name", "Name a file with --mask."
        )
    else:
        finder = _Finder(path)
        masked = [finder.assign(j, i.relative) for j, i in zip(jobs, inputs, strict=True)]
    _check_conflicts(masked)
    return masked


class Mask:
    """A mask file. If it has one page, that is decoded once, however many images it is for."""

    def __init__(self, data: bytes, name: str, max_pixels: int) -> None:
        self._data, self._name, self._max_pixels = data, name, max_pixels
        self._single: Array | None = None

    def pages(self, count: int) -> Iterator[Array]:
        """Yield the mask of each page of an image, H W float32: 1 to restore it, 0 to keep it.

        The mask of a page is its luminance, on black where it is transparent. A single one is for
        all pages. A damaged mask is an error, even if damaged images are allowed.

        Raises:
            ImageError: the mask cannot be decoded, or does not fit the image.
        """
        if self._single is not None:
            return repeat(self._single)
        name = self._name
        masks = decode(self._data, max_pixels=self._max_pixels, name=name)
        if masks.count == 1:
            self._single = _weights(next(masks.images), name)
            return repeat(self._single)
        if masks.count != count:
            raise ImageError(
                f"{name}: the mask has {masks.count} {masks.unit}s, the image {count}",
                "Give a mask with one page, or with those of the image.",
            )
        return (_weights(image, name) for image in masks.images)


class MaskReader:
    """Read the masks of a run. The last one is kept, because one mask is often for all images."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._read: tuple[Mask, FileFingerprint] | None = None

    def read(
        self, path: Path, load: Callable[[], tuple[bytes, FileFingerprint]], max_pixels: int
    ) -> tuple[Mask, FileFingerprint]:
        """Return a mask and the fingerprint of its file.

        Args:
            path: of the mask.
            load: reads the file. It is called unless the last mask has this path and is unchanged;
                a pipe cannot be read again.
            max_pixels: limit of each page.
        """
        last = self._read if self._path == path else None
        if last is not None and (is_special(path) or last[1].fits(path)):
            return last
        del last
        self._read = None  # frees its memory before the next one is read
        data, file = load()
        self._path, self._read = path, (Mask(data, str(path), max_pixels), file)
        return self._read


def check_mask(mask: Array | None, image: Image, name: object) -> None:
    """Raise ImageError if the mask has another size than the image."""
    height, width = image.pixels.shape[:2]
    if mask is not None and mask.shape != (height, width):
        raise ImageError(
            f"{name}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"the image {width} x {height}",
            "Masks are not resized: make one of the image's size, upright.",
        )


def mask_remarks(mask: Array | None) -> tuple[list[str], list[str]]:
    """Return notes and warnings on a mask."""
    if mask is None:
        return [], []
    share = f"{format_number(100 * float((mask == 0).mean()))} %"
    notes = [f"{share} of the pixels are black in the mask: they stay as they are"]
    if mask.all():
        notes = ["no pixel is black in the mask: none stays as it is"]
    if (top := float(mask.max())) >= _NEARLY_BLACK:
        return notes, []
    degree = f"nearly black, at most {255 * top:.2g} of 255" if top else "black"
    return notes, [f"the mask is {degree}: nothing is restored. White is the part to restore"]


class _Finder:
    """Finds masks in a folder and its subfolders, each listed once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists: dict[Path, dict[str, list[str]]] = {}

    def assign(self, job: Job, relative: Path) -> Job:
        """Return the job with the mask of the input at this path below its folder."""
        folder = self._folder / relative.parent
        if folder not in self._lists:
            self._lists[folder] = _names_by_stem(folder)
        names = self._lists[folder].get(relative.stem, [])
        if relative.name in names:
            names = [relative.name]
        if len(names) == 1:
            return replace(job, mask=folder / names[0])
        wanted = folder / f"{relative.stem}.*"
        if names:
            problem, hint = f"several masks: {', '.join(names)} in {folder}", "Keep one of them."
        else:
            problem, hint = f"no mask {wanted}", _MISSING_HINT
        return job if job.problem else replace(job, problem=problem, hint=hint)


def _names_by_stem(folder: Path) -> dict[str, list[str]]:
    """Return the names of the images in a folder, by their stems; none if it cannot be read."""
    names = defaultdict(list)
    try:
        if isinstance(folder, UrlPath):
            files: list[Path] = [*folder.files(recursive=False)]
        else:
            files = sorted(folder.iterdir())
        for file in files:
            if file.suffix.lower() in readable_suffixes():
                names[file.stem].append(file.name)
    except OSError:
        return {}
    return names


def _check_conflicts(jobs: Sequence[Job]) -> None:
    masks = {os.path.realpath(job.mask): job.mask for job in jobs if job.mask is not None}
    for job in jobs:
        for path, role in ((job.source, "an input"), (job.target, "an output")):
            if path is not None and (mask := masks.get(os.path.realpath(path))) is not None:
                raise UsageError(
                    f"{mask} is both a mask and {role}",
                    "Keep masks in a folder of their own, outside of those of inputs and outputs.",
                )


def _weights(image: Image, name: str) -> Array:
    pixels = image.display_pixels()
    low, high = pixels.min(), pixels.max()
    if image.raw is None and pixels.dtype == np.float32 and (low < 0 or high > 1):
        raise ImageError(
            f"{name}: samples of the mask range from {low:g} to {high:g}",
            "Float samples of a mask range from 0 for black to 1 for white.",
        )
    weights = luminance(to_float(pixels))
    if image.alpha is not None and not image.premultiplied:
        weights = weights * opacity(image.alpha)
    return weights.clip(0, 1)
