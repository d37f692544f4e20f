from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.outputs import captured, find_layer, main_tensor


def test_the_tensor_that_matters() -> None:
    tensor, other = torch.ones(2), torch.zeros(3)
    assert main_tensor(tensor) is tensor
    assert main_tensor((tensor, other)) is tensor
    assert main_tensor([None, (tensor,)]) is tensor
    assert main_tensor(OrderedDict(loss=other, logits=tensor)) is tensor
    assert main_tensor({"mask": torch.ones(2, dtype=torch.bool), "hidden": tensor}) is tensor
    with pytest.raises(InputError, match="NoneType"):
        main_tensor(None)


def test_layers_by_path() -> None:
    module = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(2, 3)), head=nn.ReLU()))
    assert find_layer(module, "") is module
    assert find_layer(module, "body.0") is module.body[0]
    with pytest.raises(InputError, match=r"no layer 'body\.1'.*Did you mean 'body\.0'"):
        find_layer(module, "body.1")


def test_captured_holds_what_a_layer_gave_not_what_became_of_it() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with captured(module, ["0"]) as kept:
        module(x)
    assert torch.equal(kept["0"], module[0](x))
    assert (kept["0"] < 0).any()
    kept["0"].sum().backward()
    assert x.grad is not None


def test_captured_holds_the_outputs_and_takes_its_hooks_away() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with captured(module, ["0", ""]) as kept:
        result = module(x)
    assert torch.equal(kept["0"], module[0](x))
    assert torch.equal(kept[""], result)
    with pytest.raises(RuntimeError), captured(module, ["1"]):
        raise RuntimeError
    assert not module[1]._forward_hooks


def test_a_loss_is_not_the_main_output() -> None:
    loss, scores = torch.tensor(1.0), torch.rand(2, 3)
    assert main_tensor({"loss": loss, "scores": scores}) is scores
    assert main_tensor((loss, scores)) is scores
    assert main_tensor((loss,)) is loss
