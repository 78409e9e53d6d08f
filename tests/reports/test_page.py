"""What a report holds, what it takes from the folder's record, and what it never replaces."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli.batch import manifest
from restormer_cli.files.atomic import write_atomic
from restormer_cli.imaging import io as image_io
from restormer_cli.inference import restorer
from restormer_cli.reports import page as report_page
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

HOSTILE = "<img src=x onerror=document.title='hit'>.png"


def data(page: str) -> dict[str, Any]:
    """What a page shows."""
    (held,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', Path(page).read_text("utf-8")
    )
    return dict(json.loads(held))


def files(page: str = "report") -> list[str]:
    return [name for name in tree() if name.startswith(f"{page}_files/")]


def test_a_report_tells_all_of_a_run(restormer: Callable[..., Outcome]) -> None:
    """Figures, what was restored and how, what failed and why, what was skipped."""
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
    page = data("report.html")
    assert page["title"] == "Noise removed"
    assert [figure[:2] for figure in page["figures"]][:4] == [
        ["restored", "1"],
        ["failed", "2"],
        ["skipped", "1"],
        ["megapixels", "0.001"],
    ]
    assert [image["name"] for image in page["images"]] == ["f/b.png"]
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


def test_pictures_are_in_the_page(restormer: Callable[..., Outcome]) -> None:
    """Of each image a thumbnail, before and after, as JPEG; nothing is beside the page."""
    picture("a.png")
    assert restormer("denoise", "a.png", "--report", "report.html").status == 0
    (image,) = data("report.html")["images"]
    for kind in ("thumbnail", "before", "after"):
        head, _, content = image[kind].partition(",")
        assert head == "data:image/jpeg;base64"
        assert base64.b64decode(content).startswith(b"\xff\xd8\xff")
    assert "detail-after" not in image
    assert image["links"] == {"before": "./a.png", "after": "./a.restored.png"}
    assert tree() == ["a.png", "a.restored.png", "report.html"]


def test_many_pictures_are_beside_the_page(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that is no input; those that are no longer shown are removed, and only those."""
    monkeypatch.setattr(report_page, "EMBEDDED", 0)
    picture("f/a.png")
    picture("f/b.png")
    command = ("denoise", "f", "-r", "-o", "out", "--report", "f/report.html")
    assert restormer(*command).status == 0
    shown = data("f/report.html")["images"]
    names = {Path(image[kind]).name for image in shown for kind in ("before", "after")}
    assert {Path(name).name for name in files("f/report")} >= names
    assert len(files("f/report")) == 6
    Path("f/report_files/mine.jpg").write_text("mine")
    Path("f/b.png").unlink()
    assert restormer(*command).status == 0
    assert [image["name"] for image in data("f/report.html")["images"]] == ["f/a.png"]
    assert len(files("f/report")) == 4
    monkeypatch.setattr(report_page, "EMBEDDED", 10**6)
    assert restormer(*command).status == 0
    assert files("f/report") == ["f/report_files/mine.jpg"]


def test_a_large_image_has_a_detail(restormer: Callable[..., Outcome]) -> None:
    """Its preview is scaled down; the detail is not."""
    picture("a.jpg", (40, report_page.SIDE + 100, 3))
    assert restormer("denoise", "a.jpg", "--report", "report.html").status == 0
    (image,) = data("report.html")["images"]
    for kind, size in (("after", (1600, 38)), ("detail-before", (640, 40))):
        content = base64.b64decode(image[kind].partition(",")[2])
        Path("shown.jpg").write_bytes(content)
        assert image_io.read_image(Path("shown.jpg")).pixels.shape[1::-1] == size


def test_no_name_gets_out_of_the_data(restormer: Callable[..., Outcome]) -> None:
    """Names that look like markup, or like the end of the script, are text and nothing else."""
    picture(f"<!--/<script></{HOSTILE}")
    outcome = restormer("denoise", "<!--", "-r", "-o", "out", "--report", "report.html")
    assert outcome.status == 0
    (image,) = data("report.html")["images"]
    assert image["name"] == f"<!--/<script></{HOSTILE}"
    assert image["links"]["before"].startswith("./%3C%21--/%3Cscript%3E%3C/%3Cimg%20src%3Dx%20")
    page = Path("report.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page


def test_a_link_is_no_script(restormer: Callable[..., Outcome]) -> None:
    """Not even to a file that is called like one."""
    picture("javascript:alert(1).png")
    restormer("denoise", "javascript:alert(1).png", "-o", "out/", "--report", "report.html")
    (image,) = data("report.html")["images"]
    assert image["links"]["before"] == "./javascript%3Aalert%281%29.png"


def test_the_policy_allows_the_page_itself_only(restormer: Callable[..., Outcome]) -> None:
    """Its style and its script by their hashes, and embedded pictures."""
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
    ("where", "said"),
    [
        ("report.txt", "report.txt: not the name of a page"),
        ("mine.html", "mine.html: exists and is not a restormer report"),
        ("a.png/report.html", "is not a writable folder"),
        ("folder.html", "folder.html: not a regular file"),
    ],
)
def test_a_place_that_will_not_do_is_refused(
    where: str, said: str, restormer: Callable[..., Outcome]
) -> None:
    """Before anything is written; a page that is not ours stays."""
    picture("a.png")
    Path("mine.html").write_text("mine")
    Path("folder.html").mkdir()
    outcome = restormer("denoise", "a.png", "--report", where)
    assert outcome.status == 2
    assert said in outcome.stderr
    assert tree() == ["a.png", "mine.html"]


def test_a_report_replaces_a_report(restormer: Callable[..., Outcome]) -> None:
    """The same command can be given again."""
    picture("a.png")
    for _ in range(2):
        assert restormer("denoise", "a.png", "--report", "new/report.html").status == 0


def test_a_report_that_cannot_be_written_is_an_error(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are there, and the status tells."""

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".html":
            raise OSError(28, "No space left on device")
        write_atomic(path, content)

    monkeypatch.setattr(report_page, "write_atomic", full)
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--report", "report.html")
    assert outcome.status == 1
    assert "report.html: cannot write the report (No space left on device)" in outcome.stderr
    assert Path("a.restored.png").exists()


def test_previews_that_cannot_be_written_are_a_failure(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that image; it is written all the same, and the report says it."""

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".jpg":
            raise OSError(28, "No space left on device")
        write_atomic(path, content)

    monkeypatch.setattr(report_page, "write_atomic", full)
    picture("a.png")
    outcome = restormer("denoise", "a.png", "--report", "report.html")
    assert outcome.status == 1
    assert "a.png: restored, but report_files: cannot write previews" in outcome.stderr
    assert Path("a.restored.png").exists()
    assert [name for name, _, _ in data("report.html")["failed"]] == ["a.png"]


def test_an_interrupted_run_leaves_its_report(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was done until then."""
    picture("f/a.png")
    picture("f/b.png")
    restore = restorer.Restorer.restore
    calls = []

    def once(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return restore(*arguments, **options)

    monkeypatch.setattr(restorer.Restorer, "restore", once)
    assert restormer("denoise", "f", "--report", "report.html").status == 130
    page = data("report.html")
    assert page["about"].startswith("interrupted ")
    assert [image["name"] for image in page["images"]] == ["f/a.png"]


def test_an_image_from_a_pipe_is_shown(restormer: Callable[..., Outcome]) -> None:
    """It has no file to link to."""
    picture("a.png")
    content = Path("a.png").read_bytes()
    outcome = restormer("denoise", "-", "-o", "-", "--report", "report.html", stdin=content)
    assert outcome.status == 0
    assert outcome.stdout.startswith(b"\x89PNG")
    (image,) = data("report.html")["images"]
    assert (image["name"], image["links"]) == ("-", {})
    assert image["before"].startswith("data:")


@pytest.fixture
def done(restormer: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """A finished folder with one below; then `restormer report` on it."""
    for seed, name in enumerate(("f/a.png", "f/b.png", "f/sub/c.png")):
        picture(name, seed=seed)
    assert restormer("derain", "f", "-r", "--strength", "0.5").status == 0
    return lambda *options: restormer("report", "f-restored", *options)


def test_a_finished_folder_has_a_report(done: Callable[..., Outcome]) -> None:
    """Beside it, of all its records: each image before and after, with what made it."""
    outcome = done()
    assert outcome.status == 0
    page = data("f-restored-report.html")
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


def test_what_has_changed_since_is_told(done: Callable[..., Outcome]) -> None:
    """An input that is lost or another, an output that was edited, one that is gone."""
    Path("f/a.png").unlink()
    picture("f/b.png", seed=9)
    picture("f-restored/b.png", seed=9)
    Path("f-restored/sub/c.png").unlink()
    outcome = done("-o", "report.html")
    assert outcome.status == 1
    assert "f-restored/sub/c.png: the output is no longer there" in outcome.stderr
    page = data("report.html")
    assert [name for name, _, _ in page["failed"]] == ["f-restored/sub/c.png"]
    a, b = page["images"]
    assert manifest.LOST in a["warnings"]
    assert {manifest.CHANGED, manifest.LOST} <= set(b["warnings"])
    assert "before" not in a
    assert a["after"]
    assert a["links"] == {"after": "./f-restored/a.png"}


def test_a_folder_is_found_from_elsewhere(
    done: Callable[..., Outcome],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record's names are relative to where the run was started, above the folder."""
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert restormer("report", "../f-restored", "-o", "report.html").status == 0
    assert all(image["before"] for image in data("report.html")["images"])


def test_a_record_of_nonsense_costs_its_image_only(done: Callable[..., Outcome]) -> None:
    """What lacks the weights, or names no file, is told as a failure."""
    record = Path("f-restored", manifest.NAME)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    del lines[0]["weights"]
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = done()
    assert outcome.status == 1
    assert "f-restored/a.png: the record does not tell how it was made" in outcome.stderr
    assert len(data("f-restored-report.html")["images"]) == 2


@pytest.mark.parametrize("where", ["f", "gone", "f/a.png"])
def test_a_folder_without_a_record_is_refused(
    where: str, done: Callable[..., Outcome], restormer: Callable[..., Outcome]
) -> None:
    """It says what leaves one."""
    outcome = restormer("report", where)
    assert outcome.status == 2
    assert "record" in outcome.stderr or "no such folder" in outcome.stderr


def test_a_comparison_can_be_a_page(restormer: Callable[..., Outcome]) -> None:
    """With a slider for each result, and by how much it differs."""
    picture("a.png")
    picture("b.png", seed=1)
    shutil.copy("a.png", "c.png")
    assert restormer("compare", "a.png", "b.png", "c.png", "-o", "page.html").status == 0
    page = data("page.html")
    assert page["title"] == "Comparison"
    b, c = page["images"]
    assert (b["name"], c["name"]) == ("b.png", "c.png")
    assert c["facts"][1] == "mean change 0 of 255"
    assert b["change"] == pytest.approx(85 / 255, abs=0.05)  # of uniform noise
