"""Settings of the server."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ..inference import RestorerConfig

MIN_TOKEN = 16
"""Least number of characters of a token, so that it cannot be guessed."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of the server, validated when created.

    Attributes:
        restorer: settings of the network; each request chooses the task.
        host: address or name to listen on.
        port: 0 for any free port.
        token: required from every request to /v1/, if given.
        max_pixels: maximum number of pixels of an image.
        max_bytes: maximum size of a request's body.
        queue: number of images that may wait for the one that is restored.
        timeout: seconds after which a client that neither sends nor takes data is dropped.
        keep: folder that gets a copy of every result.

    Raises:
        UsageError: other machines could use the server without a token.
    """

    restorer: RestorerConfig
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_pixels: int = 100_000_000
    max_bytes: int = 256_000_000
    queue: int = 8
    timeout: float = 30.0
    keep: Path | None = None

    def __post_init__(self) -> None:
        if not self.is_local and self.token is None:
            raise UsageError(
                f"--host {self.host} lets other machines use the server",
                "Add --token SECRET (or set RESTORMER_TOKEN), or leave out --host.",
            )
        if self.token is not None and not _is_usable(self.token):
            raise UsageError(
                f"--token is shorter than {MIN_TOKEN} characters, or not plain ASCII",
                "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return True for a name or address of this machine that no other one can reach."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_usable(token: str) -> bool:
    return len(token) >= MIN_TOKEN and token.isascii() and token.isprintable() and " " not in token
