"""`--mask`: white is restored, black stays, for files and folders, before and during a run."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pytest

from restormer_cli.batch import manifest, masks, reading
from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome, picture, pixels, tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from restormer_cli.imaging import ImageSequence

pytestmark = pytest.mark.usefixtures("folder", "weights")

SHAPE = (21, 34)
LEFT = np.s_[:, :12]
RIGHT = np.s_[:, 22:]


def levels() -> np.ndarray:
    """Return a mask in 0..1: black at the left, white at the right, grey between."""
    mask = np.zeros(SHAPE)
    mask[:, 12:22] = 0.5
    mask[RIGHT] = 1
    return mask


def write_mask(name: str, dtype: str = "uint8", mask: np.ndarray | None = None) -> None:
    mask = levels() if mask is None else mask
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(Image((mask[..., None] * top).astype(dtype)), Path(name))


@pytest.fixture
def denoise(tiny: Callable[..., Path], restormer: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Return a function that runs `denoise` with a network that changes everything."""
    network = tiny()

    def denoise(*arguments: object) -> Outcome:
        return restormer("denoise", *arguments, "--weights", network, "--precision", "fp32")

    return denoise


@pytest.mark.parametrize("mask_type", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.png", "uint8", 3),
        ("a.png", "uint16", 1),
        ("a.tif", "float32", 3),
        ("a.webp", "uint8", 3),
    ],
)
def test_black_stays_white_is_restored_and_grey_blends(
    name: str, dtype: str, channels: int, mask_type: str, denoise: Callable[..., Outcome]
) -> None:
    """Black keeps every bit, white is as without a mask, and grey lies between."""
    suffix = Path(name).suffix
    mask = "mask.tif"
    write_mask(mask, mask_type)
    before = picture(name, (*SHAPE, channels), dtype)
    output = ["--quality", 100, "-o"]
    assert denoise(name, *output, f"whole{suffix}").status == 0
    outcome = denoise(name, "--mask", mask, *output, f"part{suffix}")
    assert outcome.status == 0
    assert "35.3 % of the pixels are black in the mask: they stay as they are" in outcome.stderr
    whole, part = pixels(f"whole{suffix}"), pixels(f"part{suffix}")
    assert np.array_equal(part[LEFT], before[LEFT])
    assert np.array_equal(part[RIGHT], whole[RIGHT])
    assert not np.array_equal(part, whole)
    middle = before.astype(np.float64) + (levels()[..., None] * (whole - before.astype(np.float64)))
    step = 0.01 if dtype == "float32" else np.iinfo(dtype).max / 100
    assert np.abs(part - middle).max() < step


def test_a_mask_without_black_says_so(denoise: Callable[..., Outcome]) -> None:
    """The note does not speak of 0 % of the pixels."""
    picture("a.png", (8, 8, 3))
    image_io.write_image(Image(np.full((8, 8, 1), 255, np.uint8)), Path("mask.png"))
    outcome = denoise("a.png", "--mask", "mask.png")
    assert "no pixel is black in the mask" in outcome.stderr
    assert "0 %" not in outcome.stderr


def test_the_change_in_events_is_that_of_the_output(denoise: Callable[..., Outcome]) -> None:
    """The mask counts, as --strength does."""
    before = picture("a.tif", (*SHAPE, 3), "float32")
    write_mask("mask.png")
    outcome = denoise("a.tif", "--mask", "mask.png", "--strength", 0.5, "--json")
    (restored,) = (e for e in outcome.events if e["event"] == "restored")
    moved = np.abs(pixels("a.restored.tif") - before).mean()
    assert restored["mean_absolute_change"] == pytest.approx(moved, abs=1e-6)


def test_a_mask_of_another_size_is_an_error(denoise: Callable[..., Outcome]) -> None:
    """The error names both sizes, in a dry run, too, and nothing is written."""
    picture("a.png", (*SHAPE, 3))
    write_mask("mask.png", mask=levels().T)
    before = tree()
    for options in ((), ("--dry-run",)):
        outcome = denoise("a.png", "--mask", "mask.png", *options)
        assert outcome.status == 1
        message = "mask.png: the mask has 21 x 34 pixels, the image 34 x 21"
        assert f"error: a.png: {message}" in outcome.stderr
        assert tree() == before


def test_a_mask_is_turned_upright_like_an_image(denoise: Callable[..., Outcome]) -> None:
    """The orientation in its EXIF is applied."""
    before = picture("a.png", (*SHAPE, 3))
    stored = PIL.Image.fromarray((levels()[:, ::-1] * 255).astype(np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 2  # mirrored
    stored.save("mask.png", exif=exif)
    assert denoise("a.png", "--mask", "mask.png").status == 0
    after = pixels("a.restored.png")
    assert np.array_equal(after[LEFT], before[LEFT])
    assert not np.array_equal(after[RIGHT], before[RIGHT])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "P"])
def test_colour_counts_by_luminance_and_transparent_is_black(
    mode: str, denoise: Callable[..., Outcome]
) -> None:
    """White paint on a transparent layer is a mask, and so are pictures of one bit."""
    before = picture("a.png", (*SHAPE, 3))
    grey = PIL.Image.fromarray((levels() == 1).astype(np.uint8) * 255)
    image = grey.convert(mode)
    if mode in ("RGBA", "LA"):
        image = PIL.Image.new(mode, grey.size, "white")
        image.putalpha(grey)
    image.save("mask.png")
    assert denoise("a.png", "-o", "whole.png").status == 0
    assert denoise("a.png", "--mask", "mask.png", "-o", "part.png").status == 0
    assert np.array_equal(pixels("part.png")[RIGHT], pixels("whole.png")[RIGHT])
    assert np.array_equal(pixels("part.png")[LEFT], before[LEFT])


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_a_folder_holds_masks_of_the_same_names(
    devices: str, denoise: Callable[..., Outcome]
) -> None:
    """Any format does; an image without exactly one mask fails, and the others are restored."""
    names = ("a.png", "sub/b.png", "sub/none.png", "two.png")
    before = {name: picture(f"f/{name}", (*SHAPE, 3)) for name in names}
    for mask in ("a.tif", "sub/b.png", "two.png.bmp", "two.tif", "two.webp"):
        write_mask(f"f/masks/{mask}")
    command = ("f", "-r", "--mask", "f/masks", "-o", "out", "--device", devices)
    for options in (("--dry-run",), ()):
        outcome = denoise(*command, *options)
        assert outcome.status == 1
        assert f"error: {Path('f/sub/none.png')}: no mask " in outcome.stderr
        assert "two.png: several masks: two.tif, two.webp in" in outcome.stderr
    outputs = [path for path in tree() if path.startswith("out/")]
    assert outputs == ["out/a.png", "out/sub/b.png"]
    for name in ("a.png", "sub/b.png"):
        after = pixels(f"out/{name}")
        assert np.array_equal(after[LEFT], before[name][LEFT])
        assert not np.array_equal(after[RIGHT], before[name][RIGHT])


def test_one_mask_serves_all_images(denoise: Callable[..., Outcome]) -> None:
    """It serves pages, too."""
    before = picture("a.png", (*SHAPE, 3))
    write_mask("mask.png")
    pages = [PIL.Image.fromarray(before), PIL.Image.fromarray(before[::-1].copy())]
    pages[0].save("b.tif", save_all=True, append_images=pages[1:])
    assert denoise("a.png", "b.tif", "--mask", "mask.png", "-o", "out").status == 0
    assert np.array_equal(pixels("out/a.png")[LEFT], before[LEFT])
    with PIL.Image.open("out/b.tif") as result:
        result.seek(1)
        assert np.array_equal(np.asarray(result)[LEFT], before[::-1][LEFT])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("a.png", "--mask", "absent.png"), "--mask absent.png: no such file"),
        (("a.png", "--mask", ""), "--mask is empty"),
        (("a.png", "--mask", "a.png"), "a.png is both a mask and an input"),
        (("a.png", "--mask", "mask.png", "-o", "mask.png"), "mask.png is both a mask and an out"),
        (("a.png", "mask.png", "--mask", "mask.png"), "mask.png is both a mask and an input"),
        (("a.png", "--mask", "masks", "-o", "masks"), "is both a mask and an output"),
        (("-", "--mask", "masks"), "masks is a folder, but the image on stdin has no name"),
    ],
)
def test_impossible_masks_are_usage_errors(
    arguments: tuple[str, ...], cause: str, denoise: Callable[..., Outcome]
) -> None:
    """A mask must exist, is never replaced by an output, and is not an input."""
    picture("a.png", (*SHAPE, 3))
    write_mask("mask.png")
    write_mask("masks/a.png")
    before = {name: Path(name).read_bytes() for name in tree()}
    outcome = denoise(*arguments)
    assert outcome.status == 2
    assert cause in outcome.stderr
    assert {name: Path(name).read_bytes() for name in tree()} == before


def test_a_mask_that_cannot_be_meant_is_reported(denoise: Callable[..., Outcome]) -> None:
    """Values 0 and 1 of 255 give a warning; float samples above 1 and damage are errors."""
    picture("a.png", (*SHAPE, 3))
    write_mask("labels.png", mask=(levels() == 1) / 255)
    outcome = denoise("a.png", "--mask", "labels.png")
    assert "warning: a.png: the mask is nearly black, at most 1 of 255" in outcome.stderr
    write_mask("float.tif", "float32", 255 * levels())
    outcome = denoise("a.png", "--mask", "float.tif")
    assert outcome.status == 1
    assert "samples of the mask range from 0 to 255" in outcome.stderr
    write_mask("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:-20])
    assert denoise("a.png", "--mask", "cut.png", "--allow-damaged").status == 1


def test_other_masks_restore_again(denoise: Callable[..., Outcome]) -> None:
    """The manifest records the content of the mask, and the detail that is kept."""
    picture("f/a.png", (*SHAPE, 3))
    write_mask("mask.png")
    write_mask("copy.tif")
    Path("copy.png").write_bytes(Path("mask.png").read_bytes())

    def reasons(*options: object) -> list[str | None]:
        outcome = denoise("f", "-o", "out", "--skip-existing", "--json", *options)
        assert outcome.status == 0
        kinds = ("restored", "skipped")
        return [e.get("reason") for e in outcome.events if e["event"] in kinds]

    assert reasons() == [None]
    assert reasons("--mask", "mask.png") == [None]
    assert reasons("--mask", "mask.png") == [manifest.UNCHANGED]
    assert reasons("--mask", "copy.png") == [manifest.UNCHANGED]
    write_mask("mask.png", mask=1 - levels())
    os.utime("mask.png", (1, 1))
    assert reasons("--mask", "mask.png") == [None]
    assert reasons() == [None]
    assert reasons("--keep-detail", 0.5) == [None]
    assert reasons("--keep-detail", 0.5) == [manifest.UNCHANGED]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the name of each mask that is read, and "decoded" for each one that is decoded."""
    seen: list[str] = []

    def read_bytes(source: object, **options: object) -> tuple[str, bytes]:
        if "mask" in str(source):
            seen.append(str(source))
        return image_io.read_bytes(source, **options)  # type: ignore[arg-type]

    def decode(data: bytes, **options: object) -> ImageSequence:
        seen.append("decoded")
        return image_io.decode(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_bytes", read_bytes)
    monkeypatch.setattr(masks, "decode", decode)
    return seen


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_one_mask_is_read_and_decoded_once(
    options: tuple[str, ...], reads: list[str], denoise: Callable[..., Outcome]
) -> None:
    """A file serves all images of a run; of a folder, each image has its own mask."""
    before = [picture(f"f/{name}.png", (*SHAPE, 3), seed=ord(name)) for name in "abc"]
    write_mask("mask.png")
    for name in "abc":
        write_mask(f"masks/{name}.png", mask=levels()[::-1])
    assert denoise("f", "--mask", "mask.png", "-o", "out", *options).status == 0
    assert reads == ["mask.png", "decoded"]
    if not options:
        for name, image in zip("abc", before, strict=True):
            assert np.array_equal(pixels(f"out/{name}.png")[LEFT], image[LEFT])
    reads.clear()
    assert denoise("f", "--mask", "masks", "-o", "out", *options).status == 0
    assert [name for name in reads if name != "decoded"] == [f"masks/{n}.png" for n in "abc"]
    assert reads.count("decoded") == 3


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes")
def test_a_mask_from_a_pipe_serves_all_images(denoise: Callable[..., Outcome]) -> None:
    """A pipe can be read only once, and is."""
    before = picture("f/a.png", (*SHAPE, 3))
    picture("f/b.png", (*SHAPE, 3), seed=1)
    write_mask("mask.png")
    os.mkfifo("pipe")
    writer = threading.Thread(
        target=lambda: Path("pipe").write_bytes(Path("mask.png").read_bytes()), daemon=True
    )
    writer.start()
    outcome = denoise("f", "--mask", "pipe", "-o", "out")
    writer.join(20)
    assert outcome.status == 0
    assert np.array_equal(pixels("out/a.png")[LEFT], before[LEFT])


def test_a_mask_that_changes_during_a_run_is_read_again(reads: list[str], tmp_path: Path) -> None:
    """A mask whose content changes between two images is loaded for the second one."""
    reader, path = masks.MaskReader(), tmp_path / "mask.png"
    load = partial(reading.load_file, path, None, 10**6)
    write_mask(str(path))
    first, _ = reader.read(path, load, 10**6)
    os.utime(path, (1, 1))  # the same content
    assert reader.read(path, load, 10**6)[0] is first
    write_mask(str(path), mask=1 - levels())
    os.utime(path, (2, 2))
    second, _ = reader.read(path, load, 10**6)
    assert np.array_equal(next(second.pages(1)) == 1, next(first.pages(1)) == 0)
    assert reads.count(str(path)) == 2


def test_another_mask_restores_another_part_in_place(denoise: Callable[..., Outcome]) -> None:
    """In place, an image is restored again only through masks that were not used before."""
    before = picture("f/a.png", (*SHAPE, 3))
    write_mask("right.png")
    write_mask("left.png", mask=1 - levels())
    command = ("f", "--in-place", "--skip-existing", "--json")

    def reasons(*options: object) -> list[str | None]:
        outcome = denoise(*command, *options)
        assert outcome.status == 0
        kinds = ("restored", "skipped")
        return [e.get("reason") for e in outcome.events if e["event"] in kinds]

    assert reasons("--mask", "right.png") == [None]
    right = pixels("f/a.png")
    assert np.array_equal(right[LEFT], before[LEFT])
    assert reasons("--mask", "right.png") == [manifest.REPLACED]
    assert reasons("--mask", "left.png") == [None]
    both = pixels("f/a.png")
    assert np.array_equal(both[RIGHT], right[RIGHT])
    assert not np.array_equal(both[LEFT], before[LEFT])
    for name in ("left.png", "right.png"):
        assert reasons("--mask", name) == [manifest.REPLACED]
    assert reasons() == [None]  # only parts were restored before
    assert reasons("--mask", "left.png") == [manifest.REPLACED]
    assert reasons() == [manifest.REPLACED]
