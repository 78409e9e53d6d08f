"""Photographs in memory: which are used, which are held out, and the patches cut from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.errors import UsageError
from restormer_cli.training.dataset import (
    Sample,
    fingerprint,
    hold_out,
    largest_side,
    load_photos,
    patches,
    sharpest,
    side_by_side,
)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, pixels)
    assert encoded
    path.write_bytes(data.tobytes())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> Sample:
    """A photo whose red is the row and whose green is the column."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(height)[:, None]
    pixels[..., 1] = np.arange(width)
    return Sample(pixels, f"{height * 1000 + width:016x}")


def quiet(text: str) -> None:
    raise AssertionError(text)


def test_photos_of_every_kind_become_rgb_bytes(tmp_path: Path) -> None:
    """Grey, 16-bit and colour photos, in subfolders too, are H W 3 uint8; the rest is not read."""
    write(tmp_path / "a.png", noise(20, 30)[..., 0])
    write(tmp_path / "b" / "c.png", noise(20, 30).astype(np.uint16) * 257)
    write(tmp_path / "b" / "d.JPG", noise(20, 30))
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    found = load_photos(tmp_path, 1 << 20, quiet)
    assert [p.pixels.shape for p in found] == [(20, 30, 3)] * 3
    assert {p.pixels.dtype for p in found} == {np.dtype(np.uint8)}
    assert np.array_equal(found[0].pixels[..., 0], noise(20, 30)[..., 0])
    assert np.array_equal(found[1].pixels, noise(20, 30)[..., ::-1])


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """Damaged files, copies and tiny pictures are named with the reason, and the others used."""
    for n in range(2):
        write(tmp_path / f"good{n}.png", noise(32, 32, n))
    shutil.copy(tmp_path / "good0.png", tmp_path / "twin.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good1.png").read_bytes()[:900])
    write(tmp_path / "tiny.png", noise(15, 99))
    said: list[str] = []
    assert len(load_photos(tmp_path, 1 << 20, said.append)) == 2
    assert len(said) == 3
    for name, reason in (("cut.png", "damaged"), ("twin.png", "copy"), ("tiny.png", "16 pixels")):
        assert any(name in line and reason in line for line in said)


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    """Fewer than two usable photos, or no folder at all, is a usage error with a remedy."""
    write(tmp_path / "only.png", noise(32, 32))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="photos can be used") as raised:
            load_photos(folder, 1 << 20, lambda _: None)
        assert raised.value.hint


def test_memory_bounds_what_is_kept(tmp_path: Path) -> None:
    """Large sets contribute a crop of each photo, the same at every start, under any name."""
    for n in range(4):
        write(tmp_path / f"{n}.png", noise(120, 80, n))
    first = load_photos(tmp_path, 4 * 60 * 40 * 3, quiet)
    assert [p.pixels.shape for p in first] == [(60, 40, 3)] * 4
    (tmp_path / "0.png").rename(tmp_path / "9.png")
    second = {p.digest: p.pixels for p in load_photos(tmp_path, 4 * 60 * 40 * 3, quiet)}
    assert all(np.array_equal(second[p.digest], p.pixels) for p in first)


# --- held out ---


def pack(count: int) -> list[Sample]:
    generator = np.random.default_rng(0)
    one = np.zeros((16, 16, 3), np.uint8)
    return [Sample(one, f"{generator.integers(2**63):016x}") for _ in range(count)]


@given(photos=st.integers(2, 200), count=st.integers(1, 50))
def test_held_out_photos_are_not_trained_on(photos: int, count: int) -> None:
    """Each photo is on one side; a twentieth at most is held out, and always one."""
    everything = pack(photos)
    training, held_out = hold_out(everything, count)
    assert {p.digest for p in training}.isdisjoint(p.digest for p in held_out)
    assert len(training) + len(held_out) == photos
    assert len(held_out) == max(1, min(count, photos // 20))


def test_a_folder_that_grows_keeps_what_it_held_out() -> None:
    """Named digests are held out whatever else there is; and order does not matter."""
    everything = pack(60)
    _, before = hold_out(everything[:40], 2)
    training, after = hold_out(everything, 9, [p.digest for p in before])
    assert {p.digest for p in after} == {p.digest for p in before}
    assert len(training) == 58
    _, turned = hold_out(everything[:40][::-1], 2)
    assert {p.digest for p in turned} == {p.digest for p in before}


def test_a_set_of_photos_has_a_fingerprint() -> None:
    """It is that of the set, in any order, and another photo makes another."""
    photos = pack(5)
    assert fingerprint(photos) == fingerprint(photos[::-1]) != fingerprint(photos[1:])


# --- patches ---


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    side=st.sampled_from([16, 32, 48]),
    seed=st.integers(0, 2**32),
)
def test_patches_are_squares_of_the_photo_turned_or_flipped(
    height: int, width: int, side: int, seed: int
) -> None:
    """A patch is an unbroken part of a photo, in one of its eight positions."""
    photos = [coordinates(height, width), coordinates(64, 48)]
    cut = patches(photos, side, 5, np.random.default_rng(seed))
    assert cut.shape == (5, 3, side, side)
    assert cut.permute(0, 2, 3, 1).is_contiguous()
    for patch in (cut * 255).round().int().numpy():
        rows, columns = patch[:2]
        if rows[0, 0] == rows[0, -1]:  # not turned, or by half a turn
            assert (np.abs(np.diff(rows, axis=0)) == 1).all()
            assert (np.abs(np.diff(columns, axis=1)) == 1).all()
        else:
            assert (np.abs(np.diff(rows, axis=1)) == 1).all()
            assert (np.abs(np.diff(columns, axis=0)) == 1).all()
        assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1


def test_all_places_and_all_eight_positions_are_drawn() -> None:
    """Every corner of a photo is reached, and every turn and flip is seen."""
    cut = patches([coordinates(20, 20)], 16, 400, np.random.default_rng(0))
    corners = (cut[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    tops = corners[:, 0].amin(1)
    assert set(tops.tolist()) == set(range(5))
    positions = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(positions) == 8


def test_two_views_stay_side_by_side_in_all_four_positions() -> None:
    """A patch's left view is the scene shifted left, its right one right, whichever way it lies."""
    wide = coordinates(20, 22).pixels
    photo = Sample(np.concatenate([wide[:, 1:-1], wide[:, 2:], wide[:, :-2]], axis=2), "0")
    cut = patches([photo], 16, 100, np.random.default_rng(0), "cpu", side_by_side)
    clean, left, right = cut.unflatten(1, (3, 3)).unbind(1)
    assert torch.equal(left[..., :-1], clean[..., 1:])
    assert torch.equal(right[..., 1:], clean[..., :-1])
    corners = (cut[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    positions = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(positions) == 4


def test_photos_are_drawn_by_area() -> None:
    """A photo four times as large is drawn four times as often; one too small never is."""
    photos = [coordinates(16, 16), coordinates(32, 32), coordinates(64, 64)]
    for n, photo in enumerate(photos):
        photo.pixels[..., 2] = n
    cut = patches(photos, 32, 1000, np.random.default_rng(0))
    drawn = (cut[:, 2, 0, 0] * 255).round()
    assert set(drawn.tolist()) == {1, 2}
    assert 0.76 < float((drawn == 2).float().mean()) < 0.84


def test_patches_larger_than_all_photos_are_refused() -> None:
    """No photo of the size is a usage error that says the size."""
    with pytest.raises(UsageError, match="no photo is 32 pixels"):
        patches([coordinates(16, 99)], 32, 1, np.random.default_rng(0))


def test_half_of_the_photos_can_give_the_largest_patch() -> None:
    """The largest side is one that half of the photos have, rounded down to a multiple of 16."""
    assert largest_side([coordinates(40, 50)]) == 32
    assert largest_side([coordinates(n, 200) for n in (20, 35, 70, 250)]) == 64
    assert largest_side([coordinates(n, 200) for n in (20, 35, 250)]) == 32


def test_the_sharpest_part_is_found() -> None:
    """It has the side asked for, or the largest multiple of 16 that there is."""
    photo = coordinates(49, 100)
    photo.pixels[16:48, 64:96] = noise(32, 32)
    part = sharpest(photo, 32)[0] * 255
    assert np.array_equal(part.permute(1, 2, 0).round().numpy(), photo.pixels[16:48, 64:96])
    assert sharpest(photo, 192).shape == (1, 3, 48, 48)


def test_of_several_places_the_sharpest_becomes_a_patch() -> None:
    """Of two, a detailed photo gives three patches out of four, not two, next to a blurred one."""
    photos = [Sample(np.full((64, 64, 3), 9, np.uint8), "0"), Sample(noise(64, 64), "1")]
    for among, share in ((1, 1 / 2), (2, 3 / 4)):
        cut = patches(photos, 16, 400, np.random.default_rng(0), among=among)
        assert float((cut.std((1, 2, 3)) > 0).float().mean()) == pytest.approx(share, abs=0.05)
