"""The task's behaviour: called as a function, with inp and go, and inside real CASA shells."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell_fixtures import casa

from casa_deepfocus import casa_data, params, startup_file
from casa_deepfocus.casa import shelltask, taskbuilder
from casa_deepfocus.errors import DeepFocusError, MissingDependencyError, ParameterError, ProductError

pytest.importorskip("casatools")
stack_manip = pytest.importorskip("casashell.private.stack_manip")
pytestmark = pytest.mark.casa
pytest_plugins = ["shell_fixtures"]

SPEC = params.sdeepfocus()


def echo(*values: Any) -> dict[str, Any]:
    """An implementation that returns what it was given."""
    return dict(zip(SPEC.names, values, strict=True))


def fail(*values: Any) -> None:
    raise ParameterError("vis", values[0], "does not exist", "Give another")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the variables of the CASA shell."""
    variables: dict[str, Any] = {}
    monkeypatch.setattr(stack_manip, "find_frame", lambda: variables)
    return variables


@pytest.fixture
def plain() -> taskbuilder.Task:
    return taskbuilder.plain_task(SPEC, echo)


@pytest.fixture
def shell(names: dict[str, Any]) -> shelltask.ShellTask:
    return shelltask.shell_task(SPEC, echo)


def test_plain_task_completes_its_arguments(plain: taskbuilder.Task) -> None:
    got = plain("x.ms", mode="line", minsnr=4, weighting="briggs", cell="0.1arcsec")
    want = {"vis": "x.ms", "mode": "line", "minsnr": 4.0, "weighting": "briggs", "cell": "0.1arcsec"}
    assert got == {**SPEC.defaults(), **want}
    assert isinstance(got["minsnr"], float)


def test_plain_task_takes_the_default_of_the_rule(plain: taskbuilder.Task) -> None:
    assert plain(vis="x.ms", specmode="cubedata")["perchanweightdensity"] is False
    assert plain(vis="x.ms", specmode="cubedata", perchanweightdensity=True)["perchanweightdensity"] is True


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "lines"}, r"mode='lines': is not allowed. Use one of 'both', 'line', 'continuum'"),
        ({"device": "gpu"}, r"device='gpu': is not allowed. Use one of 'auto', 'cpu', 'cuda'"),
        ({"minsnr": -1.0}, r"minsnr=-1.0: is outside \[0.1, inf\]"),
        ({"minsnr": "5"}, r"minsnr='5': has the wrong type. Give a number"),
        ({"overwrite": "yes"}, r"overwrite='yes': has the wrong type. Give True or False"),
        ({"vis": 3}, r"vis=3: has the wrong type. Give a path or a list of paths"),
        ({"robust": 3.0}, r"robust=3.0: is outside \[-2.0, 2.0\]"),
        ({"outfile": None}, r"outfile=None: has the wrong type"),
    ],
)
def test_wrong_values_are_explained(plain: taskbuilder.Task, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plain(**wrong)


@pytest.mark.parametrize("call", [{"viz": "x.ms"}, {"vis": "x.ms", "pbcor": True}])
def test_unknown_names(plain: taskbuilder.Task, shell: shelltask.ShellTask, call: dict[str, Any]) -> None:
    for task in (plain, shell):
        with pytest.raises(TypeError, match=r"sdeepfocus\(\) got an unexpected keyword argument"):
            task(**call)
        with pytest.raises(TypeError, match="multiple values"):
            task("x.ms", vis="y.ms")
        with pytest.raises(TypeError, match=r"sdeepfocus\(\)"):
            task(*["x"] * 99)


def test_paths_of_pathlib(plain: taskbuilder.Task, shell: shelltask.ShellTask, names: dict[str, Any]) -> None:
    """Accepted wherever a path may stand, also in lists; the implementation and saved files get strings."""
    paths = {"imagename": "a.image", "psf": "a.psf", "pb": "a.pb", "outfile": "out", "models": "nets"}
    given: dict[str, Any] = {name: Path(path) for name, path in paths.items()}
    for task in (plain, shell):
        assert {name: value for name, value in task(**given).items() if name in paths} == paths
        assert task(vis=[Path("a.ms"), "b.ms"])["vis"] == ["a.ms", "b.ms"]
        assert task(vis=Path("a.ms"))["vis"] == "a.ms"
    names.update(vis=(Path("a.ms"), Path("b.ms")), outfile=Path("out"))
    assert shell()["vis"] == ["a.ms", "b.ms"]
    names.clear()
    shell.tget()
    assert names["vis"] == ("a.ms", "b.ms") and names["outfile"] == "out"
    with pytest.raises(ParameterError, match="overwrite='yes'"):
        plain(overwrite=Path("yes"))


def test_saved_files_hold_plain_values(names: dict[str, Any], shell: shelltask.ShellTask) -> None:
    names.update(minsnr=np.float64(4.5), imsize=np.array([64, 48]), vis=Path("x.ms"), start=object(), robust=math.inf)
    shell.tput("mine.txt")
    names.clear()
    shell.tget("mine.txt")
    assert (names["minsnr"], names["imsize"], names["vis"], names["start"]) == (4.5, [64, 48], "x.ms", None)
    assert names["robust"] == math.inf and type(names["minsnr"]) is float


def test_help_and_class_attributes(plain: taskbuilder.Task) -> None:
    text = type(plain).__doc__ or ""
    assert all(name in text for name in SPEC.names)
    assert plain._info_group_ == "imaging"
    assert plain._info_desc_ == SPEC.short


def test_errors_of_the_implementation_arrive_as_they_are(names: dict[str, Any]) -> None:
    for build in (taskbuilder.plain_task, shelltask.shell_task):
        with pytest.raises(ParameterError, match="vis='x.ms': does not exist. Give another"):
            build(SPEC, fail)(vis="x.ms")


def test_a_task_inside_a_task(names: dict[str, Any]) -> None:
    inner = taskbuilder.plain_task(SPEC, echo)

    def outer(*values: Any) -> Any:
        return echo(*values), inner(imagename="y.image")

    for build in (taskbuilder.plain_task, shelltask.shell_task):
        first, second = build(SPEC, outer)(vis="x.ms")
        assert (first["vis"], first["imagename"]) == ("x.ms", "")
        assert (second["vis"], second["imagename"]) == ("", "y.image")


def test_without_casa_the_message_says_what_to_install(
    plain: taskbuilder.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "casatools.typecheck", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'casa-deepfocus\[casa\]'"):
        plain(vis="x.ms")


def test_go_takes_the_variables_of_the_shell(names: dict[str, Any], shell: shelltask.ShellTask) -> None:
    names.update(vis="x.ms", minsnr=7.0, unrelated=3)
    got = shell()
    assert (got["vis"], got["minsnr"]) == ("x.ms", 7.0)
    # With any argument the variables do not count.
    assert shell(imagename="y.image")["vis"] == ""


def test_last_file_and_tget(names: dict[str, Any], shell: shelltask.ShellTask) -> None:
    shell(vis="x.ms", mode="line", imsize=[100, 100])
    assert Path("sdeepfocus.last").exists() and not Path("sdeepfocus.pre").exists()
    shell.tget()
    assert (names["vis"], names["mode"], names["imsize"]) == ("x.ms", "line", [100, 100])
    assert "__builtins__" not in names
    assert shell.state["last"] is shell


def test_last_file_of_a_failed_run(names: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        shelltask.shell_task(SPEC, fail)(vis="x.ms")
    assert "vis" in Path("sdeepfocus.last").read_text()


def test_tput_default_and_tget_from_a_file(names: dict[str, Any], shell: shelltask.ShellTask) -> None:
    names.update(vis="x.ms", keep_me=1)
    assert shell.tput("mine.txt") is True
    shell.set_global_defaults()
    assert names == {"keep_me": 1}
    shell.tget("mine.txt")
    assert names["vis"] == "x.ms"
    with pytest.raises(ProductError, match="nowhere"):
        shell.tput("nowhere/mine.txt")


def test_tget_without_a_file(
    names: dict[str, Any], shell: shelltask.ShellTask, capsys: pytest.CaptureFixture[str]
) -> None:
    names["vis"] = "x.ms"
    shell.tget()
    assert "could not find" in capsys.readouterr().out
    assert "vis" not in names


def test_inp_shows_what_is_in_force(
    names: dict[str, Any], shell: shelltask.ShellTask, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        shell.inp()
        return capsys.readouterr().out

    empty = shown()
    assert empty.startswith("# sdeepfocus -- ")
    assert "specmode" not in empty and "psf" not in empty
    names.update(vis="x.ms", mode="nonsense", minsnr=7.0)
    full = shown()
    assert "specmode" in full and "nchan" in full and "robust" not in full and "psf" not in full
    assert f"{shelltask.RED}'nonsense'" in full and f"{shelltask.BLUE}7.0" in full
    names.update(weighting="briggs")
    assert "robust" in shown()


def test_go_outside_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_manip, "find_frame", lambda: None)
    with pytest.raises(DeepFocusError, match="in the CASA shell only"):
        shelltask.shell_task(SPEC, echo)()


def test_data_of_the_wheel_only_where_there_are_none(tmp_path: Path) -> None:
    folder = casa_data.wheel_folder()
    if folder is None:
        pytest.skip("the wheel casadata is not installed")
    missing = str(tmp_path / "missing")
    assert casa_data.settings(missing, [missing])["measurespath"] == str(folder)
    assert casa_data.settings(None, [])["data_auto_update"] is False
    assert casa_data.settings(str(tmp_path), [str(tmp_path)]) == {}
    assert casa_data.settings(missing, [str(folder)]) == {}


def test_install_and_uninstall(tmp_path: Path) -> None:
    path = tmp_path / "new" / "startup.py"
    assert startup_file.install(path) and not startup_file.install(path)
    assert path.read_text().count("casa_startup") == 1
    path.write_text("mine = 1")
    assert startup_file.install(path) and path.read_text().splitlines() == ["mine = 1", startup_file.LINE]
    assert startup_file.uninstall(path) and not startup_file.uninstall(path)
    assert path.read_text() == "mine = 1\n"


# In the shells below the implementation is a stand-in: what is tested is the way to it.
STAND_IN = """
import sys, types
module = types.ModuleType("casa_deepfocus.casa.task_sdeepfocus")
module.sdeepfocus = lambda *values: {"vis": values[0]}
sys.modules[module.__name__] = module
"""


def test_shell_from_a_fresh_home(fresh_home: Path) -> None:
    """Start-up way A, without any CASA data but the wheel's: task, inp, go, tget, help, protection."""
    if casa_data.wheel_folder() is None:
        pytest.skip("the wheel casadata is not installed")
    steps = [
        STAND_IN,
        "print('CALL', sdeepfocus(vis='x.ms'))",
        "inp(sdeepfocus)",
        "globals()['vis'] = 'y.ms'; print('GO', go())",
        "default(sdeepfocus); print('DEFAULT', 'vis' in globals())",
        "tget(sdeepfocus); print('TGET', vis)",
        "taskhelp()",
        "help(sdeepfocus)",
    ]
    run = casa(fresh_home, *steps)
    assert run.returncode == 0, run.stdout + run.stderr
    for text in ("CALL {'vis': 'x.ms'}", "# sdeepfocus -- ", "GO {'vis': 'y.ms'}", "DEFAULT False", "TGET y.ms"):
        assert text in run.stdout
    assert run.stdout.count("sdeepfocus : Find and measure") == 1, "taskhelp lists the task once"
    assert "Extra tasks" in run.stdout and "parameter descriptions" in run.stdout
    assert not (fresh_home / ".casa" / "data").exists()


def test_shell_exit_status(fresh_home: Path) -> None:
    run = casa(fresh_home, "sdeepfocus(mode='nonsense')", config=True)
    assert run.returncode == 1
    assert "mode='nonsense': is not allowed" in run.stderr


def test_startup_file_of_the_user(tmp_path: Path) -> None:
    """Start-up way B: casa-deepfocus install."""
    home = tmp_path / "home"
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-m", "casa_deepfocus.cli", "install"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert (home / ".casa" / "startup.py").read_text() == startup_file.LINE + "\n"
    run = casa(home, "inp(sdeepfocus)", config=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# sdeepfocus -- " in run.stdout


def test_a_broken_package_does_not_break_the_shell(fresh_home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "casa_deepfocus"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('planted')")
    environment = {**os.environ, "HOME": str(fresh_home), "PYTHONPATH": str(broken.parent)}
    command = [sys.executable, "-m", "casashell", "--nologger", "--nogui", "-c", "print('ALIVE')"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "ALIVE" in run.stdout
    assert "WARN" in run.stdout and "planted" in run.stdout


def test_installed_startup_file_is_this_one(repository: Path) -> None:
    installed = Path(sys.prefix) / "etc" / "ipython" / "startup" / "50-casa-deepfocus.py"
    if not installed.exists():
        pytest.skip("casa-deepfocus is not installed with pip in this environment")
    assert installed.read_text() == (repository / "casa_deepfocus/50-casa-deepfocus.py").read_text()
