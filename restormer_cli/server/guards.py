"""Refuse requests that do not come from the page or from programs of the user."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from .config import is_loopback
from .problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .config import ServerConfig

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer that does not set them itself."""

PROTECTED = "/v1/"
"""Start of the paths that need the token; the others show nothing of the user's."""

_PORT = re.compile(r":[0-9]*$")
_REMEDY = "On the server: if a proxy gives it another name, add --allow-host NAME."


class Guard:
    """Middleware that checks host, origin and token of every request."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app, self._config = app, config
        self._allowed = frozenset(config.allowed_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except Problem as problem:
            await problem.response()(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if not self._is_own_name(host):
            # A site can give its own name the address of this machine (DNS rebinding).
            raise Problem(
                "misdirected",
                f"the server is not called {host!r}",
                f"Use its address, as it was shown at its start. {_REMEDY}",
            )
        origin = headers.get("origin")
        foreign = origin is not None and not self._is_own_origin(origin.lower(), host)
        # Browsers send no Origin with images and links of other sites. Links to the page are fine.
        site = headers.get("sec-fetch-site", "none")
        is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if foreign or (site not in ("same-origin", "none") and not is_link):
            raise Problem(
                "forbidden",
                f"the request comes from another site ({origin or site})",
                "Open the page of this server, or use a program that is not a browser. " + _REMEDY,
            )
        token = self._config.token
        if token is not None and path.startswith(PROTECTED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(given.strip().encode(), token.encode())
            if scheme.lower() != "bearer" or not is_right:
                raise Problem(
                    "unauthorized",
                    "the token is missing or wrong",
                    "Send the header Authorization: Bearer TOKEN, with the token of --token.",
                    {"WWW-Authenticate": "Bearer"},
                )

    def _is_own_origin(self, origin: str, host: str) -> bool:
        """Return True for the Origin of a page of this server, or of a proxy in front of it."""
        scheme, _, name = origin.partition("://")
        return scheme in ("http", "https") and (name == host or name in self._allowed)

    def _is_own_name(self, host: str) -> bool:
        """Return True for a Host header that names this server."""
        if not self._allowed.isdisjoint((host, _PORT.sub("", host))):
            return True
        name = ""
        with suppress(ValueError):  # invalid, such as "[::"
            name = urlsplit(f"//{host}").hostname or ""
        if is_loopback(name):
            return True
        if self._config.listens_locally:
            return False
        if name in (self._config.host.lower(), socket.gethostname().lower()):
            return True
        with suppress(ValueError):
            ipaddress.ip_address(name)  # an address cannot be rebound
            return True
        return False
