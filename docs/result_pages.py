"""The results: an overview of goals, then a page for each package from its committed records."""

from __future__ import annotations

import functools
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from merkhet.report import Figure, Goal, Record, read_record

ROOT = Path(__file__).parents[1]
FOLDED = 12  # figures that a page shows unfolded
PLACE = re.compile(r" --out \S+")  # where a record was put at first is of no use to a reader

OVERVIEW = """\
(results)=
# Results

Every experiment and every benchmark leaves a record: what was run, on what, each number with its
interval, and the goals that were set beforehand with what came of them. These pages are made from
the committed records and from nothing else. Goals that were not met stay in.

{table}

```{{toctree}}
:hidden:

{pages}
```

## What was not met

{unmet}
"""


@functools.cache
def by_package() -> Mapping[str, Mapping[Path, Record]]:
    """Return the records by package and path, experiments first."""
    found: dict[str, dict[Path, Record]] = defaultdict(dict)
    for pattern in ("docs/results/*/*.json", "benchmarks/results/*.json"):
        for path in sorted(ROOT.glob(pattern)):
            record = read_record(path)
            found[record.package][path] = record
    return dict(sorted(found.items()))


def anchor(path: str | Path) -> str:
    """Return the name that links to a record on its package's page.

    Args:
        path: Of the record, from the repository's root.
    """
    path = Path(path)
    kind = "benchmark" if path.parts[0] == "benchmarks" else f"result-{path.parent.name}"
    return f"{kind}-{path.stem}".replace("_", "-")


def pages(folder: Path) -> None:
    """Write the overview and the packages' pages into a folder, with their pictures."""
    folder.mkdir(parents=True)
    (folder / "index.md").write_text(_overview(), encoding="utf-8")
    for package, records in by_package().items():
        (folder / f"{package}.md").write_text(_page(package, records), encoding="utf-8")
        for path in records:
            for picture in _pictures(path, records):
                shutil.copy(picture, folder / f"{package}_{picture.name}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; bars inside of cells are escaped."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def shown(figure: Figure) -> str:
    """Return a number with its unit."""
    digits = f"{figure.value:,.0f}" if abs(figure.value) >= 1e4 else f"{figure.value:.4g}"
    return f"{digits} {figure.unit}".strip()


def interval(figure: Figure) -> str:
    """Return a figure's interval, or nothing where it has none."""
    return (
        "" if figure.interval is None else f"{figure.interval[0]:.4g} to {figure.interval[1]:.4g}"
    )


def _overview() -> str:
    """Return the first page: how many goals each package met, and which were not."""
    rows, unmet = [], []
    for package, records in by_package().items():
        goals = [goal for record in records.values() for goal in record.goals]
        met = sum(goal.met for goal in goals)
        rows.append(
            (f"[{package}](#results-{package})", str(len(records)), f"{met} of {len(goals)}")
        )
        for path, record in records.items():
            missed = [goal for goal in record.goals if not goal.met]
            if missed:
                link = f"[{package}: {record.name}](#{anchor(path.relative_to(ROOT))})"
                unmet.append(f"**{link}**\n\n{_goals(missed, told=False)}")
    return OVERVIEW.format(
        table=table(("package", "records", "goals met"), rows),
        pages="\n".join(by_package()),
        unmet="\n".join(unmet),
    )


def _page(package: str, records: Mapping[Path, Record]) -> str:
    """Return a package's page: a table of its records, then each of them."""
    rows = [
        (
            f"[{record.name}](#{anchor(path.relative_to(ROOT))})",
            _kind(path),
            _count(record.goals),
        )
        for path, record in records.items()
    ]
    parts = [
        f"(results-{package})=\n# {package}: results\n",
        table(("record", "kind", "goals met"), rows),
        *(_record(path, record, records) for path, record in records.items()),
    ]
    return "\n".join(parts)


def _record(path: Path, record: Record, records: Mapping[Path, Record]) -> str:
    """Return one record: how it was run, goals, pictures, notes, numbers."""
    inside = path.relative_to(ROOT)
    name = record.name.replace("_", " ")
    pictures = [
        f"![{picture.stem.replace('_', ' ')}]({record.package}_{picture.name})\n"
        for picture in _pictures(path, records)
    ]
    parts = [
        f"({anchor(inside)})=\n## {name[0].upper()}{name[1:]}\n",
        f"{_kind(path).capitalize()}, {_how(record)}. [The record](../../../{inside}).\n",
        _goals(record.goals) if record.goals else "",
        *pictures,
        f"{record.notes}\n" if record.notes else "",
        _numbers([(key, shown(one), interval(one)) for key, one in record.figures.items()]),
    ]
    return "\n".join(parts)


def _how(record: Record) -> str:
    """Return how a record came about: size, command, time, machine, day, seeds."""
    machine = record.machine
    seeds = f", seeds {', '.join(map(str, record.seeds))}" if record.seeds else ""
    return (
        f"size {record.size}: `{PLACE.sub('', record.command)}`, {record.seconds:,.0f} s on "
        f"{machine['cores']} cores of {machine['processor']}, {record.started[:10]}{seeds}"
    )


def _numbers(rows: Sequence[Sequence[str]]) -> str:
    """Return the table of numbers, folded where it is long."""
    made = table(("figure", "value", "interval"), rows) if rows else ""
    if len(rows) <= FOLDED:
        return made
    return f"<details>\n<summary>All {len(rows)} numbers</summary>\n\n{made}\n</details>\n"


def _goals(goals: Sequence[Goal], *, told: bool = True) -> str:
    """Return a table of goals, with their outcome in words if that is `told`."""
    heads = ("goal", "target", "value", *(("outcome",) if told else ()))
    rows = [
        (
            goal.goal,
            goal.target,
            _value(goal.value),
            *(("met" if goal.met else "**not met**",) if told else ()),
        )
        for goal in goals
    ]
    return table(heads, rows)


def _value(value: float | str) -> str:
    """Return what came of a goal as text."""
    words = {"True": "yes", "False": "no"}
    return f"{value:.4g}" if isinstance(value, float) else words.get(str(value), str(value))


def _count(goals: Sequence[Goal]) -> str:
    """Return how many goals were met, of how many."""
    return f"{sum(goal.met for goal in goals)} of {len(goals)}" if goals else "no goals set"


def _kind(path: Path) -> str:
    """Tell by its place what a record is of."""
    return "benchmark" if path.relative_to(ROOT).parts[0] == "benchmarks" else "experiment"


def _pictures(path: Path, records: Mapping[Path, Record]) -> list[Path]:
    """Return the pictures of a record: those whose name begins with its own and no longer one."""
    longer = {other.stem for other in records if other.stem.startswith(f"{path.stem}_")}
    found = [path.with_suffix(".png"), *path.parent.glob(f"{path.stem}_*.png")]
    return sorted(p for p in found if p.exists() and not any(p.stem.startswith(s) for s in longer))
