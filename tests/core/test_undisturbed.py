# ruff: noqa: NPY002 - the generators that networks use are the global ones
from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from merkhet.core.undisturbed import undisturbed


def test_generators_are_put_back() -> None:
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with undisturbed(nn.Identity()):
        drawn = random.random(), np.random.rand(), torch.rand(1)
    assert drawn
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_tensors_are_written_only_where_they_were() -> None:
    module = nn.BatchNorm1d(3)
    with undisturbed(module):
        module(torch.rand(4, 3))
        assert module.num_batches_tracked == 1
    assert module.num_batches_tracked == 0
    assert torch.equal(module.running_mean, torch.zeros(3))
    version = module.running_var._version
    with undisturbed(module.eval()):
        module(torch.rand(4, 3))
    assert module.running_var._version == version


def test_tensors_of_inference_mode_and_sets_come_back() -> None:
    module = nn.Identity()
    with torch.inference_mode():
        module.state = torch.zeros(2)
    module.seen = {1}
    with undisturbed(module):
        with torch.inference_mode():
            module.state += 1
        module.seen.add(2)
        module.extra = 3
        del module.training
    assert module.state.tolist() == [0, 0]
    assert module.seen == {1}
    assert not hasattr(module, "extra")
    assert module.training


def test_a_script_module_inside_keeps_its_buffers() -> None:
    module = nn.Sequential(torch.jit.script(nn.BatchNorm1d(3)), nn.Linear(3, 2))
    with undisturbed(module):
        module(torch.rand(4, 3))
    assert module[0].num_batches_tracked == 0
