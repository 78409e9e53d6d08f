"""Read the files in a request within limits, and notice a client that hangs up."""

from __future__ import annotations

import asyncio
import time
from email.message import Message
from email.parser import HeaderParser
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from ..text import format_bytes, printable
from .problems import Problem
from .queue import ClosingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from starlette.types import Message as AsgiMessage
    from starlette.types import Receive, Scope

    from .config import ServerConfig
    from .parameters import Part

Result = TypeVar("Result")

MIN_RATE = 10_000
"""Bytes per second that an upload must have on average, after the first `timeout` seconds."""

FORM = "multipart/form-data"

_POLL_SECONDS = 0.2
"""Seconds between looks at whether the server is ending, while a client sends nothing."""

_MAX_HEAD = 8192
"""Maximum size of the headers of a part, in bytes."""


class File(NamedTuple):
    """A file in a request."""

    name: str  # given by the client; may be empty
    data: bytes


def until_closing(receive: Receive, is_closing: Callable[[], bool]) -> Receive:
    """Return a `receive` that raises ClosingError once the server is ending."""

    async def receive_or_close() -> AsgiMessage:
        while not is_closing():
            try:
                return await asyncio.wait_for(receive(), _POLL_SECONDS)
            except (asyncio.TimeoutError, TimeoutError):
                continue
        raise ClosingError

    return receive_or_close


async def read_files(
    scope: Scope, receive: Receive, config: ServerConfig, parts: Sequence[Part]
) -> dict[str, File]:
    """Return the files by part: the body is the first one, or a form if there are several parts.

    Raises:
        Problem: the body is too large, too slow, empty, encoded or not a form with these parts.
        ClientDisconnect: the client hung up.
    """
    headers = Headers(scope=scope)
    kind = _check_headers(headers, forms=len(parts) > 1)
    body = await _read_body(scope, headers, receive, config)
    if kind != FORM:
        return {parts[0].name: File("", body)}
    try:
        return _read_form(body, headers["content-type"], parts)
    except UnicodeError:  # a name is not in the encoding that it states
        raise _malformed() from None


def _read_form(body: bytes, content_type: str, parts: Sequence[Part]) -> dict[str, File]:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary("").encode("latin-1", "replace")
    files: dict[str, File] = {}
    for name, file in _split_form(body, boundary):
        if name in files or name not in {part.name for part in parts}:
            cause = "given twice" if name in files else "unknown"
            listed = ", ".join(part.name for part in parts)
            raise Problem(
                "invalid-request",
                f"the part {printable(name)!r} of the form is {cause}",
                f"The parts are: {listed}. All else is a parameter of the address.",
            )
        files[name] = file
    for name in (parts[0].name, *files):
        if name not in files or not files[name].data:
            cause = "empty" if name in files else "missing"
            raise Problem(
                "invalid-request",
                f"the part {name} of the form is {cause}",
                f"Send a file: curl -F {name}=@photo.jpg",
            )
    return files


async def _read_body(
    scope: Scope, headers: Headers, receive: Receive, config: ServerConfig
) -> bytes:
    too_large = Problem(
        "too-large",
        f"the body is over {format_bytes(config.max_bytes)}",
        "Send a smaller file, or start the server with a larger --max-body.",
    )
    if int(headers.get("content-length", 0)) > config.max_bytes:
        await discard_body(scope, receive, config)
        raise too_large
    body = bytearray()
    async for chunk in _chunks(receive, config.timeout):
        if len(body) + len(chunk) > config.max_bytes:
            raise too_large
        body += chunk
    if not body:
        raise Problem(
            "invalid-request", "the body is empty", "Send an image file as the body of the request."
        )
    return bytes(body)


async def discard_body(scope: Scope, receive: Receive, config: ServerConfig) -> None:
    """Read a body that is refused, up to its limit: many clients read no answer before its end."""
    if Headers(scope=scope).get("expect", "").lower() == "100-continue":
        return  # this client waits for the answer before it sends the body
    size = 0
    async for chunk in _chunks(receive, config.timeout):
        size += len(chunk)
        if size > config.max_bytes:
            return


async def unless_gone(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Return the result of `work`, which is cancelled if the client hangs up.

    Raises:
        ClientDisconnect: the client hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_for_end(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _check_headers(headers: Headers, *, forms: bool) -> str:
    """Return the type of the body, unless it cannot be read."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/") and not (forms and kind == FORM):
        raise Problem(
            "unsupported-body",
            f"the body is {kind}",
            "Send the file alone as the body: curl --data-binary @photo.jpg",
        )
    if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise Problem(
            "unsupported-body",
            f"the body is encoded with {encoding}",
            "Send the file without a Content-Encoding.",
        )
    return kind


def _split_form(body: bytes, boundary: bytes) -> Iterator[tuple[str, File]]:
    """Yield name and file of each part of a form (RFC 7578)."""
    delimiter = b"--" + boundary
    if not boundary or not body.startswith(delimiter):
        raise _malformed()
    end = len(delimiter)
    while body[end : end + 2] != b"--":
        start = body.find(b"\r\n\r\n", end, end + _MAX_HEAD)
        stop = body.find(b"\r\n" + delimiter, start)
        if start < 0 or stop < start + 4:
            raise _malformed()
        head = HeaderParser().parsestr(body[end:start].decode(errors="replace").lstrip())
        name = head.get_param("name", "", "content-disposition")
        yield str(name), File(head.get_filename(""), body[start + 4 : stop])
        end = stop + 2 + len(delimiter)


def _malformed() -> Problem:
    return Problem(
        "unsupported-body",
        "the body is no complete form",
        "Send it as curl does: curl -F image=@photo.jpg -F mask=@mask.png",
    )


async def _chunks(receive: Receive, timeout: float) -> AsyncIterator[bytes]:
    """Yield the parts of a body; raise Problem if they arrive too slowly."""
    started, size = time.monotonic(), 0
    while True:
        elapsed = time.monotonic() - started
        seconds = min(timeout, timeout + size / MIN_RATE - elapsed)
        try:
            message = await asyncio.wait_for(receive(), max(seconds, 0))
        except (asyncio.TimeoutError, TimeoutError):
            raise Problem(
                "timeout",
                f"the body stopped or was too slow after {format_bytes(size)}",
                "Check its Content-Length, and send it again.",
                {"Connection": "close"},
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        yield chunk
        if not message.get("more_body", False):
            return


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
