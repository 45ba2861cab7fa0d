"""The final move and the work folder: whole or undone whenever a run is stopped, one run an outfile, nothing left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from casa_deepfocus.errors import ProductError

pytest.importorskip("casatools")
from outfile_fixtures import make_product  # noqa: E402

from casa_deepfocus.casa import locks, outfiles, signals, staging  # noqa: E402

pytestmark = pytest.mark.casa

OLD, NEW = (".cat.ecsv", ".crtf", ".cl", ".mask", ".html", ".image"), (".cat.ecsv", ".mask", ".html", ".png")
ENDINGS = outfiles.SUFFIXES + outfiles.IMAGES

def older() -> None:
    for ending in OLD:
        make_product(Path(f"out{ending}"), "old")


def standing() -> dict[str, str]:
    """Name -> old or new, for everything in the folder."""
    texts = {}
    for path in sorted(Path().iterdir()):
        text = (path / "table.dat").read_text() if path.is_dir() and (path / "table.dat").exists() else ""
        text = text or (path.read_bytes().decode("latin-1") if path.is_file() else "hidden folder")
        texts[path.name] = text[-3:]
    return texts


ALL_OLD = {f"out{ending}": "old" for ending in OLD}
ALL_NEW = {f"out{ending}": "new" for ending in NEW}


def run(step: int, signum: int, twice: int = 0) -> int:
    """Replace older products in a process that gets a signal at a step of the final move; what ended it.

    Parameters
    ----------
    step : int
        Two to each rename of the move: before it and after it.
    twice : int
        Steps later SIGKILL follows; never where 0.
    """
    with warnings.catch_warnings():
        # Other tests may have left threads; the child needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            _replace(step, signum, twice)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(-signal.SIGINT % 256)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _replace(step: int, signum: int, twice: int) -> None:
    real, calls = os.rename, 0

    def rename(source, target):
        nonlocal calls
        for moment in range(2):
            if moment:
                real(source, target)
            if calls == step:
                os.kill(os.getpid(), signum)
            if twice and calls == step + twice:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    with signals.orderly(), staging.workspace("out") as work:
        for ending in NEW:
            make_product(work.staged / f"out{ending}", "new")
        os.rename = rename
        work.publish(ENDINGS, overwrite=True)


def publish(endings=ENDINGS, overwrite: bool = True) -> dict[str, str]:
    with staging.workspace("out") as work:
        for ending in NEW:
            make_product(work.staged / f"out{ending}", "new")
        return work.publish(endings, overwrite=overwrite)


def test_new_products_replace_old_ones_and_stale_ones_go(tmp_path):
    older()
    Path("out.txt").write_text("not a product: own")
    written = publish()
    assert written == {ending.lstrip("."): str(tmp_path / f"out{ending}") for ending in NEW}
    assert standing() == {**ALL_NEW, "out.txt": "own"}


@pytest.mark.parametrize("name", ["rename", "fsync", "mkdir"])
def test_a_failure_at_any_step_puts_everything_back(monkeypatch, name):
    """Also where there is no room for the journal; the first call that fails is every one in turn."""
    older()
    real, steps = getattr(os, name), 0
    for failing in range(40):
        count = 0

        def fail(*args, failing=failing, **kwargs):
            nonlocal count
            count += 1
            if count == failing + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        with staging.workspace("out") as work:
            for ending in NEW:
                make_product(work.staged / f"out{ending}", "new")
            monkeypatch.setattr(os, name, fail)
            try:
                work.publish(ENDINGS, overwrite=True)
                break
            except OSError as exc:
                assert "No space left" in str(exc)
                steps += 1
            finally:
                monkeypatch.setattr(os, name, real)
        assert standing() == ALL_OLD
    assert steps >= {"rename": len(OLD) + len(NEW) + 2, "fsync": 5, "mkdir": 1}[name]
    assert standing() == ALL_NEW


# Renames of a move: the journal into place, older products out, new ones in, the journal done.
STEPS = 2 * (1 + len(OLD) + len(NEW) + 1)


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_at_any_step_the_next_run_finds_all_old_or_all_new(step):
    older()
    assert run(step, signal.SIGKILL) == -signal.SIGKILL
    notes = staging.recover(".")
    assert any("left behind" in note for note in notes)
    assert standing() == (ALL_OLD if step < STEPS - 1 else ALL_NEW)
    publish()
    assert standing() == ALL_NEW


@pytest.mark.parametrize("step", [0, 1, 6, 13, 14, STEPS - 3, STEPS - 2, STEPS - 1, STEPS])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_move_undoes_it_at_once(step, signum):
    older()
    assert run(step, signum) in (-signum, -signum % 256)
    assert standing() == (ALL_OLD if step < STEPS - 2 else ALL_NEW)


@pytest.mark.parametrize("twice", [2, 5, 9])
def test_killed_while_a_move_is_undone(twice):
    older()
    assert run(13, signal.SIGINT, twice) == -signal.SIGKILL
    staging.recover(".")
    assert standing() == ALL_OLD


def test_what_somebody_wrote_meanwhile_is_not_overwritten():
    with staging.workspace("out") as work:
        make_product(work.staged / "out.html", "new")
        make_product(Path("out.html"), "old")
        with pytest.raises(ProductError, match="exists already; set overwrite=True"):
            work.publish(ENDINGS, overwrite=False)
    assert standing() == {"out.html": "old"}
    Path("out.html").write_text("own")
    with staging.workspace("out") as work:
        make_product(work.staged / "out.html", "new")
        with pytest.raises(ProductError, match="not made by sdeepfocus"):
            work.publish(ENDINGS, overwrite=True)
    assert standing() == {"out.html": "own"}


def test_what_cannot_be_put_back_is_kept_and_named(monkeypatch):
    older()
    real, broken = os.rename, False

    def rename(source, target):
        nonlocal broken
        broken = broken or str(target).endswith("out.png")
        if broken and "sdeepfocus" not in Path(target).parent.name:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    with pytest.raises(ProductError, match="could not be put back") as caught, staging.workspace("out") as work:
        make_product(work.staged / "out.png", "new")
        monkeypatch.setattr(os, "rename", rename)
        work.publish(ENDINGS, overwrite=True)
    monkeypatch.setattr(os, "rename", real)
    assert str(work.path) in str(caught.value) and (work.path / "old" / "out.crtf").exists()
    staging.recover(".")
    assert standing() == ALL_OLD


def test_one_run_an_outfile_and_many_in_a_folder(tmp_path):
    with staging.workspace("out") as first, staging.workspace("other") as second:
        assert first.path != second.path and first.path.exists() and second.path.exists()
        with pytest.raises(ProductError, match=f"another run is working on it, process {os.getpid()} of"):
            with staging.workspace("./out"):
                pass
        assert staging.recover(".") == []
    assert standing() == {}
    with staging.workspace("out"):
        pass


def test_a_lock_is_free_only_when_the_child_has_ended_too():
    """The process that writes CASA's images holds it as well: it may still write when its parent is dead."""
    code = "from casa_deepfocus.casa import staging; import os, subprocess, sys; work = staging._acquire('out'); " \
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], pass_fds=[work.lock.fd]); os._exit(0)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        parent.wait(timeout=120)
        folder = next(Path().glob(".sdeepfocus-*"))
        assert staging.recover(".") == [] and folder.exists()
        assert parent.stdin is not None
        parent.stdin.close()
        deadline = time.monotonic() + 60.0
        while folder.exists() and time.monotonic() < deadline:
            staging.recover(".")
            time.sleep(0.05)
    assert standing() == {}


def test_folders_of_others_and_of_the_living_are_left_alone(tmp_path):
    mine = tmp_path / ".sdeepfocus-mine"
    mine.mkdir()
    (mine / "data").write_text("mine")
    (tmp_path / ".sdeepfocus-0123456789abcdef").mkdir()
    (tmp_path / ".sdeepfocus-fedcba9876543210").mkdir()
    (tmp_path / ".sdeepfocus-fedcba9876543210" / locks.NAME).write_text('{"name": "a user"}')
    (tmp_path / ".sdeepfocus-link").symlink_to(mine)
    assert staging.recover(str(tmp_path)) == []
    assert set(standing()) == {".sdeepfocus-mine", ".sdeepfocus-fedcba9876543210", ".sdeepfocus-link"}


def test_without_locks_the_process_tells(monkeypatch, tmp_path):
    def unsupported(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(staging, "PATIENCE", 0.0)
    with staging.workspace("out") as work:
        record = json.loads((work.path / locks.NAME).read_text())
        with pytest.raises(ProductError, match="another run"), staging.workspace("out"):
            pass
        assert work.path.exists()
    assert standing() == {}
    for change, alive in (({"pid": 2**22}, False), ({"started": 1.0}, False), ({"host": "elsewhere"}, True)):
        folder = tmp_path / ".sdeepfocus-0"
        folder.mkdir()
        (folder / locks.NAME).write_text(json.dumps(record | change))
        staging.recover(str(tmp_path))
        assert folder.exists() == alive
    assert locks.Owner.read(folder / locks.NAME).host == "elsewhere"


def test_a_workspace_leaves_nothing_behind():
    with pytest.raises(RuntimeError), staging.workspace("out") as work:
        (work.path / "half").write_text("x")
        (work.path / "link").symlink_to("nowhere")
        raise RuntimeError("interrupted")
    assert standing() == {}
    with pytest.raises(ProductError, match="nothing can be written"), staging.workspace("/proc/out"):
        pass


def test_a_full_disk_at_the_start_leaves_nothing(monkeypatch):
    real = os.write

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ProductError, match="No space left"), staging.workspace("out"):
        pass
    monkeypatch.setattr(os, "write", real)
    assert standing() == {}


def test_signals_wait_while_they_are_held_and_come_once():
    with pytest.raises(KeyboardInterrupt), signals.orderly():
        with signals.held():
            signal.raise_signal(signal.SIGINT)
            with signals.held():
                signal.raise_signal(signal.SIGINT)
            reached = True
    assert reached
    with signals.orderly(), signals.held() as pending:
        pending.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_ends_the_process_after_the_clearing_up():
    code = "\n".join([
        "import os, signal", "from casa_deepfocus.casa import signals, staging",
        "with signals.orderly(), staging.workspace('out'):", "    os.kill(os.getpid(), signal.SIGTERM)",
        "print('never reached')",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGTERM and "never" not in done.stdout
    assert standing() == {}


def test_what_a_library_swallows_is_raised_again():
    said = []
    with pytest.raises(KeyboardInterrupt), signals.orderly(), signals.told(said.append):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:  # noqa: B036  (as libraries do)
            swallowed = True
        signals.check()
    assert swallowed and said == ["interrupted (SIGINT): nothing was written or changed"]
    signals.check()
