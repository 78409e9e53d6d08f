"""Requests with several files, parameters of single tasks, and hints in the words of the API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from tests.support import image_files
from tests.support.program import picture
from tests.support.serving import check_problem, form, png

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.program import Outcome
    from tests.support.serving import Answer, Served

OPTIONS = ("--device", "cpu", "--precision", "fp32")


def mask(height: int = 21, width: int = 34, white: int = 10) -> bytes:
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, :white] = 255
    return image_files.encoded(PIL.Image.fromarray(pixels), "PNG")


def restore(server: Served, query: dict[str, Any] | None = None, **files: bytes) -> Answer:
    body, headers = form(**files)
    return server.restore(body, headers=headers, **query or {})


def test_a_form_with_the_image_alone_is_the_image(server: Served) -> None:
    """The part's file name names the result, unless `name` does."""
    answer = restore(server, image=png())
    assert answer.body == server.restore(png()).body
    assert answer.result["input"] == "image größe.png"
    assert restore(server, {"name": "b.png"}, image=png()).result["input"] == "b.png"


def test_the_masked_result_is_that_of_the_command(
    server: Served, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """The answer has the bytes of the file that the command writes with --mask."""
    picture("a.png")
    Path("m.png").write_bytes(mask())
    line = ("denoise", "a.png", "-o", "-", "--mask", "m.png", "--weights", server.weights)
    expected = restormer(*line, *OPTIONS)
    assert expected.status == 0
    answer = restore(server, image=Path("a.png").read_bytes(), mask=mask())
    assert answer.body == expected.stdout
    assert answer.body != server.restore(Path("a.png").read_bytes()).body
    assert any("black in the mask" in note for note in answer.result["notes"])


def test_the_result_of_two_views_is_that_of_the_command(
    launch: Callable[..., Served],
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
    folder: Path,
) -> None:
    """A server with weights for two views starts, and needs the right one."""
    weights = tiny("dual.pth", in_channels=6, dual_pixel=True)
    for seed, name in enumerate(("l.png", "r.png")):
        picture(name, seed=seed)
    line = ("defocus", "l.png", "--right", "r.png", "-o", "-", "--weights", weights)
    expected = restormer(*line, *OPTIONS)
    assert expected.status == 0
    dual = launch("--weights", str(weights))
    left, right = (Path(name).read_bytes() for name in ("l.png", "r.png"))
    assert restore(dual, {"task": "defocus"}, image=left, right=right).body == expected.stdout
    problem = check_problem(dual.restore(left, task="defocus"), 400, "invalid-request")
    assert problem["hint"] == "Use right with dual-pixel weights, and only with them."


def test_detail_and_noise_are_options_of_denoising(
    server: Served, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """`keep_detail` gives the bytes of the command, and `sigma=auto` is accepted."""
    picture("a.png", (64, 64, 3))
    line = ("denoise", "a.png", "-o", "-", "--keep-detail", "0.5", "--weights", server.weights)
    expected = restormer(*line, *OPTIONS)
    body = Path("a.png").read_bytes()
    answer = server.restore(body, keep_detail=0.5)
    assert (expected.status, answer.body) == (0, expected.stdout)
    assert answer.body != server.restore(body).body
    assert server.restore(body, sigma="auto").body == server.restore(body).body


@pytest.mark.parametrize(("noise", "sigma"), [(25, "25"), (40, "blind")])
def test_the_noise_of_the_image_chooses_the_weights(extra: None, noise: int, sigma: str) -> None:
    """`sigma=auto` chooses as the command does; of weights that are given, it needs no estimate."""
    from restormer_cli.batch import BatchConfig
    from restormer_cli.inference import RestorerConfig
    from restormer_cli.server.body import File
    from restormer_cli.server.queue import Order

    rng = np.random.default_rng(0)
    pixels = (128 + rng.normal(0, noise, (256, 256, 3))).clip(0, 255).astype(np.uint8)
    files = {"image": File("", image_files.encoded(PIL.Image.fromarray(pixels), "PNG"))}
    order = Order("a.png", files, None, RestorerConfig(sigma="auto"), BatchConfig())
    chosen = order.with_own_sigma()
    assert chosen.restorer.sigma == sigma
    assert chosen.job.noise is not None
    lite = order._replace(restorer=RestorerConfig(sigma="auto", weights="lite")).with_own_sigma()
    assert (lite.restorer.sigma, lite.noise) == ("blind", None)


FORM = "multipart/form-data; boundary=x"
HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
NAMED = HEAD.replace(b'="a.png"', b"*=%b")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "kind"),
    [
        ("multipart/mixed; boundary=x", HEAD + b"data\r\n--x--", 415, "unsupported-body"),
        ("multipart/form-data", HEAD + b"data\r\n--x--", 415, "unsupported-body"),
        (FORM, HEAD + b"data", 415, "unsupported-body"),
        (FORM, HEAD + b"data\r\n--x", 415, "unsupported-body"),
        (FORM, HEAD, 415, "unsupported-body"),
        (FORM, b"--x\r\n" + b"a" * 20_000 + b"\r\n\r\ndata\r\n--x--", 415, "unsupported-body"),
        (FORM, b"--x--\r\n", 400, "invalid-request"),
        (FORM, HEAD + b"\r\n--x--", 400, "invalid-request"),
        (FORM, HEAD + b"data\r\n" + HEAD + b"data\r\n--x--", 400, "invalid-request"),
        (FORM, HEAD.replace(b"image", b"task") + b"denoise\r\n--x--", 400, "invalid-request"),
        (FORM, HEAD.replace(b"image", b"mask") + b"data\r\n--x--", 400, "invalid-request"),
        (FORM, b"--x\r\n\r\ndata\r\n--x--", 400, "invalid-request"),
        (FORM, NAMED % b"idna''%ff" + b"data\r\n--x--", 415, "unsupported-body"),
        (FORM, NAMED % b"undefined''a" + b"data\r\n--x--", 415, "unsupported-body"),
        ("multipart/form-data; boundary*=undefined''x", HEAD, 415, "unsupported-body"),
        (FORM, HEAD + b"data\r\n--x--", 422, "unusable-image"),
    ],
)
def test_wrong_forms_are_refused(
    content_type: str, body: bytes, status: int, kind: str, server: Served
) -> None:
    """Each has a cause and a remedy, and the server goes on."""
    answer = server.restore(body, headers={"Content-Type": content_type})
    assert check_problem(answer, status, kind)["hint"]


def test_a_name_of_half_a_character_is_kept(launch: Callable[..., Served]) -> None:
    """What no file system can store is replaced in the name of the result."""
    server = launch("--keep", "kept")
    body = NAMED % b"unicode_escape''a%5cud800b.png" + png() + b"\r\n--x--"
    answer = server.restore(body, headers={"Content-Type": FORM})
    assert answer.status == 200
    assert (server.folder / "kept" / "a_b.restored.png").read_bytes() == answer.body


def test_a_preview_takes_no_form(server: Served) -> None:
    """It is of one file, which is the body."""
    body, headers = form(image=png())
    answer = server.request("POST", "/v1/preview", body, headers=headers)
    check_problem(answer, 415, "unsupported-body")


def test_the_document_describes_the_form(server: Served) -> None:
    """Its parts have the names of the options, and the image is required."""
    document = server.get("/openapi.json").json
    content = document["paths"]["/v1/restore"]["post"]["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]
    assert (schema["required"], [*schema["properties"]]) == (["image"], ["image", "mask", "right"])
    preview = document["paths"]["/v1/preview"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" not in preview


def flat(height: int, width: int) -> bytes:
    return image_files.encoded(PIL.Image.new("RGB", (width, height)), "PNG")


def cut_jpeg() -> bytes:
    body = image_files.encoded(PIL.Image.fromarray(image_files.noise(64, 64, 3)), "JPEG")
    return body[: len(body) // 2]


@pytest.mark.parametrize(
    ("query", "files", "kind", "hint"),
    [
        (
            {},
            {"image": cut_jpeg()},
            "damaged-image",
            "Get a complete copy of the file, or restore what there is with allow_damaged=true.",
        ),
        (
            {},
            {"image": flat(1001, 1000)},
            "unusable-image",
            "On the server: raise --max-pixels if you trust the file.",
        ),
        ({"task": "derain", "sigma": "25"}, {}, "invalid-request", "Use sigma with task=denoise"),
        ({"task": "derain", "keep_detail": 0}, {}, "invalid-request", "Use keep_detail with task="),
        ({"task": "derain"}, {"right": png()}, "invalid-request", "Use right with task=defocus"),
        (
            {"task": "defocus"},
            {"right": png()},
            "invalid-request",
            "Use right with dual-pixel weights, and only with them.",
        ),
        ({}, {"mask": mask(20)}, "unusable-image", "Masks are not resized: make one"),
    ],
)
def test_hints_fit_the_api(
    query: dict[str, Any], files: dict[str, bytes], kind: str, hint: str, server: Served
) -> None:
    """They name parameters of the request, and say which options are the server's."""
    answer = restore(server, query, **{"image": png(), **files})
    problem = check_problem(answer, answer.status, kind)
    assert problem["hint"].startswith(hint)
    assert "--" not in problem["detail"]
    assert "--" not in problem["hint"].removeprefix("On the server: raise --max-pixels")


def test_weights_of_another_task_are_warned_of(launch: Callable[..., Served]) -> None:
    """The result of the wrong task has a warning, and the start of the server has none."""
    derain = launch("--weights", "restormer-lite-derain")
    assert "warning" not in derain.log
    assert derain.restore(png(), task="derain").result["warnings"] == []
    (warning,) = derain.restore(png()).result["warnings"]
    assert warning.startswith("restormer-lite-derain is for derain, not for denoise")
    assert derain.log.count(warning) == 1


def test_a_mask_keeps_black_pixels(server: Served) -> None:
    """Their samples are those of the image, bit for bit."""
    before = image_io.read_image(png()).pixels
    after = image_io.read_image(restore(server, image=png(), mask=mask()).body).pixels
    np.testing.assert_array_equal(after[:, 10:], before[:, 10:])
    assert not np.array_equal(after[:, :10], before[:, :10])
