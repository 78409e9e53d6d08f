"""The images that a command line names: files, folders, patterns and lists."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from restormer_cli.files.discovery import InputQuery
from restormer_cli.files.lists import read_list
from restormer_cli.files.names import PICTURE_SUFFIXES, natural_key
from restormer_cli.imaging.formats import readable_suffixes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(*arguments: str, recursive: bool = False, output: str | None = None) -> list[str]:
    outputs = [Path(output)] if output else []
    inputs = InputQuery(arguments, readable_suffixes(), recursive=recursive, outputs=outputs).find()
    return [str(image) for image in inputs.found]


def test_named_files_keep_their_order() -> None:
    """Files keep the order in which they are named, also missing ones and other files."""
    touch("b.png", "a.txt")
    assert names("b.png", "missing.png", "a.txt") == ["b.png", "missing.png", "a.txt"]


def test_a_file_given_twice_counts_once() -> None:
    """Different names of one path are one input."""
    touch("a.png", "sub/b.png")
    assert names("a.png", "./a.png", "sub/../a.png", "-", "-") == ["a.png", "-"]


def test_a_folder_gives_its_images_in_natural_order() -> None:
    """Suffixes match in upper and lower case; numbers are sorted by value."""
    touch("f/10.png", "f/2.PNG", "f/1.jpg", "f/notes.txt", "f/sub/3.png")
    assert names("f") == ["f/1.jpg", "f/2.PNG", "f/10.png"]


def test_a_recursive_search_goes_through_subfolders() -> None:
    """With `recursive`, subfolders are searched; `relative` is the path below the folder."""
    touch("f/2.png", "f/sub/deep/1.png")
    inputs = InputQuery(["f"], readable_suffixes(), recursive=True).find()
    assert [str(image.relative) for image in inputs.found] == ["2.png", "sub/deep/1.png"]


def test_hidden_files_and_folders_are_left_out_of_a_folder() -> None:
    """A name with a leading dot is an input only if it is named itself."""
    touch("f/.hidden.png", "f/.cache/a.png", "f/a.png")
    assert names("f", "f/.hidden.png", recursive=True) == ["f/a.png", "f/.hidden.png"]


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trashes"],
)
def test_folders_of_the_system_are_left_out(name: str) -> None:
    """Bins and thumbnails are searched only if they are named."""
    touch(f"f/{name}/a.png", "f/sub/a.png")
    assert names("f", recursive=True) == ["f/sub/a.png"]
    assert names(f"f/{name}") == [f"f/{name}/a.png"]


def test_other_pictures_in_a_folder_are_counted() -> None:
    """They are no inputs unless they are named, and other files are none of them."""
    touch("f/a.png", "f/b.PCX", "f/c.exr", "f/d.txt", "f/.e.psd", "f/sub/f.svg", "g.pcx")
    inputs = InputQuery(["f", "g.pcx"], readable_suffixes()).find()
    assert [str(image) for image in inputs.found] == ["f/a.png", "g.pcx"]
    assert inputs.unread == [Path("f/b.PCX"), Path("f/c.exr")]
    assert not readable_suffixes() & PICTURE_SUFFIXES


def test_outputs_in_a_folder_are_not_inputs() -> None:
    """`*.restored.*`, `-restored` folders next to their originals and the output are left out."""
    touch("f/a.png", "f/a.restored.png", "f/sub/b.png", "f/sub-restored/b.png", "f/out/a.png")
    touch("f/page.html", "f/page_files/a.jpg", "f/.hidden/a.png")
    touch("f/long-restored/c.png")  # not an output: there is no folder `long`
    images = names("f", recursive=True, output="f/out")
    assert images == ["f/a.png", "f/long-restored/c.png", "f/sub/b.png"]
    inputs = InputQuery(["f", "f/sub-restored"], readable_suffixes(), recursive=True).find()
    left_out = [path.as_posix() for path in inputs.results]
    assert left_out == ["f/page_files", "f/a.restored.png"]  # but not what is named


def test_named_outputs_are_left_out_together_with_their_inputs() -> None:
    """In a second run, the shell's `*.png` also matches outputs; alone, such a file is an input."""
    touch("a.png", "a.restored.png", "b.restored.png")
    inputs = InputQuery(["a.png", "a.restored.png", "b.restored.png"], readable_suffixes()).find()
    assert [str(image) for image in inputs.found] == ["a.png", "b.restored.png"]
    assert inputs.own == [Path("a.restored.png")]


@pytest.mark.parametrize("name", [".restored.png", ".restored"])
def test_a_hidden_file_that_is_named_is_an_input(name: str) -> None:
    """A name that consists of the mark of outputs is that of no output."""
    touch("a.png", name)
    inputs = InputQuery(["a.png", name], readable_suffixes()).find()
    assert [str(image) for image in inputs.found] == ["a.png", name]


def test_a_loop_of_links_ends() -> None:
    """A link to a parent folder is not followed."""
    touch("f/sub/a.png")
    Path("f/sub/up").symlink_to("..", target_is_directory=True)
    assert names("f", recursive=True) == ["f/sub/a.png"]


def test_a_linked_folder_is_searched_under_one_name() -> None:
    """A second name of a folder is left out and listed; a link out of the folder is followed."""
    touch("f/a/1.png", "elsewhere/2.png")
    Path("f/b").symlink_to("a", target_is_directory=True)
    Path("f/c").symlink_to("../elsewhere", target_is_directory=True)
    inputs = InputQuery(["f"], readable_suffixes(), recursive=True).find()
    assert [str(image) for image in inputs.found] == ["f/a/1.png", "f/c/2.png"]
    assert [path.as_posix() for path in inputs.linked] == ["f/b"]


def test_a_broken_link_is_found() -> None:
    """A broken link is not left out silently: reading it is an error."""
    touch("f/a.png")
    Path("f/b.png").symlink_to("nowhere.png")
    assert names("f") == ["f/a.png", "f/b.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_in_a_folder_are_left_out() -> None:
    """A pipe in a folder is left out, because reading it would block."""
    touch("f/a.png")
    os.mkfifo("f/b.png")
    assert names("f") == ["f/a.png"]


def test_patterns_are_expanded() -> None:
    """A pattern that the shell did not expand is expanded; `**` matches all folders."""
    touch("a10.png", "a2.png", "b.png", "x/y/a3.png")
    assert names("a*.png") == ["a2.png", "a10.png"]
    assert names("**/a*.png") == ["a2.png", "a10.png", "x/y/a3.png"]


def test_a_pattern_may_be_a_url_of_this_machine() -> None:
    """Its escaped characters are no wildcards, and the images have paths."""
    touch("two words/a1.png", "two words/[a]1.png", "b.png")
    here = Path("two words").absolute()
    assert names(f"{here.as_uri()}/*.png") == [f"{here}/[a]1.png", f"{here}/a1.png"]
    assert names((here / "[a]1.png").as_uri()) == [f"{here}/[a]1.png"]


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [
        ("shots/locked/*.png", "shots/locked"),
        ("shots/*/a?.png", "shots/locked"),
        ("shots/**/*.png", "shots/locked"),
        ("shots/*/a.png", "shots/locked/a.png"),
    ],
)
def test_a_folder_that_a_pattern_cannot_search_is_the_cause(
    pattern: str, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named if nothing matches; otherwise the matches are restored, as by a shell."""
    touch("shots/locked/a.png", "shots/open/b.txt")

    def refuse(call: str) -> None:
        original = getattr(os, call)

        def refusing(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path) == refused:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return original(path, *arguments, **options)

        monkeypatch.setattr(os, call, refusing)

    refuse("scandir")
    refuse("lstat")
    (problem,) = InputQuery([pattern], readable_suffixes()).find().problems
    assert (problem.name, problem.error) == (refused, "cannot be searched (Permission denied)")
    touch("shots/open/a1.png")
    assert not InputQuery(["shots/*/a?.png"], readable_suffixes()).find().problems


def test_an_existing_file_is_not_a_pattern() -> None:
    """`[1].png` names the file of that name, although as a pattern it matches `1.png`."""
    touch("[1].png", "1.png")
    assert names("[1].png") == ["[1].png"]
    assert names("[2].png", "[12].png") == ["1.png"]


def test_listed_names_are_never_patterns() -> None:
    """A list contains exact names and no patterns."""
    touch("a.png")
    inputs = InputQuery([], readable_suffixes(), listed=["*.png", "a.png"]).find()
    assert [str(image) for image in inputs.found] == ["*.png", "a.png"]


def test_a_name_without_images_is_a_problem_with_a_hint() -> None:
    """An empty folder and a pattern without a match are problems; other inputs are found."""
    touch("a.png", "empty/sub/b.png")
    inputs = InputQuery(["a.png", "empty", "no*.png"], readable_suffixes()).find()
    assert [str(image) for image in inputs.found] == ["a.png"]
    assert [problem.name for problem in inputs.problems] == ["empty", "no*.png"]
    assert "-r" in inputs.problems[0].hint


@pytest.mark.parametrize("null", [False, True])
def test_a_list_has_a_path_on_each_line_or_before_each_nul(null: bool) -> None:
    """Empty entries are skipped; with NUL, a newline is a part of the name."""
    data = b"a\nb.png\0c.png\0" if null else b"a.png\r\n\n b.png\nc.png"
    expected = ["a\nb.png", "c.png"] if null else ["a.png", " b.png", "c.png"]
    assert read_list(data, null=null) == expected


def test_a_list_keeps_names_that_are_not_unicode() -> None:
    """Bytes that are not UTF-8 are preserved."""
    assert os.fsencode(read_list(b"\xff.png\n", null=False)[0]) == b"\xff.png"


def test_an_empty_name_is_not_the_current_folder() -> None:
    """An unset shell variable does not stand for all images in the current folder."""
    touch("a.png")
    inputs = InputQuery(["", "x" * 300], readable_suffixes()).find()
    assert [problem.error for problem in inputs.problems] == ["the name is empty"]
    assert [str(image) for image in inputs.found] == ["x" * 300]


def test_natural_order_is_total() -> None:
    """Names that differ only in case or leading zeros have an order, too."""
    words = ["b", "a10", "A2", "a2", "a02", "2", "10", ""]
    ordered = ["", "2", "10", "A2", "a02", "a2", "a10", "b"]
    assert sorted(words, key=natural_key) == ordered
    words.reverse()
    assert sorted(words, key=natural_key) == ordered
