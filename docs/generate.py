"""Pages made from what is there: a page and an API for each package, results, a comparison."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import comparison
import result_pages

import merkhet
from merkhet.core import discovery

SOURCE = Path(merkhet.__file__).parent
INTERNAL = ("core", "report")
HARNESS = ("data", "models", "training")  # listed after the packages that use them
LISTED = """\
```{{toctree}}
:caption: Packages
:hidden:
:maxdepth: 1

{packages}
```
"""
RECORD = re.compile(r"\]\((?:\.\./)+((?:docs|benchmarks)/results/[\w/]+\.json)\)")
PICTURE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


def pages(folder: Path) -> None:
    """Write every generated page into `folder`, afresh: those of packages into `packages`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "packages").mkdir(parents=True)
    result_pages.pages(folder / "results")
    (folder / "comparison.md").write_text(comparison.page(), encoding="utf-8")
    (folder / "packages.inc").write_text(_listed(), encoding="utf-8")
    for package in discovery.package_names():
        place = folder if package in INTERNAL else folder / "packages"
        (place / f"{package}.md").write_text(_package(package, place), encoding="utf-8")


def _listed() -> str:
    """Return the packages for the side bar, under their short names."""
    names = [name for name in discovery.package_names() if name not in INTERNAL]
    names.sort(key=lambda name: name in HARNESS)
    return LISTED.format(
        packages="\n".join(f"{name} <generated/packages/{name}>" for name in names)
    )


def _package(package: str, folder: Path) -> str:
    """Return a package's page: its README, where its results are, then its public names."""
    readme = SOURCE / package / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else f"# {package}\n"
    text = PICTURE.sub(lambda found: _picture(found, readme, folder), text)
    text = RECORD.sub(lambda found: f"](#{result_pages.anchor(found[1])})", text)
    module = f"merkhet.{package}"
    names = [module] if hasattr(importlib.import_module(module), "__all__") else _modules(package)
    listed = "\n".join(
        f"```{{eval-rst}}\n.. automodule:: {name}\n   :imported-members:\n```\n"
        if name == module
        else f"### {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :noindex:\n```\n"
        for name in names
    )
    evidence = ""
    if package in result_pages.by_package():
        link = f"[All results of {package}](#results-{package})"
        evidence = f"\n{link}: the goals, and what came of them.\n"
    return f"{text}{evidence}\n## API\n\n{listed}"


def _modules(package: str) -> list[str]:
    """Return the names of the modules of a package that exports nothing itself."""
    return [
        f"merkhet.{package}.{path.stem}" for path in sorted((SOURCE / package).glob("[a-z]*.py"))
    ]


def _picture(found: re.Match[str], readme: Path, folder: Path) -> str:
    """Copy a README's picture to where its page lies; return the link."""
    source = (readme.parent / found[2]).resolve()
    name = f"{readme.parent.name}_{source.name}"
    shutil.copy(source, folder / name)
    return f"![{found[1]}]({name})"
