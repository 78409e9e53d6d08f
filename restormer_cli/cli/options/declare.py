"""Declare an option, refuse contradictions, and adapt a command to Typer."""

import inspect
import os
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from ...errors import UsageError
from ...files import as_local_path
from ...text import reason
from ..console import Console
from .values import named_variables, variable

FILES = "Input and output"
RESTORATION = "Restoration"
MACHINE = "Weights and device"
BATCH = "Batch"
MESSAGES = "Messages"
RESULTS = "Looking at results"
SERVER = "Server"
PANELS = (None, FILES, RESTORATION, MACHINE, BATCH, SERVER, MESSAGES, RESULTS)
"""Panels of a command's help text in order. None: arguments and options without a panel."""


class Option(NamedTuple):
    """Declaration of an option in an annotation.

    The option `--max-pixels` and its environment variable RESTORMER_MAX_PIXELS are named after the
    annotated field or parameter `max_pixels`. An option of type bool takes no value.
    """

    panel: str
    help: str
    short: str | None = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    words: tuple[str, ...] = ()  # for the shell to complete, besides the names of files


Contradictions = tuple[tuple[Callable[[Any], bool], str, str], ...]
"""Combinations of options to reject: predicate, error message and hint of each."""


def check_options(options: object, contradictions: Contradictions) -> None:
    """Raise UsageError for the first contradiction that applies to the options."""
    for applies, message, hint in contradictions:
        if applies(options):
            raise UsageError(message, hint)


def typer_command(function: Callable[..., None]) -> Callable[..., None]:
    """Adapt a command to Typer, which passes the context and one value for each option.

    The adapted command applies --json, --quiet and --verbose to the console. An option or argument
    of type Path names a local file or folder, also by a `file://` URL. One that may be remote is of
    type str, and `files.as_path` makes a path of it.

    Args:
        function: `function(console, options)`, where `options` is annotated with a dataclass whose
            fields are the options, or `function(console, ...)` with one parameter for each.
    """
    kind = get_type_hints(function).get("options")
    declared = kind or function
    hints = get_type_hints(declared, include_extras=True)
    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=_for_typer(name, hints[name]))
        for name, parameter in inspect.signature(declared).parameters.items()
        if name != "console"
    ]
    parameters.sort(key=lambda p: PANELS.index(p.annotation.__metadata__[0].rich_help_panel))
    local = [p.name for p in parameters if p.annotation.__origin__ != hints[p.name].__origin__]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def command(*, context: typer.Context, **values: Any) -> None:
        console: Console = context.obj
        switches = {"json", "quiet", "verbose"} & values.keys()
        console.configure(**{name: values[name] for name in switches})
        _check_working_folder()
        with named_variables(context):
            for name in local:
                values[name] = _local_paths(values[name], _label(name, hints[name]))
            if kind:
                function(console, kind(**values))
            else:
                function(console, **values)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return command


def completion(*words: str) -> Callable[[str], list[str]]:
    """Return the function that completes one of the words; the shell completes names of files."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _check_working_folder() -> None:
    """Raise UsageError if the working folder was deleted, where no relative path has a meaning."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd is the same
    except OSError as error:
        raise UsageError(
            f"the working folder is gone ({reason(error)})", "Change to another folder."
        ) from error


def _for_typer(name: str, hint: Any) -> Any:
    option = hint.__metadata__[0]
    value_type = _text_for_paths(hint.__origin__)
    if isinstance(option, Option):
        option = typer.Option(
            *filter(None, (_label(name, hint), option.short)),
            help=option.help,
            metavar="" if value_type is bool else option.metavar,
            min=option.min,
            max=option.max,
            envvar=variable(name),
            show_envvar=False,  # the end of the help text states the rule for all of them
            rich_help_panel=option.panel,
            autocompletion=completion(*option.words) if option.words else None,
        )
    return Annotated[value_type, option]


def _label(name: str, hint: Any) -> str:
    """Return the option or, for an argument, its placeholder in the help text."""
    declared = hint.__metadata__[0]
    is_argument = isinstance(declared, ArgumentInfo)
    return str(declared.metavar) if is_argument else "--" + name.replace("_", "-")


def _text_for_paths(kind: Any) -> Any:
    """Return the type with str for Path, in which the slashes of a URL would be lost."""
    parts = get_args(kind)
    texts = tuple(map(_text_for_paths, parts))
    if kind is Path or texts == parts:
        return str if kind is Path else kind
    origin = get_origin(kind)
    return reduce(or_, texts) if origin is UnionType else origin[texts]


def _local_paths(value: Any, label: str) -> Any:
    """Return the path or paths in place of one or several names.

    Raises:
        UsageError: a name is the URL of a remote file.
    """
    if isinstance(value, list | tuple):
        return type(value)(as_local_path(name, label) for name in value)
    return None if value is None else as_local_path(value, label)
