"""Errors as problem details (RFC 9457), with the message and the hint of this program."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from starlette.responses import Response

from ..checkpoints import TASKS
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

_OPTION = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
_TASK_COMMAND = re.compile(rf"`restormer ({'|'.join(TASKS)})`")
_OF_THE_SERVER = re.compile(rf"{_OPTION.pattern}|`restormer |pip install")
"""Remedies that only whoever runs the server can apply."""


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
    def of(cls, error: RestormerError, mentions: Mapping[str, str]) -> Problem:
        """Return the problem for an error of this program, in the words of the API.

        Args:
            error: the error, whose message and hint mention options and commands.
            mentions: parameters and parts of the request, as written in a hint, by name.
        """
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
        hint = _for_clients(error.hint, mentions)
        if _OF_THE_SERVER.search(hint):
            hint = f"On the server: {hint[0].lower()}{hint[1:]}"
        return cls(kind, _for_clients(error.message, mentions), hint)

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


def _for_clients(text: str, mentions: Mapping[str, str]) -> str:
    """Replace options that the request has as parameters, and commands that it has as tasks."""

    def mention(match: re.Match[str]) -> str:
        return mentions.get(match[1].replace("-", "_"), match[0])

    return _TASK_COMMAND.sub(r"task=\1", _OPTION.sub(mention, text))
