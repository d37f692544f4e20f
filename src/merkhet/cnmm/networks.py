"""Builders of mixtures for classification and for segmentation, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from merkhet.cnmm.blocks import Place, block
from merkhet.cnmm.extraction.extract import extracted_network
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.stage import MixtureStage
from merkhet.core import building
from merkhet.core.errors import InputError
from merkhet.models import layers


class BilinearHead(nn.Module):
    """Class scores of every pixel: a convolution 1x1, made larger bilinearly.

    Args:
        channels: Of the states.
        classes: How many classes there are.
        factor: How many times larger the scores are, along a side, than the states.

    Shapes:
        (batch, channels, height, width) -> (batch, classes, factor * height, factor * width).
    """

    def __init__(self, channels: int, classes: int, factor: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(channels, classes, 1)
        self.larger = nn.Upsample(scale_factor=factor, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        return self.larger(self.scores(x))  # type: ignore[no-any-return]


def cnmm_classifier(
    in_channels: int = 1,
    classes: int = 10,
    channels: Sequence[int] = (16, 32, 64),
    num_nodes: int = 5,
    kind: str = "plain",
    norm: str = "batch",
    activation: str = "relu",
    stride: int = 1,
    open: float = 0.5,
    seed: int | torch.Generator = 0,
) -> CNMM:
    """Return a mixture of classifiers.

    A stem of one plain block; stages, each but the first at half the resolution of the one
    before; the mean over the picture and a linear layer.

    Shapes: (batch, in_channels, height, width) -> (batch, classes), logits.

    Args:
        in_channels: Channels of the pictures.
        classes: How many classes there are.
        channels: Of the states of each stage.
        num_nodes: Nodes of each stage, two or more: 2^(num_nodes - 2) chains in each.
        kind: Of block: "plain", "residual" or "separable".
        norm: "batch" or "group".
        activation: "relu" or "gelu".
        stride: Of the stem.
        open: The probability that an inner node is active at the start.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.
    """
    building.check_counts(in_channels=in_channels, classes=classes, num_nodes=num_nodes)
    widths = _checked(channels)
    scales = [1, *(2 for _ in widths[1:])]
    with torch.device("meta"):
        stem = block("plain", Place(in_channels), Place(widths[0], stride), norm, activation)
        stages = [
            _stage(
                [Place(before), *[Place(after, scale)] * (num_nodes - 1)], kind, norm, activation
            )
            for (before, after), scale in zip(pairwise((widths[0], *widths)), scales, strict=True)
        ]
        model = CNMM(stages, _class_head(widths[-1], classes), stem)
    return _filled(model, open, seed)


def cnmm_multiscale(
    in_channels: int = 1,
    classes: int = 10,
    channels: Sequence[int] = (16, 32, 64),
    nodes: Sequence[int] = (0, 0, 0, 1, 1, 1, 2, 2, 2),
    kind: str = "plain",
    norm: str = "batch",
    activation: str = "relu",
    stride: int = 2,
    open: float = 0.5,
    seed: int | torch.Generator = 0,
) -> CNMM:
    """Return a mixture of classifiers with one stage of several resolutions.

    A stem of one plain block; a stage whose nodes lie at the resolutions that `nodes` says, so that
    its cheapest chains go down at once and its dear ones step by step; the mean over the picture
    and a linear layer. Its networks differ more in cost and accuracy than those of
    `cnmm_classifier`, all of which pass through every resolution.

    Shapes: (batch, in_channels, height, width) -> (batch, classes), logits.

    Args:
        in_channels: Channels of the pictures.
        classes: How many classes there are.
        channels: Of the states at each resolution, from that of the stem on.
        nodes: The resolution of the nodes after the first one: 0 for the stem's, 1 for half of it,
            ...; rising.
        kind: Of block: "plain", "residual" or "separable".
        norm: "batch" or "group".
        activation: "relu" or "gelu".
        stride: Of the stem.
        open: The probability that an inner node is active at the start.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.
    """
    building.check_counts(in_channels=in_channels, classes=classes, stride=stride)
    places = _places(nodes, _checked(channels))
    if list(nodes) != sorted(nodes):
        raise InputError(
            f"nodes = {nodes!r}: resolutions of a classifier only fall; give rising numbers"
        )
    with torch.device("meta"):
        stem = block("plain", Place(in_channels), Place(channels[0], stride), norm, activation)
        stage = _stage([Place(channels[0]), *places], kind, norm, activation)
        model = CNMM([stage], _class_head(places[-1].channels, classes), stem)
    return _filled(model, open, seed)


def cnmm_segmenter(
    in_channels: int = 3,
    classes: int = 11,
    channels: Sequence[int] = (16, 32, 64),
    nodes: Sequence[int] = (1, 2, 2, 1, 0),
    kind: str = "plain",
    norm: str = "batch",
    activation: str = "relu",
    open: float = 0.5,
    seed: int | torch.Generator = 0,
) -> CNMM:
    """Return a mixture of networks that label every pixel.

    A stem at half the picture's resolution; one stage that goes down to its own resolution by
    plain strides, as in `cnmm_classifier`; then a stage of several resolutions, whose nodes lie
    where `nodes` says, so that some of its chains stay fine and others go down and come back;
    scores of every pixel, bilinear.

    Shapes: (batch, in_channels, height, width) -> (batch, classes, height, width), logits; height
    and width multiples of 2^(1 + max(nodes)).

    Args:
        in_channels: Channels of the pictures.
        classes: How many classes there are.
        channels: Of the states at each resolution, from half the picture's on.
        nodes: The resolution of the nodes after the first one of the stage: 0 for half the
            picture's, 1 for a quarter, ...; the last is the resolution that scores are made at.
        kind: Of block: "plain", "residual" or "separable".
        norm: "batch" or "group".
        activation: "relu" or "gelu".
        open: The probability that an inner node is active at the start.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.
    """
    building.check_counts(in_channels=in_channels, classes=classes)
    places = _places(nodes, _checked(channels))
    with torch.device("meta"):
        stem = block("plain", Place(in_channels), Place(channels[0], 2), norm, activation)
        stage = _stage([Place(channels[0]), *places], kind, norm, activation)
        head = BilinearHead(places[-1].channels, classes, 2 * places[-1].scale)
        model = CNMM([stage], head, stem, multiple=2 * math.lcm(*(one.scale for one in places)))
    return _filled(model, open, seed)


NETWORKS = {
    "cnmm_classifier": cnmm_classifier,
    "cnmm_multiscale": cnmm_multiscale,
    "cnmm_segmenter": cnmm_segmenter,
    "cnmm_extracted": extracted_network,
}


def _stage(places: Sequence[Place], kind: str, norm: str, activation: str) -> MixtureStage:
    """Return a stage whose nodes lie at given places."""
    return MixtureStage(
        len(places), lambda i, j: block(kind, places[i], places[j], norm, activation)
    )


def _places(nodes: Sequence[int], widths: Sequence[int]) -> list[Place]:
    """Return where nodes lie, one channel count for each resolution."""
    known = isinstance(nodes, Sequence) and len(nodes) > 0
    if not known or not all(isinstance(one, int) and 0 <= one < len(widths) for one in nodes):
        raise InputError(
            f"nodes = {nodes!r}: give for each node a resolution from 0 to {len(widths) - 1}, "
            "one for each entry of channels"
        )
    return [Place(widths[one], 2**one) for one in nodes]


def _class_head(channels: int, classes: int) -> nn.Module:
    """Return the mean over the picture and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _checked(channels: Sequence[int]) -> tuple[int, ...]:
    """Return the channels of each stage or resolution, checked."""
    if not isinstance(channels, Sequence) or not channels:
        raise InputError(
            f"channels = {channels!r}: give one number for each stage, as in (16, 32, 64)"
        )
    for number in channels:
        building.check_counts(channels=number)
    return tuple(channels)


def _filled(model: CNMM, open: float, seed: int | torch.Generator) -> CNMM:
    """Give a mixture built on the meta device memory, first weights and gates."""
    building.allocate(model)
    layers.he_initialise(model, building.as_generator(seed))
    for stage in model.parts():
        stage.reset_gates(open)
    return model
