"""Settings of the server."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from ..inference import RestorerConfig

MIN_TOKEN = 16
"""Least number of characters of a token, so that it cannot be guessed."""

_NAME = re.compile(r"([a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = (80, 443)  # not sent by browsers


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of the server, validated when created.

    Attributes:
        restorer: settings of the network; each request chooses the task.
        host: address or name to listen on.
        port: 0 for any free port.
        allow_hosts: further names of the server, as NAME or NAME:PORT.
        token: required from every request to /v1/, if given.
        max_pixels: maximum number of pixels of an image.
        max_bytes: maximum size of a request's body.
        queue: number of images that may wait for the one that is restored.
        timeout: seconds after which a client that neither sends nor takes data is dropped.
        keep: folder that gets a copy of every result.

    Raises:
        UsageError: other machines could use the server without a token, the token can be guessed,
            or an allowed name is none.
    """

    restorer: RestorerConfig
    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    token: str | None = None
    max_pixels: int = 100_000_000
    max_bytes: int = 256_000_000
    queue: int = 8
    timeout: float = 30.0
    keep: Path | None = None

    def __post_init__(self) -> None:
        names = self.allowed_names
        if not self.is_local and self.token is None:
            option, value = "--host", self.host
            if self.listens_locally:
                option, value = "--allow-host", names[0]
            raise UsageError(
                f"{option} {value} lets other machines use the server",
                f"Add --token SECRET (or set RESTORMER_TOKEN), or leave out {option}.",
            )
        if self.token is not None and not _is_usable(self.token):
            raise UsageError(
                f"--token is shorter than {MIN_TOKEN} characters, or not plain ASCII",
                "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine use the server."""
        return self.listens_locally and not self.allow_hosts

    @property
    def listens_locally(self) -> bool:
        """True if only this machine can connect, which may have a proxy for others."""
        return is_loopback(self.host)

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """`allow_hosts` as browsers write them in Host and Origin, without default ports."""
        return tuple(map(_as_sent, self.allow_hosts))


def is_loopback(host: str) -> bool:
    """Return True for a name or address of this machine that no other one can reach."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _as_sent(name: str) -> str:
    shown = printable(name)
    if "*" in name:
        raise UsageError(
            f"--allow-host {shown!r} is a pattern, which also accepts names of web sites: they can "
            "give them the address of this machine (DNS rebinding)",
            "Name each host. The option can be repeated.",
        )
    match = _NAME.fullmatch(name.lower())
    port = int(match[2] or 443) if match else 0
    if match is None or not 0 < port < 2**16:
        raise UsageError(
            f"--allow-host {shown!r} is neither the name of a host nor NAME:PORT",
            "Leave out https:// and everything from the first slash on, and write letters other "
            "than a-z as xn--: --allow-host restore.example.org.",
        )
    return match[1] if port in _DEFAULT_PORTS else match[0]


def _is_usable(token: str) -> bool:
    return len(token) >= MIN_TOKEN and token.isascii() and token.isprintable() and " " not in token
