"""The result of an evaluation of robustness: which examples stand, in numbers and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import choose
from merkhet.core.intervals import wilson
from merkhet.rkhs.masking import MaskingWarning

WORST, CERTIFIED = "worst", "certified"


@dataclass(frozen=True, eq=False, repr=False)
class Robustness:
    """Accuracy by radius: under each attack, under the worst of them, and as certified.

    "worst" is the pointwise worst of the attacks that ran: an example stands if none of them, at
    this or at a larger radius, found a misjudged point of the ball. It is an upper estimate of
    robust accuracy, and not the published AutoAttack figure: FAB and the targeted DLR attack are
    not among the attacks. "certified" is a lower bound of robust accuracy over the whole l2 ball,
    which holds for valid inputs as well.

    Attributes:
        norm: "l2" or "linf".
        radii: In the units of the inputs.
        clip: The least and the largest valid input, or None.
        clean: Which examples the network judges rightly, bools (n,).
        stands: For each attack, which examples stand at each radius, bools (radii, n).
        distances: The smallest size of a perturbation that any attack found to flip an example,
            (n,) float64: 0 for those misjudged already, inf where none was found.
        certified: Certified l2 radii (n,) float64, or None.
        warnings: Signs that the attacks were misled.
        notes: What else must be known.
        settings: Attacks and seed.
    """

    norm: str
    radii: tuple[float, ...]
    clip: tuple[float, float] | None
    clean: Tensor
    stands: dict[str, Tensor]
    distances: Tensor
    certified: Tensor | None = None
    warnings: tuple[MaskingWarning, ...] = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def worst(self) -> Tensor:
        """Which examples stand under every attack, bools (radii, n).

        A larger ball's search may find a point that the smaller one's missed: it counts in both.
        """
        at = torch.tensor(self.radii, dtype=torch.float64)
        unfound = self.clean & (self.distances > at[:, None])
        return torch.stack([unfound, *self.stands.values()]).all(0)

    @property
    def clean_accuracy(self) -> float:
        """The share of examples judged rightly without an attack."""
        return float(self.clean.double().mean())

    def standing(self, which: str = WORST) -> Tensor:
        """Return which examples stand at each radius, bools (radii, n).

        Args:
            which: An attack's name, "worst" or "certified".

        Raises:
            InputError: No such attack, or nothing was certified.
        """
        rows = {**self.stands, WORST: self.worst}
        if self.certified is not None:
            at = torch.tensor(self.radii, dtype=torch.float64)
            rows[CERTIFIED] = self.certified > at[:, None]
        return rows[choose("attack of this result", which, rows)]

    def accuracy(self, which: str = WORST) -> tuple[float, ...]:
        """Return the share of examples that stand, for each radius; `which` as in `standing`."""
        return tuple(self.standing(which).double().mean(1).tolist())

    def intervals(self, which: str = WORST) -> tuple[tuple[float, float], ...]:
        """Return Wilson's 95 % intervals of `accuracy`: how much it depends on the examples."""
        return tuple(wilson(int(row.sum()), len(row)) for row in self.standing(which))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON takes them, without what concerns single examples."""
        low, high = wilson(int(self.clean.sum()), len(self.clean))
        return {
            "norm": self.norm,
            "radii": list(self.radii),
            "clip": None if self.clip is None else list(self.clip),
            "examples": len(self.clean),
            "clean": {"accuracy": self.clean_accuracy, "interval": [low, high]},
            "under": {
                name: {
                    "accuracy": list(self.accuracy(name)),
                    "intervals": [list(one) for one in self.intervals(name)],
                }
                for name in self._rows()
            },
            "warnings": [vars(warning) for warning in self.warnings],
            "notes": list(self.notes),
            "settings": self.settings,
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Return a table of accuracies in %, with the intervals of the worst, and the warnings."""
        names = self._rows()
        width = max(map(len, (*names, "linf radius")))
        heads = "".join(f"{radius:>10.4g}" for radius in self.radii)
        lines = [f"{self.norm} radius".ljust(width) + f"{'clean':>10}{heads}"]
        for name in names:
            shares = (self.clean_accuracy, *self.accuracy(name))
            lines.append(name.ljust(width) + "".join(f"{share:>10.1%}" for share in shares))
        told = ", ".join(f"{low:.1%} to {high:.1%}" for low, high in self.intervals())
        lines.append(f"{len(self.clean)} examples; 95 % intervals of the worst: {told}")
        lines += [f"warning ({one.name}): {one.sentence}" for one in self.warnings]
        return "\n".join([*lines, *self.notes])

    def _rows(self) -> tuple[str, ...]:
        """Return the names of the table's rows."""
        certified = () if self.certified is None else (CERTIFIED,)
        return (*self.stands, WORST, *certified)
