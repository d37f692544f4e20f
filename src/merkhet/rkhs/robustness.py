"""Robust accuracy: what attacks leave, what is certified, whether the attacks can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError, choose, need
from merkhet.rkhs.attacked import Attacked, attacked
from merkhet.rkhs.attacks import PGD, Attack, Noise
from merkhet.rkhs.contradictions import certificates, refuse_contradictions
from merkhet.rkhs.evaluated import Labelled, check_radii, labelled, rightly_judged
from merkhet.rkhs.masking import MaskingWarning, masking_warnings
from merkhet.rkhs.robustness_result import CERTIFIED, WORST, Robustness
from merkhet.rkhs.threat import Examples, Threat
from merkhet.rkhs.toolbox import APGD, Square

PLAIN = ("pgd", "pgd-margin", "noise")
TOOLBOX = ("apgd-ce", "apgd-dlr", "square")


@torch.inference_mode(False)
def evaluate_robustness(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Labelled,
    norm: str = "l2",
    radii: Sequence[float] = (0.25, 0.5, 1.0),
    *,
    attacks: str | Attack | Iterable[str | Attack] = PLAIN,
    restarts: int = 1,
    steps: int = 40,
    clip: tuple[float, float] | None = (0.0, 1.0),
    certify: bool | Tensor | None = None,
    check_masking: bool = True,
    seed: int = 0,
    batch_size: int = 128,
) -> Robustness:
    """Measure accuracy under attacks, by radius, with certificates and warnings.

    Each attack goes from the smallest radius to the largest, on the examples that still stand: an
    example that falls within a radius has fallen within every larger one. At radius 0 accuracy is
    the clean one. What an attack returns is brought into the ball and among the valid inputs, and
    judged by the network itself. A network that does not fall has withstood these attacks, not
    all of them: only the certified share is certain.

    Args:
        model: A classifier of inputs (n, ...) with scores (n, classes), its normalisation inside.
            It is evaluated in evaluation mode and left as it was.
        data: Inputs (n, ...) and labels (n,), or `merkhet.data.Pictures`.
        norm: "l2" or "linf".
        radii: Increasing, in the units of the inputs: for pictures, of pixels in [0, 1].
        attacks: Names or attacks: "pgd", "pgd-margin", "noise"; with the extra `robust` also
            "apgd-ce", "apgd-dlr" and "square".
        restarts: Random starts of attacks by name, after the one from the example.
        steps: Steps of each start of attacks by name.
        clip: The least and the largest valid input, or None for no limit.
        certify: Whether to compute certified radii ("l2" only). None does where it can be done,
            and notes why not; a tensor (n,) of certified radii is taken as it is.
        check_masking: Whether to look for signs that gradients mislead the attacks: passes over
            128 examples at most, some of them attacks.
        seed: Of the random starts. Those of an example do not depend on the other examples.
        batch_size: Examples at once.

    Raises:
        InputError: Inputs are not within `clip`, labels are no classes, scores are not finite,
            radii do not increase, an attack does not fit the network, or it finds a misjudged point
            within a radius given as `certify`.
        AssertionError: An attack flips an example within a radius certified here: an error of ours.
    """
    threat, chosen = Threat(norm, clip), _chosen(attacks, steps, restarts)
    examples = labelled(data, threat, seed)
    radii = check_radii(radii)
    if batch_size < 1 or batch_size != int(batch_size):
        raise InputError(f"batch_size={batch_size}: give a whole number, 1 or more")
    with attacked(model, batch_size) as network:
        clean = rightly_judged(network, examples)
    certified, notes = certificates(model, examples, norm, certify)
    with attacked(model, batch_size) as network:
        search = _Search(network, examples, threat, clean)
        stands = {attack: search.sweep(attack, radii) for attack in chosen}
        right = {attack: stood[:, clean] for attack, stood in stands.items()}
        warnings: tuple[MaskingWarning, ...] = ()
        if check_masking and bool(clean.any()):
            warnings = masking_warnings(network, examples.take(clean), threat, radii, right)
    if certified is not None:
        notes += refuse_contradictions(
            model,
            examples,
            search.points,
            search.distances,
            certified,
            given=isinstance(certify, Tensor),
        )
    notes += _unresolved(examples.x, threat, radii)
    return Robustness(
        norm=norm,
        radii=radii,
        clip=clip,
        clean=clean,
        stands={attack.name: stood for attack, stood in stands.items()},
        distances=search.distances,
        certified=certified,
        warnings=warnings,
        notes=notes,
        settings={"attacks": [repr(attack) for attack in chosen], "seed": seed},
    )


@dataclass
class _Search:
    """The nearest misjudged points that attacks have found so far.

    Attributes:
        points: For each example the nearest misjudged point, (n, ...); itself where there is none.
        distances: Their distances (n,) float64; inf where there is none.
    """

    network: Attacked
    examples: Examples
    threat: Threat
    clean: Tensor
    points: Tensor = field(init=False)
    distances: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.points = self.examples.x.clone()
        self.distances = torch.where(self.clean, math.inf, torch.zeros(len(self.clean)).double())

    def sweep(self, attack: Attack, radii: Sequence[float]) -> Tensor:
        """Return which examples stand at each radius under an attack, bools (radii, n)."""
        standing, rows = self.clean.clone(), []
        for radius in radii:
            left = standing.nonzero().squeeze(1)
            if radius > 0 and len(left):
                points, wrong = attack.find(
                    self.network, self.examples.take(left), self.threat, radius
                )
                standing[left[wrong]] = False
                self._keep(left[wrong], points[wrong])
            rows.append(standing.clone())
        return torch.stack(rows)

    def _keep(self, rows: Tensor, points: Tensor) -> None:
        """Keep misjudged points (m, ...) of the examples `rows` that are nearer than before."""
        sizes = self.threat.sizes(self.examples.x[rows], points)
        nearer = sizes < self.distances[rows]
        self.points[rows[nearer]] = points[nearer]
        self.distances[rows[nearer]] = sizes[nearer]


def _unresolved(x: Tensor, threat: Threat, radii: Sequence[float]) -> tuple[str, ...]:
    """Say within which radii rounding leaves attacks no room."""
    small = [f"{radius:g}" for radius in radii if radius > 0 and not threat.within(x, radius)]
    if not small:
        return ()
    dtype = str(x.dtype).removeprefix("torch.")
    return (
        f"Within {', '.join(small)} attacks cannot move: {dtype} does not resolve so small a "
        "change of these inputs, so accuracy there is the clean one; give inputs and network in a "
        "finer dtype.",
    )


def _chosen(
    attacks: str | Attack | Iterable[str | Attack], steps: int, restarts: int
) -> tuple[Attack, ...]:
    """Return the attacks by name, and others as they are.

    Raises:
        InputError: None, two of one name, no such name, or settings that do not fit.
    """
    by_name: dict[str, Attack] = {
        "pgd": PGD("cross_entropy", steps, restarts),
        "pgd-margin": PGD("margin", steps, restarts),
        "noise": Noise(),
        "apgd-ce": APGD("ce", steps, restarts + 1),
        "apgd-dlr": APGD("dlr", steps, restarts + 1),
        "square": Square(),
    }
    given = [attacks] if isinstance(attacks, str | Attack) else attacks
    if not isinstance(given, Iterable):
        raise InputError(f"attacks {given!r}: give names or attacks, as ('pgd', 'noise')")
    chosen = tuple(
        one if isinstance(one, Attack) else by_name[choose("attack", one, by_name)] for one in given
    )
    names = [attack.name for attack in chosen]
    if any(isinstance(attack, APGD | Square) for attack in chosen):
        need("art.attacks.evasion", "robust")  # before the others have taken their time
    if {WORST, CERTIFIED} & set(names):
        raise InputError(f"attacks {names}: {WORST} and {CERTIFIED} name other rows: rename yours")
    if not names or len(set(names)) < len(names):
        raise InputError(f"attacks {names}: give one or more of different names")
    return chosen
