"""Plans of watched folders: incremental, and the same as plans of whole folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli import files, imaging
from restormer_cli.batch import WatchPlan, manifest, skip_reason
from restormer_cli.batch.jobs import Job, plan_jobs
from restormer_cli.errors import UsageError
from restormer_cli.files import watching

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")
SUFFIXES = imaging.readable_suffixes()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file as complete at the first scan."""
    monkeypatch.setattr(watching, "SETTLING", 0)


def search(*folders: str, recursive: bool = False, output: str = "out/") -> files.InputQuery:
    return files.InputQuery(
        folders, SUFFIXES, recursive=recursive, outputs=[Path(output)], may_be_empty=True
    )


def watch(
    *folders: str, output: str = "out/", recursive: bool = False, **options: Any
) -> WatchPlan:
    return WatchPlan(search(*folders, recursive=recursive, output=output), output=output, **options)


def arrive(*names: str) -> list[Path]:
    """Write files and return their absolute paths."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())
    return [Path(name).absolute() for name in names]


def finish(job: Job) -> None:
    """Write an output and its entry in the manifest."""
    assert job.source is not None
    assert job.target is not None
    job.target.parent.mkdir(exist_ok=True)
    job.target.write_bytes(b"restored")
    entry: dict[str, Any] = {"right": None, "mask": None, "recipe": {"task": "derain"}}
    for role, path in (("input", job.source), ("output", job.target)):
        status = path.stat()
        file = manifest.FileFingerprint.of(path.read_bytes(), status.st_mtime_ns)
        entry[role] = {"name": path.name, **file._asdict()}
    with (job.target.parent / manifest.NAME).open("a") as file:
        file.write(json.dumps(entry) + "\n")


class Calls(dict[str, int]):
    """Count calls, and the bytes that are parsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner, name in ((os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir")):
            monkeypatch.setattr(owner, name, self.counted(name, getattr(owner, name)))
        monkeypatch.setattr(json, "loads", self.counted("parsed", json.loads))
        monkeypatch.setattr(Path, "open", self.counted("opened", Path.open))

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self[name] = self.get(name, 0) + 1
            return function(*args, **options)

        return call


def cost_of_arrival(count: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the calls for one arrival in a folder of which `count` images are finished."""
    folder, output = f"in{count}", f"out{count}/"
    arrive(*(f"{folder}/{n}.png" for n in range(count)))
    plan, arrivals = watch(folder, output=output), files.Arrivals[Job]()

    def scan(changed: list[Path] | None) -> list[Job]:
        _, jobs, whole = plan.scan(changed)
        ready = arrivals.complete(jobs, whole=whole)
        for job in ready:
            assert skip_reason(job, "derain", plan.manifests) == (None, None)
            finish(job)
        return ready

    assert len(scan(None)) == count
    assert len(scan(arrive(f"{folder}/first.png"))) == 1
    first = Path(folder, "first.png").absolute()
    first.write_bytes(b"changed")
    assert len(scan([first])) == 1  # reads the manifest, once in a watch
    first.write_bytes(b"changed again")
    changed = [first, *arrive(f"{folder}/last.png")]
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        jobs = scan(changed)
        scan([])
    assert [job.names[0] for job in jobs] == [f"{folder}/first.png", f"{folder}/last.png"]
    return dict(calls)


def test_the_cost_of_an_arrival_does_not_grow_with_the_finished_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call to the file system, and no line of a manifest, is needed for a finished image."""
    few, many = (cost_of_arrival(count, monkeypatch) for count in (3, 300))
    assert few == many
    assert "scandir" not in many
    assert many["parsed"] == 2  # the entry of the first arrival, and the empty rest


def test_a_manifest_is_read_on_from_where_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only added lines are parsed; another file, or a shorter one, is read from its start."""
    jobs = [Job(path, Path("out") / path.name) for path in arrive("a.png", "b.png", "c.png")]
    for job in jobs[:2]:
        finish(job)
    manifests = manifest.Manifests()
    path = Path("out") / manifest.NAME
    assert list(manifests.outputs(Path("out"))) == ["b.png", "a.png"]
    finish(jobs[2])
    assert len(manifests.outputs(Path("out"))) == 2  # until it is refreshed
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        manifests.refresh()
        assert len(manifests.outputs(Path("out"))) == 3
        assert calls["parsed"] == 2  # the line, and the empty rest
    with path.open("ab") as file:
        file.write(b'{"half')
    manifests.refresh()
    assert len(manifests.outputs(Path("out"))) == 3
    assert manifests.notes == []
    with path.open("ab") as file:
        file.write(b"\n")
    finish(jobs[0])
    manifests.refresh()
    assert len(manifests.outputs(Path("out"))["a.png"]) == 2
    assert manifests.notes == [f"{path} is damaged: 1 of its lines are ignored"]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[1])
    manifests.refresh()
    assert list(manifests.outputs(Path("out"))) == ["b.png"]
    path.unlink()
    manifests.refresh()
    assert manifests.outputs(Path("out")) == {}


@pytest.mark.parametrize("format_", [None, "png"])
@pytest.mark.parametrize("recursive", [False, True])
def test_arrivals_one_by_one_are_planned_as_all_at_once(
    format_: str | None, recursive: bool
) -> None:
    """Names that collide, hidden files, outputs and other kinds are treated alike."""
    names = ["in/x.bmp", "in/sub/x.gif", "in/x.png", "in/x.bmp.png", "in/.x.png", "in/x.psd"]
    names += ["in/x.restored.png", "in/sub/x.png", "in/.hidden/x.png", "in/out/a.png", "two/x.bmp"]
    names += ["in/scan.1.tif", "in/scan.2.tif", "in/a.gif"]
    plan = watch("in", "two", output="in/out/", format=format_, recursive=recursive)
    arrive("in/sub/0.txt", "two/0.txt")
    assert plan.scan(None).jobs == {}
    jobs: dict[Path, Job] = {}
    for name in names:
        jobs |= plan.scan(arrive(name)).jobs
    everything = search("in", "two", recursive=recursive, output="in/out").find()
    expected = plan_jobs(everything.found, output="in/out/", format=format_)
    assert jobs == {job.source: job for job in expected}
    assert plan.scan(None).jobs == jobs


def test_a_file_that_is_gone_does_not_take_a_name() -> None:
    """After the first of two inputs of one name is moved away, the second gets its output."""
    plan = watch("in", "two")
    plan.scan(arrive("in/other.png"))
    assert not plan.scan(arrive("in/x.png")).jobs[Path("in/x.png")].problem
    problem = "in/x.png and two/x.png would both become out/x.png"
    both = plan.scan(arrive("two/x.png")).jobs
    assert [job.problem for job in both.values()] == [problem] * 2
    Path("in/x.png").unlink()
    assert plan.scan([Path("in/x.png").absolute()]).jobs == {
        Path("two/x.png"): Job(Path("two/x.png"), Path("out/x.png"))
    }


def test_a_mask_that_arrives_after_its_image_is_found() -> None:
    """An image without a mask is planned again when something else changes."""
    arrive("masks/b.png")
    plan = watch("in", mask="masks")
    first = plan.scan(arrive("in/a.png")).jobs[Path("in/a.png")]
    assert first.problem == "no mask masks/a.*"
    arrive("masks/a.png")
    jobs = plan.scan(arrive("in/b.png")).jobs
    assert {path.name: job.mask for path, job in jobs.items()} == {
        "b.png": Path("masks/b.png"),
        "a.png": Path("masks/a.png"),
    }


@pytest.mark.parametrize(
    ("changed", "whole"),
    [
        ("in/a.png", False),
        ("in/sub/a.png", False),
        ("in/sub", True),
        ("in", True),
        ("elsewhere/a.png", True),
        ("in/link/a.png", True),
        ("in/out", False),
        ("in/out/a.png", False),
    ],
)
def test_folders_and_links_need_a_search(changed: str, whole: bool) -> None:
    """A folder that arrives may hold anything, and a linked one may have two names."""
    arrive("in/a.png", "in/sub/a.png", "in/out/a.png", "elsewhere/a.png")
    Path("in/link").symlink_to("../elsewhere", target_is_directory=True)
    plan = watch("in", output="in/out", recursive=True)
    plan.scan(None)
    assert plan.scan([Path(changed).absolute()]).whole is whole
    Path("in/twice").symlink_to("sub", target_is_directory=True)
    assert [p.as_posix() for p in plan.scan(None).inputs.linked] == ["in/twice"]
    assert plan.scan([Path("in/a.png").absolute()]).whole


def test_outputs_in_the_way_end_the_watch() -> None:
    """An arrival that cannot be planned at all raises the error of a whole plan."""
    plan = watch("in", "out")
    plan.scan(arrive("in/a.png"))
    with pytest.raises(UsageError, match=r"output of in/a\.png would replace the input out/a\.png"):
        plan.scan(arrive("out/a.png"))
