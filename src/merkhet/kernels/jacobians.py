"""A network as a function of its parameters: rows of its Jacobian, vectors pulled and pushed.

Shapes: n inputs, o numbers that the network gives for each, k directions among these, s numbers in
one parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError, choose
from merkhet.core.modes import evaluating, uncompiled
from merkhet.core.outputs import main_tensor
from merkhet.core.undisturbed import undisturbed

Tensors = dict[str, Tensor]
AT_ONCE = 64  # passes that vmap runs as one; their activations are alive together
LOOP = "give vectorize=False, which takes one input and one direction after another"


class Linearised:
    """The outputs of a network as a function of some of its parameters, and its derivatives.

    Each input goes through alone, or in a batch whose members do not see each other.

    Args:
        module: The network, in evaluation mode.
        parameters: The parameters to differentiate in, by name.
        vectorize: Whether inputs and directions go through together, by `torch.func.vmap`.
    """

    def __init__(self, module: nn.Module, parameters: Tensors, *, vectorize: bool) -> None:
        self.module, self.vectorize = module, vectorize
        self.parameters = {name: value.detach() for name, value in parameters.items()}
        others = {name: value.detach() for name, value in module.named_parameters()}
        buffers = {name: value.detach().clone() for name, value in module.named_buffers()}
        self.fixed = {**{n: v for n, v in others.items() if n not in parameters}, **buffers}

    @property
    def bytes_of_row(self) -> int:
        """The bytes that one row of the Jacobian takes."""
        return sum(value.numel() * value.itemsize for value in self.parameters.values())

    def outputs(self, parameters: Tensors, x: Tensor) -> Tensor:
        """Return the outputs (n, o) for inputs x (n, ...)."""
        given = (x.clone(),)  # networks may write into their inputs
        found = main_tensor(functional_call(self.module, {**self.fixed, **parameters}, given))
        return found.reshape(len(found), -1) if found.dim() else found

    def example(self, name: str, x: Tensor) -> Tensor:
        """Return the output (1, o) of the first input, having made sure that all will do.

        Raises:
            InputError: No inputs, NaN among them, a network that does not run on them, gives no
                numbers for each, or mixes the inputs of a batch.
        """
        check_finite(name, x)
        try:
            alone, pair = (self.outputs(self.parameters, x[:count]) for count in (1, 2))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the network does not run on {name}: {first_line(error)}") from error
        if not alone.is_floating_point() or alone.dim() != 2 or pair.shape[:1] != x[:2].shape[:1]:
            raise InputError(
                f"the network gives {alone.dtype} of shape {tuple(pair.shape)} for "
                f"{len(x[:2])} inputs: it must give floats, some for each input"
            )
        apart, most = (alone - pair[:1]).abs().amax(), pair.abs().amax()
        if apart > torch.finfo(alone.dtype).eps ** 0.5 * most:
            raise InputError(
                "the output for an input depends on the others of its batch: a tangent kernel "
                "wants one input at a time (batch norm with track_running_stats=True)"
            )
        return alone

    def rows(self, x: Tensor, directions: Tensor) -> Tensors:
        """Return the gradient of each direction's output for each input, by parameter.

        Args:
            x: (n, ...).
            directions: (k, o), in the outputs' type; the identity gives the Jacobian itself.

        Returns:
            (n, k, s) for each parameter.
        """
        parts = self._vectorized(x, directions) if self.vectorize else self._looped(x, directions)
        return {name: part.reshape(*part.shape[:2], -1) for name, part in parts.items()}

    def pull(self, x: Tensor, weights: Tensor) -> Tensors:
        """Return the gradient of the sum of outputs times weights (n, o), shaped as parameters."""
        with told(vectorize=False):
            back = vjp(lambda parameters: self.outputs(parameters, x), self.parameters)[1]
            found: Tensors = back(weights)[0]
        return found

    def push(self, x: Tensor, tangents: Tensors) -> Tensor:
        """Return how outputs (n, o) move with the parameters, for each of t tangents (t, ...).

        Returns:
            (t, n, o).
        """

        def each(tangent: Tensors) -> Tensor:
            moved: Tensor = jvp(lambda p: self.outputs(p, x), (self.parameters,), (tangent,))[1]
            return moved

        with told(vectorize=self.vectorize):
            if self.vectorize:
                together: Tensor = vmap(each, chunk_size=max(1, AT_ONCE // len(x)))(tangents)
                return together
            count = len(next(iter(tangents.values())))
            return torch.stack([each({n: t[i] for n, t in tangents.items()}) for i in range(count)])

    def _vectorized(self, x: Tensor, directions: Tensor) -> Tensors:
        """Return the rows by vmap, over inputs and over directions."""

        def each(one: Tensor) -> Tensors:
            back = vjp(lambda p: self.outputs(p, one[None])[0], self.parameters)[1]
            every: Tensors = vmap(lambda direction: back(direction)[0])(directions)
            return every

        with told(vectorize=True):
            found: Tensors = vmap(each, chunk_size=max(1, AT_ONCE // len(directions)))(x)
        return found

    def _looped(self, x: Tensor, directions: Tensor) -> Tensors:
        """Return the rows by plain automatic differentiation, one after another."""
        leaves = {name: value.clone().requires_grad_() for name, value in self.parameters.items()}
        rows = []
        with torch.enable_grad():
            for one in x.split(1):
                output = self.outputs(leaves, one)
                rows += [_gradients(output, leaves, direction[None]) for direction in directions]
        shape = (len(x), len(directions))
        return {
            name: torch.stack([row[name] for row in rows]).unflatten(0, shape) for name in leaves
        }


@contextmanager
def linearised(
    module: nn.Module, parameters: Iterable[str] | None = None, *, vectorize: bool = True
) -> Iterator[Linearised]:
    """Yield a network as a function of its parameters, in evaluation mode and left as found.

    Args:
        module: The network.
        parameters: As in `empirical_ntk`.
        vectorize: As in `empirical_ntk`.

    Raises:
        InputError: No such parameters.
    """
    # Attention's fused kernels have no forward derivatives and no batching rules.
    from torch.nn.attention import SDPBackend, sdpa_kernel

    module = uncompiled(module)
    chosen = choose_parameters(module, parameters)
    with undisturbed(module), evaluating(module), sdpa_kernel(SDPBackend.MATH):
        yield Linearised(module, chosen, vectorize=vectorize)


def choose_parameters(module: nn.Module, names: Iterable[str] | None) -> Tensors:
    """Return parameters by name; a module's name stands for all inside it.

    Args:
        module: The network.
        names: Names; by default the parameters that require a gradient.

    Raises:
        InputError: A name does not exist, or there is nothing to choose.
    """
    every: Tensors = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    if names is None:
        chosen = {name: value for name, value in every.items() if value.requires_grad}
        if not chosen:
            raise InputError(
                f"no parameter of {type(module).__name__} requires a gradient: name those to "
                "differentiate in, as parameters=[name for name, _ in module.named_parameters()]"
            )
        return chosen
    modules = {name.rpartition(".")[0] for name in every}
    inside = {".".join(path.split(".")[:end]) for path in modules for end in range(1, 99)}
    names = [names] if isinstance(names, str) else list(names)
    given = [choose("parameter or module", name, (*every, *(inside - {""}))) for name in names]
    if not given:
        raise InputError("parameters is empty: name some, or leave it out")
    return {
        name: value
        for name, value in every.items()
        if any(name == one or name.startswith(f"{one}.") for one in given)
    }


def check_finite(name: str, x: Tensor) -> None:
    """Refuse what is no batch of inputs (n, ...), and NaN or infinity in it.

    Raises:
        InputError: Says what to give.
    """
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
        told = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{name} is {told}: give a tensor (n, ...) of at least one input")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        bad = (~x.isfinite()).reshape(len(x), -1).any(1).nonzero()
        raise InputError(f"{name}[{int(bad[0])}] holds NaN or infinity: clean the data first")


@contextmanager
def told(*, vectorize: bool) -> Iterator[None]:
    """Turn what torch.func cannot differentiate into an error that says the way out.

    Raises:
        InputError: In the place of torch's own.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        out = LOOP if vectorize else 'take empirical_ntk(..., method="jacobian", vectorize=False)'
        raise InputError(
            f"the network does not go through torch.func: {first_line(error)}; {out}"
        ) from error


def _gradients(output: Tensor, leaves: Tensors, weights: Tensor) -> Tensors:
    """Return the gradient of outputs (1, o) times weights (1, o) in each leaf."""
    if not output.requires_grad:  # no leaf has a part in it
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    wanted = list(leaves.values())
    found = torch.autograd.grad(
        output, wanted, weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))
