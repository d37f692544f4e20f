"""Upper bounds of the RKHS norm of a convolutional network with homogeneous activations.

Shapes: O outputs, P channels of a layer, K side of a patch, H and W of the maps.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.ckn.activation_series import log_activation_norm, series_terms, why_infinite
from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.network_form import read_network

SLACK = 1e-12  # relative, of sums and products of up to some thousand terms
GRAM_SLACK = 1e-9  # the Gram form's terms cancel, and its series amplify rounding


@dataclass(frozen=True, eq=False)
class NormBound:
    """Upper bounds of |f|^2, as natural logarithms: they soon exceed float64.

    Attributes:
        log_layerwise: The paper's bound, filter by filter; (O,), or (O, O) of differences.
        log_spectral: The paper's bound by spectral norms of filters; same shape.
        log_gram: The bound by inner products of filters, at most the layerwise one but for
            rounding; inf where the series is too slow or too large for it.
        bias: Whether the head has a bias, which is left out: the RKHS has no constants.
        reason: Why even the smallest is infinite, or None.
    """

    log_layerwise: Tensor
    log_spectral: Tensor
    log_gram: Tensor
    bias: bool
    reason: str | None

    @property
    def log_squared(self) -> Tensor:
        """The logarithm of the smallest of the bounds."""
        return torch.minimum(torch.minimum(self.log_layerwise, self.log_spectral), self.log_gram)

    @property
    def norm(self) -> Tensor:
        """The smallest upper bound of |f|; inf where float64 ends."""
        return (self.log_squared / 2).exp()


def cnn_norm_bound(
    network: nn.Sequential,
    input_shape: tuple[int, int, int],
    kernel: DotProductKernel,
    *,
    differences: bool = False,
) -> NormBound:
    """Return upper bounds of |f|^2 for each output f of a network, in the RKHS of its kernel.

    The RKHS is that of K(x, x') = <Phi(x), Phi(x')>, where Phi has the network's patches, padding
    and pooling, `kernel` in every layer, and patches normalised by 1 / sqrt(|S|). The pooling
    layers act on Phi as they act on the network: they are part of the kernel, and |f| needs no
    factor for them. |f(x)| <= |f| |Phi(x)| and |f(x) - f(x')| <= |f| |Phi(x) - Phi(x')|.

    Let f_k^i be the element of layer k's space whose product with Phi_k(u) is channel i at u, and
    g_k^i = sum_j w_k^ij f_(k-1)^j what its filter makes of the layer before. Then, with C^2 the
    series of `activation_norm` and p_k channels,

    - Gram: <f_k^i, f_k^l> = sum_j a_j^2 / b_j <g_k^i, g_k^l>^j, and |f|^2 = sum over positions
      and channels of w^i w^l <f_n^i, f_n^l>, computed as they are;
    - layerwise: |f|^2 <= p_n sum_i |w_(n+1)^i|^2 B_(n,i), B_(1,i) = C^2(|w_1^i|^2),
      B_(k,i) = C^2(p_(k-1) sum_j |w_k^ij|^2 B_(k-1,j));
    - spectral: |f|^2 <= |w_(n+1)|^2 D_n, D_1 = C^2(|W_1|_F^2), D_k = C^2(|W_k|^2 D_(k-1)), where
      |W_k|^2 = sum over offsets v of |W_k(v)|_2^2. It bounds sum_i |f_k^i|^2, to which each
      filter brings the constant term a_0^2 / b_0: here it is counted p_k times, not once.

    The patches' normalisation. The above is for z_k = n_k s(<w, P_k z_(k-1)> / n_k) with
    P_k x(u) = |S_k|^(-1/2) (x(u + v))_v and n_k(u) the norm of the kernel map's patch. The
    layers here do not divide by |S_k|^(1/2). If a layer's input is c times that of the paper, its
    norm N and the product <w, z> are both c |S_k|^(1/2) times the paper's: their ratio is the
    same, and the answer N s(<w, z> / N) is c |S_k|^(1/2) times the paper's. Hence the filters
    enter as they are and |f|^2 has the factor prod_k |S_k| once, which the figures include.

    Args:
        network: nn.Sequential of pooling, nn.Flatten and a last nn.Linear around at most one
            `HomogeneousConv2d`, or a `HomogeneousNetwork`, or one with the rest around it.
        input_shape: (channels, rows, columns) of a picture.
        kernel: That of every layer, such as DotProductKernel("inverse").
        differences: Bound f_i - f_j for all pairs of outputs, (O, O): what margins depend on.

    Raises:
        InputError: A layer that does not keep to the RKHS; says which and why. A network whose
            norms come from another kernel.
    """
    plan = read_network(network, input_shape, kernel)
    head = plan.head
    if differences:
        head = (head[:, None] - head[None]).flatten(0, 1)
    factor = sum(2 * math.log(layer.kernel_size) for layer in plan.layers)
    layerwise, spectral, gram = (
        form(plan.layers, head, kernel) + factor for form in (_layerwise, _spectral, _gram)
    )
    shape = (len(plan.head), -1) if differences else (-1,)
    smallest = torch.minimum(torch.minimum(layerwise, spectral), gram)
    return NormBound(
        log_layerwise=layerwise.view(shape),
        log_spectral=spectral.view(shape),
        log_gram=gram.view(shape),
        bias=plan.bias,
        reason=_reason(plan.layers, kernel) if smallest.max() == math.inf else None,
    )


def _layerwise(layers: list[HomogeneousConv2d], head: Tensor, kernel: DotProductKernel) -> Tensor:
    """Return the logarithm of the layerwise bound, (O,)."""
    before = _filter_bounds(layers, kernel)[-1]
    channels = math.log(head.shape[1])
    return channels + _log_sum(head.square().sum((2, 3)), before) + SLACK


def _filter_bounds(layers: list[HomogeneousConv2d], kernel: DotProductKernel) -> list[Tensor]:
    """Return log B_(k,i) of every layer, each (P,)."""
    bounds: list[Tensor] = []
    for layer in layers:
        squares = _weights(layer).square().sum((2, 3))
        inner = squares.sum(1).log()
        if bounds:
            inner = math.log(squares.shape[1]) + _log_sum(squares, bounds[-1])
        bounds.append(_series(layer, kernel, inner + SLACK))
    return bounds


def _spectral(layers: list[HomogeneousConv2d], head: Tensor, kernel: DotProductKernel) -> Tensor:
    """Return the logarithm of the spectral bound, (O,)."""
    total = torch.tensor(0.0, dtype=torch.float64)
    for place, layer in enumerate(layers):
        by_offset = _weights(layer).permute(2, 3, 0, 1)
        order = 2 if place else "fro"
        squares = torch.linalg.matrix_norm(by_offset, ord=order).square().sum()
        found = _series(layer, kernel, (squares.log() + total + SLACK)[None])
        constant = log_activation_norm(layer.activation, kernel, -math.inf)
        others = (
            math.log(layer.out_channels - 1) + constant if layer.out_channels > 1 else -math.inf
        )
        total = torch.logaddexp(found[0], torch.full_like(found[0], others))
    return head.square().sum((1, 2, 3)).log() + total + SLACK


def _gram(layers: list[HomogeneousConv2d], head: Tensor, kernel: DotProductKernel) -> Tensor:
    """Return the logarithm of the bound by inner products, (O,); inf where it is out of reach."""
    gram = torch.eye(layers[0].in_channels, dtype=torch.float64)
    for layer in layers:
        weight = _weights(layer).flatten(2)
        inner = torch.einsum("ijv,jm,lmv->il", weight, gram, weight)
        top = max(0.0, float(inner.diagonal().max()))
        terms = series_terms(layer.activation, kernel, top)
        if terms is None:
            return torch.full((len(head),), math.inf, dtype=torch.float64)
        gram = _power_series(terms, (inner / top).clamp(-1, 1) if top > 0 else inner)
    total = torch.einsum("oihw,ij,ojhw->o", head, gram, head)
    sizes = torch.einsum("oihw,i->ohw", head.abs(), gram.diagonal().sqrt()).square().sum((1, 2))
    return (total.clamp(min=0) + GRAM_SLACK * sizes).log()


def _power_series(terms: Tensor, ratio: Tensor) -> Tensor:
    """Return sum_j terms_j ratio^j, of ratio's shape."""
    total = torch.zeros_like(ratio)
    for term in terms.flip(0):
        total = total * ratio + term
    return total


def _series(layer: HomogeneousConv2d, kernel: DotProductKernel, logs: Tensor) -> Tensor:
    """Return log C^2 of each of the logarithms (P,)."""
    found = [log_activation_norm(layer.activation, kernel, float(value)) for value in logs]
    return torch.tensor(found, dtype=torch.float64)


def _log_sum(squares: Tensor, logs: Tensor) -> Tensor:
    """Return log sum_j squares_ij exp(logs_j), (rows,); channels of weight 0 bring nothing."""
    terms = torch.where(squares > 0, squares.log() + logs, -math.inf)
    return torch.logsumexp(terms, 1)


def _weights(layer: HomogeneousConv2d) -> Tensor:
    """Return the filters in float64, on the CPU."""
    return layer.weight.detach().double().cpu()


def _reason(layers: list[HomogeneousConv2d], kernel: DotProductKernel) -> str:
    """Return why the layerwise bound is infinite."""
    before: Tensor | None = None
    for place, (layer, bounds) in enumerate(
        zip(layers, _filter_bounds(layers, kernel), strict=True), start=1
    ):
        if bounds.max() == math.inf:
            squares = _weights(layer).square().sum((2, 3))
            inner = squares.sum(1).log()
            if before is not None:
                inner = math.log(squares.shape[1]) + _log_sum(squares, before)
            why = why_infinite(layer.activation, kernel, float(inner.max()))
            return f"layer {place}: " + (
                why or "the bound is too large for its series to be summed"
            )
        before = bounds
    return "the bound is larger than float64 holds"
