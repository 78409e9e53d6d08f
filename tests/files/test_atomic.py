"""Atomic writes and the removal of leftovers of killed runs."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from restormer_cli.files import atomic
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")

KILLED = (
    "import os, pathlib, signal\n"
    "from restormer_cli.files import open_atomic\n"
    "with open_atomic(pathlib.Path('state.pt')) as file:\n"
    "    file.write(b'half')\n"
    "    file.flush()\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)
"""A program that is killed while it writes `state.pt`."""


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_the_target_appears_when_the_block_ends() -> None:
    """Until then, the data are in one temporary file with the suffix `TEMPORARY`."""
    with atomic.open_atomic(Path("state.pt")) as file:
        file.write(b"whole")
        (temporary,) = names()
        assert temporary.startswith(".state.pt.")
        assert temporary.endswith(atomic.TEMPORARY)
    assert names() == ["state.pt"]
    assert Path("state.pt").read_bytes() == b"whole"


def test_an_error_in_the_block_leaves_the_target_unchanged() -> None:
    """After an error, the temporary file is removed."""
    Path("state.pt").write_bytes(b"old")
    with pytest.raises(TypeError), atomic.open_atomic(Path("state.pt")) as file:
        file.writelines([b"half", "text"])
    assert names() == ["state.pt"]
    assert Path("state.pt").read_bytes() == b"old"


def test_a_replaced_file_keeps_its_mode() -> None:
    """The permissions of a file are kept when it is replaced."""
    Path("state.pt").touch(mode=0o600)
    atomic.write_atomic(Path("state.pt"), b"new")
    assert Path("state.pt").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
@pytest.mark.parametrize("name", ["user.rating", "system.posix_acl_access"])
def test_a_replaced_file_keeps_its_extended_attributes(name: str) -> None:
    """Extended attributes and access control lists stay with a replaced file."""
    Path("a.png").touch(mode=0o640)
    # Version 2, then tag, permissions and user: owner, user 12, group, mask, others.
    entries = ((1, 6, -1), (2, 4, 12), (4, 4, -1), (0x10, 4, -1), (0x20, 0, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    value = acl if name.startswith("system") else b"5"
    try:
        os.setxattr("a.png", name, value)
    except OSError:
        pytest.skip("this file system has no such attributes")
    atomic.write_atomic(Path("a.png"), b"new")
    assert os.getxattr("a.png", name) == value
    assert Path("a.png").stat().st_mode & 0o777 == 0o640
    assert Path("a.png").read_bytes() == b"new"


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files")
def test_a_replaced_file_keeps_its_owner_and_group() -> None:
    """The owner and the group stay, and so do the bits that depend on them."""
    Path("a.png").touch()
    os.chown("a.png", 12, 34)
    Path("a.png").chmod(0o6755)
    atomic.write_atomic(Path("a.png"), b"new")
    status = Path("a.png").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o6755)


@pytest.mark.skipif(not hasattr(os, "chown"), reason="needs owners of files")
def test_what_may_not_be_copied_does_not_fail_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose owner cannot be kept is written, without rights of another owner."""

    def refuse(*_: object) -> None:
        raise PermissionError

    Path("a.png").touch(mode=0o644)
    Path("a.png").chmod(0o4755)
    stranger = os.stat_result((0o104755, 0, 0, 1, os.getuid() + 1, os.getgid(), 0, 0, 0, 0))
    stat = Path.stat
    with monkeypatch.context() as patch:
        for name in ("chown", "setxattr"):
            patch.setattr(os, name, refuse, raising=False)
        patch.setattr(
            Path, "stat", lambda path, **kw: stranger if path.name == "a.png" else stat(path, **kw)
        )
        atomic.write_atomic(Path("a.png"), b"new")
    assert Path("a.png").stat().st_mode & 0o7777 == 0o755
    assert Path("a.png").read_bytes() == b"new"


def test_a_symbolic_link_is_kept() -> None:
    """A link is kept, and the file that it points to is replaced."""
    Path("real").mkdir()
    Path("real/state.pt").write_bytes(b"old")
    Path("link.pt").symlink_to("real/state.pt")
    with atomic.open_atomic(Path("link.pt")) as file:
        file.write(b"new")
    assert Path("link.pt").is_symlink()
    assert Path("real/state.pt").read_bytes() == b"new"


def test_a_device_is_written_to_directly() -> None:
    """A device is never replaced by a file."""
    atomic.write_atomic(Path(os.devnull), b"data")
    assert not Path(os.devnull).is_file()
    assert names() == []


def test_the_longest_name_can_be_written() -> None:
    """The temporary name is shortened to the limit of 255 bytes."""
    atomic.write_atomic(Path("ä" * 127), b"data")
    assert names() == ["ä" * 127]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_the_leftover_of_a_killed_process_is_removed() -> None:
    """Temporary files of running processes are kept."""
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode  # noqa: S603
    (leftover,) = names()
    with atomic.open_atomic(Path("other.pt")):
        assert atomic.remove_leftovers([Path(), Path("missing")]) == [Path(leftover)]
    assert names() == ["other.pt"]


@pytest.mark.usefixtures("weights")
def test_the_next_run_removes_leftovers_with_a_note(restormer: Callable[..., Outcome]) -> None:
    """The temporary files of a concurrent run are kept."""
    picture("f/a.png")
    Path("out").mkdir()
    stale = Path(f"out/.a.png.0123abcd{atomic.TEMPORARY}")
    stale.write_bytes(b"half")
    during: list[str] = []

    def ready(_: os.stat_result) -> None:
        assert atomic.remove_leftovers([Path("out")]) == [stale]
        stale.write_bytes(b"half")
        outcome = restormer("derain", "f", "-o", "out")
        assert f"note: {stale}: temporary file of a killed run, removed" in outcome.stderr
        during.extend(path.name for path in Path("out").iterdir())

    atomic.write_atomic(Path("out/b.png"), b"whole", ready)
    assert len([name for name in during if name.endswith(atomic.TEMPORARY)]) == 1
    assert tree() == ["f/a.png", "out/a.png", "out/b.png"]


@pytest.mark.usefixtures("weights")
def test_a_dry_run_removes_no_leftovers(restormer: Callable[..., Outcome]) -> None:
    """A dry run changes nothing on disk."""
    picture("f/a.png")
    Path("out").mkdir()
    stale = Path(f"out/.a.png.0123abcd{atomic.TEMPORARY}")
    stale.touch()
    assert restormer("derain", "f", "-o", "out", "--dry-run").status == 0
    assert stale.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_a_temporary_file_that_is_about_to_be_removed_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that removes leftovers may lock a new file before the one that created it."""
    import fcntl

    flock, locked = fcntl.flock, list[IO[bytes]]()

    def late(descriptor: int, operation: int) -> None:
        if not locked:
            (created,) = Path().iterdir()
            locked.append(created.open("r+b"))
            flock(locked[0], operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with atomic.open_atomic(Path("state.pt")) as file:
        Path(locked[0].name).unlink()
        locked[0].close()
        file.write(b"whole")
    assert Path("state.pt").read_bytes() == b"whole"
    assert names() == ["state.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_without_file_locks_only_old_leftovers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary files must be older than a day to be removed."""
    import fcntl

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", unsupported)
    young, old = (tmp_path / f".{name}{atomic.TEMPORARY}" for name in ("young", "old"))
    young.touch()
    old.touch()
    os.utime(old, (1, 1))
    assert atomic.remove_leftovers([tmp_path, tmp_path / "missing"]) == [old]
    assert young.exists()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs names of descriptors")
def test_an_open_pipe_is_written_by_its_name():
    """/dev/stdout and >(command) of a shell are links to pipes, which have no path."""
    reader, writer = os.pipe()
    atomic.write_atomic(Path(f"/dev/fd/{writer}"), b"data")
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"data"
