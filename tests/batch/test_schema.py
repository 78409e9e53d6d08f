"""The JSON Schema of the events, against the events of real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from restormer_cli.batch import event_schema, events
from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

KINDS = (
    events.Planned,
    events.Started,
    events.Restored,
    events.Skipped,
    events.Failed,
    events.Summary,
)
SCHEMA = event_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
NOISE = {"sigma": 10.5, "coarse": 9.0}
RESTORED = events.Restored(
    "a.png",
    "-",
    "denoise",
    weights=events.Weights("a.pth", "file", "0" * 64),
    device="cpu",
    precision="fp32",
    strategy="whole",
    orientations=8,
    width=3,
    height=4,
    pages=1,
    pixels=12,
    seconds=0.5,
    noise=None,
    mean_absolute_change=0.25,
    colour_drift=0.0,
    peak_memory=10**9,
    notes=["a note"],
    warnings=[],
)


def valid(outcome: Outcome) -> list[str]:
    """Return the names of a command's events, each of which must match the schema."""
    for event in outcome.events:
        VALIDATOR.validate(event)
    return [event["event"] for event in outcome.events]


def test_the_schema_is_valid_and_printed(restormer: Callable[..., Outcome]) -> None:
    """`restormer schema` prints it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"]
    assert json.loads(restormer("schema").stdout) == SCHEMA


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_has_the_fields_of_every_event(kind: type[events.Event]) -> None:
    """All are required and described, and there are no others."""
    described: dict[str, Any] = SCHEMA["$defs"][kind.name]
    names = ["event", *(field.name for field in fields(kind))]
    assert list(described["properties"]) == described["required"] == names
    assert described["additionalProperties"] is False
    assert described["description"]
    for field, content in described["properties"].items():
        assert field == "event" or "description" in content or "$ref" in content


def test_every_event_of_a_run_is_valid(restormer: Callable[..., Outcome]) -> None:
    """Runs, dry runs and runs that cannot start give valid events of all kinds."""
    picture("f/a.png")
    Path("f/b.png").write_text("hello")
    command = ("derain", "f", "gone.png", "-o", "out", "--json")
    names = valid(restormer(*command))
    assert names == [
        "failed",
        "planned",
        "planned",
        "started",
        "restored",
        "started",
        "failed",
        "summary",
    ]
    assert "skipped" in valid(restormer(*command, "--skip-existing"))
    assert valid(restormer(*command, "--dry-run")) == ["failed", "planned", "failed", "summary"]
    assert valid(restormer(*command, "--weights", "gone.pth"))[-1] == "failed"
    assert valid(restormer("derain", "f", "-o", "f/b.png", "--json")) == ["failed"]


def test_an_estimated_noise_is_valid(restormer: Callable[..., Outcome]) -> None:
    """Denoising reports it for planned and restored images."""
    picture("a.png", (64, 64, 3))
    for options in (["--dry-run"], []):
        outcome = restormer("denoise", "a.png", "--json", *options)
        valid(outcome)
        assert any(event.get("noise") for event in outcome.events)


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "other"},
        {"input": None},
        {"task": "colourise"},
        {"weights": None},
        {"weights": {"name": "a", "source": "web", "sha256": "0" * 64}},
        {"weights": {"name": "a", "source": "file", "sha256": "0"}},
        {"weights": {"name": "a", "source": "file"}},
        {"precision": "fp8"},
        {"orientations": 2},
        {"width": 0},
        {"width": 1.5},
        {"pixels": "12"},
        {"seconds": -1},
        {"noise": 3.0},
        {"noise": NOISE | {"more": 1}},
        {"noise": {"sigma": 1.0}},
        {"noise": NOISE | {"sigma": -1.0}},
        {"noise": NOISE | {"coarse": -1.0}},
        {"mean_absolute_change": 1.5},
        {"peak_memory": None},
        {"notes": [1]},
        {"warnings": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_wrong_event_is_invalid(changes: dict[str, Any]) -> None:
    """Types, ranges, names and null are checked."""
    event = RESTORED.as_dict()
    assert VALIDATOR.is_valid(event)
    assert VALIDATOR.is_valid(event | {"noise": NOISE})
    assert not VALIDATOR.is_valid(event | changes)


@pytest.mark.parametrize("field", RESTORED.as_dict())
def test_an_event_without_a_field_is_invalid(field: str) -> None:
    """No field is optional."""
    event = RESTORED.as_dict()
    del event[field]
    assert not VALIDATOR.is_valid(event)


def test_only_the_schema_imports_its_library() -> None:
    """Neither `msgspec` nor NumPy or torch slow down the import of the events."""
    slow = {"msgspec", "numpy", "torch"}
    code = f"import sys, restormer_cli.batch.events; print({slow} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603
    assert done.stdout.strip() == b"set()"
