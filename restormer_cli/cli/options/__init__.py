"""Options of the commands.

Read `declare` first: an option is declared once, as the annotation of a field or parameter, and
Typer's declaration is made from it. `shared` has the options of several commands, and `restore`
those of the restoring ones. `values` reports invalid values. None of them is lazy: they import
no library but Typer.
"""

from .declare import SERVER, Contradictions, Option, check_options, completion, typer_command
from .restore import DefocusOptions, DenoiseOptions, RestoreOptions
from .shared import (
    NAMES,
    Crops,
    Device,
    Json,
    MaxPixels,
    NetworkOptions,
    Precision,
    Quiet,
    TaskArgument,
    Weights,
    note_unused_choices,
)
from .values import Command

__all__ = [
    "NAMES",
    "SERVER",
    "Command",
    "Contradictions",
    "Crops",
    "DefocusOptions",
    "DenoiseOptions",
    "Device",
    "Json",
    "MaxPixels",
    "NetworkOptions",
    "Option",
    "Precision",
    "Quiet",
    "RestoreOptions",
    "TaskArgument",
    "Weights",
    "check_options",
    "completion",
    "note_unused_choices",
    "typer_command",
]
