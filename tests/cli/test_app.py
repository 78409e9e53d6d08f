"""The command line through its front door: files, streams, exit statuses."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer

from restormer_cli import __version__
from restormer_cli.checkpoints import serialization
from restormer_cli.cli import app
from restormer_cli.imaging import io as image_io
from tests.support.program import PROGRAM, Outcome, picture, pixels, python, tree

if TYPE_CHECKING:
    from collections.abc import Callable

RESTORING = ("denoise", "derain", "deblur", "defocus")


pytestmark = pytest.mark.usefixtures("folder")


# --- files --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("rgb.png", (21, 34, 3), "uint8"),
        ("grey.png", (21, 34, 1), "uint8"),
        ("deep.png", (21, 34, 3), "uint16"),
        ("deep.tif", (21, 34, 3), "uint16"),
        ("float.tiff", (21, 34, 3), "float32"),
        ("lossless.webp", (21, 34, 3), "uint8"),
        ("plain.bmp", (21, 34, 3), "uint8"),
        ("[1].png", (8, 8, 3), "uint8"),
        ("ü ñ.png", (1, 1, 3), "uint8"),
        ("new\nline.png", (3, 40, 3), "uint8"),
    ],
)
def test_a_file_comes_back_bit_for_bit(
    name: str, shape: tuple[int, ...], dtype: str, restormer: Callable[..., Outcome]
) -> None:
    """What the network leaves alone is in the output as it was, whatever the format and name."""
    before = picture(name, shape, dtype)
    outcome = restormer("denoise", name)
    assert outcome.status == 0
    assert outcome.stdout == b""
    path = Path(name)
    after = pixels(f"{path.stem}.restored{path.suffix}")
    assert after.dtype == before.dtype
    assert np.array_equal(after, before)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("task", RESTORING)
def test_every_task_restores(task: str, restormer: Callable[..., Outcome]) -> None:
    """All four commands run, and their result line names what ran."""
    before = picture("in.png")
    outcome = restormer(task, "in.png", "-o", "out.png", "--precision", "fp32")
    assert outcome.status == 0
    assert np.array_equal(pixels("out.png"), before)
    line, warning = outcome.stderr.splitlines()
    assert line.startswith("in.png -> out.png  34 x 21 in ")
    assert "identity.pth (file), " in line
    assert line.endswith("fp32 on cpu")
    assert warning.startswith("warning: in.png: practically no change")


@pytest.mark.usefixtures("weights")
def test_names_that_look_like_options(restormer: Callable[..., Outcome]) -> None:
    """After `--`, or matched by a pattern, `-dash.png` is a file."""
    before = picture("-dash.png")
    assert restormer("derain", "--", "-dash.png").status == 0
    assert restormer("derain", "*dash.png", "-o", "out/").status == 0
    assert np.array_equal(pixels("./-dash.restored.png"), before)
    assert np.array_equal(pixels("out/-dash.png"), before)


@pytest.mark.usefixtures("weights")
def test_folders_are_mirrored(restormer: Callable[..., Outcome]) -> None:
    """With -r the tree comes again, beside the folder; without it, its top."""
    for seed, name in enumerate(("f/1.png", "f/sub/2.png", "f/sub/deep/3.webp")):
        picture(name, seed=seed)
    assert restormer("deblur", "f").status == 0
    assert [name for name in tree() if "restored" in name] == ["f-restored/1.png"]
    assert restormer("deblur", "f", "-r", "-o", "out").status == 0
    written = [name for name in tree() if name.startswith("out")]
    assert written == ["out/1.png", "out/sub/2.png", "out/sub/deep/3.webp"]
    for name in written:
        assert np.array_equal(pixels(name), pixels(name.replace("out", "f", 1)))


@pytest.mark.usefixtures("weights")
def test_a_second_run_takes_no_outputs_for_inputs(restormer: Callable[..., Outcome]) -> None:
    """Whatever way the inputs are named, what the first run wrote is left alone."""
    picture("f/a.png")
    restormer("derain", "f/a.png")
    before = tree()
    assert restormer("derain", "f/*.png").status == 0
    assert restormer("derain", "f", "-o", "out").status == 0
    assert tree() == sorted([*before, "out/a.png"])


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    ("options", "output", "kind"),
    [
        (["-o", "out.jpg"], "out.jpg", "jpeg"),
        (["--format", "tiff"], "in.restored.tif", "tiff"),
        (["--format", "webp", "--quality", "100"], "in.restored.webp", "webp"),
        (["--format", "keep"], "in.restored.png", "png"),
        (["-o", "out"], "out", "png"),
        (["-o", "out", "--format", "jpg"], "out", "jpeg"),
    ],
)
def test_the_format_is_what_was_asked_for(
    options: list[str], output: str, kind: str, restormer: Callable[..., Outcome]
) -> None:
    """By the name of the output, by --format, or else the input's own."""
    picture("in.png")
    assert restormer("derain", "in.png", *options).status == 0
    assert image_io.read_image(Path(output)).format == kind


@pytest.mark.usefixtures("weights")
def test_quality_reaches_the_encoder(restormer: Callable[..., Outcome]) -> None:
    """A lower quality makes a smaller file."""
    picture("in.png", (64, 64, 3))
    for quality in (20, 95):
        restormer("derain", "in.png", "-o", f"{quality}.jpg", "--quality", quality)
    assert Path("20.jpg").stat().st_size < Path("95.jpg").stat().st_size


@pytest.mark.usefixtures("weights")
def test_what_a_format_cannot_hold_is_said(restormer: Callable[..., Outcome]) -> None:
    """16 bits in a JPEG become 8, and a note says so."""
    picture("in.png", dtype="uint16")
    outcome = restormer("derain", "in.png", "-o", "out.jpg")
    assert outcome.status == 0
    assert "note: in.png: " in outcome.stderr


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    "options", [["--tile", "16"], ["--tile", "16", "--overlap", "8"], ["--tile", "0"]]
)
def test_tiles_restore_the_same_image(
    options: list[str], restormer: Callable[..., Outcome]
) -> None:
    """Blending tiles of what is left alone leaves it alone."""
    before = picture("in.png", (40, 50, 3))
    overlap = [] if "--overlap" in options else ["--overlap", "4"]
    assert restormer("derain", "in.png", *options, *overlap).status == 0
    assert np.array_equal(pixels("in.restored.png"), before)


# --- two views ----------------------------------------------------------------------------------


@pytest.fixture
def dual(tiny: Callable[..., Path]) -> Path:
    """Weights that take two views."""
    return tiny("dual.pth", in_channels=6, dual_pixel=True)


def test_defocus_takes_the_right_view(dual: Path, restormer: Callable[..., Outcome]) -> None:
    """Another right view gives another result."""
    for seed, name in enumerate(("left.png", "right.png", "other.png")):
        picture(name, seed=seed)
    for right in ("right.png", "other.png"):
        outcome = restormer(
            "defocus", "left.png", "--right", right, "-o", f"from-{right}", "--weights", dual
        )
        assert outcome.status == 0
    assert not np.array_equal(pixels("from-right.png"), pixels("from-other.png"))


def test_right_views_in_folders_are_matched_by_name(
    dual: Path, restormer: Callable[..., Outcome]
) -> None:
    """A pair that is not complete fails alone."""
    for name in ("l/1.png", "l/sub/2.png", "l/3.png", "r/1.png", "r/sub/2.png"):
        picture(name)
    outcome = restormer("defocus", "l", "-r", "--right", "r", "-o", "out", "--weights", dual)
    assert outcome.status == 1
    assert [name for name in tree() if name.startswith("out")] == ["out/1.png", "out/sub/2.png"]
    assert "error: l/3.png: r/3.png: no such file" in outcome.stderr


def test_weights_and_views_must_fit(
    dual: Path, identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Two-view weights without --right, and the other way round, are wrong usage."""
    picture("in.png")
    assert restormer("defocus", "in.png", "--weights", dual).status == 2
    both = restormer("defocus", "in.png", "--right", "in.png", "--weights", identity())
    assert both.status == 2


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
def test_stdin_to_stdout(restormer: Callable[..., Outcome]) -> None:
    """`-` alone reads stdin and writes stdout; what is said goes to stderr."""
    before = picture("in.png")
    for options in ([], ["-o", "-"]):
        outcome = restormer("derain", "-", *options, stdin=Path("in.png").read_bytes())
        assert outcome.status == 0
        assert np.array_equal(image_io.read_image(outcome.stdout).pixels, before)
        assert outcome.stderr.startswith("- -> -  ")


@pytest.mark.usefixtures("weights")
def test_a_file_to_stdout_and_stdin_to_a_file(restormer: Callable[..., Outcome]) -> None:
    """Either end of the pipe may have a name."""
    before = picture("in.png")
    outcome = restormer("derain", "in.png", "-o", "-", "--format", "tiff")
    assert image_io.read_image(outcome.stdout).format == "tiff"
    assert restormer("derain", "-", "-o", "out.webp", stdin=outcome.stdout).status == 0
    assert pixels("out.webp").shape == before.shape


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_stdin_that_is_no_image_fails(data: bytes, restormer: Callable[..., Outcome]) -> None:
    """One line and a hint, and nothing on stdout."""
    outcome = restormer("derain", "-", stdin=data)
    assert outcome.status == 1
    assert outcome.stdout == b""
    assert outcome.stderr.startswith("error: -: ")


@pytest.mark.usefixtures("weights")
def test_lists_of_files(restormer: Callable[..., Outcome]) -> None:
    """From a file or stdin, by lines or NUL; names in them are exact."""
    for name in ("a.png", "[b].png", "c\nd.png"):
        picture(name)
    Path("list").write_text("a.png\n[b].png\n")
    assert restormer("derain", "--files-from", "list", "-o", "one").status == 0
    data = b"./a.png\0./c\nd.png\0"
    assert restormer("derain", "--files-from", "-", "-0", "-o", "two", stdin=data).status == 0
    written = [name for name in tree() if name.startswith(("one", "two"))]
    assert written == ["one/[b].png", "one/a.png", "two/a.png", "two/c\nd.png"]


def test_an_empty_list_is_no_failure(restormer: Callable[..., Outcome]) -> None:
    """`find` may find nothing."""
    assert restormer("derain", "--files-from", "-", "-o", "out/").status == 0


# --- what is there already ----------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
def test_an_output_replaces_its_input_only_in_place(restormer: Callable[..., Outcome]) -> None:
    """Refused with the input untouched; done with --in-place, which needs no -o."""
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
def test_skip_existing_goes_on_where_a_run_stopped(restormer: Callable[..., Outcome]) -> None:
    """What is there stays as it is, the rest is restored."""
    picture("f/a.png")
    picture("f/b.png")
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"kept")
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert outcome.status == 0
    assert Path("out/a.png").read_bytes() == b"kept"
    assert Path("out/b.png").exists()
    assert "f/a.png: skipped" in outcome.stderr


def test_nothing_left_to_do_needs_no_weights(restormer: Callable[..., Outcome]) -> None:
    """A finished run says so, at once."""
    picture("a.png")
    picture("a.restored.png")
    assert restormer("derain", "a.png", "--skip-existing", "--weights", "gone.pth").status == 0


@pytest.mark.usefixtures("weights")
def test_collisions_are_told_before_anything_is_touched(
    restormer: Callable[..., Outcome],
) -> None:
    """Two inputs for one output are wrong usage."""
    picture("f/a.png")
    picture("g/a.png")
    before = tree()
    outcome = restormer("derain", "f", "g", "-o", "out")
    assert outcome.status == 2
    assert "f/a.png and g/a.png would both become out/a.png" in outcome.stderr
    assert tree() == before


@pytest.mark.usefixtures("weights")
def test_a_dry_run_touches_nothing(restormer: Callable[..., Outcome]) -> None:
    """It tells files, sizes, strategy, memory and time."""
    picture("f/a.png")
    before = tree()
    outcome = restormer("derain", "f", "-o", "out", "--dry-run")
    assert outcome.status == 0
    assert outcome.stdout == b""
    assert outcome.stderr.startswith("f/a.png -> out/a.png  34 x 21, whole")
    assert re.search(r" of memory, about \d+ s$", outcome.stderr, re.MULTILINE)
    assert tree() == before
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("tile", ["0", "512"])
def test_the_memory_foretold_is_the_memory_taken(tile: str) -> None:
    """The dry run's peak is within a fifth of the peak of the process that restores the image."""
    picture("large.png", (1201, 1601, 3))
    options = ["large.png", "-o", "out.png", "--weights", "lite", "--device", "cpu"]
    line = [*PROGRAM, "denoise", *options, "--tile", tile, "--precision", "fp32", "--json"]
    told, done = (
        json.loads(python(*line, *more).communicate()[0].splitlines()[at])
        for more, at in ((["--dry-run"], 0), ([], -2))
    )
    assert done["event"] == "restored"
    assert 0.8 < told["peak_bytes"] / done["peak_memory"] < 1.2
    assert told["seconds"] > 0


def test_a_dry_run_downloads_nothing(
    hf_home: Path, publish: Callable[..., Any], restormer: Callable[..., Outcome], hub: Any
) -> None:
    """Weights that are not here are named, and stay where they are."""
    publish("deraining", b"weights")
    picture("a.png")
    outcome = restormer("derain", "a.png", "--dry-run")
    assert outcome.status == 0
    assert "deraining would be downloaded first, or the lite ones taken if" in outcome.stderr
    assert not list(hf_home.rglob("*.pth"))


def test_a_dry_run_without_a_network_is_that_of_the_run(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where downloads are forbidden, the lite weights are taken, and their memory is foretold."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    picture("a.png")
    outcome = restormer("derain", "a.png", "--dry-run", "--json")
    assert outcome.status == 0
    assert "HF_HUB_OFFLINE" in outcome.stderr
    assert outcome.events[0]["peak_bytes"] > 0


# --- exit statuses ------------------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
def test_bad_files_do_not_stop_good_ones(restormer: Callable[..., Outcome]) -> None:
    """Each is one line and a hint, and the exit status is 1."""
    picture("good.png")
    Path("text.png").write_text("hello")
    Path("cut.png").write_bytes(Path("good.png").read_bytes()[:200])
    outcome = restormer("derain", "text.png", "cut.png", "missing.png", "no*.png", "good.png")
    assert outcome.status == 1
    assert Path("good.restored.png").exists()
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    hints = [line for line in outcome.stderr.splitlines() if line.startswith("hint: ")]
    assert len(errors) == 4
    assert len(hints) >= 3
    assert "1 restored, 4 failed" in outcome.stderr.splitlines()[-1]
    assert tree() == ["cut.png", "good.png", "good.restored.png", "text.png"]


def test_nothing_but_missing_files_is_a_failure(restormer: Callable[..., Outcome]) -> None:
    """They are named; no network is fetched for them."""
    outcome = restormer("derain", "missing.png", "x" * 300, "", "--weights", "gone.pth")
    assert outcome.status == 1
    assert "error: missing.png: no such file" in outcome.stderr


WRONG = {
    "no input": [],
    "an unknown option": ["a.png", "--frobnicate"],
    "a value that is none of the choices": ["a.png", "--precision", "fp8"],
    "a quality out of range": ["a.png", "--quality", "101"],
    "a tile that is no number": ["a.png", "--tile", "big"],
    "an overlap as large as the tile": ["a.png", "--tile", "16", "--overlap", "16"],
    "JSON and an image on stdout": ["a.png", "-o", "-", "--json"],
    "JSON and an image on stdout unasked": ["-", "--json"],
    "several images on stdout": ["a.png", "b.png", "-o", "-"],
    "quiet and verbose": ["a.png", "-q", "-v"],
    "a separator without a list": ["a.png", "-0"],
    "a list that is not there": ["--files-from", "nothing"],
    "stdin twice": ["-", "--files-from", "-"],
    "in place and stdout": ["a.png", "--in-place", "-o", "-"],
    "a format that is not written": ["a.png", "-o", "out.gif"],
    "an empty output": ["a.png", "-o", ""],
}


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_2(case: str, restormer: Callable[..., Outcome]) -> None:
    """It is explained on stderr, and nothing is touched."""
    picture("a.png")
    picture("b.png")
    outcome = restormer("derain", *WRONG[case])
    assert outcome.status == 2
    assert outcome.stderr
    assert tree() == ["a.png", "b.png"]
    if "--json" not in WRONG[case]:
        assert outcome.stdout == b""


@pytest.mark.parametrize(
    "options", [["--noise", "real", "--sigma", "15"], ["--noise", "real", "--gray"]]
)
def test_noise_options_that_do_not_go_together(
    options: list[str], restormer: Callable[..., Outcome]
) -> None:
    """No checkpoint was published for them: wrong usage."""
    picture("a.png")
    assert restormer("denoise", "a.png", *options).status == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--weights", "gone.pth"],
        ["--weights", "a.png"],
        ["--weights", "official"],
        ["--device", "cuda:7"],
        ["--device", "toaster"],
    ],
)
def test_what_cannot_start_is_3(options: list[str], restormer: Callable[..., Outcome]) -> None:
    """Weights or a device that cannot be had are one line and a hint."""
    picture("a.png")
    outcome = restormer("derain", "a.png", *options)
    assert outcome.status == 3
    assert outcome.stderr.startswith("error: ")
    assert "\nhint: " in outcome.stderr
    assert tree() == ["a.png"]


def test_an_error_that_nobody_foresaw_shows_where_it_is(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not dressed up as one of ours."""
    monkeypatch.setattr("restormer_cli.cli.restore.run", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        app.main(["derain", "a.png"])


# --- what it says -------------------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
def test_json_tells_every_step(restormer: Callable[..., Outcome]) -> None:
    """One event a line, with stable names and fields."""
    picture("a.png")
    picture("c.png")
    Path("b.png").write_text("hello")
    Path("out").mkdir()
    picture("out/c.png")
    outcome = restormer(
        "derain", "a.png", "b.png", "c.png", "-o", "out", "--json", "--skip-existing"
    )
    assert outcome.status == 1
    names = [event["event"] for event in outcome.events]
    assert names == [
        "skipped",
        "planned",
        "planned",
        "started",
        "restored",
        "started",
        "failed",
        "summary",
    ]
    restored, failed, summary = (outcome.events[i] for i in (4, 6, 7))
    assert {"input": "a.png", "output": "out/a.png", "task": "derain"}.items() <= restored.items()
    assert restored["weights"]["name"] == "identity.pth"
    assert restored["weights"]["source"] == "file"
    assert len(restored["weights"]["sha256"]) == 64
    assert (restored["width"], restored["height"]) == (34, 21)
    assert {"device", "precision", "strategy", "seconds"} <= restored.keys()
    assert failed["error"]
    assert failed["hint"]
    assert (summary["restored"], summary["skipped"], summary["failed"]) == (1, 1, 1)


def test_json_tells_why_nothing_started(restormer: Callable[..., Outcome]) -> None:
    """The failure is an event and text on stderr."""
    picture("a.png")
    outcome = restormer("derain", "a.png", "--weights", "gone.pth", "--json")
    assert outcome.status == 3
    event = outcome.events[-1]
    assert (event["event"], event["input"]) == ("failed", None)
    assert "gone.pth" in event["error"]
    assert "gone.pth" in outcome.stderr


def test_quiet_says_nothing_but_warnings_and_errors(
    weights: Path, tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Not a word when all is well."""
    picture("a.png")
    assert restormer("derain", "a.png", "-q", "--weights", tiny(), "--strength", 0.5).stderr == ""
    assert restormer("derain", "a.png", "-q", "--weights", weights).stderr.startswith("warning: ")
    assert restormer("derain", "gone.png", "-q").stderr.startswith("error: ")


@pytest.mark.usefixtures("weights")
def test_verbose_says_more(restormer: Callable[..., Outcome]) -> None:
    """The path of the weights, and each start."""
    picture("a.png")
    assert "a.png: started" in restormer("derain", "a.png", "-v").stderr


@pytest.mark.usefixtures("weights")
def test_names_cannot_forge_lines_or_steer_the_terminal(
    restormer: Callable[..., Outcome],
) -> None:
    """Control characters in names are spelled out."""
    picture("a\n\x1b[31m.png")
    stderr = restormer("derain", "a\n\x1b[31m.png").stderr
    assert "a\\n\\x1b[31m.png -> " in stderr
    assert "\x1b" not in stderr


def test_lite_weights_stand_in_with_a_warning(
    lite_folder: Path, identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Where no source can be reached, the cause is said, even when quiet."""
    network = serialization.load_network(identity())
    lite = lite_folder / "restormer-lite-derain.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, lite)
    picture("a.png")
    outcome = restormer("derain", "a.png", "--json", "-q")
    assert outcome.status == 0
    assert outcome.stderr.startswith("warning: ")
    assert outcome.events[2]["weights"]["source"] == "lite"


# --- variables and help -------------------------------------------------------------------------


def test_every_option_has_its_variable() -> None:
    """RESTORMER_<OPTION>, for each option of each restoring command."""
    group = typer.main.get_command(app.app)
    for task in RESTORING:
        command = group.commands[task]  # type: ignore[attr-defined]
        options = [p for p in command.params if p.param_type_name == "option" and p.envvar]
        assert len(options) >= 18
        for option in options:
            assert option.envvar == f"RESTORMER_{option.name.upper()}"
        without = {p.name for p in command.params} - {p.name for p in options}
        assert without == {"inputs"}


def test_variables_set_options_and_the_command_line_wins(
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable counts where the option is not given."""
    picture("a.png")
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(tiny()))
    monkeypatch.setenv("RESTORMER_STRENGTH", "0.5")
    monkeypatch.setenv("RESTORMER_FORMAT", "tiff")
    monkeypatch.setenv("RESTORMER_QUIET", "1")
    assert restormer("derain", "a.png").stderr == ""
    restormer("derain", "a.png", "--format", "webp")
    assert tree() == ["a.png", "a.restored.tif", "a.restored.webp"]


@pytest.mark.parametrize(
    "command", [*RESTORING, "weights", "info", "doctor", "schema", "train", "weights list"]
)
def test_every_command_explains_itself(command: str, restormer: Callable[..., Outcome]) -> None:
    """--help ends well and shows how the command is used."""
    outcome = restormer(*command.split(), "--help")
    assert outcome.status == 0
    assert f"Usage: restormer {command}".encode() in outcome.stdout
    if command in RESTORING:
        for title in ("Restoration", "Weights and device", "Batch", "Messages", "Examples"):
            assert title.encode() in outcome.stdout


def test_the_version_is_told(restormer: Callable[..., Outcome]) -> None:
    """On stdout, for scripts."""
    assert restormer("--version").stdout.decode() == f"restormer {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["denoise", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What takes long to import is not needed to explain oneself."""
    heavy = ["torch", "cv2", "numpy", "PIL", "huggingface_hub", "safetensors", "einops"]
    code = (
        "import sys\nfrom restormer_cli.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    )
    _, stderr = python("-c", code).communicate()
    assert stderr.strip() == b"[]"


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("weights")
def test_the_program_in_a_pipe() -> None:
    """`python -m restormer_cli` gives image bytes on stdout, and the exit status 0."""
    before = picture("in.png")
    with Path("in.png").open("rb") as file:
        process = python(*PROGRAM, "deblur", "-", "-o", "-", stdin=file)
        stdout, _ = process.communicate()
    assert process.returncode == 0
    assert np.array_equal(image_io.read_image(stdout).pixels, before)


@pytest.mark.usefixtures("weights")
def test_a_reader_that_went_away_is_no_traceback() -> None:
    """The exit status is not 0, and stderr holds no complaint of Python's."""
    picture("in.png", (256, 256, 3))
    process = python(*PROGRAM, "deblur", "in.png", "-o", "-", "-q")
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate()
    assert process.returncode not in (0, None)
    assert stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_130_and_leaves_whole_files_only(number: int) -> None:
    """In the middle of a long run; what is there can be read, and the rest can be gone on with."""
    for i in range(80):
        picture(f"f/{i}.png", (64, 64, 3))
    process = python(*PROGRAM, "derain", "f", "-o", "out")
    while not Path("out/1.png").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert b"--skip-existing" in stderr
    assert b"Traceback" not in stderr
    assert b"images to go" in stderr
    written = [Path(name) for name in tree() if name.startswith("out")]
    assert 0 < len(written) < 80
    for path in written:
        assert path.suffix == ".png"
        assert image_io.read_image(path).pixels.shape == (64, 64, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.usefixtures("weights")
def test_a_terminal_shows_progress_and_gets_no_image() -> None:
    """A bar is drawn on stderr; image bytes for a terminal are refused."""
    picture("a.png")
    assert b"0/1" in on_a_terminal(["derain", "a.png"], 0)
    assert b"a terminal" in on_a_terminal(["derain", "a.png", "-o", "-"], 2)


def on_a_terminal(arguments: list[str], status: int) -> bytes:
    """What the program says to a terminal."""
    ours, its = os.openpty()
    process = python(*PROGRAM, *arguments, stdout=its)
    os.close(its)
    said = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # OSError: Linux's end
        while piece := terminal.read(4096):
            said += piece
    assert process.wait() == status
    return said


# --- training -----------------------------------------------------------------------------------


def test_training_makes_weights_that_restore(restormer: Callable[..., Outcome]) -> None:
    """One step on three photographs; then the file is used."""
    for seed in range(3):
        picture(f"photos/{seed}.png", (160, 160, 3), seed=seed)
    outcome = restormer(
        "train", "denoise", "--photos", "photos", "-o", "my.safetensors", "--steps", "1", "--json",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0
    (event,) = outcome.events
    assert (event["event"], event["step"]) == ("validated", 1)
    assert restormer("denoise", "photos/0.png", "--weights", "my.safetensors").status == 0


@pytest.mark.parametrize(
    "arguments", [["juggle", "--steps", "1"], ["denoise"], ["denoise", "--steps", "1"]]
)
def test_training_that_cannot_be_is_wrong_usage(
    arguments: list[str], restormer: Callable[..., Outcome]
) -> None:
    """An unknown task, no end, no photographs."""
    Path("photos").mkdir()
    outcome = restormer("train", *arguments, "--photos", "photos", "-o", "my.safetensors")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: ")
