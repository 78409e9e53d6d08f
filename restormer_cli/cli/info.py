"""Commands that describe: `info`, `bench` and `doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.bar import Bar
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .._version import __version__
from ..checkpoints import CHECKPOINTS, TASKS
from ..text import columns, format_bytes
from .console import Console
from .options import Device, Json
from .weights import _official, _shown, _size

if TYPE_CHECKING:
    import torch
    from rich.console import Console as Terminal
    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from ..checkpoints import CheckpointStatus
    from ..evaluation import Measurement
    from ..network import Restormer, Structure


def info(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="TASK|CHECKPOINT", help="Whose network.")
    ] = "denoise",
    height: Annotated[int, typer.Option(min=1, help="Of the image whose cost is told.")] = 256,
    width: Annotated[int, typer.Option(min=1, help="Likewise.")] = 256,
    json: Json = False,
) -> None:
    """Show a network: its levels, parameters, multiply-adds and memory; nothing is downloaded.

    The proof at its end is a random image of 64 x 64 pixels that is sent through.
    """
    console: Console = context.obj
    console.configure(json=json)
    from ..network import summarize, trace_shapes

    shown = network(name)
    described = summarize(shown.architecture, height, width)
    shapes = trace_shapes(shown)
    if json:
        console.object({**described.as_dict(), "proof": dict(shapes)})
        return
    console.render(summary_table(described))
    passed = [(stage, " x ".join(map(str, shape))) for stage, shape in shapes]
    console.result("The shapes of a random 64 x 64 image on its way through:")
    console.result(columns(*passed, indent=2))


def bench(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="TASK|CHECKPOINT", help="Whose network.")
    ] = "denoise",
    size: Annotated[
        list[int] | None,
        typer.Option(min=8, metavar="PIXELS", help="Side of the image; may be repeated. [512]"),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of which the fastest counts.")] = 1,
    plain: Annotated[bool, typer.Option(help="Run the plain forward to compare with.")] = True,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure speed and memory here: the plain forward, the exact strips, and tiles.

    Nothing is downloaded: speed does not depend on the weights' values.
    """
    console: Console = context.obj
    console.configure(json=json)
    from ..evaluation import run_benchmark
    from ..inference import choose_device

    shown = network(name).to(choose_device(device))
    sizes = [-(-side // 8) * 8 for side in size or [512]]
    done = []
    for measurement in run_benchmark(shown, sizes, repeat=repeat, with_plain=plain):
        done.append(measurement)
        if json:
            console.object(measurement.as_dict())
    if not json:
        console.render(benchmark_table(done, choose_device(device)))


WIDE, WIDEST = 100, 120
"""Columns of a terminal from which on there is room for bars, and for everything."""


UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def summary_table(structure: Structure) -> RenderableType:
    """The structure for people: its stages as the U that they are, and its memory."""
    return _Report(structure)


@dataclass(frozen=True)
class _Report:
    structure: Structure

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        s, columns = self.structure, options.max_width
        yield _title(f"Restormer on {s.width} x {s.height} pixels")
        yield _stages_table(s, columns, bars=columns >= WIDE and not options.ascii_only)
        yield _note(
            "Resolution and channels: of the map that leaves the stage.",
            "Multiply-adds: of the convolutions, which is how the paper counts (its network takes "
            f"140.99 G at 256 x 256). The two products of channel attention are "
            f"{_count(s.attention, _unit(s.multiply_adds))} more; here only half of that is "
            "computed, since the second one is folded into the output projection.",
        )
        memory: list[RenderableType] = [_levels_table(s), _peaks_table(s)]
        if columns >= WIDEST:
            side_by_side = Table.grid(padding=(0, 4))
            side_by_side.add_row(*memory)
            memory = [side_by_side]
        for part in memory:
            yield Padding(part, (1, 0, 0, 0))
        yield _note(
            "Activations in fp32, without the image and the weights "
            f"({_bytes(4 * s.parameters)}). The published formulation, taken literally, keeps "
            "every named map to the end; the plain forward was metered, operation by operation."
        )


def _title(text: str) -> RenderableType:
    return Padding(Text(text, style="bold"), (1, 0))


def _note(*lines: str) -> RenderableType:
    return Padding(Text("\n".join(lines), style="dim"), (1, 0, 0, 0))


def _table(*headers: str, **options: Any) -> Table:
    """An empty table: the first column left, all others right, nothing wrapped."""
    t = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, **options)
    for number, header in enumerate(headers):
        t.add_column(header, justify="right" if number else "left", no_wrap=True)
    return t


def _stages_table(structure: Structure, columns: int, bars: bool) -> Table:
    with_attention = columns >= WIDEST
    t = _table(
        *("Stage", "Resolution", "Blocks", "Chan-\nnels", "Heads", "Hidden", "Parameters"),
        *("Multiply-\nadds", *(["Attention"] if with_attention else []), "Share"),
        padding=(0, 1 if columns >= WIDE else 0, 0, 0),
        show_footer=True,
    )
    unit = _unit(structure.multiply_adds)
    by = " x " if max(structure.height, structure.width) < 10_000 else "x"
    largest = max(s.share for s in structure.stages)
    if bars:  # as wide as what the other columns leave
        t.add_column(width=min(24, columns - (101 if with_attention else 90)))
    for s in structure.stages:
        row: list[RenderableType] = [
            "  " * (s.level - 1) + s.title,
            f"{s.width}{by}{s.height}",
            *("" if n is None else f"{n}" for n in (s.blocks, s.channels, s.heads, s.hidden)),
            f"{s.parameters:,}",
            _count(s.multiply_adds, unit),
        ]
        if with_attention:
            row.append(_count(s.attention, unit) if s.attention else "")
        row.append(f"{s.share:.1%}")
        if bars:
            row.append(Bar(largest, 0, s.share, color="cyan"))
        t.add_row(*row, style="dim" if s.blocks is None else "")
    totals = {
        "Stage": "total",
        "Parameters": f"{structure.parameters:,}",
        "Multiply-\nadds": _count(structure.multiply_adds, unit),
        "Attention": _count(structure.attention, unit),
        "Share": "100%",
    }
    for column in t.columns:
        column.footer = Text(totals.get(str(column.header), ""), style="bold")
    return t


def _levels_table(structure: Structure) -> Table:
    t = _table("Level", "Resolution", "Channels", "One feature map")
    for n in structure.levels:
        t.add_row(f"{n.level}", f"{n.width} x {n.height}", f"{n.channels}", _bytes(n.map_bytes))
    return t


def _peaks_table(structure: Structure) -> Table:
    t = _table("Activation memory, at its peak", "This size", "Per megapixel")
    for peak in structure.peaks:
        t.add_row(peak.title, _bytes(peak.bytes), f"{peak.bytes_per_megapixel / 2**30:.2f} GiB")
    return t


def _unit(count: int) -> tuple[float, str]:
    """The largest unit in which a count is not below one."""
    return next((unit for unit in UNITS if count >= unit[0]), UNITS[-1])


def _count(count: int, unit: tuple[float, str]) -> str:
    size, letter = unit
    return f"{count / size:,.2f} {letter}"


def _bytes(count: int) -> str:
    mebibytes = count / 2**20
    return f"{mebibytes:.1f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.2f} GiB"


def benchmark_table(measurements: list[Measurement], device: torch.device) -> Table:
    """Return the measurements as a table for a terminal of 80 columns."""
    import torch

    """The measurements as a table for a terminal of 80 columns."""
    where = f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
    shown = Table(title=f"Restormer on {where}", title_justify="left", box=None, pad_edge=False)
    for heading in ("pixels", "way", "", "seconds", "MP/s", "ratio", "memory", "of peak", "PSNR"):
        shown.add_column(heading, justify="left" if heading in ("way", "") else "right")
    last = None
    for m in measurements:
        if last not in (None, m.size):
            shown.add_row()
        shown.add_row(
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
    return shown


LIBRARIES = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pillow-heif",
    "rawpy",
    "safetensors",
    "huggingface-hub",
    "typer",
)


VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "RESTORMER_RELEASE_URL")


def doctor(context: typer.Context, json: Json = False) -> None:
    """Say what is installed, on what it can run, and what a run of each task would use."""
    console: Console = context.obj
    console.configure(json=json)
    facts = examination()
    if json:
        console.object(facts)
        return
    for title, group in facts.items():
        if isinstance(group, dict):
            rows = [[name, _shown(value)] for name, value in group.items()]
        else:
            rows = [list(group[0]), *([_shown(value) for value in row.values()] for row in group)]
        console.result(f"{title}\n{columns(*rows, indent=2)}")


def examination() -> dict[str, Any]:
    """What `doctor` tells: groups of facts, each a dict or a list of dicts, fit for JSON."""
    from huggingface_hub import constants

    from ..checkpoints import list_checkpoints
    from ..inference import describe_devices

    rows = list_checkpoints()
    return {
        "versions": {
            "restormer": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: _installed(name) for name in LIBRARIES},
        },
        "devices": [
            {**device, "free_memory": format_bytes(device["free_memory"])}
            for device in describe_devices()
        ],
        "cache": {
            "folder": constants.HF_HUB_CACHE,
            "from the release": str(Path(constants.HF_HOME) / "restormer"),
            **{row.name: str(row.path) for row in rows if row.state == "cached"},
        },
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "tasks": [_use(task, rows) for task in TASKS],
    }


def _use(task: str, rows: list[CheckpointStatus]) -> dict[str, str]:
    """What a run of this task would use, with a network and without."""
    official = next(row for row in rows if row.name == TASKS[task].official)
    lite = next(row for row in rows if row.task == task and row.state in ("bundled", "absent"))
    if official.path:
        return {"task": task, "online": official.name, "offline": official.name}
    return {
        "task": task,
        "online": f"{official.name}, to be downloaded ({_size(official.bytes)})",
        "offline": lite.name if lite.path else "nothing",
    }


def network(name: str) -> Restormer:
    """The network of a task or checkpoint; of the official ones one is built, without the file.

    Raises:
        CheckpointError: it is neither, and no file with a network.
    """
    from ..checkpoints import list_checkpoints, load_network
    from ..network import Architecture, Restormer

    if name in TASKS or name in CHECKPOINTS:
        official = _official(name)
        published = Architecture(
            in_channels=official.channels,
            out_channels=1 if official.channels == 1 else 3,
            layer_norm="BiasFree" if official.task == "denoise" else "WithBias",
            dual_pixel=official.channels == 6,
        )
        return Restormer(published).eval()
    bundled = {row.name: row.path for row in list_checkpoints() if row.path}
    return load_network(bundled.get(name, name))


def _installed(library: str) -> str | None:
    from importlib import metadata  # a tenth of the time that --help may take

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # another package may provide the module
        return None
