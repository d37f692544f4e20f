"""Kernels without a closed form: the mean over freshly initialised networks, with its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError, choose
from merkhet.core.progress import progress_bar
from merkhet.kernels.empirical import empirical_ntk
from merkhet.kernels.jacobians import Linearised, linearised

Build = Callable[[torch.Generator], nn.Module]
LARGEST_SEED = 2**63 - 1
BATCH = 64  # inputs in one forward pass


@dataclass(frozen=True)
class MonteCarloKernel:
    """A kernel estimated by sampling networks.

    Attributes:
        mean: The estimate, (n, m), float64.
        standard_error: Of each entry of the mean, (n, m), float64: about 95 of 100 entries lie
            within two of them of the kernel of networks of this width. Entries are not
            independent of each other.
        samples: How many networks were drawn.
    """

    mean: Tensor
    standard_error: Tensor
    samples: int


def monte_carlo_kernel(
    build: Build,
    x: Tensor,
    y: Tensor | None = None,
    *,
    kind: str = "ntk",
    samples: int = 100,
    seed: int = 0,
    vectorize: bool = True,
    progress: bool = True,
) -> MonteCarloKernel:
    """Return the mean kernel of freshly initialised networks, with its standard error.

    For networks without a closed form: max pooling, attention, anything. The error counts the
    samples alone: what is estimated is the kernel at the width that `build` gives, which is off
    the kernel of infinite width by a term in 1 / width, and by none for one hidden layer in the
    "ntk" parameterisation.

    Args:
        build: Returns a new network whose weights come from the generator it is given. One that
            draws from torch's global generator, as torch's own layers do, is seeded too; the
            global state is put back.
        x: (n, ...), as the network takes them.
        y: (m, ...); by default `x`, and the answer is symmetric.
        kind: "ntk", the tangent kernel with the mean over outputs, or "nngp", the product of
            outputs with the mean over them.
        samples: Networks to draw, 2 at least; the error falls as samples^(-1/2).
        seed: Seed of the draws; the same seed draws the same networks.
        vectorize: As in `empirical_ntk`.
        progress: Whether a terminal shows a bar.

    Raises:
        InputError: As in `empirical_ntk`, or an option is not of these.

    Reference:
        Novak et al., ICLR 2019, arXiv 1810.05148, Section 4, for the covariance of outputs.
    """
    choose("kind of kernel", kind, ("ntk", "nngp"))
    if samples < 2 or not 0 <= seed < 2**63:
        raise InputError(
            f"samples = {samples} and seed = {seed}: give 2 samples at least and a seed from 0 on"
        )
    moments = _Moments()
    with progress_bar("kernel", samples, unit="networks", shown=progress) as tell:
        for place, one in enumerate(_seeds(seed, samples)):
            module = _built(build, one)
            if kind == "ntk":
                moments.add(empirical_ntk(module, x, y, vectorize=vectorize), place + 1)
            else:
                moments.add(empirical_nngp(module, x, y), place + 1)
            tell(1)
    return MonteCarloKernel(moments.mean, moments.standard_error(samples), samples)


def empirical_nngp(module: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return products of a network's outputs, (n, m): the mean over outputs of f(x) f(y).

    Its mean over initialisations is the covariance of the outputs where they have mean zero.

    Args:
        module: Any network; it is in evaluation mode meanwhile and left as found.
        x: (n, ...), as the network takes them.
        y: (m, ...); by default `x`.

    Raises:
        InputError: As in `empirical_ntk`.
    """
    names = [name for name, value in module.named_parameters() if value.is_floating_point()]
    with linearised(module, names) as network:
        found = _outputs(network, "x", x)
        other = found if y is None else _outputs(network, "y", y)
    if found.shape[1] != other.shape[1]:
        raise InputError("the network gives outputs of other sizes for x and y: give one kind")
    product = found @ other.mT / found.shape[1]
    return product if y is not None else product.triu() + product.triu(1).mT


class _Moments:
    """Mean and squared deviations as they come (Welford, Technometrics 1962)."""

    mean: Tensor
    deviations: Tensor

    def add(self, found: Tensor, count: int) -> None:
        """Take in the sample of this number, counted from 1."""
        found = found.double()
        if count == 1:
            self.mean, self.deviations = found, torch.zeros_like(found)
            return
        step = found - self.mean
        self.mean = self.mean + step / count
        self.deviations = self.deviations + step * (found - self.mean)

    def standard_error(self, count: int) -> Tensor:
        """Return the standard error of the mean."""
        return (self.deviations / ((count - 1) * count)).sqrt()


def _outputs(network: Linearised, name: str, x: Tensor) -> Tensor:
    """Return the outputs (n, o) for all x, in float64."""
    network.example(name, x)
    parts = [network.outputs(network.parameters, part).double() for part in x.split(BATCH)]
    return torch.cat(parts)


def _seeds(seed: int, samples: int) -> list[int]:
    """Return the seeds of the networks."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(LARGEST_SEED, (samples,), generator=generator).tolist()
    return drawn


def _built(build: Build, seed: int) -> nn.Module:
    """Return a fresh network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(torch.Generator().manual_seed(seed))
    if not isinstance(module, nn.Module):
        raise InputError(
            f"build gave {type(module).__name__}: give a function of a torch.Generator that "
            "returns a new nn.Module"
        )
    return module
