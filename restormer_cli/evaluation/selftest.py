"""Self-test of a device: compare its results with a reference.

The expected results come from the published formulation in double precision on the CPU, so nothing
needs to be stored or downloaded: the networks are the bundled ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints import CheckpointStatus, load_network
from ..errors import ImageError, RestormerError
from ..imaging import psnr
from ..inference import PRECISIONS, BlockShape, Restorer, override_fusion, restore, uses_fused_block
from ..network import Restormer, reference_forward
from ..text import first_line
from .system import supported_precisions

SMALL, LARGE = (64, 88), (256, 256)
"""Height and width of the test images. A GPU's default block holds the whole large one."""

BLOCKS = {
    "blocks of 8 x 8": BlockShape(8, 8, 8),
    "blocks of 16 x 24": BlockShape(32, 16, 24),
    "one block": BlockShape(1 << 20, 1 << 20, 1 << 20),
}


@dataclass(frozen=True)
class Criterion:
    """Limit for a measured value."""

    limit: float
    unit: str
    at_least: bool

    def met(self, value: float) -> bool:
        """Return True if the value meets the criterion; False for NaN."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.limit:g} {self.unit}".strip()


DIFFERENCE = Criterion(1e-4, "", at_least=False)
SIMILARITY = Criterion(50, "dB", at_least=True)
IDENTITY = Criterion(0, "different values", at_least=False)


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was compared: a network, a block size, a situation.
        precision: of the computation under test.
        criterion: of the value.
        value: measured largest difference, PSNR in dB or number of different values; None after an
            error.
        error: why nothing could be measured.
    """

    name: str
    precision: str
    criterion: Criterion
    value: float | None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """True if the value meets the criterion."""
        return self.value is not None and self.criterion.met(self.value)

    @property
    def finding(self) -> str:
        """The value with its unit, or the error."""
        if self.value is None:
            return self.error or "not measured"
        if self.criterion is IDENTITY and not self.value:
            return "yes"
        return f"{self.value:.3g} {self.criterion.unit}".strip()

    def __str__(self) -> str:
        text = f"{self.name}, {self.precision}: {self.finding}"
        return text if self.ok or self.value is None else f"{text}, not {self.criterion}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; an infinite value is None."""
        limit = {"limit": self.criterion.limit, "unit": self.criterion.unit or "difference"}
        finite = self.value if self.value is not None and math.isfinite(self.value) else None
        own = {"name": self.name, "precision": self.precision, "ok": self.ok, "value": finite}
        return {**own, **limit, "error": self.error}


class Case(NamedTuple):
    """A check to run."""

    name: str
    precision: str
    criterion: Criterion
    measure: Callable[[], float]

    def run(self) -> Check:
        """Run the check; an error of the device is an outcome, too."""
        value, cause = None, None
        try:
            value = self.measure()
        except (RuntimeError, RestormerError) as error:
            cause = first_line(error)
        return Check(self.name, self.precision, self.criterion, value, cause)


class _Subject:
    """A network on the CPU and on the device under test, with test images and their results."""

    def __init__(self, checkpoint: CheckpointStatus, device: torch.device) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.on_cpu = load_network(str(checkpoint.path))

    @cached_property
    def on_device(self) -> Restormer:
        """The network on the device."""
        return copy.deepcopy(self.on_cpu).to(self.device)

    def image(self, size: tuple[int, int]) -> Tensor:
        return synthetic_image(*size, self.on_cpu.architecture.in_channels)

    def is_fused(self, precision: str) -> bool:
        """Return True if the fused block is used, after building it if necessary."""
        return uses_fused_block(self.on_cpu.architecture, PRECISIONS[precision], self.device)

    @cached_property
    def expected(self) -> Tensor:
        """Result for the small image by the published formulation in double precision."""
        network = copy.deepcopy(self.on_cpu).double()
        with torch.inference_mode(), _one_thread():
            return reference_forward(network, self.image(SMALL).double()).clamp(0, 1)

    @cached_property
    def expected_large(self) -> Tensor:
        """Result for the large image on the CPU, in blocks of another size than by default."""
        return self._restore(
            self.on_cpu, LARGE, "fp32", blocking=lambda *_: BLOCKS["blocks of 16 x 24"]
        )

    def _restore(
        self, network: Restormer, size: tuple[int, int], precision: str, **options: Any
    ) -> Tensor:
        notes: list[str] = []
        with torch.inference_mode():
            result = restore(
                network, self.image(size), precision=precision, notify=notes.append, **options
            )
        if notes:  # the result has another precision
            raise ImageError(notes[0])
        return result

    def compared(
        self, size: tuple[int, int], precision: str, criterion: Criterion, **options: Any
    ) -> float:
        """Return the difference between the device's result and the expected one."""
        result = self._restore(self.on_device, size, precision, **options)
        expected = self.expected if size == SMALL else self.expected_large
        return _distance(result, expected, criterion)

    def without_fusion(self, precision: str, criterion: Criterion) -> float:
        """Return the difference of a result by PyTorch's functions."""
        with override_fusion("off"):
            return self.compared(SMALL, precision, criterion)

    def repeated(self, precision: str) -> float:
        """Return the number of values that differ between two runs."""
        first, second = (self._restore(self.on_device, LARGE, precision) for _ in range(2))
        return _distance(first, second, IDENTITY)

    def recovered(self) -> float:
        """Run out of memory once, and return the difference of the result then obtained."""
        restorer = Restorer(
            self.checkpoint.task,
            weights=str(self.checkpoint.path),
            device=str(self.device),
            precision="fp32",
        )
        exhausted: list[int] = []

        def exhaust_once(done: int, total: int) -> None:
            if not exhausted:
                exhausted.append(done)
                exhaust_memory(self.device)

        planned = restorer.plan(*SMALL).strategy
        pixels = self.image(SMALL)[0].permute(1, 2, 0).contiguous().numpy()
        result = restorer.forward(pixels, progress=exhaust_once)
        if result.strategy == planned:
            raise ImageError("running out of memory was not noticed")
        restored = torch.from_numpy(result.pixels).permute(2, 0, 1).unsqueeze(0)
        return _distance(restored, self.expected, DIFFERENCE)


def selftest_cases(networks: Sequence[CheckpointStatus], device: torch.device) -> list[Case]:
    """Return the checks of a device, with these networks.

    Args:
        networks: checkpoints that are on this machine, at least one. All are compared with the
            reference, the first one in every other check.
        device: the device under test.

    Raises:
        CheckpointError: a network cannot be loaded.
    """
    subjects = [_Subject(checkpoint, device) for checkpoint in networks]
    first = subjects[0]
    precisions = supported_precisions(device)
    criteria = {p: DIFFERENCE if p == "fp32" else SIMILARITY for p in precisions}

    def case(name: str, precision: str, subject: _Subject, size: Any, **options: Any) -> Case:
        criterion = criteria[precision]
        measure = partial(subject.compared, size, precision, criterion, **options)
        return Case(name, precision, criterion, measure)

    fused = [p for p in precisions if first.is_fused(p)]
    blocks = [
        case(name, "fp32", first, SMALL, blocking=lambda *_, shape=shape: shape)
        for name, shape in BLOCKS.items()
    ]
    return [
        *(case(s.checkpoint.name, p, s, SMALL) for s in subjects for p in precisions),
        *(
            Case("no fused block", p, criteria[p], partial(first.without_fusion, p, criteria[p]))
            for p in fused
        ),
        *blocks,
        *(case("a larger image", p, first, LARGE) for p in precisions),
        *(
            Case("twice the same bytes", p, IDENTITY, partial(first.repeated, p))
            for p in precisions
        ),
        Case("out of memory once", "fp32", DIFFERENCE, first.recovered),
    ]


def synthetic_image(height: int, width: int, channels: int) -> Tensor:
    """Return smooth colours with an edge and noise, the same on every machine: 1 C H W, 0..1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = torch.arange(channels)[:, None, None]
    smooth = 0.5 + 0.3 * torch.sin(9 * x + 5 * y + phase) + 0.1 * (x > y)
    noise = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(0))
    return (smooth + 0.05 * noise).clamp(0, 1).unsqueeze(0)


def exhaust_memory(device: torch.device) -> None:
    """Raise the device's own error for running out of memory."""
    torch.empty(1 << 62, dtype=torch.uint8, device=device)


def _distance(result: Tensor, expected: Tensor, criterion: Criterion) -> float:
    """Return the largest difference, the PSNR or the number of different values."""
    a, b = result.cpu().double(), expected.cpu().double()
    if criterion is SIMILARITY:
        return psnr(a, b)
    if criterion is IDENTITY:
        return float((a != b).sum())
    return float((a - b).abs().max())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: for small images on busy machines, several are many times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
