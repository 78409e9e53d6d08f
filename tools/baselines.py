"""Measure classical methods under the conditions of `restormer eval`, for the model card.

    python tools/baselines.py FOLDER sigma:25 rain:light motion:medium defocus:medium

FOLDER contains clean images. Each method runs at several strengths, and the result with the best
mean is shown. Users could not find that strength, since they have no clean images. With the package
`bm3d` (`pip install bm3d`; its licence allows only non-commercial use), CBM3D is measured for
`sigma`, and is given the true level. It takes about a minute for an image of 500 x 500. PSNR in dB
over RGB, of results rounded to 8 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from skimage.restoration import richardson_lucy

from restormer_cli.degradations import parse_degradation
from restormer_cli.evaluation import with_noise
from restormer_cli.imaging import read_image, readable_suffixes, to_float

Method = Callable[[np.ndarray, float], np.ndarray]
"""Restores an image, H W 3 float in 0..1, at a strength."""


def non_local_means(x: np.ndarray, strength: float) -> np.ndarray:
    """Apply OpenCV's non-local means for colour images."""
    return cv2.fastNlMeansDenoisingColored(_to_bytes(x), None, strength, strength, 7, 21) / 255


def cbm3d(x: np.ndarray, sigma: float) -> np.ndarray:
    """Apply CBM3D for white noise of `sigma` / 255, with the package's default profile."""
    from bm3d import bm3d_rgb

    return np.asarray(bm3d_rgb(x, sigma / 255))


def median(x: np.ndarray, side: float) -> np.ndarray:
    """Apply a square median filter."""
    return cv2.medianBlur(_to_bytes(x), int(side)) / 255


def unsharp(x: np.ndarray, radius: float) -> np.ndarray:
    """Add the difference from a Gaussian blur of this radius."""
    return x + (x - cv2.GaussianBlur(x, (0, 0), radius))


def deconvolve(x: np.ndarray, radius: float) -> np.ndarray:
    """Apply ten Richardson-Lucy iterations with a disk, since the true kernel is unknown."""
    rows, columns = np.mgrid[-8:9, -8:9]
    disk = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1)
    planes = [richardson_lucy(plane, disk / disk.sum(), 10) for plane in np.moveaxis(x, 2, 0)]
    return np.stack(planes, axis=2)


NOISE = (("non-local means", non_local_means, (5, 10, 20, 30, 40)),)
METHODS: dict[str, tuple[tuple[str, Method, tuple[float, ...]], ...]] = {
    "sigma": NOISE,
    "noise": NOISE,
    "rain": (("median", median, (3, 5)), ("non-local means", non_local_means, (5, 10))),
    "motion": (("unsharp mask", unsharp, (1, 2, 4)), ("Richardson-Lucy", deconvolve, (1, 2, 3))),
    "defocus": (("unsharp mask", unsharp, (1, 2, 4)), ("Richardson-Lucy", deconvolve, (1.5, 3, 6))),
}
"""Name, method and strengths, by kind of degradation."""


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _restore(method: Method, degraded: np.ndarray, strength: float) -> np.ndarray:
    return _to_bytes(method(degraded, strength)) / 255


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def main() -> None:
    """Print a line for each condition."""
    if len(sys.argv) < 3 or "--help" in sys.argv:
        sys.exit(__doc__)
    folder, *conditions = sys.argv[1:]
    suffixes = readable_suffixes()
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes)
    clean = [to_float(read_image(path).pixels) for path in paths]
    for condition in conditions:
        kind, _, amount = condition.partition(":")
        degrade = (
            with_noise(float(amount)).degrade
            if kind == "sigma"
            else parse_degradation(condition).apply
        )
        assert degrade is not None  # noqa: S101 - with_noise degrades
        pairs = [(degrade(x), x) for x in clean]
        results = [f"{np.mean([_psnr(x, y) for x, y in pairs]):.2f}"]
        methods = METHODS[kind]
        if kind == "sigma" and find_spec("bm3d"):
            methods += (("CBM3D", cbm3d, (float(amount),)),)
        for name, method, strengths in methods:
            means = [
                np.mean([_psnr(_restore(method, x, n), y) for x, y in pairs]) for n in strengths
            ]
            best = int(np.argmax(means))
            results.append(f"{name} ({strengths[best]:g}) {means[best]:.2f}")
        print(f"{condition}: degraded {', '.join(results)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
