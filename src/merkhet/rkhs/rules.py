"""The rules that read any network's operations for an upper bound of its Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from merkhet.core.graph import Node, Rule
from merkhet.core.graph.kinds import KINDS
from merkhet.rkhs.rules_arithmetic import ARITHMETIC, UNBOUNDED
from merkhet.rkhs.rules_attention import ATTENTION, Attention
from merkhet.rkhs.rules_declared import Declared
from merkhet.rkhs.rules_linear import DRAWN, LINEAR, MIXES, linear_rule
from merkhet.rkhs.rules_normalising import NORMALISING
from merkhet.rkhs.rules_shape import SHAPES
from merkhet.rkhs.rules_state import Bound, State, Walk, reasons_of
from merkhet.rkhs.slopes import BY_ARGUMENTS, INFINITE, SLOPES, slope

Ruled = Callable[[Walk, Node, tuple[State, ...]], Bound | str]

REFUSALS: dict[str, str] = {
    **INFINITE,
    **dict.fromkeys(KINDS["attention"], ATTENTION),
    **dict.fromkeys(
        ("bmm", "baddbmm", "addbmm", "dot", "einsum", "bilinear"),
        "a product of two results has no finite bound, and of products with a constant only "
        "x @ matrix and torch's layers are read: write it so",
    ),
    **dict.fromkeys(KINDS["recurrent"], "recurrent layers multiply results with results"),
    **dict.fromkeys(KINDS["embedding"], "it reads integers, between which nothing is continuous"),
    **dict.fromkeys(("rand_like", "randn_like", "native_dropout"), DRAWN),
    "untraced": "torch.export could not trace this network, and hooks see modules only",
}
DECLARE = (
    "no rule is known for it; declare lipschitz_constant(input_shape) -> float on its module to "
    "have that taken at its word"
)
JUMPS = "its results are no real numbers, and jump"


def rules(walk: Walk, module: nn.Module) -> dict[str, Rule]:
    """Return a rule for each operation, and one for those that have none.

    Args:
        walk: The reading.
        module: The network that was traced; a module in it with a method
            `lipschitz_constant(input_shape) -> float` is taken at its word as a whole.
    """
    own: dict[str, Ruled] = {
        **dict.fromkeys(LINEAR, linear_rule),
        **dict.fromkeys((*SLOPES, *BY_ARGUMENTS), sloped),
        **SHAPES,
        **ARITHMETIC,
        **NORMALISING,
    }
    wholes = Declared(walk, module), Attention(walk, module)
    ruled = {op: _ruled(rule, walk, wholes) for op, rule in own.items()}
    fixed: dict[str, Rule] = {op: _constant for op in KINDS["constant"] if "rand" not in op}
    special: dict[str, Rule] = {"constant": _constant, "unknown": _ruled(_unknown, walk, wholes)}
    return {**ruled, **fixed, **special}


def _ruled(rule: Ruled, walk: Walk, wholes: tuple[Declared | Attention, ...]) -> Rule:
    """Return a rule that may answer why not, in words, and minds modules that are read whole."""

    def ruled(node: Node, given: tuple[State, ...]) -> State:
        for whole in wholes:
            if whole.covers(node):
                return whole.state(node, given)
        if node.inputs and all(state is None for state in given):
            return None
        if node.dtype is not None and not node.dtype.is_floating_point:
            return walk.infinite(node, given, JUMPS)
        found = rule(walk, node, given)
        if found == MIXES and (known := reasons_of(tuple(one for one in given if one is not None))):
            return walk.anew(node, math.inf, known)  # where they went is not known any more
        return walk.infinite(node, given, found) if isinstance(found, str) else found

    return ruled


def sloped(walk: Walk, node: Node, given: tuple[State, ...]) -> Bound | str:
    """Return the state after an operation that acts entry by entry."""
    data = walk.data(node, given)
    if list(data) != ["input"]:
        return UNBOUNDED
    if node.shape[:1] != (walk.batch,):
        return MIXES
    try:
        found = slope(node, walk.constants)
    except LookupError as error:
        return f"its slope is not known: {error.args[0]}"
    return found if isinstance(found, str) else walk.after(node, data["input"], found)


def _constant(_node: Node, _given: tuple[State, ...]) -> None:
    """Return the state of what does not depend on the input."""


def _unknown(walk: Walk, node: Node, given: tuple[State, ...]) -> str:
    """Say why an operation has no bound."""
    seen = walk.network.reason
    unseen = f"torch.export could not follow the network ({seen}), and " if seen else ""
    return REFUSALS.get(node.op, unseen + DECLARE)
