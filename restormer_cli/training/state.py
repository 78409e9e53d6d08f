"""A training run's state, and the file that lets it go on."""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..callbacks import Notify
from ..errors import CheckpointError, UsageError
from ..inference import is_out_of_memory
from ..network import Architecture, Restormer
from .dataset import MULTIPLE

# --- schedule ------------------------------------------------------------------------------------

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


# --- resume --------------------------------------------------------------------------------------

BETAS, WEIGHT_DECAY = (0.9, 0.999), 1e-4

_DAMAGE = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, pickle.UnpicklingError),
)
"""What PyTorch raises for files that are damaged or something else."""

_PARTS = ("network", "average", "optimizer")


@dataclass
class Run:
    """All that changes from step to step, and so all that must outlive an interruption.

    Attributes:
        task: what is learned.
        network: the weights that are trained.
        average: their moving average, which is what is validated and kept.
        optimizer: AdamW, as in the paper.
        started_from: the name of the checkpoint whose weights it began with, if any.
        photos: the fingerprint of the photographs it was last trained on.
        held_out: the digests of those that it must never be trained on.
        step: how many batches were drawn.
        pixels: how many they had.
        seconds: how long that took, in all sittings.
        loss: the mean since the validation before the last.
        best: the highest validation PSNR, dB.
        skipped: updates left out because the loss was not finite.
        history: loss and PSNR (dB) of every validation, by step.
    """

    task: str
    network: Restormer
    average: Restormer
    optimizer: torch.optim.Optimizer
    started_from: str | None = None
    photos: str = ""
    held_out: list[str] = field(default_factory=list)
    step: int = 0
    pixels: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    best: float = -math.inf
    skipped: int = 0
    history: dict[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, task: str, network: Restormer, device: torch.device, started_from: str | None = None
    ) -> Run:
        """A run that has not made a step; `network` is what it starts from, and stays as it is."""
        network = copy.deepcopy(network).to(device).train()
        optimizer = torch.optim.AdamW(
            network.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        return cls(task, network, copy.deepcopy(network).eval(), optimizer, started_from)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Run:
        """The run that `save` wrote.

        Raises:
            CheckpointError: the file is damaged, or of another program or release.
        """
        try:
            state = torch.load(path, weights_only=True, map_location=device)
            network = fresh(Architecture.from_dict(state.pop("architecture")), seed=0)
            run = cls.begin(state.pop("task"), network, device)
            for name in _PARTS:
                getattr(run, name).load_state_dict(state.pop(name))
            for name in [f.name for f in fields(run) if f.name not in ("task", *_PARTS)]:
                setattr(run, name, state[name])
        except _DAMAGE as error:
            if is_out_of_memory(error):
                raise
            raise _unusable(path, error) from error
        return run

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        state: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        state |= {name: state[name].state_dict() for name in _PARTS}
        state["architecture"] = self.network.architecture.as_dict()
        temporary = path.with_name(path.name + ".tmp")
        try:
            torch.save(state, temporary)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            raise _not_writable(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)


def fresh(architecture: Architecture, seed: int) -> Restormer:
    """A network with the random weights of this seed; the CPU's own generator stays as it is.

    Random numbers are drawn on the CPU, so that they are the same whatever it is trained on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Restormer(architecture)


def check_writable(path: Path) -> None:
    """Make the folder of `path`, and find out now rather than in hours if it is of no use.

    Raises:
        CheckpointError: files cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".restormer-"):
            pass
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise _not_writable(path, error) from error


def _unusable(path: Path, error: Exception) -> CheckpointError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{path}: no training can go on from this file ({cause})", "Remove it to start anew."
    )


def _not_writable(path: Path, error: Exception) -> CheckpointError:
    cause = getattr(error, "strerror", None) or str(error)
    return CheckpointError(
        f"{path}: cannot be written ({cause})",
        "Name a file in a folder that has room and is yours.",
    )
