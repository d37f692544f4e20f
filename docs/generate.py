"""Pages made from what is there: a page and an API for each package, a table of all results."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import merkhet
from merkhet.core import discovery
from merkhet.report import Record, read_record

ROOT = Path(__file__).parents[1]
SOURCE = Path(merkhet.__file__).parent
INTERNAL = ("core", "report")


def pages(folder: Path) -> None:
    """Write every generated page into `folder`, afresh: those of packages into `packages`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "packages").mkdir(parents=True)
    (folder / "results.md").write_text(_results(folder), encoding="utf-8")
    for package in discovery.package_names():
        place = folder if package in INTERNAL else folder / "packages"
        (place / f"{package}.md").write_text(_package(package, place), encoding="utf-8")


def _package(package: str, folder: Path) -> str:
    """Return a package's page: its README, then its public names."""
    readme = SOURCE / package / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else f"# {package}\n"
    text = re.sub(r"!\[([^]]*)\]\(([^)]+)\)", lambda found: _picture(found, readme, folder), text)
    module = f"merkhet.{package}"
    names = [module] if hasattr(importlib.import_module(module), "__all__") else _modules(package)
    listed = "\n".join(
        f"```{{eval-rst}}\n.. automodule:: {name}\n   :imported-members:\n```\n"
        if name == module
        else f"### {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :noindex:\n```\n"
        for name in names
    )
    return f"{text}\n## API\n\n{listed}"


def _modules(package: str) -> list[str]:
    """Return the names of the modules of a package that exports nothing itself."""
    return [
        f"merkhet.{package}.{path.stem}" for path in sorted((SOURCE / package).glob("[a-z]*.py"))
    ]


def _picture(found: re.Match[str], readme: Path, folder: Path) -> str:
    """Copy a README's picture to where its page lies; return the link."""
    source = (readme.parent / found[2]).resolve()
    shutil.copy(source, folder / source.name)
    return f"![{found[1]}]({source.name})"


def _results(folder: Path) -> str:
    """Return the page of all records: goals with their outcomes, figures, how to run them."""
    paths = [*ROOT.glob("docs/results/*/*.json"), *ROOT.glob("benchmarks/results/*.json")]
    parts = ["# Results\n", "Every experiment and benchmark, from its committed record.\n"]
    for path in sorted(paths):
        parts.append(_record(read_record(path)))
        for picture in sorted(path.parent.glob(f"{path.stem}*.png")):
            shutil.copy(picture, folder / picture.name)
            parts.append(f"![{picture.stem}]({picture.name})\n")
    return "\n".join(parts)


def _record(record: Record) -> str:
    """Return one record as text."""
    goals = [
        f"| {goal.goal} | {goal.target} | {goal.value} | {'met' if goal.met else '**not met**'} |"
        for goal in record.goals
    ]
    figures = [
        f"| {name} | {figure.value:.5g} {figure.unit} | {_interval(figure.interval)} |"
        for name, figure in record.figures.items()
    ]
    machine = record.machine
    return "\n".join(
        [
            f"## {record.package}: {record.name} ({record.size})\n",
            f"`{record.command}`, {record.seconds:.0f} s on {machine['cores']} cores of "
            f"{machine['processor']}, {record.started}, seeds {record.seeds}.\n",
            *(["| goal | target | value | |", "|---|---|---|---|", *goals, ""] if goals else []),
            *(["| figure | value | 95 % |", "|---|---|---|", *figures, ""] if figures else []),
            record.notes,
            "",
        ]
    )


def _interval(interval: tuple[float, float] | None) -> str:
    """Return an interval as text."""
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
