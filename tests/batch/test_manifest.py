"""What `--skip-existing` leaves alone, restores again, and never writes over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from restormer_cli.batch import manifest
from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

RECORD = Path("out", manifest.NAME)


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORD.read_bytes().splitlines()]


@pytest.fixture
def go_on(restormer: Callable[..., Outcome]) -> Callable[..., dict[str, str | None]]:
    """Restore two images, and return what becomes of each in a second run: why it is skipped."""
    for seed, name in enumerate(("a.png", "b.png")):
        picture(f"f/{name}", seed=seed)
    command = ("derain", "f", "-o", "out", "--skip-existing", "--json")
    assert restormer(*command, "--precision", "fp32").status == 0

    def go_on(*options: object) -> dict[str, str | None]:
        precision = () if "--precision" in options else ("--precision", "fp32")
        outcome = restormer(*command, *precision, *options)
        assert outcome.status == 0
        return {
            Path(event["input"]).name: event.get("reason")
            for event in outcome.events
            if event["event"] in ("restored", "skipped")
        }

    return go_on


Again = dict[str, str | None]
NOTHING: Again = {"a.png": manifest.UNCHANGED, "b.png": manifest.UNCHANGED}
ALL: Again = {"a.png": None, "b.png": None}


def test_what_was_restored_is_not_restored_again(go_on: Callable[..., Again]) -> None:
    """Nothing is written, neither images nor record."""
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert go_on() == NOTHING
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before


def test_a_record_tells_how_each_output_was_made(go_on: Callable[..., Again]) -> None:
    """One line each, with hashes of input, weights and output, options and version."""
    line, other = lines()
    assert (line["input"]["name"], other["input"]["name"]) == ("f/a.png", "f/b.png")
    assert line["output"]["name"] == "a.png"
    hashes = [line[of]["sha256"] for of in ("input", "output", "weights")]
    assert {len(digest) for digest in hashes} == {64}
    assert line["recipe"]["options"] == {
        "format": "keep",
        "quality": 95,
        "tile": "auto",
        "overlap": 32,
        "window": None,
        "ensemble": False,
        "strength": 1.0,
        "precision": line["precision"],
    }
    assert {"task", "width", "height", "version", "time", "mean_absolute_change"} <= line.keys()


@pytest.mark.parametrize(
    "options",
    [
        ["--strength", "0.5"],
        ["--tile", "16", "--overlap", "4"],
        ["--quality", "90"],
        ["--precision", "bf16"],
    ],
)
def test_other_options_restore_again(options: list[str], go_on: Callable[..., Again]) -> None:
    """What could give another result is not taken for the same; then it is known as well."""
    assert go_on(*options) == ALL
    assert go_on(*options) == NOTHING


def test_other_weights_restore_again(
    go_on: Callable[..., Again], identity: Callable[..., Path], tiny: Callable[..., Path]
) -> None:
    """By their hash: a copy under another name is the same."""
    copy = identity().with_name("copy.pth")
    copy.write_bytes(identity().read_bytes())
    assert go_on("--weights", tiny()) == ALL
    assert go_on("--weights", tiny()) == NOTHING


def test_a_changed_input_is_restored_again(go_on: Callable[..., Again]) -> None:
    """And only that one; the same bytes with another time are not a change."""
    os.utime("f/b.png", (1, 1))
    picture("f/a.png", seed=9)
    assert go_on() == {"a.png": None, "b.png": manifest.UNCHANGED}


def test_a_lost_output_is_restored_again(go_on: Callable[..., Again]) -> None:
    """The record alone is no output; one that can no longer be read is none, either."""
    Path("out/a.png").unlink()
    Path("out/b.png").write_bytes(Path("out/b.png").read_bytes()[:100])
    assert go_on() == ALL
    assert go_on() == NOTHING


def test_what_somebody_changed_is_not_written_over(go_on: Callable[..., Again]) -> None:
    """A retouched output stays, and is said."""
    picture("out/a.png", seed=5)
    retouched = Path("out/a.png").read_bytes()
    assert go_on() == {"a.png": manifest.EDITED, "b.png": manifest.UNCHANGED}
    assert Path("out/a.png").read_bytes() == retouched


def test_what_somebody_else_wrote_is_not_written_over(go_on: Callable[..., Again]) -> None:
    """Without a record, an output is nobody's business."""
    RECORD.unlink()
    assert go_on() == {"a.png": manifest.FOREIGN, "b.png": manifest.FOREIGN}


@pytest.mark.parametrize("torn", [b'{"output": {"name": "b.pn', b"{", b"\xff\xfe", b"null", b"[1]"])
def test_a_torn_last_line_costs_only_itself(torn: bytes, go_on: Callable[..., Again]) -> None:
    """A run that is killed while it adds one; the next line is whole again."""
    first, _ = RECORD.read_bytes().splitlines(keepends=True)
    RECORD.write_bytes(first + torn)
    Path("out/b.png").unlink()
    assert go_on() == {"a.png": manifest.UNCHANGED, "b.png": None}
    assert go_on() == NOTHING


@pytest.mark.parametrize("damage", [b"hello\nworld\n", b"\0" * 5000 + b"\n", b"{}\n[]\nnull\n"])
def test_a_damaged_record_is_ignored_and_said(
    damage: bytes, go_on: Callable[..., Again], restormer: Callable[..., Outcome]
) -> None:
    """Lines that make no sense are counted, those that do still count."""
    RECORD.write_bytes(damage + RECORD.read_bytes())
    assert go_on() == NOTHING
    RECORD.write_bytes(damage)
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert outcome.status == 0
    assert "out/.restormer.jsonl is damaged" in outcome.stderr
    assert outcome.stderr.count("skipped, its output exists") == 2


def test_a_record_that_cannot_be_is_a_note(restormer: Callable[..., Outcome]) -> None:
    """The images are written all the same."""
    picture("f/a.png")
    RECORD.mkdir(parents=True)
    outcome = restormer("derain", "f", "-o", "out")
    assert outcome.status == 0
    assert "note: f/a.png: out/.restormer.jsonl cannot be written" in outcome.stderr
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert "warning: out/.restormer.jsonl cannot be read" in outcome.stderr


def test_a_single_image_leaves_no_record(restormer: Callable[..., Outcome]) -> None:
    """Beside one's own files, or as a file of a name of one's own; a folder gets one."""
    picture("a.png")
    restormer("derain", "a.png")
    restormer("derain", "a.png", "-o", "b.png")
    assert not list(Path().rglob(manifest.NAME))
    restormer("derain", "a.png", "-o", "out/")
    assert [line["output"]["name"] for line in lines()] == ["a.png"]


def test_each_folder_has_its_own_record(restormer: Callable[..., Outcome]) -> None:
    """So that it does not matter how a run was spelled; records are no inputs."""
    picture("f/a.png")
    picture("f/sub/b.png")
    assert restormer("derain", "f", "-r").status == 0
    outcome = restormer(
        "derain", "f/sub/b.png", "-o", "f-restored/sub/", "--skip-existing", "--json"
    )
    assert [event["event"] for event in outcome.events] == ["skipped", "summary"]
    assert restormer("derain", "f-restored", "-r").status == 0
    assert tree() == [
        "f-restored-restored/a.png",
        "f-restored-restored/sub/b.png",
        "f-restored/a.png",
        "f-restored/sub/b.png",
        "f/a.png",
        "f/sub/b.png",
    ]


def test_in_place_nothing_is_restored_twice(restormer: Callable[..., Outcome]) -> None:
    """What we put there is left alone, whatever the options; a new photo in its place is not."""
    for seed, name in enumerate(("f/a.jpg", "f/b.jpg")):
        picture(name, seed=seed)
    command = ("derain", "f", "--in-place", "--skip-existing", "--json")
    assert [e["event"] for e in restormer(*command).events].count("restored") == 2
    done = Path("f/a.jpg").read_bytes()
    picture("f/b.jpg", seed=9)
    outcome = restormer(*command, "--quality", "50")
    ends = [e for e in outcome.events if e["event"] in ("restored", "skipped")]
    assert [(e["input"], e.get("reason")) for e in ends] == [
        ("f/a.jpg", manifest.REPLACED),
        ("f/b.jpg", None),
    ]
    assert Path("f/a.jpg").read_bytes() == done


def test_in_place_one_task_may_follow_another(restormer: Callable[..., Outcome]) -> None:
    """Each task is done once, however many come after it."""
    picture("f/a.png")
    ends = []
    for task in ("derain", "deblur", "derain", "deblur"):
        outcome = restormer(task, "f", "--in-place", "--skip-existing", "--json")
        ends += [e["event"] for e in outcome.events if e["event"] in ("restored", "skipped")]
    assert ends == ["restored", "restored", "skipped", "skipped"]


def test_what_was_retouched_in_a_way_that_cannot_be_read_stays(
    go_on: Callable[..., Again],
) -> None:
    """Only what is damaged is made again; what has NaN in it, say, is somebody's work."""
    go_on()
    strange = image_io.Image(np.full((8, 8, 3), np.nan, np.float32))
    image_io.write_image(strange, Path("out/a.png"), format="tiff")
    before = Path("out/a.png").read_bytes()
    assert go_on()["a.png"] == manifest.EDITED
    assert Path("out/a.png").read_bytes() == before


def test_the_right_view_counts_as_input(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Another right view restores the image again."""
    dual = tiny("dual.pth", in_channels=6, dual_pixel=True)
    for seed, name in enumerate(("l/a.png", "r/a.png")):
        picture(name, seed=seed)
    command = ("defocus", "l", "--right", "r", "-o", "out", "--weights", dual)
    reasons = []
    for seed in (1, 1, 2):
        picture("r/a.png", seed=seed)
        outcome = restormer(*command, "--skip-existing", "--json")
        reasons += [
            e.get("reason") for e in outcome.events if e["event"] in ("restored", "skipped")
        ]
    assert reasons == [None, manifest.UNCHANGED, None]


def test_a_dry_run_tells_what_is_left(
    go_on: Callable[..., Again], restormer: Callable[..., Outcome]
) -> None:
    """What would be skipped is skipped there, too."""
    picture("f/c.png")
    outcome = restormer(
        "derain", "f", "-o", "out", "--skip-existing", "--dry-run", "--precision", "fp32"
    )
    assert [line.split()[0] for line in outcome.stderr.splitlines()][:3] == [
        "f/a.png:",
        "f/b.png:",
        "f/c.png",
    ]
