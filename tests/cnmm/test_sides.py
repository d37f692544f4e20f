"""Pictures whose sides do not divide are refused by every form of a network, in the same words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.cnmm import cnmm_classifier, cnmm_segmenter, export_network, extract
from merkhet.cnmm.extraction.extract import extracted_network
from merkhet.cnmm.sides import Sides
from merkhet.core.errors import InputError

SMALL = {"classes": 4, "channels": (3, 4, 5), "nodes": (1, 2, 0), "norm": "group"}
GOOD, BAD = torch.rand(2, 3, 16, 8), torch.rand(2, 3, 20, 8)


@pytest.mark.parametrize("subset", [False, True])
def test_networks_of_several_resolutions_refuse_sides_as_the_mixture_does(subset: bool) -> None:
    model = cnmm_segmenter(**SMALL)
    network = extract(model, ((0, 2, 3),), subset=subset)
    fresh = extracted_network("cnmm_segmenter", SMALL, "0-2-3", subset)
    fresh.load_state_dict(network.state_dict())
    compiled = torch.compile(network, backend="eager")
    for one in (model, network, fresh, copy.deepcopy(network), compiled):
        assert one(GOOD).shape == (2, 4, 16, 8)
        with pytest.raises(InputError, match=r"20x8: .* multiples of 8; resize .* 24x8"):
            one(BAD)
        with pytest.raises(InputError, match=r"give \(batch, channels, height, width"):
            one(GOOD[0])
    assert torch.equal(fresh(GOOD), network(GOOD))


def test_an_export_fixes_the_sides(tmp_path: Path) -> None:
    network = extract(cnmm_segmenter(**SMALL), ((0, 2, 3),))
    with pytest.raises(InputError, match="resize or pad them to 24x8"):
        export_network(network, BAD, tmp_path / "net", ("torch",))
    made = export_network(network, GOOD, tmp_path / "net", ("torch",))
    run = torch.export.load(made.files["torch"]).module()
    assert torch.equal(run(GOOD), network(GOOD))
    with pytest.raises(AssertionError, match="== 16"):
        run(BAD)


def test_where_every_side_will_do_nothing_is_looked_at() -> None:
    network = extract(cnmm_classifier(3, 4, (3,), 3, norm="group"), ((0, 2),))
    assert not any(isinstance(part, Sides) for part in network)
    assert network(torch.rand(2, 3, 7, 5)).shape == (2, 4)
    assert str(nn.Sequential(Sides(8))[0]) == "Sides(multiple=8)"
