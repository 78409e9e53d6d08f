"""Read the body of a request within limits, and notice a client that hangs up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from ..text import format_bytes
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from starlette.types import Receive, Scope

    from .config import ServerConfig

Result = TypeVar("Result")

MIN_RATE = 10_000
"""Bytes per second that an upload must have on average, after the first `timeout` seconds."""


async def read_body(scope: Scope, receive: Receive, config: ServerConfig) -> bytes:
    """Return the body, which is an image file.

    Raises:
        Problem: the body is too large, too slow, empty or encoded.
        ClientDisconnect: the client hung up.
    """
    headers = Headers(scope=scope)
    _check_headers(headers)
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


def _check_headers(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
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
