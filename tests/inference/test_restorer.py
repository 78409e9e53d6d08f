"""Test the restoration of arrays: types, channels, memory and precision."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import restormer_cli
from restormer_cli.checkpoints import serialization
from restormer_cli.errors import CheckpointError, DeviceError, ImageError, UsageError
from restormer_cli.inference import devices, engine, strips, transfer
from restormer_cli.inference.config import RestorerConfig
from restormer_cli.inference.restorer import Restorer


def picture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("network_channels", [1, 3])
def test_every_kind_of_array_is_supported(identity, dtype, channels, network_channels):
    """Grey or colour, with or without alpha, 8 bits, 16 bits or float keep shape and values."""
    weights = identity(in_channels=network_channels, out_channels=network_channels)
    restorer = Restorer("denoise", weights=str(weights), device="cpu", precision="fp32")
    image = picture((19, 26, *channels), dtype)
    restored = restorer(image)
    assert restored.dtype == image.dtype
    assert np.array_equal(restored, image)


def test_bf16_loses_nothing_of_the_image(identity):
    """In half precision the image is still added in fp32, which preserves 16 bits."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="bf16")
    image = picture((24, 24, 3), "uint16")
    assert np.array_equal(restorer(image), image)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_the_byte_order_of_an_array_is_kept(identity, dtype):
    """The result has the type of the array, also if its bytes are in the other order."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    image = picture((16, 24, 3), np.dtype(dtype).name).astype(dtype)
    restored = restorer(image)
    assert restored.dtype.str == dtype
    assert np.array_equal(restored, image)


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("float32", 1), ("float32", 255)])
def test_colours_do_not_shift_at_the_borders_with_the_lite_weights(dtype, white):
    """Without a margin of reflected pixels, this blue shifts by 8 levels in the corners."""
    restorer = Restorer("derain", weights="lite", device="cpu", precision="fp32")
    image = np.zeros((24, 40, 3), dtype)
    image[..., 2] = white
    restored = restorer(image)
    assert restored.shape == image.shape
    assert restored.flags.c_contiguous
    assert np.abs(restored.astype(float) - image).max() <= 1.5 / 255 * white


def test_forward_adds_no_margin():
    """The published protocols, which `eval` follows, restore the image alone."""
    restorer = Restorer("derain", weights="lite", device="cpu", precision="fp32")
    image = picture((24, 40, 3), "float32")
    alone = restormer_cli.restore(
        restorer.network, torch.from_numpy(image.transpose(2, 0, 1))[None]
    )
    restored = restorer.forward(image).pixels
    assert restored == pytest.approx(alone[0].numpy().transpose(1, 2, 0), abs=1e-6)


def test_float_values_beyond_the_range_are_kept(identity):
    """Values of a float image outside 0..1, highlights or negative noise, are not clipped."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu")
    image = picture((16, 16, 3), "float32") * 6 - 2
    assert np.array_equal(restorer(image), image)


@pytest.mark.parametrize(("factor", "offset"), [(255, 0), (65535, 0), (2, -1)])
@pytest.mark.parametrize("noise", [0, 0.08])
def test_float_arrays_are_restored_on_their_own_scale(tiny, factor, offset, noise):
    """The same picture changes by the same amount on each scale, also where noise lies beyond."""
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu", precision="fp32")
    rows, columns = np.mgrid[:48, :40]
    smooth = np.dstack([rows / 47, columns / 39, (rows + columns) / 86])
    image = smooth + np.random.default_rng(0).normal(0, noise, smooth.shape)
    expected = restorer(image.clip(0, 1).astype(np.float32))
    restored = restorer((image * factor + offset).astype(np.float32))
    assert (restored - offset) / factor == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("views", [1, 2])
def test_a_grey_image_is_restored_as_grey(tiny, views):
    """A network for colour restores a grey image as the mean of three equal channels."""
    weights = str(tiny(in_channels=3 * views, dual_pixel=views == 2))
    restorer = Restorer(
        "defocus", weights=weights, device="cpu", precision="fp32", dual_pixel=views == 2
    )
    grey = [picture((16, 24), "float32", seed) for seed in range(views)]
    colour = restorer(*(np.repeat(view[..., None], 3, axis=2) for view in grey))
    assert restorer(*grey) == pytest.approx(colour.mean(axis=2), abs=1e-6)


def test_alpha_is_not_restored(tiny):
    """A fourth channel is returned unchanged and does not affect the others."""
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu")
    image = picture((16, 24, 4), "uint8")
    restored = restorer(image)
    assert np.array_equal(restored[..., 3], image[..., 3])
    assert np.array_equal(restored[..., :3], restorer(image[..., :3]))


def test_two_views(tiny):
    """A dual-pixel network takes the left and the right view, and requires both."""
    weights = str(tiny(in_channels=6, dual_pixel=True))
    restorer = Restorer("defocus", weights=weights, device="cpu", dual_pixel=True)
    left, right = picture((20, 24, 3), "uint8", 1), picture((20, 24, 3), "uint8", 2)
    restored = restorer(left, right)
    assert restored.shape == left.shape
    assert not np.array_equal(restored, restorer(left, left))
    with pytest.raises(UsageError):
        restorer(left)
    with pytest.raises(ImageError, match="24 x 20"):
        restorer(left, right[:16])


def test_the_number_of_views_must_fit(tiny):
    """A right view for a network of one view, or the reverse, is a usage error."""
    restorer = Restorer("defocus", weights=str(tiny()), device="cpu")
    image = picture((16, 16, 3), "uint8")
    with pytest.raises(UsageError):
        restorer(image, image)
    with pytest.raises(UsageError):
        Restorer("defocus", weights=str(tiny(in_channels=6, dual_pixel=True)), device="cpu")


def test_nan_in_the_image_is_rejected(identity):
    """An image with NaN raises an error."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu")
    image = np.full((16, 16, 3), np.nan, np.float32)
    with pytest.raises(ImageError, match="NaN"):
        restorer(image)


def test_weights_of_another_task_give_a_python_warning():
    """They restore, because a network may be fine-tuned from another task's."""
    with pytest.warns(UserWarning, match="restormer-lite-derain is for derain, not for denoise"):
        restorer = Restorer("denoise", weights="restormer-lite-derain", device="cpu")
    assert len(restorer.warnings) == 1
    assert Restorer("derain", weights="restormer-lite-derain", device="cpu").warnings == []


def test_an_unknown_precision_is_rejected():
    """A precision that is not supported is a usage error that lists the choices."""
    with pytest.raises(UsageError, match="fp8") as error:
        RestorerConfig("denoise", precision="fp8")
    assert error.value.hint == "Choose one of auto, fp32, bf16, fp16."


@pytest.mark.parametrize(
    ("option", "value"), [("overlap", None), ("sharing", 0), ("ensemble", "no"), ("precision", 3)]
)
def test_an_invalid_option_is_a_usage_error(option, value):
    """It names the option and the value."""
    with pytest.raises(UsageError, match=f"{option}.* {value!r}"):
        RestorerConfig("denoise", **{option: value})


def test_options_may_be_paths_and_devices(tiny):
    """`weights` may be a path of any kind, `device` a torch device."""
    config = RestorerConfig("denoise", weights=tiny(), device=torch.device("cpu"))
    assert (config.weights, config.device) == (str(tiny()), "cpu")
    assert Restorer(config).weights.path == tiny()


def test_options_change_a_configuration(tiny):
    """Options beside a configuration replace its own; others are errors."""
    config = RestorerConfig("denoise", weights=str(tiny()), device="cpu")
    assert Restorer(config, precision="fp32", tile=64).config.tile == 64
    with pytest.raises(TypeError, match="windw"):
        Restorer(config, windw=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"precision": "auto"}, "unknown precision 'auto'"), ({"tile": "auto"}, "tile is 'auto'")],
)
def test_restore_has_no_automatic_options(tiny, options, message):
    """`restore` takes a precision and a tile, or None."""
    network = restormer_cli.load_network(str(tiny()))
    with pytest.raises(UsageError, match=message):
        restormer_cli.restore(network, torch.zeros(1, 3, 16, 16), **options)


def test_restore_tells_a_bad_image_from_bad_weights(tiny):
    """NaN in the image is not blamed on the weights, and an empty image is none."""
    network = restormer_cli.load_network(str(tiny()))
    with pytest.raises(ImageError, match="the image contains NaN"):
        restormer_cli.restore(network, torch.full((1, 3, 16, 16), torch.nan))
    with pytest.raises(ImageError, match="cannot restore a tensor of shape"):
        restormer_cli.restore(network, torch.zeros(1, 3, 0, 16))


@pytest.mark.parametrize("tile", ["large", "", None, math.inf, math.nan])
def test_a_tile_must_be_a_number(tile):
    """A tile that is no number is a usage error that names the value."""
    with pytest.raises(UsageError, match=repr(tile)):
        RestorerConfig("denoise", tile=tile)


@pytest.mark.parametrize("window", [3, 0, -8, "64", 64.0])
def test_a_window_must_be_a_number_of_at_least_8(window, tiny):
    """Other windows are usage errors that name the value, in `Restorer` and in `restore`."""
    with pytest.raises(UsageError, match=f"window is {window!r}"):
        Restorer("deblur", weights=str(tiny()), device="cpu", window=window)
    network = restormer_cli.load_network(str(tiny()))
    with pytest.raises(UsageError, match=f"window is {window!r}"):
        restormer_cli.restore(network, torch.zeros(1, 3, 16, 16), window=window)


def test_unknown_names_are_reported():
    """Errors name an unknown task, a device that is not available, and unknown weights."""
    with pytest.raises(UsageError, match="dehaze"):
        Restorer("dehaze")
    with pytest.raises(DeviceError, match="tpu"):
        Restorer("denoise", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            Restorer("denoise", device="cuda")
    with pytest.raises(CheckpointError):
        Restorer("denoise", weights="no/such/file.pth", device="cpu")


def test_the_python_api_is_importable_by_name(tiny):
    """The package exports `Restorer`, `load_network` and `restore`."""
    network = restormer_cli.load_network(str(tiny()))
    x = torch.rand(1, 3, 13, 17)
    assert not network.training
    assert restormer_cli.restore(network, x).shape == x.shape
    assert restormer_cli.Restorer is Restorer
    with pytest.raises(AttributeError):
        restormer_cli.no_such_name  # noqa: B018


def test_the_plan_follows_the_memory(identity, monkeypatch):
    """An image is restored whole if it fits into memory, else in the largest tiles that fit."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    assert restorer.plan(100, 200).strategy == "whole"
    whole = restorer.plan(3000, 4000).peak_bytes
    monkeypatch.setattr(devices, "free_memory", lambda _: whole)
    smaller = restorer.plan(3000, 4000)
    assert smaller.strategy == "tiles of 2048"
    assert smaller.peak_bytes < whole
    monkeypatch.setattr(devices, "free_memory", lambda _: 0)
    assert restorer.plan(3000, 4000).strategy == "tiles of 256"


def test_an_overlap_must_fit_the_fallback_tiles(identity):
    """An overlap that is too large for the smallest fallback tile is rejected at once."""
    with pytest.raises(UsageError, match="an overlap of 300 pixels does not fit tiles of 256"):
        Restorer("denoise", weights=str(identity()), device="cpu", overlap=300)


def test_the_forecast_includes_overlaps(identity):
    """With overlapping tiles the network processes more pixels than the image has."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    whole = restorer.plan(1000, 1000)
    assert whole.pixels == 1000 * 1000
    restorer.config = replace(restorer.config, tile=512)
    assert restorer.plan(1000, 1000).pixels == (3 * 512) ** 2
    forecast = restorer.forecast(np.zeros((1000, 1000, 3), np.uint8))
    assert forecast.seconds == pytest.approx((3 * 512) ** 2 / restorer.pixels_per_second)


@pytest.mark.parametrize("window", [None, 64, 384])
def test_the_forecast_is_measured_with_windows(identity, monkeypatch, window):
    """The measured image is larger than a window, as photos are."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", window=window)
    used = []

    def restore(network, x, *, window=None, **settings):
        used.append(window and window < min(x.shape[2:]))
        return x

    monkeypatch.setattr(engine, "restore", restore)
    assert restorer.pixels_per_second > 0
    assert set(used) == {None if window is None else True}


def fails_until(tile, error, monkeypatch):
    """Make restoration fail with `error` for the whole image and for larger tiles."""
    real = engine.restore

    def restore(network, x, **settings):
        if settings["tile"] == 0 or settings["tile"] > tile:
            raise error
        return real(network, x, **settings)

    monkeypatch.setattr(engine, "restore", restore)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ..."),
    ],
    ids=["python", "cuda", "cpu allocator"],
)
def test_out_of_memory_is_retried(identity, monkeypatch, error):
    """On out-of-memory, smaller strips and then smaller and smaller tiles are tried."""
    fails_until(512, error, monkeypatch)
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    image = picture((40, 30, 3), "uint8")
    result = restorer.restore(image)
    assert np.array_equal(result.pixels, image)
    assert result.strategy == "tiles of 512"
    assert [note.rpartition("with ")[2] for note in result.notes] == [
        "whole, in fine strips",
        "tiles of 2048",
        "tiles of 1024",
        "tiles of 512",
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failed_attempt_holds_no_memory(identity, monkeypatch, threads):
    """Feature maps are freed before the next attempt, and before the error reaches the caller."""
    maps, alive_at_start = [], []
    real_forward = strips.forward

    def forward(*args, **options):
        alive_at_start.append(sum(reference() is not None for reference in maps))
        return real_forward(*args, **options)

    def transform(run, x, w, windows):
        def fail(block, region, convolve):
            raise torch.OutOfMemoryError("CUDA out of memory")

        maps.extend(map(weakref.ref, x))
        run.replace(x, fail)

    monkeypatch.setattr(strips, "forward", forward)
    monkeypatch.setattr(strips, "transform", transform)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
        with pytest.raises(ImageError, match="not enough memory on cpu for 30 x 40") as failure:
            restorer.restore(picture((40, 30, 3), "uint8"))
        assert failure.value.__cause__ is not None
        assert len(maps) == len(alive_at_start) == 6
        assert not any(alive_at_start)
        assert not any(reference() is not None for reference in maps)
    finally:
        gc.enable()
        torch.set_num_threads(before)


def test_too_little_memory_for_the_network(identity, monkeypatch):
    """It is an error of the device that names the weights."""

    def to(network, device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(restormer_cli.network.Restormer, "to", to)
    with pytest.raises(DeviceError, match="not enough memory on cpu for identity"):
        Restorer("denoise", weights=str(identity()), device="cpu")


def test_too_little_memory_to_verify_the_precision(tiny, monkeypatch):
    """The image fails, and the next one verifies it."""
    monkeypatch.setattr(devices, "native_bf16", lambda _: True)
    answers = iter([RuntimeError("CUDA error: out of memory"), 20.0])

    def psnr(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(engine, "psnr_to_fp32", psnr)
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu", notify=print)
    image = picture((24, 32, 3), "uint8")
    with pytest.raises(ImageError, match="not enough memory"):
        restorer.restore(image)
    assert restorer.restore(image).precision == "fp32"


def test_too_little_memory_around_the_network(identity, monkeypatch):
    """Arrays before and after the network are guarded, too."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    for name in ("to_float", "from_float"):
        with monkeypatch.context() as patch:
            patch.setattr(transfer, name, lambda *_: np.empty(1 << 48))
            with pytest.raises(ImageError, match="not enough memory on cpu for 32 x 24 pixels"):
                restorer.restore(picture((24, 32, 3), "uint8"))


def test_out_of_memory_in_the_smallest_tiles_fails(identity, monkeypatch):
    """If even the smallest tiles do not fit, an error is raised; tile=0 never uses tiles."""
    fails_until(0, MemoryError(), monkeypatch)
    for tile in ("auto", 0, 64):
        restorer = Restorer(
            "denoise", weights=str(identity()), device="cpu", precision="fp32", tile=tile
        )
        with pytest.raises(ImageError, match="not enough memory"):
            restorer(picture((40, 30, 3), "uint8"))


def test_other_errors_are_not_retried(identity, monkeypatch):
    """An error other than out-of-memory is raised unchanged."""
    fails_until(0, RuntimeError("shapes do not match"), monkeypatch)
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="fp32")
    with pytest.raises(RuntimeError, match="shapes"):
        restorer(picture((40, 30, 3), "uint8"))


def test_half_precision_is_verified_on_the_first_image(tiny, monkeypatch):
    """Automatic half precision is used only within 50 dB of fp32 with these weights."""
    monkeypatch.setattr(devices, "native_bf16", lambda _: True)
    messages: list[str] = []
    image = picture((40, 48, 3), "uint8")

    good = Restorer("denoise", weights=str(tiny()), device="cpu", notify=messages.append)
    assert good.restore(image).precision == "bf16"
    assert messages == []

    # Large values that nearly cancel lose their digits in bf16.
    network = restormer_cli.load_network(str(tiny()))
    with torch.no_grad():
        network.output.weight.mul_(300)
    serialization.save_network(
        network.state_dict(), network.architecture, tiny().with_name("wild.safetensors")
    )
    wild = str(tiny().with_name("wild.safetensors"))
    bad = Restorer("denoise", weights=wild, device="cpu", notify=messages.append)
    assert bad.restore(image).precision == "fp32"
    assert "using fp32 instead" in messages[0]
    exact = Restorer("denoise", weights=wild, device="cpu", precision="fp32")
    assert np.array_equal(bad(image), exact(image))
    assert len(messages) == 1

    asked = Restorer(
        "denoise", weights=wild, device="cpu", precision="bf16", notify=messages.append
    )
    assert asked.restore(image).precision == "bf16"
    assert len(messages) == 1


def test_unsupported_channels_are_rejected(tiny):
    """A network of other channels than 1 to 1, 3 to 3 or 6 to 3 raises an error when loaded."""
    path = tiny(in_channels=4, dual_pixel=True)
    with pytest.raises(CheckpointError, match="restores 4 channels to 3"):
        Restorer("denoise", weights=str(path), device="cpu")


def test_a_grey_network_restores_channels_one_by_one(tiny, monkeypatch):
    """Channels are restored one by one, and progress covers all three."""
    path = tiny(in_channels=1, out_channels=1)
    restorer = Restorer("denoise", weights=str(path), device="cpu", precision="fp32")
    image = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    sizes, parts = [], []
    real = engine.restore

    def restore(network, x, **settings):
        sizes.append(len(x))
        return real(network, x, **settings)

    monkeypatch.setattr(engine, "restore", restore)
    whole = restorer.restore(image, progress=lambda *part: parts.append(part)).pixels
    assert sizes == [1, 1, 1]
    assert parts[-1][0] == parts[-1][1]
    assert [done for done, _ in parts] == sorted(done for done, _ in parts)
    for channel in range(3):
        alone = restorer.restore(image[..., channel]).pixels
        assert np.array_equal(whole[..., channel], alone)


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 32)])
def test_after_an_overflow_the_precision_is_fp32(tiny, shape):
    """The precision of a restoration is that of its pixels; the next image tries fp16 again."""
    network = restormer_cli.load_network(str(tiny()))
    with torch.no_grad():
        network.patch_embed.proj.weight.mul_(2e5)
    path = tiny().with_name("overflowing.safetensors")
    serialization.save_network(network.state_dict(), network.architecture, path)
    restorer = Restorer("denoise", weights=str(path), device="cpu", precision="fp16")
    result = restorer.restore(picture(shape, "uint8"))
    assert result.precision == "fp32"
    assert "fp16 overflowed; restored again in fp32" in result.notes
    assert restorer.precision == "fp16"
    assert restorer.forward(np.zeros((8, 8, 3), np.float32)).precision == "fp16"


def test_plans_use_the_verified_precision(tiny, monkeypatch):
    """If half precision is too far from fp32, plans and retries use fp32."""
    monkeypatch.setattr(devices, "native_bf16", lambda _: True)
    monkeypatch.setattr(engine, "psnr_to_fp32", lambda *_: 20.0)
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu", notify=print)
    used = []

    def restore(network, x, *, precision, **settings):
        used.append(precision)
        if len(used) == 1:
            raise MemoryError
        return x

    monkeypatch.setattr(engine, "restore", restore)
    result = restorer.restore(np.zeros((24, 32, 3), np.uint8))
    assert used == ["fp32", "fp32"]
    assert result.precision == "fp32"
