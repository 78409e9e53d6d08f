"""Manifests, and the images that `--skip-existing` skips, restores again or never replaces."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from restormer_cli.batch import ImageStages, manifest
from restormer_cli.batch.manifest import entries
from restormer_cli.imaging import Image, Noise
from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

MANIFEST = Path("out", manifest.NAME)


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MANIFEST.read_bytes().splitlines()]


@pytest.fixture
def repeat(restormer: Callable[..., Outcome]) -> Callable[..., dict[str, str | None]]:
    """Restore two images; return a function that repeats the run and returns reasons to skip."""
    for seed, name in enumerate(("a.png", "b.png")):
        picture(f"f/{name}", seed=seed)
    command = ("derain", "f", "-o", "out", "--skip-existing", "--json")
    assert restormer(*command, "--precision", "fp32").status == 0

    def repeat(*options: object) -> dict[str, str | None]:
        precision = () if "--precision" in options else ("--precision", "fp32")
        outcome = restormer(*command, *precision, *options)
        assert outcome.status == 0
        return {
            Path(event["input"]).name: event.get("reason")
            for event in outcome.events
            if event["event"] in ("restored", "skipped")
        }

    return repeat


Reasons = dict[str, str | None]
SKIPPED: Reasons = {"a.png": manifest.UNCHANGED, "b.png": manifest.UNCHANGED}
RESTORED: Reasons = {"a.png": None, "b.png": None}


def test_an_entry_gives_the_event_of_its_restoration(restormer: Callable[..., Outcome]) -> None:
    """It has the values and types of the event, also its noise and the scale of its samples."""
    picture("a.tif", (64, 64, 3), "float32")
    outcome = restormer("denoise", "a.tif", "-o", "out/", "--json", "--skip-existing")
    (event,) = (event for event in outcome.events if event["event"] == "restored")
    (output,) = manifest.recorded_outputs(Path("out"), manifest.Manifests())
    restored = output.event()
    assert json.loads(json.dumps(restored.as_dict())) == event
    assert restored.noise == Noise(**event["noise"])
    assert restored.scale == tuple(event["scale"])


def test_unchanged_images_are_skipped(repeat: Callable[..., Reasons]) -> None:
    """Neither images nor manifest are written."""
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert repeat() == SKIPPED
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before


def test_an_entry_describes_how_an_output_was_made(repeat: Callable[..., Reasons]) -> None:
    """It has the digests of input, weights and output, the options and the version."""
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
def test_images_are_restored_again_with_other_options(
    options: list[str], repeat: Callable[..., Reasons]
) -> None:
    """The new outputs are then skipped in turn."""
    assert repeat(*options) == RESTORED
    assert repeat(*options) == SKIPPED


def test_images_are_restored_again_with_other_weights(
    repeat: Callable[..., Reasons], identity: Callable[..., Path], tiny: Callable[..., Path]
) -> None:
    """Weights are compared by digest: a copy under another name is the same."""
    copy = identity().with_name("copy.pth")
    copy.write_bytes(identity().read_bytes())
    assert repeat("--weights", tiny()) == RESTORED
    assert repeat("--weights", tiny()) == SKIPPED


def test_a_changed_input_is_restored_again(repeat: Callable[..., Reasons]) -> None:
    """Other inputs are skipped, even if their time has changed."""
    os.utime("f/b.png", (1, 1))
    picture("f/a.png", seed=9)
    assert repeat() == {"a.png": None, "b.png": manifest.UNCHANGED}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no time of the last change")
def test_a_changed_input_of_the_same_size_and_time_is_restored_again(
    repeat: Callable[..., Reasons],
) -> None:
    """Its content decides if it was touched since; a copy with its old time is unchanged."""
    stat = Path("f/a.png").stat()
    shutil.copy2("f/b.png", "copy.png")
    Path("copy.png").replace("f/b.png")
    data = bytearray(Path("f/a.png").read_bytes())
    data[-1] ^= 1
    Path("f/a.png").write_bytes(data)
    os.utime("f/a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert manifest.FileFingerprint.from_entry(lines()[1]["input"]).fits(Path("f/b.png"))
    assert not manifest.FileFingerprint.from_entry(lines()[0]["input"]).fits(Path("f/a.png"))


def test_manifests_of_older_versions_stay_valid(repeat: Callable[..., Reasons]) -> None:
    """Without the time of the last change, the modification time decides alone."""
    entries = lines()
    for entry in entries:
        del entry["in_place"]
        for name in ("input", "output"):
            del entry[name]["ctime_ns"]
    MANIFEST.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    Path("f/a.png").chmod(0o600)
    assert repeat() == SKIPPED


def inputs_of(outcome: Outcome) -> list[str]:
    return [event["input"] for event in outcome.events if event["event"] == "planned"]


def test_outputs_below_their_inputs_are_no_inputs(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run skips them, from any working folder, and restores their originals again."""
    for name in ("f/a.png", "f/sub/b.png"):
        picture(name)
    assert restormer("derain", "-r", "f", "-o", "f/clean/").status == 0
    outcome = restormer("derain", "-r", "f", "--dry-run", "--json")
    assert inputs_of(outcome) == ["f/a.png", "f/sub/b.png"]
    skipped = [event["input"] for event in outcome.events if event["event"] == "skipped"]
    assert skipped == ["f/clean/a.png", "f/clean/sub/b.png"]
    monkeypatch.chdir("f")
    assert inputs_of(restormer("derain", "-r", ".", "--dry-run", "--json")) == [
        "a.png",
        "sub/b.png",
    ]


@pytest.mark.parametrize("old", [False, True])
def test_outputs_of_the_working_folder_are_no_inputs(
    old: bool, restormer: Callable[..., Outcome]
) -> None:
    """The recorded name of an input may look like that of its output."""
    picture("a.png")
    assert restormer("derain", ".", "-o", "clean/").status == 0
    if old:
        path = Path("clean", manifest.NAME)
        entry = json.loads(path.read_bytes())
        del entry["in_place"]
        path.write_text(json.dumps(entry) + "\n")
    assert inputs_of(restormer("derain", "-r", ".", "--dry-run", "--json")) == ["a.png"]


def test_outputs_are_inputs_of_other_runs(restormer: Callable[..., Outcome]) -> None:
    """A folder of outputs can be restored, and so can another picture in its place."""
    picture("f/a.png")
    assert restormer("derain", "f", "-o", "f/clean/").status == 0
    outcome = restormer("denoise", "f/clean", "--dry-run", "--json")
    assert inputs_of(outcome) == ["f/clean/a.png"]
    picture("f/clean/a.png", seed=7)
    outcome = restormer("denoise", "-r", "f", "--dry-run", "--json")
    assert inputs_of(outcome) == ["f/a.png", "f/clean/a.png"]


def test_originals_that_were_restored_in_place_stay_inputs(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name above the folder is not its original."""
    for seed, name in enumerate(("f/a.png", "f/sub/a.png")):
        picture(name, seed=seed)
    top = Path.cwd()
    for folder in ("f", "f/sub"):
        monkeypatch.chdir(top / folder)
        assert restormer("derain", ".", "--in-place").status == 0
    monkeypatch.chdir(top)
    outcome = restormer("denoise", "-r", "f", "--dry-run", "--json")
    assert inputs_of(outcome) == ["f/a.png", "f/sub/a.png"]


def test_a_missing_or_damaged_output_is_restored_again(repeat: Callable[..., Reasons]) -> None:
    """An entry in the manifest is not enough to skip an image."""
    Path("out/a.png").unlink()
    Path("out/b.png").write_bytes(Path("out/b.png").read_bytes()[:100])
    assert repeat() == RESTORED
    assert repeat() == SKIPPED


def test_a_changed_output_is_not_replaced(repeat: Callable[..., Reasons]) -> None:
    """A retouched output is skipped for this reason."""
    picture("out/a.png", seed=5)
    retouched = Path("out/a.png").read_bytes()
    assert repeat() == {"a.png": manifest.EDITED, "b.png": manifest.UNCHANGED}
    assert Path("out/a.png").read_bytes() == retouched


def test_an_output_without_entry_is_not_replaced(repeat: Callable[..., Reasons]) -> None:
    """Without a manifest, an output may come from elsewhere."""
    MANIFEST.unlink()
    assert repeat() == {"a.png": manifest.FOREIGN, "b.png": manifest.FOREIGN}


@pytest.mark.parametrize(
    "partial", [b'{"output": {"name": "b.pn', b"{", b"\xff\xfe", b"null", b"[1]"]
)
def test_a_partial_last_line_loses_one_entry(
    partial: bytes, repeat: Callable[..., Reasons]
) -> None:
    """A killed run may leave it; the next entry starts on a new line."""
    first, _ = MANIFEST.read_bytes().splitlines(keepends=True)
    MANIFEST.write_bytes(first + partial)
    Path("out/b.png").unlink()
    assert repeat() == {"a.png": manifest.UNCHANGED, "b.png": None}
    assert repeat() == SKIPPED


@pytest.mark.parametrize(
    "damage",
    [b"hello\nworld\n", b"\0" * 5000 + b"\n", b"{}\n[]\nnull\n", b"[" * 200_000 + b"\n"],
    ids=["text", "zeros", "other JSON", "brackets"],
)
def test_damaged_lines_are_ignored_with_a_warning(
    damage: bytes, repeat: Callable[..., Reasons], restormer: Callable[..., Outcome]
) -> None:
    """Valid lines of the same manifest still count."""
    MANIFEST.write_bytes(damage + MANIFEST.read_bytes())
    assert repeat() == SKIPPED
    MANIFEST.write_bytes(damage)
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert outcome.status == 0
    assert "out/.restormer.jsonl is damaged" in outcome.stderr
    assert outcome.stderr.count("skipped, its output exists") == 2


def test_a_manifest_that_cannot_be_written_is_a_note(restormer: Callable[..., Outcome]) -> None:
    """The images are still written."""
    picture("f/a.png")
    MANIFEST.mkdir(parents=True)
    outcome = restormer("derain", "f", "-o", "out")
    assert outcome.status == 0
    assert "note: f/a.png: out/.restormer.jsonl cannot be written" in outcome.stderr
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert "warning: out/.restormer.jsonl cannot be read" in outcome.stderr


def test_an_entry_that_is_written_in_part_is_a_note(restormer: Callable[..., Outcome]) -> None:
    """On a disk that becomes full, the system writes the beginning of an entry without an error."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 50_000
    picture("f/a.png")
    MANIFEST.parent.mkdir()
    MANIFEST.write_bytes(b"\n" * (limit - 100))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        outcome = restormer("derain", "f", "-o", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.status == 0
    assert MANIFEST.stat().st_size == limit
    assert "out/.restormer.jsonl cannot be written (No space left on device)" in outcome.stderr
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing")
    assert "f/a.png: skipped, its output exists" in outcome.stderr


def test_a_single_file_leaves_no_manifest(restormer: Callable[..., Outcome]) -> None:
    """An output folder has one even for a single image. `-` is stdout, not a folder."""
    picture("a.png")
    Path("-").mkdir()
    restormer("derain", "a.png")
    restormer("derain", "a.png", "-o", "-")
    restormer("derain", "a.png", "-o", "b.png")
    assert not list(Path().rglob(manifest.NAME))
    restormer("derain", "a.png", "-o", "out/")
    assert [line["output"]["name"] for line in lines()] == ["a.png"]


def test_each_folder_has_its_own_manifest(restormer: Callable[..., Outcome]) -> None:
    """The folder named on the command line does not matter, and manifests are no inputs."""
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


def test_images_in_place_are_restored_once(restormer: Callable[..., Outcome]) -> None:
    """Outputs are skipped with any options, and a changed file under their name for its reason."""
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
        ("f/b.jpg", manifest.CHANGED_IN_PLACE),
    ]
    assert Path("f/a.jpg").read_bytes() == done


@pytest.mark.parametrize("change", ["rename", "edit", "link", "put back"])
def test_an_image_in_place_is_recognized_by_its_content(
    change: str, restormer: Callable[..., Outcome]
) -> None:
    """It is not restored again under another name, if edited or by a link; its original is."""
    PIL.Image.fromarray(picture("f/a.png")).save("f/a.png", compress_level=0)
    original = Path("f/a.png").read_bytes()
    command = ("derain", "--in-place", "--skip-existing", "--json")
    assert restormer(*command, "f/a.png").status == 0
    done, name = Path("f/a.png").read_bytes(), "f/a.png"
    match change:
        case "rename":
            name = str(Path("f/a.png").rename("f/b.png"))
        case "edit":
            Path(name).write_bytes(done := done.replace(b"IEND", b"tEXt") + b"IEND")
        case "link":
            name = "link.png"
            Path(name).symlink_to("f/a.png")
        case "put back":
            Path(name).write_bytes(original)
    outcome = restormer(*command, name)
    assert outcome.status == 0
    assert Path(name).read_bytes() == done
    (end,) = (e for e in outcome.events if e["event"] in ("restored", "skipped"))
    reasons = {"edit": manifest.CHANGED_IN_PLACE, "put back": None}
    assert end.get("reason") == reasons.get(change, manifest.REPLACED)


def test_a_link_in_place_is_recorded_beside_its_file(restormer: Callable[..., Outcome]) -> None:
    """The file itself is then skipped, too."""
    picture("f/a.png")
    Path("link.png").symlink_to("f/a.png")
    assert restormer("derain", "link.png", "--in-place").status == 0
    outcome = restormer("derain", "f", "--in-place", "--skip-existing")
    assert f"f/a.png: skipped, {manifest.REPLACED}" in outcome.stderr


def test_in_place_is_refused_without_a_usable_manifest(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is replaced that could not be recognized later, also if writing fails only then."""
    picture("f/a.png")
    before = Path("f/a.png").read_bytes()
    path = Path("f", manifest.NAME)
    path.mkdir()
    outcome = restormer("derain", "f", "--in-place")
    assert outcome.status == 2
    assert f"{path} is not a file" in outcome.stderr
    path.rmdir()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(entries, "_append", fail)
    outcome = restormer("derain", "f", "--in-place")
    assert outcome.status == 1
    assert f"not replaced, because {path} cannot be written" in outcome.stderr
    path.touch()
    monkeypatch.setattr(entries.Manifest, "added_lines", fail)
    outcome = restormer("derain", "f", "--in-place", "--skip-existing")
    assert outcome.status == 1
    assert f"error: f/a.png: {path} cannot be read" in outcome.stderr
    assert Path("f/a.png").read_bytes() == before


@pytest.mark.parametrize("stage", ["read", "prepare"])
@pytest.mark.parametrize("options", [("--in-place",), ("-o", "out")])
def test_what_another_run_has_restored_meanwhile_is_skipped(
    options: tuple[str, ...],
    stage: str,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The manifest is read again when the image is read, and before it is written."""
    picture("f/a.png")
    shutil.copytree("f", "before")
    command = ("derain", "f", *options, "--skip-existing")
    assert restormer(*command).status == 0
    folder = Path("f" if options == ("--in-place",) else "out")
    shutil.move(folder, "other")
    if not Path("f").exists():
        shutil.copytree("before", "f")
    step = getattr(ImageStages, stage)

    def late(stages: ImageStages, item: Any) -> Any:
        folder.mkdir(exist_ok=True)
        for path in Path("other").iterdir():
            shutil.copy2(path, folder)
        return step(stages, item)

    monkeypatch.setattr(ImageStages, stage, late)
    outcome = restormer(*command, "--json")
    assert [event["event"] for event in outcome.events][-2:] == ["skipped", "summary"]
    assert len(Path(folder, manifest.NAME).read_bytes().splitlines()) == 1


def test_a_single_image_in_place_is_restored_once(restormer: Callable[..., Outcome]) -> None:
    """It is recorded in the first run, so that a later run with --skip-existing skips it."""
    picture("a.jpg")
    assert restormer("derain", "a.jpg", "--in-place").status == 0
    done = Path("a.jpg").read_bytes()
    outcome = restormer("derain", "a.jpg", "--in-place", "--skip-existing")
    assert f"a.jpg: skipped, {manifest.REPLACED}" in outcome.stderr
    assert Path("a.jpg").read_bytes() == done


def test_several_tasks_in_place_follow_each_other(restormer: Callable[..., Outcome]) -> None:
    """Each task is done once, even if other tasks come after it."""
    picture("f/a.png")
    ends = []
    for task in ("derain", "deblur", "derain", "deblur"):
        outcome = restormer(task, "f", "--in-place", "--skip-existing", "--json")
        ends += [e["event"] for e in outcome.events if e["event"] in ("restored", "skipped")]
    assert ends == ["restored", "restored", "skipped", "skipped"]


def test_an_unreadable_output_that_is_not_damaged_is_not_replaced(
    repeat: Callable[..., Reasons],
) -> None:
    """An output with NaN, for example, was edited on purpose."""
    repeat()
    edited = Image(np.full((8, 8, 3), np.nan, np.float32))
    Path("out/a.png").write_bytes(image_io.encode([edited], "tiff")[0])
    before = Path("out/a.png").read_bytes()
    assert repeat()["a.png"] == manifest.EDITED
    assert Path("out/a.png").read_bytes() == before


def test_another_right_view_is_another_input(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """The image is restored again."""
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


def test_a_dry_run_skips_like_a_run(
    repeat: Callable[..., Reasons], restormer: Callable[..., Outcome]
) -> None:
    """It lists skipped images and those to restore."""
    picture("f/c.png")
    outcome = restormer(
        "derain", "f", "-o", "out", "--skip-existing", "--dry-run", "--precision", "fp32"
    )
    assert [line.split()[0] for line in outcome.stderr.splitlines()][:3] == [
        "f/a.png:",
        "f/b.png:",
        "f/c.png",
    ]


@pytest.mark.parametrize("inside", [False, True])
def test_the_result_of_another_input_is_not_replaced(
    inside: bool, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails like two inputs of one run with one output, unless the other is gone or changed."""
    top = Path.cwd()
    for seed, name in enumerate(("f/1.png", "g/1.png")):
        picture(name, seed=seed)

    def restore(folder: str) -> Outcome:
        monkeypatch.chdir(top / folder if inside else top)
        name = "1.png" if inside else f"{folder}/1.png"
        outcome = restormer("derain", name, "-o", f"{top}/out/", "--skip-existing")
        monkeypatch.chdir(top)
        return outcome

    assert restore("f").status == 0
    done = Path("out/1.png").read_bytes()
    outcome = restore("g")
    assert outcome.status == 1
    assert f"would both become {top}/out/1.png" in outcome.stderr
    assert "f/1.png and " in outcome.stderr
    assert Path("out/1.png").read_bytes() == done
    assert manifest.UNCHANGED in restore("f").stderr
    Path("f").rename("moved")
    assert manifest.UNCHANGED in restore("moved").stderr
    Path("moved").rename("f")
    picture("f/1.png", seed=9)
    assert restore("f").status == 0
    assert Path("out/1.png").read_bytes() != done
    Path("f/1.png").unlink()
    assert restore("g").status == 0


def test_an_input_that_takes_its_whole_name_leaves_its_output_to_another(
    restormer: Callable[..., Outcome],
) -> None:
    """If `x.png` comes to `x.bmp`, a second run gives each an output, and a third skips both."""
    command = ("derain", "g", "-o", "out", "--format", "png", "--skip-existing", "--json")
    picture("g/x.bmp")
    assert restormer(*command).status == 0
    of_bitmap = Path("out/x.png").read_bytes()
    picture("g/x.png", seed=1)
    outcome = restormer(*command)
    assert [event["event"] for event in outcome.events].count("restored") == 2
    assert Path("out/x.bmp.png").read_bytes() == of_bitmap
    assert Path("out/x.png").read_bytes() != of_bitmap
    events = [event["event"] for event in restormer(*command).events]
    assert (events.count("skipped"), events.count("failed")) == (2, 0)
