"""The HTTP API: results, formats, metadata, problems and the document that describes them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import jsonschema
import numpy as np
import PIL.Image
import pytest

from restormer_cli import batch
from restormer_cli.imaging import io as image_io
from tests.support import image_files
from tests.support.program import picture, tree
from tests.support.serving import check_problem, png

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.program import Outcome
    from tests.support.serving import Answer, Served

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "tiff": "image/tiff", "webp": "image/webp"}


def kind_of(answer: Answer) -> str:
    return str(PIL.Image.open(io.BytesIO(answer.body)).format).lower()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "deep.png", "deep.tiff", "a.webp"])
def test_the_result_is_that_of_the_command(
    name: str, server: Served, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """The answer has the bytes of the file that the command writes."""
    del folder
    picture(name, (24, 40, 3), "uint16" if "deep" in name else "uint8")
    options = ("--weights", server.weights, "--device", "cpu", "--precision", "fp32")
    expected = restormer("denoise", name, "-o", "-", *options)
    assert expected.status == 0
    answer = server.restore(Path(name).read_bytes(), name=name)
    assert answer.status == 200
    assert answer.body == expected.stdout
    assert answer.headers["content-type"] == MEDIA_TYPES[kind_of(answer)]


def test_metadata_is_kept(server: Served) -> None:
    """EXIF, except the orientation that is applied, and the ICC profile are in the result."""
    exif, icc = image_files.exif(orientation=6), image_files.wide_gamut()
    answer = server.restore(png(exif=exif, icc_profile=icc), format="jpg")
    image = image_io.read_image(answer.body)
    assert image.pixels.shape == (34, 21, 3)
    assert image.icc == icc
    assert image_files.tags(image.exif) == image_files.tags(exif)


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ({}, None, "png"),
        ({}, "*/*", "png"),
        ({}, "image/webp", "webp"),
        ({}, "text/html, image/tiff;q=0.5", "tiff"),
        ({}, "image/webp, image/*;q=0.1", "png"),
        ({}, "image/webp;q=0.5, image/tiff;q=0.8", "tiff"),
        ({"format": "jpg"}, "image/webp", "jpeg"),
        ({"format": "keep"}, "image/webp", "webp"),
    ],
)
def test_the_format_is_negotiated(
    query: dict[str, str], accept: str | None, kind: str, server: Served
) -> None:
    """`format` comes first, then Accept, then the format of the input."""
    answer = server.restore(png(), headers={"Accept": accept} if accept else {}, **query)
    assert kind_of(answer) == kind
    assert answer.headers["content-type"] == MEDIA_TYPES[kind]


def test_strength_and_quality_have_an_effect(server: Served) -> None:
    """Strength 0 returns the samples of the input, and a lower quality a smaller file."""
    before = image_io.read_image(png()).pixels
    same = image_io.read_image(server.restore(png(), strength=0).body).pixels
    np.testing.assert_array_equal(same, before)
    assert not np.array_equal(image_io.read_image(server.restore(png()).body).pixels, before)
    sizes = [len(server.restore(png(), format="jpg", quality=q).body) for q in (20, 95)]
    assert sizes[0] < sizes[1]


def test_every_page_is_restored(server: Served) -> None:
    """A TIFF of three pages has three in the result."""
    pages = [PIL.Image.fromarray(image_files.noise(16, 16, 3, seed=seed)) for seed in range(3)]
    body = image_files.encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    answer = server.restore(body)
    assert PIL.Image.open(io.BytesIO(answer.body)).n_frames == 3
    assert answer.result["pages"] == 3


def test_the_result_is_described(server: Served) -> None:
    """A header has the event of the command, and the file gets the name of a result."""
    answer = server.restore(png(), name="C:\\shots\\größe 1.png")
    jsonschema.validate(answer.result, batch.event_schema())
    assert answer.result["input"] == "größe 1.png"
    disposition = answer.headers["content-disposition"]
    assert disposition == "attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe%201.restored.png"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tar.png", {}),
        (".hidden.png", {}),
        ("x.RESTORED.jpg", {}),
        ("x.JPEG", {}),
        ("scan.2024", {}),
        ("without", {}),
        (".png", {}),
        ("x.jpeg", {"format": "png"}),
        ("x.jpeg", {"format": "jpg"}),
        ("v1.0", {"format": "tiff"}),
    ],
)
def test_the_result_is_named_as_by_the_command(
    name: str,
    options: dict[str, str],
    server: Served,
    restormer: Callable[..., Outcome],
    folder: Path,
) -> None:
    """The name of the input has the same result in both."""
    jpeg = name.lower().endswith(("jpg", "jpeg"))
    body = image_files.encoded(PIL.Image.new("RGB", (8, 8)), "JPEG" if jpeg else "PNG")
    (folder / name).write_bytes(body)
    arguments = [text for option, value in options.items() for text in (f"--{option}", value)]
    assert restormer("denoise", name, "--weights", server.weights, *arguments).status == 0
    (expected,) = {*tree()} - {name}
    disposition = server.restore(body, name=name, **options).headers["content-disposition"]
    assert unquote(disposition.partition("''")[2]) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "...", "/"])
def test_a_name_of_dots_is_none(name: str, server: Served) -> None:
    """It is that of a folder."""
    disposition = server.restore(png(), name=name).headers["content-disposition"]
    assert disposition == "attachment; filename*=UTF-8''image.restored.png"


@pytest.mark.parametrize("identifier", ["x", "a/b", "/", "//a//", "a\nb\n", "?ä #%2F", ""])
def test_any_text_can_ask_for_progress(identifier: str, server: Served) -> None:
    """The identifier of a request has its progress, also with slashes and line breaks."""
    quoted = quote(identifier, safe="")
    with server.start_upload(1000, path=f"/v1/restore?task=denoise&id={quoted}"):
        server.wait_for(taken=1)
        assert server.get(f"/v1/progress/{quoted}").json["state"] == "receiving"
        assert server.get(f"/v1/progress/{quoted}x").json["state"] == "absent"
    server.wait_for(taken=0)


@pytest.mark.parametrize("path", ["/v1/tasks/", "/v1/progress", "//v1/tasks"])
def test_paths_are_not_corrected(path: str, server: Served) -> None:
    """A redirection would name http, also where a proxy has TLS."""
    check_problem(server.get(path), 404, "not-found")


def test_a_damaged_image_is_restored_on_request(server: Served) -> None:
    """Without `allow_damaged` it is a problem, with it a result with a warning."""
    body = image_files.encoded(PIL.Image.fromarray(image_files.noise(64, 64, 3)), "JPEG")
    cut = body[: len(body) // 2]
    problem = check_problem(server.restore(cut, name="cut.jpg"), 422, "damaged-image")
    assert problem["detail"].startswith("cut.jpg: ")
    assert problem["hint"]
    answer = server.restore(cut, allow_damaged="true")
    assert answer.status == 200
    assert any("damaged" in warning for warning in answer.result["warnings"])


PROBLEMS: list[tuple[dict[str, Any], int, str]] = [
    ({"query": {"strngth": 1}}, 400, "invalid-request"),
    ({"query": {"task": "dehaze"}}, 400, "invalid-request"),
    ({"query": {"quality": "high"}}, 400, "invalid-request"),
    ({"query": {"quality": 101}}, 400, "invalid-request"),
    ({"query": {"strength": "nan"}}, 400, "invalid-request"),
    ({"query": {"strength": "inf"}}, 400, "invalid-request"),
    ({"query": {"task": "derain", "sigma": "25"}}, 400, "invalid-request"),
    ({"path": "/v1/restore"}, 400, "invalid-request"),
    ({"path": "/v1/restore?task=denoise&task=derain"}, 400, "invalid-request"),
    ({"body": b""}, 400, "invalid-request"),
    ({"path": "/v2/restore"}, 404, "not-found"),
    ({"method": "PUT"}, 405, "method-not-allowed"),
    ({"headers": {"Accept": "text/html"}}, 406, "not-acceptable"),
    ({"headers": {"Accept": "image/png;q=0"}}, 406, "not-acceptable"),
    ({"body": b"x" * 1_000_001}, 413, "too-large"),
    ({"headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 415, "unsupported-body"),
    ({"headers": {"Content-Encoding": "gzip"}}, 415, "unsupported-body"),
    ({"body": b"hello"}, 422, "unusable-image"),
    ({"path": "/v1/preview", "body": b"hello"}, 422, "unusable-image"),
    ({"path": "/v1/preview?size=1"}, 400, "invalid-request"),
]


@pytest.mark.parametrize(("request_", "status", "kind"), PROBLEMS)
def test_problems_have_details(
    request_: dict[str, Any], status: int, kind: str, server: Served
) -> None:
    """Each error is a problem with a cause, and its status is in the OpenAPI document."""
    method, body = request_.get("method", "POST"), request_.get("body", png())
    query = {"task": "denoise"} | request_.get("query", {})
    path = request_.get("path", "/v1/restore")
    query = {} if "path" in request_ else query
    answer = server.request(method, path, body, headers=request_.get("headers"), **query)
    problem = check_problem(answer, status, kind)
    document = server.get("/openapi.json").json
    jsonschema.validate(problem, document["components"]["schemas"]["Problem"])
    if operation := document["paths"].get(path.partition("?")[0], {}).get(method.lower()):
        assert str(status) in operation["responses"]


def test_too_many_pixels_are_refused_before_decoding(server: Served) -> None:
    """A small file that claims 2.5 gigapixels is refused at once."""
    claim = image_files.chunk(b"IHDR", b"\0\0\xc3\x50\0\0\xc3\x50\x08\x02\0\0\0")
    body = b"\x89PNG\r\n\x1a\n" + claim + png()[33:]
    problem = check_problem(server.restore(body), 422, "unusable-image")
    assert "50000 x 50000 pixels, over the limit of 1000000" in problem["detail"]


def test_tasks_are_listed(server: Served) -> None:
    """The list has all tasks, the formats and the limits, and each task can be requested."""
    content = server.get("/v1/tasks").json
    names = [task["name"] for task in content["tasks"]]
    assert names == ["denoise", "derain", "deblur", "defocus"]
    assert content["limits"] == {"pixels": 1_000_000, "bytes": 1_000_000}
    for name in names:
        assert server.restore(png(), task=name).result["task"] == name


def test_the_preview_is_a_small_jpeg(server: Served) -> None:
    """A picture that browsers do not show is drawn, and scaled if it is large."""
    body = image_files.encoded(PIL.Image.fromarray(image_files.noise(10, 3200, 3)), "TIFF")
    answer = server.request("POST", "/v1/preview", body)
    assert answer.headers["content-type"] == "image/jpeg"
    assert PIL.Image.open(io.BytesIO(answer.body)).size == (1600, 5)


def test_the_document_describes_the_operations(server: Served) -> None:
    """Every parameter and default that it states is accepted, and every reference resolves."""
    document = server.get("/openapi.json").json
    assert document["openapi"].startswith("3.1.")
    identifiers = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            identifiers.append(operation["operationId"])
            variables = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert variables == set(re.findall(r"{(\w+)}", path))
            assert {"200", "400"} <= set(operation["responses"])
            for parameter in operation["parameters"]:
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
            if method == "get":
                answer = server.get(path.replace("{id}", "x"))
                assert (
                    answer.headers["content-type"].partition(";")[0]
                    in (operation["responses"]["200"]["content"])
                )
    assert len(set(identifiers)) == len(identifiers)
    for reference in re.findall(r'"#/([^"]+)"', json.dumps(document)):
        found = document
        for part in reference.split("/"):
            found = found[part]
    (operation,) = document["paths"]["/v1/restore"].values()
    defaults = {p["name"]: p["schema"].get("default") for p in operation["parameters"]}
    query = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in defaults.items()
        if value is not None
    }
    assert server.restore(png(), **query).body == server.restore(png()).body
