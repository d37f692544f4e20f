from __future__ import annotations

import doctest
from pathlib import Path

import merkhet.training


def test_the_example_of_the_readme_runs() -> None:
    page = Path(merkhet.training.__file__).with_name("README.md")
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted >= 10
    assert found.failed == 0
