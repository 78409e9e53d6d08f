"""Verdicts on fused blocks, and their files in the user's cache."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files import sha256_file
from .cache import require_private, store
from .mode import fusion_mode
from .passes import FusionError, Kernels

WORTH_BUILDING = 10.0
"""Predicted seconds of work from which kernels are compiled automatically."""

NOT_BUILT = f"it is built when a run takes more than about {WORTH_BUILDING:.0f} s"

RETRY_AFTER = 24 * 60 * 60
"""Seconds for which a failure is remembered."""


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        cause: why the kernels cannot be used; empty if they can.
        instructions: what they run on, such as instruction sets.
        speed: for each type of features and number of channels, how many times as fast as PyTorch.
    """

    cause: str
    instructions: str = ""
    speed: dict[str, dict[int, float]] | None = None

    def to_json(self) -> str:
        """Return the verdict as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read a verdict.

        Raises:
            ValueError: the text is not a verdict.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            speed = {
                kind: {int(channels): float(ratio) for channels, ratio in of_kind.items()}
                for kind, of_kind in (fields["speed"] or {}).items()
            }
            return cls(str(fields["cause"]), str(fields["instructions"]), speed)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a verdict: {text[:80]!r}") from error


@dataclass
class Opened:
    """The kernels of this process, or the cause why there are none."""

    kernels: Kernels | None
    verdict: Verdict
    is_final: bool = True  # False if they were only not built yet


def read_verdict(path: Path, subject: Path) -> Verdict | None:
    """Return the stored verdict on a file of code; None if there is none that still holds.

    Raises:
        FusionError: others can change the verdict.
    """
    try:
        for part in (path.parent, path):
            require_private(part)
        digest, _, text = path.read_text("utf-8").partition("\n")
        verdict = Verdict.from_json(text)
        if verdict.cause:
            is_recent = time.time() - path.stat().st_mtime < RETRY_AFTER
            return verdict if is_recent and fusion_mode() != "require" else None
        return verdict if sha256_file(subject) == digest else None
    except (OSError, ValueError):
        return None


def write_verdict(path: Path, verdict: Verdict, subject: Path) -> None:
    """Store a verdict on a file of code, with the SHA-256 of that file."""
    with suppress(OSError, FusionError):  # then the next process checks again
        digest = sha256_file(subject) if subject.is_file() else ""
        store(path, f"{digest}\n{verdict.to_json()}\n".encode())
