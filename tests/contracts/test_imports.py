"""Data flows one way: core, then the harness, then the packages, then the audit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import packages as house

SOURCES = house.sources()
NAMES = [str(path.relative_to(house.ROOT)) for path in SOURCES]


def allowed(package: str, part: str) -> set[str]:
    if part == "experiments":
        return set(house.PACKAGES)
    if package in house.MAY_IMPORT:
        return house.MAY_IMPORT[package]
    if part in house.WITH_HARNESS or package == "audit":
        return {*house.HARNESS, package}
    return {"core", package}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_imports_only_what_lies_below_it(path: Path) -> None:
    package = house.package_of(path)
    for name in house.imported(path):
        other = name.split(".")[1] if "." in name else ""
        if not package:
            assert other in ("", "core", "cli"), f"{path.name} imports {name}"
        elif other:
            part = path.relative_to(house.ROOT / package).parts[0].removesuffix(".py")
            assert other in allowed(package, part), f"{path} imports {name}"


def test_there_is_no_cycle() -> None:
    graph = {house.module_name(path): house.imported(path, at_import=True) for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        # A package's own __init__ runs before its modules and gathers them: not a cycle.
        assert name not in trail, " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for other in graph[name]:
            if not name.startswith(f"{other}."):
                visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_paths_of_the_rules_exist() -> None:
    assert set(house.MAY_IMPORT) == set(house.HARNESS)
    assert set(house.HARNESS) | {"stability", "audit"} <= set(house.PACKAGES)


@pytest.mark.parametrize("package", house.PACKAGES)
def test_a_package_imports_quickly_and_without_heavy_libraries(package: str) -> None:
    code = (
        "import sys, time; import torch; start = time.process_time(); "
        f"import merkhet.{package}; spent = time.process_time() - start; "
        "heavy = {'matplotlib', 'sklearn', 'transformers', 'pyarrow', 'accelerate', 'tokenizers', "
        "'numba', 'jinja2', 'scipy', 'PIL'}; print(spent, sorted(heavy & set(sys.modules)))"
    )
    call = [sys.executable, "-c", code]
    printed = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    spent, _, heavy = printed.strip().partition(" ")
    assert heavy == "[]"
    assert float(spent) < 0.8
