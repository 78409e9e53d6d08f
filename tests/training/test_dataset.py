"""Loading photographs, the validation set, patches and pairs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from restormer_cli.degradations.noise import blind_gaussian_noise
from restormer_cli.degradations.sampling import reflected
from restormer_cli.errors import UsageError
from restormer_cli.training.dataset import (
    Sample,
    SampleSpec,
    fingerprint,
    hold_out,
    largest_side,
    load_photos,
    sharpest_crop,
    validation_set,
)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, pixels)
    assert encoded
    path.write_bytes(data.tobytes())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> Sample:
    """A photo with the row in red and the column in green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(height)[:, None]
    pixels[..., 1] = np.arange(width)
    return Sample(pixels, f"{height * 1000 + width:016x}")


def cut(photos: list[Sample], side: int, count: int, seed: int = 0, **spec: Any) -> Tensor:
    """Cut patches without degrading them."""
    return SampleSpec(**spec).draw(photos, side, count, np.random.default_rng(seed))[1]


def fail(message: str) -> None:
    raise AssertionError(message)


def test_photos_of_every_kind_become_rgb_bytes(tmp_path: Path) -> None:
    """Grey, 16-bit and colour photos, in subfolders too, become H W 3 uint8."""
    write(tmp_path / "a.png", noise(20, 30)[..., 0])
    write(tmp_path / "b" / "c.png", noise(20, 30).astype(np.uint16) * 257)
    write(tmp_path / "b" / "d.JPG", noise(20, 30))
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    samples = load_photos(tmp_path, 1 << 20, fail)
    assert [p.pixels.shape for p in samples] == [(20, 30, 3)] * 3
    assert {p.pixels.dtype for p in samples} == {np.dtype(np.uint8)}
    assert np.array_equal(samples[0].pixels[..., 0], noise(20, 30)[..., 0])
    assert np.array_equal(samples[1].pixels, noise(20, 30)[..., ::-1])


def test_photos_left_out_are_reported(tmp_path: Path) -> None:
    """Damaged files, copies and tiny images are named with the reason; the others are used."""
    for n in range(2):
        write(tmp_path / f"good{n}.png", noise(32, 32, n))
    shutil.copy(tmp_path / "good0.png", tmp_path / "twin.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good1.png").read_bytes()[:900])
    write(tmp_path / "tiny.png", noise(15, 99))
    messages: list[str] = []
    assert len(load_photos(tmp_path, 1 << 20, messages.append)) == 2
    assert len(messages) == 3
    for name, reason in (("cut.png", "damaged"), ("twin.png", "copy"), ("tiny.png", "16 pixels")):
        assert any(name in line and reason in line for line in messages)


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    """Fewer than two usable photos, or a missing folder, is a usage error with a remedy."""
    write(tmp_path / "only.png", noise(32, 32))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    for folder, cause in ((tmp_path, "photos can be used"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UsageError, match=cause) as raised:
            load_photos(folder, 1 << 20, lambda _: None)
        assert raised.value.hint


def test_memory_limits_the_crops(tmp_path: Path) -> None:
    """Photos of a large set are cropped, in the same way in every run and under any name."""
    for n in range(4):
        write(tmp_path / f"{n}.png", noise(120, 80, n))
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


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    side=st.sampled_from([16, 32, 48]),
    seed=st.integers(0, 2**32),
)
def test_patches_are_rotated_or_reflected_squares_of_the_photo(
    height: int, width: int, side: int, seed: int
) -> None:
    """A patch is a contiguous part of a photo, in one of eight orientations."""
    photos = [coordinates(height, width), coordinates(64, 48)]
    patches = cut(photos, side, 5, seed)
    assert patches.shape == (5, 3, side, side)
    assert patches.permute(0, 2, 3, 1).is_contiguous()
    for patch in (patches * 255).round().int().numpy():
        rows, columns = patch[:2]
        if rows[0, 0] == rows[0, -1]:  # rotated by 0 or 180 degrees
            assert (np.abs(np.diff(rows, axis=0)) == 1).all()
            assert (np.abs(np.diff(columns, axis=1)) == 1).all()
        else:
            assert (np.abs(np.diff(rows, axis=1)) == 1).all()
            assert (np.abs(np.diff(columns, axis=0)) == 1).all()
        assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1


def test_all_positions_and_all_eight_orientations_are_drawn() -> None:
    """Every corner of a photo is reached, in every rotation and reflection."""
    patches = cut([coordinates(20, 20)], 16, 400)
    corners = (patches[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    tops = corners[:, 0].amin(1)
    assert set(tops.tolist()) == set(range(5))
    orientations = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(orientations) == 8


def test_two_views_stay_side_by_side_in_all_four_orientations() -> None:
    """In every orientation the views stay shifted to the left and to the right."""
    wide = coordinates(20, 22).pixels
    photo = Sample(np.concatenate([wide[:, 1:-1], wide[:, 2:], wide[:, :-2]], axis=2), "0")
    views, clean = SampleSpec(views=2).draw([photo], 16, 100, np.random.default_rng(0))
    left, right = views.chunk(2, dim=1)
    assert torch.equal(left[..., :-1], clean[..., 1:])
    assert torch.equal(right[..., 1:], clean[..., :-1])
    corners = (clean[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    orientations = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(orientations) == 4


def test_photos_are_drawn_by_area() -> None:
    """A photo four times as large is drawn four times as often, one too small never."""
    photos = [coordinates(16, 16), coordinates(32, 32), coordinates(64, 64)]
    for n, photo in enumerate(photos):
        photo.pixels[..., 2] = n
    drawn = (cut(photos, 32, 1000)[:, 2, 0, 0] * 255).round()
    assert set(drawn.tolist()) == {1, 2}
    assert 0.76 < float((drawn == 2).float().mean()) < 0.84


def test_patches_larger_than_all_photos_are_refused() -> None:
    """If no photo is large enough, the usage error names the size."""
    with pytest.raises(UsageError, match="no photo is 32 pixels"):
        cut([coordinates(16, 99)], 32, 1)


def test_the_largest_patch_fits_into_half_of_the_photos() -> None:
    """The largest side is the median side of the photos, rounded down to a multiple of 16."""
    assert largest_side([coordinates(40, 50)]) == 32
    assert largest_side([coordinates(n, 200) for n in (20, 35, 70, 250)]) == 64
    assert largest_side([coordinates(n, 200) for n in (20, 35, 250)]) == 32


def test_the_sharpest_crop_is_found() -> None:
    """The crop has the given side, or the largest multiple of 16 that fits."""
    photo = coordinates(49, 100)
    photo.pixels[16:48, 64:96] = noise(32, 32)
    crop = sharpest_crop(photo, 32)[0] * 255
    assert np.array_equal(crop.permute(1, 2, 0).round().numpy(), photo.pixels[16:48, 64:96])
    assert sharpest_crop(photo, 192).shape == (1, 3, 48, 48)


def test_the_sharpest_of_several_positions_becomes_a_patch() -> None:
    """With 2 candidates, a detailed photo gives three patches for one of a flat photo."""
    photos = [Sample(np.full((64, 64, 3), 9, np.uint8), "0"), Sample(noise(64, 64), "1")]
    for candidates, share in ((1, 1 / 2), (2, 3 / 4)):
        patches = cut(photos, 16, 400, candidates=candidates)
        assert float((patches.std((1, 2, 3)) > 0).float().mean()) == pytest.approx(share, abs=0.05)


def test_both_images_of_a_pair_are_cut_and_rotated_alike(photos: Path, tmp_path: Path) -> None:
    """If the degraded photos are the clean ones, the images of every pair are equal."""
    pairs = load_photos(photos, 5 * 50 * 50 * 6, lambda _: None, 16, [photos])
    assert {photo.pixels.shape for photo in pairs} == {(50, 50, 6)}
    degraded, clean = SampleSpec(views=1).draw(pairs, 32, 8, np.random.default_rng(0))
    assert torch.equal(degraded, clean)
    assert degraded.shape == (8, 3, 32, 32)


def test_pairs_of_different_sizes_are_left_out(photos: Path, noisy: Path, tmp_path: Path) -> None:
    """They are reported, and the others are used."""
    data = cv2.imencode(".jpg", np.zeros((80, 96, 3), np.uint8))[1]
    (noisy / "1.jpg").write_bytes(data.tobytes())
    messages: list[str] = []
    assert len(load_photos(photos, 1 << 20, messages.append, 16, [noisy])) == 4
    (line,) = messages
    assert "1.png: its size differs from that of" in line


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


def test_validation_pairs_depend_on_the_photo_alone() -> None:
    """The degradation is the same in every run, and different for each photo."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    first, second = (Sample(pixels, digest) for digest in ("1" * 16, "f" * 16))
    spec = SampleSpec(blind_gaussian_noise)
    pairs = validation_set([first, second], spec)
    ((again, _),) = validation_set([second], spec)
    assert torch.equal(pairs[1][0], again)
    assert not torch.equal(pairs[0][0], pairs[1][0])


def test_a_patch_is_blurred_with_the_pixels_beyond_it() -> None:
    """The border of a patch shows no reflection: a blurred ramp equals the ramp."""

    def box(x: Tensor, _: Generator) -> Tensor:
        return torch.nn.functional.avg_pool2d(reflected(x, 3), 7, stride=1)

    ramp = torch.linspace(0, 1, 48).expand(1, 3, 48, 48)
    blurred, clean = SampleSpec(box, reach=4).pair(ramp, Generator())
    assert blurred.shape == clean.shape == (1, 3, 40, 40)
    torch.testing.assert_close(blurred, clean)
    mirrored, whole = SampleSpec(box).pair(ramp, Generator())
    assert (mirrored - whole).abs().max() > 0.02
