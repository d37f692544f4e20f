"""Reports and comparisons as one page that opens offline, with JSON beside it."""

from __future__ import annotations

import json
import os
import stat
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import merkhet
from merkhet.core.errors import InputError
from merkhet.core.files import write_text

if TYPE_CHECKING:
    from merkhet.audit.compare import Comparison
    from merkhet.audit.report import Report

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write_report(
    report: Report | Comparison,
    path: Path | str,
    writing: AbstractContextManager[None] | None = None,
) -> tuple[Path, Path]:
    """Write the page to `path` and its JSON beside it, each whole or not at all.

    Args:
        report: A report or a comparison.
        path: Of the page.
        writing: Entered while the two files are written, such as `Interruption.writing()`.

    Raises:
        InputError: `path` does not end in .html, or nothing can be written there.
    """
    page, beside = report_paths(path)
    text = report.render()
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    with writing or nullcontext():
        write_text(page, text)
        write_text(beside, data + "\n")
    return page, beside


def report_paths(path: Path | str) -> tuple[Path, Path]:
    """Return the paths of the page and of its JSON.

    Raises:
        InputError: `path` does not end in .html, is a folder, its own folder is not there, or
            nothing can be written there.
    """
    page = Path(path)
    if page.suffix != ".html" or page.is_dir():
        raise InputError(f"the report is a page: give --out NAME.html, not {str(path)!r}")
    folder = page.absolute().parent
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: create it, or give --out in another folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"nothing can be written into {folder}: give --out in another folder")
    beside = page.with_suffix(".json")
    for file in (page, beside):
        _check_file(file)
    return page, beside


def render(template: str, **values: Any) -> str:
    """Return a page as HTML without any link to another file.

    Args:
        template: Its file in this package.
        values: What it shows.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_source)
    )
    return environment.get_template(template).render(version=merkhet.__version__, **values)


def _source(name: str) -> str:
    """Return a template's text."""
    return resources.files("merkhet.audit").joinpath(name).read_text("utf-8")


def _check_file(file: Path) -> None:
    """Refuse to take the place of a folder, or of a file that its owner keeps from being written.

    A rename would replace such a file, and root may write anything: its own bits are looked at.
    """
    if not file.exists():
        return
    if file.is_dir():
        raise InputError(f"{file} is a folder: give --out another name")
    if not file.stat().st_mode & WRITABLE or not os.access(file, os.W_OK):
        raise InputError(f"{file} is read-only: make it writable, or give --out another name")
