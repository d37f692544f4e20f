"""Running a network under many draws of its weights: in chunks by vmap, or one after another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import vmap

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.unit_prior.sampling.conditional import Sizes, draw_outputs
from merkhet.unit_prior.sampling.conditional_guard import Guard, SeenError
from merkhet.unit_prior.sampling.fresh import copied_module, drawn, redraw
from merkhet.unit_prior.sampling.fresh_roles import BIAS, KEPT, WEIGHT, Role, roles
from merkhet.unit_prior.sampling.streams import normals
from merkhet.unit_prior.sampling.wanted import Wanted
from merkhet.unit_prior.weight_priors import WeightPrior

AT_ONCE = 2**26  # bytes of draws that are alive at once
MOST = 2048  # draws at once
Tensors = dict[str, Tensor]
Tell = Callable[[int], None]  # is told how many more draws are done


@dataclass
class Draws:
    """Draws of a network, outputs of some layers given their inputs, weights of the others.

    Attributes:
        network: A copy, whose weights may be spoilt.
        wanted: What to run it on, and what to keep.
        prior: Of the weights.
        layers: Those that draw outputs, by path.
    """

    network: nn.Module
    wanted: Wanted
    prior: WeightPrior
    layers: dict[str, Sizes]

    def run(self, n: int, generator: torch.Generator, tell: Tell) -> tuple[Tensors, str]:
        """Return units (n, inputs, units) by path, and the method in words."""
        whole = copied_module(self.network) if self.layers else self.network
        noise = draw_outputs(self.network, self.layers, self.prior)
        drawn_outputs = (self.network.get_submodule(path) for path in self.layers)
        guard = Guard(value for layer in drawn_outputs for value in layer.parameters())
        one = _One(self.network, self.wanted, noise, guard)
        plan = _Plan(self.network, self.prior, self.layers, self.wanted.alive)
        done = _Counted(tell)
        try:
            values, how = _in_chunks(one, plan, n, generator, done)
        except SeenError:
            values, how, guard.seen = {}, "", True
        nans = any(bool(value.isnan().any()) for value in values.values())
        if self.layers and (nans or guard.seen):
            # It sees the weights; maybe it caught the error, or holds views of them.
            tell(-done.count)
            return Draws(whole, self.wanted, self.prior, {}).run(n, generator, tell)
        return values, f"{plan.described()}, {how}"


class _Counted:
    """Tells on how many draws are done, and knows how many that were."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.count = tell, 0

    def __call__(self, more: int) -> None:
        self.count += more
        self.tell(more)


@dataclass(frozen=True)
class _One:
    """A network as a function of what is drawn."""

    network: nn.Module
    wanted: Wanted
    noise: Tensors
    guard: Guard

    def run(self, parameters: Tensors, noise: Tensors) -> Tensors:
        """Return the units (inputs, units) by path.

        Raises:
            SeenError: The network sees more of a layer that draws outputs than one output.
        """
        self.noise.update(noise)
        if not noise:
            return self.wanted.values(self.network, parameters)
        with self.guard:
            return self.wanted.values(self.network, parameters)


class _Plan:
    """What to draw for each network, and how many networks fit in memory."""

    def __init__(
        self, network: nn.Module, prior: WeightPrior, layers: dict[str, Sizes], alive: int
    ) -> None:
        self.prior, self.layers, self.alive = prior, layers, alive
        within = tuple(f"{path}." if path else "" for path in layers)
        self.values = dict(network.named_parameters())
        self.roles: dict[str, Role] = {
            name: role
            for name, role in roles(network).items()
            if role.kind != KEPT and not (within and _directly(name, within))
        }
        self.device = next((value.device for value in self.values.values()), torch.device("cpu"))
        if not self.weights and not layers:
            raise InputError(
                "the network has no weights that a prior draws: give one with dense layers, "
                "convolutions or other parameters of two axes"
            )
        weights = {path: self.values[f"{path}.weight".lstrip(".")] for path in layers}
        self.types = {  # half precision has no fast normals, nor the digits for a product
            path: torch.promote_types(value.dtype, torch.float32) for path, value in weights.items()
        }

    @property
    def size(self) -> int:
        """Draws at once."""
        each = 3 * self.alive + sum(
            3 * sizes.groups * sizes.rows * (sizes.units + sizes.fan_in + 2 * sizes.rows)
            for sizes in self.layers.values()
        )
        each += sum(self.values[name].numel() for name in self.weights)
        return max(1, min(MOST, AT_ONCE // (8 * each + 1)))

    @property
    def weights(self) -> list[str]:
        """Names of the parameters that are drawn."""
        kinds = (WEIGHT, BIAS)
        return [name for name, role in self.roles.items() if role.kind in kinds]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        """Draw parameters (n, *shape) by name, and normals (n, G, R, units) by path."""
        parameters = {
            name: drawn(self.prior, role, self.values[name], n, generator)
            for name, role in self.roles.items()
        }
        noise = {
            path: normals((n, *sizes.noise), generator, self.types[path]).to(self.device)
            for path, sizes in self.layers.items()
        }
        return parameters, noise

    def described(self) -> str:
        """Return what is drawn, in words."""
        matrices = sum(self.roles[name].kind == WEIGHT for name in self.weights)
        if not self.layers:
            return "weights drawn"
        others = "1 other" if matrices == 1 else f"{matrices} others"
        rest = f", weights of {others} drawn" if matrices else ""
        layers = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return f"conditional: outputs of {layers} drawn given their inputs{rest}"


def _directly(name: str, within: tuple[str, ...]) -> bool:
    """Tell whether a parameter is one of the layers' own."""
    return any(name.startswith(prefix) and "." not in name[len(prefix) :] for prefix in within)


def _in_chunks(
    one: _One, plan: _Plan, n: int, generator: torch.Generator, tell: Tell
) -> tuple[Tensors, str]:
    """Run all draws; by vmap, unless it refuses the network."""
    size, refusal = plan.size, ""
    together = vmap(one.run, randomness="different")
    parts: list[Tensors] = []
    for start in range(0, n, size):
        given = plan.draw(min(size, n - start), generator)
        if not refusal:
            try:
                with _quiet():
                    parts.append(_on_cpu(together(*given)))
                tell(min(size, n - start))
                continue
            except (torch.OutOfMemoryError, SeenError):
                raise
            except Exception as error:  # vmap refuses with errors of many kinds
                refusal = first_line(error).partition(". ")[0].rstrip(".")
        parts += _one_by_one(one, *given, tell)
    values = {path: torch.cat([part[path] for part in parts]) for path in one.wanted.units}
    how = f"a loop over draws, for vmap refuses: {refusal}" if refusal else f"vmap, {size} at once"
    return values, how


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence vmap's word on operations that it loops over: no user can do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def _one_by_one(one: _One, parameters: Tensors, noise: Tensors, tell: Tell) -> list[Tensors]:
    """Run the draws one after another."""
    count = len(next(iter((parameters | noise).values())))
    found = []
    for place in range(count):
        some = ({name: value[place] for name, value in of.items()} for of in (parameters, noise))
        found.append(_on_cpu({path: value[None] for path, value in one.run(*some).items()}))
        tell(1)
    return found


def fresh_networks(
    network: nn.Module,
    wanted: Wanted,
    prior: WeightPrior,
    n: int,
    generator: torch.Generator,
    tell: Tell,
) -> tuple[Tensors, str]:
    """Draw all weights of the copy anew n times, and run it each time."""
    parts = []
    for _ in range(n):
        redraw(network, prior, generator)
        parts.append(_on_cpu(wanted.values(network, {})))
        tell(1)
    values = {path: torch.stack([part[path] for part in parts]) for path in wanted.units}
    return values, "a loop over fresh networks, for modules initialise themselves one at a time"


def _on_cpu(values: Tensors) -> Tensors:
    """Return tensors on the CPU."""
    return {path: value.cpu() for path, value in values.items()}
