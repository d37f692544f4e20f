"""Every exported name exists and is documented, with shapes where tensors come or go."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import packages as house

PUBLIC = list(house.public())
MEMBERS = [
    (f"{package}.{name}", inner, f"{found.__doc__ or ''}\n{inner.__doc__ or ''}")
    for package, _, found in PUBLIC
    for name, inner in house.members(found)
]
SHAPE = re.compile(r"\([a-z0-9_' +-]+(,[^()]*)\)|\bshapes?\b|scalar|0-d|tensor")


@pytest.mark.parametrize("package", house.PACKAGES)
def test_a_package_says_what_it_is_and_what_it_exports(package: str) -> None:
    module = importlib.import_module(f"merkhet.{package}")
    assert (module.__doc__ or "").strip()
    if package != "core":
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("case", MEMBERS, ids=[name for name, _, _ in MEMBERS])
def test_a_public_function_is_documented(case) -> None:
    _, inner, text = case
    assert (inner.__doc__ or "").strip(), "a docstring is missing"
    hints = {key: str(value) for key, value in inspect.get_annotations(inner).items()}
    if any("Tensor" in hint for hint in hints.values()):
        assert SHAPE.search(text), "it takes or gives tensors and names no shape"


@pytest.mark.parametrize("path", house.sources(), ids=house.module_name)
def test_the_examples_in_docstrings_run(path: Path) -> None:
    module = importlib.import_module(house.module_name(path))
    torch.manual_seed(0)
    assert doctest.testmod(module).failed == 0


PAGES = sorted([*house.ROOT.glob("*/README.md"), house.ROOT.parents[1] / "README.md"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_the_examples_in_a_page_run(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("package", [p for p in house.PACKAGES if p not in ("core", "report")])
def test_a_package_has_a_page_with_an_example(package: str) -> None:
    page = house.ROOT / package / "README.md"
    assert ">>>" in page.read_text(encoding="utf-8")
