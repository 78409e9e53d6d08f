"""Compare an image with its restoration: amount of change, warnings, difference maps, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ..image import Array, Box, from_float, swap_red_blue, to_float

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .noise import Noise

# Blocks whose mean colours give the drift: least side in pixels, largest number along a side.
MIN_BLOCK, MAX_BLOCKS = 32, 16
NO_CHANGE = 0.1 / 255  # mean change below which nine of ten 8-bit samples are unchanged
VISIBLE_DRIFT = 6 / 255
NOT_CLIPPED = 0.995  # part of a difference map that its amplification must not clip


class Change(NamedTuple):
    """Amount of change between two images with samples in 0..1."""

    mean_absolute: float  # over all samples
    drift: float  # root mean square change of the mean colours of blocks

    def scaled(self, strength: float) -> Change:
        """Return the change after blending with the input."""
        return Change(self.mean_absolute * strength, self.drift * strength)


def measure_change(before: Array, after: Array) -> Change:
    """Measure the change between two H W C float32 images of one size, where grey matches RGB."""
    rows, columns = (_block_starts(side) for side in before.shape[:2])
    widths = np.diff([*columns, before.shape[1]])[:, None]
    total = squares = samples = 0.0
    for band in _difference_bands(before, after, rows):
        samples += band.size
        total += float(np.abs(band).sum(dtype=np.float64))
        sums = np.add.reduceat(band.sum(axis=0, dtype=np.float64), columns, axis=0)
        squares += float(((sums / (widths * len(band))) ** 2).sum())
    means = len(rows) * len(columns) * band.shape[2]
    return Change(total / samples, (squares / means) ** 0.5)


def change_warnings(change: Change, strength: float, noise: Noise | None = None) -> list[str]:
    """Return warnings about a change, measured before blending at `strength`.

    `noise` is that of the input, for a denoiser.
    """
    warnings = []
    if change.mean_absolute < NO_CHANGE:
        warnings.append(
            "practically no change: there was nothing to remove, or nothing of this kind"
        )
    elif noise is not None and noise.clean:
        warnings.append(f"the input {noise.words}: check that no detail was removed as noise")
    if (drift := change.scaled(strength).drift) > VISIBLE_DRIFT:
        warnings.append(
            f"colours drift by {255 * drift:.1f} of 255 on average: compare it with its input"
        )
    return warnings


def block_differences(before: Array, after: Array, side: int) -> Array:
    """Return the mean absolute difference of each block of `side` pixels, 0..1.

    Images are H W C of any depth, and grey matches RGB. The result is H/side W/side, rounded up:
    blocks at the right and bottom may be smaller.
    """
    height, width = before.shape[:2]
    columns = np.arange(0, width, side)
    widths = np.diff([*columns, width])
    rows = []
    for band in _difference_bands(before, after, range(0, height, side)):
        means = np.abs(band).mean(axis=(0, 2), dtype=np.float64)
        rows.append(np.add.reduceat(means, columns) / widths)
    return np.array(rows, np.float32)


def amplification(differences: Array) -> int:
    """Return the power of two up to 128 that displays a difference map best, or 0 if it is zero."""
    if not differences.any():
        return 0
    high = max(float(np.quantile(differences, NOT_CLIPPED)), 1e-9)
    return max((1 << n for n in range(8) if high * (1 << n) <= 1), default=1)


def false_colour(differences: Array, factor: int) -> Array:
    """Convert a map H W to H W 3 uint8, from black for 0 to pale yellow for 1 / `factor`."""
    levels = from_float(differences * factor, np.uint8)
    return swap_red_blue(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))


def most_changed(before: Array, after: Array, width: int, height: int, count: int) -> list[Box]:
    """Find up to `count` disjoint boxes of this size that differ, in falling order.

    Positions are multiples of a quarter of the shorter side.
    """
    side = max(1, min(width, height) // 4)
    changes = block_differences(before, after, side).astype(np.float64)
    sums = np.pad(changes.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    columns, rows = -(-width // side), -(-height // side)
    total_height, total_width = before.shape[:2]
    if sums.shape[0] <= rows or sums.shape[1] <= columns:
        return []
    windows = sums[rows:, columns:] - sums[:-rows, columns:]
    windows = windows - sums[rows:, :-columns] + sums[:-rows, :-columns]
    boxes: list[Box] = []
    while len(boxes) < count:
        row, column = np.unravel_index(windows.argmax(), windows.shape)
        if windows[row, column] < 1e-9:  # rounding error
            break
        x = min(int(column) * side, total_width - width)
        y = min(int(row) * side, total_height - height)
        boxes.append(Box(x, y, width, height))
        top, left = max(0, row - rows), max(0, column - columns)
        windows[top : row + rows + 1, left : column + columns + 1] = 0
    return boxes


def _block_starts(side: int) -> list[int]:
    count = min(MAX_BLOCKS, max(1, side // MIN_BLOCK))
    return [side * i // count for i in range(count)]


def _difference_bands(before: Array, after: Array, tops: range | list[int]) -> Iterator[Array]:
    """Yield the differences of bands of rows, which begin at `tops`, to save memory."""
    for top, bottom in zip(tops, [*tops[1:], len(before)], strict=True):
        yield to_float(after[top:bottom]) - to_float(before[top:bottom])
