"""Local server that imitates the Hugging Face Hub and a GitHub release.

The server implements the protocol of huggingface_hub: it answers HEAD and GET of
`/REPO/resolve/REVISION/FILE` with metadata and a redirect to another origin, as the real Hub
redirects to its CDN. It supports byte ranges, error codes (`X-Error-Code`), and several kinds of
network failures.
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
    """A received request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """Contents and failures of the server, and a log of its requests.

    Attributes:
        files: content by "REPO/FILE".
        release: content by file name.
        commits: commit by revision; any 40 hexadecimal digits are their own commit.
        errors: HTTP status and X-Error-Code by path prefix, for requests that fail.
        tampered: content by the SHA-256 of the content that it replaces.
        cuts: number of bytes after which the connection is dropped, for each download.
        stalled: path prefixes of requests that are never answered.
        requests: received requests in order.
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
        """Start serving on free ports."""
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        # huggingface_hub treats redirects to the Hub's own origin differently, so use two.
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
        """Stop serving; connections are refused from now on."""
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._servers, self._threads = [], []

    @property
    def release_url(self) -> str:
        """Address to use instead of the GitHub release."""
        return f"{self.endpoint}/release"

    def file_requests(self) -> list[Request]:
        """List the requests for files, without those of huggingface_hub under /api/."""
        return [r for r in self.requests if not r.path.startswith("/api/")]

    def downloads(self) -> list[Request]:
        """List the requests for content."""
        return [r for r in self.requests if r.method == "GET" and r.path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, self.path, headers))
        if self.path.startswith(tuple(self.hub.stalled)):
            self.hub.closing.wait(10)
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
            # HTTP/1.0 closes after each answer, so a short body looks like a dropped connection.
            self.wfile.write(body[: self.hub.cuts.pop(0)] if self.hub.cuts else body)
