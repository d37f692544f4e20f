"""Penalties share passes, leave networks as found, train by the loop, and refuse in words."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.rkhs.adversarial import AdversarialPenalty
from merkhet.rkhs.deformation import DeformationPenalty, TangentPenalty
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.looks import depends_on_mode
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Penalty, regularised_loss
from merkhet.rkhs.variation import gradient_norms
from merkhet.training import Optimisation, TrainingConfig, fit
from merkhet.training.config import Running

PENALTIES = [
    GradientPenalty(),
    GradientPenalty("mean"),
    AdversarialPenalty(0.3, steps=2),
    AdversarialPenalty(0.3, steps=2, select="all", reduction="mean"),
    DeformationPenalty(samples=2),
    TangentPenalty(),
    LossGradientPenalty(),
    LossGradientPenalty(1),
    AdversarialLoss(0.3, steps=2),
]
each = pytest.mark.parametrize("penalty", PENALTIES, ids=repr)


def network(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(4), nn.Dropout(0.5)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, 6, 6, generator=generator), torch.arange(count) % 3


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    rows: list[int] = []
    handle = module.register_forward_hook(lambda _module, inputs, _out: rows.append(len(inputs[0])))
    yield rows
    handle.remove()


def state(module: nn.Module) -> dict[str, Any]:
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "grads": [p.grad if p.grad is None else p.grad.clone() for p in module.parameters()],
        "wanted": [p.requires_grad for p in module.parameters()],
        "hooks": [
            len(part._forward_hooks) + len(part._backward_hooks) for part in module.modules()
        ],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@each
def test_a_network_is_left_as_found(penalty: Penalty) -> None:
    model, (x, y) = network(norm=True).train(), batch()
    model[0].eval()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    given, before = x.clone(), state(model)
    value, _ = penalty(model, x, y)
    assert same(state(model), before)
    assert value.requires_grad
    assert torch.equal(x, given)
    assert not x.requires_grad


@each
def test_a_network_is_left_as_found_by_an_exception(penalty: Penalty) -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError

    model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3), Breaks()).train()
    before, (x, y) = state(model), batch()
    with pytest.raises(ArithmeticError):
        penalty(model, x, y)
    assert same(state(model), before)


@each
def test_penalties_see_the_network_as_evaluated(penalty: Penalty) -> None:
    model, (x, y) = network(norm=True), batch()
    with torch.no_grad():
        model[1].running_mean.fill_(0.2)
    torch.manual_seed(5)
    trained = penalty(model.train(), x, y)[0]
    torch.manual_seed(5)
    evaluated = penalty(model.eval(), x, y)[0]
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0)


@each
def test_without_gradients_the_value_is_the_same_number(penalty: Penalty) -> None:
    model, (x, y) = network(), batch()
    torch.manual_seed(5)
    expected = penalty(model, x, y)[0]
    for context in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(5)
        with context():
            value, logs = penalty(model, x.clone(), y)
        assert not value.requires_grad
        torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
        assert all(number.shape == () and not number.requires_grad for number in logs.values())


@each
def test_the_networks_noise_does_not_move_the_generator(penalty: Penalty) -> None:
    """With its own generator, or none needed, nothing is drawn from the global one."""
    if hasattr(penalty, "generator"):
        penalty = copy.copy(penalty)
        object.__setattr__(penalty, "generator", torch.Generator().manual_seed(0))
    model, (x, y) = network(norm=True).train(), batch()
    before = torch.random.get_rng_state()
    penalty(model, x, y)
    assert torch.equal(torch.random.get_rng_state(), before)


SHARED = TangentPenalty() + GradientPenalty("mean") + LossGradientPenalty() * 2
ORDERS = [SHARED, GradientPenalty("mean") + LossGradientPenalty() + TangentPenalty()]


@pytest.mark.parametrize("penalty", ORDERS, ids=["first", "last"])
def test_terms_and_loss_share_one_pass(penalty: Penalty) -> None:
    model, data = network().train(), batch()
    with counted(model) as rows:
        value, logs = regularised_loss(penalty)(model, data)
    assert rows == [8]
    clean = F.cross_entropy(model(data[0]), data[1])
    torch.testing.assert_close(logs["clean_loss"], clean.detach())
    total = clean + logs["gradient"] + logs["tangent"]
    factor = 2 if penalty is SHARED else 1
    torch.testing.assert_close(value, total + factor * logs["loss_gradient"])


def test_only_selected_examples_are_looked_at_again() -> None:
    model, data = network().train(), batch()
    with counted(model) as rows:
        regularised_loss(GradientPenalty())(model, data)
    assert rows == [8, 3]
    with counted(model) as rows:
        regularised_loss(AdversarialPenalty(0.1, steps=2))(model, data)
    assert rows == [8, 3, 3, 3]


def test_a_network_that_depends_on_its_mode_has_a_pass_of_its_own() -> None:
    model, data = network(norm=True).train(), batch()
    with counted(model) as rows:
        loss, _ = regularised_loss(SHARED)(model, data)
    assert rows == [8, 8]
    assert int(model[1].num_batches_tracked) == 1
    loss.backward()
    with counted(model.eval()) as rows:
        regularised_loss(SHARED)(model, data)
    assert rows == [8]


def test_the_adversarial_loss_replaces_the_clean_one() -> None:
    model, (x, y) = network(norm=True).train(), batch()
    penalty = AdversarialLoss(0.2, steps=3)
    with counted(model) as rows:
        loss, logs = regularised_loss(penalty)(model, (x, y))
    assert rows == [8] * 4
    assert int(model[1].num_batches_tracked) == 1
    assert set(logs) == {"adversarial_loss"}
    assert torch.equal(loss.detach(), logs["adversarial_loss"])
    mixed, logs = regularised_loss(penalty + GradientPenalty() * 0.5)(network(), (x, y))
    torch.testing.assert_close(mixed.detach(), logs["adversarial_loss"] + 0.5 * logs["gradient"])


def test_the_mode_is_read_from_the_code() -> None:
    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([F.dropout(part, 0.5, self.training) for part in (x,)])

    assert depends_on_mode(Custom())
    assert depends_on_mode(nn.Sequential(nn.BatchNorm1d(3)))
    assert not depends_on_mode(nn.Sequential(nn.Dropout(0.0), nn.GroupNorm(1, 3), nn.Linear(3, 3)))
    assert not depends_on_mode(nn.Sequential(nn.BatchNorm1d(3)).eval())


def dropped(part: nn.Module, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, part.training)


def test_the_mode_is_found_behind_functions_properties_decorators_and_hooks() -> None:
    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return dropped(self, x)

    class Decorated(nn.Module):
        @torch.autocast("cpu", enabled=False)
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, self.training)

    class Property(nn.Module):
        @property
        def rate(self) -> float:
            return 0.5 if self.training else 0.0

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, self.rate)

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, getattr(self, "training"))  # noqa: B009

    hooked, patched = nn.Linear(3, 3), nn.Linear(3, 3)
    hooked.register_forward_hook(lambda part, _inputs, out: dropped(part, out))
    patched.forward = lambda x: dropped(patched, x)  # type: ignore[method-assign]
    for part in (Calls(), Decorated(), Property(), Named(), hooked, patched):
        assert depends_on_mode(nn.Sequential(part))
    assert not depends_on_mode(network())


def test_inputs_that_are_expanded_are_like_any_other() -> None:
    x = X[:1].expand(8, -1, -1, -1)
    for penalty in PENALTIES:
        torch.manual_seed(0)
        value, _ = penalty(network(), x, Y)
        torch.manual_seed(0)
        torch.testing.assert_close(value, penalty(network(), x.clone(), Y)[0])


def test_a_network_made_without_gradients_is_refused() -> None:
    with torch.inference_mode():
        made = network()
    with pytest.raises(InputError, match="inference_mode"):
        GradientPenalty()(made, X)


def test_checkpoints_take_two_gradients() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    gradients = []
    for model in (Checkpointed(), network()):
        penalty = TangentPenalty(generator=torch.Generator().manual_seed(0))
        value, _ = penalty(model, X)
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*gradients)


def test_penalties_are_summed_by_sum() -> None:
    total = sum([GradientPenalty(), LossGradientPenalty()])
    assert repr(total) == repr(GradientPenalty() + LossGradientPenalty())


def test_sums_and_multiples() -> None:
    model, (x, y) = network(), batch()
    one, two = GradientPenalty(), LossGradientPenalty()
    both = 0.01 * one + two * 2 + one
    value, logs = both(model, x, y)
    torch.testing.assert_close(value.detach(), 1.01 * one(model, x)[0] + 2 * two(model, x, y)[0])
    assert list(logs) == [
        "gradient",
        "gradient_batch_sup",
        "loss_gradient",
        "gradient_2",
        "gradient_batch_sup_2",
    ]
    assert repr(both) == (
        "0.01 * GradientPenalty(reduction='sup', exact=False) + 2 * LossGradientPenalty(p=2) + "
        "GradientPenalty(reduction='sup', exact=False)"
    )
    twice = pickle.loads(pickle.dumps(copy.deepcopy(2 * (one + two))))
    expected = 2 * (one(model, x)[0] + two(model, x, y)[0])
    torch.testing.assert_close(twice(model, x, y)[0], expected)
    for factor in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite factor"):
            one * factor
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]


class Twice(nn.Module):
    """A layer called twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(72, 72)
        self.head = nn.Linear(72, 72)
        self.head.weight = self.layer.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.flatten(1)
        x = self.layer(F.softplus(self.layer(x)))
        return {"loss": x.sum(), "logits": self.head(x)[:, :3]}


@each
def test_shared_weights_and_named_outputs(penalty: Penalty) -> None:
    """The value is that of the same function written with weights of its own."""
    torch.manual_seed(0)
    model, (x, y) = Twice(), batch()
    plain = nn.Sequential(
        nn.Flatten(),
        copy.deepcopy(model.layer),
        nn.Softplus(),
        copy.deepcopy(model.layer),
        copy.deepcopy(model.head),
        nn.Unflatten(1, (1, 72)),
        Slice(),
    )
    torch.manual_seed(3)
    value = penalty(model, x, y)[0]
    torch.manual_seed(3)
    expected = penalty(plain, x, y)[0]
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    total = sum(plain[place].weight.grad for place in (1, 3, 4))
    torch.testing.assert_close(model.layer.weight.grad, total, rtol=1e-4, atol=1e-6)


class Slice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, :3]


@each
def test_attention_is_differentiated_twice(penalty: Penalty) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(2),
        nn.TransformerEncoderLayer(36, 2, 16, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(72, 3),
    )
    value, _ = penalty(model, *batch())
    value.backward()
    assert float(value) > 0
    assert model[1].linear1.weight.grad.abs().max() > 0


def test_attention_by_a_fused_kernel_is_computed_plainly() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).reshape(len(x), 2, 9, 4)
            return F.scaled_dot_product_attention(x, x, x).flatten(1)[:, :3]

    model = nn.Sequential(nn.Conv2d(2, 2, 1), Attention())
    loss, _ = regularised_loss(GradientPenalty("mean") + TangentPenalty())(model, batch())
    loss.backward()
    assert model[0].weight.grad.isfinite().all()


@each
def test_bf16_autocast_is_near(penalty: Penalty) -> None:
    """Errors of some roundings of 2^-8; the attack's and the selection's choices may differ."""
    model, data = network().train(), batch()
    torch.manual_seed(3)
    expected, _ = regularised_loss(penalty)(model, data)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = regularised_loss(penalty)(model, data)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.05)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_training_goes_through_the_loop(precision: str, norm: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(48, 2, 6, 6, generator=generator)
    data = TensorDataset(x, (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).long())
    config = TrainingConfig(
        6,
        16,
        precision=precision,
        optimisation=Optimisation(learning_rate=1e-3),
        running=Running(cpu=True),
    )
    penalty = GradientPenalty() * 0.1 + GradientPenalty("mean") * 0.1 + TangentPenalty() * 0.1
    results = [fit(network(norm=norm), data, regularised_loss(penalty), config) for _ in range(2)]
    rows = [result.history for result in results]
    assert rows[0] == rows[1]
    assert {"clean_loss", "gradient", "gradient_2", "tangent"} <= set(rows[0][0])


def test_a_penalty_lowers_what_it_penalises() -> None:
    x, y = batch(24)
    norms = []
    for weight in (0.0, 1.0):
        model = network()
        optimiser = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(30):
            optimiser.zero_grad()
            regularised_loss(weight * GradientPenalty("mean"))(model, (x, y))[0].backward()
            optimiser.step()
        norms.append(float(gradient_norms(model, x).mean()))
    assert norms[1] < 0.5 * norms[0]


def test_a_compiled_network_is_taken_as_it_was() -> None:
    model, (x, y) = network(), batch()
    compiled = torch.compile(model, backend="eager")
    penalty = GradientPenalty()
    assert torch.equal(penalty(compiled, x)[0], penalty(model, x)[0])
    assert Pass(compiled, x).model is model
    inside = nn.Sequential(torch.compile(model, backend="eager"))
    for refused in (lambda: penalty(inside, x, y), lambda: gradient_norms(inside, x)):
        with pytest.raises(InputError, match="0 is compiled"):
            refused()
    in_place = network()
    in_place.compile(backend="eager")
    with pytest.raises(InputError, match="Sequential is compiled"):
        penalty(in_place, x)


def test_vectors_of_a_spectral_norm_stay() -> None:
    model = nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(72, 3))).train()
    before = state(model)
    GradientPenalty()(model, batch()[0])
    assert same(state(model), before)


def test_layers_that_write_in_place_do_not_write_into_the_batch() -> None:
    model, (x, y) = nn.Sequential(nn.ReLU(inplace=True), *network()), batch()
    x = x - 0.5
    given = x.clone()
    for penalty in PENALTIES:
        penalty(model, x, y)
        regularised_loss(penalty)(model, (given.clone(), y))
    assert torch.equal(x, given)


def test_an_operation_without_forward_mode_takes_gradients_and_says_so() -> None:
    class Exponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.saved_tensors[0].exp()

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Exponential.apply(x)

    class Theirs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

    torch.manual_seed(0)
    linear, (x, _) = nn.Linear(72, 3), batch()
    values = []
    for middle in (Own(), Theirs()):
        penalty = TangentPenalty(generator=torch.Generator().manual_seed(0))
        model = nn.Sequential(nn.Flatten(), middle, linear)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value, _ = penalty(model, x)
        told = [str(warning.message) for warning in caught]
        assert any("two gradients" in line for line in told) == isinstance(middle, Own)
        values.append(value)
        linear.zero_grad()
        value.backward()
        values.append(linear.weight.grad.clone())
    torch.testing.assert_close(values[0], values[2])
    torch.testing.assert_close(values[1], values[3])


class Fixed(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x.flatten(1))


X, Y = batch()
REFUSED = {
    "tokens": (network(), torch.ones(2, 5, dtype=torch.long), Y[:2], "after the embedding"),
    "empty": (network(), X[:0], Y[:0], "batch is empty"),
    "nan": (Fixed(lambda x: x[:, :3] * float("nan")), X, Y, "not finite for example 0"),
    "infinite input": (network(), torch.where(X > 0.99, torch.inf, X), Y, "not all finite"),
    "shape": (Fixed(lambda x: x[:, :, None, None]), X, Y, "give one with logits"),
    "nothing": (Fixed(lambda x: None), X, Y, "without a tensor"),
    "list": (network(), X.tolist(), Y, r"give a tensor \(n, ...\)"),
    "function": (lambda x: x.flatten(1), X, Y, "give an nn.Module"),
    "coupled": (
        nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()),
        *(X, Y, "depend on the whole batch"),
    ),
    "checkpoint": (
        Fixed(lambda x: checkpoint(torch.exp, x[:, :3], use_reentrant=True)),
        *(X, Y, "use_reentrant=False"),
    ),
    "vector": (network(), X.flatten()[:8], Y, r"give floats \(n, ...\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_penalised_is_refused(case: str) -> None:
    model, x, y, message = REFUSED[case]
    for penalty in (GradientPenalty(), GradientPenalty("mean"), TangentPenalty(reduction="sup")):
        with pytest.raises(InputError, match=message):
            penalty(model, x, y)


@pytest.mark.parametrize("penalty", [LossGradientPenalty(), AdversarialLoss(0.1)], ids=repr)
def test_labels_are_checked(penalty: Penalty) -> None:
    model = network()
    cases = (
        (None, "needs the labels"),
        (Y.tolist(), "give a tensor"),
        (Y + 1, "label 3 where there are 3 classes"),
        (-Y, "label -1"),
        (Y[:3], "3 targets for 8 examples"),
        (Y.int(), "give int64"),
    )
    for labels, message in cases:
        with pytest.raises(InputError, match=message):
            penalty(model, X, labels)
    with pytest.raises(InputError, match="single logit"):
        penalty(Fixed(lambda x: x.sum(1)), X, Y)


def test_other_criteria_are_differentiated() -> None:
    """A network with one output and a criterion of its own: regression, in closed form."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 1), nn.Flatten(0))
    targets = torch.linspace(-1, 1, 8)
    loss, logs = regularised_loss(LossGradientPenalty(), F.mse_loss)(model, (X, targets))
    residuals = model(X) - targets
    expected = (2 * residuals).square().mean() * model[1].weight.square().sum()
    torch.testing.assert_close(logs["loss_gradient"], expected.detach())
    torch.testing.assert_close(loss, residuals.square().mean() + expected)


def test_settings_are_checked() -> None:
    for make in (
        lambda: GradientPenalty("max"),
        lambda: AdversarialPenalty(0.0),
        lambda: AdversarialPenalty(1.0, steps=0),
        lambda: AdversarialPenalty(1.0, reduction="mean"),
        lambda: AdversarialPenalty(1.0, select="some"),
        lambda: DeformationPenalty(-1.0),
        lambda: DeformationPenalty(padding="mirror"),
        lambda: DeformationPenalty(max_gradient="0.5"),
        lambda: TangentPenalty(max_gradient=-1.0),
        lambda: TangentPenalty(seed=1.5),
        lambda: TangentPenalty(reduction="max"),
        lambda: LossGradientPenalty(3),
        lambda: AdversarialLoss(1.0, "l1"),
        lambda: AdversarialLoss(1.0, clip=(1.0, 0.0)),
        lambda: AdversarialLoss(1.0, clip=1.0),
        lambda: AdversarialLoss(1.0, clip=(0.0, "1")),
        lambda: regularised_loss("gradient"),
        lambda: AdversarialLoss(float("inf")),
    ):
        with pytest.raises(InputError):
            make()
    for penalty in (DeformationPenalty(), TangentPenalty()):
        with pytest.raises(InputError, match="cannot be deformed"):
            penalty(nn.Linear(5, 2), torch.ones(3, 5))
    with pytest.raises(InputError, match="pairs"):
        regularised_loss(None)(network(), X)
