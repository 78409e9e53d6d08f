"""Errors as problem details (RFC 9457), with the message and the hint of this program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import Response

from ..errors import DamagedError, ImageError, RestormerError, UsageError
from ..memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "invalid-request": (400, "The request is invalid"),
    "unauthorized": (401, "The token is missing or wrong"),
    "forbidden": (403, "The request comes from another site"),
    "not-found": (404, "There is no such resource"),
    "method-not-allowed": (405, "The resource does not support the method"),
    "not-acceptable": (406, "None of the accepted formats can be written"),
    "timeout": (408, "The body arrived too slowly"),
    "too-large": (413, "The body is too large"),
    "unsupported-body": (415, "The body is not an image file"),
    "misdirected": (421, "The server does not have this name"),
    "unusable-image": (422, "The image cannot be restored"),
    "damaged-image": (422, "The image is damaged"),
    "busy": (429, "All places in the queue are taken"),
    "internal": (500, "The server failed"),
    "unavailable": (503, "The server cannot restore images now"),
}
"""HTTP status and title of each kind of problem; its type is `urn:restormer:KIND`."""


class Problem(Exception):  # noqa: N818 - as RFC 9457 calls it
    """An error to answer with.

    Attributes:
        kind: key of KINDS.
        detail: the thing that failed and the cause.
        hint: the remedy; may be empty.
        headers: further headers of the answer.
    """

    def __init__(
        self, kind: str, detail: str, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.hint = kind, detail, hint
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: RestormerError) -> Problem:
        """Return the problem for an error of this program."""
        match error:
            case ImageError() if error.__cause__ and is_out_of_memory(error.__cause__):
                kind = "unavailable"
            case DamagedError():
                kind = "damaged-image"
            case ImageError():
                kind = "unusable-image"
            case UsageError():
                kind = "invalid-request"
            case _:
                kind = "unavailable"
        return cls(kind, error.message, error.hint)

    def response(self) -> Response:
        """Return the answer."""
        status, title = KINDS[self.kind]
        content = {
            "type": f"urn:restormer:{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "hint": self.hint,
        }
        return Response(json.dumps(content), status, self.headers, media_type=MEDIA_TYPE)
