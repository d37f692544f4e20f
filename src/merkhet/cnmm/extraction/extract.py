"""Networks taken out of a mixture: plain modules that share nothing with it."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.extraction.sequences import hooked, is_nothing, is_sequence, steps
from merkhet.cnmm.extraction.submixture import SubMixture, weighted
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import Nodes, parse_nodes, path_edges, set_edges
from merkhet.cnmm.recalibration import batch_norms, recalibrated
from merkhet.cnmm.sides import Sides
from merkhet.cnmm.stage import MixtureStage
from merkhet.core.errors import InputError, choose


@torch.inference_mode(False)  # what is made there could not be trained further
def extract(
    model: nn.Module,
    nodes: Iterable[Iterable[int]],
    batches: Iterable[Tensor] | None = None,
    *,
    subset: bool = False,
) -> nn.Sequential:
    """Return one network of a mixture, or the mixture of all networks among some nodes.

    A plain network in evaluation mode: batch norms recalibrated on its own states and folded into
    the convolutions before them (in blocks of one's own where that certainly changes nothing, see
    `folded`), gates gone, only what it runs, in one sequence: "stem_0", "stage0_0_2_0" (the first
    part of the block of edge 0 -> 2), ..., "head_0". It shares no tensor with the mixture,
    has its device and dtype, and can be trained further. Its output is that of the recalibrated
    mixture with the gates of these nodes, up to rounding; where that takes only some heights and
    widths, a first part "sides" refuses others with the same words.

        network = extract(model, ((0, 2, 4), (0, 4)), batches)

    Args:
        model: The mixture; left as it is.
        nodes: For each stage the nodes to keep, as a path (consecutive ones joined), or with
            `subset` as a set (all edges among them, with constant weights).
        batches: Pictures (batch, channels, height, width), as in training but without
            augmentation, a few hundred; needed where the mixture has batch norms.
        subset: Whether the nodes are a set.

    Raises:
        InputError: No mixture, nodes that do not fit it, no pictures for its batch norms,
            batches that are no pictures, weights or statistics that are not finite, hooks on the
            mixture or its stages, or a part that cannot be copied.
    """
    mixture = mixture_of(model)
    _check_hooks(mixture)
    chosen = mixture.nodes(nodes)
    gates = mixture.subset(chosen) if subset else mixture.path(chosen)
    if batch_norms(mixture):
        mixture = recalibrated(mixture, gates, _pictures(batches, mixture))
    network = _plain(mixture, chosen, subset=subset)
    _check_finite(network, *batch_norms(mixture))
    return network


@torch.no_grad()
def assemble(model: CNMM, nodes: Nodes, *, subset: bool = False) -> nn.Sequential:
    """Return the plain network of some nodes, with the batch-norm statistics that the model has.

    Args:
        model: Left as it is.
        nodes: Checked, as `model.nodes` returns them.
        subset: Whether they are a set.
    """
    parts: dict[str, nn.Module] = {"stem": folded(model.stem)}
    gates = model.subset(nodes) if subset else model.path(nodes)
    for number, (stage, own) in enumerate(zip(model.parts(), gates, strict=True)):
        parts |= _named(f"stage{number}", stage, own)
    parts["head"] = folded(model.head)
    network = nn.Sequential()
    for name, part in parts.items():
        if not is_nothing(part):
            network.add_module(name, part)
    return network.eval()


def extracted_network(
    builder: str, arguments: Mapping[str, Any], nodes: str, subset: bool = False
) -> nn.Sequential:
    """Return a fresh network with the architecture of an extracted one, for weights to load into.

    Every argument is one that JSON can hold.

    Args:
        builder: Name of the mixture's builder, such as "cnmm_classifier".
        arguments: The builder's.
        nodes: As `nodes.written` writes them: "0-2-4,0-1-2-3-4".
        subset: Whether they are a set, as for `extract`.

    Raises:
        InputError: No such builder of mixtures, arguments it does not take, or nodes that do not
            fit its mixture.
    """
    from merkhet.cnmm.networks import NETWORKS  # it may offer this very function

    found = cast("Mapping[str, Callable[..., nn.Module]]", NETWORKS)
    builders = {name: made for name, made in found.items() if made is not extracted_network}
    build = builders[choose("mixture", builder, builders)]
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(build).parameters)
        raise InputError(f"{builder}: {error}; it takes {takes}") from error
    mixture = mixture_of(build(**arguments))
    return _plain(mixture, parse_nodes(nodes, mixture.counts), subset=subset)


def _plain(model: CNMM, nodes: Nodes, *, subset: bool) -> nn.Sequential:
    """Return the network of some nodes in one sequence, that refuses sides as the mixture does."""
    parts = dict(assemble(model, nodes, subset=subset).named_children())
    if model.multiple > 1:
        parts = {"sides": Sides(model.multiple), **parts}
    return flat(nn.Sequential(OrderedDict(parts)).eval())


def flat(network: nn.Sequential) -> nn.Sequential:
    """Return the same modules in one sequence: each sequence in it is a call more.

    Args:
        network: As `assemble` returns it. A part "head" that is a sequence gives "head_0", ...
    """
    made = nn.Sequential()
    for name, part in network.named_children():
        for number, step in enumerate(steps(part)):
            made.add_module(f"{name}_{number}" if is_sequence(part) else name, step)
    return made.train(network.training)


def _named(name: str, stage: MixtureStage, gates: Gates) -> dict[str, nn.Module]:
    """Return the plain parts of one stage by name: a chain's blocks, or one sub-mixture."""
    if gates.hard:
        return {f"{name}_{i}_{j}": folded(stage.block(i, j)) for i, j in path_edges(gates.nodes)}
    weights, first = gates.weights(), gates.nodes[:2]
    blocks = {(i, j): folded(stage.block(i, j)) for i, j in set_edges(gates.nodes)}
    # The second node has one edge into it, whose weight is 1.
    scaled = {
        edge: block if edge == first else weighted(block, weights[edge])
        for edge, block in blocks.items()
    }
    return {name: SubMixture(scaled, gates.nodes)}


def _check_hooks(model: CNMM) -> None:
    """Refuse hooks on what an extracted network does not have: the mixture and its stages."""
    for name, part in [("the mixture", model), *model.stages.named_children()]:
        if hooked(part):
            raise InputError(
                f"a hook on {name if part is model else f'stage {name}'}, which an extracted "
                "network does not have: take it off, handle.remove(), and hang it on the network"
            )


def _pictures(batches: Iterable[Tensor] | None, model: CNMM) -> Iterator[Tensor]:
    """Yield batches of pictures, checked, in the model's dtype."""
    if not isinstance(batches, Iterable):
        raise InputError(
            "this mixture has batch norms, whose statistics each of its networks needs anew: "
            "give batches of pictures, as in extract(model, nodes, [pictures[:256]])"
        )
    dtype = next(model.parameters()).dtype
    for batch in batches:
        if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.dim() != 4:
            raise InputError(
                f"a batch is {_described(batch)}: give pictures alone, floating (batch, channels, "
                "height, width), as in [pictures[:256]] or (x for x, labels in loader)"
            )
        yield batch.to(dtype)


def _described(batch: object) -> str:
    """Return in words what a batch is."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and {batch.dtype}"
    return f"a {type(batch).__name__}"


def _check_finite(*parts: nn.Module) -> None:
    """Refuse weights and statistics that are not finite."""
    for part in parts:
        for name, tensor in part.state_dict().items():
            if not tensor.isfinite().all():
                raise InputError(
                    f"{name} of the network is not finite: weights of the mixture, or statistics "
                    "of the pictures, are infinite or no number; look with torch.isfinite"
                )
