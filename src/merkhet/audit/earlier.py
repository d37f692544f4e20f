"""The JSON of an earlier report, in the place of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merkhet.audit.report import Report
from merkhet.core.errors import InputError

NEEDED = ("network", "data", "settings", "sections", "skipped", "failed", "machine", "versions")
Audited = Report | Path | str | Mapping[str, Any]


def read_report(report: Audited) -> Mapping[str, Any]:
    """Return a report as JSON has it.

    Raises:
        InputError: A file is not there, or is not the JSON of a report.
    """
    if isinstance(report, Report):
        return report.to_dict()
    found, where = report, "this"
    if isinstance(report, str | Path):
        found, where = _read(Path(report)), str(report)
    if not isinstance(found, Mapping) or not all(key in found for key in NEEDED):
        raise InputError(f"{where} is not the JSON of an audit's report: give report.json")
    return found


def _read(path: Path) -> Any:
    """Return what a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no file {path}: give the JSON beside a report's page") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
