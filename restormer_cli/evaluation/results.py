"""What an evaluation found, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..cli.console import SOURCES, printable
from ..imaging.metrics import PSNR_DEFINITION, SSIM_DEFINITION, Protocol, Scores
from .published import REMARKS, SETS

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType
    from rich.table import Table

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

    # --- for people ---

    def render(self) -> RenderableType:
        """What was measured and how; then every image, and the means beside the paper's."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [self._head(), Text(), self._table()]
        if self.remark:
            parts += [Text(), Text(self.remark, style="dim")]
        return Group(*parts)

    def _head(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")

        def add(name: str, values: list[str]) -> None:
            for value in dict.fromkeys(values):
                facts.add_row(name, Text(value))
                name = ""

        count = str(len({s.image for outcome in self.outcomes for s in outcome.scores}))
        name = printable(str(self.folder))
        if self.known is not None:
            name, whole = SETS[self.known]
            count = count if str(whole or count) == count else f"{count} of {whole}"
        add("set", [f"{name}, {count} images, {self.task}"])
        add(
            "weights",
            [
                f"{printable(o.weights.name)} ({SOURCES.get(o.weights.source, o.weights.source)}), "
                f"SHA-256 {o.weights.sha256}"
                for o in self.outcomes
            ],
        )
        add("restored", [f"{how} on {o.device}" for o in self.outcomes for how in _ways(o)])
        add("degraded", [outcome.condition.description for outcome in self.outcomes])
        add("compared", [self.protocol.description])
        add("PSNR", [f"{PSNR_DEFINITION}, in dB"])
        add("SSIM", [SSIM_DEFINITION])
        return facts

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("image", overflow="ellipsis", no_wrap=True, max_width=32)
        for heading in ("degraded", "", "restored", "", "gain"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row("", "PSNR", "SSIM", "PSNR", "SSIM", "dB", style="dim")
        for outcome in self.outcomes:
            if outcome.condition.name:
                table.add_row()
                table.add_row(Text(outcome.condition.name, style="bold"))
            for score in outcome.scores:
                name = Text(printable(score.image))
                table.add_row(name, *_cells(score.degraded, score.restored))
            if outcome.scores:
                cells = _cells(
                    outcome.mean(lambda score: score.degraded),
                    outcome.mean(lambda score: score.restored),
                )
                table.add_row("mean", *cells, style="bold")
            if (paper := self.paper(outcome)) is not None:
                ssim = "" if paper.ssim is None else f"{paper.ssim:.3f} "
                name = Text(", ".join(filter(None, ["the paper's", self.published.variant])))
                table.add_row(name, "", "", f"{paper.psnr:.2f}", ssim, "", style="cyan")
        return table

    # --- for programs ---

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


def _ways(outcome: Outcome) -> list[str]:
    """How its images were restored: mostly all in one way."""
    return list(dict.fromkeys(f"{s.strategy}, in {s.precision}" for s in outcome.scores))


def _cells(degraded: Scores, restored: Scores) -> list[str]:
    gain = restored.psnr - degraded.psnr
    return [
        f"{degraded.psnr:.2f}",
        f"{degraded.ssim:.4f}",
        f"{restored.psnr:.2f}",
        f"{restored.ssim:.4f}",
        "" if math.isnan(gain) else f"{gain:+.2f}",
    ]


def _finite(scores: Scores) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in scores._asdict().items()
    }
