"""The `restormer` program: its commands, their examples, and the exit statuses."""

import inspect
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn

import typer

from .. import batch
from .._version import __version__
from ..errors import RestormerError
from .console import Console
from .evaluate import evaluate
from .info import bench, doctor, info
from .options import typer_command
from .report import compare, report
from .restore import deblur, defocus, denoise, derain
from .train import train
from .weights import weights

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM."""


def schema(console: Console) -> None:
    """Print the JSON Schema of the events that --json writes.

    Examples:
        restormer schema > events.schema.json  # for a validator
    """
    console.result(json.dumps(batch.event_schema(), indent=2))


RESTORE = "Restore"
MACHINE = "Weights and machine"

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    RESTORE: {"denoise": denoise, "derain": derain, "deblur": deblur, "defocus": defocus},
    "Look at results": {"compare": compare, "report": report},
    MACHINE: {"doctor": doctor, "info": info, "bench": bench, "eval": evaluate, "schema": schema},
    "Train": {"train": train},
}
"""Commands by panel of `restormer --help` and by name."""

VARIABLES = "Environment variables set options too: RESTORMER_SKIP_EXISTING=1 is --skip-existing."


def register(panel: str, name: str, function: Callable[..., None]) -> None:
    """Add a command, whose help text is the docstring of the function.

    The lines of the docstring's "Examples:" become the end of the help text.
    """
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)  # rich wraps the paragraphs
    lines = [
        re.sub(r"^ *(.*?)( *# .*)$", r"[cyan]\1[/][dim]\2[/]", line.replace("[", "\\["))
        for line in examples.splitlines()
    ]
    epilog = ["[bold]Examples[/]", *lines] if lines else []
    if panel == RESTORE:
        epilog += ["", VARIABLES]
    app.command(name, help=text, epilog="\n".join(epilog), rich_help_panel=panel)(
        typer_command(function)
    )


app = typer.Typer(
    name="restormer",
    help="Remove noise, rain, motion blur and defocus blur from photographs with the Restormer "
    "network.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # an unexpected exception keeps Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for name, function in commands.items():
        register(panel, name, function)
app.add_typer(weights, name="weights", rich_help_panel=MACHINE)


def print_version(requested: bool) -> None:
    """Print the version and exit, if --version was given."""
    if requested:
        typer.echo(f"restormer {__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version),
    ] = False,
) -> None:
    """Provide the console to every command."""
    context.ensure_object(Console)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit with its status.

    0: all done. 1: some inputs failed, the others are done. 2: wrong usage, nothing done. 3: could
    not start (weights, device). 130: interrupted, no file is incomplete.
    """
    console = Console()
    previous = signal.signal(signal.SIGTERM, interrupt)
    status = 1
    try:
        app(arguments, prog_name="restormer", obj=console)
    except RestormerError as error:
        console.error(error)
        status = error.exit_status
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(status)


def interrupt(number: int, frame: object) -> NoReturn:
    """Treat SIGTERM as Ctrl-C, so that the same cleanup runs."""
    raise KeyboardInterrupt
