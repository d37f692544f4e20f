"""The RKHS norm of each output of a network, from below and, where it can be, from above.

Not to be taken for the Lipschitz constant: |f| is at least that over the kernel map's own.

n examples, K outputs.

Source: Bietti, Mialon, Chen and Mairal, ICML 2019 (arXiv 1810.00363), Section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.kernel_maps import KernelMap, NormBounded
from merkhet.rkhs.exact_copy import check_inputs, exact_copy, exact_inputs
from merkhet.rkhs.jacobian import rows_of
from merkhet.rkhs.lower import STRIDES, Ratios

KEEPERS = (nn.Identity, nn.Dropout)
FLOOR = 1e-8  # of a Gram matrix's eigenvalues, relative: below it rounding would decide
EXAMPLES = 64  # that Jacobians are taken at
NO_UPPER = (
    "no upper bound of the norm is known: it takes a linear head on a kernel map (such as "
    "merkhet.ckn's CKN), or smooth homogeneous activations (its HomogeneousNetwork); networks of "
    "ReLU lie in no such RKHS"
)


@dataclass(frozen=True, eq=False)
class NormBracket:
    """Bounds of the RKHS norm of each output function, biases left out.

    Attributes:
        lower: (K,), float64: no function of a smaller norm has these values.
        upper: (K,), float64; inf where no upper bound is known.
        map_lipschitz: Bound of the kernel map's Lipschitz constant, that ratios were divided by.
        reasons: Why the upper one is infinite, or what the lower one takes for granted; or empty.
    """

    lower: Tensor
    upper: Tensor
    map_lipschitz: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["output  lower bound  upper bound of the RKHS norm"]
        for place, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            lines.append(f"{place:<6}  {float(low):<11.6g}  {float(high):.6g}")
        return "\n".join([*lines, *self.reasons])


@torch.inference_mode(False)
def rkhs_norm(model: nn.Module, inputs: Tensor) -> NormBracket:
    """Return bounds of the RKHS norm of each output of a network.

    Below: ratios |f(x) - f(x')| / |x - x'| over the Lipschitz constant of the kernel map, along
    gradients and between inputs; and, of a known kernel map, the norm of the smallest function
    with the same values at the inputs. Above: |w_k| of a linear head on a kernel map, or what the
    network declares (`merkhet.core.kernel_maps`). Of other networks the kernel map is taken to be
    non-expansive, as the paper's is, and nothing is known from above.

    Args:
        model: The network; nn.Sequential(kernel map, nn.Flatten(), nn.Linear(...)) for its norm.
        inputs: (n, *shape).

    Returns:
        The bracket.

    Raises:
        InputError: Inputs that do not fit, or weights that are not finite.
    """
    check_inputs(inputs)
    copy, x = exact_copy(model, inputs), exact_inputs(inputs)
    shape = tuple(x.shape[1:])
    features, head = _kernel_head(copy)
    if features is not None and head is not None:
        return _of_head(copy, features, head, x)
    bounded = next((part for part in copy.modules() if isinstance(part, NormBounded)), None)
    if bounded is not None:
        expansion = bounded.kernel_map_lipschitz(shape)
        upper, why = bounded.rkhs_norm_upper(copy, shape)
        reasons = (why,) if why else ()
        return NormBracket(output_ratios(copy, x) / expansion, upper, expansion, reasons)
    lower = output_ratios(copy, x)
    granted = "the lower bound holds in each RKHS of a non-expansive kernel map that has f"
    return NormBracket(lower, torch.full_like(lower, math.inf), 1.0, (NO_UPPER, granted))


def interpolation_norm(values: Tensor, gram: Tensor) -> Tensor:
    """Return a lower bound of |f| from the values of functionals on it: sqrt(c^T G^+ c).

    With c_j = <f, u_j> and G_ij = <u_i, u_j>, |<f, sum a_j u_j>| <= |f| sqrt(a^T G a) for all a;
    the best is a = G^+ c. Of u_j = Phi(x_j) it is the interpolation norm sqrt(f(X)^T K^-1 f(X)),
    of differences (Phi(x) - Phi(x')) / |x - x'| a ratio. Small eigenvalues are left out, and what
    rounding of either, in the coarser of their types, may take off is taken off, so that it stays
    a lower bound.

    Args:
        values: (n,) or (n, K), the c_j of one or more functions.
        gram: (n, n), symmetric and positive semi-definite.

    Returns:
        () or (K,), float64.

    Raises:
        InputError: Shapes that do not fit.
    """
    if not _real(values) or not _real(gram):
        raise InputError("values or gram are no tensors of real numbers: give such")
    c, g = values.detach().double(), gram.detach().double()
    if c.dim() not in (1, 2) or g.shape != (len(c), len(c)) or not len(c):
        raise InputError(
            f"values {tuple(c.shape)} and gram {tuple(g.shape)}: give (n,) or (n, K), and (n, n)"
        )
    if not bool(c.isfinite().all() and g.isfinite().all()):
        raise InputError("values or gram hold NaN or infinity: give finite ones")
    columns, g = c.reshape(len(c), -1), (g + g.mT) / 2
    eigenvalues, vectors = torch.linalg.eigh(g)
    top = float(eigenvalues[-1].clamp(min=0))
    eps = max(_eps(values), _eps(gram))
    kept = eigenvalues > max(FLOOR, len(c) * eps) * top
    inverse = torch.where(kept, 1 / torch.where(kept, eigenvalues, 1.0), 0.0)
    a = vectors @ (inverse[:, None] * (vectors.mT @ columns))
    rounding = 4 * len(c) * eps * top
    length = ((a * (g @ a)).sum(0) + rounding * a.square().sum(0)).clamp(min=0).sqrt()
    granted = 4 * eps * (a * columns).abs().sum(0)
    found = ((a * columns).sum(0).abs() - granted).clamp(min=0)
    found = found / torch.where(length > 0, length, 1.0)
    return torch.where(length > 0, found, 0.0).reshape(c.shape[1:])


def _real(tensor: object) -> bool:
    """Tell whether this is a tensor of real numbers."""
    return isinstance(tensor, Tensor) and not tensor.is_complex()


def _eps(tensor: Tensor) -> float:
    """Return the eps of a tensor's type, that of float64 for whole numbers."""
    exact = not tensor.is_floating_point()
    return torch.finfo(torch.float64 if exact else tensor.dtype).eps


def output_ratios(model: nn.Module, x: Tensor) -> Tensor:
    """Return the largest ratio |f_k(x) - f_k(x')| / |x - x'| found for each output, (K,).

    Args:
        model: The network in float64, evaluated, its parameters without gradients.
        x: (n, *shape), float64.
    """
    ratios = Ratios(model, x)
    rows = rows_of(ratios.output, x[:EXAMPLES]).transpose(0, 1)
    norms = rows.flatten(2).norm(dim=2)
    best = norms.argmax(1)
    each = torch.arange(len(rows))
    size = norms[each, best]
    directions = rows[each, best] / torch.where(size > 0, size, 1.0).view(-1, *(1,) * (x.dim() - 1))
    found = [_along(ratios, x[best], directions * float(t)) for t in STRIDES]
    return torch.stack([*found, _between(ratios, x[:EXAMPLES])]).amax(0)


@torch.no_grad()
def _along(ratios: Ratios, start: Tensor, offsets: Tensor) -> Tensor:
    """Return the ratio of output k between start k and start k + offset k, (K,)."""
    size = start.flatten(1).norm(dim=1).clamp(min=1).view(-1, *(1,) * (start.dim() - 1))
    end = start + size * offsets
    y, other = (ratios.output(one).diagonal()[:, None] for one in (start, end))
    return ratios.ratio(y, other, start, end)


@torch.no_grad()
def _between(ratios: Ratios, x: Tensor) -> Tensor:
    """Return the largest ratio of each output between two of the inputs, (K,)."""
    y = ratios.output(x)
    one, other = torch.triu_indices(len(x), len(x), 1)
    if not len(one):
        return torch.zeros(y.shape[1], dtype=y.dtype)
    found = [
        ratios.ratio(y[one, k : k + 1], y[other, k : k + 1], x[one], x[other]).amax()
        for k in range(y.shape[1])
    ]
    return torch.stack(found)


def _kernel_head(model: nn.Module) -> tuple[nn.Module | None, nn.Linear | None]:
    """Return the kernel map and the linear head of a network made of the two, or nothing."""
    layers = list(model) if type(model) is nn.Sequential else []
    if len(layers) < 3 or not isinstance(layers[0], KernelMap):
        return None, None
    between = [layer for layer in layers[1:-1] if not isinstance(layer, KEEPERS)]
    flat = len(between) == 1 and isinstance(between[0], nn.Flatten)
    whole = flat and between[0].start_dim == 1 and between[0].end_dim == -1
    if not whole or not isinstance(layers[-1], nn.Linear) or isinstance(layers[0], NormBounded):
        return None, None
    return layers[0], layers[-1]


@torch.no_grad()
def _of_head(model: nn.Module, features: nn.Module, head: nn.Linear, x: Tensor) -> NormBracket:
    """Return the bracket of a linear head on a kernel map."""
    assert isinstance(features, KernelMap)
    expansion = features.kernel_map_lipschitz(tuple(x.shape[1:]))
    phi = features(x[:EXAMPLES]).flatten(1)
    known = interpolation_norm(phi @ head.weight.mT, phi @ phi.mT)
    upper: Tensor = torch.linalg.vector_norm(head.weight, dim=1)
    ratios = output_ratios(model, x) / expansion
    return NormBracket(torch.maximum(known, ratios), upper * (1 + 1e-12), expansion, ())
