"""CASA's writing in a process of its own: what it returns and raises, and that a full disk ends the child only."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from casa_deepfocus.errors import DataError, DeepFocusError, ProductError

pytest.importorskip("casatools")
from casa_deepfocus.casa import guarded, space  # noqa: E402

pytestmark = pytest.mark.casa


def call(function, *args, **kwargs):
    return guarded.call(function, *args, folder=".", **kwargs)


def test_a_call_returns_and_raises_what_its_function_does():
    with guarded.session():
        first = call(os.getpid)
        assert first == call(os.getpid) != os.getpid()
        assert call(os.path.join, "a", "b") == "a/b"
        with pytest.raises(FileNotFoundError, match="nowhere"):
            call(os.stat, "nowhere")
        assert call(os.getpid) == first, "an exception does not end the child"
    assert call(os.getpid) not in (first, os.getpid()), "one of its own outside of a session"


def test_errors_of_ours_come_home_whole():
    with pytest.raises(DataError, match="cannot be read as a CASA or FITS image"):
        from casa_deepfocus.casa.grids import inspect

        call(inspect, "nowhere.image")


def test_the_child_shares_configuration_and_log(casa_home):
    with guarded.session(["casatasks"]):
        assert call(_logfile) == str(casa_home / "casa.log")
        assert call(_configured, "measurespath") == _configured("measurespath")
        assert call(_configured, "data_auto_update") is False


def _logfile():
    from casatasks import casalog

    return casalog.logfile()


def _configured(name):
    from casaconfig import config

    return getattr(config, name)


def _abort(words):
    sys.stderr.write(f"a line for the user\nterminate called after throwing an instance\n  what():  {words}\n")
    sys.stderr.flush()
    os.abort()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("FilebufIO: write error for file x/table.dat: No space left on device", ProductError, "is full"),
        ("write error: Disk quota exceeded", ProductError, "is full.*quota"),
        ("LockFile.cc : 375) Failed AlwaysAssert tracePWRITE(fd, (Char *)buffer, leng, 0)", ProductError, "is full"),
        ("something else", DeepFocusError, "SIGABRT.*something else"),
    ],
)
def test_a_child_that_aborts_becomes_an_error(words, error, message, capsys):
    with guarded.session():
        with pytest.raises(error, match=message) as caught:
            call(_abort, words)
        assert type(caught.value) is error
    said = capsys.readouterr().err
    assert "a line for the user" in said and "terminate" not in said


def test_a_child_that_is_killed_becomes_an_error():
    with guarded.session(), pytest.raises(DeepFocusError, match="SIGKILL; the system may have run out of memory"):
        call(_kill_itself)


def _kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent_at_once(how):
    """Ctrl-C in the terminal is for the parent alone, which ends the child; a killed parent takes it along."""
    code = "\n".join([
        "import os", "from casa_deepfocus.casa import guarded, signals", "with signals.orderly(), guarded.session():",
        "    guarded.call(os.system, 'echo $PPID; exec sleep 600', folder='.')",
    ])  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.send_signal(how)
            assert parent.wait(timeout=60) == -how
            deadline = time.monotonic() + 60.0
            while _runs(child) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not _runs(child)
        finally:
            # What the child has started is of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _limit(size):
    """No file may grow beyond a size [byte]: to the writer as if the disk were full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _write_image(name, side):
    from casatools import image

    ia = image()
    ia.fromshape(name, [side, side], overwrite=True, log=False)
    ia.set("1")
    ia.done()


def test_casacore_out_of_room_ends_the_child_only(tmp_path):
    name = str(tmp_path / "large.image")
    with guarded.session():
        call(_limit, 100_000)
        call(_write_image, str(tmp_path / "small.image"), 16)
        with pytest.raises(ProductError, match=re.escape(f"be written in {str(tmp_path)!r}: the disk")):
            guarded.call(_write_image, name, 512, folder=str(tmp_path))


def test_room_is_looked_up_before_the_work(tmp_path):
    space.require(str(tmp_path), 1.0, "one byte")
    with pytest.raises(ProductError, match=r"the images need .* MB of disk, .* has .* MB free"):
        space.require(str(tmp_path), space.imaging(10**6, 10**6, 1000), "the images")
    # The mask, and the images of what was found and of what is left.
    assert space.products((1000, 1000, 1, 100), (1000, 1000)) == pytest.approx(1.21e9, rel=0.03)
