"""Restore degraded images and score the results against the clean images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..callbacks import Progress
from ..checkpoints import ResolvedCheckpoint
from ..degradations import ResidualMeter, parse_degradation
from ..errors import ImageError, UsageError
from ..files import Pair
from ..imaging import (
    SSIM_WINDOW,
    Array,
    Image,
    Protocol,
    Scores,
    on_common_scale,
    read_image,
    to_float,
)
from ..inference import Restorer
from ..memory import MemoryGuard

_UNCHANGED = Protocol("neither clamped nor rounded", lambda x: x)  # for noisy images


@dataclass(frozen=True)
class Condition:
    """Degradation of the images.

    Attributes:
        name: "sigma 25" or "rain:medium"; empty for images with degraded counterparts.
        description: definition of the degradation for people.
        degrade: degrades an image, H W C float32 in 0..1; None for images with degraded
            counterparts.
        sigma: standard deviation of Gaussian noise, relative to 255.
    """

    name: str
    description: str
    degrade: Callable[[Array], Array] | None = None
    sigma: float | None = None


def with_noise(sigma: float) -> Condition:
    """Return the Gaussian noise of the paper, seeded with 0 for each image."""

    def degrade(clean: Array) -> Array:
        noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
        return (clean + noise).astype(np.float32)

    return Condition(
        f"sigma {sigma:g}",
        "Gaussian noise of sigma / 255, by NumPy's RandomState(0) for each image, neither clipped "
        "nor rounded",
        degrade,
        sigma,
    )


def parse_conditions(sigmas: str | None, degradations: str | None) -> list[Condition]:
    """Parse the comma-separated list of `--sigma` or `--degrade`.

    Without both, return the condition of images with degraded counterparts.

    Raises:
        UsageError: a level is not a number from 0 to 1000, or a degradation is unknown.
    """
    if sigmas is not None:
        return [with_noise(level) for level in _parse_levels(sigmas)]
    if degradations is not None:
        specs = [parse_degradation(text.strip()) for text in degradations.split(",")]
        return [Condition(spec.name, spec.description, spec.apply) for spec in specs]
    return [Condition("", "degraded images as given")]


def _parse_levels(text: str) -> list[float]:
    try:
        levels = [float(word) for word in text.split(",")]
    except ValueError:
        levels = [-1.0]
    if not all(0 <= level <= 1000 for level in levels):
        raise UsageError(
            f"--sigma {text!r}: not a list of noise levels",
            "Give levels of 255, for example 15,25,50.",
        )
    return levels


class Score(NamedTuple):
    """Scores of one image, degraded and restored."""

    image: str
    width: int
    height: int
    channels: int
    degraded: Scores
    restored: Scores
    seconds: float
    precision: str
    strategy: str


class Failure(NamedTuple):
    """An image that could not be measured."""

    image: str
    error: str
    hint: str


@dataclass
class Outcome:
    """Results under one condition.

    Attributes:
        meter: what is left of the degradation, over all images; empty if it was not measured.
    """

    condition: Condition
    weights: ResolvedCheckpoint
    device: str
    scores: list[Score] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    meter: ResidualMeter = field(default_factory=ResidualMeter)

    def mean(self, of: Callable[[Score], Scores]) -> Scores:
        """Return the mean of the selected scores over all images; NaN if there are none."""
        if not self.scores:
            return Scores(math.nan, math.nan)
        psnr, ssim = np.mean([of(score) for score in self.scores], axis=0)
        return Scores(float(psnr), float(ssim))


def evaluate(
    condition: Condition,
    restorer: Restorer,
    pairs: Iterable[Pair],
    protocol: Protocol,
    *,
    gray: bool = False,
    meter: ResidualMeter | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[Score | Failure]:
    """Restore and score images.

    Args:
        condition: degradation of the images.
        restorer: the network and its settings.
        pairs: clean images, with degraded counterparts if the condition does not degrade.
        protocol: definition of the scores.
        gray: convert colour images to grey first.
        meter: sums to which what is left of each image's degradation is added, if given.
        progress: called with the name of the image, the number of finished strips or tiles, and
            the total.

    Yields:
        A score or a failure for each image.
    """
    for pair in pairs:
        try:
            with MemoryGuard(f"for {pair.clean}"):
                result: Score | Failure = _score(
                    condition, restorer, pair, protocol, gray, meter, partial(progress, pair.name)
                )
        except ImageError as error:
            result = Failure(pair.name, error.message, error.hint)
        yield result


def _score(
    condition: Condition,
    restorer: Restorer,
    pair: Pair,
    protocol: Protocol,
    gray: bool,
    meter: ResidualMeter | None,
    progress: Progress,
) -> Score:
    clean, degraded, right = _load(condition, pair, gray)
    try:
        result = restorer.forward(degraded, right, progress=progress)
    except ImageError as error:  # which knows no file
        raise ImageError(f"{pair.clean}: {error.message}", error.hint) from error
    for note in result.notes:
        restorer.notify(f"{pair.clean}: {note}")
    restored = result.pixels
    height, width, channels = clean.shape
    unprocessed = protocol if condition.sigma is None else _UNCHANGED
    score = Score(
        image=pair.name,
        width=width,
        height=height,
        channels=channels,
        degraded=_scores(unprocessed, degraded, clean),
        restored=_scores(protocol, restored, clean),
        seconds=result.seconds,
        precision=result.precision,
        strategy=result.strategy,
    )
    if meter is not None:
        meter.add(*(_tensor(x) for x in (restored.clip(0, 1), degraded, clean)))
    return score


def _load(condition: Condition, pair: Pair, gray: bool) -> tuple[Array, Array, Array | None]:
    """Return the clean image, the degraded image of the same shape, and the right view."""
    paths = [pair.clean]
    if condition.degrade is None:
        assert pair.degraded is not None  # noqa: S101 - otherwise the condition degrades
        paths += [path for path in (pair.degraded, pair.right) if path is not None]
    images = on_common_scale([read_image(path) for path in paths])
    clean, *views = (_to_array(image, gray) for image in images)
    degraded = views[0] if condition.degrade is None else condition.degrade(clean)
    (height, width, _), (h, w, _) = clean.shape, degraded.shape
    if (h, w) != (height, width):
        raise ImageError(
            f"{pair.degraded} is {w} x {h} pixels, {pair.clean} {width} x {height}",
            "Give images of the same size.",
        )
    if min(height, width) < SSIM_WINDOW:
        raise ImageError(
            f"{pair.clean}: {width} x {height} pixels; SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW}",
            "Remove the image from the folder.",
        )
    channels = max(clean.shape[2], degraded.shape[2])  # one of them may be grey
    clean, degraded = (np.repeat(x, channels // x.shape[2], axis=2) for x in (clean, degraded))
    return clean, degraded, views[1] if len(views) > 1 else None


def _scores(protocol: Protocol, image: Array, clean: Array) -> Scores:
    return protocol.scores(_tensor(image), _tensor(clean))


def _tensor(image: Array) -> Tensor:
    """Convert H W C to C H W."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _to_array(image: Image, gray: bool) -> Array:
    """Return the pixels of an image, H W C float32, in grey (OpenCV's weights) on request."""
    pixels = image.pixels
    if gray and pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    return to_float(pixels)
