"""Fresh weights for any network: drawn from a prior, or as its modules initialise themselves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from merkhet.core.building import as_generator, check_counts
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled
from merkhet.unit_prior.sampling.fresh_init import initialise
from merkhet.unit_prior.sampling.fresh_roles import BIAS, KEPT, ONES, WEIGHT, Role, norms, roles
from merkhet.unit_prior.weight_priors import WeightPrior, weight_prior


def fresh_copy(
    module: nn.Module,
    prior: str | WeightPrior = "gaussian",
    generator: int | torch.Generator | None = None,
) -> nn.Module:
    """Return a copy of a network with fresh weights; the network itself is left as it is.

    What is drawn and what is not: `draw_parameters`. Statistics of batch norms begin anew. With
    the prior "init" each module initialises itself, as `initialise` says.

    Args:
        module: Any network; of a compiled one, the network inside.
        prior: A `WeightPrior` or its name.
        generator: A generator or a seed; None is the seed 0. The global generators are left as
            they are.

    Raises:
        InputError: No such prior; the network cannot be copied, is lazy, or has parameters that
            the prior does not tell how to draw.
    """
    given = weight_prior(prior)
    source = as_generator(0 if generator is None else generator)
    fresh = copied_module(module)
    redraw(fresh, given, source)
    return fresh


def draw_parameters(
    module: nn.Module,
    prior: str | WeightPrior,
    n: int,
    generator: int | torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Draw the parameters of a network n times, each (n, *shape), for torch.func's calls.

    Weights (two axes or more) and biases are drawn; scales and shifts of norms come as the ones
    and zeros that they begin with, and take no memory. What no rule covers is not in the answer:
    the network's own values serve. Parameters that modules share are drawn once. How many
    entries a unit sums is counted as by torch.nn.init, by groups in convolutions.

    Args:
        module: Any network; it is only looked at.
        prior: A `WeightPrior` or its name, save "init".
        n: Draws.
        generator: A generator or a seed; None is the seed 0.

    Returns:
        Tensors (n, *shape) by parameter name, in the parameters' types and on their devices.

    Raises:
        InputError: n below 1, the prior is "init", the network is lazy, a weight is made of other
            parameters, or so many draws do not fit in memory.
    """
    check_counts(n=n)
    source = as_generator(0 if generator is None else generator)
    given, module = weight_prior(prior), whole(module)
    values = dict(module.named_parameters())
    return {
        name: drawn(given, role, values[name], n, source)
        for name, role in roles(module).items()
        if role.kind != KEPT
    }


def drawn(
    prior: WeightPrior, role: Role, like: Tensor, n: int, generator: torch.Generator
) -> Tensor:
    """Return n draws (n, *shape) of a parameter, of the type and on the device it has.

    Raises:
        InputError: They do not fit in memory.
    """
    shape = (n, *like.shape)
    try:
        return _drawn(prior, role, like, shape, generator)
    except RuntimeError as error:  # torch has a type for it on accelerators only
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError(
                f"{n} draws of a parameter of shape {tuple(like.shape)} do not fit in memory: "
                "give fewer draws at once"
            ) from error
        raise


def _drawn(
    prior: WeightPrior, role: Role, like: Tensor, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Return draws of a shape, one for each entry of its first axis."""
    if role.kind == WEIGHT:
        found = prior.draw(shape, role.fan_in, role.fan_out, generator, like.dtype)
    elif role.kind == BIAS and prior.bias > 0:
        found = prior.draw_bias(shape, generator, like.dtype)
    else:
        fill = float(role.kind == ONES)
        return torch.full((), fill, dtype=like.dtype, device=like.device).expand(shape)
    return found.to(like.device)


def whole(module: nn.Module) -> nn.Module:
    """Return a network, of a compiled one the network inside.

    Raises:
        InputError: It is lazy or compiled to a script.
    """
    module = uncompiled(module)
    if any(is_lazy(value) for value in [*module.parameters(), *module.buffers()]):
        raise InputError("the network is lazy: run it once on an input, so that it has its shapes")
    return module


def copied_module(module: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        InputError: It is lazy or compiled to a script, or cannot be copied.
    """
    module = whole(module)
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever the attributes of a network raise
        raise InputError(
            f"{type(module).__name__} cannot be copied ({first_line(error)}): drop the attributes "
            "that copy.deepcopy refuses"
        ) from error


@torch.no_grad()
def redraw(module: nn.Module, prior: WeightPrior, generator: torch.Generator) -> None:
    """Draw the weights of a network anew, in place.

    Raises:
        InputError: As `fresh_copy`.
    """
    for norm in norms(module):
        norm.reset_running_stats()  # type: ignore[operator]
    if prior.family == "init":
        initialise(module, generator)
        return
    values = dict(module.named_parameters())
    for name, role in roles(module).items():
        if role.kind != KEPT:
            values[name].copy_(drawn(prior, role, values[name], 1, generator)[0])
