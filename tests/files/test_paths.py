"""Inputs and outputs behind URLs."""

from __future__ import annotations

import errno
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from restormer_cli.batch import manifest
from restormer_cli.batch.jobs import plan_jobs
from restormer_cli.errors import UsageError
from restormer_cli.files import paths
from restormer_cli.files.discovery import InputQuery
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.formats import readable_suffixes
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("folder", "weights")

COMMAND = ("derain", "memory://shop/in", "-r", "-o", "memory://shop/out", "--json")


class Slow(MemoryFileSystem):
    """A file system without atomic uploads; the third write fails."""

    protocol = "slow"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        Slow.writes += 1
        super().pipe_file(path, value[: len(value) // 2])
        assert all(Path(name).name.startswith(".") for name in self.store)
        if Slow.writes == 3:
            raise OSError("the line is down")
        super().pipe_file(path, value)


@pytest.fixture(autouse=True)
def store() -> Iterator[MemoryFileSystem]:
    """The file system of `memory://`, empty."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def shop(store: MemoryFileSystem) -> dict[str, np.ndarray]:
    """Two images, which are returned, a damaged image, hidden files and another file."""
    before = {}
    for seed, name in enumerate(("a.png", "sub/b.png")):
        before[name] = picture(name, seed=seed)
        store.pipe_file(f"/shop/in/{name}", Path(name).read_bytes())
        Path(name).unlink()
    store.pipe_file("/shop/in/bad.png", b"hello")
    for name in ("notes.txt", ".hidden/c.png", "sub/.c.png"):
        store.pipe_file(f"/shop/in/{name}", b"hello")
    return before


def results(outcome: Outcome) -> dict[str, str | None]:
    """Return the last event of each image, or the reason why it was skipped."""
    events = [e for e in outcome.events if e["event"] in ("restored", "skipped", "failed")]
    return {Path(e["input"]).name: e.get("reason", e["event"]) for e in events}


def test_a_folder_is_restored_into_another(
    shop: dict[str, np.ndarray], store: MemoryFileSystem, restormer: Callable[..., Outcome]
) -> None:
    """Subfolders are kept, events contain URLs, and a damaged file does not stop the others."""
    outcome = restormer(*COMMAND)
    assert outcome.status == 1
    assert results(outcome) == {"a.png": "restored", "b.png": "restored", "bad.png": "failed"}
    assert "error: memory://shop/in/bad.png: not an image" in outcome.stderr
    for event in outcome.events:
        assert event["event"] == "summary" or event["input"].startswith("memory://shop/in/")
    for name, pixels in shop.items():
        assert np.array_equal(
            image_io.read_image(store.cat_file(f"/shop/out/{name}")).pixels, pixels
        )
    assert tree() == []


def test_a_folder_without_images_suggests_its_subfolders(
    store: MemoryFileSystem, restormer: Callable[..., Outcome]
) -> None:
    """The error has the same hint as that of a local folder."""
    store.pipe_file("/nested/sub/a.png", b"hello")
    store.pipe_file("/flat/notes.txt", b"hello")
    for name, hint in (("nested", "Search its subfolders, too"), ("flat", "Name another folder.")):
        outcome = restormer("derain", f"memory://{name}")
        assert outcome.status == 1
        error = f"error: memory://{name}: there are no images in this folder\nhint: {hint}"
        assert error in outcome.stderr


def test_a_second_run_skips_unchanged_images(
    shop: dict[str, np.ndarray], store: MemoryFileSystem, restormer: Callable[..., Outcome]
) -> None:
    """The manifest is a file for each output; changed inputs are restored again."""
    again = (*COMMAND, "--skip-existing")
    restormer(*again)
    assert results(restormer(*again)) == {
        "a.png": manifest.UNCHANGED,
        "b.png": manifest.UNCHANGED,
        "bad.png": "failed",
    }
    line = json.loads(store.cat_file("/shop/out/sub/.restormer/b.png.json"))
    assert line["input"]["name"] == "memory://shop/in/sub/b.png"
    store.pipe_file("/shop/in/a.png", store.cat_file("/shop/in/sub/b.png"))
    store.pipe_file("/shop/out/sub/b.png", store.cat_file("/shop/out/a.png"))
    assert results(restormer(*again)) == {
        "a.png": "restored",
        "b.png": manifest.EDITED,
        "bad.png": "failed",
    }


def test_without_modification_times_contents_are_compared(
    store: MemoryFileSystem, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed input of the same size is restored again, and an edited output is not replaced."""

    def unknown(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "modified", unknown)
    for seed, name in enumerate(("a.bmp", "b.bmp", "c.bmp")):
        picture(name, seed=seed)
        store.pipe_file(f"/shop/in/{name}", Path(name).read_bytes())
    again = (*COMMAND, "--skip-existing")
    restormer(*again)
    store.pipe_file("/shop/in/a.bmp", Path("c.bmp").read_bytes())
    store.pipe_file("/shop/out/b.bmp", Path("c.bmp").read_bytes())
    assert results(restormer(*again)) == {
        "a.bmp": "restored",
        "b.bmp": manifest.EDITED,
        "c.bmp": manifest.UNCHANGED,
    }


def test_files_are_restored_from_and_to_a_store(
    shop: dict[str, np.ndarray], store: MemoryFileSystem, restormer: Callable[..., Outcome]
) -> None:
    """A remote pattern is restored to a local folder, and a local file to a URL."""
    assert restormer("derain", "memory://shop/in/a.*", "-o", "local/").status == 0
    assert restormer("derain", "local/a.png", "-o", "memory://shop/back.tif").status == 0
    back = image_io.read_image(store.cat_file("/shop/back.tif"))
    assert back.format == "tiff"
    assert np.array_equal(back.pixels, shop["a.png"])
    assert tree() == ["local/a.png"]


def test_a_url_of_a_local_file_is_its_path(restormer: Callable[..., Outcome]) -> None:
    """A `file://` URL is treated like a path, also for the name of the output."""
    picture("two words.png")
    url = Path("two words.png").absolute().as_uri()
    assert restormer("derain", url).status == 0
    assert tree() == ["two words.png", "two words.restored.png"]


def test_outputs_of_urls_are_named_like_those_of_paths(shop: dict[str, np.ndarray]) -> None:
    """Outputs are next to the image or the folder, and never in another bucket."""

    def targets(*names: str, **options: Any) -> list[str]:
        return [
            str(job.target)
            for job in plan_jobs(InputQuery(names, readable_suffixes()).find().found, **options)
        ]

    assert targets("memory://shop/in/a.png") == ["memory://shop/in/a.restored.png"]
    assert targets("memory://shop/in") == [
        "memory://shop/in-restored/a.png",
        "memory://shop/in-restored/bad.png",
    ]
    assert targets("memory://shop/in/a.png", format="jpg", output="memory://o/") == [
        "memory://o/a.jpg"
    ]
    store = fsspec.filesystem("memory")
    store.pipe_file("/shop/a.png", b"")
    with pytest.raises(UsageError, match="no folder beside it"):
        targets("memory://shop")
    store.pipe_file("/shop/in/a.gif", b"")
    assert "memory://o/a.gif.png" in targets("memory://shop/in", output="memory://o/")


def test_an_upload_is_complete_or_removed(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without atomic uploads, a temporary name is used, and removed on failure."""
    fsspec.register_implementation("slow", Slow, clobber=True)
    monkeypatch.setattr(Slow, "writes", 2)
    picture("a.png")
    outcome = restormer("derain", "a.png", "-o", "slow://shop/a.png")
    assert outcome.status == 1
    assert "slow://shop/a.png: cannot write (the line is down)" in outcome.stderr
    assert Slow.store == {}
    assert restormer("derain", "a.png", "-o", "slow://shop/a.png").status == 0
    assert [Path(name).name for name in Slow.store] == ["a.png"]


def test_a_missing_backend_is_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing backend is a usage error with an install command; so is an unknown scheme."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    outcome = restormer("derain", "s3://bucket/a.png")
    assert outcome.status == 2
    assert "s3fs" in outcome.stderr
    assert "pip install 'restormer-cli[remote]'" in outcome.stderr
    outcome = restormer("derain", "nothing://bucket/a.png")
    assert outcome.status == 2
    assert "there is no file system called nothing" in outcome.stderr


def test_a_missing_url_fails_like_a_missing_file(restormer: Callable[..., Outcome]) -> None:
    """The error for a missing remote file contains its URL."""
    outcome = restormer("derain", "memory://shop/gone.png")
    assert outcome.status == 1
    assert "memory://shop/gone.png: no such file" in outcome.stderr


def test_an_unreachable_store_is_reported_for_each_input(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors name the image, pattern, folder or output; local images are restored."""

    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("the line is down")

    fsspec.register_implementation("slow", Slow, clobber=True)
    picture("a.png")
    for name in ("info", "find", "glob", "cat_file", "pipe_file", "exists"):
        monkeypatch.setattr(Slow, name, down)
    monkeypatch.setattr(Slow, "isdir", lambda _, path: path.endswith("in"))
    inputs = ("slow://shop/b.png", "slow://shop/*.png", "slow://shop/in", "a.png")
    outcome = restormer("derain", *inputs, "-o", "out/")
    assert outcome.status == 1
    assert outcome.stderr.count("error: slow://shop/") == 3
    assert outcome.stderr.count("the line is down") == 3
    assert tree() == ["a.png", "out/a.png"]
    outcome = restormer("derain", "a.png", "-o", "slow://shop/b.png")
    assert outcome.status == 1
    assert outcome.stderr.count("the line is down") == 1


def test_a_store_that_refuses_a_folder_is_reported_with_its_own_message(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of a store have no message of the system: the cause is what the store says."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("the bucket is locked")

    fsspec.register_implementation("slow", Slow, clobber=True)
    monkeypatch.setattr(Slow, "makedirs", refuse)
    picture("a.png")
    outcome = restormer("derain", "a.png", "-o", "slow://shop/out/a.png")
    assert outcome.status == 1
    assert "slow://shop/out: cannot be created (the bucket is locked)" in outcome.stderr


def test_a_server_that_closes_a_connection_fails_one_image(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the output, and the next image is written."""
    upload = MemoryFileSystem.pipe_file

    def hang_up(fs: MemoryFileSystem, path: str, data: bytes) -> None:
        if path.endswith("a.png"):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        upload(fs, path, data)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", hang_up)
    for name in ("in/a.png", "in/b.png"):
        picture(name)
    outcome = restormer("derain", "in", "-o", "memory://shop/out/")
    assert outcome.status == 1
    assert "error: in/a.png: memory://shop/out/a.png: cannot write (Broken pipe)" in outcome.stderr
    assert "in/b.png -> memory://shop/out/b.png" in outcome.stderr


def test_paths_derived_from_a_url_are_urls() -> None:
    """A URL stays a URL through path operations and pickling."""
    import pickle

    url = paths.UrlPath("s3://b/f//a.png")
    assert str(url) == "s3://b/f/a.png"
    assert str(url.with_suffix(".jpg")) == "s3://b/f/a.jpg"
    assert str(url.parent / "sub" / "b.png") == "s3://b/f/sub/b.png"
    assert pickle.loads(pickle.dumps(url)) == url  # noqa: S301 - pickled here
    assert isinstance(pickle.loads(pickle.dumps(url)), paths.UrlPath)  # noqa: S301
    assert not isinstance(paths.as_path("C:/a.png"), paths.UrlPath)


def test_a_failed_upload_keeps_the_manifest(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed upload, the next run does not skip the old output as edited."""
    picture("a.png", seed=1)
    line = ("derain", "a.png", "-o", "memory://kept/out/", "--skip-existing", "--precision", "fp32")
    assert restormer(*line).status == 0
    picture("a.png", seed=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(paths.UrlPath, "put", full)
        assert restormer(*line).status == 1
    assert "-> memory://kept/out/a.png" in restormer(*line).stderr
    assert "skipped" in restormer(*line).stderr


def test_an_output_that_cannot_be_compared_is_not_replaced(
    store: MemoryFileSystem, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the connection breaks while the output is read, the image is skipped."""
    client = SimpleNamespace(ClientError=type("ClientError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "aiohttp", client)

    def broken(*_: object) -> bytes:
        raise client.ClientError("the line is down")

    def cat_file(_: MemoryFileSystem, path: str) -> bytes:
        return broken() if path == output else bytes(store.store[path].getbuffer())

    picture("a.png")
    line = ("derain", "a.png", "-o", "memory://kept/", "--skip-existing")
    assert restormer(*line).status == 0
    output = "/kept/a.png"
    store.store[output].modified += timedelta(1)  # so that the content is compared
    content = store.store[output].getvalue()
    monkeypatch.setattr(MemoryFile, "read", broken)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    outcome = restormer(*line)
    assert outcome.status == 0
    assert "a.png: skipped, " in outcome.stderr
    assert store.store[output].getvalue() == content


@pytest.mark.parametrize("mode", ["rb", "wb", "a+b"])
def test_a_url_is_not_opened(mode: str) -> None:
    """A URL is read or written as a whole: whoever opens one for writing does not read it."""
    with pytest.raises(OSError, match="can only be read or written as a whole"):
        paths.UrlPath("memory://shop/a.png").open(mode)


def test_a_file_url_names_this_host(restormer: Callable[..., Outcome]) -> None:
    """A `file://` URL with another host is refused."""
    picture("a #1.png")
    assert paths.as_path(f"file://{Path.cwd()}/a #1.png") == Path.cwd() / "a #1.png"
    outcome = restormer("derain", "file://elsewhere/a.png")
    assert outcome.status == 2
    assert "elsewhere is another host" in outcome.stderr
