"""Loading photographs, and the validation set."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restormer_cli.errors import UsageError
from restormer_cli.training.dataset import (
    Sample,
    fingerprint,
    hold_out,
    largest_side,
    load_photos,
    sharpest_crop,
)
from tests.support.training import coordinates, grains


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, pixels)
    assert encoded
    path.write_bytes(data.tobytes())


def fail(message: str) -> None:
    raise AssertionError(message)


def test_photos_of_every_kind_become_rgb_bytes(tmp_path: Path) -> None:
    """Grey, 16-bit and colour photos, in subfolders too, become H W 3 uint8."""
    write(tmp_path / "a.png", grains(20, 30)[..., 0])
    write(tmp_path / "b" / "c.png", grains(20, 30).astype(np.uint16) * 257)
    write(tmp_path / "b" / "d.JPG", grains(20, 30))
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    samples = load_photos(tmp_path, 1 << 20, fail)
    assert [p.pixels.shape for p in samples] == [(20, 30, 3)] * 3
    assert {p.pixels.dtype for p in samples} == {np.dtype(np.uint8)}
    assert np.array_equal(samples[0].pixels[..., 0], grains(20, 30)[..., 0])
    assert np.array_equal(samples[1].pixels, grains(20, 30)[..., ::-1])


def test_photos_left_out_are_reported(tmp_path: Path) -> None:
    """Damaged files, copies and tiny images are named with the reason; the others are used."""
    for n in range(2):
        write(tmp_path / f"good{n}.png", grains(32, 32, n))
    shutil.copy(tmp_path / "good0.png", tmp_path / "twin.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good1.png").read_bytes()[:900])
    write(tmp_path / "tiny.png", grains(15, 99))
    messages: list[str] = []
    assert len(load_photos(tmp_path, 1 << 20, messages.append)) == 2
    assert len(messages) == 3
    for name, reason in (("cut.png", "damaged"), ("twin.png", "copy"), ("tiny.png", "16 pixels")):
        assert any(name in line and reason in line for line in messages)


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    """Fewer than two usable photos, or a missing folder, is a usage error with a remedy."""
    write(tmp_path / "only.png", grains(32, 32))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for folder, cause in ((tmp_path, "photos can be used"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UsageError, match=cause) as raised:
            load_photos(folder, 1 << 20, lambda _: None)
        assert raised.value.hint


def test_memory_limits_the_crops(tmp_path: Path) -> None:
    """Photos of a large set are cropped, in the same way in every run and under any name."""
    for n in range(4):
        write(tmp_path / f"{n}.png", grains(120, 80, n))
    first = load_photos(tmp_path, 4 * 60 * 40 * 3, fail)
    assert [p.pixels.shape for p in first] == [(60, 40, 3)] * 4
    (tmp_path / "0.png").rename(tmp_path / "9.png")
    second = {p.digest: p.pixels for p in load_photos(tmp_path, 4 * 60 * 40 * 3, fail)}
    assert all(np.array_equal(second[p.digest], p.pixels) for p in first)


def flat_photos(count: int) -> list[Sample]:
    generator = np.random.default_rng(0)
    pixels = np.zeros((16, 16, 3), np.uint8)
    return [Sample(pixels, f"{generator.integers(2**63):016x}") for _ in range(count)]


@given(photos=st.integers(2, 600))
def test_held_out_photos_are_not_trained_on(photos: int) -> None:
    """Each photo is in one of the sets; a twentieth is held out, at least 1 and at most 24."""
    everything = flat_photos(photos)
    training, held_out = hold_out(everything)
    assert {p.digest for p in training}.isdisjoint(p.digest for p in held_out)
    assert len(training) + len(held_out) == photos
    assert len(held_out) == max(1, min(24, photos // 20))


def test_a_growing_folder_keeps_its_validation_set() -> None:
    """Photos with the given digests are held out, and the order of the photos does not matter."""
    everything = flat_photos(60)
    _, before = hold_out(everything[:40])
    training, after = hold_out(everything, [p.digest for p in before])
    assert {p.digest for p in after} == {p.digest for p in before}
    assert len(training) == 58
    _, reverse = hold_out(everything[:40][::-1])
    assert {p.digest for p in reverse} == {p.digest for p in before}


def test_a_set_of_photos_has_a_fingerprint() -> None:
    """The fingerprint does not depend on the order, and differs for another set."""
    photos = flat_photos(5)
    assert fingerprint(photos) == fingerprint(photos[::-1]) != fingerprint(photos[1:])


def test_the_largest_patch_fits_into_half_of_the_photos() -> None:
    """The largest side is the median side of the photos, rounded down to a multiple of 16."""
    assert largest_side([coordinates(40, 50)]) == 32
    assert largest_side([coordinates(n, 200) for n in (20, 35, 70, 250)]) == 64
    assert largest_side([coordinates(n, 200) for n in (20, 35, 250)]) == 32


def test_the_sharpest_crop_is_found() -> None:
    """The crop has the given side, or the largest multiple of 16 that fits."""
    photo = coordinates(49, 100)
    photo.pixels[16:48, 64:96] = grains(32, 32)
    assert np.array_equal(sharpest_crop(photo, 32), photo.pixels[16:48, 64:96])
    assert sharpest_crop(photo, 192).shape == (48, 48, 3)


def test_pairs_of_different_sizes_are_left_out(photos: Path, noisy: Path, tmp_path: Path) -> None:
    """They are reported, and the others are used."""
    data = cv2.imencode(".jpg", np.zeros((80, 96, 3), np.uint8))[1]
    (noisy / "1.jpg").write_bytes(data.tobytes())
    messages: list[str] = []
    assert len(load_photos(photos, 1 << 20, messages.append, 16, [noisy])) == 4
    (line,) = messages
    assert "1.png: its size differs from that of" in line


def test_float_pairs_are_on_the_scale_of_the_clean_photo(tmp_path: Path) -> None:
    """A dark degraded photo stays dark beside its clean one, instead of being brightened."""
    clean = np.tile(np.linspace(0, 200, 40, dtype=np.float32), (24, 1))
    for number, factor in enumerate((1, 0.8)):
        write(tmp_path / "clean" / f"{number}.tif", clean * factor)
        write(tmp_path / "dark" / f"{number}.tif", clean * factor / 8)
    samples = load_photos(tmp_path / "clean", 1 << 20, fail, partners=[tmp_path / "dark"])
    for sample in samples:
        bright, dark = sample.pixels[..., 0].astype(float), sample.pixels[..., 3]
        assert np.abs(dark - bright / 8).max() <= 1


def test_the_same_suffix_is_preferred_to_the_same_stem(photos: Path, tmp_path: Path) -> None:
    """1.png is paired with 1.png, in subfolders too, and 1.jpg is reported."""
    clean, degraded = tmp_path / "clean" / "a", tmp_path / "degraded" / "a"
    shutil.copytree(photos, clean)
    shutil.copytree(photos, degraded)
    (degraded / "1.jpg").write_bytes((photos / "2.png").read_bytes())
    messages: list[str] = []
    pairs = load_photos(clean.parent, 1 << 20, messages.append, 16, [degraded.parent])
    assert len(pairs) == 5
    assert all(np.array_equal(p.pixels[..., :3], p.pixels[..., 3:]) for p in pairs)
    (line,) = messages
    assert line == f"left out: {degraded / '1.jpg'}: no image of this name in the other folder"


def test_a_missing_folder_of_partners_is_refused(photos: Path, tmp_path: Path) -> None:
    """A mistyped folder is one error, not one for each photo."""
    with pytest.raises(UsageError, match="no such folder"):
        load_photos(photos, 1 << 20, lambda _: None, 16, [tmp_path / "nosiy"])
