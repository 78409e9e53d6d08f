"""What an evaluation found, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..imaging import PSNR_DEFINITION, SSIM_DEFINITION, Protocol, Scores
from .published import REMARKS, SETS

if TYPE_CHECKING:
    from pathlib import Path

    from .published import Result, Row
    from .runner import Outcome


@dataclass(frozen=True)
class Results:
    """The outcomes of an evaluation, and what they are to be read with.

    Attributes:
        task: what was restored.
        folder: of the clean images.
        protocol: what was compared.
        outcomes: one for each condition.
        published: the paper's row for this task.
        known: the key of the folder's set in it; None: the folder is of no known set.
        unpaired: files without a partner.
    """

    task: str
    folder: Path
    protocol: Protocol
    outcomes: list[Outcome]
    published: Row
    known: str | None
    unpaired: list[Path]

    def paper(self, outcome: Outcome) -> Result | None:
        """What the paper has for this set under this condition."""
        return self.published.results.get((self.known or "", outcome.condition.name))

    @property
    def remark(self) -> str:
        """Where the paper measured otherwise, if its figures are shown."""
        shown = any(self.paper(outcome) for outcome in self.outcomes)
        return REMARKS.get(self.known or "", "") if shown else ""

    @property
    def failed(self) -> int:
        """How many images could not be measured."""
        return sum(len(outcome.failures) for outcome in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, fit for JSON; a PSNR without limit is None."""
        return {
            "task": self.task,
            "clean": str(self.folder),
            "set": self.known and SETS[self.known].name,
            "protocol": {
                "compared": self.protocol.description,
                "psnr": PSNR_DEFINITION,
                "ssim": SSIM_DEFINITION,
            },
            "conditions": [self._plain(outcome) for outcome in self.outcomes],
            "remark": self.remark,
            "unpaired": [str(path) for path in self.unpaired],
        }

    def _plain(self, outcome: Outcome) -> dict[str, Any]:
        found = outcome.weights
        paper = self.paper(outcome)
        return {
            "name": outcome.condition.name,
            "description": outcome.condition.description,
            "weights": {"name": found.name, "source": found.source, "sha256": found.sha256},
            "device": outcome.device,
            "mean": {
                "degraded": _finite(outcome.mean(lambda score: score.degraded)),
                "restored": _finite(outcome.mean(lambda score: score.restored)),
            },
            "published": paper and {"variant": self.published.variant, **paper._asdict()},
            "images": [
                {
                    **score._asdict(),
                    "degraded": _finite(score.degraded),
                    "restored": _finite(score.restored),
                    "seconds": round(score.seconds, 3),
                }
                for score in outcome.scores
            ],
            "failed": [failure._asdict() for failure in outcome.failures],
        }

    def as_csv(self) -> str:
        """A line for each image and condition, and one for each mean."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(
            [
                *("condition", "image", "width", "height"),
                *("degraded_psnr", "degraded_ssim", "restored_psnr", "restored_ssim"),
                *("published_psnr", "published_ssim", "seconds", "precision", "strategy"),
                *("task", "weights", "sha256", "device", "protocol"),
            ]
        )
        for o in self.outcomes:
            paper = self.paper(o)
            by = (self.task, o.weights.name, o.weights.sha256, o.device, self.protocol.description)
            for s in o.scores:
                scores = (*s.degraded, *s.restored, "", "")
                how = (f"{s.seconds:.3f}", s.precision, s.strategy)
                lines.writerow([o.condition.name, s.image, s.width, s.height, *scores, *how, *by])
            means = (*o.mean(lambda s: s.degraded), *o.mean(lambda s: s.restored))
            empty = ("", "", "")
            row = [o.condition.name, "mean", "", "", *means, *(paper or ("", "")), *empty, *by]
            lines.writerow(row)
        return text.getvalue()


def _finite(scores: Scores) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in scores._asdict().items()
    }
