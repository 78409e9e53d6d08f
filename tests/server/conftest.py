"""A server shared by the tests of a module."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.serving import SECONDS, Served, start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = ("--timeout", "3", "--queue", "2", "--max-body", "1", "--max-pixels", "1000000")


@pytest.fixture(scope="session")
def extra() -> None:
    """Skip tests without the packages of the server."""
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason=f"{name}, of the extra `serve`, is not installed")


@pytest.fixture(scope="module")
def launch(
    extra: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Served]]:
    """Start servers, and end them after the tests."""
    del extra
    started: list[Served] = []

    def launch(*options: str) -> Served:
        started.append(start_server(tmp_path_factory.mktemp("served"), *options))
        return started[-1]

    yield launch
    for served in started:
        served.process.terminate()
    for served in started:
        try:
            served.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()


@pytest.fixture(scope="module")
def server(launch: Callable[..., Served]) -> Served:
    """A server with narrow limits: 3 places, 1 MB, 1 megapixel, 3 s."""
    return launch(*LIMITS)
