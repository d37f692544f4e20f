from __future__ import annotations

import torch
from torch import nn

from merkhet.audit import audit
from merkhet.audit.outputs import outputs
from merkhet.audit.subject import make_subject

INPUTS = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))


class Logs(nn.Module):
    """Finite where the first feature is positive."""

    def forward(self, x):
        return x[:, :1].log().expand(-1, 2)


def test_outputs_that_are_not_finite_are_the_first_finding() -> None:
    inputs = INPUTS.clone()
    inputs[[4, 7], 0] = -1.0
    labels = torch.zeros(20, dtype=torch.long)
    subject = make_subject(Logs(), (INPUTS, labels), samples=20)
    section = outputs(type(subject)(**{**vars(subject), "inputs": inputs}), 5.0)
    (finding,) = section.findings
    assert finding.name == "outputs(not_finite)"
    assert finding.value == section.figures["outputs(not_finite)"] == 0.1
    assert "2 of 20 inputs (10%), first for number 4 of" in finding.sentence
    assert finding.weight == 1
    finite = inputs[inputs[:, 0] > 0, 0].log()
    assert section.figures["outputs(low)"] == float(finite.min())
    assert section.figures["outputs(high)"] == float(finite.max())


def test_the_whole_audit_says_so_too() -> None:
    inputs = torch.cat([INPUTS.repeat(5, 1), -INPUTS[:3]])
    seeds = (seed for seed in range(20) if _clean(inputs, seed))
    found = audit(Logs(), inputs, seed=next(seeds), samples=200)
    assert found.findings[0].name == "outputs(not_finite)"


def _clean(inputs: torch.Tensor, seed: int) -> bool:
    """Tell whether the first two inputs drawn are among those that are answered."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    return bool((inputs[order[:2], 0] > 0).all())


def test_what_does_not_depend_on_its_input_is_found_unless_the_inputs_are_the_same() -> None:
    class Same(nn.Module):
        def forward(self, x):
            return x[:, :2] * 0 + 3

    (finding,) = outputs(make_subject(Same(), INPUTS), 5.0).findings
    assert finding.name == "outputs(constant)"
    assert not outputs(make_subject(Same(), torch.ones(9, 3)), 5.0).findings
    assert not outputs(make_subject(nn.Identity(), INPUTS), 5.0).findings


def test_the_time_decides_how_many_inputs_are_looked_at() -> None:
    subject = make_subject(nn.Identity(), torch.rand(500, 3), samples=500)
    assert outputs(subject, 0.0).notes[0].startswith("1 of 500")
