"""What the contracts run over: every package of merkhet, found by looking."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import merkhet
from merkhet.core import discovery

ROOT = Path(merkhet.__file__).parent
HARNESS = ("core", "report", "data", "models", "training")
PACKAGES = discovery.package_names()
# What each part of the harness may import; every other package is held to "mathematics".
MAY_IMPORT = {
    "core": {"core"},
    "report": {"core", "report"},
    "data": {"core", "report", "data"},
    "models": {"core", "report", "models"},
    "training": {"core", "report", "data", "models", "training"},
}
# Parts of a package that may use the harness; `experiments` may import other packages too.
WITH_HARNESS = ("checks", "commands", "estimators", "networks", "pictures")


def sources() -> list[Path]:
    """Return every source file."""
    return sorted(ROOT.rglob("*.py"))


def package_of(path: Path) -> str:
    """Return the package that a source file belongs to, "" for merkhet's own files."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Return the full names of what a file imports from merkhet.

    Args:
        path: The file.
        at_import: Only what is imported when the file is, not inside functions or for types.
    """
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {_full(node.module, name.name) for name in node.names}
    return {name for name in found if name.split(".")[0] == "merkhet"}


def public() -> Iterator[tuple[str, str, Any]]:
    """Yield (package, name, object) of everything that a package exports."""
    for package in PACKAGES:
        module = importlib.import_module(f"merkhet.{package}")
        for name in getattr(module, "__all__", ()):
            yield package, name, getattr(module, name)


def members(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public functions, methods and properties of an exported object."""
    if inspect.isfunction(found):
        yield found.__name__, found
    if inspect.isclass(found):
        for name, member in vars(found).items():
            inner = member.fget if isinstance(member, property) else member
            inner = inner.__func__ if isinstance(inner, classmethod | staticmethod) else inner
            if name[0] != "_" and inspect.isfunction(inner) and inner.__name__ != "<lambda>":
                yield f"{found.__name__}.{name}", inner


def _statements(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a syntax tree, on request without functions and type checking."""
    for child in ast.iter_child_nodes(node):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _statements(child, at_import)


def _full(module: str, name: str) -> str:
    """Return the module that `from module import name` loads."""
    path = ROOT.parent / Path(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").exists() else module


def module_name(path: Path) -> str:
    """Return the name that a source file is imported by."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
