"""How much a restoration changed an image, and when that is a reason to look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .pixels import Array

if TYPE_CHECKING:
    from .events import Noise

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


def measure(before: Array, after: Array) -> Change:
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


def warnings(change: Change, strength: float, noise: Noise | None = None) -> list[str]:
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
