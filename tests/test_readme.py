"""The documents do not lie: commands, files, parameters and links that they name exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from casa_deepfocus import params

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def commands(module: str) -> list[str]:
    """Lines ``python -m <module> <command> ...`` of all pages."""
    pattern = re.compile(rf"^\s+python -m {module} (.*)$", re.MULTILINE)
    return sorted({match.strip() for page in PAGES for match in pattern.findall(page.read_text("utf-8"))})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^\s+make (\w+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert set(targets) >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}\b.*:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("line", commands("training"))
def test_training_commands_parse(line):
    # Brackets mark what may be left out; metavariables stand for values.
    words = shlex.split(re.sub(r"[\[\]]", "", line.replace("line|continuum|both", "both")))
    words = ["1" if word in ("ARCSEC", "N") else word for word in words]
    assert words[0] in importlib.import_module("training.__main__").COMMANDS
    module = importlib.import_module(f"training.{words[0]}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.parse_args(words[1:])
    assert callable(module.run)


def test_evaluation_commands_are_listed():
    assert any(line.startswith("evaluate --preset paper --n ") for line in commands("training"))
    assert any(line.startswith("score TRUTH CATALOGUE") for line in commands("training"))
    assert commands("benchmarks")


@pytest.mark.parametrize("line", commands("benchmarks"))
def test_benchmark_commands_parse(line):
    main = importlib.import_module("benchmarks.__main__")
    args = main.make_parser().parse_args(shlex.split(re.sub(r"[\[\]]", "", line)))
    assert callable(args.run)


def test_the_parameters_that_the_readme_names_exist():
    known = set(params.sdeepfocus().names)
    text = (ROOT / "README.md").read_text("utf-8")
    for call in re.findall(r"sdeepfocus\((\w+=[^)]*)\)", text):
        named = re.findall(r"(\w+)=", call)
        assert set(named) <= known, call


def test_the_products_that_the_readme_names_are_written():
    source = (ROOT / "casa_deepfocus" / "casa" / "outfiles.py").read_text("utf-8")
    named = set(re.findall(r"`<outfile>(\.[\w.]+)`", (ROOT / "README.md").read_text("utf-8")))
    assert len(named) >= 8
    assert {ending for ending in named if f'"{ending}"' not in source} == set()


def test_parameters_md_is_what_the_xml_says():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import make_parameters; sys.stdout.write(make_parameters.make())"
    )
    run = [sys.executable, "-c", code, str(ROOT / "docs")]
    made = subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout
    assert made == (ROOT / "docs" / "parameters.md").read_text("utf-8"), "run python docs/make_parameters.py"


def test_no_page_speaks_of_one_machine():
    for page in PAGES:
        assert not re.search(r"/(work|home|root|tmp)/", page.read_text("utf-8")), page.name
