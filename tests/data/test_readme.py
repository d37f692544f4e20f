"""The page of the package runs."""

import doctest
from pathlib import Path

import merkhet.data


def test_every_example_of_the_page_gives_what_it_shows():
    page = Path(merkhet.data.__file__).with_name("README.md")
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted >= 5
    assert result.failed == 0
