"""Packages are found by looking: a folder under merkhet that has the file asked for."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import merkhet


def package_names() -> list[str]:
    """Return the names of merkhet's packages, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(merkhet.__path__) if found.ispkg)


def parts(name: str) -> dict[str, ModuleType]:
    """Return, by package, the module `name` of every package that has one.

    Args:
        name: "commands", "checks", "experiments" or "networks".
    """
    return {
        package: importlib.import_module(f"merkhet.{package}.{name}")
        for package in package_names()
        if _has(package, name)
    }


def _has(package: str, name: str) -> bool:
    """Tell whether merkhet.`package` holds a module called `name`, without importing it."""
    paths = [f"{path}/{package}" for path in merkhet.__path__]
    return any(found.name == name for found in pkgutil.iter_modules(paths))
