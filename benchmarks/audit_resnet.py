"""The audit of a ResNet-18 on 1,000 pictures of CIFAR-10, as a user starts it.

    python benchmarks/audit_resnet.py [--seconds 120] [--keep FOLDER]

Runs `merkhet audit merkhet.models:ResNet18 --data cifar10 --samples 1000` as a process of its own,
once with the default time budget and once with 240 s, and measures the wall time, the largest
resident memory of that process and the size of the page. Writes
benchmarks/results/audit_resnet.json. Needs CIFAR-10 in $MERKHET_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merkhet.report import Figure, Goal, Record

SAMPLES = 1000
BUDGETS = {"default budget": None, "budget of 240 s": 240.0}
MOST_SECONDS, MOST_GB, MOST_MB = 300, 2.0, 3.0
PROGRAM = "from merkhet.cli import main; main()"


@dataclass(frozen=True)
class Run:
    """One audit.

    Attributes:
        wall: Seconds from start to end of the process.
        processor: Seconds of processor time, of all its threads.
        memory: Largest resident memory, in GB.
        page: Size of the page, in MB.
        report: The JSON beside it.
    """

    wall: float
    processor: float
    memory: float
    page: float
    report: dict[str, Any]


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="one run with this budget, and no record")
    parser.add_argument("--keep", type=Path, help="keep the pages in this folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.seconds is not None:
            print(told(audited(folder / "report.html", chosen.seconds)))
            return
        runs = {
            name: audited(folder / f"{place}.html", seconds)
            for place, (name, seconds) in enumerate(BUDGETS.items())
        }
    for name, run in runs.items():
        print(f"{name}: {told(run)}")
    path = record(runs).write(Path(__file__).parent / "results", "audit_resnet.json")
    print(path.read_text(encoding="utf-8"))


def audited(page: Path, seconds: float | None) -> Run:
    """Run the audit as a process of its own, and measure it.

    Args:
        page: Where the page goes.
        seconds: The time budget; None is the command's own.
    """
    command = [sys.executable, "-c", PROGRAM, "audit", "merkhet.models:ResNet18"]
    command += ["--data", "cifar10", "--samples", str(SAMPLES), "--out", str(page)]
    command += [] if seconds is None else ["--seconds", f"{seconds:g}"]
    start = time.perf_counter()
    started = subprocess.Popen(command)
    _, status, used = os.wait4(started.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"the audit ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Run(
        wall,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss * unit / 1e9,
        page.stat().st_size / 1e6,
        json.loads(page.with_suffix(".json").read_text(encoding="utf-8")),
    )


def told(run: Run) -> str:
    """Return a run in words."""
    left_out = "; ".join(f"{name}: {why}" for name, why in run.report["skipped"].items())
    return (
        f"{run.wall:.0f} s ({run.processor:.0f} s of processor time), {run.memory:.2f} GB, page "
        f"of {run.page:.2f} MB; checks run: {', '.join(run.report['sections'])}; left out: "
        f"{left_out or 'none'}"
    )


def record(runs: dict[str, Run]) -> Record:
    """Return the record of the runs."""
    command = "python benchmarks/audit_resnet.py"
    found = Record("audit", "resnet", "small", seeds=[0], command=command)
    for name, run in runs.items():
        found.figures[f"{name}: wall time"] = Figure(round(run.wall, 1), "s")
        found.figures[f"{name}: processor time"] = Figure(round(run.processor, 1), "s")
        found.figures[f"{name}: peak resident memory"] = Figure(round(run.memory, 2), "GB")
        found.figures[f"{name}: page"] = Figure(round(run.page, 2), "MB")
        found.figures[f"{name}: checks run"] = Figure(len(run.report["sections"]), "")
        found.figures[f"{name}: checks left out"] = Figure(len(run.report["skipped"]), "")
    wall, memory, page = (
        max(getattr(run, name) for run in runs.values()) for name in ("wall", "memory", "page")
    )
    found.goals += [
        Goal(
            f"audit of a ResNet-18 on {SAMPLES:,} pictures of CIFAR-10",
            f"at most {MOST_SECONDS} s",
            f"{wall:.0f} s",
            wall <= MOST_SECONDS,
        ),
        Goal("its peak memory", f"at most {MOST_GB:g} GB", f"{memory:.2f} GB", memory <= MOST_GB),
        Goal("its page", f"under {MOST_MB:g} MB", f"{page:.2f} MB", page < MOST_MB),
    ]
    found.settings = {
        "samples": SAMPLES,
        "network": "merkhet.models:ResNet18, 11 million weights, as its callable makes it",
        "threads": os.environ.get("OMP_NUM_THREADS", "as torch chooses"),
        "left out": {name: run.report["skipped"] for name, run in runs.items()},
    }
    found.notes = "The slower, the larger and the longer of the runs count. Checks measure as they "
    found.notes += "go and leave out what does not fit the budget, so a slow machine sees less."
    found.seconds = sum(run.wall for run in runs.values())
    return found


if __name__ == "__main__":
    main()
