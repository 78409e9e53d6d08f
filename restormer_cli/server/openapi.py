"""The OpenAPI document, made from the table of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._version import __version__
from .body import FORM
from .guards import PROTECTED
from .problems import KINDS, MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .parameters import Parameter, Part
    from .routes import Operation

COMMON_PROBLEMS = ("invalid-request", "forbidden", "misdirected", "internal")

PROBLEM_SCHEMA = {
    "type": "object",
    "description": "Problem details (RFC 9457).",
    "required": ["type", "title", "status", "detail", "hint"],
    "properties": {
        "type": {"type": "string", "enum": [f"urn:restormer:{kind}" for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The thing that failed and the cause."},
        "hint": {"type": "string", "description": "The remedy; may be empty."},
    },
}


def document(operations: Iterable[Operation], *, secured: bool) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1.1).

    Args:
        operations: the table.
        secured: the server has a token.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(
            operation, secured
        )
    components: dict[str, Any] = {"schemas": {"Problem": PROBLEM_SCHEMA}}
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "restormer",
            "version": __version__,
            "description": "Remove noise, rain, motion blur and defocus blur from photographs.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _describe(operation: Operation, secured: bool) -> dict[str, Any]:
    binary = "image" in operation.content[0]
    content: dict[str, Any] = {kind: {} if binary else {"schema": {}} for kind in operation.content}
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in operation.headers
    }
    responses = {
        "200": {"description": operation.summary, "content": content, "headers": headers},
        **_problems([*COMMON_PROBLEMS, *operation.problems]),
    }
    described: dict[str, Any] = {
        "operationId": operation.endpoint.__name__,
        "summary": operation.summary,
        "parameters": [
            *(_parameter(p, "query") for p in operation.parameters),
            *(_parameter(p, "path") for p in operation.path_parameters),
        ],
        "responses": responses,
    }
    if operation.parts:
        described["requestBody"] = _request_body(operation.parts)
    if secured and operation.path.startswith(PROTECTED):
        described["security"] = [{"token": []}]
    return described


def _request_body(parts: Sequence[Part]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/octet-stream": {}, "image/*": {}}
    if len(parts) > 1:
        schema = {
            "type": "object",
            "required": [parts[0].name],
            "properties": {part.name: {"description": part.description} for part in parts},
            "additionalProperties": False,
        }
        content[FORM] = {"schema": schema}
    return {"required": True, "description": parts[0].description, "content": content}


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "required": parameter.required,
        "schema": parameter.schema,
    }


def _problems(kinds: list[str]) -> dict[str, Any]:
    """Return the answers for kinds of problems by status."""
    titles: dict[str, list[str]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        titles.setdefault(str(status), []).append(title)
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": "; ".join(listed),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status, listed in sorted(titles.items())
    }
