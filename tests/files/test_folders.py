"""Lists of the images in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from restormer_cli.errors import UsageError
from restormer_cli.files import list_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.program import Outcome


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of images and an empty one."""
    monkeypatch.chdir(tmp_path)
    for name in ("f/10.png", "f/sub/3.png", "f/2.png", "f/notes.txt", "-/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()


def test_the_images_of_a_folder_are_listed_in_natural_order() -> None:
    """Subfolders are searched on request only, and other files are left out."""
    images = [str(path) for path in list_images(Path("f"), {".png"}, recursive=True)]
    assert images == ["f/2.png", "f/10.png", "f/sub/3.png"]
    assert len(list_images(Path("f"), {".png"})) == 2


def test_the_name_of_a_folder_is_exact() -> None:
    """A folder called `-` is not stdin."""
    assert list_images(Path("-"), {".png"}) == [Path("-/1.png")]


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "missing: no such folder"), ("empty", "empty: there are no images")],
)
def test_a_folder_without_images_is_a_usage_error(name: str, message: str) -> None:
    """The error has a remedy."""
    with pytest.raises(UsageError, match=message) as raised:
        list_images(Path(name), {".png"})
    assert raised.value.hint


def test_the_hint_for_an_empty_folder_fits_it(restormer: Callable[..., Outcome]) -> None:
    """Subfolders are only suggested if there are any that were not searched."""
    Path("nested/sub").mkdir(parents=True)
    for command, hint in (
        (("denoise", "empty"), "hint: Name another folder."),
        (("denoise", "nested"), "hint: Search its subfolders, too, with -r."),
        (("denoise", "nested", "-r"), "hint: Name another folder."),
    ):
        assert restormer(*command).stderr.splitlines()[-1] == hint


def test_a_folder_of_outputs_only_says_what_was_left_out(restormer: Callable[..., Outcome]) -> None:
    """The error counts outputs and other kinds of pictures, which the search left out."""
    Path("done").mkdir()
    for name in ("a.restored.png", "b.psd", "c.exr"):
        Path("done", name).touch()
    outcome = restormer("denoise", "done")
    assert outcome.status == 1
    assert (
        "done: there are no images in this folder, except 1 file or folder named like outputs of "
        "earlier runs and 2 files of other kinds of pictures\n"
        "hint: Name one of these to restore it, or another folder.\n"
    ) in outcome.stderr
    with pytest.raises(UsageError, match="except 1 file or folder named like outputs"):
        list_images(Path("done"), {".png"})
