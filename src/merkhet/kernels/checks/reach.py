"""Parameters that the forward pass uses and no gradient reaches: what cuts torch's graph."""

from __future__ import annotations

import torch
from torch import Tensor

from merkhet.core.calls import named_tensors
from merkhet.core.costs import costs
from merkhet.core.modes import in_mode
from merkhet.core.undisturbed import undisturbed
from merkhet.report import Finding, Subject

CODE = (
    "from merkhet.core.outputs import main_tensor\n"
    "main_tensor(network(preprocess(inputs[:2]))).sum().backward()\n"
    "print([name for name, value in network.named_parameters() if value.grad is None])"
)


def unreached(subject: Subject) -> tuple[Finding, ...]:
    """Find parameters whose gradient is cut off, as by NumPy or .detach() in the middle."""
    given = dict(subject.module.named_parameters())
    unused = set(costs(subject.network).unused)  # a finding of their own
    asked: dict[str, Tensor] = {
        name: value for name, value in given.items() if value.requires_grad and name not in unused
    }
    cut = _without_gradient(subject, asked)
    if not cut:
        return ()
    count, whole = (sum(value.numel() for value in some.values()) for some in (cut, asked))
    first = next(iter(cut))
    return (
        Finding(
            name="tangent_kernel(unreached)",
            value=count / whole,
            sentence=f"No gradient reaches {count:,} of {whole:,} parameters, {first} the first of "
            "them, though the forward pass uses them: they do not learn.",
            yardstick="a network that learns in all of its parameters: 0",
            remedy=f"Look between {first.rpartition('.')[0] or first} and the output for NumPy, "
            ".detach(), .item(), rounding or argmax: what leaves torch passes no gradient. This "
            "names what stays without one.",
            code=CODE,
            weight=min(0.9, 0.5 + count / whole / 2),
        ),
    )


def _without_gradient(subject: Subject, asked: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters that no output has a gradient in."""
    module, pair = subject.module, subject.inputs[:2].clone()
    with in_mode(module, training=False), undisturbed(module), torch.enable_grad():
        outputs = [one for _, one in named_tensors(module(subject.preprocess(pair)))]
        sums = [one.sum() for one in outputs if one.requires_grad]
        if not sums or not asked:
            return {}  # nothing learns, which is said elsewhere
        found = torch.autograd.grad(sums, list(asked.values()), allow_unused=True)
    grads = zip(asked.items(), found, strict=True)
    return {name: value for (name, value), gradient in grads if gradient is None}
