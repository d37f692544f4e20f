"""Recurrent layers: the same weights at every step."""

from __future__ import annotations

from dataclasses import replace

from merkhet.core.graph import Node
from merkhet.unit_prior.rules.state import State, bounded, together
from merkhet.unit_prior.rules.walk import Ruled, Walk

WEIGHTS = ("params", "w_", "b_")  # how arguments that are weights begin
STARTS = ("hx", "hidden")
CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


def _saturating(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...] | str:
    """Return the states of LSTM, GRU or tanh RNN results, which their gates and tanh bound.

    |h| <= 1 for an LSTM and a tanh RNN; h of a GRU lies between its start and +-1; c of an LSTM
    grows by at most 1 a step.
    """
    if any("weight_hr" in stored for stored in node.parameters.values()):
        return "an LSTM with a projection is not read; give proj_size=0"
    if any(state.theta > 0 for name, state in data.items() if name.startswith(STARTS)):
        return "it begins with random states that are not bounded"
    why = "bounded by its gates and tanh, whatever the weights"
    found = bounded(together(data.values()), node.name, why)
    return _results(node, found)


def _results(node: Node, state: State) -> State | tuple[State, ...]:
    """Return the state of every result."""
    if len(node.shapes) == 1:
        return state
    names = [f"{node.name} {place}" for place in range(len(node.shapes))]
    return tuple(replace(state, name=name, rising=name) for name in names)


def _growing(walk: Walk, node: Node, data: dict[str, State]) -> State | tuple[State, ...] | str:
    """Return the states of an RNN with ReLU: theta_w more for every step and layer, at most.

    h_t = relu(W x_t + U h_(t-1)) is at most a sum of products of t weights and an input, and
    |w_1 ... w_t|_k <= |w|_(kt)^t by Hoelder's inequality, whether weights are the same or not.
    """
    if "batch_sizes" in node.arguments or "batch_sizes" in data:
        return "packed sequences are not read; give padded ones"
    given = [state for name, state in data.items() if not name.startswith(WEIGHTS)]
    weights = [state for name, state in data.items() if name.startswith(WEIGHTS)]
    tail = max(weights, key=lambda state: state.theta)
    times = _steps(node)
    before = max(given, key=lambda state: state.theta)
    theta = before.theta + times * tail.theta
    indices = [tail.index / times] if tail.index is not None else []
    indices += [before.index] if before.index is not None else []
    plain = theta == 0
    found = State(
        theta,
        _together(indices),
        attained=plain,
        random=True,
        up=plain,
        down=False,
        low=True,
        high=plain,
        nonneg=True,
        pools=plain,
        weights=together(data.values()),
        name=node.name,
        rising=node.name,
        reason=f"{times} times {tail.theta:g} (weights) + {before.theta:g}; an upper bound: tied",
    )
    return _results(node, found)


def _together(indices: list[float]) -> float | None:
    """Return the index of a product of power tails that may depend on each other; None of none."""
    if 0.0 in indices:
        return 0.0  # no moment of one of them is finite
    return 1 / sum(1 / index for index in indices) if indices else None


def _steps(node: Node) -> int:
    """Return how often weights are applied one after another, at most."""
    if node.op in CELLS:
        return 1
    length = node.shape[1 if node.arguments["batch_first"] else 0]
    layers = int(node.arguments["num_layers"])
    return length * layers if node.arguments["bidirectional"] else length + layers - 1


RECURRENT: dict[str, Ruled] = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh"), _saturating),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell"), _saturating),
    **dict.fromkeys(("rnn_relu", "rnn_relu_cell"), _growing),
}
