"""Self-test of a device: what it computes, compared with a reference, and how fast.

The expected results come from the published formulation in double precision on the CPU, so nothing
needs to be stored or downloaded: the networks are the bundled ones.
"""

from __future__ import annotations

import copy
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from .._version import __version__
from ..checkpoints import CheckpointStatus, load_network
from ..errors import ImageError, RestormerError
from ..imaging import psnr
from ..inference import (
    MPS_FIXED,
    PRECISIONS,
    BlockShape,
    Restorer,
    choose_precision,
    device_model,
    full_precision,
    is_native,
    native_status,
    precedes,
    restore,
    use_native,
)
from ..network import Restormer, reference_forward
from ..text import first_line, format_bytes
from .benchmark import restore_unfused, timed, watch_memory

SMALL, LARGE = (64, 88), (256, 256)
"""Height and width of the test images. A GPU's default block holds the whole large one."""

BLOCKS = {
    "blocks of 8 x 8": BlockShape(8, 8, 8),
    "blocks of 16 x 24": BlockShape(32, 16, 24),
    "one block": BlockShape(1 << 20, 1 << 20, 1 << 20),
}

SPEED_SIDES = {"cpu": (128, 64), "cuda": (1024, 512), "mps": (512, 256)}
"""Side of the image of the speed measurement, and of its tiles, by type of device."""

SELFTEST_SECONDS = 40.0
"""Time since the start of the test after which no further speed is measured."""

KNOWN_ISSUES = (
    (
        "mps",
        MPS_FIXED,
        f"PyTorch before {MPS_FIXED} adds up many pixels wrongly on M1 and M2. Restoring avoids "
        "this, and training is refused",
    ),
)
"""Type of device, first release of PyTorch without the issue, and the issue."""


@dataclass(frozen=True)
class Criterion:
    """What a measured value must be: at least or at most the limit."""

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


@dataclass(frozen=True)
class Speed:
    """Speed and memory of one way to run the network."""

    way: str
    precision: str
    ms_per_megapixel: float
    bytes_per_megapixel: int

    def __str__(self) -> str:
        digits = 0 if self.ms_per_megapixel >= 100 else 2
        memory = format_bytes(self.bytes_per_megapixel)
        if self.ms_per_megapixel >= 10_000:
            return f"{self.ms_per_megapixel / 1000:,.0f} s, {memory}"
        return f"{self.ms_per_megapixel:,.{digits}f} ms, {memory}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


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
        """Return True if the fused block is used, which is built for the answer."""
        return is_native(self.on_cpu.architecture, PRECISIONS[precision], self.device)

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
        with use_native("off"):
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


def measure_speeds(
    checkpoint: CheckpointStatus, device: torch.device, end: float
) -> Iterator[Speed]:
    """Measure the strips in every precision, and the other ways while time is left.

    Args:
        checkpoint: the network.
        device: the device under test.
        end: time in `time.monotonic()` after which no further measurement begins.
    """
    network, (side, tile) = load_network(str(checkpoint.path)), SPEED_SIDES[device.type]
    precisions = supported_precisions(device)
    image = synthetic_image(side, side, network.architecture.in_channels)
    try:
        network, image = network.to(device), image.to(device)
    except RuntimeError:  # the checks report it
        return

    def plain(precision: str) -> Tensor:
        dtype = PRECISIONS[precision]
        with full_precision():  # as in the other ways
            return reference_forward(copy.deepcopy(network).to(dtype), image.to(dtype))

    fused = any(is_native(network.architecture, PRECISIONS[p], device) for p in precisions)
    ways: dict[str, Callable[[str], Tensor]] = {
        "strips": lambda p: restore(network, image, precision=p),
        **({"no fused block": partial(restore_unfused, network, image)} if fused else {}),
        f"tiles of {tile}": lambda p: restore(
            network, image, precision=p, tile=tile, overlap=tile // 4
        ),
        "plain": plain,
    }
    repeat = 1 if device.type == "cpu" else 3  # the first runs select kernels
    for way, run in ways.items():
        for precision in precisions:
            if way != "strips" and time.monotonic() > end:
                return
            with suppress(RuntimeError, RestormerError), torch.inference_mode():  # see the checks
                with watch_memory(device) as memory:
                    took = min(timed(partial(run, precision), device)[0] for _ in range(repeat))
                scale = 1e6 / side**2
                yield Speed(way, precision, 1e3 * took * scale, round(memory() * scale))


def supported_precisions(device: torch.device) -> list[str]:
    """Return fp32 and the other precisions in which the device can compute at all."""
    supported = ["fp32"]
    for name in (name for name in PRECISIONS if name != "fp32"):
        with suppress(RuntimeError, TypeError):  # TypeError: bf16 on MPS before macOS 14
            x = torch.ones(8, 8, device=device).to(PRECISIONS[name])
            (x @ x).cpu()
            supported.append(name)
    return supported


def synthetic_image(height: int, width: int, channels: int) -> Tensor:
    """Return smooth colours with an edge and noise, the same on every machine: 1 C H W, 0..1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = torch.arange(channels)[:, None, None]
    smooth = 0.5 + 0.3 * torch.sin(9 * x + 5 * y + phase) + 0.1 * (x > y)
    noise = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(0))
    return (smooth + 0.05 * noise).clamp(0, 1).unsqueeze(0)


def describe_system(device: torch.device) -> dict[str, str | None]:
    """Return the versions and the properties of a device that a bug report needs."""
    facts: dict[str, str | None] = {
        "restormer": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "device": f"{device}: {device_model(device)}",
        "precision": choose_precision("auto", device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda or f"ROCm {torch.version.hip}",
            "cudnn": str(torch.backends.cudnn.version()),
            "compute capability": f"{properties.major}.{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        }
    else:
        facts["memory"] = f"{psutil.virtual_memory().total / 2**30:.1f} GiB"
    if device.type == "cpu":
        facts["threads"] = str(torch.get_num_threads())
    if device.type in ("cpu", "cuda"):
        facts["fused block"] = native_status(device=device, ask=True)
    return facts


def exhaust_memory(device: torch.device) -> None:
    """Raise the device's own error for running out of memory."""
    torch.empty(1 << 62, dtype=torch.uint8, device=device)


def known_issues(device: torch.device, version: str = torch.__version__) -> list[str]:
    """Return the known issues of this release of PyTorch on the device."""
    return [
        text
        for kind, fixed, text in KNOWN_ISSUES
        if kind == device.type and precedes(version, fixed)
    ]


def _nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver, None if it is unknown."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return output.stdout.strip().partition("\n")[0] or None
    return None


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
