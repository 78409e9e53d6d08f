"""Test memory: errors that mean it ran out, the limits of a process, and its peak."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from restormer_cli import memory
from restormer_cli.errors import DeviceError, ImageError
from restormer_cli.memory import MemoryGuard, available_memory, is_out_of_memory, release
from tests.support.program import picture, python

ROOT = Path(memory.__file__).parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def run_python(code: str, **environment: str) -> str:
    """Run code in a process of its own and return what it prints."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ..."),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"),
        RuntimeError("Invalid buffer size: 17.81 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        RuntimeError("could not create a memory object"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        OSError("out of memory error when reading image file"),  # Pillow
        ValueError("encoding error 1"),  # Pillow, WebP
        zlib.error("Error -4 while decompressing data"),
        cv2.error("(-4:Insufficient memory) Failed to allocate 48000000 bytes"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:60],
)
def test_out_of_memory_is_recognised_in_every_wording(error: Exception) -> None:
    """The allocators of GPUs, of the CPU and of the codecs each report it in their own way."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        FileNotFoundError(2, "No such file or directory", "out of memory.png"),
        OSError(28, "No space left on device"),
        ValueError("not enough memory"),  # none of the libraries reports it so
        cv2.error("(-215:Assertion failed) !_src.empty()"),
        ImageError("not enough memory to decode it"),  # already reported
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_do_not_mean_out_of_memory(error: BaseException) -> None:
    """Neither other errors of the same classes, nor names of files, are taken for it."""
    assert not is_out_of_memory(error)


PROVOKED = """
import io, resource, sys, threading
import cv2, numpy as np, PIL.Image, torch
from restormer_cli.memory import is_out_of_memory

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def pillow():
    PIL.Image.new("RGB", (20000, 20000))

def opencv():
    cv2.resize(np.zeros((64, 64, 3), np.uint8), (20000, 20000))

def onednn():
    # The code of a new convolution does not fit, but its result does.
    for side in range(200, 600):
        x = torch.rand(1, 48, side, side).contiguous(memory_format=torch.channels_last)
        w = torch.rand(96, 48, 3, 3)
        y = torch.empty(96 * side * side)
        room = size() + side % 32 * 4096
        del y
        resource.setrlimit(resource.RLIMIT_AS, (room, -1))
        try:
            with torch.no_grad():
                torch.nn.functional.conv2d(x, w, padding=1)
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):
                raise
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

def thread():
    threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(99)]
    for thread in threads:
        thread.start()

for name, provoke, room in (
    ("allocator", lambda: torch.empty(1 << 30), 64),
    ("numpy", lambda: np.empty(1 << 30), 64),
    ("pillow", pillow, 64),
    ("opencv", opencv, 64),
    ("onednn", onednn, 4096),
    ("thread", thread, 64),
):
    resource.setrlimit(resource.RLIMIT_AS, (size() + (room << 20), -1))
    try:
        provoke()
    except BaseException as error:
        text = (str(error).strip() or "-").splitlines()[0]
        print(name, is_out_of_memory(error), type(error).__name__, text)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
"""


@linux
def test_provoked_errors_are_recognised() -> None:
    """The libraries that are installed report a real lack of memory as the table expects."""
    lines = run_python(PROVOKED, OMP_NUM_THREADS="1").splitlines()
    expected = [
        "allocator True RuntimeError [enforce fail",
        "numpy True MemoryError Unable to allocate",
        "pillow True MemoryError -",
        "opencv True error OpenCV",
        "onednn True RuntimeError could not create a primitive",
        "thread True RuntimeError can't start new thread",
    ]
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_a_guard_reports_what_could_not_be_done() -> None:
    """It raises an error for the user, and lets others pass."""
    with (
        pytest.raises(DeviceError, match="not enough memory for the network") as failure,
        MemoryGuard("for the network", "Buy some.", DeviceError),
    ):
        raise MemoryError
    assert failure.value.hint == "Buy some."
    with pytest.raises(RuntimeError, match="other"), MemoryGuard("for the network"):
        raise RuntimeError("other")


def test_a_released_error_holds_nothing() -> None:
    """What the frames of an error and of its cause held is freed, although the error is kept."""
    held: list[weakref.ref[np.ndarray]] = []

    def fail() -> None:
        array = np.zeros(9)
        held.append(weakref.ref(array))
        raise MemoryError

    def fail_with_cause() -> None:
        try:
            fail()
        except MemoryError as error:
            raise ImageError("no memory") from error

    with pytest.raises(ImageError) as failure:
        fail_with_cause()
    assert held[0]() is not None
    release(failure.value)
    assert held[0]() is None


GIB = 1 << 30


def fake_proc(folder: Path, mounts: str, groups: str, **status: int) -> Path:
    """Write the files of /proc/self that are read."""
    own = folder / "proc/self"
    own.mkdir(parents=True)
    (own / "mountinfo").write_text(mounts)
    (own / "cgroup").write_text(groups)
    lines = "".join(f"{name}:\t{value >> 10} kB\n" for name, value in status.items())
    (own / "status").write_text(f"Name:\tpython\nThreads:\t9\n{lines}")
    return folder / "proc"


def group(folder: Path, limit: int | str, used: int, cached: int = 0, version: int = 2) -> None:
    """Write the files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit_file, usage_file, field = names if version == 1 else (
        "memory.max", "memory.current", "inactive_file"
    )  # fmt: skip
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / usage_file).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{field} {cached}\n")


@pytest.fixture
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the machine more memory than any limit."""
    real = memory.psutil.virtual_memory()
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: real._replace(available=100 * GIB))


V2 = "30 23 0:26 / {root} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "35 31 0:32 / {root}/cpu rw - cgroup cgroup rw,cpu\n"
    "36 31 0:33 / {root}/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.mark.usefixtures("large_machine")
@pytest.mark.parametrize(
    ("own", "parent", "free"),
    [
        ((2 * GIB, GIB), ("max", GIB), GIB),
        (("max", GIB), (3 * GIB, 2 * GIB), GIB),
        ((8 * GIB, GIB), (3 * GIB, 2 * GIB), GIB),
        ((2 * GIB, 2 * GIB, GIB // 2), ("max", GIB), GIB // 2),
        ((GIB, 2 * GIB), ("max", GIB), 0),
        (("max", GIB), ("max", GIB), 100 * GIB),
    ],
    ids=["own", "parent", "both", "page cache", "exceeded", "none"],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_all_control_groups_count(
    tmp_path: Path,
    own: tuple[int, int],
    parent: tuple[int, int],
    free: int,
    version: int,
) -> None:
    """The group of the process is below the mount, and the groups above it have limits, too."""
    root = tmp_path / "sys"
    unlimited = 2**63 - 4096 if version == 1 else "max"
    own_group = "/user.slice/job"
    groups = f"9:cpu,cpuacct:/other\n4:memory:{own_group}\n0::{own_group}\n"
    mounts = {1: V1, 2: V2}[version].format(root=root)
    top = root / "memory" if version == 1 else root
    for folder, (limit, *used) in ((top / "user.slice", parent), (top / "user.slice/job", own)):
        group(folder, unlimited if limit == "max" else limit, *used, version=version)
    assert available_memory(fake_proc(tmp_path, mounts, groups)) == free


@pytest.mark.usefixtures("large_machine")
@pytest.mark.parametrize("path", ["/docker/ab12", "/../ab12", "/elsewhere"])
def test_a_container_sees_its_group_at_the_mount(tmp_path: Path, path: str) -> None:
    """The limit is at the mount if a container shows only its own part of the hierarchy."""
    group(tmp_path / "sys", 4 * GIB, GIB)
    mounts = f"30 23 0:26 /docker/ab12 {tmp_path}/sys ro - cgroup2 cgroup rw\n"
    assert available_memory(fake_proc(tmp_path, mounts, f"0::{path}\n")) == 3 * GIB


@pytest.mark.usefixtures("large_machine")
def test_systems_without_proc_have_the_memory_of_the_machine(tmp_path: Path) -> None:
    """Without /proc there are no control groups."""
    assert available_memory(tmp_path / "none") == 100 * GIB


@linux
def test_the_limit_of_the_address_space_counts() -> None:
    """`ulimit -v` limits what can be allocated."""
    code = (
        "import resource; from restormer_cli.memory import available_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, -1)); print(available_memory())"
    )
    assert 1.5 * GIB < int(run_python(code)) < 3 * GIB


THREADS = """
import resource, threading
from restormer_cli.memory import save_address_space

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, -1))
save_address_space()
before, kept, stop = size(), [], threading.Event()

def allocate():
    kept.append([bytearray(1000) for _ in range(100)])
    stop.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
while len(kept) < 8:
    pass
print(size() - before)
stop.set()
"""


@linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_a_heap_below_a_limit() -> None:
    """Otherwise each one would reserve 64 MiB of addresses besides its stack of 8 MiB."""
    assert int(run_python(THREADS)) < 8 * (64 << 20)


@linux
def test_a_real_control_group_counts(tmp_path: Path) -> None:
    """The limit of a group that was made for one process counts in this process only."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    groups = [
        (Path("/sys/fs/cgroup/memory", own.get("memory", "")), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup", own.get("", "")), "memory.max"),
    ]
    for parent, limit in groups:
        folder = parent / f"restormer-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(GIB))
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        break
    else:
        pytest.skip("no control group may be made here")
    code = (
        "import os; from restormer_cli.memory import available_memory\n"
        f"open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "print(available_memory())"
    )
    try:
        assert GIB // 2 < int(run_python(code)) <= GIB
    finally:
        folder.rmdir()


@linux
def test_the_peak_is_that_of_this_process() -> None:
    """A process that a larger one starts does not inherit its peak, as `ru_maxrss` does."""
    code = (
        "import resource, subprocess, sys\n"
        "ballast = bytearray(300 << 20)\n"
        "inner = '''import resource; from restormer_cli.memory import peak_process_memory\n"
        "print(peak_process_memory() >> 20, resource.getrusage(0).ru_maxrss >> 10)'''\n"
        "print(subprocess.run([sys.executable, '-c', inner], capture_output=True,\n"
        "    preexec_fn=lambda: None, text=True).stdout)"
    )
    peak, inherited = map(int, run_python(code).split())
    assert peak < 200
    assert inherited > 290


LIMITED = """
import resource, sys
from restormer_cli.cli import app

def run(*arguments):
    try:
        app.main(["derain", *arguments, "--device", "cpu", "-o", "out/"])
    except SystemExit as error:
        return error.code

assert run("small.png") == 0  # loads the libraries
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20), -1))
status = run("big.png", "small.png", "--precision", "fp32")
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
sys.exit(status)
"""


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("folder", "weights")
def test_a_limit_of_memory_fails_at_most_the_large_image() -> None:
    """With too little memory for the whole image there are tiles, or an error without traceback."""
    picture("big.png", (640, 640, 3))
    picture("small.png", (40, 40, 3))
    process = python("-c", LIMITED)
    _, output = process.communicate()
    stderr = output.decode()
    assert "Traceback" not in stderr
    restored = Path("out/big.png").exists()
    assert process.returncode == (0 if restored else 1), stderr
    assert Path("out/small.png").exists()
    assert ("tiles of" if restored else "big.png: not enough memory") in stderr


def test_the_program_ends_in_order_without_memory() -> None:
    """Errors of memory outside of images are reported without a traceback."""
    code = (
        "import sys, restormer_cli.cli.app as app\n"
        'def fail(*_, **__): raise RuntimeError("can\'t start new thread")\n'
        "app.app = fail; app.main([])"
    )
    process = python("-c", code)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert b"not enough memory" in stderr
    assert b"Traceback" not in stderr
