"""JSON Schema of the events, made from their dataclasses and the types of their fields.

Imported only when asked for: the events name these types in annotations alone.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Union, get_type_hints

import msgspec
from msgspec import Meta

from ..checkpoints import TASKS
from ..imaging import Noise
from .events import Failed, Planned, Restored, Skipped, Started, Summary, Weights

# Types of fields, with the constraints that the schema states.
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Scale = tuple[float, float]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Task = Annotated[str, Meta(extra_json_schema={"enum": list(TASKS)})]
Source = Annotated[str, Meta(extra_json_schema={"enum": ["official", "lite", "hub", "file"]})]
Precision = Annotated[str, Meta(extra_json_schema={"enum": ["fp32", "bf16", "fp16"]})]
Orientations = Annotated[int, Meta(extra_json_schema={"enum": [1, 4, 8]})]


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of `--json`."""
    # Names in the annotations of the events, and of Noise, which is not negative.
    types = globals() | {"float": NonNegative}
    types |= {kind.__name__: _struct(kind, types) for kind in (Noise, Weights)}
    kinds = Planned, Started, Restored, Skipped, Failed, Summary
    structs = tuple(_struct(kind, types, kind.name) for kind in kinds)
    (root,), definitions = msgspec.json.schema_components([Union[structs]])  # noqa: UP007
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of restormer --json",
        "description": "The restoring commands print one such object per line on stdout. Minor "
        "versions may add fields; only major versions remove or change them.",
        **root,
        "$defs": definitions,
    }


def _struct(kind: type, types: dict[str, Any], tag: str | None = None) -> type[msgspec.Struct]:
    """Return a dataclass as a struct that requires every field and allows no others.

    The Attributes of the docstrings, including those of base classes, describe the fields.
    """
    summary = ""
    texts: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        summary, _, attributes = (inspect.getdoc(cls) or "").partition("\n\nAttributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", attributes, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    hints = get_type_hints(kind, localns=types, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind)]
    return msgspec.defstruct(
        tag or kind.__name__.lower(),
        [(name, Annotated[hints[name], Meta(description=texts.get(name))]) for name in names],
        namespace={"__doc__": " ".join(summary.split())},
        tag_field="event" if tag else None,
        tag=tag,
        forbid_unknown_fields=True,
    )
