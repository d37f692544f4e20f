"""How long a newcomer waits: set-up, demo and tests from a clean clone, and what is installed.

    python benchmarks/installation.py [--keep FOLDER]

Clones the commit in use into a temporary folder and runs the README's two commands there, then
both again. Writes benchmarks/results/audit_installation.json.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from merkhet.report import Figure, Goal, Record

ROOT = Path(__file__).parents[1]
MINUTES = {"set-up": 3, "demo": 3, "test": 12}
LARGEST = 8


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="clone into this folder and leave it there")
    chosen = parser.parse_args().keep
    command = "python benchmarks/installation.py"
    record = Record("audit", "installation", "small", seeds=[0], command=command)
    with tempfile.TemporaryDirectory() as scratch:
        clone = chosen or Path(scratch) / "merkhet"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        seconds = {
            "set-up": timed(clone, "setup"),
            "demo": timed(clone, "demo"),
            "test": timed(clone, "test"),
            "second set-up": timed(clone, "setup"),
        }
        sizes = installed(clone / ".venv")
    for name, spent in seconds.items():
        record.figures[f"{name} time"] = Figure(round(spent, 1), "s")
    for name, minutes in MINUTES.items():
        goal = f"make {name} from a clean clone" if name != "set-up" else "set-up"
        value = f"{seconds[name]:.0f} s"
        record.goals.append(Goal(goal, f"{minutes} minutes", value, seconds[name] <= 60 * minutes))
    record.goals.append(
        Goal(
            "a second time without reinstalling",
            "2 s",
            f"{seconds['second set-up']:.1f} s",
            seconds["second set-up"] <= 2,
        )
    )
    for name, size in sizes.items():
        record.figures[f"installed: {name}"] = Figure(size, "MB")
    record.settings = {"data": sorted(found()), "torch": "CPU build"}
    record.notes = "Set-up depends on the package index and its cache. The machine was idle."
    record.seconds = sum(seconds.values())
    path = record.write(ROOT / "benchmarks" / "results", "audit_installation.json")
    print(path.read_text(encoding="utf-8"))


def timed(clone: Path, target: str) -> float:
    """Return the seconds that a target of the Makefile takes in the clone."""
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    start = time.perf_counter()
    subprocess.run(["make", "-s", target], cwd=clone, env=environment, check=True)
    return time.perf_counter() - start


def installed(environment: Path) -> dict[str, float]:
    """Return megabytes of the environment, in all and of its largest packages."""
    sizes = megabytes(*environment.glob("lib/*/site-packages/*"))
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
    whole = megabytes(environment)[environment.name]
    return {"everything": whole, **{name: sizes[name] for name in largest}}


def megabytes(*paths: Path) -> dict[str, float]:
    """Return the size of files and folders by name."""
    listed = subprocess.run(["du", "-sm", *paths], check=True, capture_output=True, text=True)
    found = re.findall(r"(\d+)\t(.*)", listed.stdout)
    return {Path(path).name: float(size) for size, path in found}


def found() -> list[str]:
    """Return the data sets that the tests find."""
    root = os.environ.get("MERKHET_DATA")
    return [path.name for path in Path(root).iterdir() if path.is_dir()] if root else []


if __name__ == "__main__":
    main()
