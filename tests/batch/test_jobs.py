"""Names of outputs, and problems that are found before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from restormer_cli.batch.jobs import Job, plan_jobs
from restormer_cli.errors import UsageError
from restormer_cli.files.discovery import InputQuery
from restormer_cli.imaging.formats import readable_suffixes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a few files."""
    folder = tmp_path / "work"
    for name in ("a.png", "b.jpeg", "c.gif", "scan.2024", "f/a.png", "f/sub/b.tif", "g/a.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(folder)
    return folder


def jobs(*names: str, recursive: bool = True, **options: Any) -> list[Job]:
    return plan_jobs(
        InputQuery(names, readable_suffixes(), recursive=recursive).find().found, **options
    )


def targets(*names: str, **options: Any) -> list[str]:
    return [str(job.target) for job in jobs(*names, **options)]


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("a.png", None, "a.restored.png"),
        ("b.jpeg", None, "b.restored.jpeg"),
        ("c.gif", None, "c.restored.png"),
        ("scan.2024", None, "scan.2024.restored.png"),
        ("a.png", "jpg", "a.restored.jpg"),
        ("b.jpeg", "jpg", "b.restored.jpeg"),
        ("b.jpeg", "tiff", "b.restored.tif"),
        ("scan.2024", "webp", "scan.2024.restored.webp"),
        ("f/a.png", None, "f/a.restored.png"),
    ],
)
def test_the_output_of_a_file_is_beside_it(name: str, kind: str | None, target: str) -> None:
    """It keeps the suffix, or has the one of `--format`, or `.png` for formats only read."""
    assert targets(name, format=kind) == [target]


def test_the_outputs_of_a_folder_mirror_it() -> None:
    """`f` becomes `f-restored`, with the same names and subfolders."""
    assert targets("f") == ["f-restored/a.png", "f-restored/sub/b.tif"]
    assert targets("f/") == targets("f")


def test_outputs_of_the_current_folder_are_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.` is resolved to the name of the folder."""
    monkeypatch.chdir(folder / "f")
    (target, _) = targets(".")
    assert os.path.realpath(target) == str(folder / "f-restored" / "a.png")


@pytest.mark.parametrize("output", ["out/", "f", "."])
def test_an_output_folder_exists_or_ends_in_a_slash(output: str) -> None:
    """The output in it has the name of its input."""
    assert targets("g/a.jpg", output=output) == [str(Path(output, "a.jpg"))]


def test_several_inputs_make_the_output_a_folder() -> None:
    """Several files and a single folder have a folder as output."""
    assert targets("a.png", "b.jpeg", output="out") == ["out/a.png", "out/b.jpeg"]
    assert targets("f", output="out") == ["out/a.png", "out/sub/b.tif"]


def test_the_output_of_one_input_is_the_file_named() -> None:
    """It may have any suffix or none."""
    assert targets("a.png", output="x/out.jpg") == ["x/out.jpg"]
    assert targets("a.png", output="out") == ["out"]


def test_stdin_goes_to_stdout_unless_a_file_is_named() -> None:
    """Without -o, or with `-o -`, the program is a filter."""
    assert jobs("-") == [Job(None, None)]
    assert jobs("-", output="-", format="jpg") == [Job(None, None, format="jpeg")]
    assert targets("-", output="out.png") == ["out.png"]


def test_in_place_means_the_input_itself() -> None:
    """Without -o, each output replaces its input."""
    assert targets("a.png", "f/a.png", in_place=True) == ["a.png", "f/a.png"]


def test_right_views_are_matched_by_name() -> None:
    """A file matches a file; in a folder, names relative to the folder match."""
    assert [job.right for job in jobs("a.png", right="r.png")] == [Path("r.png")]
    Path("right").mkdir()
    rights = [job.right for job in jobs("f", right="right")]
    assert rights == [Path("right/a.png"), Path("right/sub/b.tif")]


REFUSED = {
    "one file for two inputs": (["f/a.png", "h/a.png"], {"output": "out/"}),
    "an output is its input": (["a.png"], {"output": "."}),
    "an output is another input": (["a.png", "b.jpeg"], {"output": "b.jpeg"}),
    "a file for several inputs": (["a.png", "b.jpeg"], {"output": "out.png"}),
    "a format that is not written": (["a.png"], {"output": "out.gif"}),
    "two formats": (["a.png"], {"output": "out.png", "format": "jpg"}),
    "stdout for several inputs": (["a.png", "b.jpeg"], {"output": "-"}),
    "stdin into a folder": (["-"], {"output": "out/"}),
    "stdin among others": (["-", "a.png"], {}),
    "in place with another format": (["a.png"], {"in_place": True, "format": "jpg"}),
    "in place in a format that is only read": (["c.gif"], {"in_place": True}),
    "in place into another folder": (["f"], {"in_place": True, "output": "out/"}),
    "in place into another file": (["a.png"], {"in_place": True, "output": "out.png"}),
    "in place from stdin": (["-"], {"in_place": True}),
    "a folder below a file": (["a.png"], {"output": "b.jpeg/out/"}),
    "one right view for several": (["f"], {"right": "a.png"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictory_outputs_are_an_error(case: str) -> None:
    """It is a usage error with a hint."""
    names, options = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        jobs(*names, **options)
    assert caught.value.hint


def test_outputs_that_would_take_one_name_get_their_own() -> None:
    """An output in another format keeps the whole name of its input, in any order."""
    Path("a.gif").touch()
    names = {"a.png": "out/a.png", "a.gif": "out/a.gif.png", "c.gif": "out/c.png"}
    assert targets(*names, output="out/") == list(names.values())
    assert targets(*reversed(names), output="out/") == list(reversed(names.values()))
    assert targets("a.png", "a.gif") == ["a.restored.png", "a.gif.restored.png"]
    assert targets("f/a.png", "g/a.jpg", output="out", format="png") == [
        "out/a.png",
        "out/a.jpg.png",
    ]
    assert targets("a.gif", "a.tga", output="out/") == ["out/a.gif.png", "out/a.tga.png"]


def test_inputs_with_one_output_cost_no_others() -> None:
    """Those that share a name all the same have a problem, which names all of them."""
    planned = jobs("f/a.png", "a.png", "h/a.png", "b.jpeg", output="out/")
    problem = "f/a.png, a.png and h/a.png would all become out/a.png"
    assert [job.problem for job in planned] == [problem, problem, problem, None]


def test_a_format_that_is_only_read_costs_no_others_in_place() -> None:
    """The others are replaced; with no others, the command is wrong."""
    planned = jobs("a.png", "c.gif", in_place=True)
    assert [job.problem for job in planned] == [
        None,
        "it cannot be replaced: its output would be named c.png",
    ]
    with pytest.raises(UsageError, match=r"c\.gif: it cannot be replaced: its output"):
        jobs("c.gif", in_place=True)


def test_all_problems_are_reported_at_once() -> None:
    """One list has every collision, replacement and folder that cannot be created."""
    Path("out").mkdir()
    Path("out/sub").touch()
    Path("out/b.jpeg").mkdir()
    with pytest.raises(UsageError) as caught:
        jobs("f", "a.png", "b.jpeg", output="out")
    message = caught.value.message
    assert message.startswith("3 problems")
    assert "f/a.png and a.png would both become out/a.png" in message
    assert "out/b.jpeg is a folder" in message
    assert "out/sub is not a folder" in message


HINTS = {
    "an output is its input": (["a.png"], {"output": "."}, "Name another file or folder with -o."),
    "an output is a folder": (
        ["a.png"],
        {"output": "out/"},
        "Rename that folder, or name another output with -o.",
    ),
    "a folder below a file": (
        ["a.png"],
        {"output": "b.jpeg/out/"},
        "Name a folder with -o in which files can be created.",
    ),
    "one file for two inputs": (
        ["f/a.png", "h/a.png"],
        {"output": "new/"},
        "Restore it in a run of its own, with -o.",
    ),
    "a format only for raw files": (["b.jpeg"], {"format": "dng"}, "Write TIFF or PNG."),
}


@pytest.mark.parametrize("case", HINTS)
def test_the_hint_is_for_the_problem_that_was_found(case: str) -> None:
    """Each kind of problem has a remedy of its own, and no other is given."""
    names, options, hint = HINTS[case]
    Path("out/a.png").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        jobs(*names, **options)
    assert caught.value.hint == f"Nothing was changed. {hint}"


def test_in_place_without_an_output_that_replaces_its_input_is_named() -> None:
    """The error says which options do not go together."""
    with pytest.raises(UsageError, match=r"--in-place and -o out\.png do not go together"):
        jobs("a.png", in_place=True, output="out.png")
    with pytest.raises(UsageError, match="--in-place and an image on stdin do not go together"):
        jobs("-", in_place=True)


def test_in_place_allows_an_output_to_replace_its_input_but_no_other() -> None:
    """An input that is still to be read is never replaced."""
    assert targets("a.png", output=".", in_place=True) == ["a.png"]
    with pytest.raises(UsageError, match="would replace the input"):
        jobs("f/a.png", "a.png", output=".", in_place=True)


def test_a_link_to_the_input_is_the_input() -> None:
    """Writing through a link would replace the input."""
    Path("link.png").symlink_to("a.png")
    with pytest.raises(UsageError, match="would be replaced"):
        jobs("a.png", output="link.png")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_write_permission_is_an_error() -> None:  # pragma: no cover
    """Permissions are checked before the start."""
    Path("f").chmod(0o500)
    with pytest.raises(UsageError, match="f is not writable"):
        jobs("a.png", output="f/out/")


def test_a_long_list_of_problems_is_shortened() -> None:
    """Twenty are listed, the others counted."""
    names = []
    for i in range(25):
        Path(f"n{i}.png").touch()
        names.append(f"n{i}.png")
    with pytest.raises(UsageError, match="25 problems") as caught:
        jobs(*names, output=".")
    assert caught.value.message.endswith("and 5 more")
