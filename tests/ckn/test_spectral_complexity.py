"""Spectral complexity against dense matrices; norms and margins of networks with a head."""

import copy
import math

import pytest
import torch
from torch import nn

from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import HomogeneousNetwork
from merkhet.ckn.network import CKN
from merkhet.ckn.norm import normalised_margins, rkhs_norm
from merkhet.ckn.spectral import layer_norms, spectral_complexity
from merkhet.core.errors import InputError


def dense(operator, shape):
    """Return the matrix of a linear map of tensors of a shape."""
    units = torch.eye(math.prod(shape)).double().view(-1, *shape)
    bias = operator(torch.zeros(1, *shape).double())
    return (operator(units) - bias).flatten(1).T.detach()


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 4, stride=2, padding=1), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "grouped": (lambda: nn.Conv2d(2, 4, 2, stride=2, groups=2), (2, 5, 4)),
    "same": (lambda: nn.Conv2d(1, 2, 3, padding="same", dilation=2), (1, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_norms_are_those_of_the_dense_matrix(name):
    build, shape = LAYERS[name]
    layer = seeded(build)
    matrix = dense(layer, shape)
    (norms,) = layer_norms(nn.Sequential(layer), shape)
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    assert largest * (1 - 1e-5) <= norms.spectral <= largest * (1 + 1e-12)
    assert norms.rows == pytest.approx(float(matrix.norm(dim=1).sum()), rel=1e-12)


def test_complexity_is_the_formula():
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1),
            nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(3, 2),
        )
    )
    first = dense(network[0], (1, 4, 4))
    pool = torch.linalg.matrix_norm(dense(network[2], (1, 4, 4)), 2)
    second = dense(network[3][0], (2, 3, 3))
    matrices = [first, second, network[5].weight.detach()]
    sizes = [float(torch.linalg.matrix_norm(m, 2)) for m in matrices]
    rows = [float(m.norm(dim=1).sum()) for m in matrices]
    ratios = sum((r / s) ** (2 / 3) for r, s in zip(rows, sizes, strict=True))
    wanted = math.prod(sizes) * float(pool) * ratios**1.5
    found = spectral_complexity(network, (1, 4, 4))
    assert found == pytest.approx(wanted, rel=1e-4)
    network[0].weight.data *= 3
    assert spectral_complexity(network, (1, 4, 4)) == pytest.approx(3 * found, rel=1e-6)
    network[0].weight.data.zero_()
    assert spectral_complexity(network, (1, 4, 4)) == 0


def test_pooling_first_counts_once():
    layer = seeded(lambda: nn.Conv2d(2, 1, 2))
    pooled = nn.Sequential(GaussianPool2d(2), layer)
    norm = float(torch.linalg.matrix_norm(dense(pooled[0], (1, 6, 6)), 2))
    alone = spectral_complexity(nn.Sequential(layer), (2, 3, 3))
    assert spectral_complexity(pooled, (2, 6, 6)) == pytest.approx(norm * alone, rel=1e-6)


@pytest.mark.parametrize("activation", ["smooth_relu", "linear"])
def test_homogeneous_layer_has_the_lipschitz_constant_that_is_said(activation):
    """|J| of (a, z) -> |z| s(a / |z|), for a of any size, and of x -> f(x)."""
    layer = HomogeneousConv2d(1, 3, 2, activation, padding="valid", seed=2).double()
    (norms,) = layer_norms(nn.Sequential(layer), (1, 4, 4))
    matrix = dense(lambda x: layer.convolve(x, layer.weight), (1, 4, 4))
    assert norms.rows == pytest.approx(float(matrix.norm(dim=1).sum()), rel=1e-12)
    constant = 3 / (4 * math.pi) if activation == "smooth_relu" else 0.0
    assert norms.lipschitz == pytest.approx(math.sqrt(1 + constant), rel=1e-12)
    reads = torch.eye(16).double().view(16, 1, 4, 4).unfold(2, 2, 1).unfold(3, 2, 1)
    patches = reads.flatten(1).T  # every entry of every patch
    both = float(torch.linalg.matrix_norm(torch.cat([matrix, patches]), 2))
    assert both <= norms.spectral * (1 + 1e-5)
    generator = torch.Generator().manual_seed(0)

    def answer(joined):
        a, z = joined[:3], joined[3:]
        return z.norm() * torch.stack([ACT[activation](v / z.norm()) for v in a])

    slopes = []
    for scale in (0.1, 1.0, 3.0):
        for _ in range(10):
            joined = torch.randn(7, generator=generator).double()
            joined[:3] *= scale
            jacobian = torch.autograd.functional.jacobian(answer, joined)
            slopes.append(float(torch.linalg.matrix_norm(jacobian, 2)))
    assert max(slopes) <= norms.lipschitz + 1e-12
    x = torch.randn(1, 1, 4, 4, generator=generator).double()
    whole = torch.autograd.functional.jacobian(layer, x).reshape(27, 16)
    assert torch.linalg.matrix_norm(whole, 2) <= norms.spectral * norms.lipschitz


ACT = {
    "smooth_relu": lambda u: (u + u * u.erf() + (-u * u).exp() / math.sqrt(math.pi)) / 2,
    "linear": lambda u: u,
}


def test_constant_of_the_smooth_relu_is_reached():
    """At a = 0 every filter brings s(0) along the direction of z: p / (4 pi) in all."""
    norm = math.sqrt(1 / 4 + 3 / (4 * math.pi))
    joined = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)

    def answer(joined):
        a, z = joined[:3], joined[3:]
        return z.norm() * ACT["smooth_relu"](a / z.norm())

    jacobian = torch.autograd.functional.jacobian(answer, joined)
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)], "layer 1 .*fold"),
        ([nn.Conv2d(1, 1, 1), nn.Sigmoid()], "layer 1 .*not known"),
        ([nn.Conv2d(1, 1, 1), nn.MaxPool2d(3, 1)], "layer 1 .*overlap"),
        ([nn.Conv2d(1, 1, 1, padding_mode="reflect")], "layer 0 .*zeros"),
        ([HomogeneousConv2d(1, 1, 1, "square")], "layer 0 .*no Lipschitz constant"),
        ([nn.ReLU()], "no layer with weights"),
    ],
)
def test_layers_that_are_not_covered(layers, words):
    with pytest.raises(InputError, match=words):
        spectral_complexity(nn.Sequential(*layers), (1, 4, 4))


def test_deep_homogeneous_networks_and_branches_are_refused():
    deep = HomogeneousNetwork(HomogeneousConv2d(1, 2, 2), HomogeneousConv2d(2, 2, 2))
    with pytest.raises(InputError, match=r"layer 1 .*divides by norms"):
        spectral_complexity(deep, (1, 4, 4))
    with pytest.raises(InputError, match="without branches"):
        spectral_complexity(nn.Linear(2, 2), (2,))


@pytest.fixture
def classifier():
    head = seeded(lambda: nn.Linear(24, 3))
    return nn.Sequential(CKN(1, (6,), 3, pooling=4).double(), nn.Flatten(), head)


def test_norm_of_a_head_is_the_norm_in_the_nystrom_kernel(classifier):
    images = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    features = classifier[:2](images).detach()
    assert torch.linalg.matrix_rank(features) == 24
    gram, values = features @ features.T, features @ classifier[2].weight.detach().T
    # f^T K^+ f over pictures whose features span the space
    found = (values * (torch.linalg.pinv(gram, rcond=1e-10) @ values)).sum(0).sqrt()
    norms = rkhs_norm(classifier)
    torch.testing.assert_close(norms.detach(), found, rtol=1e-5, atol=0)
    pairs = rkhs_norm(classifier, differences=True)
    weight = classifier[2].weight
    assert pairs[0, 2].item() == pytest.approx((weight[0] - weight[2]).norm().item())
    norms.sum().backward()
    assert weight.grad.isfinite().all()


def test_margins_are_distances_to_other_classes(classifier):
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    labels = classifier(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 3
    margins = normalised_margins(classifier, images, labels)
    assert (margins[:3] < 0).all()
    assert (margins[3:] >= 0).all()
    weight, features = classifier[2].weight.detach(), classifier[:2](images).detach()
    for row in range(3, 20):
        y = int(labels[row])
        # the nearest point where a class j is level: projection on the hyperplane
        outputs = classifier[2](features[row]).detach()
        gaps = [
            (outputs[y] - outputs[j]) / (weight[y] - weight[j]).norm() for j in range(3) if j != y
        ]
        assert float(margins[row]) == pytest.approx(float(min(gaps)), rel=1e-12)
        nearest = min((j for j in range(3) if j != y), key=lambda j: gaps[j - (j > y)])
        step = weight[nearest] - weight[y]
        moved = features[row] + 1.001 * margins[row] * step / step.norm()
        assert classifier[2](moved)[nearest] > classifier[2](moved)[y]


def test_models_without_a_plain_head_are_refused(classifier):
    ckn, flatten, head = classifier
    with pytest.raises(InputError, match="may change norms"):
        rkhs_norm(nn.Sequential(ckn, flatten, nn.LayerNorm(24), head))
    with pytest.raises(InputError, match=r"give nn.Sequential"):
        rkhs_norm(nn.Sequential(flatten, head))
    with pytest.raises(InputError, match="from 0 to 2"):
        normalised_margins(classifier, torch.zeros(1, 1, 8, 8).double(), torch.tensor([3]))
    single = nn.Sequential(ckn, flatten, nn.Linear(24, 1))
    with pytest.raises(InputError, match="two classes"):
        normalised_margins(single, torch.zeros(1, 1, 8, 8), torch.tensor([0]))


def test_layers_that_come_twice_count_twice() -> None:
    shared = nn.Linear(5, 5)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    copied = nn.Sequential(shared, nn.ReLU(), copy.deepcopy(shared))
    assert spectral_complexity(twice, (5,)) == pytest.approx(spectral_complexity(copied, (5,)))


@pytest.mark.parametrize("flat", [[], [nn.Flatten(2)], [nn.Flatten(0)]])
def test_a_head_that_does_not_read_all_has_no_norm(flat) -> None:
    with pytest.raises(InputError, match="all of the representation"):
        rkhs_norm(nn.Sequential(CKN(1, (4,), 3, 2), *flat, nn.Linear(16, 3)))
