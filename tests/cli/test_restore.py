"""Restoring commands: outputs, tiles, dual-pixel views and dry runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from restormer_cli.batch import pages
from restormer_cli.checkpoints import serialization
from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.analysis import noise
from tests.support.program import PROGRAM, Outcome, picture, pixels, python, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")

TASKS = ("denoise", "derain", "deblur", "defocus")


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
def test_identity_weights_keep_every_pixel(
    name: str, shape: tuple[int, ...], dtype: str, restormer: Callable[..., Outcome]
) -> None:
    """Pixels that the network leaves unchanged are written unchanged in every format."""
    before = picture(name, shape, dtype)
    outcome = restormer("denoise", name)
    assert outcome.status == 0
    assert outcome.stdout == b""
    path = Path(name)
    after = pixels(f"{path.stem}.restored{path.suffix}")
    assert after.dtype == before.dtype
    assert np.array_equal(after, before)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("task", TASKS)
def test_every_task_restores(task: str, restormer: Callable[..., Outcome]) -> None:
    """All four commands restore, and show the weights and device."""
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
def test_file_names_may_begin_with_a_dash(restormer: Callable[..., Outcome]) -> None:
    """`-dash.png` is a file after `--` or if a pattern matches it."""
    before = picture("-dash.png")
    assert restormer("derain", "--", "-dash.png").status == 0
    assert restormer("derain", "*dash.png", "-o", "out/").status == 0
    assert np.array_equal(pixels("./-dash.restored.png"), before)
    assert np.array_equal(pixels("out/-dash.png"), before)


@pytest.mark.usefixtures("weights")
def test_folders_are_mirrored(restormer: Callable[..., Outcome]) -> None:
    """-r restores the whole tree. Without it, subfolders are left out."""
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
def test_linked_subfolders_are_noted_once(restormer: Callable[..., Outcome]) -> None:
    """Images that links show under a second name are restored once, with a note."""
    picture("f/sub/a.png")
    Path("f/twice").symlink_to("sub", target_is_directory=True)
    outcome = restormer("derain", "-r", "-v", "f/", "-o", "out")
    assert outcome.status == 0
    assert outcome.stderr.count("linked subfolder") == 1
    assert "note: 1 linked subfolder left out, because links show the same" in outcome.stderr
    assert "left out: f/twice" in outcome.stderr


@pytest.mark.usefixtures("weights")
@pytest.mark.skipif(os.name == "nt", reason="reports another error")
@pytest.mark.parametrize("option", ["-o", "--compare", "--report"])
def test_the_hint_for_a_name_that_is_too_long_is_a_shorter_one(
    option: str, restormer: Callable[..., Outcome]
) -> None:
    """So it is for outputs, sheets and pages, whose folders have space and are writable."""
    picture("a.png")
    name = "x" * 255 + (".html" if option == "--report" else ".png")
    outcome = restormer("derain", "a.png", option, name)
    assert outcome.status == 1
    assert "File name too long)\nhint: Choose a shorter name" in outcome.stderr


@pytest.mark.usefixtures("weights")
def test_other_pictures_in_a_folder_are_noted_once(restormer: Callable[..., Outcome]) -> None:
    """A note counts them, and -v lists them."""
    for name in ("a.png", "sub/b.png"):
        picture(f"f/{name}")
    for name in ("c.pcx", "sub/d.exr", "sub/e.pcx"):
        Path("f", name).touch()
    outcome = restormer("derain", "-r", "f", "-o", "out")
    note = "note: 3 files of other kinds of pictures left out (.exr, .pcx)"
    assert outcome.stderr.count(note) == 1
    assert "d.exr" not in outcome.stderr
    assert "left out: f/sub/d.exr" in restormer("derain", "-r", "f", "-o", "out", "-v").stderr


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("place", ["f", "memory://shop/f"])
def test_files_named_like_outputs_in_a_folder_are_noted_once(
    place: str, restormer: Callable[..., Outcome]
) -> None:
    """A note counts what a search leaves out by its name, and -v lists it."""
    for name in ("a.png", "a.restored.png", "sub/b.png", "sub-restored/b.png"):
        picture(f"f/{name}")
        data = Path("f", name).read_bytes()
        fsspec.filesystem("memory").pipe_file(f"/shop/f/{name}", data)
    line = ("derain", "-r", place, "-o", "out")
    outcome = restormer(*line)
    note = "note: 2 files and folders left out, named like outputs of earlier runs. -v lists them"
    assert outcome.stderr.count(note) == 1
    assert "left out: " not in outcome.stderr
    assert sorted(p.name for p in Path("out").rglob("*.png")) == ["a.png", "b.png"]
    listed = restormer(*line, "-v").stderr
    assert f"left out: {place}/sub-restored\n" in listed
    assert f"left out: {place}/a.restored.png\n" in listed
    assert "named like outputs" not in restormer("derain", f"{place}/a.png", "-o", "out/").stderr


def test_two_inputs_of_one_name_cost_no_others(restormer: Callable[..., Outcome]) -> None:
    """They fail, nothing takes their name, and the others are restored."""
    for name in ("f/a.png", "g/a.png", "g/b.png"):
        picture(name)
    outcome = restormer("derain", "f", "g", "-o", "out", "--json")
    assert outcome.status == 1
    failed = [event for event in outcome.events if event["event"] == "failed"]
    assert [event["input"] for event in failed] == ["f/a.png", "g/a.png"]
    assert failed[0]["error"] == "f/a.png and g/a.png would both become out/a.png"
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["b.png"]


def test_outputs_of_an_earlier_run_are_no_inputs(restormer: Callable[..., Outcome]) -> None:
    """Outputs of an earlier run are skipped in patterns and in folders."""
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
def test_the_output_format(
    options: list[str], output: str, kind: str, restormer: Callable[..., Outcome]
) -> None:
    """--format, the output's name or the input determines the format."""
    picture("in.png")
    assert restormer("derain", "in.png", *options).status == 0
    assert image_io.read_image(Path(output)).format == kind


@pytest.mark.usefixtures("weights")
def test_quality_reaches_the_encoder(restormer: Callable[..., Outcome]) -> None:
    """A lower --quality makes a smaller file."""
    picture("in.png", (64, 64, 3))
    for quality in (20, 95):
        restormer("derain", "in.png", "-o", f"{quality}.jpg", "--quality", quality)
    assert Path("20.jpg").stat().st_size < Path("95.jpg").stat().st_size


@pytest.mark.usefixtures("weights")
def test_a_note_reports_reduced_bit_depth(restormer: Callable[..., Outcome]) -> None:
    """A note says that JPEG cannot store 16 bits."""
    picture("in.png", dtype="uint16")
    outcome = restormer("derain", "in.png", "-o", "out.jpg")
    assert outcome.status == 0
    assert "note: in.png: " in outcome.stderr


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    "options", [["--tile", "16"], ["--tile", "16", "--overlap", "8"], ["--tile", "0"]]
)
def test_identity_weights_keep_every_pixel_in_tiles(
    options: list[str], restormer: Callable[..., Outcome]
) -> None:
    """Blending unchanged tiles gives the unchanged image."""
    before = picture("in.png", (40, 50, 3))
    overlap = [] if "--overlap" in options else ["--overlap", "4"]
    assert restormer("derain", "in.png", *options, *overlap).status == 0
    assert np.array_equal(pixels("in.restored.png"), before)


@pytest.fixture
def dual(tiny: Callable[..., Path]) -> Path:
    """Write weights that take two views."""
    return tiny("dual.pth", in_channels=6, dual_pixel=True)


def test_the_right_view_affects_the_result(dual: Path, restormer: Callable[..., Outcome]) -> None:
    """Different right views give different results."""
    for seed, name in enumerate(("left.png", "right.png", "other.png")):
        picture(name, seed=seed)
    for right in ("right.png", "other.png"):
        outcome = restormer(
            "defocus", "left.png", "--right", right, "-o", f"from-{right}", "--weights", dual
        )
        assert outcome.status == 0
    assert not np.array_equal(pixels("from-right.png"), pixels("from-other.png"))


def test_views_without_colour_stay_without_colour(
    dual: Path, restormer: Callable[..., Outcome]
) -> None:
    """A pair of RGB images with equal channels is restored as a pair of grey images is."""
    for seed, side in enumerate(("left", "right")):
        grey = picture(f"{side}-1.png", (21, 34, 1), seed=seed)
        image_io.write_image(Image(np.repeat(grey, 3, axis=2)), Path(f"{side}-3.png"))
    for channels in (1, 3):
        views = f"left-{channels}.png", "--right", f"right-{channels}.png"
        output = f"out-{channels}.png"
        assert restormer("defocus", *views, "-o", output, "--weights", dual).status == 0
    grey = pixels("out-1.png")
    assert not np.array_equal(grey, pixels("left-1.png"))
    assert np.array_equal(pixels("out-3.png"), np.repeat(grey, 3, axis=2))


def test_right_views_in_folders_are_matched_by_name(
    dual: Path, restormer: Callable[..., Outcome]
) -> None:
    """An input without a right view fails, and the others are restored."""
    for name in ("l/1.png", "l/sub/2.png", "l/3.png", "r/1.png", "r/sub/2.png"):
        picture(name)
    outcome = restormer("defocus", "l", "-r", "--right", "r", "-o", "out", "--weights", dual)
    assert outcome.status == 1
    assert [name for name in tree() if name.startswith("out")] == ["out/1.png", "out/sub/2.png"]
    assert "error: l/3.png: r/3.png: no such file" in outcome.stderr


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_views_of_different_sizes_fail(
    options: list[str], dual: Path, restormer: Callable[..., Outcome]
) -> None:
    """A dry run finds them, too."""
    picture("l.png")
    picture("r.png", (20, 34, 3))
    outcome = restormer("defocus", "l.png", "--right", "r.png", "--weights", dual, *options)
    assert outcome.status == 1
    error = "error: l.png: r.png: the right view has 34 x 20 pixels, the image 34 x 21"
    assert error in outcome.stderr


def test_weights_and_views_must_fit(
    dual: Path, identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """Two-view weights without --right, and one-view weights with it, are wrong usage."""
    picture("in.png")
    assert restormer("defocus", "in.png", "--weights", dual).status == 2
    both = restormer("defocus", "in.png", "--right", "in.png", "--weights", identity())
    assert both.status == 2


OTHER_TASK = "is for derain, not for denoise: use `restormer derain`, or other weights"


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_weights_of_another_task_are_warned_of_once(
    devices: str, restormer: Callable[..., Outcome]
) -> None:
    """It is printed once, and the event of every image has it."""
    for name in ("a.png", "b.png"):
        picture(name)
    weights = ("--weights", "restormer-lite-derain", "--device", devices)
    outcome = restormer("denoise", "a.png", "b.png", *weights, "--json")
    assert outcome.status == 0
    assert outcome.stderr.count(OTHER_TASK) == 1
    restored = [event for event in outcome.events if event["event"] == "restored"]
    warning = f"restormer-lite-derain {OTHER_TASK}"
    assert [event["warnings"][0] for event in restored] == [warning] * 2
    assert OTHER_TASK not in restormer("derain", "a.png", *weights).stderr


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["restormer-lite-derain", "deraining"])
def test_a_dry_run_warns_of_weights_of_another_task(
    name: str, publish: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """Also if the weights are not on this machine yet."""
    publish("deraining", b"weights")
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--weights", name, "--dry-run")
    assert outcome.status == 0
    assert outcome.stderr.count(f"warning: {name} {OTHER_TASK}") == 1


@pytest.mark.usefixtures("weights")
def test_a_dry_run_writes_nothing(restormer: Callable[..., Outcome]) -> None:
    """A dry run shows files, sizes, strategy, memory and time, and writes nothing."""
    picture("f/a.png")
    before = tree()
    outcome = restormer("derain", "f", "-o", "out", "--dry-run")
    assert outcome.status == 0
    assert outcome.stdout == b""
    assert outcome.stderr.startswith("f/a.png -> out/a.png  34 x 21, whole")
    assert re.search(r" of memory, about \d+ s$", outcome.stderr, re.MULTILINE)
    assert tree() == before
    assert not Path("out").exists()


@pytest.mark.usefixtures("weights")
def test_a_dry_run_of_several_images_adds_them_up(restormer: Callable[..., Outcome]) -> None:
    """The last line has their number, pixels and time."""
    for name in ("f/a.png", "f/b.png"):
        picture(name, (100, 100, 3))
    Path("f/c.png").write_bytes(b"x")
    *_, last = restormer("derain", "f", "--dry-run").stderr.splitlines()
    assert re.fullmatch(r"to restore: 2 images, 0.02 MP, about \d+ s", last)


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["0", "512"])
def test_a_dry_run_predicts_peak_memory(tile: str) -> None:
    """The predicted peak is within 20 % of the measured peak of the process."""
    picture("in.png", (511, 991, 3))  # two tiles of 512
    arguments = ["in.png", "-o", "out.png", "--weights", "lite", "--device", "cpu"]
    line = [*PROGRAM, "denoise", *arguments, "--tile", tile, "--precision", "fp32", "--json"]
    # On Linux a process inherits its parent's peak memory, so start it from a small process.
    small = ["-c", "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"]
    planned, restored = (
        json.loads(python(*small, *line, *options).communicate()[0].splitlines()[index])
        for options, index in ((["--dry-run"], 0), ([], -2))
    )
    assert restored["event"] == "restored"
    assert 0.8 < planned["peak_bytes"] / restored["peak_memory"] < 1.2
    assert planned["seconds"] > 0


def test_a_dry_run_downloads_nothing(
    hf_home: Path, publish: Callable[..., Any], restormer: Callable[..., Outcome], hub: Any
) -> None:
    """A dry run reports weights that are not cached, and does not download them."""
    publish("deraining", b"weights")
    picture("a.png")
    outcome = restormer("derain", "a.png", "--dry-run")
    assert outcome.status == 0
    assert "deraining would be downloaded first, or the lite ones used if" in outcome.stderr
    assert not list(hf_home.rglob("*.pth"))


def test_an_offline_dry_run_uses_the_lite_weights(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With downloads forbidden, a dry run predicts memory with the lite weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    picture("a.png")
    outcome = restormer("derain", "a.png", "--dry-run", "--json")
    assert outcome.status == 0
    assert "HF_HUB_OFFLINE" in outcome.stderr
    assert outcome.events[0]["peak_bytes"] > 0


def test_lite_weights_replace_unavailable_ones_with_a_warning(
    lite_folder: Path, identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """If no source can be reached, the lite weights are used with a warning."""
    network = serialization.load_network(identity())
    lite = lite_folder / "restormer-lite-derain.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, lite)
    picture("a.png")
    outcome = restormer("derain", "a.png", "--json", "-q")
    assert outcome.status == 0
    assert outcome.stderr.startswith("warning: ")
    assert outcome.events[2]["weights"]["source"] == "lite"


def test_sigma_auto_estimates_the_noise_of_each_image_once(
    publish: Callable[..., Any],
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reported noise is the estimate that chose the weights."""
    publish("gaussian_color_denoising_blind", tiny().read_bytes())
    names = ("a.png", "b.png")
    for name in names:
        picture(name, (64, 64, 3))
    estimates: list[noise.Noise] = []

    def estimate(image: np.ndarray) -> noise.Noise:
        estimates.append(noise.Noise(sigma=8.0 + len(estimates), coarse=8.0))
        return estimates[-1]

    monkeypatch.setattr(pages, "estimate_noise", estimate)
    outcome = restormer("denoise", *names, "--sigma", "auto", "--device", "cpu", "--json")
    reported = [event["noise"] for event in outcome.events if event["event"] == "restored"]
    assert reported == [asdict(estimate) for estimate in estimates]
    assert len(estimates) == len(names)


def test_without_memory_to_estimate_the_noise_the_run_goes_on(
    publish: Callable[..., Any],
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The blind weights restore an image whose noise is unknown."""
    publish("gaussian_color_denoising_blind", tiny().read_bytes())
    picture("a.png")
    failures = iter([MemoryError()])

    def estimate(image: np.ndarray) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure

    monkeypatch.setattr(pages, "estimate_noise", estimate)
    outcome = restormer("denoise", "a.png", "--sigma", "auto", "--device", "cpu")
    assert outcome.status == 0
    assert Path("a.restored.png").exists()
