"""The documentation: pages of the packages, the API, and the results from the records."""

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
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "merkhet"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]

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
