"""How long to train, at which learning rates, on patches of which sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .downloads import Notify
from .errors import UsageError
from .photos import MULTIPLE

WARM_UP = 0.02
"""The part of a run in which the learning rate rises."""


@dataclass(frozen=True)
class Settings:
    """How long and how to train; `steps` or `hours`, whichever ends first.

    `stages` are (from which part of the run, side of a patch in pixels, patches in a batch).
    `hours` are those of all sittings together.
    """

    steps: int | None = None
    hours: float | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    stages: tuple[tuple[float, int, int], ...] = ((0.0, 64, 16), (0.5, 96, 7), (0.8, 128, 4))
    validate_every: int = 250
    seed: int = 0
    memory: int = 2 << 30
    """Bytes that decoded photos may take; larger sets contribute a crop of each photo."""

    def __post_init__(self) -> None:
        if not self.steps and not self.hours:
            raise UsageError("training has no end", "Give --steps or --hours.")
        given = [n for n in (self.steps, self.hours) if n is not None]
        if min(*given, self.learning_rate, self.validate_every) <= 0:
            raise UsageError("steps, hours and the learning rate must be above 0")
        starts = [start for start, _, _ in self.stages]
        if starts[:1] != [0] or starts != sorted(starts):
            raise UsageError("the stages must begin at 0 and be in order")
        if any(side < 1 or side % MULTIPLE or n < 1 for _, side, n in self.stages):
            raise UsageError(f"the sides of patches must be multiples of {MULTIPLE}")

    def progress(self, steps: int, seconds: float) -> float:
        """The part of the run that is over, 0..1."""
        by_steps = steps / self.steps if self.steps else 0.0
        by_time = seconds / (self.hours * 3600) if self.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, progress: float) -> float:
        """The learning rate: a linear warm-up, then a cosine."""
        if progress < WARM_UP:
            return self.learning_rate * max(progress / WARM_UP, 0.01)
        cosine = 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
        last = min(self.final_learning_rate, self.learning_rate)
        return last + cosine * (self.learning_rate - last)

    def stage(self, progress: float) -> tuple[int, int]:
        """Side of a patch and patches in a batch at this point of the run."""
        return [(side, batch) for start, side, batch in self.stages if progress >= start][-1]

    def within(self, largest: int, notify: Notify) -> Settings:
        """These, with patches no larger than `largest` and as many more of them in a batch."""
        stages = []
        for start, side, batch in self.stages:
            fits = min(side, largest)
            stages.append((start, fits, batch * side**2 // fits**2))
            if fits < side:
                notify(
                    f"most photos are too small for patches of {side}: patches of {fits} instead"
                )
        return replace(self, stages=tuple(stages))
