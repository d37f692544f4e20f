"""The documentation: pages of packages, tutorials, the API, results and a comparison from records.

Tutorials are executed in every build; `sphinx-build -D plot_gallery=0` leaves that out.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import merkhet

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

project = "merkhet"
author = "The merkhet authors"
release = version = merkhet.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "merkhet"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["merkhet.css"]
sphinx_gallery_conf = {
    "examples_dirs": "../examples/tutorials",
    "gallery_dirs": "generated/tutorials",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gallery",),
    "capture_repr": (),
    "first_notebook_cell": "%matplotlib inline",
    "download_all_examples": False,
    "write_computation_times": False,
    "show_signature": False,
    "reset_modules": ("matplotlib",),
    "copyfile_regex": "",
}
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "returns_style"), ("Logs", "returns_style")]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # two classes of one name, as annotations name them

MARKS = re.compile(r"(`[^`]*`|^ *(?:>>>|\.\.\. ).*$)|([|*])", re.MULTILINE)


def as_written(
    _app: Any, _what: str, _name: str, _found: Any, _options: Any, lines: list[str]
) -> None:
    """Show bars and stars of docstrings as they are, outside of code: |x| is a norm here."""
    text = MARKS.sub(lambda mark: mark[1] or f"\\{mark[2]}", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app: Any) -> None:
    """Have docstrings go through `as_written` before anything else reads them."""
    app.connect("autodoc-process-docstring", as_written, priority=100)


generate.pages(HERE / "generated")
