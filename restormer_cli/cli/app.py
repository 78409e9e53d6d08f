"""The command line: what `restormer` can be told, and the way it ends."""

import json
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from .._version import __version__
from ..errors import RestormerError
from .console import Console
from .evaluate import Evaluating
from .evaluate import run as measure
from .info import bench, doctor, info
from .options import Defocusing, Denoising, Restoring, takes
from .report import compare, report
from .train import train
from .weights import weights

INTERRUPTED = 130
RESTORE, LOOK = "Restore", "Look at results"
KNOW, TRAIN = "Weights and machine", "Train"

app = typer.Typer(
    name="restormer",
    help="Restore photographs: remove noise, rain, motion blur and defocus blur with the "
    "Restormer network.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # what we did not foresee shows Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)

VARIABLES = "Each option can also be set by a variable: --skip-existing by RESTORMER_SKIP_EXISTING."


def _restoring_examples(*lines: tuple[str, str]) -> str:
    """The end of a restoring command's help text."""
    return f"{_examples(*lines)}\n\n{VARIABLES}"


def _examples(*lines: tuple[str, str]) -> str:
    """The end of a help text: commands, and what each is for."""
    width = max(len(command) for command, _ in lines)
    shown = [f"  [cyan]{command:{width}}[/]  [dim]{purpose}[/]" for command, purpose in lines]
    return "\n".join(["[bold]Examples[/]", *shown])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"restormer {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    context.ensure_object(Console)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit status.

    0: all done. 1: some inputs failed, the others are done. 2: wrong usage, nothing done. 3: could
    not start (weights, device). 130: interrupted, nothing half-written.
    """
    console = Console()
    before = signal.signal(signal.SIGTERM, _interrupt)
    status = 1
    try:
        app(arguments, prog_name="restormer", obj=console)
    except RestormerError as error:
        console.error(error)
        status = error.exit_status
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    """Let SIGTERM end the program as Ctrl-C does: all that cleans up after that, cleans up."""
    raise KeyboardInterrupt


# --- restoring ----------------------------------------------------------------------------------


@app.command(
    rich_help_panel=RESTORE,
    epilog=_restoring_examples(
        ("restormer denoise photo.jpg", "writes photo.restored.jpg"),
        ("restormer denoise photo.jpg -o clean.png", "to this file"),
        ("restormer denoise holiday/ -r -o clean/", "a folder and all below it"),
        ("restormer denoise scan.tif --sigma 25", "Gaussian noise of a known level"),
        ("restormer denoise '*.jpg' --weights lite", "the bundled weights, no network"),
    ),
)
@takes(Denoising)
def denoise(console: Console, options: Denoising) -> None:
    """Remove noise: a camera's at high ISO, or added Gaussian noise."""
    _restore(console, options, "denoise")


@app.command(
    rich_help_panel=RESTORE,
    epilog=_restoring_examples(
        ("restormer derain street.jpg -o dry.png", "to this file"),
        ("restormer derain frames/ --device cuda", "a folder, on the first GPU"),
        ("restormer derain frames/ --skip-existing", "go on where a run was stopped"),
    ),
)
@takes(Restoring)
def derain(console: Console, options: Restoring) -> None:
    """Remove rain streaks."""
    _restore(console, options, "derain")


@app.command(
    rich_help_panel=RESTORE,
    epilog=_restoring_examples(
        ("restormer deblur shaken.jpg", "writes shaken.restored.jpg"),
        ("restormer deblur - < in.jpg > out.jpg", "in a pipe"),
        ("restormer deblur shots/ --dry-run", "what it would do, in how much memory"),
    ),
)
@takes(Restoring)
def deblur(console: Console, options: Restoring) -> None:
    """Remove motion blur: a moving subject, or a camera that was not held still."""
    _restore(console, options, "deblur")


@app.command(
    rich_help_panel=RESTORE,
    epilog=_restoring_examples(
        ("restormer defocus soft.jpg", "writes soft.restored.jpg"),
        ("restormer defocus l.png --right r.png", "from the two views of a dual-pixel sensor"),
        ("restormer defocus l/ --right r/ -o out/", "folders of them, with the same names"),
    ),
)
@takes(Defocusing)
def defocus(console: Console, options: Defocusing) -> None:
    """Sharpen what is out of focus, from one image or from the two views of a dual-pixel sensor."""
    _restore(console, options, "defocus")


def _restore(console: Console, options: Restoring, task: str) -> None:
    console.configure(json=options.json, quiet=options.quiet, verbose=options.verbose)
    from .restore import run  # NumPy, OpenCV and Pillow

    if run(console, task, options).failed:
        raise typer.Exit(1)


# --- what came of it ----------------------------------------------------------------------------

app.command(
    rich_help_panel=LOOK,
    epilog=_examples(
        ("restormer compare in.jpg out.jpg -o sheet.png", "a picture"),
        ("restormer compare in.jpg a.png b.png -o page.html", "two results, on a page"),
        ("restormer compare in.jpg out.jpg -o s.png --crop 100,80,200,150", "this part enlarged"),
    ),
)(compare)
app.command(
    rich_help_panel=LOOK,
    epilog=_examples(
        ("restormer report holiday-restored", "writes holiday-restored-report.html"),
        ("restormer report clean -o clean.html", "to this file"),
    ),
)(report)


# --- what there is ------------------------------------------------------------------------------

app.add_typer(weights, name="weights", rich_help_panel=KNOW)
app.command(rich_help_panel=KNOW)(doctor)
app.command(
    rich_help_panel=KNOW,
    epilog=_examples(
        ("restormer info", "the published network for denoising"),
        ("restormer info mine.safetensors", "the network in a file"),
        ("restormer info derain --width 4000 --height 3000", "its cost for 12 megapixels"),
    ),
)(info)
app.command(
    rich_help_panel=KNOW,
    epilog=_examples(
        ("restormer bench", "the published network at 512 x 512"),
        ("restormer bench mine.safetensors --size 1024", "the network in a file at 1024 x 1024"),
    ),
)(bench)


@app.command(
    "eval",
    rich_help_panel=KNOW,
    epilog=_examples(
        ("restormer eval denoise --clean McMaster/", "the paper's noise: 15,25,50"),
        ("restormer eval derain --clean target/ --degraded input/", "pairs of the same name"),
        ("restormer eval deblur --clean photos/ --degrade motion:heavy", "degraded here"),
    ),
)
@takes(Evaluating)
def evaluate(console: Console, given: Evaluating) -> None:
    """Measure PSNR and SSIM on clean images, by the paper's protocol for the task.

    Where a folder is called as a set that the paper measured, its figures stand beside.

    The exit status is 1 if an image has no counterpart or cannot be measured.
    """
    console.configure(json=given.json, quiet=given.quiet, verbose=given.verbose)
    measure(console, given)


@app.command(
    rich_help_panel=KNOW,
    epilog=_examples(("restormer schema > events.schema.json", "for a validator")),
)
def schema(context: typer.Context) -> None:
    """Print the JSON Schema of the events that --json gives, one a line."""
    from ..batch import event_schema

    console: Console = context.obj
    console.result(json.dumps(event_schema(), indent=2))


# --- training -----------------------------------------------------------------------------------


app.command(
    rich_help_panel=TRAIN,
    epilog=_examples(
        ("restormer train denoise --photos DIR -o my.safetensors --hours 3", ""),
        ("restormer train derain --pairs WET DRY -o my.safetensors --steps 9000", "photographed"),
        ("torchrun --nproc-per-node 4 -m restormer_cli train ...", "on four GPUs"),
        ("restormer denoise in.png --weights my.safetensors", "uses what came of it"),
    ),
)(train)
