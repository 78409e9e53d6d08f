"""The commands `info` and `bench`, which describe networks, and their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.bar import Bar
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .. import checkpoints, evaluation, inference
from .. import network as networks
from ..checkpoints import CHECKPOINTS, TASKS
from ..text import columns
from .console import Console
from .options import NAMES, Device, Json, completion
from .weights import official_checkpoint

if TYPE_CHECKING:
    import torch
    from rich.console import Console as Terminal
    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from ..evaluation import Measurement
    from ..network import Restormer, Structure

Network = Annotated[
    str,
    typer.Argument(
        metavar="TASK|CHECKPOINT",
        help="Network to use: that of a task, an official checkpoint or a file.",
        autocompletion=completion(*NAMES),
    ),
]

BARS_WIDTH = 100
"""Least width of a terminal at which bars are drawn."""

FULL_WIDTH = 120
"""Least width of a terminal at which all columns are shown, and tables side by side."""

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def info(
    console: Console,
    name: Network = "denoise",
    height: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Height of the image to compute the cost for.",
        ),
    ] = 256,
    width: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Width of the image to compute the cost for.",
        ),
    ] = 256,
    json: Json = False,
) -> None:
    """Show the levels, parameters, multiply-adds and memory of a network.

    Nothing is downloaded. At the end, the shapes of the network's feature maps for a random 64 x 64
    image are listed.

    Examples:
        restormer info                                    # the default for denoising
        restormer info mine.safetensors                   # the network in a file
        restormer info derain --width 4000 --height 3000  # cost of 12 megapixels
    """
    network = load_architecture(name)
    summary = networks.summarize(network.architecture, height, width)
    shapes = networks.trace_shapes(network)
    if json:
        console.object({**summary.as_dict(), "proof": dict(shapes)})
        return
    console.render(SummaryTables(summary))
    console.result("Shapes of the feature maps for a random 64 x 64 image:")
    rows = [(stage, " x ".join(map(str, shape))) for stage, shape in shapes]
    console.result(columns(*rows, indent=2))


def bench(
    console: Console,
    name: Network = "denoise",
    size: Annotated[
        list[int] | None,
        typer.Option(
            min=8,
            metavar="PIXELS",
            help="Side of the square image to measure; repeatable. Default: 512.",
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Number of runs; the fastest one counts."),
    ] = 1,
    plain: Annotated[
        bool, typer.Option(metavar="", help="Include the published formulation for comparison.")
    ] = True,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure speed and memory of the published formulation, the exact strips and tiles.

    Nothing is downloaded: speed does not depend on the weights' values.

    Examples:
        restormer bench                               # the default at 512 x 512
        restormer bench mine.safetensors --size 1024  # a file at 1024 x 1024
    """
    chosen = inference.choose_device(device)
    network = load_architecture(name).to(chosen)
    sizes = [networks.round_up(side) for side in size or [512]]
    measurements = []
    for measurement in evaluation.run_benchmark(
        network, sizes, repeat=repeat, with_published=plain
    ):
        measurements.append(measurement)
        if json:
            console.object(measurement.as_dict())
    if not json:
        console.render(benchmark_table(measurements, chosen))


def load_architecture(name: str) -> Restormer:
    """Return the network of a task, official checkpoint or file.

    An official network gets random weights, so that its file is not needed.

    Raises:
        CheckpointError: `name` is none of these, or the file contains no network.
    """
    if name in TASKS or name in CHECKPOINTS:
        official = official_checkpoint(name)
        architecture = networks.Architecture(
            in_channels=official.channels,
            out_channels=1 if official.channels == 1 else 3,
            layer_norm="BiasFree" if official.task == "denoise" else "WithBias",
            dual_pixel=official.channels == 6,
        )
        return networks.Restormer(architecture).eval()
    bundled = {row.name: row.path for row in checkpoints.list_checkpoints() if row.path}
    return checkpoints.load_network(bundled.get(name, name))


@dataclass(frozen=True)
class SummaryTables:
    """Renderable tables of a network's stages, indented by level, and of its memory."""

    structure: Structure

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        s, columns = self.structure, options.max_width
        title = f"Restormer on {s.width} x {s.height} pixels"
        yield Padding(Text(title, style="bold"), (1, 0))
        yield _stages_table(s, columns, bars=columns >= BARS_WIDTH and not options.ascii_only)
        yield _note(
            "Resolution and channels are those of the stage's output.",
            "Multiply-adds are those of the convolutions, as in the paper (140.99 G at 256 x 256). "
            "The two products of channel attention add "
            f"{_count(s.attention, s.multiply_adds)}. Only half of that is computed here, "
            "because the second product is folded into the output projection.",
        )
        memory: list[RenderableType] = [_levels_table(s), _peaks_table(s)]
        if columns >= FULL_WIDTH:
            side_by_side = Table.grid(padding=(0, 4))
            side_by_side.add_row(*memory)
            memory = [side_by_side]
        for part in memory:
            yield Padding(part, (1, 0, 0, 0))
        yield _note(
            "Activations in fp32, without the image and the weights "
            f"({_bytes(4 * s.parameters)}). The published formulation keeps every named map to "
            "the end. Restormer.forward was measured operation by operation."
        )


def _note(*lines: str) -> RenderableType:
    return Padding(Text("\n".join(lines), style="dim"), (1, 0, 0, 0))


def _table(*headers: str, **options: Any) -> Table:
    """Return an empty table whose first column is aligned left and the others right."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, **options)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    return table


def _stages_table(structure: Structure, columns: int, bars: bool) -> Table:
    with_attention = columns >= FULL_WIDTH
    table = _table(
        *("Stage", "Resolution", "Blocks", "Chan-\nnels", "Heads", "Hidden", "Parameters"),
        *("Multiply-\nadds", *(["Attention"] if with_attention else []), "Share"),
        padding=(0, 1 if columns >= BARS_WIDTH else 0, 0, 0),
        show_footer=True,
    )
    total = structure.multiply_adds
    by = " x " if max(structure.height, structure.width) < 10_000 else "x"
    largest = max(s.share for s in structure.stages)
    if bars:  # in the space that the other columns leave
        table.add_column(width=min(24, columns - (101 if with_attention else 90)))
    for s in structure.stages:
        row: list[RenderableType] = [
            "  " * (s.level - 1) + s.title,
            f"{s.width}{by}{s.height}",
            *("" if n is None else f"{n}" for n in (s.blocks, s.channels, s.heads, s.hidden)),
            f"{s.parameters:,}",
            _count(s.multiply_adds, total),
        ]
        if with_attention:
            row.append(_count(s.attention, total) if s.attention else "")
        row.append(f"{s.share:.1%}")
        if bars:
            row.append(Bar(largest, 0, s.share, color="cyan"))
        table.add_row(*row, style="dim" if s.blocks is None else "")
    totals = {
        "Stage": "total",
        "Parameters": f"{structure.parameters:,}",
        "Multiply-\nadds": _count(total, total),
        "Attention": _count(structure.attention, total),
        "Share": "100%",
    }
    for column in table.columns:
        column.footer = Text(totals.get(str(column.header), ""), style="bold")
    return table


def _levels_table(structure: Structure) -> Table:
    table = _table("Level", "Resolution", "Channels", "One feature map")
    for level in structure.levels:
        size = f"{level.width} x {level.height}"
        table.add_row(f"{level.level}", size, f"{level.channels}", _bytes(level.map_bytes))
    return table


def _peaks_table(structure: Structure) -> Table:
    table = _table("Peak activation memory", "This size", "Per megapixel")
    for peak in structure.peaks:
        table.add_row(peak.title, _bytes(peak.bytes), f"{peak.bytes_per_megapixel / 2**30:.2f} GiB")
    return table


def _count(count: int, total: int) -> str:
    """Format a count in the largest unit in which the total is at least 1."""
    size, letter = next((unit for unit in UNITS if total >= unit[0]), UNITS[-1])
    return f"{count / size:,.2f} {letter}"


def _bytes(count: int) -> str:
    mebibytes = count / 2**20
    return f"{mebibytes:.1f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.2f} GiB"


def benchmark_table(measurements: list[Measurement], device: torch.device) -> Table:
    """Return the measurements as a table for a terminal of 80 columns."""
    import torch

    where = f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    table = Table(title=f"Restormer on {where}", title_justify="left", box=None, pad_edge=False)
    for heading in ("pixels", "way", "", "seconds", "MP/s", "ratio", "memory", "of peak", "PSNR"):
        table.add_column(heading, justify="left" if heading in ("way", "") else "right")
    last = None
    for m in measurements:
        if last not in (None, m.size):
            table.add_row()
        table.add_row(
            "" if last == m.size else f"{m.size} x {m.size}",
            m.way,
            m.precision,
            f"{m.seconds:.2f}",
            f"{m.megapixels_per_second:.3f}",
            "" if m.ratio is None else Text(f"{m.ratio:.2f}", style="bold"),
            f"{m.memory / 2**30:.2f} GiB",
            f"{m.of_peak:.0%}",
            "" if m.psnr is None or m.way == "plain" else f"{m.psnr:.1f} dB",
        )
        last = m.size
    return table
