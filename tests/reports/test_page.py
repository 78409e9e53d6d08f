"""Report pages: their data, their previews, their security, and the errors."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli.files.atomic import write_atomic
from restormer_cli.imaging import io as image_io
from restormer_cli.inference import restorer
from restormer_cli.reports import page as report_page
from tests.support.program import Outcome, picture, tree
from tests.support.report_page import page_data

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

HOSTILE = "<img src=x onerror=document.title='hit'>.png"


def preview_files(page: str = "report") -> list[str]:
    """Return the files in the folder beside a page."""
    return [name for name in tree() if name.startswith(f"{page}_files/")]


def test_a_report_lists_all_events_of_a_run(restormer: Callable[..., Outcome]) -> None:
    """It has the figures, the restored, failed and skipped images, and the settings."""
    for name in ("f/a.png", "f/b.png"):
        picture(name)
    restormer("denoise", "f/a.png", "-o", "out/", "--tile", "64")
    Path("f/c.png").write_text("hello")
    outcome = restormer(
        *("denoise", "f", "gone.png", "-o", "out", "--skip-existing", "--tile", "64"),
        *("--report", "report.html"),
    )
    assert outcome.status == 1
    assert "report: report.html, " in outcome.stderr
    page = page_data("report.html")
    assert page["title"] == "Noise removed"
    assert [figure[:2] for figure in page["figures"]][:4] == [
        ["restored", "1"],
        ["failed", "2"],
        ["skipped", "1"],
        ["megapixels", "0.001"],
    ]
    assert [image["name"] for image in page["images"]] == ["f/a.png", "f/b.png"]
    assert page["failed"][0] == ["gone.png", "no such file", "Check the path."]
    assert page["failed"][1][0] == "f/c.png"
    assert page["skipped"] == [["f/a.png", "restored before, and nothing has changed"]]
    settings = dict(page["settings"])
    assert settings["Device"] == "cpu"
    assert settings["Strategy"] == "tiles of 64"
    assert re.search(r"identity.* \(file\), SHA-256 [0-9a-f]{64}", settings["Weights"])
    assert settings["--tile"] == "64"
    assert settings["--skip-existing"] == "on"
    assert "--overlap" not in settings


def test_a_second_run_keeps_the_pictures_of_the_first(restormer: Callable[..., Outcome]) -> None:
    """The page of a resumed run shows the skipped images, too, with their facts and links."""
    for name in ("f/a.png", "f/b.png"):
        picture(name)
    command = ("denoise", "f", "-o", "out", "--skip-existing", "--report", "report.html")
    assert restormer(*command).status == 0
    first = page_data("report.html")
    assert restormer(*command).status == 0
    second = page_data("report.html")
    assert second["images"] == first["images"]
    assert second["settings"] == first["settings"]
    assert len(second["skipped"]) == 2


def test_a_skipped_image_that_cannot_be_shown_has_not_failed(
    restormer: Callable[..., Outcome],
) -> None:
    """A warning says that it is not on the page, which counts it as skipped only."""
    picture("f/a.png")
    command = ("denoise", "f", "-o", "out", "--skip-existing", "--report", "report.html")
    assert restormer(*command).status == 0
    outcome = restormer(*command, "--max-pixels", "100")
    assert outcome.status == 0
    assert "warning: f/a.png: cannot be shown (" in outcome.stderr
    page = page_data("report.html")
    assert (len(page["skipped"]), page["failed"], page["images"]) == (1, [], [])


def test_previews_are_embedded(restormer: Callable[..., Outcome]) -> None:
    """The page holds a thumbnail, before and after as JPEG; no other file is written."""
    picture("a.png")
    assert restormer("denoise", "a.png", "--report", "report.html").status == 0
    (image,) = page_data("report.html")["images"]
    for kind in ("thumbnail", "before", "after"):
        head, _, content = image[kind].partition(",")
        assert head == "data:image/jpeg;base64"
        assert base64.b64decode(content).startswith(b"\xff\xd8\xff")
    assert "detail-after" not in image
    assert image["links"] == {"before": "./a.png", "after": "./a.restored.png"}
    assert tree() == ["a.png", "a.restored.png", "report.html"]


def test_many_previews_are_beside_the_page(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folder is not an input, and only previews that are no longer shown are removed."""
    monkeypatch.setattr(report_page, "EMBEDDED", 0)
    picture("f/a.png")
    picture("f/b.png")
    command = ("denoise", "f", "-r", "-o", "out", "--report", "f/report.html")
    assert restormer(*command).status == 0
    images = page_data("f/report.html")["images"]
    names = {Path(image[kind]).name for image in images for kind in ("before", "after")}
    assert {Path(name).name for name in preview_files("f/report")} >= names
    assert len(preview_files("f/report")) == 6
    Path("f/report_files/other.jpg").write_text("unrelated")
    Path("f/b.png").unlink()
    assert restormer(*command).status == 0
    assert [image["name"] for image in page_data("f/report.html")["images"]] == ["f/a.png"]
    assert len(preview_files("f/report")) == 4
    monkeypatch.setattr(report_page, "EMBEDDED", 10**6)
    assert restormer(*command).status == 0
    assert preview_files("f/report") == ["f/report_files/other.jpg"]


def test_a_large_image_has_a_detail(restormer: Callable[..., Outcome]) -> None:
    """The preview of a large image is scaled down, and its detail is not."""
    picture("a.jpg", (40, report_page.SIDE + 100, 3))
    assert restormer("denoise", "a.jpg", "--report", "report.html").status == 0
    (image,) = page_data("report.html")["images"]
    for kind, size in (("after", (1600, 38)), ("detail-before", (640, 40))):
        content = base64.b64decode(image[kind].partition(",")[2])
        Path("preview.jpg").write_bytes(content)
        assert image_io.read_image(Path("preview.jpg")).pixels.shape[1::-1] == size


def test_names_cannot_escape_from_the_data(restormer: Callable[..., Outcome]) -> None:
    """Names that look like markup, or like the end of the script, stay text."""
    picture(f"<!--/<script></{HOSTILE}")
    outcome = restormer("denoise", "<!--", "-r", "-o", "out", "--report", "report.html")
    assert outcome.status == 0
    (image,) = page_data("report.html")["images"]
    assert image["name"] == f"<!--/<script></{HOSTILE}"
    assert image["links"]["before"].startswith("./%3C%21--/%3Cscript%3E%3C/%3Cimg%20src%3Dx%20")
    page = Path("report.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page


def test_a_link_is_never_a_script(restormer: Callable[..., Outcome]) -> None:
    """A file named like a javascript: URL is linked to as a file."""
    picture("javascript:alert(1).png")
    restormer("denoise", "javascript:alert(1).png", "-o", "out/", "--report", "report.html")
    (image,) = page_data("report.html")["images"]
    assert image["links"]["before"] == "./javascript%3Aalert%281%29.png"


def test_the_policy_allows_only_the_page_itself(restormer: Callable[..., Outcome]) -> None:
    """The page may load its own style and script, by their hashes, and embedded images."""
    picture("a.png")
    restormer("denoise", "a.png", "--report", "report.html")
    page = Path("report.html").read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag in ("style", "script")
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.findall(r"https?://", page)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("report.txt", "report.txt: not the name of a page"),
        ("other.html", "other.html: exists and is not a restormer report"),
        ("a.png/report.html", "a.png is not a folder"),
        ("folder.html", "folder.html: exists and is not a restormer report"),
    ],
)
def test_an_unusable_path_is_an_error(
    path: str, message: str, restormer: Callable[..., Outcome]
) -> None:
    """The error comes before anything is written, and an unrelated page is kept."""
    picture("a.png")
    Path("other.html").write_text("unrelated")
    Path("folder.html").mkdir()
    outcome = restormer("denoise", "a.png", "--report", path)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert tree() == ["a.png", "other.html"]


def test_a_report_replaces_a_report(restormer: Callable[..., Outcome]) -> None:
    """The same command can be repeated."""
    picture("a.png")
    for _ in range(2):
        assert restormer("denoise", "a.png", "--report", "new/report.html").status == 0


def fill_disk(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Let the disk be full for files with this suffix."""

    def write(path: Path, content: bytes) -> None:
        if path.suffix == suffix:
            raise OSError(28, "No space left on device")
        write_atomic(path, content)

    monkeypatch.setattr(report_page, "write_atomic", write)


def test_a_report_that_cannot_be_written_is_an_error(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are written, and the exit status is 1."""
    fill_disk(monkeypatch, ".html")
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--report", "report.html")
    assert outcome.status == 1
    assert "report.html: cannot write the report (No space left on device)" in outcome.stderr
    assert Path("a.restored.png").exists()


def test_previews_that_cannot_be_written_are_a_failure(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is still written, and the report lists it as failed."""
    fill_disk(monkeypatch, ".jpg")
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--report", "report.html")
    assert outcome.status == 1
    assert "a.png: restored, but report_files: cannot write previews" in outcome.stderr
    assert Path("a.restored.png").exists()
    assert [name for name, _, _ in page_data("report.html")["failed"]] == ["a.png"]


def test_an_interrupted_run_writes_its_report(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report shows the images that were restored before the interruption."""
    picture("f/a.png")
    picture("f/b.png")
    forward = restorer.Restorer.forward
    calls = []

    def once(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(restorer.Restorer, "forward", once)
    assert restormer("denoise", "f", "--report", "report.html").status == 130
    page = page_data("report.html")
    assert page["about"].startswith("interrupted ")
    assert [image["name"] for image in page["images"]] == ["f/a.png"]


def test_an_image_from_a_pipe_is_shown(restormer: Callable[..., Outcome]) -> None:
    """It has previews, but no links to files."""
    picture("a.png")
    content = Path("a.png").read_bytes()
    outcome = restormer("denoise", "-", "-o", "-", "--report", "report.html", stdin=content)
    assert outcome.status == 0
    assert outcome.stdout.startswith(b"\x89PNG")
    (image,) = page_data("report.html")["images"]
    assert (image["name"], image["links"]) == ("-", {})
    assert image["before"].startswith("data:")


def test_a_comparison_can_be_a_page(restormer: Callable[..., Outcome]) -> None:
    """The page shows each result with its difference to the first image."""
    picture("a.png")
    picture("b.png", seed=1)
    shutil.copy("a.png", "c.png")
    assert restormer("compare", "a.png", "b.png", "c.png", "-o", "page.html").status == 0
    page = page_data("page.html")
    assert page["title"] == "Comparison"
    b, c = page["images"]
    assert (b["name"], c["name"]) == ("b.png", "c.png")
    assert c["facts"][1] == "mean change 0 of 255"
    assert b["change"] == pytest.approx(85 / 255, abs=0.05)  # of uniform noise
