"""The `restormer` program: its commands, their examples, and the exit statuses."""

import atexit
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import batch
from .._version import __version__
from ..errors import RestormerError
from ..files import exists
from ..memory import MemoryGuard, save_address_space
from ..streams import STDOUT, safe_streams
from ..text import reason
from .console import Console
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .info import bench, info
from .options import Command, typer_command
from .report import compare, report
from .restore import deblur, defocus, denoise, derain
from .serve import serve
from .train import train
from .weights import weights


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
    "Without a command line": {"serve": serve},
    MACHINE: {"doctor": doctor, "info": info, "bench": bench, "eval": evaluate, "schema": schema},
    "Train": {"train": train},
    "Other programs": {"export": export},
}
"""Commands by panel of `restormer --help` and by name."""

_SIMILAR = 0.7  # least similarity of a command to what was typed, 0..1

USAGE = 2
"""Exit status of wrong usage, also of that which Typer reports."""

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, also of Typer."""

VARIABLES = "Environment variables set options too: RESTORMER_SKIP_EXISTING=1 is --skip-existing."


def register(panel: str, name: str, function: Callable[..., None]) -> None:
    """Add a command with the docstring of its function as help text, examples last."""
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)  # one line per paragraph: rich wraps them
    lines = [
        re.sub(r"^ *(.*?)( *# .*)$", r"[cyan]\1[/][dim]\2[/]", line.replace("[", "\\["))
        for line in examples.splitlines()
    ]
    epilog = ["[bold]Examples[/]", *lines] if lines else []
    if panel == RESTORE:
        epilog += ["", VARIABLES]
    app.command(name, cls=Command, help=text, epilog="\n".join(epilog), rich_help_panel=panel)(
        typer_command(function)
    )


app = typer.Typer(
    name="restormer",
    help="Remove noise, rain, motion blur and defocus blur from photographs with the Restormer "
    "network.",
    no_args_is_help=True,
    suggest_commands=False,  # Typer takes "version" for "derain"
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # an unexpected exception keeps Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for name, function in commands.items():
        register(panel, name, function)
app.add_typer(weights, name="weights", rich_help_panel=MACHINE)


def print_version(requested: bool) -> None:
    """Print the version and exit if --version is given."""
    if requested:
        typer.echo(f"restormer {__version__}")
        raise typer.Exit


@app.callback()
def general_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version),
    ] = False,
) -> None:
    """Declare the options that precede the name of a command."""


def _usage_hint(arguments: Sequence[str]) -> str | None:
    """Return the remedy of wrong usage that Typer has reported; None if there is none."""
    for name in takewhile(lambda name: name != "--", arguments):
        if name.startswith("-") and name != "-" and exists(Path(name)):
            return f"If {name} is a file, write ./{name}, or put -- before the files."
    command = arguments[0] if arguments else ""
    known = {name for commands in COMMANDS.values() for name in commands} | {"weights"}
    if command in ("version", "help"):
        return f"Write restormer --{command}."
    similar = [] if command in known else get_close_matches(command, known, 1, _SIMILAR)
    return f"Write restormer {similar[0]}." if similar else None


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit with its status.

    0: all inputs were processed. 1: some inputs failed, or an error ended the run after others had
    been restored. 2: wrong usage, no image was restored. 3: weights or device are unavailable, no
    image was restored. 130: interrupted by Ctrl-C or SIGTERM. All files written are complete.
    A second signal at most hastens the end.
    """
    save_address_space()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # same cleanup as Ctrl-C
    status = 1
    try:
        status = _run(arguments)
    except KeyboardInterrupt:  # Typer, which also exits with 130, did not handle it
        status = INTERRUPTED
    finally:
        keep_status(status)
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    """Run the program and return its exit status."""
    console = Console()
    with safe_streams():
        try:
            with MemoryGuard("to continue"):
                app(arguments, prog_name="restormer", obj=console)
        except SystemExit as error:
            hint = _usage_hint(sys.argv[1:] if arguments is None else arguments)
            if error.code == USAGE and hint:
                console.say(f"hint: {hint}")
            return int(error.code or 0)
        except RestormerError as error:
            console.error(error)
            return error.exit_status
        except OSError as error:
            if error.filename != STDOUT:
                raise
            console.json = False
            console.error(
                RestormerError(
                    f"stdout cannot be written ({reason(error)})",
                    "Redirect it to a file with enough space, or to a program that reads it.",
                )
            )
            return 1
    return 0


def keep_status(status: int) -> None:
    """Let signals that would interrupt the program at most hasten its end, with this status.

    The end takes time: threads may have to finish an image, and libraries to unload. A signal that
    the system gives to another thread is handled only when the main thread goes on.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, lambda *_: os._exit(status))
    # Python's last steps restore the default action of signals, except of those that are ignored.
    atexit.register(_ignore_signals)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
