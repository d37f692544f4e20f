"""Small random instances of networks that nobody here wrote, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Any]
CLASSES = 5
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WORDS = 50
LENGTH = 8


def pictures(size: int, count: int = 32) -> tuple[Tensor, Tensor]:
    """Return random pictures (count, 3, size, size), and labels."""
    drawn = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return drawn, torch.arange(count) % CLASSES


def windows(count: int = 32) -> Tensor:
    """Return random windows of tokens (count, LENGTH)."""
    return torch.randint(3, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(0))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network drawn from the seed 0, evaluated."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def resnet(lib: Any) -> Built:
    """Batch norms, residual branches."""
    config = lib.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=CLASSES,
    )
    return seeded(lambda: lib.ResNetForImageClassification(config)), pictures(32)


def mobilenet(lib: Any) -> Built:
    """Depthwise convolutions, ReLU6, batch norms that nothing has passed through."""
    config = lib.MobileNetV2Config(
        image_size=32,
        depth_multiplier=0.25,
        min_depth=8,
        expand_ratio=2,
        num_labels=CLASSES,
    )
    return seeded(lambda: lib.MobileNetV2ForImageClassification(config)), pictures(32)


def convnext(lib: Any) -> Built:
    """Depthwise convolutions, layer norms, scaled branches."""
    config = lib.ConvNextConfig(
        num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES
    )
    return seeded(lambda: lib.ConvNextForImageClassification(config)), pictures(16)


def vit(lib: Any) -> Built:
    """Attention on patches."""
    config = lib.ViTConfig(**TRANSFORMER, image_size=16, patch_size=8, num_labels=CLASSES)
    return seeded(lambda: lib.ViTForImageClassification(config)), pictures(16)


def bert(lib: Any) -> Built:
    """Classes of sequences."""
    config = lib.BertConfig(**TRANSFORMER, vocab_size=WORDS, num_labels=CLASSES)
    network = seeded(lambda: lib.BertForSequenceClassification(config))
    return network, (windows(), torch.arange(32) % CLASSES)


def masked(lib: Any) -> Built:
    """Scores of tokens that see both sides."""
    config = lib.BertConfig(**TRANSFORMER, vocab_size=WORDS)
    return seeded(lambda: lib.BertForMaskedLM(config)), windows()


def gpt2(lib: Any) -> Built:
    """Scores of the next token; matrices that are no nn.Linear."""
    config = lib.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, n_positions=16, vocab_size=WORDS, bos_token_id=1
    )
    return seeded(lambda: lib.GPT2LMHeadModel(config)), windows()


class _Root(torch.autograd.Function):
    """A signed square root with a gradient of its own; torch.func does not take it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign() * x.abs().sqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (2 * x.abs().sqrt() + 1e-3)


class OwnFunction(nn.Module):
    """A custom autograd function."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the signed square root."""
        return _Root.apply(x)


class Outside(nn.Module):
    """NumPy inside: no gradient comes back."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the hyperbolic tangent."""
        return torch.from_numpy(np.tanh(x.detach().cpu().numpy())).to(x)


class Branching(nn.Module):
    """Which layer runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what one of the layers makes of it."""
        return self.one(x) if float(x.detach().mean()) > 0 else self.other(x)


def around(build: Callable[[], nn.Module]) -> Built:
    """Return a convolutional network with a module in its middle, and pictures."""

    def made() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), build()),
            *(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
        )

    return seeded(made), pictures(12)
