"""The documents agree with the program: commands, options, Python examples and links."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main
from PIL import Image

from restormer_cli.cli.app import app, main

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "weights" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
README, USAGE = DOCUMENTS["README.md"], DOCUMENTS["docs/usage.md"]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every call of restormer in the console blocks."""
    calls = []
    for block in code_blocks(text, "console"):
        lines = block.splitlines()
        # In a block with output, the commands follow a prompt.
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            for part in re.split(r"\||&&", line.split("  #")[0]):
                words = shlex.split(part)
                if words and words[0] == "restormer":
                    end = next((i for i, word in enumerate(words) if word.startswith(">")), None)
                    calls.append(words[1:end])
    return calls


def parse(words: list[str]) -> click.Context:
    """Parse a call as the program does and return the context of its command."""
    context = typer.main.get_command(app).make_context("restormer", list(words))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, context.protected_args)
        context = command.make_context(name, rest + context.args, parent=context)
    return context


def slugs(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


ALL_COMMANDS = [words for text in DOCUMENTS.values() for words in commands(text)]


def test_every_command_of_the_program_is_documented():
    """Each command appears in an example of some document."""
    shown = {words[0] for words in ALL_COMMANDS}
    assert set(typer.main.get_command(app).commands) - {"schema"} <= shown


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_documented_command_parses(words):
    """The program accepts each command of the documents."""
    parse(words)


def test_the_option_table_is_complete():
    """The table names every option that all restoring commands share, and no other."""
    group = typer.main.get_command(app)
    options = [
        {name for p in group.commands[task].params for name in p.opts if name.startswith("-")}
        for task in ("denoise", "derain", "deblur", "defocus")
    ]
    table = re.search(r"\| option \| meaning.*?\n\n", USAGE, re.DOTALL)
    named = set(
        re.findall(r"`(--?[a-z0-9-]+)`", "".join(re.findall(r"^\| (`-.*?) \|", table[0], re.M)))
    )
    shared = set.intersection(*options) - {"--help", "-h"}
    assert named - shared == set()
    spelled = {"--null", "--quiet", "--verbose"}  # the table has their short forms
    assert shared - named == spelled


def test_the_options_of_the_server_are_complete():
    """Its document names every option of `serve`."""
    options = typer.main.get_command(app).commands["serve"].params
    section = re.search(r"^## Options\n(.*?)^## ", DOCUMENTS["docs/serve.md"], re.DOTALL | re.M)
    named = set(re.findall(r"`(--[a-z-]+)", section[1]))
    assert {option.opts[0] for option in options} - {"--help"} <= named


def test_every_mentioned_option_exists():
    """Each option in running text belongs to some command of restormer."""
    group = typer.main.get_command(app)
    known = {"--user-data-dir"}
    pending = list(group.commands.values())
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        known |= {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    known |= {name for p in group.params for name in p.opts} | {"--install-completion", "--help"}
    for name, text in DOCUMENTS.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for option in re.findall(r"`(--[a-z][a-z-]+)", prose):
            assert option in known, f"{name}: {option}"


@pytest.mark.parametrize(
    "example",
    [
        example
        for name, text in DOCUMENTS.items()
        if name != "docs/onnx.md"
        for example in code_blocks(text, "python")
    ],
)
def test_the_python_examples_run(example, monkeypatch):
    """Each example runs offline with the bundled weights, and keeps shape and type."""
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {}
    exec(example, scope)  # noqa: S102 - the example is part of this repository
    if "noisy" in scope:
        assert scope["clean"].shape == scope["noisy"].shape
        assert scope["clean"].dtype == scope["noisy"].dtype


def test_the_example_for_onnx_runtime_restores_as_the_program(tmp_path, monkeypatch):
    """With the exported network, the example's result is that of the program within a level."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package}, of the extra `onnx`, is not installed")
    (example,) = code_blocks(DOCUMENTS["docs/onnx.md"], "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESTORMER_WEIGHTS", "lite")
    Image.open(ROOT / "docs" / "sample.jpg").crop((200, 100, 361, 203)).save("noisy.png")
    for command in (
        "export denoise -o denoise.onnx",
        "denoise noisy.png -o out.png --precision fp32 --device cpu",
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command.split())
        assert not exit_.value.code
    exec(example, {})  # noqa: S102 - the example is part of this repository
    clean, expected = (np.asarray(Image.open(name), int) for name in ("clean.png", "out.png"))
    assert np.abs(clean - expected).max() <= 1


def test_the_first_command_restores_the_sample(tmp_path, monkeypatch):
    """The command under "Install" restores the sample offline."""
    (install,) = (
        b for b in code_blocks(README, "console") if "pip install -c" in b and "&& rest" in b
    )
    words = shlex.split(install.partition("&&")[2])
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "sample.jpg", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    assert (tmp_path / "restored.png").stat().st_size > 100_000


def test_the_readme_is_short():
    """The README has at most 150 lines; details are in docs."""
    assert len(README.splitlines()) <= 150


def test_every_link_has_a_target():
    """Relative links lead to existing files and to existing headings."""
    for name, text in DOCUMENTS.items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", text):
            if target.startswith("http"):
                continue
            path = (ROOT / name).parent / target if target else ROOT / name
            assert path.exists(), f"{name}: {target}"
            if anchor:
                linked = DOCUMENTS[path.resolve().relative_to(ROOT).as_posix()]
                assert anchor in slugs(linked), f"{name}: {target}#{anchor}"


def test_the_architecture_names_every_package():
    """The table of packages lists exactly the packages that exist."""
    rows = re.findall(r"^\| \d \| `(\w+)` \|", DOCUMENTS["docs/architecture.md"], re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "restormer_cli").glob("*/__init__.py")}
    assert set(rows) == folders
