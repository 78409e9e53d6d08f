"""Types of event fields with the constraints that the JSON Schema states."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ..checkpoints import TASKS

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
