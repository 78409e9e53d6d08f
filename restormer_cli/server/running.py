"""Start the server, and end it without losing the image that is being restored."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..extras import missing
from ..files import unwritable
from ..imaging import make_folder
from ..text import reason

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from .queue import Reporter, RestoringQueue
    from .routes import Service, application
except ModuleNotFoundError as error:
    raise missing(error.name or "a package", "serve", "the server", "not installed") from error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from .config import ServerConfig

MAX_CONNECTIONS = 1000
"""Open connections, beyond which requests are refused at once."""


def serve(config: ServerConfig, reporter: Reporter, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish the image that is being restored.

    A second signal also ends that image.

    Args:
        config: settings.
        reporter: receives events and warnings.
        ready: called with the address of the page once it can be opened.

    Raises:
        UsageError: the address, or the folder for results, cannot be used.
        ImageError: the folder for results cannot be created.
        RestormerError: the weights or the device are unavailable.
    """
    if config.keep is not None:
        if cause := unwritable(config.keep):
            raise UsageError(f"--keep: {cause}", "Name a folder in which files can be created.")
        make_folder(config.keep)
    listener = _listen(config)
    queue = RestoringQueue(config, reporter)
    try:
        queue.load()
        server = _Server(
            uvicorn.Config(
                application(Service(config, queue)),
                http=_protocol(config.timeout),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level=logging.ERROR,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
            ),
            queue,
            reporter,
        )
        ready(_address(listener))
        server.run([listener])
    finally:
        listener.close()
        queue.close()


def _listen(config: ServerConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(256)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on port {config.port} of {config.host} ({reason(error)})",
            "Choose another --port, or 0 for any that is free.",
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Server(uvicorn.Server):
    """A server whose signals empty the queue, and which returns instead of repeating them."""

    def __init__(self, config: uvicorn.Config, queue: RestoringQueue, reporter: Reporter) -> None:
        super().__init__(config)
        self._queue, self._reporter = queue, reporter

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True  # `on_tick` sees it within 0.1 s

    async def on_tick(self, counter: int) -> bool:
        ended = await super().on_tick(counter)
        if ended:
            self._reporter.say("Ending after the current image; a second signal ends it, too")
            self._queue.drain()
        return ended

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        if self.force_exit:
            self._queue.stop()


def _protocol(timeout: float) -> type[H11Protocol]:
    """Return a protocol that drops clients which do not go on within `timeout` seconds.

    The body of a request has its own limits (`body`). These are those of uvicorn's gaps: a request
    whose headers do not end, and an answer that is not read.
    """

    class Protocol(H11Protocol):
        _timers: dict[str, asyncio.TimerHandle]

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timers = {}
            self._start_timer("headers")

        def on_response_complete(self) -> None:
            self._start_timer("headers")
            super().on_response_complete()

        def pause_writing(self) -> None:
            self._start_timer("answer")
            super().pause_writing()

        def resume_writing(self) -> None:
            self._stop_timer("answer")
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            for name in ("headers", "answer"):
                self._stop_timer(name)
            super().connection_lost(exc)

        def _start_timer(self, name: str) -> None:
            self._stop_timer(name)
            self._timers[name] = self.loop.call_later(timeout, self._expire, name)

        def _stop_timer(self, name: str) -> None:
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

        def _expire(self, name: str) -> None:
            if name == "answer" or self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Protocol
