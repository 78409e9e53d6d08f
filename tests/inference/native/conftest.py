"""Compile block.cpp once per session and instruction set, for all workers of pytest-xdist."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants

from restormer_cli.inference.fusion import dispatch
from restormer_cli.inference.fusion.passes import FusionError
from restormer_cli.inference.native import compiler, loader
from restormer_cli.inference.native.library import Library

INSTRUCTIONS = {
    "portable": ((), ()),
    "avx2": (("-mavx2", "-mfma"), ("avx2", "fma")),
    "avx512": (("-march=skylake-avx512",), ("avx512f", "avx512dq", "avx512bw", "avx512vl")),
    "bf16": (("-march=cooperlake",), ("avx512_bf16", "avx512_vnni")),
    "amx": (("-march=sapphirerapids",), ("amx_bf16", "avx512_fp16")),
}
"""Flags of the compiler for each instruction set, and those that the CPU must report."""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """Start each test as a new process does, with the fused block allowed."""
    monkeypatch.setenv("RESTORMER_NATIVE", "auto")
    monkeypatch.setattr(loader, "_opened", None)
    monkeypatch.setattr(dispatch, "_seconds_of_work", 0.0)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Return a folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def cxx():
    """Return the path of the C++ compiler."""
    try:
        return compiler.find_compiler()[0]
    except FusionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=INSTRUCTIONS)
def library(request, cxx, shared_folder):
    """Return block.cpp, compiled for each instruction set that this CPU has."""
    flags, needed = INSTRUCTIONS[request.param]
    missing = set(needed) - set(compiler.cpu_model().split())
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    if not needed and platform.machine() == "x86_64":
        flags = ("-march=x86-64",)
    target = shared_folder / request.param / "block.so"
    with FileLock(shared_folder / f"{request.param}.lock"):
        if not target.is_file():
            common = [flag for flag in compiler.FLAGS if flag != compiler.TARGET]
            compiler.compile_library(cxx, target, flags=[*common, *flags])
    return Library(target)


@pytest.fixture(scope="session")
def built_home(cxx, shared_folder):
    """Return an HF_HOME with a library for this CPU that has been built and checked."""
    home = shared_folder / "home"
    with FileLock(shared_folder / "home.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(home))
        opened = loader.prepare(build=True)
    assert opened.verdict.cause == ""
    return home


@pytest.fixture
def built(built_home: Path, monkeypatch) -> Path:
    """Use a cache that contains the library of this CPU; return the library's path."""
    monkeypatch.setattr(constants, "HF_HOME", str(built_home))
    monkeypatch.setenv("HF_HOME", str(built_home))
    (path,) = (built_home / "restormer" / "native").glob("*.so")
    return path
