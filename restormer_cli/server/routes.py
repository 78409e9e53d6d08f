"""The operations of the server: one table, with the function that answers each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .. import reports
from .._version import __version__
from ..batch import OUTPUT_FORMATS, BatchConfig
from ..checkpoints import TASKS
from ..errors import RestormerError
from ..imaging import FORMATS
from .body import discard_body, read_files, unless_gone, until_closing
from .guards import Guard
from .openapi import document
from .parameters import (
    IDENTIFIER,
    IMAGE,
    NAME,
    PARTS,
    RESTORE,
    Parameter,
    Part,
    file_name,
    read_query,
)
from .problems import Problem
from .queue import BusyError, ClosingError, Order, Place, RestoredFile, RestoringQueue, preview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from .config import ServerConfig

CHUNK = 2**18
"""Number of bytes of an answer that are sent at a time."""

MAX_HEADER = 16_000
"""Maximum length of the header with the report; Python's clients read 65,536."""

RESULT_HEADER = "Restormer-Result"

RETRY_SECONDS = 5
"""Seconds until a restarted server may be there."""


class Operation(NamedTuple):
    """An operation of the API, with everything that its description needs."""

    method: str
    path: str
    summary: str
    endpoint: Callable[[Service, Call], Awaitable[None]]
    content: tuple[str, ...]  # media types of the answer
    parameters: tuple[Parameter, ...] = ()
    path_parameters: tuple[Parameter, ...] = ()
    parts: tuple[Part, ...] = ()  # files in the body
    problems: tuple[str, ...] = ()  # kinds, besides those of all operations
    headers: tuple[tuple[str, str], ...] = ()  # of the answer: name and description

    @property
    def mentions(self) -> dict[str, str]:
        """Parameters and parts, as they are written in a hint, by name."""
        described: tuple[Parameter | Part, ...] = (*self.parameters, *self.parts)
        return {each.name: each.mention for each in described}


class Call(NamedTuple):
    """A request and its channels."""

    scope: Scope
    receive: Receive
    send: Send
    values: dict[str, Any]  # of the parameters

    async def answer(self, response: Response) -> None:
        """Send a response."""
        await response(self.scope, self.receive, self.send)


@dataclass(frozen=True)
class Service:
    """The parts that the operations need."""

    config: ServerConfig
    queue: RestoringQueue

    def receive_body(self, receive: Receive) -> Receive:
        """Return a `receive` for a body, for which a server that is ending does not wait."""
        return until_closing(receive, lambda: self.queue.is_closing)


async def show_page(service: Service, call: Call) -> None:
    """Answer with the page."""
    keep = None if service.config.keep is None else str(service.config.keep)
    if keep is not None and service.config.token is not None:
        keep = "a folder of the server"  # this answer needs no token
    data = {
        "title": "restormer",
        "tasks": task_list(),
        "formats": list(OUTPUT_FORMATS),
        "local": service.config.is_local,
        "keep": keep,
        "needs_token": service.config.token is not None,
        "max_bytes": service.config.max_bytes,
    }
    html, policy = reports.fill_page(
        Path(__file__).parent / "assets" / "serve", data, img_src="blob:", connect_src="'self'"
    )
    headers = {"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"}
    await call.answer(HTMLResponse(html, headers=headers))


async def show_health(service: Service, call: Call) -> None:
    """Answer that the server works, unless it is ending."""
    if service.queue.is_closing:
        raise ClosingError
    queue = {"taken": service.queue.taken, "places": service.config.queue + 1}
    await call.answer(JSONResponse({"status": "ok", "version": __version__, "queue": queue}))


async def show_document(service: Service, call: Call) -> None:
    """Answer with the OpenAPI document."""
    await call.answer(JSONResponse(document(OPERATIONS, secured=service.config.token is not None)))


async def list_tasks(service: Service, call: Call) -> None:
    """Answer with the tasks, the formats and the limits."""
    limits = {"pixels": service.config.max_pixels, "bytes": service.config.max_bytes}
    content = {"tasks": task_list(), "formats": list(OUTPUT_FORMATS), "limits": limits}
    await call.answer(JSONResponse(content))


async def show_progress(service: Service, call: Call) -> None:
    """Answer with the progress of a request that is being answered."""
    identifier = call.values["id"]
    # A browser would log a status 404, although the request may just have been answered.
    place, ahead = service.queue.find(identifier) or (Place(None, "absent"), 0)
    await call.answer(JSONResponse({"state": place.state, "ahead": ahead, "share": place.share}))


async def restore(service: Service, call: Call) -> None:
    """Restore the image in the body, and answer with the result."""
    config, values = service.config, call.values
    wanted = output_format(values["format"], Headers(scope=call.scope).get("accept", "*/*"))
    network = replace(config.restorer, task=values["task"], sigma=values["sigma"])
    batch = BatchConfig(
        quality=values["quality"],
        max_pixels=config.max_pixels,
        strength=values["strength"],
        keep_detail=values["keep_detail"],
        allow_damaged=values["allow_damaged"],
    )
    with service.queue.place(values["id"]) as place:
        receive = service.receive_body(call.receive)
        files = await read_files(call.scope, receive, config, PARTS)
        network = replace(network, dual_pixel="right" in files)
        name = file_name(values["name"] or files["image"].name)
        order = Order(name, files, wanted, network, batch)
        work = service.queue.run(place, service.queue.restore(order))
        await send_file(call, await unless_gone(call.receive, work))


async def draw_preview(service: Service, call: Call) -> None:
    """Answer with a JPEG of the image in the body."""
    config, name = service.config, file_name(call.values["name"] or "")
    with service.queue.place() as place:
        receive = service.receive_body(call.receive)
        files = await read_files(call.scope, receive, config, (IMAGE,))
        work = service.queue.run(place, preview(name, files["image"].data, config.max_pixels))
        picture = await unless_gone(call.receive, work)
        await call.answer(Response(picture, media_type="image/jpeg"))


IMAGE_PROBLEMS = (
    *("not-acceptable", "timeout", "too-large", "unsupported-body"),
    *("unusable-image", "damaged-image", "busy", "unavailable"),
)
OPERATIONS = (
    Operation("GET", "/", "The page", show_page, ("text/html",)),
    Operation(
        "GET", "/healthz", "Whether the server works", show_health, ("application/json",),
        problems=("unavailable",),
    ),
    Operation("GET", "/openapi.json", "This document", show_document, ("application/json",)),
    Operation(
        "GET", "/v1/tasks", "Tasks, formats and limits", list_tasks, ("application/json",),
        problems=("unauthorized",),
    ),
    Operation(
        "POST", "/v1/restore", "Restore an image", restore,
        tuple(f"image/{kind}" for kind in FORMATS),
        parameters=RESTORE,
        parts=PARTS,
        problems=("unauthorized", *IMAGE_PROBLEMS),
        headers=(
            (RESULT_HEADER, "The event `restored` as JSON, described by `restormer schema`."),
            ("Content-Disposition", "A name for the result."),
        ),
    ),
    Operation(
        "GET", "/v1/progress/{id}", "Progress of a request", show_progress, ("application/json",),
        path_parameters=(replace(IDENTIFIER, required=True),),
        problems=("unauthorized",),
    ),
    Operation(
        "POST", "/v1/preview", "A JPEG of an image that a browser cannot show", draw_preview,
        ("image/jpeg",),
        parameters=(NAME,),
        parts=(IMAGE,),
        problems=("unauthorized", *IMAGE_PROBLEMS[1:]),
    ),
)  # fmt: skip
"""All operations."""


class _AnyText(Convertor[str]):
    """Matches the rest of a path, with slashes and line breaks."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value


register_url_convertor("text", _AnyText())


def application(service: Service) -> Guard:
    """Return the ASGI application."""
    routes = [
        Route(
            operation.path.replace("}", ":text}"),
            _Endpoint(service, operation),
            methods=[operation.method],
        )
        for operation in OPERATIONS
    ]
    handlers = {404: _not_found, 405: _wrong_method, 500: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # it would redirect from https at a proxy to http
    return Guard(app, service.config)


@dataclass(frozen=True)
class _Endpoint:
    """ASGI application of one operation."""

    service: Service
    operation: Operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the parameters, call the operation, and answer with a problem if it fails."""
        try:
            values = read_query(scope["query_string"], self.operation.parameters)
            values |= scope["path_params"]
            await self.operation.endpoint(self.service, Call(scope, receive, send, values))
        except ClientDisconnect:
            return
        except Problem as problem:
            await problem.response()(scope, receive, send)
        except RestormerError as error:
            await Problem.of(error, self.operation.mentions).response()(scope, receive, send)
        except BusyError as error:
            refusal = Problem(
                "busy",
                f"all {self.service.config.queue + 1} places are taken",
                f"Try again in {error.seconds} s.",
                {"Retry-After": str(error.seconds)},
            )
            await self._refuse(refusal, scope, receive, send)
        except ClosingError:
            headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
            refusal = Problem("unavailable", "the server is ending", "Try again later.", headers)
            await self._refuse(refusal, scope, receive, send)

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a problem once the client has sent its body."""
        try:
            if self.operation.parts:
                body = self.service.receive_body(receive)
                await discard_body(scope, body, self.service.config)
        except ClientDisconnect:
            return
        except ClosingError:
            pass  # the answer must not wait for the body
        except Problem as error:
            problem = error
        await problem.response()(scope, receive, send)


async def _not_found(request: Request, _: Exception) -> Response:
    known = ", ".join(operation.path for operation in OPERATIONS)
    problem = Problem("not-found", f"there is no {request.url.path}", f"There are: {known}.")
    return problem.response()


async def _wrong_method(request: Request, error: Exception) -> Response:
    headers = dict(getattr(error, "headers", None) or {})
    detail = f"{request.url.path} does not support {request.method}"
    hint = f"Use {headers.get('Allow', 'GET')}."
    return Problem("method-not-allowed", detail, hint, headers).response()


async def _failed(_: Request, error: Exception) -> Response:
    return Problem("internal", type(error).__name__, "The server's log has the details.").response()


async def send_file(call: Call, result: RestoredFile) -> None:
    """Send a result in parts: each waits until the client has taken the previous ones."""
    headers = {
        "Content-Type": f"image/{result.format}",
        "Content-Length": str(len(result.data)),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(result.name, safe='')}",
        RESULT_HEADER: _report(result),
    }
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await call.send({"type": "http.response.start", "status": 200, "headers": raw})
    view = memoryview(result.data)
    for start in range(0, len(view), CHUNK):
        part = bytes(view[start : start + CHUNK])
        more = start + CHUNK < len(view)
        await call.send({"type": "http.response.body", "body": part, "more_body": more})


def _report(result: RestoredFile) -> str:
    """Return the event as ASCII that fits a header."""
    event = result.event.as_dict()
    text = json.dumps(event)
    if len(text) > MAX_HEADER:
        for name in ("notes", "warnings"):
            event[name] = [f"{len(event[name])} {name} are too long for a header"]
        text = json.dumps(event)
    return text


def output_format(wanted: str, accept: str) -> str | None:
    """Return the format of a result as key of FORMATS; None for that of the input.

    Raises:
        Problem: no accepted format can be written.
    """
    if wanted != "keep":
        return OUTPUT_FORMATS[wanted]
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        kind, _, options = item.partition(";")
        match = re.search(r"q=(\d(?:\.\d*)?)", options)
        weights[kind.strip()] = float(match[1]) if match else 1.0
    accepted = [kind for kind, weight in weights.items() if weight > 0]
    if not accept.strip() or {"*/*", "image/*"} & set(accepted):
        return None
    formats = {f"image/{name}": name for name in FORMATS}
    if known := [kind for kind in accepted if kind in formats]:
        return formats[max(known, key=weights.__getitem__)]
    choices = ", ".join(f"image/{kind}" for kind in FORMATS)
    raise Problem("not-acceptable", f"cannot write {accept}", f"Accept one of {choices}.")


def task_list() -> list[dict[str, str]]:
    """Return the tasks with titles for people."""
    return [{"name": name, "title": reports.TASK_TITLES[name]} for name in TASKS]
