"""Choices of nodes: the paths and the node sets of a mixture, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise, product
from operator import index

from merkhet.core.errors import InputError

# For each stage the nodes that are kept, in order, the first and the last among them. Read as a
# path, consecutive nodes are joined and no others; read as a node set, all of them are.
Nodes = tuple[tuple[int, ...], ...]


def as_nodes(given: Iterable[Iterable[int]] | str, counts: Sequence[int]) -> Nodes:
    """Return a choice of nodes, checked against the stages that it is for.

    Args:
        given: The nodes of each stage, such as ((0, 2, 4), (0, 1, 2, 3, 4)), or as text
            "0-2-4,0-1-2-3-4".
        counts: How many nodes each stage has.

    Raises:
        InputError: No whole numbers, another number of stages, nodes that are not there, out of
            order or twice, or a route that does not lead from the first node to the last.
    """
    if isinstance(given, str):
        return parse_nodes(given, counts)
    try:
        chosen = tuple(tuple(map(index, stage)) for stage in given)
    except TypeError as error:
        raise InputError(
            f"nodes {given!r}: give for each stage a tuple of whole numbers, as in "
            f"{full_nodes(counts)}"
        ) from error
    if len(chosen) != len(counts):
        raise InputError(
            f"nodes of {len(chosen)} stages for a mixture of {len(counts)}: give for each stage a "
            f"tuple of nodes, as in {full_nodes(counts)}"
        )
    for stage, (nodes, count) in enumerate(zip(chosen, counts, strict=True)):
        rising = all(one < other for one, other in pairwise(nodes))
        if len(nodes) < 2 or nodes[0] != 0 or nodes[-1] != count - 1 or not rising:
            raise InputError(
                f"nodes {nodes} of stage {stage}: the route is cut or out of order; give rising "
                f"nodes from 0 to {count - 1}, both among them, as in {(0, count - 1)}"
            )
    return chosen


def full_nodes(counts: Iterable[int]) -> Nodes:
    """Return every node of every stage: as a path, the deepest network."""
    return tuple(tuple(range(count)) for count in counts)


def shortest_nodes(counts: Iterable[int]) -> Nodes:
    """Return the first and last node of every stage: the network of fewest blocks."""
    return tuple((0, count - 1) for count in counts)


def every_path(counts: Sequence[int]) -> Iterator[Nodes]:
    """Yield each of the prod 2^(count - 2) paths; mind their number.

    Args:
        counts: How many nodes each stage has.
    """
    yield from product(*(tuple(_stage_paths(count)) for count in counts))


def path_edges(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the edges of a path through one stage."""
    return list(pairwise(nodes))


def set_edges(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the edges among the nodes of a set in one stage."""
    return list(combinations(nodes, 2))


def written(nodes: Nodes) -> str:
    """Return a choice of nodes as the command line takes it: "0-2-4,0-1-2-3-4"."""
    return ",".join("-".join(map(str, stage)) for stage in nodes)


def parse_nodes(text: str, counts: Sequence[int]) -> Nodes:
    """Return the choice of nodes that `written` wrote.

    Raises:
        InputError: The text is not of that form, or the choice does not fit the stages.
    """
    try:
        given = [[int(node) for node in stage.split("-")] for stage in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"nodes {text!r}: give them stage by stage, as in {written(full_nodes(counts))}"
        ) from error
    return as_nodes(given, counts)


def _stage_paths(count: int) -> Iterator[tuple[int, ...]]:
    """Yield the paths through one stage, the shortest first."""
    inner = range(1, count - 1)
    for size in range(len(inner) + 1):
        for kept in combinations(inner, size):
            yield (0, *kept, count - 1)
