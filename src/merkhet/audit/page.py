"""The report as one page that opens offline, and its JSON beside it."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import merkhet
from merkhet.core.errors import InputError
from merkhet.core.files import write_text

if TYPE_CHECKING:
    from merkhet.audit.run import Report


def write_report(report: Report, path: Path | str) -> tuple[Path, Path]:
    """Write the page to `path` and its JSON beside it, each whole or not at all.

    Raises:
        InputError: `path` does not end in .html.
    """
    page, beside = report_paths(path)
    text = render(report)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(page, text)
    write_text(beside, data + "\n")
    return page, beside


def report_paths(path: Path | str) -> tuple[Path, Path]:
    """Return the paths of the page and of its JSON.

    Raises:
        InputError: `path` does not end in .html, is a folder, or nothing can be written there.
    """
    page = Path(path)
    if page.suffix != ".html" or page.is_dir():
        raise InputError(f"the report is a page: give --out NAME.html, not {str(path)!r}")
    there = next(folder for folder in page.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"nothing can be written into {there}: give --out in another folder")
    return page, page.with_suffix(".json")


def render(report: Report) -> str:
    """Return the page as HTML without any link to another file."""
    import jinja2

    source = resources.files("merkhet.audit").joinpath("page.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(source)
    return template.render(
        report=report, subject=report.subject, data=report.to_dict(), version=merkhet.__version__
    )
