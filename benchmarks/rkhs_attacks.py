"""Our attacks against those of the adversarial-robustness-toolbox: what they leave, and seconds.

    MERKHET_DATA=... python benchmarks/rkhs_attacks.py

A small network trained on Fashion-MNIST, 100 test pictures, l2 and linf, pictures kept in [0, 1].
Needs the extra `robust`. Attacks run one after another, each alone on all pictures at each radius,
so that their seconds can be compared. Writes benchmarks/results/rkhs_attacks.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from importlib import metadata
from pathlib import Path

import torch

from merkhet import data, models
from merkhet.core.intervals import wilson
from merkhet.report import Figure, Goal, Record
from merkhet.rkhs import Recipe, evaluate_robustness, train_classifier

PICTURES, STEPS = 100, 40
RADII = {"l2": 0.5, "linf": 0.03}
OURS = ("pgd", "pgd-margin")
THEIRS = ("apgd-ce", "apgd-dlr", "square")


def main() -> None:
    """Train, attack and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args()
    if importlib.util.find_spec("art") is None:
        print("left out: it needs the extra robust, pip install 'merkhet[robust]'")
        return
    start = time.perf_counter()
    command = "python benchmarks/rkhs_attacks.py"
    record = Record("rkhs", "attacks", "small", seeds=[0], command=command)
    network, held = trained()
    for norm, radius in RADII.items():
        compare(record, network, held, norm, radius)
    record.settings = {"data": "fashion-mnist", "pictures": PICTURES, "steps": STEPS}
    record.settings |= {"radii": RADII, "threads": torch.get_num_threads()}
    record.versions["adversarial-robustness-toolbox"] = metadata.version(
        "adversarial-robustness-toolbox"
    )
    record.notes = (
        "Intervals of accuracy are Wilson's over pictures. One restart, and 500 queries of Square."
    )
    record.seconds = time.perf_counter() - start
    path = record.write(Path(__file__).parent / "results", "rkhs_attacks.json")
    print(path.read_text(encoding="utf-8"))


def trained() -> tuple[torch.nn.Module, data.Pictures]:
    """Return a trained network and the pictures that are attacked."""
    network = models.SmallCNN(1, widths=(16, 32), norm="none", grid=4)
    recipe = Recipe(steps=600, batch_size=64, rate=4e-3, optimiser="adamw")
    train_classifier(network, data.load("fashion-mnist", "train", limit=10_000), recipe=recipe)
    return network.eval(), data.load("fashion-mnist", "test").sample(PICTURES, seed=0)


def compare(
    record: Record, network: torch.nn.Module, held: data.Pictures, norm: str, radius: float
) -> None:
    """Record what each attack leaves at a radius, and its seconds."""
    left: dict[str, int] = {}
    stands = []
    for name in (*OURS, *THEIRS):
        start = time.perf_counter()
        found = evaluate_robustness(
            network,
            held,
            norm,
            (radius,),
            attacks=(name,),
            steps=STEPS,
            certify=False,
            check_masking=False,
        )
        seconds = time.perf_counter() - start
        row = found.standing(name)[0]
        stands.append(row)
        left[name] = int(row.sum())
        low, high = wilson(left[name], PICTURES)
        share = 100 * left[name] / PICTURES
        record.figures[f"{norm} {radius:g}, {name}: accuracy"] = Figure(
            share, "%", (100 * low, 100 * high)
        )
        record.figures[f"{norm} {radius:g}, {name}: seconds"] = Figure(round(seconds, 2), "s")
        print(norm, name, share, round(seconds, 1))
    worst = int(torch.stack(stands).all(0).sum())
    record.figures[f"{norm} {radius:g}, worst of all"] = Figure(100 * worst / PICTURES, "%")
    ours, theirs = (min(left[name] for name in names) for names in (OURS, THEIRS))
    record.goals.append(
        Goal(
            f"pictures that our best attack leaves beyond the toolbox's best, {norm}",
            "1 or fewer of 100",
            ours - theirs,
            ours - theirs <= 1,
        )
    )


if __name__ == "__main__":
    main()
