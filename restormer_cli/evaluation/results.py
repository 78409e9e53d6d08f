"""Results of an evaluation, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..imaging import PSNR_DEFINITION, SSIM_DEFINITION, Protocol, Scores
from .published import REMARKS, SETS, Result, Row
from .runner import Outcome

_COLUMNS = (
    "condition,image,width,height,degraded_psnr,degraded_ssim,restored_psnr,restored_ssim,"
    "published_psnr,published_ssim,published_images,seconds,precision,strategy,task,weights,sha256,"
    "device,protocol"
)

TABLE_START = b"condition,image,"
"""First bytes of every table, from which a file is recognized as one."""


@dataclass(frozen=True)
class Results:
    """Outcomes of an evaluation, and the published results for comparison.

    Attributes:
        folder: folder of the clean images.
        published: results of the paper for this task and network.
        known: key of the test set in `SETS`; None for other sets.
        unpaired: files without a counterpart.
    """

    task: str
    folder: Path
    protocol: Protocol
    outcomes: list[Outcome]
    published: Row
    known: str | None
    unpaired: list[Path]

    def paper(self, outcome: Outcome) -> Result | None:
        """Return the published result for this test set and condition."""
        return self.published.results.get((self.known or "", outcome.condition.name))

    @property
    def published_images(self) -> int | None:
        """Number of images that the published results are means of, if known."""
        return None if self.known is None else SETS[self.known].images

    @property
    def remark(self) -> str:
        """Differences from the paper's images and protocol; empty if no result is compared."""
        compared = [outcome for outcome in self.outcomes if self.paper(outcome)]
        if self.known is None or not compared:
            return ""
        whole = self.published_images
        counts = {len(outcome.scores) for outcome in compared} - {whole}
        part = (
            f"Not comparable: the paper measured all {whole} images of {SETS[self.known].name}, "
            f"this run {min(counts)}."
            if whole and counts
            else ""
        )
        return " ".join(filter(None, [part, REMARKS.get(self.known, "")]))

    @property
    def failed(self) -> int:
        """Number of images that could not be measured."""
        return sum(len(outcome.failures) for outcome in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """Return all results for JSON. An infinite or missing score is None."""
        return {
            "task": self.task,
            "clean": str(self.folder),
            "set": self.known and SETS[self.known].name,
            "protocol": {
                "compared": self.protocol.description,
                "psnr": PSNR_DEFINITION,
                "ssim": SSIM_DEFINITION,
            },
            "conditions": [self._condition(outcome) for outcome in self.outcomes],
            "remark": self.remark,
            "unpaired": [str(path) for path in self.unpaired],
        }

    def _condition(self, outcome: Outcome) -> dict[str, Any]:
        weights, paper = outcome.weights, self.paper(outcome)
        return {
            "name": outcome.condition.name,
            "description": outcome.condition.description,
            "weights": {"name": weights.name, "source": weights.source, "sha256": weights.sha256},
            "device": outcome.device,
            "mean": {
                "degraded": _finite(outcome.mean(lambda score: score.degraded)),
                "restored": _finite(outcome.mean(lambda score: score.restored)),
            },
            "bands": outcome.meter.residual().as_dict() if outcome.meter.images else None,
            "published": paper
            and {
                "variant": self.published.variant,
                **paper._asdict(),
                "images": self.published_images,
            },
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
        """Return a line for each image under each condition, followed by the mean."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(_COLUMNS.split(","))
        for o in self.outcomes:
            name = o.condition.name
            result = self.paper(o)
            paper = (*result, self.published_images) if result else ("", "", "")
            run = (self.task, o.weights.name, o.weights.sha256, o.device, self.protocol.description)
            for s in o.scores:
                how = (f"{s.seconds:.3f}", s.precision, s.strategy)
                scores = (*s.degraded, *s.restored, "", "", "")
                lines.writerow([name, s.image, s.width, s.height, *scores, *how, *run])
            means = (*o.mean(lambda s: s.degraded), *o.mean(lambda s: s.restored))
            lines.writerow([name, "mean", "", "", *means, *paper, "", "", "", *run])
        return text.getvalue()


def _finite(scores: Scores) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in scores._asdict().items()
    }
