"""Units of any network over draws of its weights, by the cheapest way that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts
from merkhet.core.progress import progress_bar
from merkhet.unit_prior.sampling.wanted import Units
from merkhet.unit_prior.sampling.ways import draw_by_cheapest
from merkhet.unit_prior.weight_priors import WeightPrior
from merkhet.unit_prior.weight_priors import weight_prior as parse


@dataclass(frozen=True)
class Samples:
    """Units over draws of the weights.

    Attributes:
        values: By module path, (n, inputs, units) float64. A row is one network: units and
            inputs of a row belong together, rows are independent.
        method: How they were drawn, in words.
        n: Draws.
    """

    values: dict[str, Tensor]
    method: str
    n: int


def sample_units(
    module: nn.Module,
    x: Any,
    weight_prior: str | WeightPrior = "gaussian",
    n: int = 1000,
    units: Units = None,
    generator: int | torch.Generator | None = None,
    *,
    progress: bool = True,
) -> Samples:
    """Draw units of a network over fresh weights, at given inputs.

    The network runs in evaluation mode, with batch norms as they begin; it is left as it is, and
    so are the global generators. Its own values serve for parameters that no prior covers
    (`draw_parameters` says which).

    Args:
        module: Any network.
        x: A batch of inputs (inputs, ...) as the network takes them, or a tuple or mapping of
            arguments.
        weight_prior: A `WeightPrior` or its name; "init" is what the modules draw themselves.
        n: Draws.
        units: By module path, which units: numbers within the flattened output for one input. A
            path or a sequence of them takes unit 0 of each; None is unit 0 of the output, "".
        generator: A generator or a seed; None is the seed 0.
        progress: Whether a terminal shows a bar.

    Returns:
        The units' values, as the modules return them, and how they were drawn.

    Raises:
        InputError: NaN or infinity in x, a network that does not run on x or gives no numbers for
            each input, no such module, or units that it does not have.
    """
    check_counts(n=n)
    prior, source = parse(weight_prior), as_generator(0 if generator is None else generator)
    with progress_bar("units", n, unit="draws", shown=progress) as tell:
        return Samples(*draw_by_cheapest(module, x, prior, n, units, source, tell=tell), n)
