"""Start and end of the server, the kept results, and the one network in memory."""

from __future__ import annotations

import asyncio
import gc
import io
import signal
import socket
import subprocess
import sys
import weakref
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import pytest

from restormer_cli import server
from restormer_cli.inference import RestorerConfig
from restormer_cli.server import ServerConfig
from tests.support import image_files
from tests.support.serving import SECONDS, check_problem, png, read_answer, start_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.server.queue import RestoringQueue
    from tests.support.program import Outcome
    from tests.support.serving import Served


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_current_image_finish(name: str, tmp_path: Path) -> None:
    """It is answered, the waiting one is refused, nobody can connect, and the status is 0."""
    served = start_server(tmp_path)
    body = image_files.encoded(PIL.Image.new("RGB", (600, 500)), "PNG")
    with ThreadPoolExecutor(2) as threads:
        current = threads.submit(served.restore, body, id="current")
        served.wait_until_restoring("current")
        waiting = threads.submit(served.restore, png(), id="waiting")
        served.wait_for(taken=2)
        served.process.send_signal(getattr(signal, name))
        refused = waiting.result()
        check_problem(refused, 503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert current.result().status == 200
    assert served.process.wait(SECONDS) == 0
    with pytest.raises(ConnectionRefusedError):
        served.connect()


@pytest.mark.usefixtures("extra")
def test_a_second_signal_ends_the_current_image(tmp_path: Path) -> None:
    """A long computation does not keep an impatient user."""
    served = start_server(tmp_path)
    body = image_files.encoded(PIL.Image.new("RGB", (2400, 2000)), "PNG")
    with served.start_upload(len(body), body, "/v1/restore?task=denoise&id=long"):
        served.wait_until_restoring("long")
        served.process.terminate()
        while "Ending after" not in served.log:
            assert served.process.poll() is None
        served.process.terminate()
        assert served.process.wait(SECONDS) == 0
    assert "4.8 MP" not in served.log


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("size", [1000, 2_000_000])
def test_a_signal_refuses_an_upload(size: int, tmp_path: Path) -> None:
    """The program does not wait for a body that it refuses, within its limit or above it."""
    served = start_server(tmp_path, "--max-body", "1", "--timeout", "300")
    with served.start_upload(size) as connection:
        served.wait_for(taken=1)
        served.process.terminate()
        check_problem(read_answer(connection), 503, "unavailable")
        assert served.process.wait(SECONDS) == 0


def test_results_are_kept_on_request(launch: Callable[..., Served]) -> None:
    """Each result is also written to the folder, and none replaces another."""
    served = launch("--keep", "kept")
    answers = [served.restore(png(seed=n), name="../../a.png") for n in range(2)]
    kept = {path.name: path.read_bytes() for path in (served.folder / "kept").iterdir()}
    assert kept == {
        "a.restored.png": answers[0].body,
        "a.restored-2.png": answers[1].body,
    }
    outside = {path.name for path in served.folder.iterdir()}
    assert outside == {"kept", "tiny.pth", "log.txt"}


def test_results_with_long_names_are_kept(launch: Callable[..., Served]) -> None:
    """A name of many bytes is cut at its start, so that it is that of a file, and not hidden."""
    served = launch("--keep", "kept")
    for stem in ("写" * 90, "x" + "." * 300):
        assert served.restore(png(), name=f"{stem}真.png").status == 200
    assert {path.name for path in (served.folder / "kept").iterdir()} == {
        f"{'写' * 64}真.restored.png",
        "真.restored.png",
    }


@pytest.mark.usefixtures("extra")
def test_a_result_that_cannot_be_kept_is_sent(tmp_path: Path) -> None:
    """The client gets the result, and only whoever runs the server a warning with the folder."""
    served = start_server(tmp_path, "--keep", "kept")
    (served.folder / "kept").rmdir()
    answer = served.restore(png())
    assert answer.status == 200
    assert "kept/" not in answer.headers["restormer-result"]
    assert PIL.Image.open(io.BytesIO(answer.body)).size == (34, 21)
    served.process.terminate()
    assert served.process.wait(SECONDS) == 0
    assert "warning: kept/image.restored.png: cannot write (No such file or dir" in served.log


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--host", "0.0.0.0"], "lets other machines use the server"),  # noqa: S104
        (["--token", "short"], "--token is shorter than 16 characters"),
        (["--allow-host", "a.example"], "--allow-host a.example lets other machines use the"),
        (["--allow-host", "*"], "--allow-host '*' is a pattern, which also accepts names of web"),
        (["--allow-host", "*.example.org"], "DNS rebinding"),
        (["--allow-host", ""], "--allow-host '' is neither the name of a host nor NAME:PORT"),
        (["--allow-host", "https://a.example"], "'https://a.example' is neither the name"),
        (["--allow-host", "a.example/"], "'a.example/' is neither the name"),
        (["--allow-host", "a.example:0"], "'a.example:0' is neither the name"),
        (["--allow-host", "a.example:65536"], "'a.example:65536' is neither the name"),
        (["--allow-host", "::1"], "'::1' is neither the name"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], cause: str, restormer: Callable[..., Outcome]
) -> None:
    """The message names the cause, and the status is that of wrong usage."""
    outcome = restormer("serve", *options)
    assert outcome.status == 2
    assert cause in outcome.stderr


@pytest.mark.usefixtures("extra")
def test_a_variable_sets_the_names_of_the_server(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all of them, with spaces between, and a wrong one is reported with the variable."""
    monkeypatch.setenv("RESTORMER_ALLOW_HOST", "a.example b.example/")
    outcome = restormer("serve")
    assert outcome.status == 2
    assert "--allow-host 'b.example/' is neither" in outcome.stderr
    assert "RESTORMER_ALLOW_HOST sets --allow-host." in outcome.stderr


@pytest.mark.usefixtures("extra")
def test_results_cannot_be_kept_in_a_file(
    tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """It is wrong usage, and the message says that the path is no folder."""
    file = tmp_path / "a.png"
    file.touch()
    outcome = restormer("serve", "--port", 0, "--keep", file)
    assert outcome.status == 2
    assert f"--keep: {file} is not a folder" in outcome.stderr


@pytest.mark.usefixtures("extra")
def test_a_port_in_use_is_reported(restormer: Callable[..., Outcome]) -> None:
    """The message names the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = restormer("serve", "--port", port)
    assert outcome.status == 2
    assert f"cannot listen on port {port} of 127.0.0.1" in outcome.stderr


@pytest.mark.usefixtures("extra")
def test_unavailable_weights_end_the_start(restormer: Callable[..., Outcome]) -> None:
    """The server does not start without a network."""
    outcome = restormer("serve", "--port", 0, "--weights", "missing.pth")
    assert outcome.status == 3
    assert "missing.pth" in outcome.stderr


@pytest.mark.usefixtures("folder")
def test_the_missing_extra_is_named() -> None:
    """Without its packages the command says how to install them."""
    code = "import sys; sys.modules['uvicorn'] = None; from restormer_cli.cli import main; main()"
    outcome = subprocess.run([sys.executable, "-c", code, "serve"], capture_output=True)  # noqa: S603
    assert outcome.returncode == 2
    assert b"pip install 'restormer-cli[serve]'" in outcome.stderr


@pytest.mark.usefixtures("extra")
def test_the_browser_is_not_given_the_token(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments are in the list of processes, for all users of the machine."""
    opened: list[str] = []
    monkeypatch.setattr(server, "serve", lambda _, __, ready: ready("http://127.0.0.1:8000/"))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("RESTORMER_TOKEN", "correct-horse-battery")
    assert restormer("serve").status == 0
    assert opened == ["http://127.0.0.1:8000/"]


class Silent:
    """Reporter that reports nothing."""

    def show(self, event: object) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""


def make_queue(config: ServerConfig) -> RestoringQueue:
    """Return a queue; imports packages of the extra `serve`."""
    from restormer_cli.server.queue import RestoringQueue

    return RestoringQueue(config, Silent())


@pytest.mark.usefixtures("extra")
def test_an_unexpected_error_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets a problem without internals, and the log the traceback."""
    from restormer_cli.server import routes

    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("secret")

    monkeypatch.setattr(routes, "task_list", fail)
    config = ServerConfig(restorer=RestorerConfig("denoise"))
    queue = make_queue(config)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/v1/tasks", "headers": headers}
    scope |= {"query_string": b"", "root_path": "", "server": ("localhost", 80)}
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    with pytest.raises(ArithmeticError):
        asyncio.run(routes.application(routes.Service(config, queue))(scope, receive, send))
    queue.close()
    assert messages[0]["status"] == 500
    assert b"urn:restormer:internal" in messages[1]["body"]
    assert b"secret" not in messages[1]["body"]


@pytest.mark.usefixtures("extra")
def test_one_network_is_in_memory(tiny: Callable[..., Path]) -> None:
    """Another task frees the previous network before it loads its own."""
    config = RestorerConfig("denoise", weights=str(tiny()), device="cpu")
    queue = make_queue(ServerConfig(restorer=config))
    first = weakref.ref(queue._restorer(config).network)
    assert queue._restorer(config).network is first()
    queue._restorer(RestorerConfig("derain", weights=str(tiny()), device="cpu"))
    gc.collect()
    assert first() is None
    queue.close()
