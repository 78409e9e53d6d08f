"""Building, checking and choosing the fused block, and every way in which this can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from restormer_cli.errors import DeviceError, UsageError
from restormer_cli.inference import (
    Restorer,
    RestorerConfig,
    fusion_status,
    override_fusion,
    restore,
)
from restormer_cli.inference.fusion import dispatch
from restormer_cli.inference.fusion.cache import cache_folder
from restormer_cli.inference.fusion.dispatch import Fusion, fusion_for, fusion_obstacle
from restormer_cli.inference.fusion.passes import FusionError
from restormer_cli.inference.fusion.verdict import NOT_BUILT, WORTH_BUILDING, Verdict
from restormer_cli.inference.native import compiler, loader
from restormer_cli.inference.native.check import examine
from restormer_cli.inference.native.compiler import SOURCE
from restormer_cli.inference.native.library import Library
from restormer_cli.inference.native.loader import prepare
from restormer_cli.network import Architecture
from tests.support.networks import tiny_network

CPU = torch.device("cpu")
A = Architecture(dim=16, blocks=(1, 1, 1, 1), refinement=1)
posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts and permissions of POSIX")


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    """Put a shell script named c++ on an otherwise empty PATH."""

    def fake_compiler(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "c++"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "fake 1.0" && exit\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return path

    return fake_compiler


def native(size=(64, 64), dtype=torch.float32):
    return fusion_for(A, size, dtype, CPU, None)


def cached():
    folder = cache_folder()
    return sorted(path.suffix for path in folder.iterdir()) if folder.is_dir() else []


def test_a_library_in_the_cache_is_used_at_once(built):
    """A library that was built before is used for any image, and its state is described."""
    assert native((8, 8)) is not None
    assert "times as fast" in fusion_status()
    with override_fusion("off"):
        assert native() is None
        assert fusion_status() == "off (RESTORMER_NATIVE)"


def test_short_work_builds_nothing(monkeypatch):
    """Below ten predicted seconds in a process, nothing is built; after that it is."""
    built = []
    monkeypatch.setattr(loader, "compile_library", lambda *_, **__: built.append(1))
    monkeypatch.setattr(loader, "examine", lambda _: Verdict("not now"))
    monkeypatch.setattr(loader, "find_compiler", lambda _: ("c++", "1.0"))
    assert native((64, 64)) is None
    assert built == []
    assert fusion_status() == f"not used: {NOT_BUILT}"
    seconds = dispatch._seconds_of_work
    images = int(WORTH_BUILDING / seconds)
    for _ in range(images + 1):
        assert native((64, 64)) is None
    assert built == [1]
    assert native((8000, 8000)) is None
    assert built == [1]


@pytest.mark.parametrize(
    ("network", "measured"),
    [
        (Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1), 7.7),  # the lite weights
        (Architecture(dim=16), 31.3),
        (Architecture(dim=32), 69.2),
        (Architecture(), 120.2),
        (Architecture(dim=64), 187.4),
    ],
)
def test_work_is_predicted_for_networks_of_all_widths(network, measured, monkeypatch):
    """A thread's time for a megapixel of fp32 is that which was measured on a Xeon, in seconds."""
    monkeypatch.setattr(dispatch, "_seconds_of_work", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    dispatch._is_worth_building(network, (1000, 1000), torch.float32, CPU)
    assert dispatch._seconds_of_work == pytest.approx(measured, rel=0.2)


def test_without_a_compiler_pytorch_is_used(monkeypatch, tmp_path):
    """Without a compiler, results are those of PyTorch; `require` fails with the cause."""
    monkeypatch.setenv("PATH", str(tmp_path))
    network, image = tiny_network(), torch.rand(1, 3, 16, 16)
    assert native((8000, 8000)) is None
    with override_fusion("off"):
        expected = restore(network, image)
    assert torch.equal(restore(network, image), expected)
    assert "no C++ compiler was found" in fusion_status()
    with (
        override_fusion("require"),
        pytest.raises(DeviceError, match=r"no C\+\+ compiler was found"),
    ):
        native()
    assert cached() == []


@posix
def test_a_compiler_that_fails(fake_compiler):
    """The last line of a failing compiler is the cause, and the failure is remembered."""
    path = fake_compiler("echo 'no such header' >&2\nexit 3")
    cause = r"c\+\+ failed with status 3: no such header"
    with override_fusion("require"), pytest.raises(DeviceError, match=cause):
        native()
    path.write_text(path.read_text().replace("no such header", "another"))
    assert prepare(build=True).verdict.cause == "c++ failed with status 3: no such header"
    assert cached() == [".json"]
    with override_fusion("require"):  # tries again
        assert "another" in prepare(build=True).verdict.cause


@posix
def test_a_compiler_that_hangs(fake_compiler):
    """A compiler and its children are stopped after the limit."""
    fake_compiler("/bin/sleep 60\nexit 0")
    started = time.monotonic()
    opened = prepare(build=True, limit=0.5)
    assert time.monotonic() - started < 20
    assert "took more than" in opened.verdict.cause
    assert opened.kernels is None


def test_a_wrong_result_is_not_used(cxx, tmp_path):
    """A library whose results differ is rejected, and the difference is the cause."""
    source = tmp_path / "block.cpp"
    source.write_text(SOURCE.read_text("utf-8").replace("+ 1e-5f", "+ 1e-2f"))
    opened = prepare(build=True, source=source)
    assert opened.kernels is None
    assert "differs by" in opened.verdict.cause
    assert prepare(build=False, source=source).verdict == opened.verdict


def test_a_crash_in_the_check_is_not_used(cxx, tmp_path):
    """A library that crashes ends its own process only."""
    source = tmp_path / "block.cpp"
    source.write_text('#include <cstdlib>\nextern "C" int lanes() { abort(); }\n')
    opened = prepare(build=True, source=source)
    assert opened.kernels is None
    assert "SIGABRT" in opened.verdict.cause or "status" in opened.verdict.cause


def test_a_check_that_hangs_or_prints_nothing(built, tmp_path, monkeypatch):
    """A check that takes too long, or does not print a verdict, is a failure."""
    assert "took more than" in examine(built, limit=0.01).cause
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert "not a verdict" in examine(built).cause or "failed" in examine(built).cause


def copy_of(built, home: Path, monkeypatch) -> Path:
    folder = home / "restormer" / "native"
    folder.mkdir(parents=True, mode=0o700)
    for path in (built, built.with_suffix(".json")):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o600)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    return folder / built.name


@posix
@pytest.mark.parametrize("part", ["folder", ".so", ".json"])
def test_files_that_others_can_change_are_not_loaded(built, tmp_path, monkeypatch, part):
    """A library, verdict or folder that others can write to is not used."""
    path = copy_of(built, tmp_path / "home", monkeypatch)
    assert prepare(build=False).kernels is not None
    (path.parent if part == "folder" else path.with_suffix(part)).chmod(0o777)
    with pytest.raises(FusionError, match="can be changed by other users"):
        prepare(build=False)
    assert native() is None
    assert "can be changed by other users" in fusion_status()


@posix
def test_files_of_other_users_are_not_loaded(built, tmp_path, monkeypatch):
    """A folder that belongs to another user is not used."""
    copy_of(built, tmp_path / "home", monkeypatch)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(FusionError, match="belongs to another user"):
        prepare(build=False)


def test_a_damaged_library_is_built_again(built, tmp_path, monkeypatch):
    """A library whose content changed is not loaded."""
    path = copy_of(built, tmp_path / "home", monkeypatch)
    path.write_bytes(path.read_bytes()[:-100])
    assert prepare(build=False).kernels is None
    path.with_suffix(".json").write_text("not a verdict")
    assert prepare(build=False).kernels is None


def test_the_library_of_another_cpu_is_not_loaded(built, monkeypatch):
    """Another CPU, compiler, source or PyTorch has another file in the same folder."""
    version = compiler.find_compiler()[1]
    assert compiler.library_path(version) == built
    assert compiler.library_path("another compiler") != built
    monkeypatch.setattr(compiler, "cpu_model", lambda: "another CPU")
    assert compiler.library_path(version) != built
    assert prepare(build=False).kernels is None


def test_a_process_without_amx_does_not_use_it(built, monkeypatch):
    """If the library has other instructions here than in the check, its speed is unknown."""
    monkeypatch.setattr(Library, "instructions", "others")
    assert native() is None
    assert "this process has others, not" in fusion_status()


@posix
def test_an_unwritable_cache(tmp_path, monkeypatch, fake_compiler):
    """A cache that cannot be written is the cause."""
    fake_compiler('while [ "$1" != -o ]; do shift; done; echo > "$2"')
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    assert "file" in prepare(build=True).verdict.cause


def test_two_processes_may_build_at_once(cxx, tmp_path):
    """Builds at the same time leave one complete library, and no temporary files."""
    target = tmp_path / "cache" / "block-1.so"
    source = tmp_path / "block.cpp"
    source.write_text('extern "C" int lanes() { return 4; }\n')
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: compiler.compile_library(cxx, target, source=source), range(8)))
    assert [path.name for path in target.parent.iterdir()] == ["block-1.so"]
    assert target.stat().st_mode & 0o077 == 0


def test_only_faster_widths_are_used(built):
    """A width is used if the library is faster at the measured widths on both sides."""
    speed = ((16, 2.0), (48, 1.5), (96, 0.9))
    fusion = Fusion(Library(built), torch.float32, speed)
    assert [w for w in (16, 32, 48, 64, 96, 128) if fusion.is_faster(w)] == [16, 32, 48]


def test_the_setting_is_checked_early(identity, monkeypatch):
    """An invalid value and an unmet requirement are errors before any image is read."""
    monkeypatch.setenv("RESTORMER_NATIVE", "1")
    with pytest.raises(UsageError, match="RESTORMER_NATIVE is '1'"):
        RestorerConfig("denoise")
    monkeypatch.setenv("RESTORMER_NATIVE", "require")
    with pytest.raises(DeviceError, match="multiples of 16"):
        Restorer("denoise", weights=str(identity(heads=(1, 2, 4, 8))), device="cpu")


def test_what_the_network_or_the_run_excludes_is_described(built):
    """The status and the hint name what the fused block does not support, though it is built."""
    assert fusion_status(A, torch.float16) == "not used: it has no fp16"
    assert fusion_obstacle(A, torch.float16, CPU) == "it has no fp16"
    assert fusion_obstacle(A, torch.float32, CPU) == ""


def test_doctor_and_verbose_describe_it(built, weights, restormer, tmp_path, monkeypatch):
    """`doctor` and -v name the instruction sets and the gain, or why it is not used."""
    image = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(image)
    for mode, text in (("auto", "times as fast"), ("off", "off (RESTORMER_NATIVE)")):
        monkeypatch.setenv("RESTORMER_NATIVE", mode)
        assert text in restormer("doctor").stdout.decode()
        output = str(tmp_path / f"{mode}.png")
        assert (
            f"fused block: {fusion_status()}"
            in restormer("denoise", str(image), "-v", "-o", output).stderr
        )


def test_bench_shows_both_ways(built, monkeypatch):
    """`restormer bench` measures PyTorch's functions and the fused block."""
    from restormer_cli.evaluation import benchmark
    from restormer_cli.network import Restormer

    network = Restormer(A).eval()
    monkeypatch.setattr(benchmark, "matrix_peak", lambda *_: 1e9)
    monkeypatch.setattr(Fusion, "is_faster", lambda *_: True)  # on any CPU
    measurements = list(benchmark.run_benchmark(network, [16], with_published=False))
    ways = [(m.way, m.precision) for m in measurements]
    assert ("strips", "fp32") in ways
    assert ("strips, native", "fp32") in ways


def test_another_process_finds_the_library(built_home):
    """A new process opens the library in the cache."""
    code = (
        "import torch\nfrom restormer_cli.inference import fusion_status\nprint(fusion_status())\n"
    )
    environment = os.environ | {"HF_HOME": str(built_home), "RESTORMER_NATIVE": "auto"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "times as fast" in result.stdout
