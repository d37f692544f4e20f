"""The parts of a mixture, stem, blocks and head, and the inputs that they meet."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import set_edges
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating

Edge = tuple[int, int]
Place = tuple[int, Edge]  # a stage and an edge of it


def parts_of(model: CNMM) -> Iterator[tuple[Place | None, nn.Module]]:
    """Yield stem, blocks and head with their places: (stage, edge), or None for stem and head."""
    yield None, model.stem
    for number, stage in enumerate(model.parts()):
        for edge in set_edges(range(stage.num_nodes)):
            yield (number, edge), stage.block(*edge)
    yield None, model.head


def run_parts(model: CNMM, example: Tensor) -> Iterator[tuple[Place | None, nn.Module, Tensor]]:
    """Yield the parts of a mixture with inputs of the shape that they meet.

    Args:
        model: The mixture.
        example: Pictures, (batch, channels, height, width).

    Yields:
        (stage, edge) or None for stem and head; the part; its input.

    Raises:
        InputError: The mixture does not run on the pictures.
    """
    met: list[tuple[Place | None, nn.Module, Tensor]] = []
    handles = []
    with evaluating(model):
        for place, part in parts_of(model):

            def hook(part: nn.Module, inputs: tuple[Tensor], place: object = place) -> None:
                met.append((place, part, inputs[0].detach()))  # type: ignore[arg-type]

            handles.append(part.register_forward_pre_hook(hook))
        try:
            model(example)
        except RuntimeError as error:
            raise InputError(
                f"the mixture does not run on pictures of shape {tuple(example.shape)}: "
                f"{first_line(error)}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    yield from met
