"""The user's start-up file: our line in and out, and nothing of the user's ever lost."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from casa_deepfocus import startup_file
from casa_deepfocus.errors import ProductError

LINE = startup_file.LINE.encode()
MINE = b"# caf\xe9 in Latin-1\r\nmine = 1\x00\xff\n\n"


def test_bytes_mode_and_links_stay(tmp_path):
    real = tmp_path / "dotfiles" / "startup.py"
    real.parent.mkdir()
    real.write_bytes(MINE + b"no end of line")
    real.chmod(0o640)
    link = tmp_path / "startup.py"
    link.symlink_to("dotfiles/startup.py")
    assert startup_file.install(link) and not startup_file.install(link)
    assert link.is_symlink() and real.read_bytes() == MINE + b"no end of line\n" + LINE + b"\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert startup_file.uninstall(link) and not startup_file.uninstall(link)
    assert real.read_bytes() == MINE + b"no end of line\n" and link.is_symlink()
    assert [path.name for path in real.parent.iterdir()] == ["startup.py"]


def test_a_link_that_leads_nowhere_yet(tmp_path):
    (tmp_path / "startup.py").symlink_to("later/startup.py")
    assert startup_file.install(tmp_path / "startup.py")
    assert (tmp_path / "later" / "startup.py").read_bytes() == LINE + b"\n"
    assert (tmp_path / "startup.py").is_symlink()


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "startup.py"
    path.write_bytes(MINE)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ProductError, match="No space left on device.*as it was"):
        startup_file.install(path)
    assert path.read_bytes() == MINE and [entry.name for entry in tmp_path.iterdir()] == ["startup.py"]


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "startup.py"
    path.write_bytes(MINE)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        startup_file.install(path)
    assert path.read_bytes() == MINE and [entry.name for entry in tmp_path.iterdir()] == ["startup.py"]


def test_what_is_no_file_is_said(tmp_path):
    folder = tmp_path / "startup.py"
    folder.mkdir()
    with pytest.raises(ProductError, match="cannot be read"):
        startup_file.install(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match="cannot be"):
        startup_file.install(Path(tmp_path / "file" / "startup.py"))
