"""Runs over several images in this process: events, outputs and interruptions."""

from __future__ import annotations

import io
import itertools
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from restormer_cli.batch import forecast, pages, reading, stages
from restormer_cli.batch.events import Event, Failed, ImageProgress, Planned, Restored, Started
from restormer_cli.batch.jobs import BatchConfig, Job
from restormer_cli.imaging import Image, Noise
from restormer_cli.imaging import io as image_io
from restormer_cli.inference.restorer import Restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.imaging import ImageSequence

MILLION = BatchConfig(max_pixels=10**6)


def picture(path: Path, shape: tuple[int, ...] = (9, 14, 3)) -> np.ndarray:
    """Write an image of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image_io.write_image(Image(pixels), path)
    return pixels


@pytest.fixture
def restorer(identity: Callable[..., Path]) -> Restorer:
    """A restorer that returns every image unchanged, with progress after each of many tiles."""
    weights = str(identity())
    return Restorer("derain", weights=weights, device="cpu", precision="fp32", tile=8, overlap=0)


def streams(data: bytes = b"") -> stages.StandardStreams:
    return stages.StandardStreams(io.BytesIO(data), io.BytesIO())


def test_each_image_is_started_and_restored(restorer: Restorer, tmp_path: Path) -> None:
    """Each image has two events, in order, and an output in a new folder."""
    pixels = picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    jobs = [Job(tmp_path / f"{n}.png", tmp_path / "new" / n / f"{n}.png") for n in "ab"]
    events = list(stages.run_batch(jobs, restorer, streams()))
    assert [type(event) for event in events] == [Started, Restored, Started, Restored]
    event = events[1]
    assert isinstance(event, Restored)
    assert (event.width, event.height, event.task) == (14, 9, "derain")
    assert event.weights.source == "file"
    assert np.array_equal(image_io.read_image(tmp_path / "new/a/a.png").pixels, pixels)


def test_a_bad_image_does_not_stop_the_others(restorer: Restorer, tmp_path: Path) -> None:
    """Its event has the cause without the name, and there is no output."""
    (tmp_path / "bad.png").write_bytes(b"not an image")
    picture(tmp_path / "good.png")
    jobs = [Job(tmp_path / n, tmp_path / "out" / n) for n in ("bad.png", "gone.png", "good.png")]
    events = [e for e in stages.run_batch(jobs, restorer, streams()) if not isinstance(e, Started)]
    assert [type(event) for event in events] == [Failed, Failed, Restored]
    for event in events[:2]:
        assert isinstance(event, Failed)
        assert str(tmp_path) not in event.error
        assert event.hint
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_a_folder_that_cannot_be_made_fails_that_image(restorer: Restorer, tmp_path: Path) -> None:
    """A file in place of the folder is an error of this image."""
    picture(tmp_path / "a.png")
    (tmp_path / "out").touch()
    (_, event) = stages.run_batch(
        [Job(tmp_path / "a.png", tmp_path / "out/a.png")], restorer, streams()
    )
    assert isinstance(event, Failed)
    assert "out" in event.error


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("read_bytes", "not enough memory to read it"),
        ("estimate_noise", "not enough memory to read it"),
        ("measure_change", "not enough memory for 14 x 9 pixels"),
        ("mask_remarks", "not enough memory to restore it"),
        ("encode", "not enough memory to write it"),
        ("write_encoded", "not enough memory to write it"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        cv2.error("(-4:Insufficient memory) Failed to allocate 48000000 bytes"),
    ],
    ids=["python", "thread", "opencv"],
)
def test_out_of_memory_in_any_stage_fails_that_image(
    identity: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    message: str,
    error: Exception,
) -> None:
    """The stages around the network are guarded, too, and the next image is restored."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    module = next(each for each in (pages, reading, stages) if hasattr(each, part))
    real, results = getattr(module, part), iter([error])

    def fails_once(*arguments: object, **options: object) -> object:
        if (failure := next(results, None)) is not None:
            raise failure
        return real(*arguments, **options)

    for name in "ab":
        picture(tmp_path / f"{name}.png")
    monkeypatch.setattr(module, part, fails_once)
    jobs = [Job(tmp_path / f"{n}.png", tmp_path / "out" / f"{n}.png") for n in "ab"]
    events = [e for e in stages.run_batch(jobs, restorer, streams()) if not isinstance(e, Started)]
    assert [type(event) for event in events] == [Failed, Restored]
    assert isinstance(events[0], Failed)
    assert events[0].error == message
    assert events[0].hint
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["b.png"]


def test_stdin_goes_to_stdout(restorer: Restorer, tmp_path: Path) -> None:
    """The output has the format asked for."""
    pixels = picture(tmp_path / "a.png")
    pipes = streams((tmp_path / "a.png").read_bytes())
    (_, event) = stages.run_batch([Job(None, None, format="tiff")], restorer, pipes)
    assert isinstance(event, Restored)
    assert (event.input, event.output) == ("-", "-")
    assert isinstance(pipes.stdout, io.BytesIO)
    result = image_io.read_image(pipes.stdout.getvalue())
    assert result.format == "tiff"
    assert np.array_equal(result.pixels, pixels)


def test_an_image_that_cannot_be_encoded_leaves_stdout_empty(
    restorer: Restorer, tmp_path: Path
) -> None:
    """Encoding is finished before anything is sent."""
    picture(tmp_path / "a.png")
    pipes = streams()
    (_, event) = stages.run_batch([Job(tmp_path / "a.png", None, format="gif")], restorer, pipes)
    assert isinstance(event, Failed)
    assert isinstance(pipes.stdout, io.BytesIO)
    assert pipes.stdout.getvalue() == b""


def test_a_closed_stdout_ends_the_run(restorer: Restorer, tmp_path: Path) -> None:
    """It is not reported as an error of the image."""

    class Closed(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    picture(tmp_path / "a.png")
    pipes = stages.StandardStreams(io.BytesIO(), Closed())
    with pytest.raises(BrokenPipeError):
        list(stages.run_batch([Job(tmp_path / "a.png", None)], restorer, pipes))


def test_an_interruption_leaves_whole_files_only(restorer: Restorer, tmp_path: Path) -> None:
    """In the middle of the second image, only the first is written and reported."""
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    out = tmp_path / "out"
    jobs = [Job(tmp_path / name, out / name) for name in ("a.png", "b.png", "c.png")]

    def interrupt(part: ImageProgress) -> None:
        if part.number == 1:
            raise KeyboardInterrupt

    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(stages.run_batch(jobs, restorer, streams(), progress=interrupt))
    assert [type(event) for event in events] == [Started, Restored, Started]
    assert [path.name for path in out.iterdir()] == ["a.png"]


def test_an_interruption_between_pages_leaves_no_file(restorer: Restorer, tmp_path: Path) -> None:
    """An output never has fewer pages than it should."""
    images = [Image(np.zeros((9, 14, 3), np.uint8)) for _ in range(3)]
    image_io.write_encoded(image_io.encode(images, "tiff", count=3)[0], tmp_path / "a.tif")

    def interrupt(part: ImageProgress) -> None:
        if part.page == 2:
            raise KeyboardInterrupt

    jobs = [Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif")]
    with pytest.raises(KeyboardInterrupt):
        list(stages.run_batch(jobs, restorer, streams(), progress=interrupt))
    assert not (tmp_path / "out").exists()


def test_an_interruption_finishes_the_image_being_written(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next image is dropped at its next tile."""
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    computing, save = threading.Event(), image_io.write_encoded

    def slow(data: bytes, target: Path, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)  # handled by the main thread, which waits for this one
        computing.wait(10)
        save(data, target, **options)  # type: ignore[arg-type]

    def progress(part: ImageProgress) -> None:
        if part.number == 1:
            computing.set()
            time.sleep(0.05)

    monkeypatch.setattr(stages, "write_encoded", slow)
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a.png", "b.png")]
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(stages.run_batch(jobs, restorer, streams(), progress=progress))
    assert [type(event) for event in events] == [Started, Restored]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_reading_is_one_image_ahead_of_computing(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefetch never exceeds the number of stages."""
    for i in range(8):
        picture(tmp_path / f"{i}.png")
    read, ahead, decode = [], [], image_io.decode

    def reading(*arguments: object, **options: object) -> ImageSequence:
        read.append(options["name"])
        return decode(*arguments, **options)  # type: ignore[arg-type]

    def progress(part: ImageProgress) -> None:
        if part.done == part.total:
            time.sleep(0.05)  # time enough to read all of them
            ahead.append(len(read) - part.number - 1)

    monkeypatch.setattr(pages, "decode", reading)
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(8)]
    events = list(stages.run_batch(jobs, restorer, streams(), progress=progress))
    assert max(ahead) in (1, 2)
    assert ahead[-1] == 0
    restored = [event.input for event in events if isinstance(event, Restored)]
    assert restored == [str(job.source) for job in jobs]


def test_a_slow_device_overlaps_with_reading_and_writing(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the device computes an image, the next is read and the previous one is written."""
    together = threading.Barrier(3, timeout=60)
    meeting = {"read": 2, "compute": 1, "write": 0}  # the image of each stage, at one moment

    def meet(stage: str, function: Callable[..., object]) -> Callable[..., object]:
        count = iter(range(4))

        def met(*arguments: object, **options: object) -> object:
            if next(count) == meeting[stage]:
                together.wait()
            return function(*arguments, **options)

        return met

    monkeypatch.setattr(pages, "decode", meet("read", pages.decode))
    monkeypatch.setattr(restorer, "forward", meet("compute", restorer.forward))
    monkeypatch.setattr(stages, "encode", meet("write", stages.encode))
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / f"{name}.tif") for name in "abcd"]
    events = list(stages.run_batch(jobs, restorer, streams()))
    assert [type(event) for event in events] == [Started, Restored] * 4


class OnGpu:
    """A restorer that computes on the CPU and claims to be on a GPU."""

    def __init__(self, restorer: Restorer) -> None:
        self.device = torch.device("meta")
        self._restorer = restorer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._restorer, name)


def test_a_gpu_only_computes(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a GPU computes an image, others are prepared, converted back and compressed."""
    together = threading.Barrier(4, timeout=60)
    # The image of each step, at one moment: two are written at a time.
    meeting = {"prepare": (3,), "compute": (2,), "measure_change": (), "encode": (0, 1)}
    threads: dict[str, set[int]] = {step: set() for step in meeting}

    def meet(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        count = itertools.count()

        def met(*arguments: Any, **options: Any) -> Any:
            threads[step].add(threading.get_ident())
            if next(count) in meeting[step]:
                together.wait()
            return function(*arguments, **options)

        return met

    for step in ("prepare", "measure_change", "encode"):
        monkeypatch.setattr(stages, step, meet(step, getattr(stages, step)))
    monkeypatch.setattr(restorer, "forward", meet("compute", restorer.forward))
    pixels = [picture(tmp_path / f"{name}.png") for name in "abcdef"]
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / f"{name}.tif") for name in "abcdef"]
    events = list(stages.run_batch(jobs, OnGpu(restorer), streams()))  # type: ignore[arg-type]
    assert [type(event) for event in events] == [Started, Restored] * 6
    for job, expected in zip(jobs, pixels, strict=True):
        assert job.target is not None
        assert np.array_equal(image_io.read_image(job.target).pixels, expected)
    assert len(threads["compute"]) == 1
    assert threads["compute"].isdisjoint(threads["prepare"] | threads["measure_change"])


def test_a_defect_during_an_interruption_fails_its_image(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is reported with the defect, and the interruption goes on."""
    begun, stopped = threading.Event(), threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        begun.set()
        assert stopped.wait(60)
        raise ZeroDivisionError("by a test")

    monkeypatch.setattr(stages, "Flag", lambda: stopped)
    monkeypatch.setattr(stages, "write_encoded", fail)
    picture(tmp_path / "a.png")
    jobs = [Job(tmp_path / "a.png", tmp_path / "out" / "a.png")]
    events = stages.run_batch(jobs, restorer, streams())
    assert isinstance(next(events), Started)
    assert begun.wait(60)
    failed = events.throw(KeyboardInterrupt())
    assert isinstance(failed, Failed)
    assert "this is a defect of restormer (ZeroDivisionError: by a test)" in failed.error
    with pytest.raises(KeyboardInterrupt):
        next(events)


def test_an_interruption_of_the_consumer_reports_the_next_image(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is being written while the last one is shown is finished and reported."""
    begun, stopped, save = threading.Event(), threading.Event(), image_io.write_encoded

    def write(data: bytes, target: Path, **options: Any) -> None:
        if target.name == "b.png":
            begun.set()
            assert stopped.wait(60)
        save(data, target, **options)

    monkeypatch.setattr(stages, "Flag", lambda: stopped)
    monkeypatch.setattr(stages, "write_encoded", write)
    for name in "abcde":
        picture(tmp_path / f"{name}.png")
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") for name in "abcde"]
    events = stages.run_batch(jobs, restorer, streams())
    assert [type(next(events)), type(next(events))] == [Started, Restored]
    assert begun.wait(60)
    last = [events.throw(KeyboardInterrupt())]
    with pytest.raises(KeyboardInterrupt):
        last.extend(events)
    assert [type(event) for event in last] == [Started, Restored]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]


def test_an_interruption_reports_all_images_that_are_written(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU, two images are written at a time: both are finished and reported."""
    together, save = threading.Barrier(2, timeout=60), image_io.write_encoded

    def slow(data: bytes, target: Path, **options: Any) -> None:
        if together.wait() == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        assert stopped.wait(60)
        save(data, target, **options)

    stopped = threading.Event()
    monkeypatch.setattr(stages, "Flag", lambda: stopped)
    monkeypatch.setattr(stages, "write_encoded", slow)
    for name in "abcdefgh":
        picture(tmp_path / f"{name}.png")
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") for name in "abcdefgh"]
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(stages.run_batch(jobs, OnGpu(restorer), streams()))  # type: ignore[arg-type]
    written = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert written == ["a.png", "b.png"]
    assert [type(event) for event in events] == [Started, Restored] * 2
    restored = [event.output for event in events if isinstance(event, Restored)]
    assert restored == [str(tmp_path / "out" / name) for name in written]


def test_a_right_view_of_another_size_fails_that_image(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """The error names both sizes."""
    network = tiny(in_channels=6, dual_pixel=True)
    restorer = Restorer("defocus", weights=str(network), dual_pixel=True, device="cpu")
    picture(tmp_path / "left.png")
    picture(tmp_path / "right.png", (9, 15, 3))
    job = Job(tmp_path / "left.png", tmp_path / "out.png", right=tmp_path / "right.png")
    (_, event) = stages.run_batch([job], restorer, streams())
    assert isinstance(event, Failed)
    assert "14 x 9" in event.error
    assert "15 x 9" in event.error


def test_a_preview_plans_and_writes_nothing(restorer: Restorer, tmp_path: Path) -> None:
    """It decodes the images, and so finds bad ones."""
    picture(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a.png", "bad.png")]
    known, bad = forecast.preview_batch(jobs, "derain", restorer, streams(), MILLION)
    assert isinstance(known, Planned)
    assert (known.width, known.height) == (14, 9)
    assert known.strategy
    assert isinstance(bad, Failed)
    unknown, _ = forecast.preview_batch(jobs, "derain", None, streams(), MILLION)
    assert isinstance(unknown, Planned)
    assert unknown.strategy is None
    assert not (tmp_path / "out").exists()


def test_a_preview_reads_the_right_view(restorer: Restorer, tmp_path: Path) -> None:
    """It reports a missing one and one with other pages, as the run would."""
    images = [Image(np.zeros((9, 14, 3), np.uint8)) for _ in range(2)]
    image_io.write_encoded(image_io.encode(images, "tiff", count=2)[0], tmp_path / "two.tif")
    left = tmp_path / "left.png"
    picture(left)
    rights = (left, tmp_path / "two.tif", tmp_path / "missing.png")
    jobs = [Job(left, tmp_path / "out.png", right=right) for right in rights]
    events = list(forecast.preview_batch(jobs, "defocus", restorer, streams(), MILLION))
    assert [type(event) for event in events] == [Planned, Failed, Failed]
    assert "its right view 2" in events[1].error  # type: ignore[attr-defined]
    assert "no such file" in events[2].error.lower()  # type: ignore[attr-defined]


def test_an_image_with_too_many_pixels_fails(restorer: Restorer, tmp_path: Path) -> None:
    """The hint names the option."""
    picture(tmp_path / "a.png")
    job = Job(tmp_path / "a.png", tmp_path / "out.png")
    (_, event) = stages.run_batch([job], restorer, streams(), BatchConfig(max_pixels=100))
    assert isinstance(event, Failed)
    assert "--max-pixels" in event.hint


def test_a_noise_that_is_known_is_not_estimated_again(
    identity: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events report the noise of the job for its first page, in runs and previews."""
    estimated: list[np.ndarray] = []
    monkeypatch.setattr(pages, "estimate_noise", estimated.append)
    images = [Image(np.full((9, 14, 3), shade, np.uint8)) for shade in (10, 20)]
    image_io.write_encoded(image_io.encode(images, "tiff", count=2)[0], tmp_path / "a.tif")
    job = Job(tmp_path / "a.tif", tmp_path / "out.tif", noise=Noise(25.0, 24.0))
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    (_, restored) = stages.run_batch([job], restorer, streams())
    (planned,) = forecast.preview_batch([job], "denoise", None, streams(), MILLION)
    assert isinstance(restored, Restored)
    assert isinstance(planned, Planned)
    assert restored.noise == planned.noise == job.noise
    assert [page.mean() for page in estimated] == [20, 20]
