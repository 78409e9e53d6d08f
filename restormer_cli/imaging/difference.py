"""How much a restoration changed an image, and when that is a reason to look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .image import Array, Box, to_float

if TYPE_CHECKING:
    from .noise import Noise


# --- change --------------------------------------------------------------------------------------

CELL = 32
"""The least side, in pixels, of the cells whose mean colours are compared."""

GRID = 16
"""How many cells there are at most along a side."""

NOTHING = 0.1 / 255
"""A mean change below this is none: nine of ten 8-bit samples stay as they were."""

DRIFT = 6 / 255
"""A drift above this shows as another colour or brightness: restoring is not to change those."""


class Change(NamedTuple):
    """The mean of all absolute changes, and the drift: both as parts of the range 0..1.

    The drift is of low frequency: the root mean square change of the mean colours of large cells.
    """

    mean_absolute: float
    drift: float

    def times(self, strength: float) -> Change:
        """What is left of it after blending with the input."""
        return Change(self.mean_absolute * strength, self.drift * strength)


def measure_change(before: Array, after: Array) -> Change:
    """How `after` differs from `before`, both H W C float of one shape."""
    rows, columns = (_starts(side) for side in before.shape[:2])
    total = squares = 0.0
    # A band of cells at a time: the difference of two whole images would be a third one.
    for top, bottom in zip(rows, [*rows[1:], before.shape[0]], strict=True):
        difference = after[top:bottom] - before[top:bottom]
        total += float(np.abs(difference).sum(dtype=np.float64))
        sums = np.add.reduceat(difference.sum(axis=0, dtype=np.float64), columns, axis=0)
        widths = np.diff([*columns, before.shape[1]])[:, None]
        squares += float(((sums / (widths * (bottom - top))) ** 2).sum())
    cells = len(rows) * len(columns) * before.shape[2]
    return Change(total / before.size, (squares / cells) ** 0.5)


def _starts(side: int) -> list[int]:
    count = min(GRID, max(1, side // CELL))
    return [side * i // count for i in range(count)]


def change_warnings(change: Change, strength: float, noise: Noise | None = None) -> list[str]:
    """What is odd about a result that differs so from its input, at full strength.

    `noise` is what the input looked like before it was removed.
    """
    odd = []
    if change.mean_absolute < NOTHING:
        odd.append("practically no change: there was nothing to remove, or nothing of this kind")
    elif noise is not None and noise.clean:
        odd.append(f"the input {noise.words}: see that no detail was taken for noise")
    if (drift := change.times(strength).drift) > DRIFT:
        odd.append(
            f"colours drift by {255 * drift:.1f} of 255 on average: compare it with its input"
        )
    return odd


# --- differences ---------------------------------------------------------------------------------

SHOWN = 0.995
"""The part of a difference map that its amplification must not overdrive."""

_FACTORS = (1, 2, 4, 8, 16, 32, 64, 128)
_STEPS = 4
"""Cells along the shorter side of a place that is looked for."""

_NONE = 1e-9
"""A sum of differences below this is rounding."""

# From no difference to a large one, evenly brighter: sRGB, as in matplotlib's "inferno".
_COLOURS = np.array(
    [
        *((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85)),
        *((227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)),
    ],
    np.float32,
)


def block_differences(before: Array, after: Array, side: int) -> Array:
    """The mean absolute difference in cells of `side` pixels: H/side W/side, parts of 0..1.

    Args:
        before: H W C of any depth.
        after: the same size; its depth may differ, and grey goes with RGB.
        side: of a cell; those at right and bottom may be smaller.
    """
    height, width = before.shape[:2]
    columns = np.arange(0, width, side)
    widths = np.diff([*columns, width])
    rows = []
    # A row of cells at a time: the difference of two whole images would be a third one.
    for top in range(0, height, side):
        band = to_float(after[top : top + side]) - to_float(before[top : top + side])
        means = np.abs(band).mean(axis=(0, 2), dtype=np.float64)
        rows.append(np.add.reduceat(means, columns) / widths)
    return np.array(rows, np.float32)


def amplification(differences: Array) -> int:
    """The power of two that shows a map of differences best; 0 if there are none."""
    if not differences.any():
        return 0
    high = max(float(np.quantile(differences, SHOWN)), 1e-9)
    return max((f for f in _FACTORS if f * high <= 1), default=1)


def false_colour(differences: Array, factor: int) -> Array:
    """A map H W as H W 3 uint8: black where nothing differs, pale yellow at 1 / `factor`."""
    at = (differences * factor).clip(0, 1) * (len(_COLOURS) - 1)
    points = np.arange(len(_COLOURS))
    channels = [np.interp(at, points, _COLOURS[:, channel]) for channel in range(3)]
    samples: Array = np.stack(channels, axis=-1).round().astype(np.uint8)
    return samples


def most_changed(before: Array, after: Array, width: int, height: int, count: int) -> list[Box]:
    """The `count` boxes of this size that differ most, apart from each other, largest first.

    There are fewer where no more have room, and none where nothing differs.
    """
    side = max(1, min(width, height) // _STEPS)
    changes = block_differences(before, after, side).astype(np.float64)
    sums = np.pad(changes.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    wide, high = -(-width // side), -(-height // side)
    total_height, total_width = before.shape[:2]
    if sums.shape[0] <= high or sums.shape[1] <= wide:
        return []
    windows = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    found: list[Box] = []
    while len(found) < count:
        row, column = np.unravel_index(windows.argmax(), windows.shape)
        if windows[row, column] < _NONE:
            break
        x = min(int(column) * side, total_width - width)
        y = min(int(row) * side, total_height - height)
        found.append(Box(x, y, width, height))
        windows[max(0, row - high) : row + high + 1, max(0, column - wide) : column + wide + 1] = 0
    return found
