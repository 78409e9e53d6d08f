"""What classical methods reach under the conditions of `restormer eval`, for the model card.

    python tools/baselines.py FOLDER sigma:25 rain:light motion:medium defocus:medium

Each method runs at several strengths, and the one that is best for the condition on average is
shown: more than a user, who has no clean image to choose by, could do. PSNR over RGB, in dB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.restoration import richardson_lucy

from restormer_cli import imaging
from restormer_cli.degradations.presets import parse_degradation
from restormer_cli.evaluation.runner import with_noise

Method = Callable[[np.ndarray, float], np.ndarray]
"""H W 3 float in 0..1 and a strength: the image, restored."""


def non_local_means(x: np.ndarray, strength: float) -> np.ndarray:
    """OpenCV's, for colour."""
    return cv2.fastNlMeansDenoisingColored(_bytes(x), None, strength, strength, 7, 21) / 255


def median(x: np.ndarray, side: float) -> np.ndarray:
    """The median of a square."""
    return cv2.medianBlur(_bytes(x), int(side)) / 255


def unsharp(x: np.ndarray, radius: float, amount: float = 1.0) -> np.ndarray:
    """What a Gaussian of this radius removes, added once more."""
    return x + amount * (x - cv2.GaussianBlur(x, (0, 0), radius))


def deconvolved(x: np.ndarray, radius: float) -> np.ndarray:
    """Richardson and Lucy's, ten iterations, with a disk, since the true kernel is not known."""
    y, across = np.mgrid[-8:9, -8:9]
    disk = np.clip(radius + 0.5 - np.hypot(y, across), 0, 1)
    planes = [richardson_lucy(plane, disk / disk.sum(), 10) for plane in np.moveaxis(x, 2, 0)]
    return np.stack(planes, axis=2)


METHODS: dict[str, tuple[tuple[str, Method, tuple[float, ...]], ...]] = {
    "sigma": (("non-local means", non_local_means, (5, 10, 20, 30, 40)),),
    "noise": (("non-local means", non_local_means, (5, 10, 20, 30, 40)),),
    "rain": (("median", median, (3, 5)), ("non-local means", non_local_means, (5, 10))),
    "motion": (
        ("unsharp mask", unsharp, (1, 2, 4)),
        ("Richardson-Lucy", deconvolved, (1, 2, 3)),
    ),
    "defocus": (
        ("unsharp mask", unsharp, (1, 2, 4)),
        ("Richardson-Lucy", deconvolved, (1.5, 3, 6)),
    ),
}


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _restored(method: Method, degraded: np.ndarray, strength: float) -> np.ndarray:
    return np.clip(method(np.clip(degraded, 0, 1), strength), 0, 1)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def main() -> None:
    """Print a line for each condition."""
    folder, *conditions = sys.argv[1:]
    suffixes = imaging.readable_suffixes()
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes)
    clean = [imaging.to_float(imaging.read_image(path).pixels) for path in paths]
    for condition in conditions:
        kind, _, amount = condition.partition(":")
        degrade = (
            with_noise(float(amount)).degrade
            if kind == "sigma"
            else parse_degradation(condition).apply
        )
        assert degrade is not None  # noqa: S101 - both of them degrade
        pairs = [(degrade(x), x) for x in clean]
        said = [f"{np.mean([_psnr(x, y) for x, y in pairs]):.2f}"]
        for name, method, strengths in METHODS[kind]:
            means = [
                np.mean([_psnr(_restored(method, x, n), y) for x, y in pairs]) for n in strengths
            ]
            best = int(np.argmax(means))
            said.append(f"{name} ({strengths[best]:g}) {means[best]:.2f}")
        print(f"{condition}: degraded {', '.join(said)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
