"""Sphinx: the pages of this folder, and the functions of the package from their docstrings (`make docs`)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from casa_deepfocus import __version__  # noqa: E402

project, author, copyright = "casa_deepfocus", "casa_deepfocus developers", "casa_deepfocus developers"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc"]
# The first is that of the pages that autosummary writes.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# CASA is no part of the machine that makes the pages.
autodoc_mock_imports = ["casatools", "casatasks", "casashell", "casaconfig"]
autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
# Notebooks are run by the tests, and shown as they are.
nb_execution_mode = "off"
# Decisions and presets quote code in every dialect.
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px", "description": "Sources in dirty interferometric cubes"}
html_static_path: list[str] = []
