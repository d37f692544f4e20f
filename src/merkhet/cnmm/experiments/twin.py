"""One network of the classifier mixture as a person would write it, and the two compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.cnmm.extraction.extract import extract
from merkhet.cnmm.latency.device import batch_of, using_threads
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.recalibration import recalibrated
from merkhet.core.graph import trace
from merkhet.core.timing import interleaved

# The network that is written here, of a mixture of three stages of five nodes.
NODES = ((0, 2, 4), (0, 1, 3, 4), (0, 4))
WIDTHS = (16, 32, 64)


class Twin(nn.Module):
    """A flat classifier of seven convolutions: no gates, no norms, no nested parts.

    Args:
        channels: Of the pictures.
        classes: How many.

    Shapes:
        (batch, channels, height, width) -> (batch, classes).
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        one, two, three = WIDTHS
        self.stem = nn.Conv2d(channels, one, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(one, one, 3, padding=1)
        self.conv2 = nn.Conv2d(one, one, 3, padding=1)
        self.conv3 = nn.Conv2d(one, two, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(two, two, 3, padding=1)
        self.conv5 = nn.Conv2d(two, two, 3, padding=1)
        self.conv6 = nn.Conv2d(two, three, 3, stride=2, padding=1)
        self.dense = nn.Linear(three, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu(self.stem(x))
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.relu(self.conv5(x))
        x = F.relu(self.conv6(x))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.dense(x)  # type: ignore[no-any-return]


def twin_of(network: nn.Module) -> Twin:
    """Return the twin of an extracted network of `NODES`, with copies of its weights.

    Args:
        network: Of three stages of widths `WIDTHS`, plain blocks with batch norm and ReLU, and a
            stem of stride 2, folded.
    """
    weights = list(network.state_dict().values())
    channels, classes = weights[0].shape[1], weights[-1].shape[0]
    twin = Twin(channels, classes)
    twin.load_state_dict(dict(zip(twin.state_dict(), weights, strict=True)))
    return twin.eval()


def against_twin(
    model: CNMM, pictures: Tensor, batches: Sequence[int], rounds: int, repeats: int
) -> dict[str, Any]:
    """Return operations, differences of outputs and ratios of latency, extracted over twin.

    Args:
        model: The mixture of classifiers.
        pictures: (n, channels, height, width), for statistics and inputs.
        batches: Sizes of batches to time.
        rounds: Each gives a ratio of medians.
        repeats: Passes through each network in a round.
    """
    network = extract(model, NODES, [pictures])
    twin = twin_of(network)
    gates = model.path(NODES)
    with torch.no_grad():
        output, by_hand = network(pictures), twin(pictures)
        mixture = recalibrated(model, gates, [pictures]).eval()(pictures, gates)
        ratios = {
            str(batch): [
                _ratio(network, twin, batch_of(pictures, batch), repeats, number)
                for number in range(rounds)
            ]
            for batch in batches
        }
    return {
        "operations": _operations(network, pictures[:1]) == _operations(twin, pictures[:1]),
        "count": len(_operations(network, pictures[:1])),
        "twin": _difference(by_hand, output),
        "mixture": _difference(mixture, output),
        "ratios": ratios,
    }


def _ratio(network: nn.Module, twin: nn.Module, x: Tensor, repeats: int, number: int) -> float:
    """Return the ratio of medians of one round; each second one begins with the twin."""
    runs = {"network": partial(network, x), "twin": partial(twin, x)}
    ordered = dict(reversed(runs.items())) if number % 2 else runs
    with using_threads(1):
        found = interleaved(ordered, repeats)
    return found["network"][0] / found["twin"][0]


def _operations(network: nn.Module, x: Tensor) -> list[str]:
    """Return the operations that a network runs, in order, with the shapes of their results."""
    return [f"{node.op} {list(node.shapes)}" for node in trace(network, x).nodes]


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest output."""
    return float((one - other).abs().max() / other.abs().max())
