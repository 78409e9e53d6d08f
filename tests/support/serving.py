"""Run `restormer serve` as a program and talk to it over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import PIL.Image
import torch

import restormer_cli
from tests.support import image_files
from tests.support.networks import tiny_network
from tests.support.program import PROGRAM

SECONDS = 60
"""Time to wait for anything on a busy machine."""


@dataclass
class Answer:
    """Answer to a request; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> dict[str, Any]:
        """The event about the restored image."""
        return dict(json.loads(self.headers["restormer-result"]))


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def weights(self) -> Path:
        return self.folder / "tiny.pth"

    def request(
        self, method: str, path: str, body: Any = None, /, headers: Any = None, **query: Any
    ) -> Answer:
        """Send a request; `headers` overrides the usual ones."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            address = f"{path}?{urlencode(query)}" if query else path
            connection.request(method, address, body, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        return self.request("GET", path, **query)

    def restore(self, body: Any, /, headers: Any = None, **query: Any) -> Answer:
        query = {"task": "denoise", **query}
        return self.request("POST", "/v1/restore", body, headers=headers, **query)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def start_upload(self, size: int = 1000, start: bytes = b"x", path: str = "") -> socket.socket:
        """Send the headers of an image of some size, and its start."""
        connection = self.connect()
        connection.sendall(
            f"POST {path or '/v1/restore?task=denoise'} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {size}\r\n\r\n".encode()
            + start
        )
        return connection

    def taken(self) -> int:
        return int(self.get("/healthz").json["queue"]["taken"])

    def wait_for(self, taken: int) -> None:
        """Wait until this number of places is taken."""
        deadline = time.monotonic() + SECONDS
        while self.taken() != taken:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_until_restoring(self, identifier: str) -> None:
        deadline = time.monotonic() + SECONDS
        while self.get(f"/v1/progress/{identifier}").json["state"] != "restoring":
            assert time.monotonic() < deadline
            time.sleep(0.02)


def start_server(folder: Path, *options: str) -> Served:
    """Start the program with a tiny network on a free port, and wait until it serves."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"params": tiny_network().state_dict()}, folder / "tiny.pth")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "RESTORMER_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(Path(restormer_cli.__file__).parents[1]),
        "RESTORMER_NATIVE": "off",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, *PROGRAM, "serve", "--port", "0", "--no-browser"]
    command += ["--weights", "tiny.pth", "--device", "cpu", "--precision", "fp32", *options]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stderr=log, env=environment)  # noqa: S603
    served = Served(process, folder)
    deadline = time.monotonic() + SECONDS
    while not (match := re.search(r"Serving on http://\S+:(\d+)/", served.log)):
        assert process.poll() is None, served.log
        assert time.monotonic() < deadline, served.log
        time.sleep(0.05)
    served.port = int(match[1])
    return served


def form(**files: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body of a form with these files, as browsers write it, and its headers."""
    parts = [
        f'--b-1\r\nContent-Disposition: form-data; name="{name}"; filename="{name} größe.png"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files.items()
    ]
    return b"".join([*parts, b"--b-1--\r\n"]), {
        "Content-Type": 'multipart/form-data; boundary="b-1"'
    }


def read_answer(connection: socket.socket) -> Answer:
    """Read the answer to a request that was sent by hand."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, response.read())


def png(height: int = 21, width: int = 34, seed: int = 0, **options: Any) -> bytes:
    pixels = image_files.noise(height, width, 3, seed=seed)
    return image_files.encoded(PIL.Image.fromarray(pixels), "PNG", **options)


def check_problem(answer: Answer, status: int, kind: str) -> dict[str, Any]:
    """Check an answer against RFC 9457 and the program's own fields."""
    assert (answer.status, answer.json["type"]) == (status, f"urn:restormer:{kind}"), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert answer.json["detail"]
    assert "\n" not in answer.json["detail"]
    return dict(answer.json)
