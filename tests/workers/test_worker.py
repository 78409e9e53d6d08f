"""A single worker: its messages, and its end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli.batch import QueuedImage, stages
from restormer_cli.batch.events import Failed, ImageProgress
from restormer_cli.batch.jobs import BatchConfig, Job
from restormer_cli.batch.pipeline import Stage
from restormer_cli.batch.results import WrittenImage
from restormer_cli.errors import CheckpointError, DeviceError
from restormer_cli.inference.config import RestorerConfig
from restormer_cli.workers.worker import Ready, WorkerConfig, WorkerExited, run_worker
from tests.support.program import picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from restormer_cli.batch.stages import Observer
    from restormer_cli.workers.worker import Message

pytestmark = pytest.mark.usefixtures("folder")

RESULTS = (WrittenImage, Failed, WorkerExited)


def run(
    weights: Path, *names: str, results: int | None = None, observer: Observer | None = None
) -> list[Message]:
    """Run a worker on images until it has sent this number of results; return its messages.

    By default, the number is that of the images.
    """
    sent: list[Message] = []
    changed = threading.Condition()

    def send(message: Message) -> None:
        with changed:
            sent.append(message)
            changed.notify()

    def enough() -> bool:
        most = len(names) if results is None else results
        return len([message for message in sent if isinstance(message, RESULTS)]) >= most

    def requests() -> Iterator[QueuedImage]:
        for number, name in enumerate(names):
            yield QueuedImage(number, Job(Path(name), Path("out", name)), None)
        with changed:
            assert changed.wait_for(enough, timeout=30)

    restorer = RestorerConfig("derain", weights=str(weights), device="cpu", precision="fp32")
    run_worker(requests(), WorkerConfig(restorer, BatchConfig(), observer), send)
    return sent


def test_a_worker_reports_readiness_progress_and_results(weights: Path) -> None:
    """Ready comes first, with the settings; then each image has a result, in order."""
    picture("a.png")
    Path("b.png").write_text("hello")
    picture("c.png")
    ready, *others = run(weights, "a.png", "b.png", "c.png")
    assert isinstance(ready, Ready)
    assert ready.settings["task"] == "derain"
    assert ready.description.startswith(f"{weights} on cpu, fp32")
    assert any(isinstance(message, ImageProgress) for message in others)
    results = [type(message) for message in others if isinstance(message, RESULTS)]
    assert results == [WrittenImage, Failed, WrittenImage]


def test_two_writers_keep_the_order_of_results(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU, a second image may be written first; its result is sent after the first one's."""
    second_is_written, save = threading.Event(), stages.write_encoded

    def write(data: bytes, target: Path, **options: Any) -> None:
        if target.name == "0.png":
            assert second_is_written.wait(30)
        save(data, target, **options)
        if target.name == "1.png":
            second_is_written.set()

    def as_on_a_gpu(work: stages.ImageStages) -> tuple[Stage, ...]:
        return Stage(work.read), Stage(work.compute), Stage(work.write, stages.WRITERS)

    monkeypatch.setattr(stages.ImageStages, "stages", property(as_on_a_gpu))
    monkeypatch.setattr(stages, "write_encoded", write)
    names = [f"{seed}.png" for seed in range(4)]
    for seed, name in enumerate(names):
        picture(name, seed=seed)
    sent = run(weights, *names)
    written = [message.event.input for message in sent if isinstance(message, WrittenImage)]
    assert written == names


def test_images_are_dropped_when_the_requests_end(weights: Path) -> None:
    """An image that is not being written yet has neither a result nor an output."""
    for seed in range(3):
        picture(f"{seed}.png", (200, 300, 3), seed=seed)
    sent = run(weights, "0.png", "1.png", "2.png", results=1)
    written = [message for message in sent if isinstance(message, WrittenImage)]
    assert 1 <= len(written) < 3
    assert len(list(Path("out").glob("*.png"))) == len(written)


def test_weights_that_cannot_be_loaded_are_the_only_message(folder: Path) -> None:
    """The worker sends the error instead of Ready."""
    (error,) = run(folder / "gone.pth")
    assert isinstance(error, CheckpointError)


def test_a_device_that_fails_ends_the_worker(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pool gets the cause, and tries the image in another worker."""

    def failing(*_: object) -> None:
        raise DeviceError("cuda:1 failed (CUDA error: unspecified launch failure)")

    picture("a.png")
    sent = run(weights, "a.png", observer=failing)
    assert sent[-1] == WorkerExited("cuda:1 failed (CUDA error: unspecified launch failure)")
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_ends_the_worker(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pool gets the error, and stderr the traceback."""

    def defective(*_: object) -> None:
        raise ZeroDivisionError("by a test")

    picture("a.png")
    sent = run(weights, "a.png", observer=defective)
    assert sent[-1] == WorkerExited("ZeroDivisionError: by a test")
    assert "Traceback" in capsys.readouterr().err
