"""The command `eval`: what it can be told, and the way from there to its table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..batch import ImageProgress
from ..checkpoints import TASKS, weights_label
from ..errors import UsageError
from ..text import printable
from .console import Console
from .options import (
    Device,
    Ensemble,
    Json,
    Overlap,
    Precision,
    Quiet,
    Tile,
    Verbose,
    Weights,
    Window,
    tile_side,
)

if TYPE_CHECKING:
    from ..evaluation import Condition, Outcome, Results, Score
    from ..files import Pair
    from ..imaging import Scores
    from ..inference import Restorer, RestorerConfig


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """What `eval` can be told."""

    task: Annotated[str, typer.Argument(metavar="TASK", help="denoise, derain, deblur or defocus.")]
    clean: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The clean images.", show_default=False),
    ]
    degraded: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Their degraded counterparts.")
    ] = None
    right: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Right dual-pixel views; --degraded are the left ones."),
    ] = None
    pair: Annotated[
        Literal["name", "order"],
        typer.Option(help="Counterparts have the same name, or the same place in the order."),
    ] = "name"
    sigma: Annotated[
        str | None,
        typer.Option(
            metavar="LEVELS",
            help="Add Gaussian noise of these levels of 255, as the paper does. What denoise does "
            "if no other degradation is named: 15,25,50.",
        ),
    ] = None
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:SEVERITY",
            help="Degrade the clean images: noise, rain, motion or defocus; light, medium or "
            "heavy. Several with commas between.",
        ),
    ] = None
    noise: Annotated[
        Literal["real", "gaussian"] | None,
        typer.Option(
            help="What noise the official weights are for: Gaussian, but with --degraded a "
            "camera's (real)."
        ),
    ] = None
    gray: Annotated[
        bool,
        typer.Option(
            "--gray", metavar="", help="Colour is made grey; the official weights for grey."
        ),
    ] = False
    per_sigma: Annotated[
        bool,
        typer.Option(
            "--per-sigma", metavar="", help="The official weights of each level, not the blind."
        ),
    ] = False
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as CSV, too.")
    ] = None
    tile: Tile = "auto"
    overlap: Overlap = 32
    window: Window = None
    ensemble: Ensemble = False
    weights: Weights = "auto"
    device: Device = "auto"
    precision: Precision = "fp32"
    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    @property
    def levels(self) -> str | None:
        """The levels of Gaussian noise: those that are published, if nothing else is asked for."""
        said = (self.sigma, self.degrade, self.degraded)
        if self.task == "denoise" and all(one is None for one in said):
            return "15,25,50"
        return self.sigma


CONTRADICTIONS: tuple[tuple[Callable[[Evaluating], bool], str, str], ...] = (
    (
        lambda given: given.task not in TASKS,
        "there is no such task",
        f"There are {', '.join(TASKS)}.",
    ),
    (
        lambda given: sum(x is not None for x in (given.degraded, given.sigma, given.degrade)) > 1,
        "--degraded, --sigma and --degrade each say what the degraded images are",
        "Give one of them.",
    ),
    (
        lambda given: given.task != "denoise" and given.sigma is not None,
        "--sigma is for denoise",
        "Say what --degrade shall do.",
    ),
    (
        lambda given: all(x is None for x in (given.levels, given.degrade, given.degraded)),
        "there is nothing to restore",
        "Give --degraded DIR, or --degrade rain:medium, for example.",
    ),
    (
        lambda given: given.right is not None and given.degraded is None,
        "--right goes with --degraded, the left views",
        "Give both.",
    ),
    (
        lambda given: given.per_sigma and given.levels is None,
        "--per-sigma is for the levels of --sigma",
        "Leave it out.",
    ),
)
"""Options that make no sense together: when, what is wrong, and what to do."""


def run(console: Console, given: Evaluating) -> None:
    """Measure, and show what was measured.

    Raises:
        UsageError: the request makes no sense.
        CheckpointError: the weights cannot be had or do not fit.
        DeviceError: the device is not there.
        typer.Exit: with 1, if an image has no partner or could not be measured.
    """
    for applies, message, hint in CONTRADICTIONS:
        if applies(given):
            raise UsageError(message, hint)
    if given.csv is not None and not given.csv.absolute().parent.is_dir():
        raise UsageError(f"{given.csv}: there is no such folder", "Make it, or name another.")
    tile_side(given.tile)
    from ..evaluation import (
        Results,
        known_set,
        parse_conditions,
        published_row,
    )
    from ..files import match_pairs
    from ..imaging import PROTOCOLS, readable_suffixes

    conditions = parse_conditions(given.levels, given.degrade)
    for condition in conditions:  # what was not published is said at once
        _config(given, condition)
    found, unpaired = match_pairs(
        given.clean,
        given.degraded,
        given.right,
        suffixes=readable_suffixes(),
        by_order=given.pair == "order",
    )
    for path in unpaired:
        console.warn(f"{printable(str(path))}: no image of this name in the other folder")
    outcomes = _measured(console, given, conditions, found)
    channels = {score.channels for outcome in outcomes for score in outcome.scores}
    sheet = Results(
        task=given.task,
        folder=given.clean,
        protocol=PROTOCOLS[given.task],
        outcomes=outcomes,
        published=published_row(
            given.task,
            sigma=given.levels is not None,
            gray=channels == {1},
            per_sigma=given.per_sigma,
            two_views=given.right is not None,
            window=given.window,
        ),
        known=known_set(given.clean),
        unpaired=unpaired,
    )
    if given.json:
        console.object(sheet.as_dict())
    else:
        console.render(results_table(sheet))
    if given.csv is not None:
        _write(given.csv, sheet.as_csv())
    if unpaired or sheet.failed:
        raise typer.Exit(1)


def _noise(given: Evaluating) -> Literal["real", "gaussian"] | None:
    """What noise the official weights are for; what is added here is Gaussian."""
    if given.task == "denoise" and given.noise is None and given.degraded is None:
        return "gaussian"
    return given.noise


def _level(given: Evaluating, condition: Condition) -> str | None:
    return f"{condition.sigma:g}" if given.per_sigma else None


def _restorer(console: Console, given: Evaluating, condition: Condition) -> Restorer:
    from ..inference import Restorer

    return Restorer(_config(given, condition), notify=console.warn)


def _config(given: Evaluating, condition: Condition) -> RestorerConfig:
    from ..inference import RestorerConfig

    return RestorerConfig(
        given.task,
        weights=given.weights,
        device=given.device,
        precision=given.precision,
        tile=tile_side(given.tile),
        overlap=given.overlap,
        window=given.window,
        ensemble=given.ensemble,
        noise=_noise(given),
        sigma=_level(given, condition),
        gray=given.gray,
        dual_pixel=given.right is not None,
    )


def _measured(
    console: Console, given: Evaluating, conditions: list[Condition], pairs: list[Pair]
) -> list[Outcome]:
    """What comes of every condition, while a bar moves."""
    from ..evaluation import Outcome, Score, evaluate
    from ..imaging import PROTOCOLS

    outcomes: list[Outcome] = []
    restorer = _restorer(console, given, conditions[0])
    number = 0

    def told(name: str, done: int, total: int) -> None:
        console.part(ImageProgress(number, printable(name), done, total))

    with console.progress(len(conditions) * len(pairs)):
        for condition in conditions:
            if given.per_sigma and outcomes:
                restorer = _restorer(console, given, condition)
            outcome = Outcome(condition, restorer.weights, str(restorer.device))
            outcomes.append(outcome)
            for result in evaluate(
                condition,
                restorer,
                pairs,
                PROTOCOLS[given.task],
                gray=given.gray,
                progress=told,
            ):
                number += 1
                if isinstance(result, Score):
                    outcome.scores.append(result)
                    console.detail(_line(result, condition))
                else:
                    outcome.failures.append(result)
                    console.warn(f"{printable(result.error)}: left out")
    return outcomes


def _line(score: Score, condition: Condition) -> str:
    name = " ".join(filter(None, [printable(score.image), condition.name]))
    psnr = f"{score.degraded.psnr:.2f} -> {score.restored.psnr:.2f} dB"
    return f"{name}: {psnr}, {score.seconds:.1f} s"


def _write(path: Path, text: str) -> None:
    """Put the table into a file, whole or not at all."""
    from ..files import write_atomic

    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror})", "Name another file."
        ) from error


def results_table(results: Results) -> RenderableType:
    """What was measured and how; then every image, and the means beside the paper's."""
    parts: list[RenderableType] = [_facts(results), Text(), _scores(results)]
    if results.remark:
        parts += [Text(), Text(results.remark, style="dim")]
    return Group(*parts)


def _facts(results: Results) -> Table:
    from ..evaluation import SETS
    from ..imaging import PSNR_DEFINITION, SSIM_DEFINITION

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")

    def add(name: str, values: list[str]) -> None:
        for value in dict.fromkeys(values):
            facts.add_row(name, Text(value))
            name = ""

    count = str(len({s.image for outcome in results.outcomes for s in outcome.scores}))
    name = printable(str(results.folder))
    if results.known is not None:
        name, whole = SETS[results.known]
        count = count if str(whole or count) == count else f"{count} of {whole}"
    add("set", [f"{name}, {count} images, {results.task}"])
    add(
        "weights",
        [
            f"{printable(weights_label(o.weights.name, o.weights.source))}, "
            f"SHA-256 {o.weights.sha256}"
            for o in results.outcomes
        ],
    )
    add("restored", [f"{how} on {o.device}" for o in results.outcomes for how in _ways(o)])
    add("degraded", [outcome.condition.description for outcome in results.outcomes])
    add("compared", [results.protocol.description])
    add("PSNR", [f"{PSNR_DEFINITION}, in dB"])
    add("SSIM", [SSIM_DEFINITION])
    return facts


def _scores(results: Results) -> Table:

    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="ellipsis", no_wrap=True, max_width=32)
    for heading in ("degraded", "", "restored", "", "gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("", "PSNR", "SSIM", "PSNR", "SSIM", "dB", style="dim")
    for outcome in results.outcomes:
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
        if (paper := results.paper(outcome)) is not None:
            ssim = "" if paper.ssim is None else f"{paper.ssim:.3f} "
            name = Text(", ".join(filter(None, ["the paper's", results.published.variant])))
            table.add_row(name, "", "", f"{paper.psnr:.2f}", ssim, "", style="cyan")
    return table


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
