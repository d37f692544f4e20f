"""Attacks of the Adversarial Robustness Toolbox (extra `robust`): APGD and Square.

The published AutoAttack set is APGD on cross-entropy, APGD on targeted DLR, targeted FAB and
Square (Croce & Hein, ICML 2020, arXiv 2003.01690). The toolbox has neither FAB nor targeted DLR:
what stands here is no AutoAttack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError, choose, need
from merkhet.core.outputs import main_tensor
from merkhet.core.undisturbed import undisturbed
from merkhet.rkhs.attacked import Attacked
from merkhet.rkhs.attacks import Attack
from merkhet.rkhs.threat import Examples, Threat

LOSSES = {"ce": "cross_entropy", "dlr": "difference_logits_ratio"}
ORDERS: dict[str, Any] = {"l2": 2, "linf": np.inf}
SMALLEST = {"l2": 10, "linf": 5}  # sides of pictures that Square's tiles fit into
BROAD, WIDE, HALF = 14, 0.8, 0.5  # from this side on, AutoAttack's share of pixels fits


@dataclass(frozen=True)
class APGD(Attack):
    """Projected gradient ascent that sets its own steps: Croce & Hein, ICML 2020.

    Each start is uniform in the ball.

    Attributes:
        loss: "ce", the cross-entropy, or "dlr", the difference of logits ratio: it does not
            depend on the scores' scale and needs three classes.
        steps: Of each start.
        starts: Random starts.

    Raises:
        InputError: No such loss, no steps or no starts; in use, the toolbox is not installed, the
            network gives probabilities, or it has two classes and the loss is "dlr".
    """

    loss: str = "ce"
    steps: int = 40
    starts: int = 1

    def __post_init__(self) -> None:
        choose("loss", self.loss, LOSSES)
        if self.steps < 1 or self.starts < 1:
            raise InputError(f"steps={self.steps}, starts={self.starts}: give 1 or more of each")

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"apgd-{self.loss}"

    def search(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> Tensor:
        """Return the toolbox's points for the examples, (n, ...)."""
        attacks = need("art.attacks.evasion", "robust")
        with _classifier(network, examples, threat, radius) as classifier:
            classes = classifier.nb_classes
            if self.loss == "dlr" and classes < 3:
                raise InputError(
                    f"apgd-dlr needs three classes and the network has {classes}: take apgd-ce, "
                    "or pgd-margin, which has the same maxima"
                )
            attack = attacks.AutoProjectedGradientDescent(
                estimator=classifier,
                norm=ORDERS[threat.norm],
                eps=radius,
                eps_step=2 * radius,
                max_iter=self.steps,
                nb_random_init=self.starts,
                batch_size=len(examples),
                loss_type=LOSSES[self.loss],
                verbose=False,
            )
            return _generated(attack, examples)


@dataclass(frozen=True)
class Square(Attack):
    """Random squares, kept where they help: Andriushchenko et al., ECCV 2020 (arXiv 1912.00049).

    It asks for scores only, so what hides gradients does not stop it. It takes pictures as high
    as wide, of 5 pixels or more for "linf" and 10 for "l2".

    Attributes:
        queries: Squares tried for each example.

    Raises:
        InputError: No queries; in use, the toolbox is not installed, or the inputs are not such
            pictures.
    """

    by_gradients: ClassVar[bool] = False
    queries: int = 500

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"queries={self.queries}: give 1 or more")

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "square"

    def search(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> Tensor:
        """Return the toolbox's points for the examples, (n, ...)."""
        attacks = need("art.attacks.evasion", "robust")
        shape, smallest = tuple(examples.x.shape[1:]), SMALLEST[threat.norm]
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] < smallest:
            raise InputError(
                f"square takes pictures (channels, side, side) of {smallest} pixels or more for "
                f"{threat.norm}, not inputs {shape}: leave it out of attacks"
            )
        with _classifier(network, examples, threat, radius) as classifier:
            attack = attacks.SquareAttack(
                estimator=classifier,
                norm=ORDERS[threat.norm],
                max_iter=self.queries,
                eps=radius,
                p_init=WIDE if shape[1] >= BROAD else HALF,
                batch_size=len(examples),
                verbose=False,
            )
            return _generated(attack, examples)


class _Scores(nn.Module):
    """A network that takes the toolbox's float32 in its own dtype, and always has a gradient."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, classes) of inputs (n, ...)."""
        scores = main_tensor(self.module(x.to(self.dtype)))
        if x.requires_grad and not scores.requires_grad:  # the toolbox calls backward on them
            scores = scores + 0 * x.flatten(1).sum(1, keepdim=True)
        return scores


@contextmanager
def _classifier(
    network: Attacked, examples: Examples, threat: Threat, radius: float
) -> Iterator[Any]:
    """Yield the network as the toolbox takes it; its random numbers are ours for a while."""
    low, high = threat.clip or (
        float(examples.x.min()) - radius - 1.0,  # Square needs limits: these cut nothing
        float(examples.x.max()) + radius + 1.0,
    )
    module = _Scores(network.module, examples.x.dtype)
    with undisturbed(network.module), torch.enable_grad(), _told():
        generator = examples.generators(0)[0]
        torch.manual_seed(generator.initial_seed())
        np.random.seed(generator.initial_seed() % 2**32)  # noqa: NPY002 - what the toolbox draws by
        yield need("art.estimators.classification", "robust").PyTorchClassifier(
            model=module.eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(examples.x.shape[1:]),
            nb_classes=network.scores(examples.x[:1]).shape[1],
            clip_values=(low, high),
            device_type="cpu" if network.device.type == "cpu" else "gpu",
        )


def _generated(attack: Any, examples: Examples) -> Tensor:
    """Return an attack's points (n, ...) as the examples are held."""
    x, y = examples.x.float().cpu().numpy().copy(), examples.y.cpu().numpy()
    with np.errstate(all="ignore"):  # Square divides by zero where a window has not moved
        found = attack.generate(x=x, y=y)
    return torch.from_numpy(found).to(examples.x.device, examples.x.dtype)


@contextmanager
def _told() -> Iterator[None]:
    """Say what to do where the toolbox refuses probabilities.

    Raises:
        InputError: In the place of its error.
    """
    try:
        yield
    except ValueError as error:
        if "probabilities" not in str(error):
            raise
        raise InputError(
            "the network gives probabilities and the attack needs scores before the softmax: "
            "leave the softmax out of the network"
        ) from error
