"""Clients that are slow, wrong, gone or foreign, and many at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import psutil
import pytest

from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from tests.support import image_files
from tests.support.serving import check_problem, png, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.serving import Answer, Served

TOKEN = "correct-horse-battery-staple"  # noqa: S105 - of the tests


def test_a_slow_body_times_out(server: Served) -> None:
    """A body that stops is answered with 408, and its place is free again."""
    with server.start_upload(1000) as connection:
        check_problem(read_answer(connection), 408, "timeout")
        assert connection.recv(1) == b""  # closed
    server.wait_for(taken=0)


def test_a_trickling_body_times_out(server: Served) -> None:
    """A body that arrives byte by byte gets no more time."""
    with server.start_upload(1000) as connection:
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.2):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        started = time.monotonic()
        try:
            check_problem(read_answer(connection), 408, "timeout")
        finally:
            ended.set()
            thread.join()
        assert time.monotonic() - started < 20


def test_unfinished_headers_time_out(server: Served) -> None:
    """A connection whose headers do not end is closed."""
    with server.connect() as connection:
        connection.sendall(b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        connection.settimeout(20)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_an_unfinished_body_frees_its_place(server: Served) -> None:
    """A client that sends less than its Content-Length and hangs up frees its place at once."""
    with server.start_upload(1000):
        server.wait_for(taken=1)
    server.wait_for(taken=0)


def test_a_client_that_hangs_up_frees_its_place(server: Served) -> None:
    """The computation of its image ends, and the next client is answered."""
    body = image_files.encoded(PIL.Image.new("RGB", (1000, 1000)), "PNG")
    with server.start_upload(len(body), body, "/v1/restore?task=denoise&id=gone"):
        server.wait_until_restoring("gone")
    server.wait_for(taken=0)
    assert server.restore(png()).status == 200
    assert "1.0 MP" not in server.log


def test_a_full_queue_answers_429(server: Served) -> None:
    """With all places taken the answer is 429 with Retry-After; later it is the image."""
    connections = []
    while server.taken() < 3:
        connections.append(server.start_upload(1000))
        time.sleep(0.02)
    answer = server.restore(png())
    check_problem(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    for connection in connections:
        connection.close()
    server.wait_for(taken=0)
    assert server.restore(png()).status == 200


def test_a_computation_may_take_longer_than_the_timeout(launch: Callable[..., Served]) -> None:
    """The timeout is for clients that do nothing; one that waits for its answer gets it."""
    server = launch("--timeout", "0.2")
    body = image_files.encoded(PIL.Image.new("RGB", (600, 400)), "PNG")
    for headers in ({}, {"Connection": "close"}):
        answer = server.restore(body, headers=headers)
        assert answer.status == 200
        assert answer.result["seconds"] > 0.2


def test_an_answer_that_is_not_read_frees_its_place(launch: Callable[..., Served]) -> None:
    """A client that takes no data is dropped after the timeout."""
    server = launch("--timeout", "1")
    image = Image(
        image_files.noise(64, 64, 3, "uint16"), bands=image_files.noise(64, 64, 3000, "uint16")
    )
    body = image_io.encode([image], "tiff").data
    assert len(body) > 20_000_000  # more than the system buffers
    with server.start_upload(len(body), body):
        while "64 x 64" not in server.log:
            assert server.process.poll() is None
        assert server.taken() == 1
        server.wait_for(taken=0)


def chunked(*parts: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"POST /v1/restore?task=denoise HTTP/1.1\r\nHost: localhost\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_chunked_bodies_are_read(server: Served) -> None:
    """A body without Content-Length is an image like any other."""
    body = png()
    with server.connect() as connection:
        connection.sendall(chunked(body[:100], body[100:]))
        answer = read_answer(connection)
    assert answer.body == server.restore(body).body


def test_chunked_bodies_are_limited(server: Served) -> None:
    """An endless body is refused as soon as it exceeds the limit."""
    with server.connect() as connection:
        with suppress(OSError):
            connection.sendall(chunked(*[bytes(100_000)] * 11))
        check_problem(read_answer(connection), 413, "too-large")
    server.wait_for(taken=0)


@pytest.mark.parametrize("length", ["-1", "abc", "1, 2", "99999999999999999999999999"])
def test_wrong_lengths_are_refused(length: str, server: Served) -> None:
    """An impossible Content-Length is answered with an error, and the server goes on."""
    with server.connect() as connection:
        head = "POST /v1/restore?task=denoise HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue"
        connection.sendall(f"{head}\r\nContent-Length: {length}\r\n\r\n".encode())
        assert read_answer(connection).status in (400, 413)
    assert server.get("/healthz").status == 200


def test_a_client_that_asks_first_sends_no_refused_body(server: Served) -> None:
    """With Expect: 100-continue a body over the limit is refused before it is sent."""
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/restore?task=denoise HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 900000000\r\nExpect: 100-continue\r\n\r\n"
        )
        check_problem(read_answer(connection), 413, "too-large")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::", "192.0.2.1"])
def test_other_host_names_are_refused(host: str, server: Served) -> None:
    """A site that gives its name this machine's address (DNS rebinding) gets nothing."""
    for path in ("/", "/v1/tasks", "/openapi.json"):
        answer = server.request("GET", path, headers={"Host": host})
        check_problem(answer, 421, "misdirected")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9999", "[::1]:8000", "LOCALHOST:1"])
def test_names_of_this_machine_are_accepted(host: str, server: Served) -> None:
    """Its own names work with any port, which a tunnel may change."""
    assert server.request("GET", "/v1/tasks", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_requests_of_other_sites_are_refused(headers: dict[str, str], server: Served) -> None:
    """A page of another origin, also on this machine, cannot use the server."""
    answer = server.restore(png(), headers=headers)
    check_problem(answer, 403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


def test_requests_of_the_page_are_accepted(server: Served) -> None:
    """The own origin, and links from other sites to the page, are fine."""
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert server.restore(png(), headers=own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.request("GET", "/", headers=link).status == 200


def test_two_hundred_clients_at_once(launch: Callable[..., Served]) -> None:
    """Each gets its own image or 429 with Retry-After, and the memory stays bounded."""
    server = launch("--queue", "20")
    expected: dict[int, Any] = {}
    for seed in range(10):
        expected[seed] = image_io.read_image(server.restore(png(seed=seed)).body).pixels
    memory = psutil.Process(server.process.pid).memory_info
    before = memory().rss
    with ThreadPoolExecutor(200) as threads:
        futures = [threads.submit(server.restore, png(seed=n % 10)) for n in range(200)]
        answers: list[Answer] = [future.result() for future in futures]
    restored = 0
    for number, answer in enumerate(answers):
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert answer.status == 200, answer
            pixels = image_io.read_image(answer.body).pixels
            np.testing.assert_array_equal(pixels, expected[number % 10])
            restored += 1
    assert restored >= 21
    assert memory().rss - before < 100_000_000
    server.wait_for(taken=0)


@pytest.fixture(scope="module")
def secured(launch: Callable[..., Served]) -> Served:
    """A server that other machines could reach."""
    return launch("--host", "0.0.0.0", "--token", TOKEN)  # noqa: S104


@pytest.mark.parametrize("value", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_a_wrong_token_is_refused(value: str | None, secured: Served) -> None:
    """Without the right token there is no API, and the answer says how to send it."""
    headers = {} if value is None else {"Authorization": value}
    answer = secured.restore(png(), headers=headers)
    check_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_right_token_is_accepted(secured: Served) -> None:
    """The document states that the token is needed; the page and the health need none."""
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert secured.restore(png(), headers=headers).status == 200
    document = secured.get("/openapi.json").json
    assert document["paths"]["/v1/restore"]["post"]["security"] == [{"token": []}]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert secured.get("/healthz").status == 200
    assert TOKEN not in secured.get("/").body.decode()


def test_addresses_are_accepted_where_others_may_connect(secured: Served) -> None:
    """An address cannot be rebound; names of others still can."""
    for host, status in (("192.0.2.1:8000", 200), ("evil.example", 421)):
        assert secured.request("GET", "/", headers={"Host": host}).status == status


@pytest.fixture(scope="module")
def proxied(launch: Callable[..., Served]) -> Served:
    """A server behind a proxy, which has two other names."""
    names = ("--allow-host", "Restore.example.org:443", "--allow-host", "two.example:8443")
    return launch(*names, "--token", TOKEN, "--keep", "private")


@pytest.mark.parametrize(
    ("host", "origin", "status", "kind"),
    [
        ("restore.example.org", "https://restore.example.org", 200, ""),
        ("RESTORE.example.org:443", "https://restore.example.org", 200, ""),
        ("restore.example.org:8000", "http://restore.example.org:8000", 200, ""),
        ("127.0.0.1:8000", "https://restore.example.org", 200, ""),
        ("two.example:8443", "https://two.example:8443", 200, ""),
        ("localhost", "https://two.example:8443", 200, ""),
        ("two.example", None, 421, "misdirected"),
        ("evil.example", "https://restore.example.org", 421, "misdirected"),
        ("sub.restore.example.org", None, 421, "misdirected"),
        ("restore.example.org.evil.example", None, 421, "misdirected"),
        ("evil.example:restore.example.org", None, 421, "misdirected"),
        ("192.0.2.1", None, 421, "misdirected"),
        ("restore.example.org", "https://restore.example.org:8444", 403, "forbidden"),
        ("restore.example.org", "https://two.example", 403, "forbidden"),
        ("restore.example.org", "ftp://restore.example.org", 403, "forbidden"),
        ("restore.example.org", "http://[::", 403, "forbidden"),
    ],
)
def test_only_names_of_the_proxy_are_accepted(
    host: str, origin: str | None, status: int, kind: str, proxied: Served
) -> None:
    """A proxy may pass its own name on or not; refusals name the option that adds names."""
    headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    headers |= {"Origin": origin} if origin else {}
    answer = proxied.request("GET", "/v1/tasks", headers=headers)
    if status == 200:
        assert answer.status == 200
    else:
        assert "--allow-host NAME" in check_problem(answer, status, kind)["hint"]


def test_a_name_of_the_proxy_needs_the_token(proxied: Served) -> None:
    """Others can use the server by that name; the page says so, and names no folder."""
    headers = {"Host": "restore.example.org"}
    check_problem(proxied.request("GET", "/v1/tasks", headers=headers), 401, "unauthorized")
    page = proxied.request("GET", "/", headers=headers).body
    assert b'"local":false' in page
    assert b"private" not in page
