"""The norm of layers as operators: both methods, chains, refusals."""

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.rkhs.operator_norm import operator_norm


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def both(layer, shape) -> tuple[float, float]:
    return operator_norm(layer, shape), operator_norm(layer, shape, "certified")


def test_a_linear_layer_has_its_largest_singular_value() -> None:
    layer = seeded(lambda: nn.Linear(7, 4))
    norm = float(torch.linalg.matrix_norm(layer.weight.double(), 2))
    for found in (*both(layer, 7), *both(layer, (5, 7))):
        assert found == pytest.approx(norm, rel=1e-8)


def test_biases_do_not_count() -> None:
    layer = seeded(lambda: nn.Conv2d(2, 3, 3, padding=1))
    before = both(layer, (2, 6, 6))
    layer.bias.data.fill_(1e6)
    assert both(layer, (2, 6, 6)) == before


def test_the_estimate_is_below_the_certificate_and_near() -> None:
    for mode in ("zeros", "reflect", "replicate", "circular"):
        layer = seeded(lambda mode=mode: nn.Conv2d(3, 4, 3, 2, 1, padding_mode=mode))
        power, certified = both(layer, (3, 9, 8))
        assert certified * (1 - 1e-5) <= power <= certified


def test_a_chain_is_one_operator() -> None:
    parts = seeded(
        lambda: [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2).eval(), nn.AvgPool2d(2)]
    )
    parts[1].weight.data.copy_(torch.tensor([5.0, 0.1]))
    chain = both(parts, (1, 6, 6))
    assert chain == pytest.approx(both(nn.Sequential(*parts), (1, 6, 6)), rel=1e-12)
    product = both(parts[0], (1, 6, 6))[1] * both(parts[1:], (2, 6, 6))[1]
    assert chain[1] < 0.9 * product


def test_not_the_norm_of_the_reshaped_weight() -> None:
    layer = seeded(lambda: nn.Conv2d(3, 8, 3, padding=1))
    reshaped = float(torch.linalg.matrix_norm(layer.weight.flatten(1).double(), 2))
    assert operator_norm(layer, (3, 16, 16)) > 1.2 * reshaped


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_are_taken_in_float64(dtype: torch.dtype) -> None:
    layer = seeded(lambda: nn.Conv1d(2, 2, 3)).to(dtype)
    wide = nn.Conv1d(2, 2, 3)
    wide.load_state_dict(layer.state_dict())
    assert both(layer, (2, 8)) == both(wide.double(), (2, 8))


def test_the_same_seed_gives_the_same_estimate() -> None:
    layer = seeded(lambda: nn.Conv2d(2, 3, 3))
    assert operator_norm(layer, (2, 9, 9), seed=1) == operator_norm(layer, (2, 9, 9), seed=1)


def test_refusals() -> None:
    layer = nn.Conv2d(2, 3, 3)
    with pytest.raises(InputError, match="choose one of certified, power"):
        operator_norm(layer, (2, 8, 8), "exact")
    with pytest.raises(InputError, match=r"lipschitz\(layer, inputs\)"):
        operator_norm(nn.MaxPool2d(2), (2, 8, 8))
    with pytest.raises(InputError, match=r"\.eval\(\)"):
        operator_norm([layer, nn.BatchNorm2d(3)], (2, 8, 8))
    for shape in ((), (2, 0, 4), 0):
        with pytest.raises(InputError, match="without the batch"):
            operator_norm(layer, shape)
    with pytest.raises(InputError, match="channels and 2 spatial sizes"):
        operator_norm(layer, (1, 2, 8, 8))
    for value in (float("nan"), float("inf")):
        layer.weight.data[0, 0, 0, 0] = value
        for method in ("power", "certified"):
            with pytest.raises(InputError, match="NaN or infinite"):
                operator_norm(layer, (2, 8, 8), method)
    with pytest.raises(InputError, match="complex"):
        operator_norm(nn.Linear(2, 2, dtype=torch.complex64), (2,))


@pytest.mark.parametrize("method", ["power", "certified"])
@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (nn.Linear, 3, "no layer"),
        ([nn.Linear(3, 3), 5], 3, "no layer"),
        (nn.Linear(3, 3, device="meta"), 3, "meta device"),
        (nn.Linear(3, 3), 3.5, "input_shape"),
        (nn.Linear(3, 3), ("a",), "input_shape"),
        (nn.Linear(3, 3), None, "input_shape"),
    ],
)
def test_what_is_no_layer_or_no_shape_is_refused(
    layer: object, shape: object, words: str, method: str
) -> None:
    with pytest.raises(InputError, match=words):
        operator_norm(layer, shape, method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["power", "certified"])
def test_inference_mode_changes_no_norm(method: str) -> None:
    with torch.inference_mode():
        layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3).eval())
        inside = operator_norm(layers, (2, 5, 5), method)
    assert inside == pytest.approx(operator_norm(layers[:1], (2, 5, 5), method), rel=1e-4)
