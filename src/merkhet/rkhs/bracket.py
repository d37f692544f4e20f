"""The Lipschitz constant of a network, from below and from above.

f maps one example to the network's main output, both with the l2 norm, in evaluation mode.

Source: Bietti, Mialon, Chen and Mairal, ICML 2019 (arXiv 1810.00363), Sections 2.2 and 2.3; the
reading of graphs and the operator norms are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator
from merkhet.core.errors import InputError, choose
from merkhet.core.graph import Network, read, trace
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.power import power_norm
from merkhet.core.outputs import PREFERRED
from merkhet.rkhs.certified import certified_norm
from merkhet.rkhs.exact_copy import check_inputs, exact_copy, exact_inputs, mixes_examples
from merkhet.rkhs.lower import Lower, lower_bound
from merkhet.rkhs.prepared import Prepared
from merkhet.rkhs.rules import rules
from merkhet.rkhs.rules_attention import ATTENTION
from merkhet.rkhs.rules_state import Bound, Part, State, Walk

METHODS = ("certified", "power")
BATCH = 3  # examples of the trace: a number that few networks have for another size
ONE_WAY = (
    "torch.export could not trace this network: its modules were watched on one input, and other "
    "inputs may go another way"
)
SLACK = 1e-12  # relative, for the products and sums of some thousand float64 factors


@dataclass(frozen=True)
class Upper:
    """An upper bound of a network's Lipschitz constant, or an estimate of one.

    Attributes:
        value: The bound; inf where there is none.
        parts: Factors that it is made of, in the order of the network. Along a path they are
            multiplied, over the branches of a sum their products are added.
        reasons: Why it is infinite, or empty.
        estimate: Whether the norms of operators are estimates, so that no bound is proved.
        head: What precedes a last linear layer, and its rows; None where there is none.
    """

    value: float
    parts: tuple[Part, ...]
    reasons: tuple[str, ...]
    estimate: bool
    head: Head | None = None


@dataclass(frozen=True, eq=False)
class Head:
    """The linear operators at the end of a network, down to the last result that is not linear.

    f_k(x) - f_k(x') = <rows_k, g(x) - g(x')>, with g of Lipschitz constant `before` at most.

    Attributes:
        before: Upper bound of the Lipschitz constant of g.
        rows: (outputs, *shape of g), float64.
    """

    before: float
    rows: Tensor


@dataclass(frozen=True)
class Bracket:
    """Bounds of a network's Lipschitz constant, l2 to l2.

    Attributes:
        lower: No Lipschitz constant is below it: a ratio |f(x) - f(x')| / |x - x'| that occurs.
        upper: None is above it; with `estimate`, only an estimate of such a bound.
        parts: The factors of the upper one.
        reasons: Why the upper one is infinite, or empty.
        estimate: Whether the upper one is an estimate, of method="power".
        where: Where the lower one was reached.
        head: The network's last linear operators, for certificates; or None.
    """

    lower: float
    upper: float
    parts: tuple[Part, ...]
    reasons: tuple[str, ...]
    estimate: bool
    where: str
    head: Head | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def ratio(self) -> float:
        """Upper over lower; inf where the lower one is 0 and the upper one is not."""
        if self.lower == 0:
            return 1.0 if self.upper == 0 else math.inf
        return self.upper / self.lower

    def __str__(self) -> str:
        rows = [
            (part.path or "-", part.operation, f"{part.factor:.6g}", part.how)
            for part in self.parts
        ]
        table = [("path", "operation", "factor", "how"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in table
        ]
        word = "estimate of an upper bound" if self.estimate else "upper bound"
        ends = [
            f"Lipschitz constant, l2: lower bound {self.lower:.6g} ({self.where})",
            f"{word} {self.upper:.6g}, {self.ratio:.3g} times the lower one",
            *self.reasons,
        ]
        if self.parts:
            widest = max(self.parts, key=lambda part: part.factor)
            name = f"{widest.path or '-'} ({widest.operation})"
            ends.insert(2, f"largest factor {widest.factor:.6g}, of {name}")
        return "\n".join([*(line.rstrip() for line in lines), *ends])


@torch.inference_mode(False)
def lipschitz(
    model: nn.Module,
    inputs: Tensor,
    *,
    method: str = "certified",
    ascents: int = 4,
    steps: int = 20,
    seed: int = 0,
) -> Bracket:
    """Return bounds of the Lipschitz constant of a network, of l2 norms of one example.

    It is that of the network as evaluated, in exact arithmetic, from its one input to its main
    output, over all of space: the upper bound holds for every pair of examples. A module with a
    method `lipschitz_constant(input_shape) -> float` is taken at its word. The network's mode,
    weights and statistics are left as they are. Where its code rounds to a narrower type
    (.float(), .half()), the upper end is that without rounding, and the lower one allows for it.

    Args:
        model: The network.
        inputs: (n, *shape), examples around which the lower bound is looked for.
        method: "certified" norms of operators, or "power" iteration, faster and an estimate.
        ascents: Examples that the lower bound is pushed up from; 0 for none.
        steps: Of each push.
        seed: Of the directions that power iteration starts from.

    Returns:
        The bracket. Its upper end is inf where an operation has no finite constant or is not
        known, with the reason.

    Raises:
        InputError: The network does not run on the inputs, has several, or weights or inputs that
            are not finite; or a number is out of its range.

    Example:
        >>> from torch import nn
        >>> found = lipschitz(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.rand(4, 3))
        >>> found.lower <= found.upper
        True
    """
    choose("method", method, METHODS)
    _check_counts(ascents=ascents, steps=steps)
    as_generator(seed)
    check_inputs(inputs)
    copy = exact_copy(model, inputs)
    above = upper_bound(copy, inputs, method=method)
    below = Lower(0.0, "none was looked for: examples of a batch depend on each other")
    if not mixes_examples(copy, inputs):  # else f of one example is no function
        below = lower_bound(copy, inputs, ascents=ascents, steps=steps, seed=seed)
    return Bracket(
        below.value,
        above.value,
        above.parts,
        above.reasons,
        above.estimate,
        below.where,
        above.head,
    )


def upper_bound(model: nn.Module, inputs: Tensor, *, method: str = "certified") -> Upper:
    """Return an upper bound of the Lipschitz constant of a network.

    Args:
        model: The network, in float64.
        inputs: (n, *shape); the first is the example that the network is traced with.
        method: "certified" or "power".

    Raises:
        InputError: As in `lipschitz`.
    """
    example = exact_inputs(inputs[:1]).expand(BATCH, *inputs.shape[1:]).clone()
    network, output = _to_output(trace(model, example))
    walk = Walk(network, _certified if method == "certified" else _estimated, BATCH)
    start = Bound(1.0, network.inputs[0].name, tuple(inputs.shape[1:]))
    states: Mapping[str, State] = read(network, rules(walk, model), start).states  # type: ignore[assignment]
    state = states[output]
    if state is None:
        return Upper(0.0, (), (), method == "power")
    value, reasons = walk.total(state), _few(state.reasons)
    if network.node(output).shape[:1] != (BATCH,):
        value, reasons = math.inf, (*reasons, "the output has no place for each example")
    if network.source == "hooks" and not _in_order(model):
        value, reasons = math.inf, (*reasons, f"{ONE_WAY} ({network.reason})")
    if math.isinf(value) and not reasons:
        reasons = ("the bound is larger than float64 holds",)
    head = _head(state, network.node(output).shape)
    return Upper(value * (1 + SLACK), tuple(walk.parts), reasons, method == "power", head)


def _in_order(model: nn.Module) -> bool:
    """Tell whether all inputs go the same way: modules call those inside one after another.

    What an innermost module does itself is not asked here: torch's own are known, others have a
    rule or an infinite bound.
    """
    inner = [part for part in model.modules() if any(True for _ in part.children())]
    known = nn.Sequential.forward, Prepared.forward
    declared = [part for part in inner if hasattr(part, "lipschitz_constant")]
    whole = {id(below) for part in declared for below in part.modules()}
    return all(
        type(part).forward in known and "forward" not in vars(part)
        for part in inner
        if id(part) not in whole
    )


def _check_counts(**counts: object) -> None:
    """Refuse what is no whole number of at least 0.

    Raises:
        InputError: Names it.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{name} = {value!r}: give a whole number of at least 0")


def _few(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Return each reason once with the first of its places, attention before others."""
    places: dict[str, list[str]] = {}
    for reason in sorted(reasons, key=lambda one: ATTENTION not in one):
        place, _, why = reason.partition(": ")
        places.setdefault(why, []).append(place)
    more = {why: f" and {len(at) - 1} more" if len(at) > 1 else "" for why, at in places.items()}
    return tuple(f"{at[0]}{more[why]}: {why}" for why, at in places.items())


def _certified(chain: Chain) -> tuple[float, str]:
    """Return a bound of an operator's norm, and how it was found."""
    found = certified_norm(chain)
    return found.value, found.how


def _estimated(chain: Chain) -> tuple[float, str]:
    """Return an estimate of an operator's norm."""
    return power_norm(chain), "power iteration, an estimate"


def _to_output(network: Network) -> tuple[Network, str]:
    """Return the part of a network that its main output depends on, and that output's node."""
    output = _main(network)
    needed = {output, *(node.name for node in network.inputs)}
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = tuple(node for node in network.nodes if node.name in needed)
    return dataclasses.replace(network, nodes=kept), output


def _main(network: Network) -> str:
    """Return the node of the main output, as `core.outputs.main_tensor` picks it."""
    for name in ("", *PREFERRED):
        if name in network.outputs:
            return network.outputs[name]
    names = list(network.outputs.values())
    real = [name for name in names if network.node(name).shape and _real(network, name)]
    return (real or names)[0]


def _real(network: Network, name: str) -> bool:
    """Tell whether a node's results are floats."""
    dtype = network.node(name).dtype
    return dtype is None or dtype.is_floating_point


def _head(state: Bound, shape: tuple[int, ...]) -> Head | None:
    """Return the linear operators at the end of a network of several outputs (n, outputs)."""
    if not state.steps or len(shape) != 2 or math.isinf(state.base):
        return None
    rows = state.chain.transpose(torch.eye(shape[1], dtype=torch.float64))
    return Head(state.base, rows)
