"""A small Hugging Face Hub, and a GitHub release beside it, on loopback.

It speaks what huggingface_hub speaks: HEAD and GET of `/REPO/resolve/REVISION/FILE`, answered by a
redirect that carries the metadata and leads to another origin (as to the real CDN), byte ranges,
and errors named in `X-Error-Code`. Tests make it fail in the ways that networks do.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Request:
    """One request that came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What is served, what goes wrong, and what was asked.

    Attributes:
        files: "REPO/FILE" to content.
        release: file name to content.
        commits: revision to commit; any 40 hexadecimal digits are their own commit.
        errors: path prefix to (status, X-Error-Code): every such request is refused.
        tampered: SHA-256 to the content that is served in place of the right one.
        cuts: after how many bytes of body to drop the connection, one entry per download.
        stalled: path prefixes that are never answered.
        requests: what came, in order.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    release: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    tampered: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    stalled: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def start(self) -> None:
        """Serve until `stop`, on free ports."""
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        # Two origins: a redirect to the Hub's own is not treated as one to a CDN.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        self.endpoint, self.cdn = (
            f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers
        )

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._servers, self._threads = [], []

    @property
    def release_url(self) -> str:
        """The address that takes the place of the GitHub release's."""
        return f"{self.endpoint}/release"

    def file_requests(self) -> list[Request]:
        """The requests for files; huggingface_hub makes others of its own, under /api/."""
        return [r for r in self.requests if not r.path.startswith("/api/")]

    def downloads(self) -> list[Request]:
        """The requests for content."""
        return [r for r in self.requests if r.method == "GET" and r.path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep the test output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, self.path, headers))
        if self.path.startswith(tuple(self.hub.stalled)):
            self.hub._closing.wait(10)
            return
        for prefix, (status, code) in self.hub.errors.items():
            if self.path.startswith(prefix):
                self._reply(status, {"X-Error-Code": code} if code else {})
                return
        if self.path.startswith("/cdn/"):
            self._content(self.path.removeprefix("/cdn/"))
        elif self.path.startswith("/release/"):
            content = self.hub.release.get(self.path.removeprefix("/release/"))
            self._reply(404) if content is None else self._redirect(content)
        else:
            self._resolve()

    def _resolve(self) -> None:
        repository, _, rest = self.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = revision if len(revision) == 40 else self.hub.commits.get(revision)
        if not any(name.startswith(f"{repository}/") for name in self.hub.files):
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
        elif commit is None:
            self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif (content := self.hub.files.get(f"{repository}/{file}")) is None:
            self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            digest = hashlib.sha256(content).hexdigest()
            metadata = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{digest}"',
            }
            self._redirect(content, metadata)

    def _redirect(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        location = f"{self.hub.cdn}/cdn/{hashlib.sha256(content).hexdigest()}"
        self._reply(302, {"Location": location, **(headers or {})})

    def _content(self, digest: str) -> None:
        name, content = next(
            (
                item
                for item in [*self.hub.files.items(), *self.hub.release.items()]
                if hashlib.sha256(item[1]).hexdigest() == digest
            ),
            ("", None),
        )
        if content is None:
            self._reply(404)
            return
        content = self.hub.tampered.get(digest, content)
        headers = {
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="{name.rpartition("/")[2]}";',
        }
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if first >= len(content):
            self._reply(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        status = 206 if "Range" in self.headers else 200
        if status == 206:
            last = len(content) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._reply(status, headers, content[first:])

    def _reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and body:
            # HTTP/1.0 closes after each answer: a short body is a dropped connection.
            self.wfile.write(body[: self.hub.cuts.pop(0)] if self.hub.cuts else body)
