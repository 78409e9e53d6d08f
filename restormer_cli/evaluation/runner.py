"""How well a network restores: images with a known clean version, degraded, restored, compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from ..degradations import parse_degradation
from ..errors import ImageError, UsageError
from ..imaging import SSIM_WINDOW, Array, Protocol, Scores, read_image, to_float

if TYPE_CHECKING:
    from pathlib import Path

    from ..checkpoints import ResolvedCheckpoint
    from ..files import Pair
    from ..inference import Restorer


Degrade = Callable[[Array], Array]
"""A clean image, H W C float32 in 0..1, to what it is degraded to."""

AS_IT_IS = Protocol("as it is", lambda x: x)
"""How noise is measured that is neither clipped nor rounded."""


@dataclass(frozen=True)
class Condition:
    """How the clean images of a set are degraded; None: they come with degraded counterparts."""

    name: str  # "sigma 25", "rain:medium", or nothing for counterparts
    description: str
    degrade: Degrade | None = None
    sigma: float | None = None


def with_noise(sigma: float) -> Condition:
    """Gaussian noise as published: the generator seeded with 0 for each image, in NumPy's order.

    What comes of it is neither clipped nor rounded.
    """

    def degrade(clean: Array) -> Array:
        noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
        noisy: Array = (clean + noise).astype(np.float32)
        return noisy

    return Condition(
        f"sigma {sigma:g}",
        "Gaussian noise of sigma / 255, by NumPy's RandomState(0) for each image, neither clipped "
        "nor rounded",
        degrade,
        sigma,
    )


def parse_conditions(sigmas: str | None, degradations: str | None) -> list[Condition]:
    """What `--sigma` or `--degrade`, with commas between, ask for; of neither, counterparts.

    Raises:
        UsageError: a level is no number, or there is no such degradation.
    """
    if sigmas is not None:
        return [with_noise(level) for level in _levels(sigmas)]
    if degradations is not None:
        named = [parse_degradation(text.strip()) for text in degradations.split(",")]
        return [Condition(one.name, one.description, one.apply) for one in named]
    return [Condition("", "the images given as degraded")]


def _levels(text: str) -> list[float]:
    try:
        levels = [float(word) for word in text.split(",")]
    except ValueError:
        levels = [-1.0]
    if not all(0 <= level <= 1000 for level in levels):
        raise UsageError(f"--sigma is {text!r}", "It takes levels, of 255: 15,25,50.")
    return levels


class Score(NamedTuple):
    """What a restoration did for one image, and how it was done."""

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
    """What came of a condition, by whose weights."""

    condition: Condition
    weights: ResolvedCheckpoint
    device: str
    scores: list[Score] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def mean(self, of: Callable[[Score], Scores]) -> Scores:
        """The mean over all images of one of their scores; NaN if there is none."""
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
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[Score | Failure]:
    """Measure the images of a condition, one after the other.

    Args:
        condition: how they are degraded.
        restorer: does what is measured.
        pairs: the clean images, with degraded ones if the condition makes none.
        protocol: what is compared.
        gray: whether colour images are made grey first.
        progress: called with an image's name, its strips or tiles done, and their number.
    """
    for pair in pairs:
        try:
            yield _scored(condition, restorer, pair, protocol, gray, progress)
        except ImageError as error:
            yield Failure(pair.name, error.message, error.hint)


def _scored(
    condition: Condition,
    restorer: Restorer,
    pair: Pair,
    protocol: Protocol,
    gray: bool,
    progress: Callable[[str, int, int], None],
) -> Score:
    clean = _read(pair.clean, gray)
    if condition.degrade is not None:
        degraded = condition.degrade(clean)
    else:
        assert pair.degraded is not None  # noqa: S101 - else the condition degrades
        clean, degraded = _alike(clean, _read(pair.degraded, gray), pair)
    right = None if pair.right is None else _read(pair.right, gray)
    height, width = clean.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise ImageError(
            f"{pair.clean}: {width} x {height} pixels, and SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW}",
            "Leave it out.",
        )
    started = time.perf_counter()
    restored, plan = restorer.forward(
        degraded,
        right,
        progress=partial(progress, pair.name),
        notify=lambda note: restorer.notify(f"{pair.clean}: {note}"),
    )
    seconds = time.perf_counter() - started
    return Score(
        image=pair.name,
        width=width,
        height=height,
        channels=clean.shape[2],
        degraded=_scores(AS_IT_IS if condition.sigma is not None else protocol, degraded, clean),
        restored=_scores(protocol, restored, clean),
        seconds=seconds,
        precision=restorer.precision,
        strategy=plan.strategy,
    )


def _scores(protocol: Protocol, image: Array, clean: Array) -> Scores:
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1) for x in (image, clean))
    return protocol.scores(a, b)


def _read(path: Path, gray: bool) -> Array:
    """The colours of an image, H W C float32; `gray`: one channel, as OpenCV reads one."""
    pixels = read_image(path).pixels
    if gray and pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    return to_float(pixels)


def _alike(clean: Array, degraded: Array, pair: Pair) -> tuple[Array, Array]:
    """Both with as many channels: three if either has them."""
    if clean.shape[:2] != degraded.shape[:2]:
        (h, w), (height, width) = degraded.shape[:2], clean.shape[:2]
        raise ImageError(
            f"{pair.degraded} is {w} x {h} pixels, {pair.clean} {width} x {height}",
            "They must be of one size.",
        )
    channels = max(clean.shape[2], degraded.shape[2])
    clean, degraded = (np.repeat(x, channels // x.shape[2], axis=2) for x in (clean, degraded))
    return clean, degraded
