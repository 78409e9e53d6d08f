"""Distribution of images, dying workers and interruption, with threads as workers."""

from __future__ import annotations

import io
import re
import threading
import time
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.batch import stages
from restormer_cli.batch.events import Event, Failed, Restored, Started
from restormer_cli.batch.jobs import BatchConfig, Job
from restormer_cli.errors import DeviceError, RestormerError
from restormer_cli.imaging import io as image_io
from restormer_cli.inference.config import RestorerConfig
from restormer_cli.inference.restorer import Restorer
from restormer_cli.workers import pool
from restormer_cli.workers.pool import WorkerPool
from restormer_cli.workers.worker import Ready, WorkerConfig, WorkerExited, serve
from tests.support.program import picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from restormer_cli.batch import QueuedImage
    from restormer_cli.batch.events import ImageProgress
    from restormer_cli.workers.worker import Message, Send

CONFIG = WorkerConfig(RestorerConfig("derain"), BatchConfig(max_pixels=10**6), None)
READY = Ready({"weights": "w"}, "on a thread")

pytestmark = pytest.mark.usefixtures("folder")


class ThreadWorker:
    """A worker in this process, which dies when it receives a deadly image."""

    def __init__(self, launcher: ThreadLauncher, send: Send) -> None:
        self.launcher, self.pool_send = launcher, send
        self.requests: SimpleQueue[QueuedImage | None] = SimpleQueue()
        self.given: list[str] = []
        self.alive = True
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def send(self, message: Message) -> None:
        if self.alive:
            self.pool_send(message)

    def work(self) -> None:
        first = self.launcher.first_messages.pop(0) if self.launcher.first_messages else READY
        self.pool_send(first)
        if isinstance(first, Ready):
            serve(iter(self.requests.get, None), self.launcher.restorer, CONFIG, self.send)
        self.send(WorkerExited("the end"))

    def give(self, image: QueuedImage | None) -> None:
        name = "end" if image is None else Path(image.job.names[0]).stem
        self.given.append(name)
        if self.launcher.deadly[name] > 0:
            self.launcher.deadly[name] -= 1
            self.alive = False
            self.requests.put(None)
            self.pool_send(WorkerExited("killed by a test"))
        else:
            self.requests.put(image)

    def kill(self) -> None:
        self.alive = False
        self.requests.put(None)
        self.thread.join()


class ThreadLauncher:
    """Starts workers in threads."""

    def __init__(self, restorer: Restorer, count: int = 2) -> None:
        self.restorer = restorer
        self.devices = [f"thread {i}" for i in range(count)]
        self.deadly = Counter[str]()  # number of workers that die with an image, by its name
        self.first_messages: list[Message] = []  # of the next workers; READY by default
        self.started: list[ThreadWorker] = []
        self.closed = False

    def start_worker(self, index: int, send: Send) -> ThreadWorker:
        self.started.append(ThreadWorker(self, send))
        return self.started[-1]

    def check_unused(self, devices: Sequence[str]) -> None:
        """All devices are available."""

    def close(self) -> None:
        self.closed = True
        for worker in self.started:
            worker.thread.join(30)
            assert not worker.thread.is_alive()


@pytest.fixture
def launcher(identity: Callable[..., Path]) -> ThreadLauncher:
    """Two workers that restore every image to itself, with progress after each of many tiles."""
    weights = str(identity())
    return ThreadLauncher(
        Restorer("derain", weights=weights, device="cpu", precision="fp32", tile=8, overlap=0)
    )


class Run:
    """A run of a worker pool, and its reports."""

    def __init__(
        self, launcher: ThreadLauncher, progress: Callable[[ImageProgress], None] | None = None
    ) -> None:
        self.notes: list[str] = []
        self.progress: list[ImageProgress] = []
        self.say = self.detail = lambda text: None
        self.warn = self.notes.append
        self.show_progress = progress or self.progress.append
        self.pool = WorkerPool(launcher, "derain", self)
        self.stdout = io.BytesIO()

    def __call__(self, jobs: Sequence[Job], stdin: bytes = b"") -> Iterator[Event]:
        return self.pool.run(jobs, stages.StandardStreams(io.BytesIO(stdin), self.stdout))


def jobs(*names: str) -> list[Job]:
    """Write images of random pixels; return the jobs that restore them to `out`."""
    for seed, name in enumerate(names):
        picture(f"{name}.png", (9, 14, 3), seed=seed)
    return [Job(Path(f"{name}.png"), Path("out", f"{name}.png")) for name in names]


def ends(events: list[Event], kind: type[Event]) -> list[str]:
    return [Path(event.input).stem for event in events if isinstance(event, kind)]  # type: ignore[attr-defined]


def test_every_image_is_restored_by_one_worker(launcher: ThreadLauncher) -> None:
    """Each is started and restored once, outputs are right, and all workers have ended."""
    work = jobs(*"abcdefghijkl")
    events = list(Run(launcher)(work))
    assert sorted(ends(events, Started)) == sorted(ends(events, Restored)) == list("abcdefghijkl")
    for job in work:
        assert np.array_equal(pixels(str(job.target)), pixels(str(job.source)))
    assert len(launcher.started) == 2
    assert all(len(worker.given) > 2 for worker in launcher.started)
    assert launcher.closed


def test_a_worker_has_at_most_three_images(launcher: ThreadLauncher) -> None:
    """One is read, one computed, one written; near the end of the run it has only one."""
    unfinished = []
    restored = 0
    for event in Run(launcher)(jobs(*(f"{i:02}" for i in range(14)))):
        restored += isinstance(event, Restored)
        unfinished.append(sum(len(worker.given) for worker in launcher.started) - restored)
    assert max(unfinished) <= pool.PREFETCH * 2
    assert max(unfinished[-8:]) <= 2


def test_no_more_workers_start_than_there_are_images(launcher: ThreadLauncher) -> None:
    """Each costs the seconds that torch takes to import."""
    assert ends(list(Run(launcher)(jobs("a"))), Restored) == ["a"]
    assert len(launcher.started) == 1


def test_images_of_a_dead_worker_are_tried_again(launcher: ThreadLauncher) -> None:
    """The worker is replaced with a note, and all its images are restored."""
    work = jobs(*"abcdefghijkl")
    run = Run(launcher)
    launcher.deadly["e"] = 1
    events = list(run(work))
    assert sorted(ends(events, Restored)) == list("abcdefghijkl")
    assert not ends(events, Failed)
    assert len(launcher.started) == 3
    (note,) = run.notes
    assert "died (killed by a test); to be tried again: " in note


def test_no_image_is_restored_in_place_twice(launcher: ThreadLauncher) -> None:
    """Images in place fail when their worker dies, as it may have replaced them already."""
    work = [Job(job.source, job.source) for job in jobs(*"abcdefghijkl")]
    run = Run(launcher)
    launcher.deadly["e"] = 1
    events = list(run(work))
    lost = ends(events, Failed)
    assert "e" in lost
    assert len(lost) <= pool.PREFETCH
    assert sorted([*lost, *ends(events, Restored)]) == list("abcdefghijkl")
    assert all("--skip-existing" in event.hint for event in events if isinstance(event, Failed))


def test_an_image_with_which_two_workers_die_fails(launcher: ThreadLauncher) -> None:
    """Only this image fails; the other images of its workers are restored."""
    work = jobs("a", "b", "poison", *"cdefghijkl")
    launcher.deadly["poison"] = 2
    events = list(Run(launcher)(work))
    assert sorted(ends(events, Restored)) == list("abcdefghijkl")
    (failure,) = (event for event in events if isinstance(event, Failed))
    assert failure.input == "poison.png"
    assert failure.error == "a second worker died with it (killed by a test)"
    assert "--tile" in failure.hint
    assert not Path("out/poison.png").exists()


def test_a_run_ends_when_no_worker_is_left(launcher: ThreadLauncher) -> None:
    """If no worker can be started again, all remaining images fail."""
    launcher.deadly.update(a=1, b=1)
    launcher.first_messages = [
        READY,
        READY,
        WorkerExited("out of memory"),
        DeviceError("the GPU is gone"),
    ]
    run = Run(launcher)
    events = list(run(jobs(*"abcd")))
    assert sorted(ends(events, Failed)) == list("abcd")
    assert "no worker can be started on thread 0 again (out of memory)" in run.notes
    assert "no worker can be started on thread 1 again (the GPU is gone)" in run.notes


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (DeviceError("cuda:7 was asked for"), "cuda:7 was asked for"),
        (
            WorkerExited("killed by SIGKILL"),
            "thread 1 ended before it was ready (killed by SIGKILL)",
        ),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run(
    launcher: ThreadLauncher, message: Message, error: str
) -> None:
    """The run ends with the error before any image is touched."""
    launcher.first_messages = [READY, message]
    run = Run(launcher)
    with pytest.raises(RestormerError, match=re.escape(error)):
        list(run(jobs("a", "b")))
    run.pool.close()
    assert not Path("out").exists()


def test_different_weights_of_workers_are_an_error(launcher: ThreadLauncher) -> None:
    """Workers on several machines resolve the weights by themselves."""
    launcher.first_messages = [READY, Ready({"weights": "other"}, "")]
    run = Run(launcher)
    with pytest.raises(DeviceError, match="different weights"):
        list(run(jobs("a", "b")))
    run.pool.close()


def test_a_bad_image_fails_alone(launcher: ThreadLauncher) -> None:
    """It fails with the same error as in a single process."""
    work = jobs("a", "b", "c")
    Path("b.png").write_text("hello")
    events = list(Run(launcher)(work))
    assert sorted(ends(events, Restored)) == ["a", "c"]
    (failure,) = (event for event in events if isinstance(event, Failed))
    assert failure.error.startswith("not an image")


def test_the_pool_reads_stdin_and_writes_stdout(launcher: ThreadLauncher) -> None:
    """Workers have no access to the standard streams."""
    before = picture("a.png")
    run = Run(launcher)
    events = list(run([Job(None, None, format="png")], Path("a.png").read_bytes()))
    assert [type(event) for event in events] == [Started, Restored]
    assert np.array_equal(image_io.read_image(run.stdout.getvalue()).pixels, before)


def test_progress_covers_all_workers(launcher: ThreadLauncher) -> None:
    """It adds finished images and the shares of all images in progress."""
    run = Run(launcher)
    work = jobs(*"abcd")
    list(run(work))
    done = [step.number + step.done / step.total for step in run.progress]
    assert max(done) <= len(work)
    assert done[-1] > 3
    assert {step.name for step in run.progress} == {str(job.source) for job in work}


def test_an_interruption_leaves_and_reports_whole_files(
    launcher: ThreadLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files being written are finished, other images dropped, and all workers ended."""
    writing, save = threading.Event(), image_io.write_encoded

    def slow(*arguments: object, **options: object) -> None:
        writing.set()
        time.sleep(0.2)
        save(*arguments, **options)  # type: ignore[arg-type]

    def interrupt(part: ImageProgress) -> None:
        if writing.is_set():
            raise KeyboardInterrupt

    work = jobs(*"abcdefgh")
    monkeypatch.setattr(stages, "write_encoded", slow)
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(Run(launcher, interrupt)(work))
    outputs = sorted(path.stem for path in Path("out").glob("*.png"))
    assert outputs == sorted(ends(events, Restored))
    assert 1 <= len(outputs) < len(work)
    assert launcher.closed


def test_closing_the_run_ends_its_workers(launcher: ThreadLauncher) -> None:
    """Closing the generator of events also leaves no temporary files."""
    run = Run(launcher)(jobs(*"abcdefgh"))
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert launcher.closed
    assert not list(Path().rglob("*.restormer-tmp"))
