"""The arrows of docs/architecture.md: who may import whom, read from the source and tried out."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASA = {"casatools", "casatasks", "casashell", "casaconfig", "casadata"}
PIPELINE = {"pipeline"}
"""The ALMA pipeline, of which one module knows."""
TORCH = {"torch", "lightning", "torchmetrics", "pytorch_lightning"}

# Folder (the longest that fits counts) -> top-level packages and parts of ours that it must not import.
FORBIDDEN = {
    "casa_deepfocus": CASA | TORCH | {"onnxruntime", "sim", "training", "casa_deepfocus.casa"},
    # They need no CASA; of casa/ they take what does not either.
    "casa_deepfocus/standalone.py": CASA | TORCH | {"onnxruntime", "sim", "training"},
    # From files to the core's cube.
    "casa_deepfocus/reading": CASA | TORCH | {
        "onnxruntime", "sim", "training", "matplotlib", "jinja2", "casa_deepfocus.casa", "casa_deepfocus.pipeline",
        "casa_deepfocus.models", "casa_deepfocus.products",
    },
    "casa_deepfocus/products": CASA | TORCH | {
        "onnxruntime", "sim", "training", "casa_deepfocus.casa", "casa_deepfocus.models",
    },
    "casa_deepfocus/__init__.py": CASA | TORCH | {"onnxruntime", "sim", "training"},
    "casa_deepfocus/params.py": CASA | TORCH | {"numpy", "onnxruntime", "sim", "training", "casa_deepfocus.core"},
    "casa_deepfocus/core": CASA | TORCH | {
        "onnxruntime", "sim", "training", "matplotlib", "jinja2",
        "casa_deepfocus.casa", "casa_deepfocus.models", "casa_deepfocus.pipeline",
    },
    # The networks are injected.
    "casa_deepfocus/pipeline": CASA | TORCH | {
        "onnxruntime", "sim", "training", "matplotlib", "jinja2", "casa_deepfocus.casa", "casa_deepfocus.models",
    },
    "casa_deepfocus/models": CASA | TORCH | {"sim", "training", "casa_deepfocus.casa", "casa_deepfocus.pipeline"},
    "casa_deepfocus/casa": TORCH | {"onnxruntime", "sim", "training"},
    "casa_deepfocus/almapipe": TORCH | {"onnxruntime", "sim", "training"},
    "casa_deepfocus/casa_data.py": TORCH | {"onnxruntime", "sim", "training", "casatools", "casatasks"},
    "casa_deepfocus/casa_startup.py": TORCH | {"onnxruntime", "sim", "training"},
    "casa_deepfocus/casa_shell.py": TORCH | {"onnxruntime", "sim", "training"},
    "casa_deepfocus/casasiteconfig.py": TORCH | {"onnxruntime", "sim", "training", "casatools", "casatasks"},
    "casa_deepfocus/cli.py": TORCH | {"onnxruntime", "sim", "training", "casatools"},
    # casadata is a folder of antenna lists to it, not a program.
    "sim": TORCH | CASA - {"casadata"} | {"onnxruntime", "training", "casa_deepfocus.casa", "casa_deepfocus.pipeline"},
    # It works on torch tensors where it is given some, and imports torch only then.
    "sim/fast.py": CASA | {"onnxruntime", "training", "casa_deepfocus.casa", "casa_deepfocus.pipeline"},
    "sim/synthesis.py": CASA | {"onnxruntime", "training", "casa_deepfocus.casa", "casa_deepfocus.pipeline"},
    "sim/casa_backend.py": TORCH | {"onnxruntime", "training", "casa_deepfocus.pipeline"},
    "sim/casa_mosaic.py": TORCH | {"onnxruntime", "training", "casa_deepfocus.pipeline"},
    "sim/casa_cube.py": TORCH | {"onnxruntime", "training", "casa_deepfocus.pipeline"},
    "training": CASA | {"casa_deepfocus.casa"},
}  # fmt: skip

FILES = sorted(
    path.relative_to(ROOT) for folder in ("casa_deepfocus", "sim", "training") for path in (ROOT / folder).rglob("*.py")
)


def imports(source: str) -> set[str]:
    """All modules that a source imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the arrows"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def forbidden(path: Path) -> set[str]:
    """What a file must not import, by the longest entry that fits."""
    keys = [key for key in FORBIDDEN if path == Path(key) or Path(key) in path.parents]
    room = Path("casa_deepfocus/almapipe")
    pipeline = set() if path == room / "interfaces.py" else PIPELINE
    others = set() if room in path.parents else {"casa_deepfocus.almapipe"}
    return FORBIDDEN[max(keys, key=len)] | pipeline | others


def violations(path: Path, source: str) -> set[str]:
    return {
        module
        for module in imports(source)
        for banned in forbidden(path)
        if module == banned or module.startswith(f"{banned}.")
    }


def test_the_arrows_can_be_broken() -> None:
    assert len(FILES) > 20
    assert violations(Path("casa_deepfocus/core/x.py"), "def f():\n    import casatools.image") == {"casatools.image"}
    assert violations(Path("casa_deepfocus/pipeline/x.py"), "from casa_deepfocus import casa")
    assert violations(Path("casa_deepfocus/pipeline/x.py"), "from casa_deepfocus.models import runner")
    assert violations(Path("casa_deepfocus/almapipe/x.py"), "import pipeline.cli")
    assert violations(Path("casa_deepfocus/casa/x.py"), "from casa_deepfocus import almapipe")
    assert not violations(Path("casa_deepfocus/almapipe/interfaces.py"), "import pipeline.cli")
    assert not violations(Path("casa_deepfocus/casa/x.py"), "import casatools")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    assert violations(path, (ROOT / path).read_text()) == set()


def run_blocked(blocked: list[str], code: str) -> None:
    """Run code in a fresh Python in which the packages blocked cannot be imported."""
    script = f"""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {blocked!r}:
                    raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
        sys.meta_path.insert(0, Blocked())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr


def modules_of(folder: str) -> list[str]:
    return [".".join(path.with_suffix("").parts) for path in FILES if Path(folder) in path.parents]


def test_blocking_works() -> None:
    with pytest.raises(AssertionError, match="blocked"):
        run_blocked(["numpy"], "import casa_deepfocus.core.cube")


def test_core_needs_neither_casa_nor_networks() -> None:
    modules = [name for name in modules_of("casa_deepfocus/core") if not name.endswith("__init__")]
    code = "\n".join(f"import {name}" for name in ["casa_deepfocus", "casa_deepfocus.pipeline", *modules])
    run_blocked([*sorted(CASA), "torch", "onnxruntime"], code)


@pytest.mark.parametrize(
    "module",
    ["casa_deepfocus.core.preprocessing", "casa_deepfocus.core.matching", "sim.fast", "sim.psflib", "sim.sky"],
)
def test_training_machines_need_neither_astropy_nor_casa(module: str) -> None:
    run_blocked([*sorted(CASA), "astropy", "onnxruntime", "torch"], f"import {module}")


def test_parameters_need_the_standard_library_only() -> None:
    code = "import casa_deepfocus, casa_deepfocus.params as p; assert p.sdeepfocus().names[0] == 'vis'"
    run_blocked([*sorted(CASA), "numpy", "scipy", "astropy", "torch", "onnxruntime"], code)


def test_the_score_needs_no_torch() -> None:
    run_blocked([*sorted(CASA), "torch", "lightning"], "import training.score, training.__main__")
