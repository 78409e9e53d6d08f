"""Report pages of finished folders, made from their manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from restormer_cli.batch import manifest
from tests.support.program import Outcome, picture
from tests.support.report_page import page_data

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


@pytest.fixture
def report_finished(restormer: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Restore a folder with a subfolder; return a function that runs `restormer report` on it."""
    for seed, name in enumerate(("f/a.png", "f/b.png", "f/sub/c.png")):
        picture(name, seed=seed)
    assert restormer("derain", "f", "-r", "--strength", "0.5").status == 0
    return lambda *options: restormer("report", "f-restored", *options)


def test_a_finished_folder_has_a_report(report_finished: Callable[..., Outcome]) -> None:
    """The page beside the folder shows all images, before and after, and the settings."""
    outcome = report_finished()
    assert outcome.status == 0
    page = page_data("f-restored-report.html")
    assert page["title"] == "Rain removed"
    assert page["about"].startswith("f-restored, restored 20")
    assert [image["name"] for image in page["images"]] == ["f/a.png", "f/b.png", "f/sub/c.png"]
    assert all(image["before"] for image in page["images"])
    assert page["images"][2]["links"] == {
        "before": "./f/sub/c.png",
        "after": "./f-restored/sub/c.png",
    }
    assert dict(page["settings"])["--strength"] == "0.5"
    assert page["figures"][0] == ["restored", "3"]


@pytest.mark.parametrize("name", [".", "sub/..", "../f-restored/"])
def test_the_report_of_a_folder_is_beside_it(
    name: str, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named like the folder, also if the folder is given as the working or parent folder."""
    for picture_name in ("f/a.png", "f/sub/b.png"):
        picture(picture_name)
    assert restormer("derain", "f", "-r").status == 0
    monkeypatch.chdir("f-restored")
    assert restormer("report", name).status == 0
    assert len(page_data("../f-restored-report.html")["images"]) == 2


def test_changes_since_the_run_are_reported(report_finished: Callable[..., Outcome]) -> None:
    """Lost or changed inputs and edited outputs give warnings, a lost output a failure."""
    Path("f/a.png").unlink()
    picture("f/b.png", seed=9)
    picture("f-restored/b.png", seed=9)
    Path("f-restored/sub/c.png").unlink()
    outcome = report_finished("-o", "report.html")
    assert outcome.status == 1
    assert "f-restored/sub/c.png: the output is missing" in outcome.stderr
    page = page_data("report.html")
    assert [name for name, _, _ in page["failed"]] == ["f-restored/sub/c.png"]
    a, b = page["images"]
    assert manifest.LOST in a["warnings"]
    assert {manifest.CHANGED, manifest.LOST} <= set(b["warnings"])
    assert "before" not in a
    assert a["after"]
    assert a["links"] == {"after": "./f-restored/a.png"}


def test_inputs_are_found_from_another_working_directory(
    report_finished: Callable[..., Outcome],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The manifest's names are relative to the working directory of the run."""
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert restormer("report", "../f-restored", "-o", "report.html").status == 0
    assert all(image["before"] for image in page_data("report.html")["images"])


def test_an_incomplete_manifest_entry_is_one_failure(
    report_finished: Callable[..., Outcome],
) -> None:
    """An entry without weights is reported as failed, and the other images are shown."""
    path = Path("f-restored", manifest.NAME)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["weights"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = report_finished()
    assert outcome.status == 1
    assert "f-restored/a.png: the manifest does not say how it was made" in outcome.stderr
    assert len(page_data("f-restored-report.html")["images"]) == 2


@pytest.mark.parametrize("path", ["f", "gone", "f/a.png"])
def test_a_folder_without_a_manifest_is_an_error(
    path: str, report_finished: Callable[..., Outcome], restormer: Callable[..., Outcome]
) -> None:
    """The error names the missing manifest or folder."""
    outcome = restormer("report", path)
    assert outcome.status == 2
    assert "manifest" in outcome.stderr or "no such folder" in outcome.stderr
