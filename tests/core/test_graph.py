from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import Unknown, read, trace
from merkhet.core.graph.hooks import hook_network

sys.path.insert(0, str(Path(__file__).parent))
import networks

EXPORTED = [name for name in networks.CASES if name != "data-dependent"]


@pytest.mark.parametrize("name", networks.CASES)
def test_shapes_end_where_the_network_does(name: str) -> None:
    module, example = networks.make(name)
    network = trace(module, example)
    result = module(example)
    first = result[0] if isinstance(result, tuple) else result
    last = network.node(next(iter(network.outputs.values())))
    assert last.shape == tuple(first.shape)
    assert network.inputs[0].shape == tuple(example.shape)


@pytest.mark.parametrize("name", networks.CASES)
def test_nodes_come_after_what_they_take_from(name: str) -> None:
    seen: set[str] = set()
    for node in trace(*networks.make(name)).nodes:
        assert set(node.inputs) <= seen
        assert node.name not in seen
        seen.add(node.name)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_parameter_is_used_and_every_path_exists(name: str) -> None:
    module, example = networks.make(name)
    network = trace(module, example)
    assert network.source == "export"
    used = {stored for node in network.nodes for stored in node.parameters.values()}
    assert {stored for stored, _ in module.named_parameters()} <= used
    assert {node.path for node in network.nodes} <= {
        path for path, _ in module.named_modules(remove_duplicate=False)
    }
    for stored, tensor in network.tensors.items():
        owner, _, leaf = stored.rpartition(".")
        assert getattr(module.get_submodule(owner), leaf) is tensor


def test_arguments_carry_schema_names_and_defaults() -> None:
    network = trace(*networks.make("residual"))
    first, second = (node for node in network.nodes if node.op == "conv2d")
    assert first.path == "first"
    assert first.module == "Conv2d"
    assert first.arguments["stride"] == [2, 2]
    assert first.arguments["dilation"] == [1, 1]
    assert second.arguments["groups"] == 2
    assert dict(first.parameters) == {"weight": "first.weight", "bias": "first.bias"}
    added = [node for node in network.nodes if node.parameters.get("other") == "position"]
    assert len(added) == 1
    assert added[0].op == "add"


def test_a_module_called_twice_has_two_calls_and_shared_modules_one_name() -> None:
    network = trace(*networks.make("twice"))
    calls = [(node.path, node.call) for node in network.nodes if node.path == "body.0"]
    assert calls == [("body.0", 0), ("body.0", 1)]
    shared = [node for node in network.nodes if node.parameters.get("weight") == "one.weight"]
    assert [node.path for node in shared] == ["one", "other"]
    assert "other.weight" not in network.parameters


def test_writes_in_place_are_seen_by_what_follows() -> None:
    """Run the graph by hand: only a graph that respects the writes gives the network's result."""
    module, example = networks.make("in place")
    network = trace(module, example)

    def call(node, given):
        values = dict(zip(node.inputs, given, strict=True))
        args = {
            key: values[value.name] if hasattr(value, "name") else value
            for key, value in node.arguments.items()
        }
        args |= {key: network.tensors[name] for key, name in node.parameters.items()}
        if node.op == "linear":
            return nn.functional.linear(args["input"], args["weight"], args["bias"])
        if node.op == "slice":
            return torch.ops.aten.slice(args["input"], args["dim"], args["start"], args["end"])
        if node.op == "slice_scatter":
            places = (args["dim"], args["start"], args["end"])
            return torch.ops.aten.slice_scatter(args["input"], args["src"], *places)
        return {
            "relu": lambda: args["input"].relu(),
            "add": lambda: args["input"] + args["other"],
            "mul": lambda: args["input"] * args["other"],
        }[node.op]()

    rules = dict.fromkeys(("linear", "slice", "slice_scatter", "relu", "add", "mul"), call)
    result = read(network, rules, example).output
    assert torch.equal(result, module(example))


@pytest.mark.parametrize("name", networks.CASES)
def test_the_module_is_left_as_found(name: str) -> None:
    module, example = networks.make(name)
    module.train()
    next(module.children(), module).eval()
    before = [part.training for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    trace(module, example)
    assert [part.training for part in module.modules()] == before
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_what_export_cannot_follow_is_seen_by_hooks_and_says_so() -> None:
    network = trace(*networks.make("data-dependent"))
    assert network.source == "hooks"
    assert network.reason
    assert "hooks only" in str(network)
    ops = [node.op for node in network.nodes]
    assert ops == ["input", "linear", "relu", "untraced", "linear"]
    assert network.node("last_0").inputs == (ops[3] + "_3",)


def test_hooks_follow_a_view() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x):
            y = self.layer(x)
            assert bool(y.isfinite().all())
            return self.last(y.view(-1, 3))

    network = trace(Viewed(), torch.ones(2, 4))
    assert network.source == "hooks"
    assert [node.op for node in network.nodes] == ["input", "linear", "view", "linear"]


def test_reading_carries_states_and_stops_at_the_unknown() -> None:
    network = trace(*networks.make("perceptron"))
    depth = {"linear": lambda node, given: given[0] + 1, "relu": lambda node, given: given[0]}
    assert read(network, depth, 0).output == 2
    del depth["relu"]
    reading = read(network, depth, 0)
    assert isinstance(reading.output, Unknown)
    assert [unknown.op for unknown in reading.unknown] == ["relu"]
    assert reading.unknown[0].path == "1"
    patched = {**depth, "unknown": lambda node, given: given[0]}
    assert read(network, patched, {"input": 0}).output == 2
    with pytest.raises(InputError, match="states for x: give one for each input, input"):
        read(network, patched, {"x": 0})


def test_constants_have_a_rule_of_their_own() -> None:
    class Masked(nn.Module):
        def forward(self, x):
            return x + torch.arange(4.0) * 2

    network = trace(Masked(), torch.ones(2, 4))
    rules = {"add": lambda node, given: sum(given), "constant": lambda node, given: 10}
    assert read(network, rules, 1).output == 11
    assert sum(node.constant for node in network.nodes) == 2


def test_named_inputs_and_outputs() -> None:
    class Pair(nn.Module):
        def forward(self, left, right=None, *, scale=1.0):
            return {"sum": left + right, "scaled": (left * scale,)}

    network = trace(Pair(), {"right": torch.ones(2), "left": torch.zeros(2)})
    assert {node.name for node in network.inputs} == {"left", "right"}
    assert list(network.outputs) == ["sum", "scaled.0"]
    assert set(network.node(network.outputs["sum"]).inputs) == {"left", "right"}


def test_a_compiled_module_is_traced_as_the_module_inside() -> None:
    module, example = networks.make("perceptron")
    compiled = torch.compile(module, backend="eager")
    assert [n.path for n in trace(compiled, example).nodes] == ["", "0", "1", "2"]


def test_inputs_of_another_shape_are_one_clear_line() -> None:
    module, _ = networks.make("residual")
    with pytest.raises(InputError, match=r"does not run on inputs of shape \(2, 1, 8, 8\)") as info:
        trace(module, torch.zeros(2, 1, 8, 8))
    assert "\n" not in str(info.value)
    assert not any(part._forward_hooks for part in module.modules())


def test_a_script_module_is_refused() -> None:
    with pytest.raises(InputError, match="ScriptModule"):
        trace(torch.jit.script(nn.Linear(2, 2)), torch.ones(1, 2))


def test_unknown_names_give_the_nearest() -> None:
    network = trace(*networks.make("residual"))
    with pytest.raises(InputError, match="Did you mean 'conv2d'"):
        network.node("conv2")


class Hyper(nn.Module):
    """Weights that the network computes itself, from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.rand(1, 5))
        self.make = nn.Linear(5, 64)

    def forward(self, x):
        return x @ self.make(self.code).view(8, 8)


def test_what_depends_on_parameters_alone_is_constant() -> None:
    network = trace(Hyper(), torch.rand(2, 8))
    made = {node.op: node for node in network.nodes}
    assert made["linear"].constant
    assert not made["matmul"].constant
    assert made["linear"].parameters["input"] == "code"
    assert costs(network).multiply_adds * 2 == 5 * 64 + 2 * 8 * 8


def test_a_parameter_and_several_alike_names_may_be_returned() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return {0: self.scale, "0": x + 1}

    network = trace(Odd(), torch.rand(2, 3))
    assert list(network.outputs) == ["0", "0_"]
    assert network.node(network.outputs["0"]).parameters == {"input": "scale"}
    assert costs(network).parameters == 3


def test_scalars_and_branches_taken_from_data_are_unknown_not_a_crash() -> None:
    class Scaled(nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    class Branched(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    for module in (Scaled(), Branched()):
        network = trace(module, torch.rand(2, 3))
        assert network.source == "export"
        assert len(costs(network).unknown) == 1
        assert str(network)


def test_a_dataclass_is_an_output() -> None:
    @dataclasses.dataclass
    class Found:
        logits: torch.Tensor
        count: int

    class Returns(nn.Module):
        def forward(self, x):
            return Found(x * 2, 3)

    network = trace(Returns(), torch.rand(2, 3))
    assert network.source == "export"
    assert list(network.outputs) == ["logits"]


def test_hooks_leave_buffers_and_generators_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x + torch.rand(()) if float(x.sum()) > 0 else x

    module = Counting()
    before = torch.get_rng_state()
    assert trace(module, torch.ones(2, 3)).source == "hooks"
    assert module.calls == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("equation", "shapes", "count"),
    [("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5), ("ij,kj->ik", [(2, 3), (4, 3)], 24)],
)
def test_einsum_is_counted(equation: str, shapes, count: int) -> None:
    class Sums(nn.Module):
        def forward(self, x, y):
            return torch.einsum(equation, x, y)

    counted = costs(trace(Sums(), tuple(torch.rand(shape) for shape in shapes)))
    assert counted.multiply_adds * counted.batch == count


class Caching(nn.Module):
    """Makes its positions, its counts and its memory at the first call, and collects features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.positions = None
        self.plain = torch.zeros(4)
        self.features: list[torch.Tensor] = []
        self.by_length: dict[int, torch.Tensor] = {}

    def forward(self, x):
        if self.positions is None:
            self.positions = torch.arange(4.0)
            self.scale = float(self.layer.weight.abs().max())
        self.calls = self.calls + 1
        y = self.layer(x) + self.positions * self.scale + self.by_length.setdefault(4, x * 0)
        self.features.append(y)
        return y


class CachingUntraced(Caching):
    """The same with control flow that torch.export cannot follow, and a write it refuses."""

    def forward(self, x):
        self.plain += 1
        return super().forward(x) if float(x.sum()) < 1e9 else x


@pytest.mark.parametrize("kind", [Caching, CachingUntraced])
def test_what_a_first_call_makes_is_not_left_behind(kind) -> None:
    module = kind()
    names, buffer = set(vars(module)), module.calls
    network = trace(module, torch.ones(2, 4))
    assert network.source == ("export" if kind is Caching else "hooks")
    assert set(vars(module)) == names
    assert module.positions is None
    assert module.calls is buffer
    assert module.calls == 0
    assert torch.equal(module.plain, torch.zeros(4))
    assert module.features == []
    assert module.by_length == {}
    assert module(torch.ones(2, 4)).shape == (2, 4)


@functools.lru_cache
def remembered(length: int) -> torch.Tensor:
    return torch.arange(float(length))


def test_a_cache_outside_the_network_holds_real_tensors() -> None:
    class Positions(nn.Module):
        def forward(self, x):
            return x + remembered(x.shape[1])

    trace(Positions(), torch.ones(2, 5))
    assert type(remembered(5)) is torch.Tensor
    assert torch.equal(Positions()(torch.zeros(1, 5))[0], torch.arange(5.0))


def test_inputs_that_the_network_does_not_run_on_are_refused_though_export_takes_them() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, x):
            return self.table(x)

    with pytest.raises(InputError, match=r"shape \(2\) int64: index out of range"):
        trace(Table(), torch.tensor([0, 7]))


def test_a_network_that_returns_no_tensor_is_refused() -> None:
    class Counts(nn.Module):
        def forward(self, x):
            return len(x)

    with pytest.raises(InputError, match="returns int without a tensor"):
        trace(Counts(), torch.ones(2, 4))


def test_hooks_see_that_a_tensor_was_written_into_between_modules() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            assert bool(x.isfinite().all())
            y = self.act(self.a(x))
            y += x
            return self.b(y)

    network = trace(Skip(), torch.ones(2, 4))
    assert network.source == "hooks"
    assert [node.op for node in network.nodes] == ["input", "linear", "relu", "untraced", "linear"]
    assert network.node("act_0").inputs == ("a_0",)
    assert network.node("b_0").inputs == ("untraced_3",)


def test_hooks_follow_a_dataclass_and_no_memory() -> None:
    @dataclasses.dataclass
    class Found:
        logits: torch.Tensor

    class Meta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Linear(4, 4, device="meta") for _ in range(2))

        def forward(self, x):
            return Found(self.b(torch.relu(self.a(x))))

    network = hook_network(Meta().eval(), (torch.ones(2, 4, device="meta"),), {}, "asked for")
    assert [node.op for node in network.nodes] == ["input", "linear", "untraced", "linear"]
    assert network.node(network.outputs[""]).op == "linear"


def test_the_inputs_of_a_network_that_writes_into_them_are_left_alone() -> None:
    class Writes(nn.Module):
        def forward(self, x):
            x += 1
            return x if float(x.sum()) > 0 else -x

    given = torch.zeros(2, 3)
    assert trace(Writes(), given).source == "hooks"
    assert torch.equal(given, torch.zeros(2, 3))


def test_a_lazy_network_is_initialised() -> None:
    network = trace(nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()), torch.ones(2, 4))
    assert [node.op for node in network.nodes] == ["input", "linear", "batch_norm"]
    assert costs(network).parameters == 3 * 4 + 3 + 2 * 3


@pytest.mark.parametrize(
    "block",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.enable_grad,
        lambda: torch.set_grad_enabled(True),
    ],
)
def test_operations_in_a_block_keep_their_modules(block) -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            with block():
                y = self.body(x)
                with torch.no_grad():
                    z = self.body(x)
            return self.last((y + z).float())

    network = trace(Blocks(), torch.ones(2, 4))
    assert network.source == "export"
    places = [(n.op, n.path, n.call) for n in network.nodes if n.op in ("linear", "relu")]
    assert places == [
        ("linear", "body.0", 0),
        ("relu", "body.1", 0),
        ("linear", "body.0", 1),
        ("relu", "body.1", 1),
        ("linear", "last", 0),
    ]


def test_plain_tensors_and_literals_keep_their_values() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.tensor([1.0, 2.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - self.mean) * torch.tensor(3.0)

    network = trace(Plain(), torch.rand(2, 2))
    values = [node.arguments["value"] for node in network.nodes if node.op == "literal"]
    assert sorted(value.tolist() for value in values if value.dim()) == [[1.0, 2.0]]
    assert [float(value) for value in values if not value.dim()] == [3.0]
