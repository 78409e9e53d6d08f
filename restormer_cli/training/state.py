"""Settings and state of a training run, and the file from which a run is resumed."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..callbacks import Notify
from ..checkpoints import MALFORMED, unwritable_error
from ..errors import CheckpointError, UsageError
from ..files import open_atomic, remove_leftovers, write_atomic
from ..memory import is_out_of_memory
from ..network import Architecture, Restormer
from ..text import first_line
from .dataset import MULTIPLE

WARM_UP = 0.02
"""Fraction of a run in which the learning rate rises."""

Stages = tuple[tuple[float, int, int], ...]
"""Start as a fraction of the run, side of a patch in pixels, patches per batch, of each stage."""

STAGES: Stages = ((0.0, 64, 16), (0.45, 96, 7), (0.75, 128, 4), (0.92, 192, 2))
"""Stages of the lite networks; each step has about 65,000 pixels."""

MAX_PATCHES = 1 << 20
"""Largest number of patches per batch; more fit no memory."""

BETAS, WEIGHT_DECAY = (0.9, 0.999), 1e-4

_PARTS = ("network", "average", "optimizer")


@dataclass(frozen=True)
class Settings:
    """Length and hyperparameters of a run.

    Attributes:
        steps, hours: length of the run, which ends at the first limit reached.
        learning_rate, final_learning_rate: after the warm-up, and at the end.
        stages: start, side and number of the patches of each stage.
        validate_every: number of steps between validations.
        seed: seed of the initial weights and of all batches.
        memory: bytes for decoded photographs. If they need more, each is cropped.
    """

    steps: int | None = None
    hours: float | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    stages: Stages = STAGES
    validate_every: int = 250
    seed: int = 0
    memory: int = 2 << 30

    def __post_init__(self) -> None:
        if not self.steps and not self.hours:
            raise UsageError("the length of the training is missing", "Give --steps or --hours.")
        for name in ("steps", "hours", "learning_rate", "validate_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {value:g}", "Give a number above 0.")
        if self.seed >= 2**63:  # the limit of PyTorch
            raise UsageError(f"--seed is {self.seed}", "Give a whole number below 2^63.")
        starts = [start for start, _, _ in self.stages]
        if starts[:1] != [0] or starts != sorted(starts) or not all(0 <= s < 1 for s in starts):
            raise UsageError(
                f"--stages: the starts are {', '.join(f'{start:g}' for start in starts)}",
                "Give fractions of the run in rising order: the first 0, and all below 1.",
            )
        for _, side, number in self.stages:
            if side < 1 or side % MULTIPLE:
                below = side // MULTIPLE * MULTIPLE
                near = [n for n in (below, below + MULTIPLE) if n > 0]
                raise UsageError(
                    f"--stages: patches of {side} pixels; the side must be a multiple of "
                    f"{MULTIPLE}",
                    f"Give {' or '.join(map(str, near))}." if near else "Give for example 64.",
                )
            if not 1 <= number <= MAX_PATCHES:
                raise UsageError(
                    f"--stages: {number} patches per batch", f"Give 1 to {MAX_PATCHES}."
                )

    def progress(self, steps: int, seconds: float) -> float:
        """Return the completed fraction of the run, 0..1."""
        by_steps = steps / self.steps if self.steps else 0.0
        by_time = seconds / (self.hours * 3600) if self.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, progress: float) -> float:
        """Return the learning rate: a linear warm-up, then cosine annealing."""
        if progress < WARM_UP:
            return self.learning_rate * max(progress / WARM_UP, 0.01)
        cosine = 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
        last = min(self.final_learning_rate, self.learning_rate)
        return last + cosine * (self.learning_rate - last)

    def stage(self, progress: float) -> tuple[int, int]:
        """Return the side of a patch in pixels and the number of patches per batch."""
        return [(side, batch) for start, side, batch in self.stages if progress >= start][-1]

    def scaled(self, factor: float) -> Settings:
        """Multiply the number of patches per batch, at least to 1.

        Raises:
            UsageError: `factor` is not above 0.
        """
        if not 0 < factor < math.inf:
            raise UsageError(f"--batch-scale is {factor:g}, not a number above 0", "6 suits a GPU.")
        stages = tuple((start, side, max(1, round(n * factor))) for start, side, n in self.stages)
        return replace(self, stages=stages)

    def limit_patches(self, largest: int, notify: Notify) -> Settings:
        """Limit the side of patches to `largest`, and enlarge batches to about as many pixels."""
        stages = []
        for start, side, batch in self.stages:
            limited = min(side, largest)
            stages.append((start, limited, batch * side**2 // limited**2))
            if limited < side:
                notify(f"most photos are too small for patches of {side}: using {limited} instead")
        return replace(self, stages=tuple(stages))


def parse_stages(text: str) -> Stages:
    """Parse stages such as "0:64:16,0.5:128:4".

    Raises:
        UsageError: `text` is not a list of START:SIDE:PATCHES.
    """
    try:
        parts = [part.split(":") for part in text.split(",")]
        return tuple((float(start), int(side), int(n)) for start, side, n in parts)
    except ValueError:
        raise UsageError(
            f"--stages {text!r}: not a list of START:SIDE:PATCHES",
            "Give for example 0:64:16,0.5:128:4, with starts as fractions of the run.",
        ) from None


@dataclass
class Run:
    """State of a run, saved after each validation and when it is interrupted.

    Attributes:
        average: exponential moving average of the network's weights.
        started_from: file name of the initial checkpoint, if any.
        degraded_psnr: PSNR in dB of the degraded images of the validation set.
        photos: fingerprint of the photographs of the last session.
        held_out: digests of the photographs in the validation set.
        step, pixels: number of batches drawn, and of the pixels in them.
        seconds: training time, summed over all sessions.
        loss: mean loss before the last validation.
        losses: those of the steps since then, NaN for those skipped.
        best: highest validation PSNR in dB.
        skipped: number of updates skipped because they were not finite.
        history: loss and PSNR of every validation, by step.
    """

    task: str
    network: Restormer
    average: Restormer
    optimizer: torch.optim.Optimizer
    started_from: str | None = None
    degraded_psnr: float = math.nan
    photos: str = ""
    held_out: list[str] = field(default_factory=list)
    step: int = 0
    pixels: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    losses: list[float] = field(default_factory=list)
    best: float = -math.inf
    skipped: int = 0
    history: dict[int, tuple[float, float]] = field(default_factory=dict)

    # Sum and number of the finite values in `losses`. No fields: the file has `losses`.
    _total, _finite = 0.0, 0

    @classmethod
    def begin(
        cls, task: str, network: Restormer, device: torch.device, started_from: str | None = None
    ) -> Run:
        """Create a run that trains a copy of `network`."""
        network = copy.deepcopy(network).to(device).train()
        optimizer = torch.optim.AdamW(
            network.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        return cls(task, network, copy.deepcopy(network).eval(), optimizer, started_from)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Run:
        """Read a run written by `save`.

        Raises:
            CheckpointError: the file is damaged, or was not written by this release.
        """
        try:
            state = torch.load(path, weights_only=True, map_location=device)
            state = {"degraded_psnr": math.nan, "losses": [], **state}  # missing in older files
            network = random_network(Architecture.from_dict(state.pop("architecture")), seed=0)
            run = cls.begin(state.pop("task"), network, device)
            for name in _PARTS:
                getattr(run, name).load_state_dict(state.pop(name))
            losses = state.pop("losses")
            for name in [f.name for f in fields(run) if f.name not in ("task", "losses", *_PARTS)]:
                setattr(run, name, state[name])
            for loss in losses:
                run.add_loss(loss)
        except MALFORMED as error:
            if is_out_of_memory(error):
                raise
            cause = first_line(error)
            raise CheckpointError(
                f"{path}: training cannot be resumed from this file ({cause})",
                "Remove it to start a new run.",
            ) from error
        return run

    @property
    def mean_loss(self) -> float:
        """Mean loss since the last validation, or before it if no step since then was finite."""
        return self._total / self._finite if self._finite else self.loss

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step, NaN if it was skipped."""
        self.losses.append(loss)
        if not math.isnan(loss):
            self._total += loss
            self._finite += 1

    def end_losses(self) -> int:
        """Set `loss` before a validation, and return the number of steps that were skipped."""
        skipped = len(self.losses) - self._finite
        self.skipped += skipped
        self.loss = self.mean_loss
        self.losses.clear()
        self._total, self._finite = 0.0, 0
        return skipped

    def save(self, path: Path) -> None:
        """Write the run completely or not at all.

        Raises:
            CheckpointError: the file cannot be written.
        """
        state: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        state |= {name: state[name].state_dict() for name in _PARTS}
        state["architecture"] = self.network.architecture.as_dict()
        try:
            with open_atomic(path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            raise unwritable_error(path, error) from error


def random_network(architecture: Architecture, seed: int) -> Restormer:
    """Return a network with random weights, on the CPU; keep the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Restormer(architecture)


def check_writable(path: Path) -> None:
    """Create the folder of `path`, remove leftovers, and check that `path` can be written.

    Raises:
        UsageError: `path` is not the name of a file of weights.
        CheckpointError: it cannot be written.
    """
    if path.suffix.lower() != ".safetensors":
        raise UsageError(
            f"-o {path}: not the name of a file of weights", "Use one ending in .safetensors."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers([path.parent])
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        probe = path.with_name(f"{path.name}.probe")
        write_atomic(probe, b"")
        probe.unlink(missing_ok=True)  # under torchrun, another process may have removed it
    except OSError as error:
        raise unwritable_error(path, error) from error
