"""The command `eval` and its table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .. import degradations, evaluation, files, imaging, inference
from ..batch import ImageProgress
from ..checkpoints import CheckpointQuery, NoiseKind, weights_label
from ..errors import UsageError
from ..text import printable, reason
from .console import Console
from .options import (
    Contradictions,
    NetworkOptions,
    Precision,
    TaskArgument,
    check_options,
    note_unused_choices,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..evaluation import Condition, Outcome, Results
    from ..files import Pair
    from ..imaging import Scores
    from ..inference import RestorerConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(NetworkOptions):
    """Options of `eval`."""

    precision: Precision = "fp32"
    task: TaskArgument
    clean: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the clean images.", show_default=False)
    ]
    degraded: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of their degraded counterparts. Default: degrade them here."
        ),
    ] = None
    right: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of right dual-pixel views; --degraded holds the left ones. Default: one "
            "view.",
        ),
    ] = None
    pair: Annotated[
        Literal["name", "order"],
        typer.Option(help="Match counterparts by file name, or by position in natural order."),
    ] = "name"
    sigma: Annotated[
        str | None,
        typer.Option(
            metavar="LEVELS",
            help="Add Gaussian noise of these levels (of 255), as the paper does. Default for "
            "denoise without other degradations: 15,25,50.",
        ),
    ] = None
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:SEVERITY",
            help="Degrade the clean images by noise, rain, streaks, motion or defocus, each "
            "light, medium or heavy; several separated by commas. Default: none.",
        ),
    ] = None
    noise: Annotated[
        NoiseKind | None,
        typer.Option(
            help="Noise that the official weights are for. Default: real (camera) with "
            "--degraded, else gaussian."
        ),
    ] = None
    gray: Annotated[
        bool,
        typer.Option(
            "--gray",
            metavar="",
            help="Convert images to grey and use the official weights for grey images.",
        ),
    ] = False
    per_sigma: Annotated[
        bool,
        typer.Option(
            "--per-sigma",
            metavar="",
            help="Use the official weights of each noise level instead of the blind ones.",
        ),
    ] = False
    bands: Annotated[
        bool,
        typer.Option(
            "--bands",
            metavar="",
            help="Also measure what is left of noise and rain and what is lost of detail, by "
            "frequency band.",
        ),
    ] = False
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the table as CSV. Default: none."),
    ] = None

    @property
    def levels(self) -> str | None:
        """Levels of Gaussian noise. Default for denoise: the published ones."""
        given = (self.sigma, self.degrade, self.degraded)
        if self.task == "denoise" and all(option is None for option in given):
            return "15,25,50"
        return self.sigma

    def condition_config(self, condition: Condition) -> RestorerConfig:
        """Return the configuration of the restorer for a condition.

        Raises:
            UsageError: no weights were published for this combination.
        """
        gaussian = self.task == "denoise" and self.noise is None and self.degraded is None
        return replace(
            self.restorer_config(self.task),
            noise="gaussian" if gaussian else self.noise,
            sigma=f"{condition.sigma:g}" if self.per_sigma else None,
            gray=self.gray,
            dual_pixel=self.right is not None,
        )


CONTRADICTIONS: Contradictions = (
    (
        lambda o: sum(x is not None for x in (o.degraded, o.sigma, o.degrade)) > 1,
        "--degraded, --sigma and --degrade exclude each other",
        "Give one of them.",
    ),
    (
        lambda o: o.task != "denoise" and o.sigma is not None,
        "--sigma is for denoise",
        "Choose a degradation with --degrade.",
    ),
    (
        lambda o: all(x is None for x in (o.levels, o.degrade, o.degraded)),
        "no degraded images given",
        "Give --degraded DIR, or for example --degrade rain:medium.",
    ),
    (
        lambda o: o.right is not None and o.degraded is None,
        "--right needs --degraded, the left views",
        "Give both.",
    ),
    (
        lambda o: o.per_sigma and o.levels is None,
        "--per-sigma needs the levels of --sigma",
        "Leave it out.",
    ),
)


def evaluate(console: Console, options: EvaluateOptions) -> None:
    """Measure PSNR and SSIM on clean images, by the paper's protocol for the task.

    If the folder is named like a test set of the paper, the published figures are shown too. The
    exit status is 1 if an image has no counterpart or cannot be measured.

    Examples:
        restormer eval denoise --clean McMaster/                  # noise 15,25,50
        restormer eval derain --clean target/ --degraded input/   # pairs
        restormer eval deblur --clean hq/ --degrade motion:heavy  # synthetic
    """
    _ = CheckpointQuery(options.task).checkpoint  # rejects an unknown task
    check_options(options, CONTRADICTIONS)
    if options.csv is not None:
        check_table(options.csv)
    conditions = evaluation.parse_conditions(options.levels, options.degrade)
    for condition in conditions:  # rejects unpublished combinations before the first is measured
        options.condition_config(condition)
    pairs, unpaired = files.match_pairs(
        options.clean,
        options.degraded,
        options.right,
        suffixes=imaging.readable_suffixes(),
        by_order=options.pair == "order",
    )
    for path in unpaired:
        console.warn(f"{printable(str(path))}: no image of this name in the other folder")
    choices = {
        "--noise": options.noise,
        "--per-sigma": options.per_sigma,
        "--gray, as a choice of weights": options.gray,
    }
    note_unused_choices(console, options.weights, choices)
    outcomes = _measure(console, options, conditions, pairs)
    channels = {score.channels for outcome in outcomes for score in outcome.scores}
    results = evaluation.Results(
        task=options.task,
        folder=options.clean,
        protocol=imaging.PROTOCOLS[options.task],
        outcomes=outcomes,
        published=evaluation.published_row(
            options.task,
            sigma=options.levels is not None,
            gray=channels == {1},
            per_sigma=options.per_sigma,
            two_views=options.right is not None,
            window=options.window,
        ),
        known=evaluation.known_set(options.clean),
        unpaired=unpaired,
    )
    if options.json:
        console.object(results.as_dict())
    else:
        console.render(results_table(results))
    if options.csv is not None:
        try:
            table = results.as_csv().encode(errors="surrogateescape")  # names byte by byte
            files.write_atomic(options.csv, table)
        except OSError as error:
            raise UsageError(
                f"{options.csv}: cannot be written ({reason(error)})",
                files.write_hint(error, "Choose another file."),
            ) from error
    if unpaired or results.failed:
        raise typer.Exit(1)


def check_table(path: Path) -> None:
    """Raise UsageError if the table cannot be written, or would replace another kind of file."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such folder", "Create it, or choose another.")
    start = evaluation.TABLE_START
    if files.is_foreign(path, start, within=len(start)):
        raise UsageError(
            f"{path}: exists and is not a table of restormer", "Choose another name, or remove it."
        )


def _measure(
    console: Console, options: EvaluateOptions, conditions: list[Condition], pairs: list[Pair]
) -> list[Outcome]:
    """Measure all conditions and show progress."""
    outcomes: list[Outcome] = []
    number = 0

    def show_progress(name: str, done: int, total: int) -> None:
        console.show_progress(ImageProgress(number, name, done, total))

    with console.progress(len(conditions) * len(pairs)):
        for condition in conditions:
            if options.per_sigma or not outcomes:
                config = options.condition_config(condition)
                restorer = inference.Restorer(config, notify=console.warn)
            outcome = evaluation.Outcome(condition, restorer.weights, str(restorer.device))
            outcomes.append(outcome)
            for result in evaluation.evaluate(
                condition,
                restorer,
                pairs,
                imaging.PROTOCOLS[options.task],
                gray=options.gray,
                meter=outcome.meter if options.bands else None,
                progress=show_progress,
            ):
                number += 1
                if isinstance(result, evaluation.Score):
                    outcome.scores.append(result)
                    console.detail(
                        f"{printable(result.image)} {condition.name}".rstrip()
                        + f": {result.degraded.psnr:.2f} -> {result.restored.psnr:.2f} dB, "
                        f"{result.seconds:.1f} s"
                    )
                else:
                    outcome.failures.append(result)
                    console.warn(f"{printable(result.error)}: left out")
    return outcomes


def results_table(results: Results) -> RenderableType:
    """Return the protocol, the scores of all images, their means, and the published means."""
    remark = [Text(), Text(results.remark)] if results.remark else []
    bands = [
        part
        for outcome in results.outcomes
        if outcome.meter.images
        for part in _bands(outcome, results.task)
    ]
    return Group(_facts_table(results), Text(), _scores_table(results), *bands, *remark)


def _facts_table(results: Results) -> Table:
    count = str(len({s.image for outcome in results.outcomes for s in outcome.scores}))
    name = printable(str(results.folder))
    if results.known is not None:
        name, size = evaluation.SETS[results.known]
        count = count if str(size or count) == count else f"{count} of {size}"
    outcomes = results.outcomes
    facts = {
        "set": [f"{name}, {count} {'image' if count == '1' else 'images'}, {results.task}"],
        "weights": [
            f"{printable(weights_label(o.weights.name, o.weights.source))}, "
            f"SHA-256 {o.weights.sha256}"
            for o in outcomes
        ],
        "restored": [
            f"{s.strategy}, in {s.precision} on {o.device}" for o in outcomes for s in o.scores
        ],
        "degraded": [outcome.condition.description for outcome in outcomes],
        "compared": [results.protocol.description],
        "PSNR": [f"{imaging.PSNR_DEFINITION}, in dB"],
        "SSIM": [imaging.SSIM_DEFINITION],
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, values in facts.items():
        for row, value in enumerate(dict.fromkeys(values)):
            table.add_row("" if row else label, Text(value))
    return table


def _scores_table(results: Results) -> Table:
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
            table.add_row(Text(printable(score.image)), *_cells(score.degraded, score.restored))
        if outcome.scores:
            degraded = outcome.mean(lambda score: score.degraded)
            restored = outcome.mean(lambda score: score.restored)
            table.add_row("mean", *_cells(degraded, restored), style="bold")
        if (paper := results.paper(outcome)) is not None:
            ssim = "" if paper.ssim is None else f"{paper.ssim:.3f} "
            name = Text(", ".join(filter(None, ["the paper's", results.published.variant])))
            table.add_row(name, "", "", f"{paper.psnr:.2f}", ssim, "", style="cyan")
    return table


def _bands(outcome: Outcome, task: str) -> Iterator[RenderableType]:
    """Yield a table of what is left or lost in each frequency band, and the other measures."""
    residual = outcome.meter.residual()
    table = Table(box=None, pad_edge=False)
    table.add_column(outcome.condition.name)
    for limit in degradations.OCTAVES:
        table.add_column(limit, justify="right")
    table.add_row("%, up to this part of the Nyquist frequency", style="dim")
    table.add_row("noise left in luma", *percentages(residual.luma))
    table.add_row("noise left in chroma", *percentages(residual.chroma))
    table.add_row("detail lost in luma", *percentages(residual.detail))
    yield Text()
    yield table
    if task == "derain":
        strong, weak = percentages([residual.strong, residual.weak])
        yield Text(f"rain left: {strong} % in strong streaks, {weak} % in weak ones")
    yield Text(f"drift of the mean: {residual.drift:.2f} of 255")


def percentages(shares: Iterable[float | None]) -> list[str]:
    """Return shares in percent; "-" for those that are missing."""
    return ["-" if share is None else f"{100 * share:.0f}" for share in shares]


def _cells(degraded: Scores, restored: Scores) -> list[str]:
    gain = restored.psnr - degraded.psnr
    return [
        f"{degraded.psnr:.2f}",
        f"{degraded.ssim:.4f}",
        f"{restored.psnr:.2f}",
        f"{restored.ssim:.4f}",
        "" if math.isnan(gain) else f"{gain:+.2f}",
    ]
