from __future__ import annotations

import doctest
from pathlib import Path

import merkhet.models


def test_readme_runs() -> None:
    page = Path(merkhet.models.__file__).with_name("README.md")
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 10
    assert failed == 0
