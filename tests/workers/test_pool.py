"""Several workers on one run: sharing, dying, stopping; threads stand for the workers here."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

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
from restormer_cli.workers.pool import WorkerExited, WorkerPool
from tests.support.program import picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from restormer_cli.batch.events import ImageProgress
    from restormer_cli.batch.stages import QueuedImage

CONFIG = pool.WorkerConfig(RestorerConfig("derain"), BatchConfig(max_pixels=10**6), None)

pytestmark = pytest.mark.usefixtures("folder")


class Thread:
    """A worker that runs in this process; it dies when it is given a deadly image."""

    def __init__(self, host: Threads, tell: Callable[[object], None]) -> None:
        self.host, self.tell = host, tell
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.given: list[str] = []
        self.alive = True
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        recipe = {"weights": self.host.weights.pop(0)} if self.host.weights else {"weights": "w"}
        start = self.host.starts.pop(0) if self.host.starts else pool.Ready(recipe, "on thread")
        self.tell(start)
        if isinstance(start, pool.Ready):
            for message in pool.serve(self.inbox, self.host.restorer, CONFIG):
                if self.alive:
                    self.tell(message)
        if self.alive:
            self.tell(WorkerExited("the end"))

    def give(self, item: QueuedImage | None) -> None:
        name = "end" if item is None else Path(item.job.names[0]).stem
        self.given.append(name)
        if self.host.deadly[name] > 0:
            self.host.deadly[name] -= 1
            self.alive = False
            self.inbox.put(None)
            self.tell(WorkerExited("killed by a test"))
        else:
            self.inbox.put(item)

    def kill(self) -> None:
        self.alive = False
        self.inbox.put(None)
        self.thread.join()


class Threads:
    """A host of such workers."""

    def __init__(self, restorer: Restorer, count: int = 2) -> None:
        self.restorer = restorer
        self.places = [f"thread {i}" for i in range(count)]
        self.deadly = Counter[str]()  # how often an image is the death of who is given it
        self.starts: list[object] = []  # what the next workers say instead of Ready
        self.weights: list[str] = []  # what the next workers have found
        self.hired: list[Thread] = []
        self.closed = False

    def hire(self, place: int, tell: Callable[[object], None]) -> Thread:
        self.hired.append(Thread(self, tell))
        return self.hired[-1]

    def close(self) -> None:
        self.closed = True
        for each in self.hired:
            each.thread.join(30)
            assert not each.thread.is_alive()


@pytest.fixture
def host(identity: Callable[..., Path]) -> Threads:
    """Two workers that restore every image to itself, in tiles, after each of which they tell."""
    weights = str(identity())
    return Threads(
        Restorer("derain", weights=weights, device="cpu", precision="fp32", tile=8, overlap=0)
    )


class Run:
    """A run of a fleet, with what it said."""

    def __init__(
        self, host: Threads, progress: Callable[[ImageProgress], None] | None = None
    ) -> None:
        self.notes: list[str] = []
        self.parts: list[ImageProgress] = []
        tell = progress or self.parts.append
        self.fleet = WorkerPool(host, "derain", self.notes.append, lambda _: None, tell)
        self.stdout = io.BytesIO()

    def __call__(self, jobs: Sequence[Job], stdin: bytes = b"") -> Iterator[Event]:
        return self.fleet.run(jobs, stages.StandardStreams(io.BytesIO(stdin), self.stdout))


def jobs(*names: str) -> list[Job]:
    """Images of random pixels, to be restored to `out`."""
    for seed, name in enumerate(names):
        picture(f"{name}.png", (9, 14, 3), seed=seed)
    return [Job(Path(f"{name}.png"), Path("out", f"{name}.png")) for name in names]


def ends(events: list[Event], kind: type[Event]) -> list[str]:
    return [Path(event.input).stem for event in events if isinstance(event, kind)]  # type: ignore[attr-defined]


def test_every_image_is_restored_by_one_of_them(host: Threads) -> None:
    """Each is started and restored once, the outputs are right, and nobody is left running."""
    work = jobs(*"abcdefghijkl")
    events = list(Run(host)(work))
    assert sorted(ends(events, Started)) == sorted(ends(events, Restored)) == list("abcdefghijkl")
    for job in work:
        assert np.array_equal(pixels(str(job.target)), pixels(str(job.source)))
    assert len(host.hired) == 2
    assert all(len(each.given) > 2 for each in host.hired)
    assert host.closed


def test_nobody_holds_more_than_is_read_computed_and_written(host: Threads) -> None:
    """However long the run; and near its end one image each, so that they end together."""
    held: dict[int, int] = {}
    most = []

    def watch(event: Event) -> None:
        for i, each in enumerate(host.hired):
            held[i] = len(each.given)
        most.append(sum(held.values()) - count)

    run, count = Run(host), 0
    for event in run(jobs(*(f"{i:02}" for i in range(14)))):
        count += isinstance(event, Restored)
        watch(event)
    assert max(most) <= pool.AHEAD * 2
    assert max(most[-8:]) <= 2


def test_no_more_workers_start_than_there_are_images(host: Threads) -> None:
    """Each costs the seconds that torch takes to import."""
    assert ends(list(Run(host)(jobs("a"))), Restored) == ["a"]
    assert len(host.hired) == 1


def test_the_images_of_a_dead_worker_are_tried_again(host: Threads) -> None:
    """It is replaced, and said; what it held is restored in the end."""
    work = jobs(*"abcdefghijkl")
    run = Run(host)
    host.deadly["e"] = 1
    events = list(run(work))
    assert sorted(ends(events, Restored)) == list("abcdefghijkl")
    assert not ends(events, Failed)
    assert len(host.hired) == 3
    (note,) = run.notes
    assert "died (killed by a test); to be tried again: " in note


def test_what_was_restored_in_place_is_not_restored_twice(host: Threads) -> None:
    """A dead worker may have replaced it already: it has failed, and the record knows more."""
    work = [Job(job.source, job.source) for job in jobs(*"abcdefghijkl")]
    run = Run(host)
    host.deadly["e"] = 1
    events = list(run(work))
    lost = ends(events, Failed)
    assert "e" in lost
    assert len(lost) <= pool.AHEAD
    assert sorted([*lost, *ends(events, Restored)]) == list("abcdefghijkl")
    assert all("--skip-existing" in event.hint for event in events if isinstance(event, Failed))


def test_an_image_that_two_workers_die_with_has_failed(host: Threads) -> None:
    """That one alone: those that were held with it are restored."""
    work = jobs("a", "b", "poison", *"cdefghijkl")
    host.deadly["poison"] = 2
    events = list(Run(host)(work))
    assert sorted(ends(events, Restored)) == list("abcdefghijkl")
    (failure,) = (event for event in events if isinstance(event, Failed))
    assert failure.input == "poison.png"
    assert failure.error == "a second worker died with it (killed by a test)"
    assert "--tile" in failure.hint
    assert not Path("out/poison.png").exists()


def test_a_run_without_workers_ends(host: Threads) -> None:
    """When none can be started again, every image that is left has failed."""
    host.deadly.update(a=1, b=1)
    ready = pool.Ready({"weights": "w"}, "")
    host.starts = [ready, ready, WorkerExited("out of memory"), DeviceError("the GPU is gone")]
    run = Run(host)
    events = list(run(jobs(*"abcd")))
    assert sorted(ends(events, Failed)) == list("abcd")
    assert "no worker can be started on thread 0 again (out of memory)" in run.notes
    assert "no worker can be started on thread 1 again (the GPU is gone)" in run.notes


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (DeviceError("cuda:7 was asked for"), "cuda:7 was asked for"),
        (
            WorkerExited("killed by SIGKILL"),
            "thread 1 ended before it was ready (killed by SIGKILL)",
        ),
    ],
)
def test_a_worker_that_cannot_start_ends_the_run(host: Threads, start: object, said: str) -> None:
    """Before any image is touched."""
    host.starts = [pool.Ready({"weights": "w"}, ""), start]
    run = Run(host)
    with pytest.raises(RestormerError, match=said.replace("(", r"\(").replace(")", r"\)")):
        list(run(jobs("a", "b")))
    run.fleet.close()
    assert not Path("out").exists()


def test_workers_with_different_weights_do_not_work_together(host: Threads) -> None:
    """As may be if each of them looks for the weights on a machine of its own."""
    host.weights = ["one", "other"]
    run = Run(host)
    with pytest.raises(DeviceError, match="different weights"):
        list(run(jobs("a", "b")))
    run.fleet.close()


def test_a_bad_image_costs_only_itself(host: Threads) -> None:
    """It is started and has failed, with the error that a single process gives."""
    work = jobs("a", "b", "c")
    Path("b.png").write_text("hello")
    events = list(Run(host)(work))
    assert sorted(ends(events, Restored)) == ["a", "c"]
    (failure,) = (event for event in events if isinstance(event, Failed))
    assert failure.error.startswith("not an image")


def test_stdin_and_stdout_are_read_and_written_here(host: Threads) -> None:
    """A worker has neither."""
    before = picture("a.png")
    run = Run(host)
    events = list(run([Job(None, None, format="png")], Path("a.png").read_bytes()))
    assert [type(event) for event in events] == [Started, Restored]
    assert np.array_equal(image_io.read_image(run.stdout.getvalue()).pixels, before)


def test_progress_is_that_of_all(host: Threads) -> None:
    """Images that have ended, and the parts of all that are computed."""
    run = Run(host)
    work = jobs(*"abcd")
    list(run(work))
    done = [part.number + part.done / part.total for part in run.parts]
    assert max(done) <= len(work)
    assert done[-1] > 3
    assert {part.name for part in run.parts} == {str(job.source) for job in work}


def test_an_interruption_leaves_whole_files_and_tells_them(
    host: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written is finished; the rest is dropped, and all workers end."""
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
        events.extend(Run(host, interrupt)(work))
    there = sorted(path.stem for path in Path("out").glob("*.png"))
    assert there == sorted(ends(events, Restored))
    assert 1 <= len(there) < len(work)
    assert host.closed


def test_a_run_that_is_left_ends_its_workers(host: Threads) -> None:
    """As when nobody reads the events any more."""
    run = Run(host)(jobs(*"abcdefgh"))
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert host.closed
    assert not list(Path().rglob("*.restormer-tmp"))
