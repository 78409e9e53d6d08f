"""The README is true: its commands parse, its options exist, its Python runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import typer.main

from restormer_cli.cli.app import app, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MODEL_CARD = (ROOT / "weights" / "README.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every call of restormer in the console blocks, as its words."""
    found = []
    for line in "".join(blocks(text, "console")).splitlines():
        for part in re.split(r"\||&&", line.removeprefix("$ ").split("  #")[0]):
            words = shlex.split(part)
            if words and words[0] == "restormer":
                end = next((i for i, word in enumerate(words) if word.startswith(">")), None)
                found.append(words[1:end])
    return found


def parse(words: list[str]) -> click.Context:
    """The context of the command that `words` call, parsed as the program would."""
    context = typer.main.get_command(app).make_context("restormer", list(words))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, context.protected_args)
        context = command.make_context(name, rest + context.args, parent=context)
    return context


def test_there_are_commands_to_check():
    """The README shows every restoring command and those around them."""
    shown = {words[0] for words in commands(README)}
    assert {"denoise", "derain", "deblur", "defocus", "weights", "info", "doctor"} <= shown


@pytest.mark.parametrize("words", commands(README) + commands(MODEL_CARD), ids=" ".join)
def test_every_command_parses(words):
    """Each command of the README and the model card is one that the program understands."""
    parse(words)


def test_the_option_table_is_complete():
    """The table names every option that all the restoring commands share, and no other."""
    group = typer.main.get_command(app)
    options = [
        {name for p in group.commands[task].params for name in p.opts if name.startswith("-")}
        for task in ("denoise", "derain", "deblur", "defocus")
    ]
    table = re.search(r"\| option \| meaning.*?\n\n", README, re.DOTALL)
    named = set(
        re.findall(r"`(--?[a-z0-9-]+)`", "".join(re.findall(r"^\| (`-.*?) \|", table[0], re.M)))
    )
    shared = set.intersection(*options) - {"--help", "-h"}
    assert named - shared == set()
    spelled = {"--null", "--quiet", "--verbose"}  # the table has their short forms
    assert shared - named == spelled


def test_the_python_runs(monkeypatch):
    """The example in Python runs as it stands, offline, with the bundled weights."""
    (example,) = blocks(README, "python")
    scope: dict[str, object] = {}
    exec(example, scope)  # noqa: S102 - it is ours
    assert scope["clean"].shape == scope["noisy"].shape
    assert scope["clean"].dtype == scope["noisy"].dtype


def test_the_first_command_restores_the_sample(tmp_path, monkeypatch):
    """What the README promises first: the sample is restored, offline, with a warning."""
    (install,) = (b for b in blocks(README, "console") if "docs/sample.jpg" in b)
    words = shlex.split(install.partition("&&")[2])
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "sample.jpg", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    assert (tmp_path / "restored.png").stat().st_size > 100_000


def test_every_link_leads_somewhere():
    """Links to files of the repository lead to files that are there."""
    for folder, text in ((ROOT, README), (ROOT / "weights", MODEL_CARD)):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (folder / target).exists(), target
