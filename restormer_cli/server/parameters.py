"""The parameters of requests: one table for reading them and for the OpenAPI document."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from ..batch import OUTPUT_FORMATS, BatchConfig
from ..checkpoints import AUTO_SIGMA, SIGMAS, TASKS
from ..text import printable
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAME = 200
"""Maximum bytes of the name of an image in UTF-8; longer ones are cut at the start."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the query, described by its JSON Schema."""

    name: str
    description: str
    schema: dict[str, Any]
    required: bool = False
    task: str | None = None  # the only one that has it; None for all

    def read(self, text: str) -> Any:
        """Return the value of a text.

        Raises:
            ValueError: it is not valid.
        """
        match self.schema:
            case {"enum": choices}:
                value: Any = text
                valid = text in choices
            case {"type": "boolean"}:
                value, valid = text == "true", text in ("true", "false")
            case {"type": "integer" | "number" as kind, "minimum": low, "maximum": high}:
                value = int(text) if kind == "integer" else float(text)
                valid = math.isfinite(value) and low <= value <= high
            case _:
                value, valid = text, True
        if not valid:
            raise ValueError(text)
        return value

    @property
    def choices(self) -> str:
        """Description of the valid values."""
        if "enum" in self.schema:
            return f"one of {', '.join(self.schema['enum'])}"
        if "minimum" in self.schema:
            return f"a number from {self.schema['minimum']} to {self.schema['maximum']}"
        return "true or false"

    @property
    def mention(self) -> str:
        """The parameter as it is written in a hint."""
        return f"{self.name}=true" if self.schema.get("type") == "boolean" else self.name


class Part(NamedTuple):
    """A file in a request."""

    name: str
    description: str

    @property
    def mention(self) -> str:
        """The part as it is written in a hint."""
        return self.name


NAME = Parameter(
    "name",
    "Name of the image: for messages, for the name of the result, and to recognise camera raw "
    "files by their suffix. Default: that of the part image of a form, else image.",
    {"type": "string"},
)
IDENTIFIER = Parameter(
    "id",
    "Any text of the client's choice, to ask for the progress of this request.",
    {"type": "string"},
)
RESTORE = (
    Parameter("task", "What to remove.", {"type": "string", "enum": list(TASKS)}, required=True),
    Parameter(
        "format",
        "Format of the result. keep: that of the Accept header, else of the input.",
        {"type": "string", "enum": ["keep", *OUTPUT_FORMATS], "default": BatchConfig.format},
    ),
    Parameter(
        "quality",
        "Quality of JPEG, AVIF, HEIF and WebP. 100: lossless WebP and HEIF.",
        {"type": "integer", "minimum": 1, "maximum": 100, "default": BatchConfig.quality},
    ),
    Parameter(
        "strength",
        "Fraction of the change to apply. 0 returns the input.",
        {"type": "number", "minimum": 0, "maximum": 1, "default": BatchConfig.strength},
    ),
    Parameter(
        "allow_damaged",
        "Restore what can be decoded of a damaged image, with a warning.",
        {"type": "boolean", "default": BatchConfig.allow_damaged},
    ),
    Parameter(
        "keep_detail",
        "Fraction of the removed detail of brightness that is given back. denoise only.",
        {"type": "number", "minimum": 0, "maximum": 1, "default": BatchConfig.keep_detail},
        task="denoise",
    ),
    Parameter(
        "sigma",
        "Level of Gaussian noise (0..255) that the official weights are for. auto: estimate it. "
        "Default: weights for camera noise. denoise only.",
        {"type": "string", "enum": [AUTO_SIGMA, *SIGMAS]},
        task="denoise",
    ),
    NAME,
    IDENTIFIER,
)
IMAGE = Part("image", "The image file.")
PARTS = (
    IMAGE,
    Part("mask", "Image of the same size: white is restored, black stays, grey blends."),
    Part("right", "Right dual-pixel view; the image is the left one. defocus only."),
)
"""Files of a request to restore an image, as a form; the image alone can be the whole body."""


def read_query(query: bytes, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of a query by name; None for those without a value or default.

    Raises:
        Problem: a parameter is unknown, repeated, missing or invalid.
    """
    known = {parameter.name: parameter for parameter in parameters}
    values = {name: parameter.schema.get("default") for name, parameter in known.items()}
    given = set[str]()
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known or name in given:
            cause = "given twice" if name in given else "unknown"
            listed = ", ".join(known) or "none"
            raise Problem(
                "invalid-request",
                f"the parameter {printable(name)!r} is {cause}",
                f"The parameters are: {listed}.",
            )
        given.add(name)
        try:
            values[name] = known[name].read(text)
        except ValueError:
            raise Problem(
                "invalid-request",
                f"{name} is {printable(text)!r}",
                f"Give {known[name].choices}.",
            ) from None
    for name, parameter in known.items():
        if parameter.required and name not in given:
            raise Problem(
                "invalid-request",
                f"the parameter {name} is missing",
                f"Add ?{name}=VALUE to the address: {parameter.choices}.",
            )
        if parameter.task not in (None, values.get("task")) and name in given:
            raise Problem(
                "invalid-request",
                f"{name} and {values['task']} do not go together",
                f"Use {name} with task={parameter.task} only.",
            )
    return values


def file_name(text: str, default: str = "image") -> str:
    """Return the last part of a path from a client as the name of a file, without a folder."""
    name = PurePosixPath(text.replace("\\", "/")).name
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]', "_", name)
    data = name.encode()
    if len(data) > MAX_NAME:
        name = data[-MAX_NAME:].decode(errors="ignore").lstrip(".")  # no hidden file
    return name if name.strip(".") else default
