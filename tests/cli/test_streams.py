"""Standard streams, lists of inputs and existing outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome, picture, pixels, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.usefixtures("weights")
def test_stdin_to_stdout(restormer: Callable[..., Outcome]) -> None:
    """`-` alone reads stdin and writes stdout; messages go to stderr."""
    before = picture("in.png")
    for options in ([], ["-o", "-"]):
        outcome = restormer("derain", "-", *options, stdin=Path("in.png").read_bytes())
        assert outcome.status == 0
        assert np.array_equal(image_io.read_image(outcome.stdout).pixels, before)
        assert outcome.stderr.startswith("- -> -  ")


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_a_sheet_that_fails_costs_no_result(device: str, restormer: Callable[..., Outcome]) -> None:
    """An image that goes to stdout is written before the error of its sheet is reported."""
    before = picture("in.png")
    options = ("-o", "-", "--compare", "sheet.png", "--crop", "0,0,999,999", "--device", device)
    outcome = restormer("derain", "-", *options, stdin=Path("in.png").read_bytes())
    assert outcome.status == 1
    assert np.array_equal(image_io.read_image(outcome.stdout).pixels, before)
    assert "error: -: restored, but 34 x 21 pixels do not contain" in outcome.stderr


@pytest.mark.usefixtures("weights")
def test_a_file_to_stdout_and_stdin_to_a_file(restormer: Callable[..., Outcome]) -> None:
    """A file can be written to stdout, and stdin to a file."""
    before = picture("in.png")
    outcome = restormer("derain", "in.png", "-o", "-", "--format", "tiff")
    assert image_io.read_image(outcome.stdout).format == "tiff"
    assert restormer("derain", "-", "-o", "out.webp", stdin=outcome.stdout).status == 0
    assert pixels("out.webp").shape == before.shape


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_stdin_that_is_no_image_fails(data: bytes, restormer: Callable[..., Outcome]) -> None:
    """Invalid data on stdin is an error, and nothing is written to stdout."""
    outcome = restormer("derain", "-", stdin=data)
    assert outcome.status == 1
    assert outcome.stdout == b""
    assert outcome.stderr.startswith("error: -: ")


@pytest.mark.usefixtures("weights")
def test_inputs_from_a_list(restormer: Callable[..., Outcome]) -> None:
    """--files-from reads lines or NUL-terminated paths from a file or stdin, without globbing."""
    for name in ("a.png", "[b].png", "c\nd.png"):
        picture(name)
    Path("list").write_text("a.png\n[b].png\n")
    assert restormer("derain", "--files-from", "list", "-o", "one").status == 0
    data = b"./a.png\0./c\nd.png\0"
    assert restormer("derain", "--files-from", "-", "-0", "-o", "two", stdin=data).status == 0
    written = [name for name in tree() if name.startswith(("one", "two"))]
    assert written == ["one/[b].png", "one/a.png", "two/a.png", "two/c\nd.png"]


def test_an_empty_list_is_no_error(restormer: Callable[..., Outcome]) -> None:
    """An empty list, such as the output of `find` without matches, succeeds."""
    assert restormer("derain", "--files-from", "-", "-o", "out/").status == 0


@pytest.mark.usefixtures("weights")
def test_an_output_replaces_its_input_only_in_place(restormer: Callable[..., Outcome]) -> None:
    """Only --in-place, which needs no -o, may replace an input."""
    picture("in.png")
    Path("copy.png").write_bytes(before := Path("in.png").read_bytes())
    outcome = restormer("derain", "in.png", "-o", "in.png")
    assert outcome.status == 2
    assert "--in-place" in outcome.stderr
    assert Path("in.png").read_bytes() == before
    inode = Path("in.png").stat().st_ino
    assert restormer("derain", "in.png", "--in-place").status == 0
    assert tree() == ["copy.png", "in.png"]
    assert Path("in.png").stat().st_ino != inode
    assert np.array_equal(pixels("in.png"), pixels("copy.png"))


@pytest.mark.usefixtures("weights")
def test_skip_existing_keeps_outputs(restormer: Callable[..., Outcome]) -> None:
    """--skip-existing keeps existing outputs and restores the other images."""
    picture("f/a.png")
    picture("f/b.png")
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"kept")
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert outcome.status == 0
    assert Path("out/a.png").read_bytes() == b"kept"
    assert Path("out/b.png").exists()
    assert "f/a.png: skipped" in outcome.stderr


def test_a_finished_run_needs_no_weights(restormer: Callable[..., Outcome]) -> None:
    """If all outputs exist, no weights are loaded."""
    picture("a.png")
    picture("a.restored.png")
    assert restormer("derain", "a.png", "--skip-existing", "--weights", "gone.pth").status == 0


@pytest.mark.usefixtures("weights")
def test_two_inputs_with_one_output_are_refused(
    restormer: Callable[..., Outcome],
) -> None:
    """Two inputs with the same output are wrong usage, and no file is written."""
    picture("f/a.png")
    picture("g/a.png")
    before = tree()
    outcome = restormer("derain", "f", "g", "-o", "out")
    assert outcome.status == 2
    assert "f/a.png and g/a.png would both become out/a.png" in outcome.stderr
    assert tree() == before
