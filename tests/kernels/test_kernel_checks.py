"""The audit's check of the tangent kernel, on networks whose kernels are known."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from merkhet.audit.subject import make_subject
from merkhet.core.errors import InputError
from merkhet.kernels import checks, sampled
from merkhet.kernels.alignment import (
    centred,
    effective_rank,
    eigenvalues,
    entropy_rank,
    label_energy,
    look,
    shuffled,
    target_alignment,
)
from merkhet.kernels.empirical import empirical_ntk
from merkhet.kernels.sampled import sampled_ntk
from merkhet.models import SmallCNN, Transformer
from merkhet.report import Section, Subject

LABELS = torch.arange(40) % 4


def vectors(count: int = 40, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def linear(width: int = 6, outputs: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(width, outputs, bias=False)


def checked(module: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> Section:
    data = inputs if labels is None else (inputs, labels)
    subject = make_subject(module, data, samples=len(inputs))
    assert checks.refuse(subject) is None
    return checks.tangent_kernel(subject, 20.0)


def figure(section: Section, name: str) -> float:
    return section.figures[f"tangent_kernel({name})"]


def names(section: Section) -> list[str]:
    return [finding.name for finding in section.findings]


def test_ranks_of_known_spectra() -> None:
    even, one = torch.ones(7), torch.eye(5)[0]
    for rank in (effective_rank, entropy_rank):
        assert rank(even) == pytest.approx(7)
        assert rank(one) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) == entropy_rank(torch.zeros(3)) == 0
    drawn = torch.rand(9, generator=torch.Generator().manual_seed(0))
    assert 1 < effective_rank(drawn) <= entropy_rank(drawn) <= 9  # Renyi entropies fall with order
    assert effective_rank(3 * drawn) == pytest.approx(effective_rank(drawn))


def test_alignment_of_kernels_that_are_and_are_not_the_labels() -> None:
    hot = nn.functional.one_hot(LABELS).double()
    ideal = hot @ hot.T
    assert target_alignment(2 * ideal + 5, LABELS) == pytest.approx(1)  # scale and mean drop out
    assert label_energy(ideal, LABELS, 3) == pytest.approx(1)
    other = nn.functional.one_hot(torch.arange(40) // 20).double()  # balanced across the labels
    assert target_alignment(other @ other.T, LABELS) == pytest.approx(0, abs=1e-12)
    assert target_alignment(torch.ones(40, 40), LABELS) == 0
    assert label_energy(ideal, LABELS, 40) == pytest.approx(1)
    features = vectors().double()
    kernel = features @ features.T
    taken = centred(kernel) * centred(ideal)
    wanted = taken.sum() / (centred(kernel).norm() * centred(ideal).norm())
    assert target_alignment(kernel, LABELS) == pytest.approx(float(wanted))


def test_labels_by_chance_have_the_energy_that_is_told() -> None:
    features = vectors(width=39).double()
    kernel = features @ features.T
    found = [label_energy(kernel, order, 4) for order in shuffled(LABELS, 60, seed=0)]
    mean = math.fsum(found) / 60
    assert mean == pytest.approx(4 / 39, abs=0.02)  # standard error about 0.005


def test_about_one_random_order_in_twenty_passes_for_alignment() -> None:
    features = vectors().double()
    kernel = features @ features.T
    passed = 0
    for seed, order in enumerate(shuffled(LABELS, 100, seed=9)):
        known = look(kernel, order, seed).labelled
        assert known is not None
        passed += known.alignment > known.chance
    assert passed <= 13  # mean 5, standard deviation 2.2


def test_a_linear_network_has_the_kernel_of_its_inputs() -> None:
    section = checked(linear(), vectors(), LABELS)
    raw = vectors().double()
    spectrum = eigenvalues(centred(raw @ raw.T))
    assert figure(section, "effective_rank") == pytest.approx(effective_rank(spectrum), rel=1e-5)
    for name in ("effective_rank", "top_share", "alignment", "label_energy"):
        assert figure(section, name) == pytest.approx(figure(section, f"{name},inputs"), rel=1e-4)
    assert figure(section, "condition") == pytest.approx(1e12)  # 6 of 40 directions
    assert "at least 1.0e+12" in str(section.tables[0].rows)
    size = float(raw.square().sum(1).mean())
    assert figure(section, "mean_diagonal") == pytest.approx(size, rel=1e-5)


def test_labels_that_have_nothing_to_do_with_the_inputs_are_found() -> None:
    section = checked(linear(), vectors(), LABELS)
    finding = next(f for f in section.findings if f.name == "tangent_kernel(alignment)")
    assert finding.value <= figure(section, "alignment,shuffled")
    assert finding.weight == 0.7
    meant = nn.functional.one_hot(LABELS, 6).float() + 0.1 * vectors()
    assert "tangent_kernel(alignment)" not in names(checked(SquaredFirst(), meant, LABELS))


class SquaredFirst(nn.Module):
    """A linear map of inputs that are stretched towards what tells the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x.round() @ self.weight.T


class Blurred(nn.Module):
    """Scores from noise, that has nothing of the labels, more than from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (x + (997 * x).sin()) @ self.weight.T


def test_a_network_that_loses_the_labels_is_held_against_its_inputs() -> None:
    meant = nn.functional.one_hot(LABELS, 6).float() + 0.1 * vectors()
    section = checked(Blurred(), meant, LABELS)
    finding = next(f for f in section.findings if f.name == "tangent_kernel(alignment)")
    assert figure(section, "alignment,shuffled") < finding.value
    assert finding.value < figure(section, "alignment,inputs")
    assert "KernelClassifier" in finding.code
    assert 0.3 < finding.weight < 0.7


def test_one_common_direction_and_a_low_rank_are_found() -> None:
    inputs = vectors() * torch.tensor([1.0, 0, 0, 0, 0, 0]) + 10
    section = checked(linear(), inputs, LABELS)
    assert {"tangent_kernel(top_share)", "tangent_kernel(effective_rank)"} <= set(names(section))
    assert figure(section, "effective_rank") == pytest.approx(1, abs=1e-3)
    spread = checked(linear(), vectors())
    assert names(spread) == []


def test_the_code_of_the_remedies_runs() -> None:
    section = checked(linear(), vectors() * torch.tensor([1.0, 0, 0, 0, 0, 0]) + 10)
    assert len(section.findings) == 2
    for finding in section.findings:
        space = {"inputs": vectors() + 10, "network": linear()}
        exec(finding.code, space)
        assert space["inputs"].shape == (40, 6)
        assert space["network"](vectors()).shape == (40, 4)


def test_gradients_that_are_dead_or_not_finite_are_the_finding() -> None:
    dead = nn.Sequential(linear(), nn.Hardtanh(2.0, 3.0), nn.Hardtanh(0.0, 1.0))
    section = checked(dead, vectors(), LABELS)
    assert names(section) == ["tangent_kernel(dead)"]
    module = linear()
    torch.manual_seed(1)
    exec(section.findings[0].code, {"network": module})
    assert not torch.equal(module.weight, linear().weight)

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.weight).square().sum(1, keepdim=True).sqrt()

    section = checked(Root(), vectors(), LABELS)
    assert names(section) == ["tangent_kernel(not_finite)"]
    assert section.findings[0].value == 1


@pytest.mark.parametrize("count", [2, 8, 32])
def test_random_directions_estimate_the_trace(count: int) -> None:
    """The error of Hutchinson's estimate falls as the root of the directions."""
    x = vectors()[:16]
    module = nn.Sequential(linear(6, 8), nn.Tanh(), linear(8, 50))
    exact, example = empirical_ntk(module, x), module(x[:1])
    found = [
        empirical_ntk(module, x, outputs=sampled._directions(example, count, seed))
        for seed in range(20)
    ]
    off = (torch.stack(found).mean(0) - exact).norm() / exact.norm()
    each = torch.stack([(one - exact).norm() / exact.norm() for one in found]).mean()
    full = empirical_ntk(module, x, outputs="full").double()
    # Var r^T K r = 2 (|K|^2 - |diag K|^2) for random signs, with K symmetrised.
    sym = (full + full.mT) / 2
    spread = 2 * (sym.square().sum((2, 3)) - sym.diagonal(dim1=2, dim2=3).square().sum(-1))
    told = float(spread.sum().sqrt() / (50 * math.sqrt(count) * exact.norm()))
    assert 0.6 * told < each < 1.4 * told
    assert off < 3.5 * told / math.sqrt(20)  # nearly one degree of freedom: 3.5 deviations


def test_the_sample_is_what_time_allows() -> None:
    x, module = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)), SmallCNN()
    found = sampled_ntk(module, x[:40], 20.0)
    assert (found.kernel.shape, found.exact, found.loop) == ((40, 40), True, "")
    assert found.parameters == sum(value.numel() for value in module.parameters())
    wanted = empirical_ntk(module, x[:40], dtype=torch.float64)
    torch.testing.assert_close(found.kernel, wanted, rtol=1e-4, atol=1e-6 * wanted.max().item())
    with pytest.raises(InputError, match=r"16 inputs, .* need about \d+ s and 0 s are left"):
        sampled_ntk(module, x, 1e-4)


class Slow(nn.Module):
    """Takes 5 milliseconds for each pass, and asks for values, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.005)
        return x @ self.weight.T if float(x.sum()) < 1e9 else x


def test_a_slow_network_that_vmap_refuses_is_told_in_the_notes() -> None:
    subject = make_subject(Slow(), (vectors(200), torch.arange(200) % 4), samples=200)
    start = time.perf_counter()
    section = checks.tangent_kernel(subject, 1.5)
    assert time.perf_counter() - start < 6
    assert any("One input after another" in note for note in section.notes)


def test_tokens_pictures_and_frozen_networks() -> None:
    tokens = torch.randint(0, 11, (20, 8), generator=torch.Generator().manual_seed(0))
    language = checked(Transformer(11, dim=16, layers=1), tokens)
    assert "10 random directions (signs) among 88 outputs" in language.notes[0]
    assert "tangent_kernel(top_share,inputs)" not in language.figures
    frozen = SmallCNN(widths=(4,)).requires_grad_(False)
    pictures = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    section = checked(frozen, pictures)
    assert any("No parameter requires a gradient" in note for note in section.notes)
    assert not any(value.requires_grad for value in frozen.parameters())
    assert "<svg" in section.pictures[0].svg


def test_identical_inputs_and_one_label_break_nothing() -> None:
    section = checked(linear(), torch.ones(20, 6), torch.zeros(20, dtype=torch.long))
    assert figure(section, "effective_rank") < 2
    assert "tangent_kernel(alignment)" not in section.figures


def subject_with(module: nn.Module, **change: object) -> Subject:
    return replace(make_subject(module, vectors(), samples=40), **change)


def test_what_has_no_tangent_kernel_is_refused_in_words() -> None:
    assert "no parameters" in (checks.refuse(subject_with(nn.Identity())) or "")
    few = subject_with(linear(), inputs=vectors(8))
    assert "8 inputs are too few" in (checks.refuse(few) or "")
    whole = subject_with(linear(), output=torch.ones(2, dtype=torch.long))
    assert "torch.int64" in (checks.refuse(whole) or "")
    slow = subject_with(linear(), seconds_each=10.0)
    with pytest.raises(InputError, match="16 inputs need about 160 s forward alone and 5 s"):
        checks.tangent_kernel(slow, 5.0)
