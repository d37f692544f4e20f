"""The card of a network that comes with merkhet, there and back."""

from __future__ import annotations

from pathlib import Path

import torch

from merkhet.models import Spec, find_target, save_weights
from merkhet.models.shipped import Card, read_card, write_card
from merkhet.report import Figure


def test_a_folder_with_a_card_is_a_run_that_reads_back(tmp_path: Path) -> None:
    spec = Spec("small_cnn", {"widths": [4, 8]})
    network = spec.build().eval()
    save_weights(network, tmp_path / "model.safetensors")
    card = Card(
        summary="small",
        spec=spec,
        data="digits",
        examples=7,
        score_of="accuracy",
        score=Figure(0.5, "", (0.4, 0.6)),
        training="not at all",
        seconds=1.5,
        licence="none",
        about={"classes": ["0", "1"]},
        versions={"torch": torch.__version__},
    )
    write_card(card, tmp_path)
    again = read_card(tmp_path)
    assert set(again.files) == {"model.safetensors"}
    assert again.files["model.safetensors"]["bytes"] > 0
    assert {**vars(again), "files": {}} == vars(card)
    target = find_target(str(tmp_path))
    assert target.data == "digits"
    pictures = torch.rand(2, 1, 8, 8)
    assert torch.equal(target.module(pictures), network(pictures))
